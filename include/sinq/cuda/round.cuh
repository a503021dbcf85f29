// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "balance.cuh"

// From balanced weights to scales, zeros and codes, in the order of the kernels: what quantize/rounding.hpp and
// quantize/encode.hpp do, with the same bits.
//
//   choose           a thread per row and group: scale and zero of first choice
//   choose_coarse    a thread per row and coarse scale, where scales are integers
//   store_records    a thread per strip and record: scales and zeros as they are stored
//   store_columns    a thread per column
//   encode           a warp per unit, as in dequantize_kernel.cuh: reads the stored scales and zeros back and chooses
//                    the codes against them (after a fit: against scales without the row's gain)

namespace sinq::inline SINQ_ABI::detail::cuda {

inline constexpr int kRoundThreads = 128;

// --- scale and zero -------------------------------------------------------------------------------------------------

struct ScaleZero {
  float scale;
  float zero;
};

/// A row's part of a group in the balanced domain.
struct BalancedGroup {
  std::int64_t at;  // of the first weight
  int cols;
  const float* col_inverse = nullptr;  // none if the matrix is not balanced
  float row_inverse = 1;

  SINQ_CUDA_DEVICE static BalancedGroup of(const Quantization& q, int row, int group) {
    BalancedGroup g{};
    g.at = row * q.stride + std::int64_t{group} * q.w.group_size;
    g.cols = q.group_cols(group);
    if (q.balanced)
      g.col_inverse = q.col_inverse + row / q.w.tile_height * q.padded_cols() + std::int64_t{group} * q.padded;
    if (q.best_row != nullptr) g.row_inverse = inverse(load_global<float>(q.best_row + q.at_row(row, group)));
    return g;
  }
  /// The next group of the row, of which `cols` says nothing.
  SINQ_CUDA_DEVICE void advance(const Quantization& q) {
    at += q.w.group_size;
    if (col_inverse != nullptr) col_inverse += q.padded;
  }
  [[nodiscard]] SINQ_CUDA_DEVICE float operator()(const Quantization& q, int j) const {
    const float v = load_number(q.number, q.weights, at + j);
    const float x = col_inverse != nullptr ? multiply(v, load_global<float>(col_inverse + j)) : v;
    return multiply(x, row_inverse);
  }

  /// Four of them; zeros where there are none.
  SINQ_CUDA_DEVICE void four(const Quantization& q, int j, float (&v)[4]) const {
    load_numbers(q.number, q.weights, at + j, cols - j, q.aligned, v);
    if (col_inverse != nullptr) {
      const auto factors = load_global<Words4>(col_inverse + j);
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) v[i] = multiply(v[i], as_float(factors.w[i]));
    }
    SINQ_CUDA_UNROLL
    for (float& x : v) x = multiply(x, row_inverse);
  }

  /// Calls visit(j, x) for each weight, in order.
  template <class Visitor>
  SINQ_CUDA_DEVICE void each(const Quantization& q, Visitor&& visit) const {
    for (int j = 0; j < cols; j += 4) {
      float v[4];
      four(q, j, v);
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i)
        if (j + i < cols) visit(j + i, v[i]);
    }
  }

  /// quantize::RangesOf: the mean is summed in 16 lanes over blocks of 256 columns, the blocks in double, and so is
  /// what is left of the last 16.
  SINQ_CUDA_DEVICE float mean(const Quantization& q) const {
    constexpr int kBlock = 256;
    const int whole = cols - cols % kSweepLanes;
    float lanes[kSweepLanes] = {};
    double sum = 0;
    each(q, [&](int j, float x) {
      if (j >= whole) {
        sum += double{x};
        return;
      }
      lanes[j % kSweepLanes] += x;
      if (j + 1 != whole && (j + 1) % kBlock != 0) return;
      for (int half = kSweepLanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
      sum += double{lanes[0]};
      for (float& lane : lanes) lane = 0;
    });
    return static_cast<float>(sum / cols);
  }
};

