// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kurtosis.cuh"

// Balancing: the iteration of balance/sinkhorn.hpp, all tiles at once and with the same bits.
//
//   find_largest     once: the unit of each tile, and weights that are none
//   per iteration:
//     sweep          16 threads per block of 128 rows of a tile: new row factors from the last deviations, then one
//                    pass over the weights: sums of rows (each thread the columns of its lane, then folded in halves)
//                    and of columns (each thread its own, in the order of the rows)
//     judge          a block per tile: sums of columns in the order of the blocks of rows; deviations, imbalance: stop?
//                    the best so far? new column factors
//   invert_columns   once
//
// Every addition happens in the order that the CPU's sweep defines: its 16 lanes are 16 threads, its blocks of 128 rows
// are the work of these. So the bits agree, and nothing is left to bound.
//
// Why the weights are read from memory in every iteration, and no cluster of blocks keeps a tile in its shared memory.
// 8192 x 8192 weights in bfloat16, groups of 64, 16 iterations, on an H200; read from the machine code and the data
// sheet (bench/results/cuda-sass.md), not measured:
//
//                                   from memory                         a tile in a cluster of 8 blocks
//   instructions, all slots filled  0.5 ms: 253 per weight              the same: the sums are what they are
//   reading, at the same time       0.45 ms: 16 times 128 MB            0.03 ms
//   warps per multiprocessor        31: all 1024 blocks are resident    4: 16 threads take 128 rows, or the order of
//                                   at once                             the sums is another; 128 KB leave no room for
//                                                                       a second cluster
//   launches                        32, some 2 us each                  1
//
// A cluster would save reading, which does not limit, and launches, a tenth of the time at most. But it leaves each
// scheduler a single warp, which would have to issue in every cycle to be as fast, between sums, shuffles and shared
// memory whose latency nothing else hides. And the other way would still be needed: a tile fits up to 14,000 rows
// (bfloat16; float: 7,000), and never where the whole row is the group. More than 130e9 weights per second takes fewer
// instructions, not fewer bytes.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// What 16 threads work on: a block of rows of a tile.
struct SweepItem {
  bool exists;
  int lane;  // of the 16
  int group;
  std::int64_t panel_block;
  std::int64_t tile;
  std::int64_t index;
  std::int64_t first_col;  // in arrays per panel and padded column
  int panel;
  int first_row, rows;
  int cols;
};

/// Groups go fastest: neighbouring blocks of threads read neighbouring columns of the same rows.
SINQ_CUDA_DEVICE SweepItem sweep_item(const Quantization& q) {
  SweepItem i{};
  i.lane = static_cast<int>(thread_index()) % kSweepLanes;
  i.index = std::int64_t{block_index().x} * (thread_count() / kSweepLanes) + thread_index() / kSweepLanes;
  i.exists = i.index < q.items();
  if (!i.exists) return i;
  i.panel_block = i.index / q.w.groups;
  i.group = static_cast<int>(i.index - i.panel_block * q.w.groups);
  i.panel = static_cast<int>(i.panel_block / q.blocks);
  const int first = static_cast<int>(i.panel_block - std::int64_t{i.panel} * q.blocks) * kSweepRows;
  i.first_row = i.panel * q.w.tile_height + first;
  const int in_panel = q.w.tile_height - first, left = q.w.rows - i.first_row;
  i.rows = left < in_panel ? left : in_panel;
  i.rows = i.rows < 0 ? 0 : i.rows < kSweepRows ? i.rows : kSweepRows;
  i.exists = i.rows > 0;  // the last panel may have fewer blocks
  i.cols = q.group_cols(i.group);
  i.tile = std::int64_t{i.panel} * q.w.groups + i.group;
  i.first_col = i.panel * q.padded_cols() + std::int64_t{i.group} * q.padded;
  return i;
}

/// Rows of panel `panel`.
SINQ_CUDA_DEVICE int panel_rows(const Quantization& q, int panel) {
  const int left = q.w.rows - panel * q.w.tile_height;
  return left < q.w.tile_height ? left : q.w.tile_height;
}

/// The power of two in which a tile is measured (balance::unit_of).
SINQ_CUDA_DEVICE float unit_of(std::uint32_t largest) {
  const float value = as_float(largest);
  if (largest == 0 || (value >= 0x1p-40f && value <= 0x1p16f)) return 1;
  const std::uint32_t power = largest & 0x7f80'0000u;
  return as_float(power < 0x0080'0000u ? 0x0080'0000u : power);
}

