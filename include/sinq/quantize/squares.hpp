// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <vector>

#include "../core.hpp"

// Sums of squares of vectors, as matrices: the second moments of activations and the steps of their factorisation are
// both  C += sign X^T X,  of which only the upper triangle is computed.
//
// Not Eigen's: a library that is compiled for the oldest processor would run it two doubles at a time, and the bits
// would depend on the flags of the including translation unit. Here every element is a sum over the rows of X in their
// order, each product rounded first, on every instruction set and whatever the number of threads.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// Columns that one task works on: 64 rows of them are 64 KiB, half of a small L2.
inline constexpr std::int64_t kSquareCols = 128;
inline constexpr std::int64_t kSquareRows = 64;

struct SquaresBlock {
  double* c;  // n x stride
  std::int64_t n;
  std::int64_t stride;  // a multiple of core::kLanes
  const double* block;  // rows x kSquareCols: X from column `first` on
  std::int64_t rows;
  std::int64_t top;    // rows [top, ...) of C
  std::int64_t first;  // columns [first, first + cols) of C; a multiple of core::kLanes
  std::int64_t cols;   // a multiple of core::kLanes
};

struct AddSquares {
  /// C[i][j] += sign sum_k X[k][i] X[k][j] for j in the block and top <= i <= j; what lies below the diagonal within
  /// 16 columns of it is touched, too.
  template <int kWidth, class T>
  [[gnu::always_inline]] static void run(const SquaresBlock& b, const T* x, std::int64_t x_stride,
                                         double sign) noexcept {
    using Doubles = core::DoubleLanes<kWidth>;
    constexpr std::int64_t kHigh = 4;
    const std::int64_t end = std::min(b.first + b.cols, b.n);
    for (std::int64_t i = b.top; i < end; i += kHigh) {
      const std::int64_t high = std::min(kHigh, end - i);
      // Rows behind the last are read again in its place, and not written.
      std::int64_t row[kHigh];
      for (std::int64_t r = 0; r < kHigh; ++r) row[r] = i + std::min(r, high - 1);
      for (std::int64_t j = std::max(b.first, i / core::kLanes * core::kLanes); j < b.first + b.cols; j += kWidth) {
        std::array<Doubles, kHigh> sum;
        for (std::size_t r = 0; r < kHigh; ++r) sum[r].load(b.c + row[r] * b.stride + j);
        for (std::int64_t k = 0; k < b.rows; ++k) {
          Doubles right;
          right.load(b.block + k * kSquareCols + (j - b.first));
          for (std::size_t r = 0; r < kHigh; ++r)
            sum[r].add_rounded_product(sign * static_cast<double>(x[k * x_stride + row[r]]), right);
        }
        for (std::size_t r = 0; r < static_cast<std::size_t>(high); ++r) sum[r].store(b.c + row[r] * b.stride + j);
      }
    }
  }
};

/// C += sign X^T X in the upper triangle from (top, top) on; X is rows x n, and C n x padded(n). Rows of X in blocks of
/// at most kSquareRows.
template <class T>
void add_squares(double* c, std::int64_t n, std::int64_t top, const T* x, std::int64_t x_stride, std::int64_t rows,
                 double sign, Executor& threads) {
  const std::int64_t stride = core::padded(n);
  const std::int64_t start = top / core::kLanes * core::kLanes;
  const std::int64_t tasks = (stride - start + kSquareCols - 1) / kSquareCols;
  core::run_throwing(threads, tasks, [&](std::int64_t index, int) {
    const std::int64_t first = start + (tasks - 1 - index) * kSquareCols;  // the longest columns first
    const std::int64_t cols = std::min(kSquareCols, stride - first);
    std::vector<double> block(static_cast<std::size_t>(kSquareRows * kSquareCols));
    for (std::int64_t k0 = 0; k0 < rows; k0 += kSquareRows) {
      const std::int64_t count = std::min(kSquareRows, rows - k0);
      for (std::int64_t k = 0; k < count; ++k)
        for (std::int64_t j = 0; j < cols; ++j)
          block[static_cast<std::size_t>(k * kSquareCols + j)] =
              first + j < n ? static_cast<double>(x[(k0 + k) * x_stride + first + j]) : 0.0;
      core::on_isa<AddSquares>(SquaresBlock{c, n, stride, block.data(), count, top, first, cols}, x + k0 * x_stride,
                               x_stride, sign);
    }
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
