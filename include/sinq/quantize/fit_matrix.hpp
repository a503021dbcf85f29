// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coder.hpp"
#include "encode.hpp"
#include "feedback.hpp"
#include "fit.hpp"
#ifndef SINQ_EXTERN_KERNELS
#include "fit_strip.hpp"
#endif
#include "importance.hpp"
#include "unbias.hpp"

// The second pass of `quantize` with Refine::fit: strips of rows are fitted, coded and given their gain; then every
// column of every panel gets its own.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// Rows are worked on in chunks of one panel, whose column sums are added in order afterwards: the same bits whatever
/// the thread count. Smaller chunks would cost memory (two doubles per chunk and column), larger ones parallelism.
inline constexpr std::int64_t kChunkRows = 128;

struct Chunk {
  std::int64_t panel;
  std::int64_t first_row;
  std::int64_t rows;
};

[[nodiscard]] inline std::vector<Chunk> chunks_of(const Tiling& t) {
  std::vector<Chunk> chunks;
  for (std::int64_t p = 0; p < t.panels(); ++p)
    for (std::int64_t i = 0; i < t.panel_rows(p); i += kChunkRows)
      chunks.push_back({p, t.panel_begin(p) + i, std::min(kChunkRows, t.panel_rows(p) - i)});
  return chunks;
}

/// What one thread works in.
struct FitScratch {
  std::vector<float> x;      // kStrip x padded cols: weights in the balanced domain
  std::vector<float> lanes;  // cols x kStrip: the same, a lane per row
  std::vector<float> scale, zero, level_squares, unit, coarse;
  std::vector<std::int32_t> scale_integer, zero_integer;
  std::vector<std::uint8_t> codes, integers;
  std::vector<float> row_scale, row_zero;  // of one row
  std::vector<float> restored;             // a row, as it will be read, without col_scale
  std::vector<float> safe_scale;           // groups x kStrip: no 0
  FeedbackScratch feedback;

  void resize(const Tiling& t, std::int64_t coarse_per_row) {
    const auto sized = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    x.resize(sized(kStrip * core::padded(t.cols)));
    lanes.resize(sized(kStrip * t.cols));
    for (auto* v : {&scale, &zero, &level_squares, &unit}) v->resize(sized(kStrip * t.groups()));
    for (auto* v : {&scale_integer, &zero_integer}) v->resize(sized(kStrip * t.groups()));
    safe_scale.resize(scale.size());
    coarse.resize(sized(kStrip * coarse_per_row));
    codes.resize(sized(core::padded(t.cols)));
    integers.resize(sized(t.groups()));
    for (auto* v : {&row_scale, &row_zero}) v->resize(sized(t.groups()));
    restored.resize(sized(core::padded(t.cols)));
  }
};

class FitPass {
 public:
  /// `col_scale` is panels x cols as it is stored, or empty; `col_inverse` its inverse, or a row of ones. `feedback`:
  /// null for none.
  FitPass(const WeightView& weights, const FitOptions& options, const std::vector<float>& col_scale,
          const std::vector<float>& col_inverse, const Importance& importance, const FeedbackPlan* feedback,
          QuantizedMatrix& q)
      : w_(weights),
        q_(q),
        t_(q.tiling()),
        e_(pack::extents(q.format, t_)),
        plan_(q.format, q.table, options),
        coder_(q.format, q.table),
        col_scale_(col_scale),
        col_inverse_(col_inverse),
        importance_(importance),
        feedback_(feedback),
        chunks_(chunks_of(t_)),
        columns_(chunks_.size(), ColumnOverlaps(0)) {}

  [[nodiscard]] std::int64_t chunks() const noexcept { return static_cast<std::int64_t>(chunks_.size()); }

  [[nodiscard]] std::int64_t rows_of(std::int64_t chunk) const noexcept {
    return chunks_[static_cast<std::size_t>(chunk)].rows;
  }

  /// False if a scale does not fit the float type that the format asks for.
  [[nodiscard]] bool run_chunk(std::int64_t index, FitScratch& s) {
    const Chunk& c = chunks_[static_cast<std::size_t>(index)];
    s.resize(t_, pack::coarse_per_row(q_.format, t_));
    auto& columns = columns_[static_cast<std::size_t>(index)];
    columns = ColumnOverlaps(col_scale_.empty() ? 0 : t_.cols);
    for (std::int64_t first = 0; first < c.rows; first += kStrip) {
      const std::int64_t rows = std::min(kStrip, c.rows - first);
      load(c.panel, c.first_row + first, rows, s);
      fit_strip(plan_, {&t_, s.lanes.data(), s.scale.data(), s.zero.data(), s.level_squares.data(), s.unit.data(),
                        s.coarse.data(), s.scale_integer.data(), s.zero_integer.data(),
                        importance_.columns_of(c.panel, t_), importance_.groups_of(c.panel, t_)});
      if (feedback_) choose_codes(c.panel, s);
      for (std::int64_t r = 0; r < rows; ++r)
        if (!finish_row(c.first_row + first + r, r, s, columns)) return false;
    }
    return true;
  }

