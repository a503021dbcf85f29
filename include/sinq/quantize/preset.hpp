// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "config.hpp"

namespace sinq::inline SINQ_ABI {

/// Where a matrix stands in a transformer. Rounding one kind of matrix at a time to the same format, the loss per
/// weight is two to three times that of a gate or up projection where attention passes values on (value and output
/// projection), larger too where the residual stream takes up the result (down projection), and least for what only
/// decides where attention looks (query and key).
enum class Role : std::uint8_t { other, query, value, down };

/// Sizes that `preset` knows, in bits per weight.
inline constexpr std::array<double, 8> kPresets = {2.5, 3, 3.5, 4, 4.5, 5, 6, 8};

namespace detail::quantize {

/// The codebook without a zero (`zero` none), or with one; even levels from 5 bits on.
[[nodiscard]] inline QuantizeConfig fitted(int bits, Aux scale, Aux zero, std::int64_t group_size = 16) noexcept {
  QuantizeConfig c;
  c.bits = bits;
  c.group_size = group_size;
  c.rounding = bits <= 4 ? Rounding::table : Rounding::uniform;
  c.refine = Refine::fit;
  c.scale = scale;
  c.zero = zero;
  return c;
}

}  // namespace detail::quantize

/// The best calibration-free configuration known for a size in bits per weight, auxiliaries and column scales included
/// (measured: bench/results/quality.md). The size is an upper bound over the linear layers of a model that gives each
/// its role, with matrices of a few hundred columns or more; a single matrix of role `other` stays below it, one of
/// role `value` or `down` may exceed it.
///
/// Bits per weight of codes, scales and zeros (beside them, a row and a column cost 16 bits each):
///
///           query    other    down     value
///   2.5     2.3125   2.3125   2.5      2.5
///   3       2.5      2.5      3.3125   3.3125
///   3.5     3.25     3.3125   3.3125   3.625
///   4       3.75     3.75     3.75     4.3125
///   4.5     4.3125   4.3125   4.3125   4.75
///   5       4.75     4.75     4.75     5.5
///   6       5.75     5.75     5.75     6.5
///   8       7        7        8.25     8.25
///
/// Throws InvalidArgument if the size is none of kPresets.
[[nodiscard]] inline QuantizeConfig preset(double bits_per_weight, Role role = Role::other) {
  using detail::quantize::fitted;
  const bool query = role == Role::query;
  const bool value = role == Role::value;
  const bool down = role == Role::down;
  if (bits_per_weight == 2.5) return value || down ? fitted(2, Aux::u4, Aux::u4) : fitted(2, Aux::u5, Aux::none);
  if (bits_per_weight == 3) return value || down ? fitted(3, Aux::u5, Aux::none) : fitted(2, Aux::u4, Aux::u4);
  if (bits_per_weight == 3.5) return fitted(3, query ? Aux::u4 : Aux::u5, value ? Aux::u5 : Aux::none);
  if (bits_per_weight == 4) return value ? fitted(4, Aux::u5, Aux::none) : fitted(3, Aux::u6, Aux::u6);
  if (bits_per_weight == 4.5) return value ? fitted(4, Aux::u6, Aux::u6) : fitted(4, Aux::u5, Aux::none);
  if (bits_per_weight == 5) return value ? fitted(5, Aux::u4, Aux::u4) : fitted(4, Aux::u6, Aux::u6);
  if (bits_per_weight == 6) return value ? fitted(6, Aux::u4, Aux::u4) : fitted(5, Aux::u6, Aux::u6);
  detail::core::require(bits_per_weight == 8, "bits_per_weight", bits_per_weight,
                        "allowed are 2.5, 3, 3.5, 4, 4.5, 5, 6 and 8");
  return value || down ? fitted(8, Aux::u8, Aux::u8, 64) : fitted(6, Aux::u8, Aux::u8);
}

/// The role that a tensor's name gives away, after the conventions of Hugging Face checkpoints (Llama, Qwen, Mistral,
/// Gemma, Phi, Mixtral, GPT-2, GPT-NeoX, Falcon, BERT and their relatives); `other` for names not known, and for query,
/// key and value in one matrix (qkv_proj, query_key_value), which is mostly what decides where attention looks. Key and
/// value in one (kv_proj) are `value`: half of it passes values on, and what that half loses weighs more than the bits
/// that the keys would do without.
[[nodiscard]] inline Role role_of(std::string_view tensor) noexcept {
  const auto has = [&](std::string_view part) { return tensor.find(part) != std::string_view::npos; };
  if (has("qkv_proj") || has("query_key_value")) return Role::other;
  if (has("q_proj") || has("k_proj") || has("attention.self.query") || has("attention.self.key")) return Role::query;
  if (has("v_proj") || has("o_proj") || has("out_proj") || has("attention.self.value") ||
      has("attention.output.dense") || has("attention.dense") || has("attn.c_proj") || has("attn.dense"))
    return Role::value;
  if (has("down_proj") || has(".w2.") || has("mlp.c_proj") || has("fc2") || has(".output.dense") ||
      has("dense_4h_to_h"))
    return Role::down;
  return Role::other;
}

}  // namespace sinq::inline SINQ_ABI
