// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "lanes.hpp"

namespace sinq::inline SINQ_ABI {

namespace detail::core {

/// Row-major Eigen matrices, maps, refs and blocks with unit inner stride.
template <class Derived>
concept RowMajorEigen = static_cast<bool>(std::remove_cvref_t<Derived>::IsRowMajor) &&
                        static_cast<int>(std::remove_cvref_t<Derived>::InnerStrideAtCompileTime) == 1;

template <class U, class T>
concept SameWithoutConst = std::is_same_v<T, const U>;

/// Rows of T, at any alignment, to floats.
template <class T>
struct ToFloats {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const std::byte* from, std::int64_t from_stride, std::int64_t rows,
                                         std::int64_t cols, float* out, std::int64_t out_stride) noexcept {
    for (std::int64_t i = 0; i < rows; ++i, from += from_stride * std::int64_t{sizeof(T)}, out += out_stride) {
      // Of a few columns no hardware guesses the next rows, each in another page.
      const std::byte* const ahead = from + 64 * from_stride * std::int64_t{sizeof(T)};
      for (std::int64_t at = 0; at < cols * std::int64_t{sizeof(T)}; at += 64) __builtin_prefetch(ahead + at, 0, 2);
      std::int64_t j = 0;
      for (; j + kWidth <= cols; j += kWidth)
        Lanes<kWidth>::load(from + j * std::int64_t{sizeof(T)}, T{}).store(out + j);
      for (; j < cols; ++j) out[j] = static_cast<float>(load_unaligned<T>(from, j));
    }
  }
};

template <class T>
concept MaybeConstElement = Element<std::remove_const_t<T>>;

}  // namespace detail::core

/// A row-major matrix that somebody else owns; `stride` elements lie between the starts of two rows.
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  MatrixView() = default;
  MatrixView(T* first, std::int64_t n_rows, std::int64_t n_cols) : MatrixView(first, n_rows, n_cols, n_cols) {}
  MatrixView(T* first, std::int64_t n_rows, std::int64_t n_cols, std::int64_t row_stride)
      : data(first), rows(n_rows), cols(n_cols), stride(row_stride) {}

  template <detail::core::RowMajorEigen Derived>
  MatrixView(Derived& m) : MatrixView(m.data(), m.rows(), m.cols(), m.outerStride()) {}

  /// A view of mutable elements is a view of constant ones.
  template <detail::core::SameWithoutConst<T> U>
  MatrixView(const MatrixView<U>& other) : MatrixView(other.data, other.rows, other.cols, other.stride) {}

  [[nodiscard]] T* row(std::int64_t i) const noexcept { return data + i * stride; }
};

/// What a caller may hand over as a constant row-major matrix of T: Eigen evaluates into it whatever is not already
/// one.
template <class T>
using MatrixRef =
    Eigen::Ref<const Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>, 0, Eigen::OuterStride<>>;

/// Weights of any element type, rows x cols, row-major, `stride` elements from row to row, at any alignment (the bytes
/// of a memory-mapped file will do). The element type is a run-time value: quantizing reads every weight once, and the
/// rest of the work is the same for all types.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  WeightView() = default;
  WeightView(const void* first, DType type, std::int64_t n_rows, std::int64_t n_cols)
      : WeightView(first, type, n_rows, n_cols, n_cols) {}
  WeightView(const void* first, DType type, std::int64_t n_rows, std::int64_t n_cols, std::int64_t row_stride)
      : data(first), dtype(type), rows(n_rows), cols(n_cols), stride(row_stride) {}
  template <detail::core::RowMajorEigen Derived>
  requires Element<typename Derived::Scalar> WeightView(const Derived& m)
      : WeightView(m.data(), DTypeOf<typename Derived::Scalar>::value, m.rows(), m.cols(), m.outerStride()) {}
  template <detail::core::MaybeConstElement T>
  WeightView(const MatrixView<T>& m)
      : WeightView(m.data, DTypeOf<std::remove_const_t<T>>::value, m.rows, m.cols, m.stride) {}

  /// Copies weights [first_col, first_col + n_cols) of rows [first_row, first_row + n_rows) as float; `out_stride`
  /// floats lie between the starts of two rows of `out`.
  void load(std::int64_t first_row, std::int64_t n_rows, std::int64_t first_col, std::int64_t n_cols, float* out,
            std::int64_t out_stride) const noexcept {
    detail::core::with_dtype(dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto* from =
          static_cast<const std::byte*>(data) + (first_row * stride + first_col) * std::int64_t{sizeof(T)};
      detail::core::on_isa<detail::core::ToFloats<T>>(from, stride, n_rows, n_cols, out, out_stride);
    });
  }

  /// Copies `count` weights of row `row`, beginning with column `first`, to `out` as float.
  void load(std::int64_t row, std::int64_t first, std::int64_t count, float* out) const noexcept {
    load(row, 1, first, count, out, count);
  }
};