template <class T>
SINQ_CUDA_DEVICE T clamp(T value, T low, T high) {
  return value < low ? low : high < value ? high : value;
}

/// balance::DeviationsOf: the deviation of n weights, in units, from their sums; and whether it has lost digits.
struct Deviation {
  float value;
  bool inexact;
};
SINQ_CUDA_DEVICE Deviation deviation(float sum, float square, int n) {
  const float inverse = divide(1, static_cast<float>(n)), inverse_less_1 = divide(1, static_cast<float>(n - 1));
  const float variance = multiply_add(-multiply(sum, inverse), sum, square);
  return {square_root(multiply(0 < variance ? variance : 0, inverse_less_1)), multiply_add(variance, 512, -square) < 0};
}

/// The step of an update.
SINQ_CUDA_DEVICE float updated(const SinkhornLimits& o, float factor, float deviation, double target) {
  const float size = clamp(deviation, o.min_deviation, o.max_deviation);
  const float step = clamp(multiply(size, static_cast<float>(1 / target)), o.min_step, o.max_step);
  return clamp(multiply(factor, step), o.min_factor, o.max_factor);
}
SINQ_CUDA_DEVICE float inverse(float factor) {
  return divide(1, factor);
}

/// Smallest and largest deviation, and whether any has lost digits.
struct Extremes {
  float least = as_float(0x7f80'0000u);
  float most = -least;
  std::uint32_t inexact = 0;

  SINQ_CUDA_DEVICE void take(float low, float high) {
    least = low < least ? low : least;
    most = most < high ? high : most;
  }
  SINQ_CUDA_DEVICE void take(float deviation) { take(deviation, deviation); }
  /// Over the lanes of a warp that differ in the bits below `lanes`.
  SINQ_CUDA_DEVICE void fold(int lanes) {
    const int lane = static_cast<int>(thread_index()) % kLanes;
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      const float low = shuffle(least, lane ^ distance), high = shuffle(most, lane ^ distance);
      take(low, high);
      inexact |= shuffle(inexact, lane ^ distance);
    }
  }
};

// --- the weights before anything else -------------------------------------------------------------------------------

/// Weights lie below this (core::kWeightLimit); infinities and NaNs have larger bits.
inline constexpr std::uint32_t kWeightLimitBits = (127 + 120) << 23;

SINQ_CUDA_DEVICE void find_largest_block(const Quantization& q) {
  const SweepItem item = sweep_item(q);
  const int lane = static_cast<int>(thread_index()) % kLanes;
  std::uint32_t largest = 0;
  for (int i = 0; i < item.rows; ++i)
    for (int j = item.lane; j < item.cols; j += kSweepLanes) {
      const std::int64_t row = item.first_row + i, col = std::int64_t{item.group} * q.w.group_size + j;
      const std::uint32_t bits = as_bits(load_number(q.number, q.weights, row * q.stride + col)) & 0x7fff'ffffu;
      if (bits >= kWeightLimitBits)
        raise_global(q.findings + kBadWeight, ~static_cast<std::uint64_t>(row * q.w.cols + col));
      largest = bits > largest ? bits : largest;
    }
  for (int distance = kSweepLanes / 2; distance > 0; distance /= 2) {
    const std::uint32_t other = shuffle(largest, lane ^ distance);
    largest = other > largest ? other : largest;
  }
  if (item.exists && item.lane == 0) raise_global(q.largest + item.tile, largest);
}

template <int = 0>
SINQ_CUDA_KERNEL find_largest_kernel(const Quantization q) {
  find_largest_block(q);
}

// --- sweep ----------------------------------------------------------------------------------------------------------

inline constexpr int kSweepThreads = 128;
inline constexpr int kOctet = 8;     // rows whose 16 sums, two each, fold together
inline constexpr int kTogether = 4;  // rows that are loaded together: more of them take too many registers
static_assert(kOctet % kTogether == 0);

/// Shared memory of 16 threads: inverse row factors, then {sum, sum of squares} of each row.
inline constexpr int kSweepItemBytes = kSweepRows * (4 + 8);
inline constexpr int kSweepSharedBytes = kSweepThreads / kSweepLanes * kSweepItemBytes;

