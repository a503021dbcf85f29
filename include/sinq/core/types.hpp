// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "error.hpp"

namespace sinq::inline SINQ_ABI {

static_assert(std::endian::native == std::endian::little, "sinq stores and computes little-endian only");

using half = Eigen::half;
using bfloat16 = Eigen::bfloat16;

/// The element types of weights, activations and floating auxiliaries.
enum class DType : std::uint8_t { f32, f64, f16, bf16 };

namespace detail::core {
[[nodiscard]] constexpr bool is_dtype(DType type) noexcept {
  return type <= DType::bf16;
}
}  // namespace detail::core

[[nodiscard]] constexpr std::size_t size_of(DType type) noexcept {
  switch (type) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    default:
      return 2;
  }
}

[[nodiscard]] constexpr const char* name_of(DType type) noexcept {
  switch (type) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::f16:
      return "f16";
    default:
      return "bf16";
  }
}

template <class T>
struct DTypeOf;  // no primary definition: only the four element types exist
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<half> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<bfloat16> {
  static constexpr DType value = DType::bf16;
};

template <class T>
concept Element = requires {
  DTypeOf<T>::value;
};

namespace detail::core {

/// Calls `visit(T{})` with the C++ type of `type`.
template <class Visitor>
decltype(auto) with_dtype(DType type, Visitor&& visit) {
  switch (type) {
    case DType::f32:
      return visit(float{});
    case DType::f64:
      return visit(double{});
    case DType::f16:
      return visit(half{});
    default:
      return visit(bfloat16{});
  }
}

/// Element `index` of an array that may lie at any address: files do not align their tensors.
template <Element T>
T load_unaligned(const void* array, std::int64_t index) noexcept {
  T value;
  std::memcpy(static_cast<void*>(&value), static_cast<const std::byte*>(array) + index * std::int64_t{sizeof(T)},
              sizeof(T));
  return value;
}

/// A bit test: comparisons such as `x != x` are optimised away under -ffast-math.
[[nodiscard]] inline bool is_finite(float value) noexcept {
  return (std::bit_cast<std::uint32_t>(value) & 0x7f80'0000u) != 0x7f80'0000u;
}

}  // namespace detail::core
}  // namespace sinq::inline SINQ_ABI
