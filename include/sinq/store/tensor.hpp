// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "element_type.hpp"
#include "fail.hpp"

namespace sinq::inline SINQ_ABI {
namespace store {

/// A tensor in a file that is open: `data` and `file` point into it and live as long as it does.
struct Tensor {
  std::string name;
  ElementType type = ElementType::u8;
  std::vector<std::int64_t> shape;  // empty: a scalar; a 0 in it: no elements
  std::span<const std::byte> data;  // row-major, little-endian, at any alignment
  std::string_view file;            // its path, for messages
  std::uint64_t offset = 0;         // of `data` in the file

  [[nodiscard]] std::int64_t elements() const noexcept {
    std::int64_t n = 1;
    for (std::int64_t extent : shape) n *= extent;
    return n;
  }
};

/// "F16 [128, 64]"
[[nodiscard]] inline std::string describe(ElementType type, std::span<const std::int64_t> shape) {
  std::string out(name_of(type));
  out += " [";
  for (std::size_t k = 0; k < shape.size(); ++k) out += (k == 0 ? "" : ", ") + std::to_string(shape[k]);
  return out + "]";
}
[[nodiscard]] inline std::string describe(const Tensor& t) {
  return describe(t.type, t.shape);
}

}  // namespace store

namespace detail::store {

using sinq::store::Tensor;

/// The tensor itself is fine but not what is needed here.
[[noreturn, gnu::cold]] inline void refuse(const Tensor& t, const std::string& what) {
  fail(t.file, t.offset, core::text("tensor ", in_quotes(t.name), " is ", describe(t), ": ", what));
}

}  // namespace detail::store

namespace store {

/// Whether `weights` accepts the tensor.
[[nodiscard]] inline bool is_matrix(const Tensor& t) noexcept {
  return weight_type(t.type) && t.shape.size() == 2;
}

/// Whether the tensor is a stack of matrices, such as the fused experts of a mixture model.
[[nodiscard]] inline bool is_matrix_stack(const Tensor& t) noexcept {
  return weight_type(t.type) && t.shape.size() == 3;
}

/// The tensor as a matrix of weights; FormatError unless it has two dimensions and is F32, F64, F16 or BF16.
[[nodiscard]] inline WeightView weights(const Tensor& t) {
  if (!is_matrix(t)) detail::store::refuse(t, "a matrix of F32, F64, F16 or BF16 is needed");
  return {t.data.data(), *weight_type(t.type), t.shape[0], t.shape[1]};
}

/// Matrix `index` of a stack [count, rows, cols].
[[nodiscard]] inline WeightView weights(const Tensor& t, std::int64_t index) {
  if (!is_matrix_stack(t)) detail::store::refuse(t, "a stack of matrices of F32, F64, F16 or BF16 is needed");
  detail::core::require(index >= 0 && index < t.shape[0], "index", index, "must be below the number of matrices");
  const DType type = *weight_type(t.type);
  const std::int64_t matrix_bytes = t.shape[1] * t.shape[2] * static_cast<std::int64_t>(size_of(type));
  return {t.data.data() + index * matrix_bytes, type, t.shape[1], t.shape[2]};
}

/// All elements as floats (F64 rounds); FormatError unless the tensor is F32, F64, F16 or BF16. Any shape.
[[nodiscard]] inline std::vector<float> to_floats(const Tensor& t) {
  const auto type = weight_type(t.type);
  if (!type) detail::store::refuse(t, "F32, F64, F16 or BF16 is needed");
  std::vector<float> out(static_cast<std::size_t>(t.elements()));
  WeightView(t.data.data(), *type, 1, t.elements()).load(0, 0, t.elements(), out.data());
  return out;
}

/// All elements of a tensor of integers (BOOL counts as one); FormatError for other types and for values beyond
/// 2^63 - 1. Any shape.
[[nodiscard]] inline std::vector<std::int64_t> to_integers(const Tensor& t) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(t.elements()));
  const auto convert = [&](auto zero) {
    for (std::size_t k = 0; k < out.size(); ++k) {
      auto value = zero;
      std::memcpy(&value, t.data.data() + k * sizeof value, sizeof value);
      if (static_cast<std::uint64_t>(value) > INT64_MAX && value > 0)
        detail::store::refuse(t, detail::core::text("element ", k, " is beyond 2^63 - 1"));
      out[k] = static_cast<std::int64_t>(value);  // NOLINT(bugprone-signed-char-misuse): I8 is a number
    }
  };
  switch (t.type) {
    case ElementType::boolean:
    case ElementType::u8:
      convert(std::uint8_t{});
      break;
    case ElementType::i8:
      convert(std::int8_t{});
      break;
    case ElementType::u16:
      convert(std::uint16_t{});
      break;
    case ElementType::i16:
      convert(std::int16_t{});
      break;
    case ElementType::u32:
      convert(std::uint32_t{});
      break;
    case ElementType::i32:
      convert(std::int32_t{});
      break;
    case ElementType::u64:
      convert(std::uint64_t{});
      break;
    case ElementType::i64:
      convert(std::int64_t{});
      break;
    default:
      detail::store::refuse(t, "an integer type is needed");
  }
  return out;
}

}  // namespace store
}  // namespace sinq::inline SINQ_ABI
