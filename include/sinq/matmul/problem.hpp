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
///           and 32). With NF levels, in portable code and NEON, with AVX2 from four tokens on, and with AVX-512 from
///           16 tokens on where groups are of 16 columns, they stay floats. The default: what quantizing the weights
///           cost is then all that is lost. How a row of results is rounded (its last bits) may depend on the number of
///           tokens
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

/// One product of a call: y = x W^T + bias, or of some rows of x. y may not overlap x: a result is written while other
/// ones still need the activations.
struct Product {
  const PackedMatrix* w = nullptr;
  ActivationView<const void> x;
  ActivationView<void> y;
  /// The rows of x that take part, in the order of the rows of y: the tokens that go to an expert. Absent: all of them.
  std::optional<std::span<const std::int32_t>> tokens = {};
  /// 1 x (rows of w), added to every row of y before that is rounded to its type. Without data: none.
  ActivationView<const void> bias = {};
};

namespace detail::matmul {

/// Whether two views that are valid share memory. Rows of one may lie between those of the other where these are as far
/// apart, as columns of one matrix are; otherwise all counts that lies between a view's first element and its last.
template <class A, class B>
[[nodiscard]] bool overlap(const ActivationView<A>& a, const ActivationView<B>& b) noexcept {
  if (a.rows <= 0 || a.cols <= 0 || b.rows <= 0 || b.cols <= 0) return false;
  const auto address = [](const void* at) { return reinterpret_cast<std::intptr_t>(at); };
  const auto bytes = [](const auto& view, std::int64_t elements) {
    return elements * static_cast<std::int64_t>(size_of(view.dtype));
  };
  const std::int64_t from_a_to_b = address(b.data) - address(a.data);
  const std::int64_t a_row = bytes(a, a.cols), a_step = bytes(a, a.rows > 1 ? a.stride : 0);
  const std::int64_t b_row = bytes(b, b.cols), b_step = bytes(b, b.rows > 1 ? b.stride : 0);
  if (from_a_to_b >= (a.rows - 1) * a_step + a_row || -from_a_to_b >= (b.rows - 1) * b_step + b_row) return false;
  const std::int64_t step = std::max(a_step, b_step);
  if (step == 0 || (a_step != 0 && b_step != 0 && a_step != b_step)) return true;
  const std::int64_t at = (from_a_to_b % step + step) % step;  // of b's rows behind the start of one of a's
  return at < a_row || at + b_row > step;
}

/// The checks of one product of a call: InvalidArgument, which names the product where there are several.
class ProductCheck {
 public:
  ProductCheck(std::span<const Product> products, std::size_t which) noexcept : products_(products), which_(which) {}

  /// Shapes, which are all that the size of a workspace depends on.
  void shapes() const {
    const Product& p = products_[which_];
    require(p.w != nullptr, "w", "null", "must point to a matrix");
    require(p.w->rows() > 0, "w", "empty", "must hold a matrix, see pack");
    require(p.x.cols == p.w->cols(), "x.cols", p.x.cols, "must be ", p.w->cols(), ", the cols of the matrix");
    require(p.y.cols == p.w->rows(), "y.cols", p.y.cols, "must be ", p.w->rows(), ", the rows of the matrix");
    if (p.tokens)
      require(p.y.rows == std::ssize(*p.tokens), "y.rows", p.y.rows, "must be ", p.tokens->size(), ", tokens.size()");
    else
      require(p.x.rows == p.y.rows, "y.rows", p.y.rows, "must be ", p.x.rows, ", the rows of x");
    require(p.y.rows >= 0 && p.y.rows <= 0x7fff'ffff, "y.rows", p.y.rows, "allowed are 0 to 2^31 - 1 tokens");
    if (p.bias.data == nullptr) return;
    require(p.bias.rows == 1, "bias.rows", p.bias.rows, "must be 1");
    require(p.bias.cols == p.w->rows(), "bias.cols", p.bias.cols, "must be ", p.w->rows(), ", the rows of the matrix");
  }

  /// What is read and written, where those before it are valid.
  void memory() const {
    const Product& p = products_[which_];
    if (p.tokens)
      for (const std::int32_t token : *p.tokens)
        require(token >= 0 && token < p.x.rows, "token", token, "must be one of the ", p.x.rows, " rows of x");
    require_view(p.x, "x");
    require_view(p.y, "y");
    if (p.bias.data != nullptr) require_view(p.bias, "bias");
    if (p.y.rows == 0) return;  // neither reads nor writes
    require_apart(p.x, which_, "x", which_);
    require_apart(p.bias, which_, "bias", which_);
    // Every pair is looked at once: 6 to 12 ns (Zen 3) for each two products that have tokens, 50 us for 128 with one
    // x.
    for (std::size_t k = 0; k < which_; ++k) {
      const Product& before = products_[k];
      if (before.y.rows == 0) continue;
      require_apart(before.y, k, "y", which_);
      require_apart(before.bias, k, "bias", which_);
      require_apart(p.bias, which_, "bias", k);
      if (p.x.data == before.x.data && p.x.dtype == before.x.dtype && p.x.rows == before.x.rows &&
          p.x.cols == before.x.cols && p.x.stride == before.x.stride)
        continue;  // both have been compared with it
      require_apart(before.x, k, "x", which_);
      require_apart(p.x, which_, "x", k);
    }
  }

  /// The workspace, of which the first `bytes` are used, is nobody else's.
  void workspace(std::byte* data, std::size_t bytes) const {
    const Product& p = products_[which_];
    if (p.y.rows == 0) return;
    const auto floats = static_cast<std::int64_t>(bytes / sizeof(float));
    const ActivationView<void> used(MatrixView<float>(reinterpret_cast<float*>(data), 1, floats));
    const auto apart = [&](const auto& view, const char* name) {
      if (overlap(view, used)) [[unlikely]]
        raise("workspace overlaps ", prefix(which_), name);
    };
    apart(p.x, "x");
    apart(p.y, "y");
    apart(p.bias, "bias");
  }

 private:
  [[nodiscard]] std::string prefix(std::size_t k) const {
    return products_.size() == 1 ? "" : core::text("products[", k, "].");
  }
  template <class... Limit>
  void require(bool ok, const char* name, const auto& value, const Limit&... limit) const {
    if (!ok) [[unlikely]]
      core::require(false, (prefix(which_) + name).c_str(), value, limit...);
  }
  void require_view(const auto& view, const char* name) const {
    if (products_.size() == 1)
      core::require_view(view, name);
    else
      core::require_view(view, "products[", which_, "].", name);
  }
  /// `other` is of product `of`.
  void require_apart(const auto& other, std::size_t of, const char* name, std::size_t result) const {
    if (other.data != nullptr && overlap(other, products_[result].y)) [[unlikely]]
      raise(prefix(result), "y overlaps ", prefix(of), name);
  }
  template <class... Pieces>
  [[noreturn]] static void raise(const Pieces&... pieces) {
    core::raise<InvalidArgument>(core::text("sinq: ", pieces..., ": must lie in memory of its own"));
  }

  std::span<const Product> products_;
  std::size_t which_;
};

inline void validate(const MatmulOptions& options) {
  core::require(options.numerics <= Numerics::fast, "numerics", static_cast<int>(options.numerics),
                "allowed are exact and fast");
}

}  // namespace detail::matmul
}  // namespace sinq::inline SINQ_ABI
