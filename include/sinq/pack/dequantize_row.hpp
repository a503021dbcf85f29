// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "dequantize.hpp"
#include "strip_reader.hpp"

namespace sinq::inline SINQ_ABI {

/// Restores row `i` as `cols` floats, the same bits as `dequantize` gives: the look-up of a quantized embedding. Reads
/// that row only, and does not check the whole matrix again.
inline void dequantize_row(const PackedMatrix& p, std::int64_t i, float* out) {
  detail::core::require(i >= 0 && i < p.rows(), "row", i, "must be one of the rows of the matrix");
  const detail::pack::StripReader reader(p);
  const Tiling& t = reader.tiling();
  std::vector<float> scratch(static_cast<std::size_t>(2 * t.groups() + t.cols));
  float* scales = scratch.data();
  float* zeros = scales + t.groups();
  float* col_scale = zeros + t.groups();
  reader.scales(i, scales);
  reader.zeros(i, zeros);
  reader.col_scales(t.panel_of(i), 0, t.cols, col_scale);
  for (std::int64_t g = 0; g < t.groups(); ++g) {
    const std::int64_t j = t.group_begin(g);
    detail::pack::restore_group(reader, i, g, scales[g], zeros[g], col_scale + j, out + j);
  }
}

}  // namespace sinq::inline SINQ_ABI
