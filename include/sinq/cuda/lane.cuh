// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instructions.cuh"

namespace sinq::inline SINQ_ABI::detail::cuda {

/// One float with the operations of core::Lanes, each with the same bits: arithmetic that is a template over the two
/// (quantize/rules.hpp) is written once. No product is fused with the sum it goes into.
class Lane {
 public:
  SINQ_CUDA_DEVICE Lane(float value = 0) : v_(value) {}
  [[nodiscard]] SINQ_CUDA_DEVICE float value() const { return v_; }

  SINQ_CUDA_DEVICE friend Lane operator+(Lane a, Lane b) { return a.v_ + b.v_; }
  SINQ_CUDA_DEVICE friend Lane operator-(Lane a, Lane b) { return a.v_ - b.v_; }
  SINQ_CUDA_DEVICE friend Lane operator*(Lane a, Lane b) { return multiply(a.v_, b.v_); }
  SINQ_CUDA_DEVICE friend Lane operator/(Lane a, Lane b) { return divide(a.v_, b.v_); }
  SINQ_CUDA_DEVICE friend Lane operator-(Lane a) { return -a.v_; }
  SINQ_CUDA_DEVICE friend bool operator<(Lane a, Lane b) { return a.v_ < b.v_; }
  SINQ_CUDA_DEVICE friend bool operator==(Lane a, Lane b) { return a.v_ == b.v_; }
  SINQ_CUDA_DEVICE static Lane select(bool condition, Lane a, Lane b) { return condition ? a : b; }
  SINQ_CUDA_DEVICE static bool any(bool condition) { return condition; }

  /// b where a is not a number.
  SINQ_CUDA_DEVICE friend Lane min(Lane a, Lane b) { return a < b ? a : b; }
  SINQ_CUDA_DEVICE friend Lane max(Lane a, Lane b) { return b < a ? a : b; }
  SINQ_CUDA_DEVICE friend Lane clamp(Lane a, Lane low, Lane high) { return min(max(a, low), high); }
  SINQ_CUDA_DEVICE friend Lane abs(Lane a) { return max(a, -a); }
  SINQ_CUDA_DEVICE friend Lane mul_add(Lane a, Lane b, Lane c) { return multiply_add(a.v_, b.v_, c.v_); }

  /// Two additions, where the instruction that rounds runs at an eighth of their speed.
  SINQ_CUDA_DEVICE friend Lane round(Lane a) { return a.v_ + 0x1.8p23f - 0x1.8p23f; }

  SINQ_CUDA_DEVICE static void power_of_two(Lane a, Lane& power, Lane& inverse) {
    std::uint32_t e = as_bits(a.v_) >> 23 & 0xff;
    e = e < 1 ? 1 : e > 253 ? 253 : e;
    power = as_float(e << 23);
    inverse = as_float((254 - e) << 23);
  }
  SINQ_CUDA_DEVICE static void split(Lane a, Lane& exponent, Lane& mantissa) {
    const int k = static_cast<int>(as_bits(a.v_) - 0x3f35'04f3u) >> 23;
    exponent = static_cast<float>(k);
    mantissa = as_float(as_bits(a.v_) - (static_cast<std::uint32_t>(k) << 23));
  }
  SINQ_CUDA_DEVICE friend Lane scale_by_power(Lane a, Lane n) {
    return multiply(a.v_, as_float(static_cast<std::uint32_t>(static_cast<int>(n.v_) + 127) << 23));
  }
  SINQ_CUDA_DEVICE friend Lane copy_sign(Lane a, Lane b) {
    return as_float((as_bits(a.v_) & 0x7fff'ffffu) | (as_bits(b.v_) & 0x8000'0000u));
  }

 private:
  float v_;
};

}  // namespace sinq::inline SINQ_ABI::detail::cuda