/// New factors of the rows of a block, into shared memory as inverses.
SINQ_CUDA_DEVICE void update_rows(const Quantization& q, const SweepItem& item, std::uint32_t inverses) {
  const double target = q.iteration > 0 ? load_global<double>(q.target + item.tile) : 1;
  for (int i = item.lane; i < item.rows; i += kSweepLanes) {
    const std::int64_t at = q.at_row(item.first_row + i, item.group);
    float factor = 1;
    if (q.iteration > 0) {
      factor = load_global<float>(q.row_factor + at);
      if (item.cols >= 2) factor = updated(q.sinkhorn, factor, load_global<float>(q.row_deviation + at), target);
    }
    store_global(q.row_factor + at, factor);
    store_shared(inverses + 4 * static_cast<std::uint32_t>(i), inverse(factor));
  }
  // Rows that do not exist hold zeros: times anything.
  for (int i = item.rows + item.lane; i < kSweepRows; i += kSweepLanes)
    store_shared(inverses + 4 * static_cast<std::uint32_t>(i), 1.0f);
}

/// Sets v[r][c] to value(r, c).
template <int kRows, int kChunks, class Value>
SINQ_CUDA_DEVICE void for_all(float (&v)[kRows][kChunks], Value&& value) {
  SINQ_CUDA_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SINQ_CUDA_UNROLL
    for (int c = 0; c < kChunks; ++c) v[r][c] = value(r, c);
  }
}

/// Rows [first, first + kRows) of a block, kChunks lanes' columns beginning with `chunk`; zeros where there are none.
template <Number kNumber, int kRows, int kChunks>
SINQ_CUDA_DEVICE void load_rows(const Quantization& q, const SweepItem& item, int first, int chunk, float unit_inverse,
                                float (&v)[kRows][kChunks]) {
  const int col = chunk * kSweepLanes + item.lane;
  const std::int64_t at = (item.first_row + first) * q.stride + std::int64_t{item.group} * q.w.group_size + col;
  const auto* from = static_cast<const std::uint8_t*>(q.weights) + at * size_of(kNumber);
  const std::int64_t step = q.stride * size_of(kNumber);
  const bool whole = first + kRows <= item.rows && col - item.lane + kChunks * kSweepLanes <= item.cols;
  if (whole) {
    for_all(v, [&](int r, int c) { return load_number(kNumber, from + r * step, c * kSweepLanes); });
  } else {
    for_all(v, [&](int r, int c) {
      const bool exists = first + r < item.rows && col + c * kSweepLanes < item.cols;
      return exists ? load_number(kNumber, from + r * step, c * kSweepLanes) : 0.0f;
    });
  }
  if (unit_inverse != 1) for_all(v, [&](int r, int c) { return multiply(v[r][c], unit_inverse); });
}

template <int kHalf>
SINQ_CUDA_DEVICE void fold_half(float (&value)[16], int lane) {
  const bool upper = (lane & kHalf) != 0;
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kHalf; ++k) {
    const float give = upper ? value[k] : value[k + kHalf];
    value[k] = (upper ? value[k + kHalf] : value[k]) + shuffle(give, lane ^ kHalf);
  }
}

/// Adds up 16 values, each over 16 lanes, in halves: 16 -> 8 -> 4 -> 2 -> 1. Lane l gets the sum of value l. What
/// balance::fold does sixteen times takes 15 shuffles: with each halving of lanes a lane also gives away half of the
/// values.
SINQ_CUDA_DEVICE float fold_16(float (&value)[16]) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  fold_half<8>(value, lane);
  fold_half<4>(value, lane);
  fold_half<2>(value, lane);
  fold_half<1>(value, lane);
  return value[0];
}

