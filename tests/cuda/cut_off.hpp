// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

// What tensor cores cut off (model::fused_sum in cuda/instructions.cuh), for bounds of products' errors. In a step of
// 16 columns each of 16 products, and twice the sum so far, loses what lies 24 bits below the largest exponent; Hopper
// adds all 16 at once and keeps a bit more. With normal operands that exponent is at most that of the largest product,
// and what is lost, up to 18 2^-24 of it, is like any rounding of a sum.

namespace sinq::test {

/// Per step of 16 columns, in units of code times activation. A code is a subnormal half, which counts as 2^-14 where a
/// code of 1 is 2^-24: what is lost is 2^-14 of the step's largest activation m, 19 times with what m may round up. Of
/// two halves the first ones lose nothing: they are whole numbers up to 2^14, and 24 bits below 2^(14 - 14) lies 2^-24,
/// which is the product of 1 and 1. The second ones, beside an m of 2^k or more, are below 2^(k - 10) and so count as
/// 2^(k - 11), 2^-11 of m; or they are up to 1/2, where M, the token's largest, is 2^13 or more: 2^-14 M. Activations
/// below the normal halves count as 2^-14 too, at most 2^-14 2^-13 M 2^6 = 2^-21 M (operands are up to 2^6 times too
/// large).
inline double cut_off_of_codes(int pieces, double step_largest, double largest) {
  const double operand =
      pieces == 2 ? std::max(0x1p-11 * step_largest, 0x1p-14 * largest) : std::max(step_largest, 0x1p-21 * largest);
  return 19 * 0x1p-14 * operand;
}

/// Of weights and activations in half, multiplied by wgmma: 16 products and the sum so far lose what lies 25 bits below
/// the largest. Only where that is the exponent of something below the normal halves, otherwise 0.
inline double cut_off_of_halves(double weight, double activation) {
  if (activation == 0 || (weight >= 0x1p-14 && activation >= 0x1p-14)) return 0;
  return 18 * 0x1p-25 * std::max(weight, 0x1p-14) * std::max(activation, 0x1p-14);
}

}  // namespace sinq::test
