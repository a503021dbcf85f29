// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../quantize.hpp"
#include "../quantize/encode.hpp"
#include "../quantize/fit.hpp"
#include "../quantize/hqq.hpp"
#include "order.hpp"
#include "quantization.hpp"

// QuantizeConfig -> what the kernels need. Plain C++, tested without a GPU.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// What the device does not do.
inline void require_on_device(const QuantizeConfig& c) {
  quantize::validate(c);
  core::require(c.calibration == Calibration::none || c.calibration == Calibration::weighted, "calibration",
                static_cast<int>(c.calibration), "the device quantizes with calibration = none or weighted");
}

/// The matrix that the weights go into, once it exists.
inline void aim(Quantization& q, const KernelOrder& order, std::uint8_t* memory) {
  q.w = order.place(memory);
  q.codes = memory;
  q.aux = memory + order.aux_at;
  q.col_scale = memory + order.col_scale_at;
  q.strips = order.strips;
}

/// All but addresses, for weights of a valid shape.
[[nodiscard]] inline Quantization quantization_of(const QuantizeConfig& c, std::int64_t rows, std::int64_t cols,
                                                  Number number) {
  require_on_device(c);
  Quantization q;
  q.balanced = c.balance == Balancing::sinkhorn;
  if (q.balanced) q.kurtosis_gate = c.kurtosis_gate;
  const Format f = quantize::format_of(c, q.balanced);
  const LevelTable table = quantize::table_of(c);
  q.w = kernel_order(f, table, rows, cols).weights;
  core::require(q.tiles() <= 0x7fff'ffff && q.w.rows * std::int64_t{q.w.groups} <= std::int64_t{1} << 36, "rows", rows,
                "more groups than a launch has blocks");
  q.number = number;
  q.blocks = (std::min(q.w.tile_height, q.w.rows) + kSweepRows - 1) / kSweepRows;
  q.padded = (std::min(q.w.group_size, q.w.cols) + kSweepLanes - 1) / kSweepLanes * kSweepLanes;
  q.choice = c.rounding == Rounding::uniform     ? Choice::min_max
             : c.rounding == Rounding::symmetric ? Choice::symmetric
                                                 : Choice::mean_shift;
  if (c.refine == Refine::hqq) {
    q.hqq_rounds = c.hqq.iterations;
    q.shrinkage = quantize::shrinkage_of(c.bits, c.hqq);
  }
  q.fitted = c.refine == Refine::fit;
  q.weighted = c.calibration == Calibration::weighted;
  if (q.fitted) q.fit = quantize::FitPlan(f, table, c.fit);
  const SinkhornOptions& o = c.sinkhorn;
  const auto to_float = [](double v) { return static_cast<float>(v); };
  q.sinkhorn = {o.iterations,
                to_float(o.min_step),
                to_float(o.max_step),
                to_float(o.min_deviation),
                to_float(o.max_deviation),
                to_float(o.min_factor),
                to_float(o.max_factor),
                o.min_deviation,
                o.max_deviation};
  q.largest_zero = is_float(c.zero) ? quantize::largest_zero(c.zero) : 0;
  q.far_zero = q.fitted ? INFINITY : quantize::far_zero(f);
  q.first_level = core::level_span(f.levels, f.bits).low;
  for (int code = 0; q.w.paired && code + 1 < 1 << f.bits; ++code)
    q.middles[code] = q.w.levels[code] / 2 + q.w.levels[code + 1] / 2;
  return q;
}

/// What the kernels found wrong, as the CPU says it. `weight(row, col)` and `read(address)` of a float read what is on
/// the device.
template <class Weight, class Read>
void raise_faults(const Quantization& q, const std::uint64_t* findings, Weight&& weight, Read&& read) {
  using core::raise;
  using core::text;
  if (findings[kBadWeight] != 0) {
    const auto at = static_cast<std::int64_t>(~findings[kBadWeight]);
    const std::int64_t row = at / q.w.cols, col = at % q.w.cols;
    const float value = weight(row, col);
    core::require_finite(&value, 1, row, col);
  }
  if (findings[kBadScale] != 0) {
    const auto at = static_cast<std::int64_t>(~findings[kBadScale]);
    const std::int64_t row = at % q.w.rows, group = at / q.w.rows;
    raise<InvalidArgument>(text("sinq: row ", row, " has a scale of ", read(q.scale + at), " in the group from column ",
                                group * q.w.group_size, ": must be finite"));
  }
  if (findings[kBadCoarse] != 0) {
    const auto at = static_cast<std::int64_t>(~findings[kBadCoarse]);
    const int row = static_cast<int>(at / q.coarse_blocks()), block = static_cast<int>(at % q.coarse_blocks());
    if (q.fitted)
      return quantize::require_coarse(INFINITY, read(q.fitted_coarse + q.at_row(row, block)) * read(q.gain + row), row);
    float largest = 0;
    for (int g = block * q.w.coarse_groups; g < std::min(q.w.groups, (block + 1) * q.w.coarse_groups); ++g)
      largest = std::max(largest, std::abs(read(q.scale + q.at_row(row, g))));
    const auto unit = static_cast<float>(1 << (q.w.scale.bits - (q.w.scale.number == Number::signed_integer ? 1 : 0)));
    quantize::require_coarse(INFINITY, largest / (unit - 1) * unit, row);
  }
}

/// Scales that a matrix which is there already cannot hold, having no wider type for them. `read` as above.
template <class Read>
void raise_beyond_aux(const Quantization& q, const std::uint64_t* findings, Read&& read) {
  if (findings[kBeyondAux] == 0 || q.w.scale.number == Number::f32) return;
  const auto at = static_cast<std::int64_t>(~findings[kBeyondAux]);
  const std::int64_t row = at % q.w.rows, group = at / q.w.rows;
  const float scale = read(q.scale + at) * (q.fitted ? read(q.gain + row) : 1.0f);
  core::raise<InvalidArgument>(
      core::text("sinq: row ", row, " has a scale of ", scale, " in the group from column ", group * q.w.group_size,
                 q.w.scale.number == Number::f16 ? ": f16 holds 2^-14 to 65504" : ": bf16 holds 2^-126 to 2^128",
                 " (quantize with scale = f32)"));
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
