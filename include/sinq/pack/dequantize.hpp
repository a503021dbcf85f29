// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "row_reader.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::pack {

/// Restores columns [first, first + count) of a row, at most 256, all of one group: (level - zero) * scale * col_scale,
/// evaluated from left to right in float. `values` holds the column scales and receives the weights.
template <class Reader>
void restore(const Reader& reader, std::int64_t i, std::int64_t first, std::int64_t count, float scale, float zero,
             float* values) noexcept {
  std::uint8_t codes[256];
  const auto& levels = reader.levels();
  reader.codes(i, first, count, codes);
  for (std::int64_t k = 0; k < count; ++k) values[k] = (levels[codes[k]] - zero) * scale * values[k];
}

/// Row i of a matrix. `factors` is scratch, 2 groups long.
inline void restore_row(const RowReader& reader, std::int64_t i, float* factors, float* row) noexcept {
  const Tiling& t = reader.tiling();
  float* scales = factors;
  float* zeros = factors + t.groups();
  reader.scales(i, scales);
  reader.zeros(i, zeros);
  reader.col_scales(t.panel_of(i), 0, t.cols, row);
  for (std::int64_t g = 0; g < t.groups(); ++g)
    for (std::int64_t at = 0; at < t.group_cols(g); at += 256) {
      const std::int64_t j = t.group_begin(g) + at;
      const std::int64_t count = std::min<std::int64_t>(256, t.group_cols(g) - at);
      restore(reader, i, j, count, scales[g], zeros[g], row + j);
    }
}

/// All rows of a matrix that is valid, into a view of its size.
template <Element T>
void restore_rows(const QuantizedMatrix& q, const MatrixView<T>& out, Executor* executor) {
  const RowReader reader(q);
  const Tiling& t = reader.tiling();
  SerialExecutor serial;
  Executor& threads = executor ? *executor : serial;
  const std::int64_t per_worker = 2 * t.groups() + t.cols;
  std::vector<float> scratch(static_cast<std::size_t>(core::width_of(threads) * per_worker));
  threads.run(q.rows, [&](std::int64_t i, int worker) {
    float* row = scratch.data() + worker * per_worker;
    restore_row(reader, i, row + t.cols, row);
    for (std::int64_t j = 0; j < t.cols; ++j) out.row(i)[j] = static_cast<T>(row[j]);
  });
}

}  // namespace detail::pack

/// W ~= (level(code) - zero) * scale * col_scale, as rows x cols of T. Evaluated in float and rounded to T once, so
/// the result is the same on every machine. A row-major Eigen matrix will do as well where T is named:
/// `dequantize<float>(q, out)`.
template <Element T>
void dequantize(const QuantizedMatrix& q, MatrixView<T> out, Executor* executor = nullptr) {
  validate(q);
  detail::core::require(out.rows == q.rows, "out.rows", out.rows, "must equal the rows of the matrix, ", q.rows);
  detail::core::require(out.cols == q.cols, "out.cols", out.cols, "must equal the cols of the matrix, ", q.cols);
  detail::core::require_view(out, "out");
  detail::pack::restore_rows(q, out, executor);
}

/// The same as a new row-major Eigen matrix.
template <Element T = float>
[[nodiscard]] Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> dequantize(
    const QuantizedMatrix& q, Executor* executor = nullptr) {
  validate(q);  // before memory for its rows and cols is asked for
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> out(q.rows, q.cols);
  detail::pack::restore_rows(q, MatrixView<T>(out), executor);
  return out;
}

}  // namespace sinq::inline SINQ_ABI
