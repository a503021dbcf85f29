// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/quantize/preset.hpp>
#include <string>
#include <vector>

// Formats that are measured, and matrices of them. What their numbers are does not matter for the time.

namespace sinq_bench {

struct Named {
  std::string name;
  sinq::Format format;
};

inline sinq::Format uniform(int bits, sinq::Aux aux) {
  return {.bits = bits, .scale = aux, .zero = aux};
}

/// That of most matrices of a preset.
inline Named preset(double size) {
  return {sinq::detail::core::text("preset-", size), sinq::detail::quantize::format_of(sinq::preset(size), true)};
}

/// A matrix of random codes.
inline sinq::QuantizedMatrix random_matrix(const sinq::Format& format, std::int64_t rows, std::int64_t cols) {
  auto q = sinq::make_quantized_matrix(format, rows, cols);
  std::uint64_t state = 0x9e3779b97f4a7c15;
  const auto fill = [&](std::vector<std::uint8_t>& bytes, sinq::Aux aux, std::int64_t row_bits = 0) {
    for (std::size_t k = 0; k < bytes.size(); ++k) {
      state ^= state >> 12;
      state ^= state << 25;
      state ^= state >> 27;
      bytes[k] = static_cast<std::uint8_t>(state * 0x2545f4914f6cdd1d >> 56);
      if (sinq::is_float(aux)) bytes[k] = k % 2 ? 0x21 : bytes[k];  // half: about 0.01
    }
    const auto row = static_cast<std::size_t>(row_bits + 7) / 8;  // nothing behind its last bit
    for (std::size_t end = row; row_bits % 8 != 0 && end <= bytes.size(); end += row)
      bytes[end - 1] &= static_cast<std::uint8_t>((1 << row_bits % 8) - 1);
  };
  const std::int64_t groups = q.tiling().groups();
  fill(q.codes, sinq::Aux::u8, cols * format.bits);
  fill(q.scale, format.scale, groups * bits_of(format.scale));
  fill(q.zero, format.zero, groups * bits_of(format.zero));
  fill(q.coarse_scale, sinq::Aux::f16);
  fill(q.col_scale, format.col_scale);
  if (format.levels == sinq::Levels::table)
    for (int k = 0; k < 1 << format.bits; ++k)
      q.table[static_cast<std::size_t>(k)] = static_cast<std::int8_t>(-120 + 240 * k / ((1 << format.bits) - 1));
  return q;
}

}  // namespace sinq_bench