SINQ_CUDA_DEVICE float magnitude(float value) {
  return as_float(as_bits(value) & 0x7fff'ffffu);
}
SINQ_CUDA_DEVICE float larger(float a, float b) {
  return a < b ? b : a;
}

/// The smallest step between levels (quantize::kLeastScale).
inline constexpr std::uint32_t kLeastScaleBits = 1;

/// quantize::min_max
SINQ_CUDA_DEVICE ScaleZero choose_min_max(const Quantization& q, const BalancedGroup& g) {
  const float infinity = as_float(0x7f80'0000u);
  float low = infinity, high = -infinity;
  g.each(q, [&](int, float x) {
    low = x < low ? x : low;
    high = high < x ? x : high;
  });
  if (q.largest_zero == 0) {
    low = 0 < low ? 0 : low;
    high = high < 0 ? 0 : high;
  }
  if (low == 0 && high == 0) return {0, 0};
  const auto steps = static_cast<float>((1 << q.w.bits) - 1);
  float scale = larger(high > low ? divide(high - low, steps) : magnitude(low), as_float(kLeastScaleBits));
  if (q.largest_zero != 0) scale = larger(scale, divide(larger(magnitude(low), magnitude(high)), q.largest_zero));
  return {scale, 0.0f - nearest_integer(divide(low, scale))};
}

/// quantize::symmetric
SINQ_CUDA_DEVICE ScaleZero choose_symmetric(const Quantization& q, const BalancedGroup& g) {
  float low = 0, high = 0;
  g.each(q, [&](int, float x) {
    low = x < low ? x : low;
    high = high < x ? x : high;
  });
  const float extreme = -low > high ? low : high;
  if (extreme == 0) return {0, 0};
  const auto levels = static_cast<float>(1 << (q.w.bits - 1));
  const float size = larger(divide(magnitude(extreme), levels), as_float(kLeastScaleBits));
  return {extreme > 0 ? -size : size, 0};
}

/// quantize::mean_shift
SINQ_CUDA_DEVICE ScaleZero choose_mean_shift(const Quantization& q, const BalancedGroup& g) {
  const float mean = g.mean(q);
  float reach = 0;
  g.each(q, [&](int, float x) { reach = larger(reach, magnitude(x - mean)); });
  if (reach == 0) reach = magnitude(mean);
  if (reach == 0) return {0, 0};
  reach = larger(reach, q.largest_zero == 0 ? magnitude(mean) : divide(magnitude(mean), q.largest_zero));
  return {reach, 0.0f - divide(mean, reach)};
}

/// Row and group of entry `at` of an array that has one per row and group.
struct RowGroup {
  int row, group;

  SINQ_CUDA_DEVICE static RowGroup at(const Quantization& q, std::int64_t at) {
    const int group = static_cast<int>(at / q.w.rows);
    return {static_cast<int>(at - std::int64_t{group} * q.w.rows), group};
  }
};

SINQ_CUDA_DEVICE bool is_finite(float value) {
  return (as_bits(value) & 0x7f80'0000u) != 0x7f80'0000u;
}

/// Whether a float keeps a scale's precision (quantize::fits).
SINQ_CUDA_DEVICE bool fits(Number number, float scale) {
  const float size = magnitude(scale);
  if (number == Number::f16) return size >= 0x1p-14f && size <= 65504.0f;
  return number != Number::bf16 || (size >= 0x1p-126f && size <= 0x1.fep127f);
}

/// What a group is given, and what is wrong with it.
SINQ_CUDA_DEVICE void settle(const Quantization& q, std::int64_t at, const ScaleZero& chosen) {
  store_global(q.scale + at, chosen.scale);
  store_global(q.zero + at, chosen.zero);
  const std::uint64_t complement = ~static_cast<std::uint64_t>(at);
  if (!is_finite(chosen.scale) || !is_finite(chosen.zero)) raise_global(q.findings + kBadScale, complement);
  if (chosen.scale != 0 && !fits(q.w.scale.number, chosen.scale)) raise_global(q.findings + kBeyondAux, complement);
}

SINQ_CUDA_DEVICE void choose_block(const Quantization& q) {
  const std::int64_t at = global_thread();
  if (at >= q.row_groups()) return;
  const RowGroup i = RowGroup::at(q, at);
  const BalancedGroup g = BalancedGroup::of(q, i.row, i.group);
  settle(q, at,
         q.choice == Choice::min_max     ? choose_min_max(q, g)
         : q.choice == Choice::symmetric ? choose_symmetric(q, g)
                                         : choose_mean_shift(q, g));
}

template <int = 0>
SINQ_CUDA_KERNEL choose_kernel(const Quantization q) {
  choose_block(q);
}

// --- stored form ----------------------------------------------------------------------------------------------------

/// The smallest half that is at least `value` >= 0 (quantize::round_up_f16).
SINQ_CUDA_DEVICE std::uint16_t half_above(float value) {
  const std::uint16_t nearest = to_half(value);
  return from_half(nearest) >= value ? nearest : static_cast<std::uint16_t>(nearest + 1);
}

/// Scale of a group of zeros (quantize::kScaleOfZeros).
inline constexpr float kZerosScale = 0x1p-14f;

/// Integer scales are shares of 2^n, the largest 2^n - 1.
SINQ_CUDA_DEVICE int scale_bits(const Quantization& q) {
  return q.w.scale.bits - (q.w.scale.number == Number::signed_integer ? 1 : 0);
}

/// A coarse scale as it will be stored, and what is wrong with it.
SINQ_CUDA_DEVICE void settle_coarse(const Quantization& q, const RowGroup& i, float coarse) {
  const float settled = larger(coarse, quantize::kLeastCoarse);
  if (!(settled <= 65504.0f))
    raise_global(q.findings + kBadCoarse, ~(static_cast<std::uint64_t>(i.row) * q.coarse_blocks() + i.group));
  if (settled == quantize::kLeastCoarse) raise_global(q.findings + kTinyRows, std::uint64_t{1});
  store_global(q.coarse + q.at_row(i.row, i.group), settled);
}

/// As quantize::encode_scales: the largest scale of a block meets the largest integer.
SINQ_CUDA_DEVICE void choose_coarse_block(const Quantization& q) {
  const std::int64_t at = global_thread();
  const auto [row, block] = RowGroup::at(q, at);
  const int first = block * q.w.coarse_groups;
  if (first >= q.w.groups) return;
  float largest = 0;
  for (int g = first; g < q.w.groups && g < first + q.w.coarse_groups; ++g)
    largest = larger(largest, magnitude(load_global<float>(q.scale + q.at_row(row, g))));
  if (largest == 0) largest = kZerosScale;
  const auto unit = static_cast<float>(1 << scale_bits(q));
  settle_coarse(q, {row, block}, from_half(half_above(multiply(divide(largest, unit - 1), unit))));
}

template <int = 0>
SINQ_CUDA_KERNEL choose_coarse_kernel(const Quantization q) {
  choose_coarse_block(q);
}

/// The bits of a number as stored.
SINQ_CUDA_DEVICE std::uint32_t stored_bits(Number number, float value) {
  if (number == Number::f32) return as_bits(value);
  return number == Number::f16 ? to_half(value) : to_bfloat16(value);
}

/// A scale as an integer below a coarse one.
SINQ_CUDA_DEVICE float integer_scale(const Quantization& q, float scale, float coarse) {
  const auto unit = static_cast<float>(1 << scale_bits(q));
  float m = nearest_integer(multiply(divide(magnitude(scale), coarse), unit));
  m = m < 1 ? 1 : unit - 1 < m ? unit - 1 : m;
  return scale < 0 ? -m : m;
}

SINQ_CUDA_DEVICE std::uint32_t scale_bits_of(const Quantization& q, int row, int group) {
  const float scale = load_global<float>(q.scale + q.at_row(row, group));
  if (q.w.header == 0 && q.fitted)
    return stored_bits(q.w.scale.number, multiply(scale, load_global<float>(q.gain + row)));
  if (q.w.header == 0) return stored_bits(q.w.scale.number, scale == 0 ? kZerosScale : scale);
  if (q.fitted && scale == 0) return 0;
  const float* const from = q.fitted ? q.fitted_coarse : q.coarse;
  const float m = integer_scale(q, scale, load_global<float>(from + q.at_row(row, group / q.w.coarse_groups)));
  return static_cast<std::uint32_t>(static_cast<int>(m)) & low_bits(q.w.scale.bits);
}

SINQ_CUDA_DEVICE std::uint32_t zero_bits_of(const Quantization& q, int row, int group) {
  float zero = load_global<float>(q.zero + q.at_row(row, group));
  if (q.far_zero < magnitude(zero)) {  // quantize::follow_scales
    const float scale = load_global<float>(q.scale + q.at_row(row, group));
    const float coarse = load_global<float>(q.coarse + q.at_row(row, group / q.w.coarse_groups));
    const float share = divide(integer_scale(q, scale, coarse), static_cast<float>(1 << scale_bits(q)));
    zero = multiply(zero, divide(scale, multiply(coarse, share)));
  }
  const Field& f = q.w.zero;
  if (f.number != Number::unsigned_integer) return stored_bits(f.number, zero);
  const float m = nearest_integer(divide(zero - f.offset, f.factor)), most = static_cast<float>((1 << f.bits) - 1);
  return static_cast<std::uint32_t>(m < 0 ? 0 : most < m ? most : m);
}

/// The rows of a strip.
struct StripRows {
  int panel, first, rows;
};
SINQ_CUDA_DEVICE StripRows strip_rows(const Weights& w, std::int64_t strip) {
  StripRows s{};
  s.panel = static_cast<int>(strip / w.panel_strips);
  const int in_panel = static_cast<int>(strip - std::int64_t{s.panel} * w.panel_strips) * kStripRows;
  s.first = s.panel * w.tile_height + in_panel;
  const int left = w.rows - s.first, left_in_panel = w.tile_height - in_panel;
  s.rows = left < left_in_panel ? left : left_in_panel;
  s.rows = s.rows < kStripRows ? s.rows : kStripRows;
  return s;
}

/// Writes fields one after the other, 16 bits at a time.
class BitWriter {
 public:
  SINQ_CUDA_DEVICE explicit BitWriter(std::uint8_t* to) : to_(to) {}
  SINQ_CUDA_DEVICE void put(std::uint32_t value, int bits) {
    waiting_ |= static_cast<std::uint64_t>(value) << filled_;
    for (filled_ += bits; filled_ >= 16; filled_ -= 16, waiting_ >>= 16, to_ += 2)
      store_global(to_, static_cast<std::uint16_t>(waiting_));
  }

 private:
  std::uint8_t* to_;
  std::uint64_t waiting_ = 0;
  int filled_ = 0;
};

SINQ_CUDA_DEVICE void store_records_block(const Quantization& q) {
  const Weights& w = q.w;
  const std::int64_t at = global_thread(), records = w.records();
  if (at >= q.strips * records) return;
  const std::int64_t strip = at / records;
  const int first_group = static_cast<int>(at - strip * records) * w.record_groups;
  const StripRows s = strip_rows(w, strip);
  const RecordCursor cursor = RecordCursor::at(w, first_group * w.group_size);
  std::uint8_t* const aux = q.aux + strip * w.aux_stride;
  if (w.header != 0 && cursor.in_block == 0) {
    BitWriter writer(aux + cursor.header_offset(w));
    for (int r = 0; r < kStripRows; ++r)
      writer.put(
          r < s.rows ? to_half(load_global<float>(q.coarse + q.at_row(s.first + r, first_group / w.coarse_groups))) : 0,
          16);
  }
  BitWriter writer(aux + cursor.offset);
  const auto store = [&](int bits, auto&& bits_of) {  // in the order of field_bit
    for (int k = 0; bits != 0 && k < kStripRows * w.record_groups; ++k) {
      const int pair = k / 2, row = pair / w.record_groups + k % 2 * 8;
      const int group = first_group + pair % w.record_groups;
      writer.put(row < s.rows && group < w.groups ? bits_of(q, s.first + row, group) : 0, bits);
    }
  };
  store(w.scale.bits, scale_bits_of);
  store(w.zero.bits, zero_bits_of);
}

template <int = 0>
SINQ_CUDA_KERNEL store_records_kernel(const Quantization q) {
  store_records_block(q);
}

/// Behind the last column there are zeros already.
SINQ_CUDA_DEVICE void store_columns_block(const Quantization& q) {
  const std::int64_t at = global_thread();
  const std::int64_t panel = at / q.w.cols;
  if (panel >= q.w.panels) return;
  const int col = static_cast<int>(at - panel * q.w.cols), group = col / q.w.group_size;
  const std::int64_t from = panel * q.padded_cols() + std::int64_t{group} * q.padded + (col - group * q.w.group_size);
  store_number(q.w.col_number, q.col_scale, panel * q.w.units * kUnitCols + col, load_global<float>(q.best_col + from));
}

template <int = 0>
SINQ_CUDA_KERNEL store_columns_kernel(const Quantization q) {
  store_columns_block(q);
}

// --- codes ----------------------------------------------------------------------------------------------------------

/// The code nearest to a position (quantize::Coder).
template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE std::uint32_t nearest_code(const Quantization& q, float position) {
  if constexpr (kPaired) {
    std::uint32_t code = 0;
    SINQ_CUDA_UNROLL
    for (int k = 0; k + 1 < 1 << kBits; ++k) code += position > q.middles[k] ? 1u : 0u;
    return code;
  } else {
    constexpr auto kLast = static_cast<float>((1 << kBits) - 1);
    const float code = nearest_integer(position) - q.first_level;
    return static_cast<std::uint32_t>(code < 0 ? 0 : kLast < code ? kLast : code);
  }
}

/// A lane's words of a unit, with the widest stores.
template <int kBits>
SINQ_CUDA_DEVICE void store_words(std::uint8_t* unit, int lane, const std::uint32_t (&words)[kBits]) {
  constexpr int kFours = kBits / 4 * 4, kTwos = kBits % 4 / 2 * 2;
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kFours; k += 4)
    store_global(unit + 4 * word_in_unit(kBits, lane, k), Words4{{words[k], words[k + 1], words[k + 2], words[k + 3]}});
  if constexpr (kTwos != 0)
    store_global(unit + 4 * word_in_unit(kBits, lane, kFours), Words2{{words[kFours], words[kFours + 1]}});
  if constexpr (kBits % 2 != 0) store_global(unit + 4 * word_in_unit(kBits, lane, kBits - 1), words[kBits - 1]);
}

/// What the codes of a row's group are chosen with, where it was fitted.
SINQ_CUDA_DEVICE ScaleZero coding_factors(const Quantization& q, int row, int group) {
  const std::int64_t at = q.at_row(row, group);
  const float scale = load_global<float>(q.scale + at);
  return {scale == 0 ? kZerosScale : scale, load_global<float>(q.zero + at)};
}

/// The same where it was not: what a reader will see. (The operands' zero of symmetric levels is the level of code 0,
/// order.hpp, which nearest_code takes off.)
SINQ_CUDA_DEVICE ScaleZero read_back(const Weights& w, const std::uint8_t* aux, const RecordCursor& record, int row,
                                     int group) {
  const StoredFactors f = load_factors(w, aux, record, row, group);
  return {f.scale, w.zero.bits == 0 ? 0.0f : f.zero};
}

template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE void encode_block(const Quantization& q) {
  const Weights& w = q.w;
  const int lane = static_cast<int>(thread_index()) % kLanes, group = lane / 4, t = lane % 4;
  const std::int64_t index = global_thread() / kLanes;
  const std::int64_t strip = index / w.units;
  if (strip >= q.strips) return;
  const int unit = static_cast<int>(index - strip * w.units);
  const StripRows s = strip_rows(w, strip);
  const std::uint8_t* aux = w.aux + strip * w.aux_stride;
  std::uint32_t words[kBits] = {};
  SINQ_CUDA_UNROLL
  for (int step = 0; step < 4; ++step) {
    const int col = unit * kUnitCols + step * kStepCols + 4 * t;
    if (col >= w.cols) continue;
    Words4 col_inverse{};
    if (q.balanced) col_inverse = load_global<Words4>(q.col_inverse + s.panel * q.padded_cols() + q.padded_col(col));
    const RecordCursor record = RecordCursor::at(w, col);
    SINQ_CUDA_UNROLL
    for (int upper = 0; upper < 2; ++upper) {
      const int row = group + 8 * upper;
      if (row >= s.rows) continue;
      const int col_group = col / w.group_size;
      const ScaleZero f =
          q.fitted ? coding_factors(q, s.first + row, col_group) : read_back(w, aux, record, row, col_group);
      float v[4];
      load_numbers(q.number, q.weights, (s.first + row) * q.stride + col, w.cols - col, q.aligned, v);
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float x = q.balanced ? multiply(v[i], as_float(col_inverse.w[i])) : v[i];
        const float position = divide(x, f.scale) + f.zero;
        if (col + i < w.cols)
          put_code<kBits, kPaired>(words, 2 * step + i / 2, upper, i % 2, nearest_code<kBits, kPaired>(q, position));
      }
    }
  }
  store_words<kBits>(q.codes + index * unit_bytes(kBits), lane, words);
}

template <int kBits, bool kPaired>
SINQ_CUDA_KERNEL encode_kernel(const Quantization q) {
  encode_block<kBits, kPaired>(q);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