  /// Every column's gain, when all chunks are done.
  void unbias_columns() {
    if (col_scale_.empty()) return;
    ColumnOverlaps sums(t_.cols);
    for (std::size_t k = 0; k < chunks_.size(); ++k) {
      sums.add(columns_[k]);
      const std::int64_t p = chunks_[k].panel;
      if (k + 1 < chunks_.size() && chunks_[k + 1].panel == p) continue;
      for (std::int64_t j = 0; j < t_.cols; ++j) {
        const float before = col_scale_[static_cast<std::size_t>(p * t_.cols + j)];
        const float after = before * sums[static_cast<std::size_t>(j)].gain(q_.format.bits, 0.7, 1.4);
        pack::write_float(q_.format.col_scale, q_.col_scale.data(), p * t_.cols + j,
                          fits(q_.format.col_scale, after) ? after : before);
      }
      sums = ColumnOverlaps(t_.cols);
    }
  }

 private:
  void load(std::int64_t panel, std::int64_t first_row, std::int64_t rows, FitScratch& s) const {
    const std::int64_t stride = core::padded(t_.cols);
    w_.load(first_row, rows, 0, t_.cols, s.x.data(), stride);
    const float* col_inverse = col_inverse_.data() + (col_scale_.empty() ? 0 : panel * t_.cols);
    for (std::int64_t r = 0; r < rows; ++r) core::on_isa<Multiply>(s.x.data() + r * stride, col_inverse, 1.0f, t_.cols);
    if (rows < kStrip) std::fill(s.lanes.begin(), s.lanes.end(), 0.0f);
    // Transposed in blocks of 16 columns, whose 16 lines stay in the cache until all rows are there.
    for (std::int64_t first = 0; first < t_.cols; first += core::kLanes)
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t j = first; j < std::min(first + core::kLanes, t_.cols); ++j)
          s.lanes[static_cast<std::size_t>(j * kStrip + r)] = s.x[static_cast<std::size_t>(r * stride + j)];
  }

  /// Codes of the strip, with feedback.
  void choose_codes(std::int64_t panel, FitScratch& s) const {
    std::transform(s.scale.begin(), s.scale.end(), s.safe_scale.begin(),
                   [](float v) { return v == 0 || !core::is_finite(v) ? kScaleOfZeros : v; });
    const float* col_inverse = col_inverse_.data() + (col_scale_.empty() ? 0 : panel * t_.cols);
    const float* col_scale = col_scale_.empty() ? col_inverse : col_scale_.data() + panel * t_.cols;
    choose_with_feedback(*feedback_, coder_, t_, s.x.data(), s.safe_scale.data(), s.zero.data(), col_scale, col_inverse,
                         s.feedback);
  }

  /// Codes, gain and stored form of lane r, which is row i.
  [[nodiscard]] bool finish_row(std::int64_t i, std::int64_t r, FitScratch& s, ColumnOverlaps& columns) {
    const float* x = s.x.data() + r * core::padded(t_.cols);
    for (std::int64_t g = 0; g < t_.groups(); ++g) {
      const float scale = s.scale[static_cast<std::size_t>(g * kStrip + r)];
      if (!core::is_finite(scale)) return false;
      if (scale == 0 && is_float(plan_.scale) && plan_.scale != Aux::f32) {  // f32 has nothing finer to give way to
        const float* group = x + t_.group_begin(g);
        if (std::any_of(group, group + t_.group_cols(g), [](float v) { return v != 0; })) return false;
      }
      s.row_scale[static_cast<std::size_t>(g)] = scale == 0 ? kScaleOfZeros : scale;
      s.row_zero[static_cast<std::size_t>(g)] = s.zero[static_cast<std::size_t>(g * kStrip + r)];
    }
    if (feedback_) {
      for (std::int64_t j = 0; j < t_.cols; ++j) {
        const auto at = static_cast<std::size_t>(j * kStrip + r);
        s.codes[static_cast<std::size_t>(j)] = s.feedback.codes[at];
        s.restored[static_cast<std::size_t>(j)] = s.feedback.restored[at];
      }
    } else {
      coder_.encode(x, t_.cols, s.row_scale.data(), s.row_zero.data(), s.codes.data(), s.restored.data());
    }
    std::fill(s.restored.begin() + t_.cols, s.restored.end(), 0.0f);
    pack::write_codes(q_.format.bits, q_.codes.data() + i * e_.code_row, 0, t_.cols, s.codes.data());
    const Overlap row = core::on_isa<OverlapOf>(x, s.restored.data(), t_.cols);
    const float gain = row.gain(q_.format.bits, 0.7, 1.3);
    if (!is_tiny(r, s)) add_columns(x, s.restored.data(), gain, row.xx, columns);
    write_zeros(i, r, s);
    return write_scales(i, r, gain, s);
  }

  /// Whether lane r has only the least coarse scale. What was too small for it does not tell what a column needs.
  [[nodiscard]] bool is_tiny(std::int64_t r, const FitScratch& s) const noexcept {
    if (is_float(plan_.scale)) return false;
    for (std::int64_t k = 0; k < pack::coarse_per_row(q_.format, t_); ++k)
      if (s.coarse[static_cast<std::size_t>(k * kStrip + r)] > kLeastCoarse) return false;
    return true;
  }

  /// A row counts by 1 / |row|^2.
  static void add_columns(const float* x, const float* restored, float gain, double square, ColumnOverlaps& columns) {
    if (columns.xx.empty() || !(square > 0)) return;
    const auto inverse = static_cast<float>(1 / std::sqrt(square));
    if (core::is_finite(inverse)) columns.add(x, inverse, restored, inverse * gain);
  }

  /// False if one does not fit.
  [[nodiscard]] bool write_scales(std::int64_t i, std::int64_t r, float gain, FitScratch& s) {
    const Aux aux = plan_.scale;
    std::uint8_t* to = q_.scale.data() + i * e_.scale_row;
    if (is_float(aux)) {
      for (std::int64_t g = 0; g < t_.groups(); ++g) {
        const float scale = s.scale[static_cast<std::size_t>(g * kStrip + r)] * gain;
        if (scale != 0 && !fits(aux, scale)) return false;
        pack::write_float(aux, to, g, scale);
      }
      return true;
    }
    for (std::int64_t g = 0; g < t_.groups(); ++g)
      s.integers[static_cast<std::size_t>(g)] = static_cast<std::uint8_t>(
          s.scale_integer[static_cast<std::size_t>(g * kStrip + r)] & ((1 << bits_of(aux)) - 1));
    pack::write_codes(bits_of(aux), to, 0, t_.groups(), s.integers.data());
    for (std::int64_t k = 0; k < pack::coarse_per_row(q_.format, t_); ++k) {
      const float fitted = s.coarse[static_cast<std::size_t>(k * kStrip + r)] * gain;
      const float coarse = fitted == 0 ? kScaleOfZeros : std::max(pack::round_to(Aux::f16, fitted), kLeastCoarse);
      require_coarse(coarse, fitted, i);
      pack::write_float(Aux::f16, q_.coarse_scale.data() + i * e_.coarse_row, k, coarse);
    }
    return true;
  }

  void write_zeros(std::int64_t i, std::int64_t r, FitScratch& s) {
    const Aux aux = plan_.zero;
    if (aux == Aux::none) return;
    std::uint8_t* to = q_.zero.data() + i * e_.zero_row;
    if (is_float(aux)) {
      for (std::int64_t g = 0; g < t_.groups(); ++g)
        pack::write_float(aux, to, g, s.zero[static_cast<std::size_t>(g * kStrip + r)]);
      return;
    }
    for (std::int64_t g = 0; g < t_.groups(); ++g)
      s.integers[static_cast<std::size_t>(g)] =
          static_cast<std::uint8_t>(s.zero_integer[static_cast<std::size_t>(g * kStrip + r)]);
    pack::write_codes(bits_of(aux), to, 0, t_.groups(), s.integers.data());
  }

  const WeightView& w_;
  QuantizedMatrix& q_;
  Tiling t_;
  pack::Extents e_;
  FitPlan plan_;
  Coder coder_;
  const std::vector<float>& col_scale_;
  const std::vector<float>& col_inverse_;
  const Importance& importance_;
  const FeedbackPlan* feedback_;
  std::vector<Chunk> chunks_;
  std::vector<ColumnOverlaps> columns_;
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
