// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "dequantize.hpp"
#include "strip_reader.hpp"

namespace sinq::inline SINQ_ABI {

/// The look-up of a quantized embedding: row rows[k] becomes row k of `out`, the same bits as `dequantize` gives. Reads
/// those rows only, does not check the whole matrix again, and allocates nothing. A row-major Eigen matrix will do as
/// well where T is named: `dequantize_rows<float>(p, rows, out)`.
template <Element T>
void dequantize_rows(const PackedMatrix& p, std::span<const std::int32_t> rows, MatrixView<T> out,
                     Executor* executor = nullptr) {
  using detail::core::require;
  detail::pack::require_packed(p, "p");
  require(out.rows == std::ssize(rows), "out.rows", out.rows, "must be ", rows.size(), ", rows.size()");
  require(out.cols == p.cols(), "out.cols", out.cols, "must be ", p.cols(), ", the cols of the matrix");
  detail::core::require_view(out, "out");
  for (const std::int32_t row : rows)
    require(row >= 0 && row < p.rows(), "row", row, "must be one of the ", p.rows(), " rows of the matrix");
  const detail::pack::StripReader reader(p);
  const Tiling& t = reader.tiling();
  SerialExecutor serial;
  (executor ? *executor : serial).run(out.rows, [&](std::int64_t k, int) {
    const std::int64_t i = rows[static_cast<std::size_t>(k)];
    for (std::int64_t g = 0; g < t.groups(); ++g) {
      float scale = 0;
      float zero = 0;
      reader.scales(i, g, 1, &scale);
      reader.zeros(i, g, 1, &zero);
      for (std::int64_t at = 0; at < t.group_cols(g); at += 256) {
        const std::int64_t j = t.group_begin(g) + at;
        const std::int64_t count = std::min<std::int64_t>(256, t.group_cols(g) - at);
        float values[256];
        reader.col_scales(t.panel_of(i), j, count, values);
        detail::pack::restore(reader, i, j, count, scale, zero, values);
        for (std::int64_t c = 0; c < count; ++c) out.row(k)[j + c] = static_cast<T>(values[c]);
      }
    }
  });
}

}  // namespace sinq::inline SINQ_ABI
