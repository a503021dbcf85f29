// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <sinq/pack.hpp>
#include <vector>

// Small activations beside large ones, for the executor and for a device.

namespace sinq::test {

/// Codes are multiplied as subnormal halves. A tensor core aligns them by the exponent they are written with, 2^-14,
/// and not by their size, 2^-24 for a 1, so it cuts products off ten bits earlier, and no random numbers of one size
/// would show it. Here every weight is 1, and a token has four activations of 1 + 2^-20, less than 90 of 2^-11 and the
/// others of 2^-20, all of them everywhere in a unit. The halves of these are 1, 2^-11 and 2^-20, and all sums, which
/// stay below 8, are multiples of 2^-20 and so have 23 bits: as long as 24 bits of what is multiplied count, the sum is
/// exact.
struct SmallAndLarge {
  static constexpr std::int64_t kRows = 16, kCols = 256, kTokens = 16;  // 32 columns of operand B

  static QuantizedMatrix ones(int bits) {
    QuantizedMatrix q = make_quantized_matrix({.bits = bits, .col_scale = Aux::none}, kRows, kCols);
    for (std::size_t k = 0; k < 8 * q.codes.size(); k += static_cast<std::size_t>(bits))
      q.codes[k / 8] |= static_cast<std::uint8_t>(1 << k % 8);
    for (std::size_t k = 0; k < q.scale.size(); k += 2) q.scale[k + 1] = 0x3c;  // 1 as a half
    return q;
  }
  static std::vector<float> activations() {
    std::vector<float> x(kTokens * kCols);
    for (std::size_t k = 0; k < x.size(); ++k) {
      const std::size_t t = k / kCols, j = k % kCols;
      x[k] = j % 64 == 4 * t + j / 64 ? 1 + 0x1p-20f : j % 3 == 0 ? 0x1p-11f : 0x1p-20f;
    }
    return x;
  }
  /// The sum of a token's activations.
  static double exact(const std::vector<float>& x, std::int64_t token) {
    double sum = 0;
    for (std::int64_t j = 0; j < kCols; ++j) sum += double{x[static_cast<std::size_t>(token * kCols + j)]};
    return sum;
  }
};

}  // namespace sinq::test
