// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "problem.hpp"

namespace sinq::inline SINQ_ABI::detail::matmul {

using pack::kStripRows;

/// Tokens that one pass over the weights serves, a multiple of 16: what restoring a weight costs is shared by so many.
/// Tiles of bfloat16 multiply so fast that it takes more of them.
[[nodiscard]] inline std::int64_t token_block(Numerics numerics) noexcept {
  return numerics == Numerics::fast && current_isa() == Isa::amx ? 512 : 64;
}

/// In either numerics, for what must hold for both: the workspace.
[[nodiscard]] inline std::int64_t most_tokens() noexcept {
  return token_block(Numerics::fast);
}

/// Bytes of an activation, at most; each may take two in memory (Spread, in job.hpp).
inline constexpr std::int64_t kMostPlanes = 3;

/// Columns of the scaled activations: whole units.
[[nodiscard]] constexpr std::int64_t whole_units(std::int64_t cols) noexcept {
  return pack::StripOrder::units(cols) * pack::kUnitCols;
}

/// Columns whose products are added up before anything else is done with them: a group, or 256 columns of a longer
/// one, so that sums of products of two bytes stay below 2^23 (255 * 128 * 256), where a float holds every integer.
[[nodiscard]] constexpr std::int64_t segment_cols(const Tiling& t) noexcept {
  return std::min<std::int64_t>(t.group_size, 256);
}
[[nodiscard]] constexpr std::int64_t segments(const Tiling& t) noexcept {
  return (t.cols + segment_cols(t) - 1) / segment_cols(t);
}

/// Columns that share one step of rounded activations: a segment, or 64 columns of groups of 16 and 32, so that what
/// belongs to a step is done once for several groups.
[[nodiscard]] constexpr std::int64_t step_cols(const Tiling& t) noexcept {
  return t.group_size == 16 || t.group_size == 32 ? 64 : segment_cols(t);
}

/// Tokens as a kernel wants them, x' = col_scale * x, each in one piece of memory, in an odd number of lines: what
/// tokens hold for the same columns must not lie in the same set of a cache, or reading four of them in turn takes half
/// as long again (Zen 3).
///
///   values   whole_units(cols) floats, zeros behind the last column; or as many times `planes` bytes, with
///            x' ~= integer * step and the integer's digits to base 256, lowest first: [four][plane][4 columns], with
///            the columns that a four of codes holds (pack/strip_order.hpp); or twice as many, as digits or words
///            (job.hpp)
///   step     of every segment; unused where the values are floats
///   sum      of the values (or integers) of every segment; or `start`, multiples of it (start_factor):
///            [segment][plane], 0 behind the last segment
///
/// For tiles of bytes (amx_bytes.hpp) a plane takes `values` bytes of its own: [plane][four][4 columns]. For tiles of
/// bfloat16 (amx_bfloat16.hpp) all tokens lie together: [16 tokens][32 columns][token][column].
struct Prepared {
  Prepared(const Tiling& t, float* first)
      : base(first),
        values(whole_units(t.cols)),
        sums((segments(t) + 15) / 16 * 16),
        steps(values * 2 * kMostPlanes / 4),
        token((steps + (1 + kMostPlanes) * sums) | 16) {}  // from a multiple of 16, a line, to an odd one

  [[nodiscard]] float* floats(std::int64_t n) const noexcept { return base + n * token; }
  [[nodiscard]] std::int8_t* bytes(std::int64_t n) const noexcept { return reinterpret_cast<std::int8_t*>(floats(n)); }
  [[nodiscard]] float* step(std::int64_t n) const noexcept { return floats(n) + steps; }
  [[nodiscard]] float* sum(std::int64_t n) const noexcept { return step(n) + sums; }
  [[nodiscard]] std::int32_t* start(std::int64_t n) const noexcept { return reinterpret_cast<std::int32_t*>(sum(n)); }

  float* base;
  std::int64_t values;  // of a token
  std::int64_t sums;
  std::int64_t steps;  // where they begin, in floats
  std::int64_t token;  // floats from one token to the next
};

/// Prepares token n for the rows of a panel; x points at its first activation.
using Prepare = void (*)(const pack::StripReader& w, std::int64_t panel, const void* x, DType dtype,
                         const Prepared& out, std::int64_t n) noexcept;

/// Results as floats -> the caller's type.
using Deliver = void (*)(const float* from, std::int64_t count, DType dtype, void* to) noexcept;

/// x' of columns [first, first + count), at most 256.
inline void scale_portable(const pack::StripReader& w, std::int64_t panel, const void* x, DType dtype,
                           std::int64_t first, std::int64_t count, float* out) noexcept {
  float col_scale[256];
  w.col_scales(panel, first, count, col_scale);
  core::with_dtype(dtype, [&](auto zero) {
    using X = decltype(zero);
    for (std::int64_t k = 0; k < count; ++k)
      out[k] = static_cast<float>(core::load_unaligned<X>(x, first + k)) * col_scale[k];
  });
}

/// Floats. No sums: the portable kernel subtracts zeros while it restores weights.
inline void prepare_portable(const pack::StripReader& w, std::int64_t panel, const void* x, DType dtype,
                             const Prepared& out, std::int64_t n) noexcept {
  const Tiling& t = w.tiling();
  float* const values = out.floats(n);
  for (std::int64_t j = 0; j < t.cols; j += 256)
    scale_portable(w, panel, x, dtype, j, std::min<std::int64_t>(256, t.cols - j), values + j);
  for (std::int64_t j = t.cols; j < out.values; ++j) values[j] = 0;
}

inline void deliver_portable(const float* from, std::int64_t count, DType dtype, void* to) noexcept {
  core::with_dtype(dtype, [&](auto zero) {
    using Y = decltype(zero);
    for (std::int64_t k = 0; k < count; ++k) {
      const Y y = static_cast<Y>(from[k]);
      std::memcpy(static_cast<std::byte*>(to) + k * std::int64_t{sizeof(Y)}, &y, sizeof y);
    }
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
