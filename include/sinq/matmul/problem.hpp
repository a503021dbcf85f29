// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>

#include "../pack.hpp"

namespace sinq::inline SINQ_ABI {

/// How exactly to compute. Activations are taken as floats and multiplied by their column scales.
///
///   exact   as accurate as a float product with the dequantized weights. Activations keep 23 bits of the largest
///           magnitude among those that share a step: a group (256 columns of a longer one, 64 columns of groups of 16
///           and 32). With NF levels, in portable code and NEON, and with AVX2 from four tokens on, they stay floats.
///           The default: what quantizing the weights cost is then all that is lost. How a row of results is rounded
///           (its last bits) may depend on the number of tokens
///   fast    activations keep 7 bits of it (a 254th of the largest magnitude), NF levels are rounded to multiples of
///           1/127. Many tokens in AMX's tiles (from 11 to 128 on, by the group size): activations and dequantized
///           weights keep 8 bits each (bfloat16). Portable code rounds neither: it has exact numerics only
///
/// The ends of the range. In both numerics, a double beyond the largest float, 3.4e38, is infinite, as is a product
/// with a column scale beyond it; and a token with an infinity or a NaN gives infinities or NaN, never a finite number.
/// The rest depends on what activations become, so on instruction set, format and number of tokens:
///
///   with a step       where all of a step are below 2^-104 (4.9e-32) in magnitude, they count as zero: a result lacks
///                     at most what they contribute to it. An infinity makes the token's results NaN
///   floats            no such bound, and infinities add up as those of floats do: to an infinity of either sign or NaN
///   bfloat16          below 2^-126 (1.2e-38) they count as zero, from 2^128 - 2^119 (3.39e38) on they are infinite
enum class Numerics : std::uint8_t { exact, fast };

/// What a product may use.
struct MatmulOptions {
  /// The caller's threads; null: the calling thread alone. The result has the same bits either way.
  Executor* executor = nullptr;
  /// At least `matmul_workspace(...)` bytes at any alignment; empty: the call allocates its own.
  std::span<std::byte> workspace = {};
  Numerics numerics = Numerics::exact;
};

/// Activations of any element type, tokens x features, row-major: the type is a run-time value, so that the kernels
/// exist once. Void: `const void` of those that are read, `void` of those that are written.
template <class Void>
struct ActivationView {
  Void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  ActivationView() = default;
  template <detail::core::MaybeConstElement T>
  requires std::is_convertible_v<T*, Void*> ActivationView(const MatrixView<T>& m)
      : data(m.data), dtype(DTypeOf<std::remove_const_t<T>>::value), rows(m.rows), cols(m.cols), stride(m.stride) {}
  template <detail::core::RowMajorEigen Derived>
  requires std::is_convertible_v<decltype(std::declval<Derived&>().data()), Void*> ActivationView(Derived&& m)
      : data(m.data()),
        dtype(DTypeOf<typename std::remove_cvref_t<Derived>::Scalar>::value),
        rows(m.rows()),
        cols(m.cols()),
        stride(m.outerStride()) {}

  /// The address of an element.
  [[nodiscard]] Void* at(std::int64_t row, std::int64_t col) const noexcept {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    return static_cast<Byte*>(data) + (row * stride + col) * static_cast<std::int64_t>(size_of(dtype));
  }
};

/// One product of a call: y = x W^T, or of some rows of x.
struct Product {
  const PackedMatrix* w = nullptr;
  ActivationView<const void> x;
  ActivationView<void> y;
  /// The rows of x that take part, in the order of the rows of y: the tokens that go to an expert. Absent: all of them.
  std::optional<std::span<const std::int32_t>> tokens = {};
};

namespace detail::matmul {

/// The one validation of a product. Where there are several, a message names which.
inline void validate(std::span<const Product> products, std::size_t which) {
  const Product& p = products[which];
  const auto require = [&](bool ok, const char* name, std::int64_t value, const char* limit) {
    if (ok) return;
    const std::string prefix = products.size() == 1 ? "" : core::text("products[", which, "].");
    core::raise<InvalidArgument>(core::text("sinq: ", prefix, name, " = ", value, ": ", limit));
  };
  const auto require_view = [&](const auto& view, const char* name) {
    if (products.size() == 1)
      core::require_view(view, name);
    else
      core::require_view(view, "products[", which, "].", name);
  };
  require(p.w != nullptr, "w", 0, "must point to a matrix");
  const ActivationView<const void>& x = p.x;
  const ActivationView<void>& y = p.y;
  require(x.cols == p.w->cols(), "x.cols", x.cols, "must equal the cols of the matrix");
  require(y.cols == p.w->rows(), "y.cols", y.cols, "must equal the rows of the matrix");
  if (p.tokens) {
    require(y.rows == std::ssize(*p.tokens), "y.rows", y.rows, "must equal tokens.size()");
    for (const std::int32_t token : *p.tokens)
      require(token >= 0 && token < x.rows, "token", token, "must be one of the rows of x");
  } else {
    require(x.rows == y.rows, "y.rows", y.rows, "must equal x.rows, the number of tokens");
  }
  require(y.rows >= 0 && y.rows <= 0x7fff'ffff, "y.rows", y.rows, "allowed are 0 to 2^31 - 1 tokens");
  require_view(x, "x");
  require_view(y, "y");
}

}  // namespace detail::matmul
}  // namespace sinq::inline SINQ_ABI