namespace detail::core {

/// Memory stands behind a view, row after row: InvalidArgument naming the view, by its pieces, unless `dtype`, where it
/// has one, is one that exists, `data` is given and `stride` at least `cols`. The latter two do not matter where there
/// are no elements, nor does the stride of a single row.
template <class View, class... Name>
void require_view(const View& v, const Name&... name) {
  if constexpr (requires { v.dtype; })
    if (!is_dtype(v.dtype))
      raise<InvalidArgument>(
          text("sinq: ", name..., ".dtype = ", static_cast<int>(v.dtype), ": allowed are f32, f64, f16 and bf16"));
  if (v.rows <= 0 || v.cols <= 0) return;
  if (v.data == nullptr) raise<InvalidArgument>(text("sinq: ", name..., ".data = null: must not be null"));
  if (v.stride < v.cols && v.rows > 1)
    raise<InvalidArgument>(text("sinq: ", name..., ".stride = ", v.stride, ": must be at least ", name..., ".cols"));
}

/// The bits of |value|: ordered like the values, infinity and NaN above all others.
[[nodiscard]] inline std::uint32_t magnitude_bits(float value) noexcept {
  return std::bit_cast<std::uint32_t>(value) & 0x7fff'ffffu;
}

/// Weights lie below this, so that neither a range of weights nor a weight over a column scale can overflow.
inline constexpr float kWeightLimit = 0x1p120f;

struct LargestMagnitude {
  template <int kWidth>
  [[gnu::always_inline]] static float run(const float* values, std::int64_t count) noexcept {
    Lanes<kWidth> largest;
    std::int64_t k = 0;
    for (; k + kWidth <= count; k += kWidth) largest = max_magnitude(largest, Lanes<kWidth>::load(values + k));
    std::uint32_t bits = magnitude_bits(largest.fold(MostMagnitude{}));
    for (; k < count; ++k) bits = std::max(bits, magnitude_bits(values[k]));
    return std::bit_cast<float>(bits);
  }
};

/// Compared as bits: an infinity or a NaN is larger than all numbers.
[[nodiscard]] inline float largest_magnitude(const float* values, std::int64_t count) noexcept {
  return on_isa<LargestMagnitude>(values, count);
}

/// Largest magnitude of a block of weights, rows x stride floats of which `cols` count (the others are zero), whose
/// first is weights(first_row, first_col). InvalidArgument naming row and column of the first that is a NaN, an
/// infinity or beyond the limit; `name` says whose.
inline float require_finite(const float* block, std::int64_t rows, std::int64_t cols, std::int64_t stride,
                            std::int64_t first_row, std::int64_t first_col, const std::string& name = "weights") {
  const float largest = largest_magnitude(block, rows * stride);
  if (magnitude_bits(largest) < magnitude_bits(kWeightLimit)) return largest;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      if (const float v = block[i * stride + j]; magnitude_bits(v) >= magnitude_bits(kWeightLimit))
        raise<InvalidArgument>(
            text("sinq: ", name, "(", first_row + i, ", ", first_col + j, ") = ", v,
                 is_finite(v) ? ": must be below 2^120 in magnitude" : ": must be finite (as float)"));
  return largest;
}

/// The same for `count` weights of one row.
inline float require_finite(const float* weights, std::int64_t count, std::int64_t row, std::int64_t first_col) {
  return require_finite(weights, 1, count, count, row, first_col);
}

}  // namespace detail::core
}  // namespace sinq::inline SINQ_ABI