/// kWide: groups of more than 16 kChunks columns, whose sums wait in global memory from one octet to the next.
template <Number kNumber, int kChunks, bool kWide>
SINQ_CUDA_DEVICE void sweep_block(const Quantization& q) {
  SweepItem item = sweep_item(q);
  if (item.exists && q.iteration > 0 && load_global<std::uint32_t>(q.stopped + item.tile) != 0) {
    item.exists = false;
    item.rows = 0;
  }
  const std::uint32_t inverses = shared_base() + thread_index() / kSweepLanes * kSweepItemBytes;
  const std::uint32_t row_sums = inverses + 4 * kSweepRows;
  float unit_inverse = 1;
  if (item.exists) {
    update_rows(q, item, inverses);
    unit_inverse = divide(1, unit_of(load_global<std::uint32_t>(q.largest + item.tile)));
  }
  warp_barrier();

  const auto col_sums = [&] {  // only when it is needed: 64 bits of the few registers that the loop has
    return q.sums + 2 * item.panel_block * q.padded_cols() + std::int64_t{item.group} * q.padded;
  };
  const int chunks = kWide ? q.padded / kSweepLanes : kChunks;
  float col_inverse[kChunks], col_sum[kChunks] = {}, col_square[kChunks] = {};
  const auto for_chunks = [&](int chunk, auto&& visit) {  // column of the tile, number
    SINQ_CUDA_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      const int col = (chunk + c) * kSweepLanes + item.lane;
      if (item.exists && col < q.padded) visit(col, c);
    }
  };
  const auto load_inverses = [&](int chunk) {
    SINQ_CUDA_UNROLL
    for (float& f : col_inverse) f = 1;
    if (q.iteration > 0)
      for_chunks(chunk, [&](int col, int c) {
        if (col < item.cols) col_inverse[c] = load_global<float>(q.col_inverse + item.first_col + col);
      });
  };
  const auto store_sums = [&](int chunk) {
    for_chunks(chunk, [&](int col, int c) {
      store_global(col_sums() + col, col_sum[c]);
      store_global(col_sums() + q.padded_cols() + col, col_square[c]);
    });
  };
  if (!kWide) load_inverses(0);

  // Both halves of a warp stay together, since they fold together: rows that do not exist are zeros.
  const int most_rows = q.w.tile_height < kSweepRows ? q.w.tile_height : kSweepRows;
  SINQ_CUDA_NO_UNROLL
  for (int first = 0; first < most_rows; first += kOctet) {
    float value[2 * kOctet] = {};  // sum, sum of squares of each row
    SINQ_CUDA_NO_UNROLL
    for (int chunk = 0; chunk < chunks; chunk += kChunks) {
      if (kWide) {
        load_inverses(chunk);
        for_chunks(chunk, [&](int col, int c) {
          col_sum[c] = first == 0 ? 0 : load_global<float>(col_sums() + col);
          col_square[c] = first == 0 ? 0 : load_global<float>(col_sums() + q.padded_cols() + col);
        });
      }
      float v[kTogether][kChunks];
      SINQ_CUDA_UNROLL
      for (int r = 0; r < kOctet; ++r) {
        if (r % kTogether == 0) load_rows<kNumber>(q, item, first + r, chunk, unit_inverse, v);
        const float row_inverse =
            item.exists ? load_shared<float>(inverses + 4 * static_cast<std::uint32_t>(first + r)) : 1.0f;
        SINQ_CUDA_UNROLL
        for (int c = 0; c < kChunks; ++c) {
          const float scaled = multiply(multiply(v[r % kTogether][c], col_inverse[c]), row_inverse);
          const float square = multiply(scaled, scaled);
          value[2 * r] += scaled;
          value[2 * r + 1] += square;
          col_sum[c] += scaled;
          col_square[c] += square;
        }
      }
      if (kWide) store_sums(chunk);
    }
    store_shared(row_sums + 4 * static_cast<std::uint32_t>(2 * first + item.lane), fold_16(value));
  }
  if (!kWide) store_sums(0);
  warp_barrier();

  Extremes extremes;
  const float unit = divide(1, unit_inverse);  // a power of two: exact
  for (int i = item.lane; item.cols >= 2 && i < item.rows; i += kSweepLanes) {
    const auto sums = load_shared<Words2>(row_sums + 8 * static_cast<std::uint32_t>(i));
    const Deviation of_sums = deviation(as_float(sums.w[0]), as_float(sums.w[1]), item.cols);
    const float d = multiply(of_sums.value, unit);
    store_global(q.row_deviation + q.at_row(item.first_row + i, item.group), d);
    extremes.take(d);
    extremes.inexact |= of_sums.inexact ? 1u : 0u;
  }
  extremes.fold(kSweepLanes);
  if (!item.exists || item.lane != 0) return;
  store_global(q.extremes + 2 * item.index, extremes.least);
  store_global(q.extremes + 2 * item.index + 1, extremes.most);
  store_global(q.inexact + item.index, extremes.inexact);
}

template <Number kNumber, int kChunks, bool kWide>
SINQ_CUDA_KERNEL
#if defined(__CUDACC__)
__launch_bounds__(kSweepThreads, kWide ? 3 : 8)
#endif
    sweep_kernel(const Quantization q) {
  sweep_block<kNumber, kChunks, kWide>(q);
}

