// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/quantize.hpp>
#include <string>

#include "support/naive.hpp"

// What the tests of quantizing quantize, and how a failure names the method.

namespace sinq::test {

/// Gaussian weights with rows and columns of different sizes.
inline RowMajor<float> weights(std::int64_t rows, std::int64_t cols, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  RowMajor<float> m = RowMajor<float>::NullaryExpr(rows, cols, [&] { return 0.02f * random_normal(random); });
  for (std::int64_t i = 0; i < rows; ++i) m.row(i) *= random_float(random, 0.3f, 3);
  for (std::int64_t j = 0; j < cols; ++j) m.col(j) *= random_float(random, 0.3f, 3);
  return m;
}

/// The same with a few outliers.
inline RowMajor<float> weights_and_outliers(std::int64_t rows, std::int64_t cols, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  RowMajor<float> m = weights(rows, cols, seed);
  for (std::int64_t k = 0; k < rows * cols / 500; ++k) m(random_bits(random) % rows, random_bits(random) % cols) *= 10;
  return m;
}

inline std::string describe(const QuantizeConfig& c) {
  return detail::core::text("bits ", c.bits, " group ", c.group_size, " tile ", static_cast<int>(c.tile), " rounding ",
                            static_cast<int>(c.rounding), " refine ", static_cast<int>(c.refine), " balance ",
                            static_cast<int>(c.balance), " scale ", static_cast<int>(c.scale), " zero ",
                            static_cast<int>(c.zero), " col_scale ", static_cast<int>(c.col_scale), " calibration ",
                            static_cast<int>(c.calibration));
}

}  // namespace sinq::test
