// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "../core.hpp"

namespace sinq::inline SINQ_ABI {
namespace store {

/// The element types of safetensors (there called dtype). All of them are carried byte for byte; the four that are also
/// a `sinq::DType` can be read as weights.
enum class ElementType : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

}  // namespace store

namespace detail::store {

using sinq::store::ElementType;

struct ElementTypeFacts {
  ElementType type;
  std::string_view name;  // as files spell it
  int bits;
};

inline constexpr std::array<ElementTypeFacts, 22> kElementTypes = {{
    {ElementType::boolean, "BOOL", 8},
    {ElementType::f4, "F4", 4},
    {ElementType::f6_e2m3, "F6_E2M3", 6},
    {ElementType::f6_e3m2, "F6_E3M2", 6},
    {ElementType::u8, "U8", 8},
    {ElementType::i8, "I8", 8},
    {ElementType::f8_e5m2, "F8_E5M2", 8},
    {ElementType::f8_e4m3, "F8_E4M3", 8},
    {ElementType::f8_e8m0, "F8_E8M0", 8},
    {ElementType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
    {ElementType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
    {ElementType::i16, "I16", 16},
    {ElementType::u16, "U16", 16},
    {ElementType::f16, "F16", 16},
    {ElementType::bf16, "BF16", 16},
    {ElementType::i32, "I32", 32},
    {ElementType::u32, "U32", 32},
    {ElementType::f32, "F32", 32},
    {ElementType::c64, "C64", 64},
    {ElementType::f64, "F64", 64},
    {ElementType::i64, "I64", 64},
    {ElementType::u64, "U64", 64},
}};

constexpr bool element_types_in_order() {
  for (std::size_t k = 0; k < kElementTypes.size(); ++k)
    if (static_cast<std::size_t>(kElementTypes[k].type) != k) return false;
  return static_cast<std::size_t>(ElementType::u64) + 1 == kElementTypes.size();
}
static_assert(element_types_in_order(), "the table is indexed by the enumeration");

}  // namespace detail::store

namespace store {

[[nodiscard]] constexpr std::string_view name_of(ElementType type) noexcept {
  return detail::store::kElementTypes[static_cast<std::size_t>(type)].name;
}

/// 4 and 6 bits exist: such a tensor is a dense bit stream that must end with a byte.
[[nodiscard]] constexpr int bits_of(ElementType type) noexcept {
  return detail::store::kElementTypes[static_cast<std::size_t>(type)].bits;
}

/// The type that files spell `name`, exactly.
[[nodiscard]] constexpr std::optional<ElementType> element_type(std::string_view name) noexcept {
  for (const auto& facts : detail::store::kElementTypes)
    if (facts.name == name) return facts.type;
  return std::nullopt;
}

[[nodiscard]] constexpr ElementType element_type(DType type) noexcept {
  switch (type) {
    case DType::f32:
      return ElementType::f32;
    case DType::f64:
      return ElementType::f64;
    case DType::f16:
      return ElementType::f16;
    default:
      return ElementType::bf16;
  }
}

/// The type as one of weights, where it is one.
[[nodiscard]] constexpr std::optional<DType> weight_type(ElementType type) noexcept {
  switch (type) {
    case ElementType::f32:
      return DType::f32;
    case ElementType::f64:
      return DType::f64;
    case ElementType::f16:
      return DType::f16;
    case ElementType::bf16:
      return DType::bf16;
    default:
      return std::nullopt;
  }
}

}  // namespace store
}  // namespace sinq::inline SINQ_ABI