// --- judge ----------------------------------------------------------------------------------------------------------

inline constexpr int kJudgeThreads = 128;
inline constexpr int kJudgeSharedBytes = kJudgeThreads / kLanes * 12;

/// Over all threads of the block; all get the result.
SINQ_CUDA_DEVICE Extremes over_block(Extremes e) {
  e.fold(kLanes);
  const std::uint32_t mine = shared_base() + 12 * (thread_index() / kLanes);
  barrier();  // an earlier result has been read
  if (thread_index() % kLanes == 0) {
    store_shared(mine, e.least);
    store_shared(mine + 4, e.most);
    store_shared(mine + 8, e.inexact);
  }
  barrier();
  for (unsigned warp = 0; warp < thread_count() / kLanes; ++warp) {
    e.take(load_shared<float>(shared_base() + 12 * warp), load_shared<float>(shared_base() + 12 * warp + 4));
    e.inexact |= load_shared<std::uint32_t>(shared_base() + 12 * warp + 8);
  }
  return e;
}

/// A tile as its judge sees it.
struct JudgedTile {
  std::int64_t tile;
  int panel, group;
  int first_row, rows;
  std::int64_t first_col;  // in arrays per panel and padded column
  int cols;
  float unit;
};

/// The deviations once more, where the sums of the sweep have lost digits: in two passes and in double, as
/// DeviationMeter::measure_in_double. Rare, and slow.
SINQ_CUDA_DEVICE Extremes measure_in_double(const Quantization& q, const JudgedTile& t, float* col_deviation) {
  const float unit_inverse = divide(1, t.unit);
  const auto weight = [&](int i, int j) {
    const std::int64_t at = (t.first_row + i) * q.stride + std::int64_t{t.group} * q.w.group_size + j;
    return double{multiply(load_number(q.number, q.weights, at), unit_inverse)};
  };
  const auto row_inverse = [&](int i) {
    return double{inverse(load_global<float>(q.row_factor + q.at_row(t.first_row + i, t.group)))};
  };
  const auto col_inverse = [&](int j) {
    return q.iteration > 0 ? double{load_global<float>(q.col_inverse + t.first_col + j)} : 1.0;
  };
  const int thread = static_cast<int>(thread_index()), threads = static_cast<int>(thread_count());
  Extremes e;
  for (int j = thread; t.rows >= 2 && j < t.cols; j += threads) {
    double mean = 0, squares = 0;
    for (int i = 0; i < t.rows; ++i) mean += weight(i, j) * row_inverse(i);
    mean /= t.rows;
    for (int i = 0; i < t.rows; ++i) {
      const double d = weight(i, j) * row_inverse(i) - mean;
      squares = fused(d, d, squares);
    }
    const auto d = static_cast<float>(double{t.unit} * col_inverse(j) * square_root(squares / (t.rows - 1)));
    store_global(col_deviation + j, d);
    e.take(d);
  }
  for (int i = thread; t.cols >= 2 && i < t.rows; i += threads) {
    double mean = 0, squares = 0;
    for (int j = 0; j < t.cols; ++j) mean += weight(i, j) * col_inverse(j);
    mean /= t.cols;
    for (int j = 0; j < t.cols; ++j) {
      const double d = weight(i, j) * col_inverse(j) - mean;
      squares = fused(d, d, squares);
    }
    const auto d = static_cast<float>(double{t.unit} * row_inverse(i) * square_root(squares / (t.cols - 1)));
    store_global(q.row_deviation + q.at_row(t.first_row + i, t.group), d);
    e.take(d);
  }
  return over_block(e);
}

/// A column factor as it will be stored.
SINQ_CUDA_DEVICE float stored(Number number, float value) {
  if (number == Number::f16) return from_half(to_half(value));
  return number == Number::bf16 ? as_float(static_cast<std::uint32_t>(to_bfloat16(value)) << 16) : value;
}

