// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "types.hpp"

namespace sinq::inline SINQ_ABI {

namespace detail::core {

/// Row-major Eigen matrices, maps, refs and blocks with unit inner stride.
template <class Derived>
concept RowMajorEigen = static_cast<bool>(std::remove_cvref_t<Derived>::IsRowMajor) &&
                        static_cast<int>(std::remove_cvref_t<Derived>::InnerStrideAtCompileTime) == 1;

template <class U, class T>
concept SameWithoutConst = std::is_same_v<T, const U>;

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
  template <Element T>
  WeightView(const MatrixRef<T>& m) : WeightView(m.data(), DTypeOf<T>::value, m.rows(), m.cols(), m.outerStride()) {}
  template <detail::core::MaybeConstElement T>
  WeightView(const MatrixView<T>& m)
      : WeightView(m.data, DTypeOf<std::remove_const_t<T>>::value, m.rows, m.cols, m.stride) {}

  /// Copies `count` weights of row `row`, beginning with column `first`, to `out` as float.
  void load(std::int64_t row, std::int64_t first, std::int64_t count, float* out) const noexcept {
    detail::core::with_dtype(dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto* from = static_cast<const std::byte*>(data) + (row * stride + first) * std::int64_t{sizeof(T)};
      for (std::int64_t j = 0; j < count; ++j) out[j] = static_cast<float>(detail::core::load_unaligned<T>(from, j));
    });
  }
};

namespace detail::core {

/// The bits of |value|: ordered like the values, infinity and NaN above all others.
[[nodiscard]] inline std::uint32_t magnitude_bits(float value) noexcept {
  return std::bit_cast<std::uint32_t>(value) & 0x7fff'ffffu;
}

/// Weights lie below this, so that neither a range of weights nor a weight over a column scale can overflow.
inline constexpr float kWeightLimit = 0x1p120f;

/// Largest magnitude of weights [first, first + count) of a row. InvalidArgument naming row and column of the first
/// that is a NaN, an infinity or beyond the limit.
inline float require_finite(const float* weights, std::int64_t count, std::int64_t row, std::int64_t first) {
  std::uint32_t largest = 0;
  for (std::int64_t j = 0; j < count; ++j) largest = std::max(largest, magnitude_bits(weights[j]));
  const std::uint32_t limit = magnitude_bits(kWeightLimit);
  if (largest >= limit) [[unlikely]]
    for (std::int64_t j = 0; j < count; ++j)
      if (magnitude_bits(weights[j]) >= limit)
        raise<InvalidArgument>(
            text("sinq: weights(", row, ", ", first + j, ") = ", weights[j],
                 is_finite(weights[j]) ? ": must be below 2^120 in magnitude" : ": must be finite (as float)"));
  return std::bit_cast<float>(largest);
}

}  // namespace detail::core
}  // namespace sinq::inline SINQ_ABI
