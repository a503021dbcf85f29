// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <random>
#include <sinq/pack.hpp>
#include <vector>

// The stored form read by its description alone (pack/format.hpp, pack/bitstream.hpp), bit by bit and in double, and
// matrices of every format filled with random bits.

namespace sinq::test {

/// Entry `k` of a little-endian bit stream.
inline int bits_at(const std::uint8_t* stream, std::int64_t k, int bits) {
  int value = 0;
  for (int b = 0; b < bits; ++b) {
    const std::int64_t at = k * bits + b;
    value |= (stream[at / 8] >> (at % 8) & 1) << b;
  }
  return value;
}

template <class T>
T as(const std::uint8_t* bytes) {
  T value;
  std::memcpy(static_cast<void*>(&value), bytes, sizeof value);
  return value;
}

inline double float_at(const std::vector<std::uint8_t>& array, std::int64_t k, Aux aux) {
  const std::uint8_t* at = array.data() + k * (aux == Aux::f32 ? 4 : 2);
  if (aux == Aux::f32) return double{as<float>(at)};
  return aux == Aux::f16 ? static_cast<double>(as<half>(at)) : static_cast<double>(as<bfloat16>(at));
}

struct Naive {
  const QuantizedMatrix& q;
  std::int64_t width = q.format.group_size == 0 ? q.cols : q.format.group_size;
  std::int64_t groups = (q.cols + width - 1) / width;

  [[nodiscard]] int code(std::int64_t i, std::int64_t j) const {
    return bits_at(q.codes.data() + i * ((q.cols * q.format.bits + 7) / 8), j, q.format.bits);
  }
  [[nodiscard]] double level(std::int64_t i, std::int64_t j) const {
    const int c = code(i, j);
    switch (q.format.levels) {
      case Levels::uniform:
        return c;
      case Levels::symmetric:
        return c - (1 << (q.format.bits - 1));
      case Levels::nf4:
        return double{kNf4[static_cast<std::size_t>(c)]};
      case Levels::nf3:
        return double{kNf3[static_cast<std::size_t>(c)]};
      default:
        return q.table[static_cast<std::size_t>(c)];
    }
  }
  [[nodiscard]] double scale(std::int64_t i, std::int64_t g) const {
    const Format& f = q.format;
    if (is_float(f.scale)) return float_at(q.scale, i * groups + g, f.scale);
    const int n = bits_of(f.scale);
    int m = bits_at(q.scale.data() + i * ((groups * n + 7) / 8), g, n);
    if (f.signed_scale && m >> (n - 1) != 0) m -= 1 << n;
    const std::int64_t block = f.coarse_groups == 0 ? groups : f.coarse_groups;
    const std::int64_t coarse_per_row = (groups + block - 1) / block;
    return float_at(q.coarse_scale, i * coarse_per_row + g / block, Aux::f16) * m / (1 << (f.signed_scale ? n - 1 : n));
  }
  [[nodiscard]] double zero(std::int64_t i, std::int64_t g) const {
    const Format& f = q.format;
    if (f.zero == Aux::none) return 0;
    if (is_float(f.zero)) return float_at(q.zero, i * groups + g, f.zero);
    const int n = bits_of(f.zero);
    const double share = bits_at(q.zero.data() + i * ((groups * n + 7) / 8), g, n) / std::ldexp(1.0, n);
    if (f.levels == Levels::uniform) return share * (1 << f.bits);
    return f.levels == Levels::table ? 256 * share - 128 : 2 * share - 1;
  }
  [[nodiscard]] double col_scale(std::int64_t i, std::int64_t j) const {
    if (q.format.col_scale == Aux::none) return 1;
    const std::int64_t panel = q.format.tile == Tile::stripe ? 0 : i / width;
    return float_at(q.col_scale, panel * q.cols + j, q.format.col_scale);
  }
  [[nodiscard]] double weight(std::int64_t i, std::int64_t j) const {
    return (level(i, j) - zero(i, j / width)) * scale(i, j / width) * col_scale(i, j);
  }
};

inline std::uint32_t random_bits(std::mt19937& random) {
  return static_cast<std::uint32_t>(random());
}

/// Uniform in [low, high).
inline float random_float(std::mt19937& random, float low, float high) {
  return low + (high - low) * static_cast<float>(random_bits(random) >> 8) * 0x1p-24f;
}

/// Normal, mean 0 and deviation 1; the same on every standard library.
inline float random_normal(std::mt19937& random) {
  float sum = -6;
  for (int k = 0; k < 12; ++k) sum += random_float(random, 0, 1);
  return sum;
}

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
RowMajor<T> random_activations(std::int64_t tokens, std::int64_t cols, std::mt19937& random) {
  return RowMajor<T>::NullaryExpr(tokens, cols, [&] { return static_cast<T>(random_float(random, -1, 1)); });
}

/// A matrix of the given format: random codes and integers, float auxiliaries of both signs within a factor of ten.
inline QuantizedMatrix random_matrix(const Format& format, std::int64_t rows, std::int64_t cols, std::mt19937& random) {
  QuantizedMatrix q = make_quantized_matrix(format, rows, cols);
  const auto streams = [&](std::vector<std::uint8_t>& array, std::int64_t entries, int bits) {
    const std::int64_t bytes = (entries * bits + 7) / 8;
    for (std::size_t k = 0; k < array.size(); ++k) {
      array[k] = static_cast<std::uint8_t>(random_bits(random));
      const std::int64_t used = entries * bits - 8 * (static_cast<std::int64_t>(k) % bytes);
      if (used < 8) array[k] &= static_cast<std::uint8_t>((1 << used) - 1);  // bits behind the last entry are zero
    }
  };
  const auto floats = [&](std::vector<std::uint8_t>& array, Aux aux, float low, float high, bool both_signs) {
    const std::int64_t size = aux == Aux::f32 ? 4 : 2;
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(array.size()) / size; ++k) {
      const float sign = both_signs && (random_bits(random) & 1) ? -1.0f : 1.0f;
      const float value = sign * random_float(random, low, high);
      std::uint8_t* at = array.data() + k * size;
      const half h(value);
      const bfloat16 b(value);
      if (aux == Aux::f32) std::memcpy(at, &value, 4);
      if (aux == Aux::f16) std::memcpy(at, &h, 2);
      if (aux == Aux::bf16) std::memcpy(at, &b, 2);
    }
  };
  const std::int64_t groups = Naive{q}.groups;
  streams(q.codes, cols, format.bits);
  if (is_float(format.scale)) {
    floats(q.scale, format.scale, 0.01f, 0.1f, true);
  } else {
    streams(q.scale, groups, bits_of(format.scale));
    floats(q.coarse_scale, Aux::f16, 0.01f, 0.1f, false);
  }
  if (is_float(format.zero)) {
    const float span = format.levels == Levels::uniform ? static_cast<float>(1 << format.bits)
                       : format.levels == Levels::table ? 128.0f
                                                        : 1.0f;
    floats(q.zero, format.zero, span / 10, span, format.levels != Levels::uniform);
  } else if (format.zero != Aux::none) {
    streams(q.zero, groups, bits_of(format.zero));
  }
  floats(q.col_scale, format.col_scale, 0.2f, 2, true);
  if (format.levels == Levels::table)
    for (int k = 0; k < 1 << format.bits; ++k)
      q.table[static_cast<std::size_t>(k)] =
          static_cast<std::int8_t>(-128 + 255 * k / ((1 << format.bits) - 1) - k * (15 - k) / 16);
  return q;
}

}  // namespace sinq::test