SINQ_CUDA_DEVICE void judge_block(const Quantization& q) {
  constexpr double kRounding = 1e-5;  // balance::kRounding
  JudgedTile t{};
  t.tile = block_index().x;
  if (q.iteration > 0 && load_global<std::uint32_t>(q.stopped + t.tile) != 0) return;
  t.panel = static_cast<int>(t.tile / q.w.groups);
  t.group = static_cast<int>(t.tile - std::int64_t{t.panel} * q.w.groups);
  t.first_row = t.panel * q.w.tile_height;
  t.rows = panel_rows(q, t.panel);
  t.first_col = t.panel * q.padded_cols() + std::int64_t{t.group} * q.padded;
  t.cols = q.group_cols(t.group);
  t.unit = unit_of(load_global<std::uint32_t>(q.largest + t.tile));
  const int thread = static_cast<int>(thread_index()), threads = static_cast<int>(thread_count());
  const int blocks = (t.rows + kSweepRows - 1) / kSweepRows;
  float* const col_deviation = q.col_deviation + t.first_col;

  Extremes e;
  for (int b = thread; t.cols >= 2 && b < blocks; b += threads) {
    const std::int64_t item = (std::int64_t{t.panel} * q.blocks + b) * q.w.groups + t.group;
    e.take(load_global<float>(q.extremes + 2 * item), load_global<float>(q.extremes + 2 * item + 1));
    e.inexact |= load_global<std::uint32_t>(q.inexact + item);
  }
  for (int j = thread; t.rows >= 2 && j < t.cols; j += threads) {
    const float* from = q.sums + 2 * t.panel * q.blocks * q.padded_cols() + std::int64_t{t.group} * q.padded + j;
    double sum = 0, square = 0;
    for (int b = 0; b < blocks; ++b, from += 2 * q.padded_cols()) {
      sum += double{load_global<float>(from)};
      square += double{load_global<float>(from + q.padded_cols())};
    }
    const Deviation of_sums = deviation(static_cast<float>(sum), static_cast<float>(square), t.rows);
    const float d = multiply(of_sums.value, t.unit);
    store_global(col_deviation + j, d);
    e.take(d);
    e.inexact |= of_sums.inexact ? 1u : 0u;
  }
  e = over_block(e);
  if (e.inexact != 0) e = measure_in_double(q, t, col_deviation);

  const bool single = t.rows < 2 && t.cols < 2;  // a weight alone has no deviation
  const bool only_one = single || gate_closed(q);
  const double least = e.least;
  const double imbalance = single ? 1 : e.most / (least < 1e-12 ? 1e-12 : least);
  const SinkhornLimits& o = q.sinkhorn;
  const bool first = q.iteration == 0;
  const double best = first ? imbalance : load_global<double>(q.imbalance + t.tile);
  const double target =
      first ? clamp(least, o.least_target, o.largest_target) + 1e-6 : load_global<double>(q.target + t.tile);
  const bool stop = only_one || imbalance > best * (1 + kRounding);
  const bool keep = first || imbalance <= best;       // the first even if it is no number, as where a weight is none
  barrier();                                          // all have read what is written now
  for (int j = thread; j < q.padded; j += threads) {  // 1 where there is no column
    const std::int64_t at = t.first_col + j;
    float factor = first || j >= t.cols ? 1 : load_global<float>(q.col_factor + at);
    if (keep) store_global(q.best_col + at, stored(q.w.col_number, factor));
    if (stop || j >= t.cols) continue;
    if (t.rows >= 2) factor = updated(o, factor, load_global<float>(col_deviation + j), target);
    store_global(q.col_factor + at, factor);
    store_global(q.col_inverse + at, inverse(factor));
  }
  for (int i = thread; keep && q.best_row != nullptr && i < t.rows; i += threads) {
    const std::int64_t at = q.at_row(t.first_row + i, t.group);
    store_global(q.best_row + at, load_global<float>(q.row_factor + at));
  }
  if (thread != 0) return;
  store_global(q.stopped + t.tile, stop ? 1u : 0u);
  if (keep) store_global(q.imbalance + t.tile, imbalance);
  if (!first) return;
  store_global(q.target + t.tile, target);
  store_global(q.first_imbalance + t.tile, imbalance);
}

template <int = 0>
SINQ_CUDA_KERNEL judge_kernel(const Quantization q) {
  judge_block(q);
}

/// The inverses of what the balancing leaves.
SINQ_CUDA_DEVICE void invert_columns_block(const Quantization& q) {
  const std::int64_t at = global_thread();
  if (at < q.w.panels * q.padded_cols()) store_global(q.col_inverse + at, inverse(load_global<float>(q.best_col + at)));
}

template <int = 0>
SINQ_CUDA_KERNEL invert_columns_kernel(const Quantization q) {
  invert_columns_block(q);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
