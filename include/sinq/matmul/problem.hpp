// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "../pack.hpp"

namespace sinq::inline SINQ_ABI {

/// How exactly to compute.
///
///   exact   activations stay floating point; as accurate as a float product with the dequantized weights. The default:
///           what quantizing the weights cost is then all that is lost
///   fast    activations may be rounded to 8 bits per group (a 254th of the largest magnitude in the group) and
///   multiplied
///           in integers; NF levels to multiples of 1/127. Faster where arithmetic, not memory, is the limit
enum class Numerics : std::uint8_t { exact, fast };

/// What a product may use.
struct MatmulOptions {
  /// The caller's threads; null: the calling thread alone. The result has the same bits either way.
  Executor* executor = nullptr;
  /// At least `matmul_workspace(...)` bytes at any alignment; empty: the call allocates its own.
  std::span<std::byte> workspace = {};
  Numerics numerics = Numerics::exact;
};

namespace detail::matmul {

/// The one validation of a problem y = x W^T.
template <Element X, Element Y>
void validate(const PackedMatrix& w, const MatrixView<const X>& x, const MatrixView<Y>& y) {
  using core::require;
  require(x.cols == w.cols(), "x.cols", x.cols, "must equal the cols of the matrix");
  require(y.cols == w.rows(), "y.cols", y.cols, "must equal the rows of the matrix");
  require(x.rows == y.rows, "y.rows", y.rows, "must equal x.rows, the number of tokens");
  require(x.rows >= 0 && x.rows <= 0x7fff'ffff, "x.rows", x.rows, "allowed are 0 to 2^31 - 1 tokens");
  require(x.stride >= x.cols || x.rows <= 1, "x.stride", x.stride, "must be at least x.cols");
  require(y.stride >= y.cols || y.rows <= 1, "y.stride", y.stride, "must be at least y.cols");
}

}  // namespace detail::matmul
}  // namespace sinq::inline SINQ_ABI
