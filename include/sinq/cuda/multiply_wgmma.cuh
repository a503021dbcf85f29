// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stream.cuh"
#include "wgmma.cuh"

// The product of many tokens on Hopper. Like multiply.cuh it reads the packed weights and leaves no copy of them;
// unlike it, it multiplies by weights that are rounded to the type of the activations, which stay as they are: what
// dequantizing and a library would compute.
//
//   block        1, 2 or 4 warpgroups of 64 rows  x  a slice of the columns  x  128 tokens
//   warp         walks along its strip as in multiply.cuh, 64 columns after 64 columns:
//
//     global --cp.async--> ring of units --> words --> weights (operand A, registers) --+
//     global --cp.async--> ring of four stages, swizzled: activations (operand B) ------+--> wgmma --> total
//
//     barrier           the stage's activations are there, the stage before last is free
//     wgmma columns  0-31 of the unit     while the tensor cores work on what was started before,
//     weights columns 32-63 of the unit   the warps make the next operands
//     wgmma columns 32-63
//     weights columns  0-31 of the next unit
//
// Scales, zeros and column scales go into the weights, in float, before they are rounded once. So there is one sum to
// keep, not one per group, and activations of half or bfloat16 need no pass through registers: no maxima, no sums, and
// blocks of rows do not care about panels. What it costs per weight does not depend on the tokens, of which 128 share
// it.
//
// 256 rows x 128 tokens rather than 128 x 256, although that halves the weights made per product: a unit then brings
// 16 KB of activations and 9 KB of weights into a multiprocessor per 1024 cycles of tensor cores instead of 32 + 5, and
// what the L2 cache delivers to all 132 (some 5.5e12 bytes per second) is 23 bytes per cycle and multiprocessor.
//
// The order of columns. The kernel order gives lane t of four the columns 4 t + {0, 1, 2, 3} of a step, an operand has
// 2 t + {0, 1} and 8 + 2 t + {0, 1}: those lie in the words of lanes t / 2 and 2 + t / 2, as their first or second
// pair. So a lane reads the words of these two and takes one pair of each, and the activations may lie as in memory.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Brings activations to the stages: 16 bytes per copy, eight copies per token and stage.
class Activations {
 public:
  SINQ_CUDA_DEVICE Activations(const Product& p, const Block& b, const WgmmaShared& s)
      : whole_cols_(p.x_aligned ? p.w.cols : 0),
        cols_(p.w.cols),
        tokens_(static_cast<unsigned>(b.tokens)),
        sources_(s.sources),
        to_(s.x + swizzled(thread_index() / 8, thread_index() % 8)),
        piece_(8 * static_cast<int>(thread_index() % 8)) {}

  /// Notes where the rows begin, and clears what no token ever fills. To be followed by a barrier.
  SINQ_CUDA_DEVICE void start(const Product& p, const Block& b, const WgmmaShared& s) const {
    for (unsigned token = thread_index(); token < tokens_; token += thread_count()) {
      std::int64_t from = b.first_token + static_cast<int>(token);
      if (p.token_list != nullptr) from = load_global<std::int32_t>(p.token_list + from);
      const auto row = reinterpret_cast<std::uintptr_t>(static_cast<const std::uint16_t*>(p.x) + from * p.x_stride);
      store_shared(sources_ + 8 * token,
                   Words2{{static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32)}});
    }
    const unsigned missing = 8 * (kWgmmaTokens - tokens_);
    for (unsigned k = thread_index(); k < kWgmmaStages * missing; k += thread_count())
      store_shared(s.x + kWgmmaStageBytes * (k / missing) + 128 * tokens_ + 16 * (k % missing), Words4{});
  }

  /// Starts to bring the activations of a unit. Columns behind the last one become 0.
  SINQ_CUDA_DEVICE void bring(int unit, int stage) const {
    const std::uint32_t first = to_ + static_cast<std::uint32_t>(stage * kWgmmaStageBytes);
    const unsigned rows = thread_count() / 8;
    const int col = unit * kUnitCols + piece_;
    if ((unit + 1) * kUnitCols <= whole_cols_) {
      SINQ_CUDA_NO_UNROLL
      for (unsigned token = thread_index() / 8, to = first; token < tokens_; token += rows, to += 128 * rows)
        copy_async(to, row(token) + col);
    } else {
      SINQ_CUDA_NO_UNROLL
      for (unsigned token = thread_index() / 8, to = first; token < tokens_; token += rows, to += 128 * rows) {
        Words4 words{};
        SINQ_CUDA_UNROLL
        for (int i = 0; i < 8; ++i)
          if (col + i < cols_)
            words.w[i / 2] |= static_cast<std::uint32_t>(load_global<std::uint16_t>(row(token) + col + i))
                              << (16 * (i % 2));
        store_shared(to, words);
      }
    }
  }

 private:
  [[nodiscard]] SINQ_CUDA_DEVICE const std::uint16_t* row(unsigned token) const {
    const auto words = load_shared<Words2>(sources_ + 8 * token);
    return reinterpret_cast<const std::uint16_t*>(std::uint64_t{words.w[1]} << 32 | words.w[0]);
  }

  int whole_cols_;  // that can be copied 16 bytes at a time
  int cols_;
  unsigned tokens_;
  std::uint32_t sources_;
  std::uint32_t to_;  // where this thread's first piece lies in the first stage
  int piece_;         // its columns: this and seven more
};

/// The column scales of units [first, first + units) of a panel as floats, those of a lane's four columns of a step
/// together; ones if there are none.
SINQ_CUDA_DEVICE void decode_columns(const Weights& w, const Block& b, int first, int units, std::uint32_t to) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  SINQ_CUDA_NO_UNROLL
  for (int col = 4 * lane; col < units * kUnitCols; col += 4 * kLanes) {
    float v[4] = {1, 1, 1, 1};
    if (w.has_col_scale)
      load_numbers(w.col_number, b.col_scale, (std::int64_t{b.panel} * w.units + first) * kUnitCols + col, 4, true, v);
    const auto at =
        to + static_cast<std::uint32_t>(4 * (col / kStepCols * kStepCols + col % 8 * 2 + col % kStepCols / 8 * 2));
    store_shared(at, Words2{{as_bits(v[0]), as_bits(v[1])}});
    store_shared(at + 16, Words2{{as_bits(v[2]), as_bits(v[3])}});
  }
}

/// Makes one of each step's two column pairs the first one: pair 2 step is what pair 2 step + odd was, the others mean
/// nothing any more.
template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE void choose_pairs(std::uint32_t (&words)[kBits], bool odd) {
  if constexpr (kPaired && kBits == 3) return;  // no shift brings one index to the place of another
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kBits; ++k) {
    if constexpr (kPaired || kBits < 8)
      words[k] >>= odd ? (kPaired ? 4 * kBits : main_bits(kBits)) : 0;
    else if (k % 2 == 0)
      words[k] = odd ? words[k + 1] : words[k];
  }
}

/// Makes the weights of a lane, as operand A has them, of 32 columns at a time.
template <int kBits, bool kPaired, Number kNumber>
class Dequantizer {
 public:
  /// `factors`, `columns`: where those of a round lie.
  SINQ_CUDA_DEVICE Dequantizer(const Weights& w, std::uint32_t table, std::uint32_t factors, std::uint32_t columns)
      : table_(table + 4 * (thread_index() % kLanes)),
        factors_(factors + 16 * (thread_index() % kLanes / 4)),
        columns_(columns + 16 * (thread_index() % 4)),
        period_log_(w.period == 64   ? 6
                    : w.period == 32 ? 5
                                     : 4) {}

  /// Columns 32 kHalf ... 32 kHalf + 31 of the unit at `unit_at`, the `in_round`-th of its round.
  template <int kHalf>
  SINQ_CUDA_DEVICE void make(std::uint32_t unit_at, int in_round, std::uint32_t (&a)[2][4]) const {
    const int lane = static_cast<int>(thread_index()) % kLanes;
    const bool odd = lane % 2 != 0;
    std::uint32_t words[2][kBits];
    SINQ_CUDA_UNROLL
    for (int k = 0; k < 2; ++k) {
      load_words<kBits>(unit_at, lane / 4 * 4 + lane % 4 / 2 + 2 * k, words[k]);
      choose_pairs<kBits, kPaired>(words[k], odd);
    }
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const auto col = static_cast<std::uint32_t>(in_round * kUnitCols + 32 * kHalf + kStepCols * i);
      const auto factors = load_shared<Words4>(factors_ + 4 * kLanes * (col >> period_log_));
      const auto columns = load_shared<Words4>(columns_ + 4 * col);
      SINQ_CUDA_UNROLL
      for (int k = 0; k < 4; ++k) {
        const int upper = k % 2;
        float levels[2];
        load_levels(words[k / 2], 2 * kHalf + i, upper, odd, levels);
        const float scale = as_float(factors.w[2 * upper]), bias = as_float(factors.w[2 * upper + 1]);
        float v[2];
        SINQ_CUDA_UNROLL
        for (int n = 0; n < 2; ++n) v[n] = multiply(fused(levels[n], scale, bias), as_float(columns.w[k / 2 * 2 + n]));
        a[i][k] = kNumber == Number::f16 ? to_halves(v[0], v[1]) : to_bfloats(v[0], v[1]);
      }
    }
  }

 private:
  /// Direct codes: times 2^-24, which the scale makes up for.
  SINQ_CUDA_DEVICE void load_levels(const std::uint32_t (&words)[kBits], int step, int upper, bool odd,
                                    float (&levels)[2]) const {
    const int pair = 2 * step, shift = kPaired ? 0 : operand_shift(kBits, pair);
    std::uint32_t both = 0;
    if constexpr (kPaired) {
      std::uint32_t index = pair_index<kBits>(words, pair, upper);
      if (kBits == 3 && odd) index = pair_index<kBits>(words, pair + 1, upper);
      both = load_shared<std::uint32_t>(table_ + 4 * kLanes * index);
    } else {
      both = direct_operand<kBits>(words, pair, upper) >> shift;
    }
    SINQ_CUDA_UNROLL
    for (int n = 0; n < 2; ++n) levels[n] = from_half(static_cast<std::uint16_t>(both >> (16 * n)));
  }

  std::uint32_t table_;
  std::uint32_t factors_;
  std::uint32_t columns_;
  int period_log_;
};

/// Shared memory of a warp for its results as floats, 16 rows per token.
inline constexpr std::uint32_t kScratchBytes = 4 * kStripRows * kWgmmaTokens;

/// A lane has rows g and g + 8 of many tokens. Through shared memory it gets eight rows in a line, of a few.
SINQ_CUDA_DEVICE void write_results(const Product& p, const Block& b, const float (&total)[kWgmmaTokens / 2],
                                    std::uint32_t scratch) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  // Four rows of a token together, in an order in which most lanes fall into different banks.
  const auto place = [&](int token, int row) {
    return scratch + static_cast<std::uint32_t>(4 * (kStripRows * token + ((row / 4) ^ (token / 2 % 4)) * 4 + row % 4));
  };
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kWgmmaTokens / 2; ++k)
    store_shared(place(k / 4 * 8 + lane % 4 * 2 + k % 2, lane / 4 + k / 2 % 2 * 8), total[k]);
  warp_barrier();
  const int row = lane % 2 * 8;
  const int count = b.rows - row < 8 ? b.rows - row : 8;
  if (count <= 0) return;
  const std::int64_t first_row = b.first_row + row;
  SINQ_CUDA_NO_UNROLL
  for (int token = lane / 2; token < b.tokens; token += kLanes / 2) {
    float v[8];
    SINQ_CUDA_UNROLL
    for (int four = 0; four < 2; ++four) {
      const auto words = load_shared<Words4>(place(token, row + 4 * four));
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) v[4 * four + i] = as_float(words.w[i]);
    }
    const std::int64_t at = b.first_token + token;
    if (p.slices > 1) {
      store_numbers(Number::f32, p.partial, (block_index().y * std::int64_t{p.tokens} + at) * p.rows + first_row, count,
                    v);
      continue;
    }
    if (p.bias != nullptr) {
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 8; ++i) v[i] += i < count ? load_number(p.y_number, p.bias, first_row + i) : 0;
    }
    store_numbers(p.y_number, p.y, at * p.y_stride + first_row, count, v);
  }
}

template <int kBits, bool kPaired, Number kNumber>
SINQ_CUDA_DEVICE void multiply_wgmma_block(const Product& p) {
  constexpr int kRoundUnits = round_units(kBits);
  const Block b = locate<true>(p, kWgmmaTokens);
  if (b.tokens == 0) return;  // more blocks than the experts' tokens need
  const int warp = static_cast<int>(thread_index()) / kLanes;
  const WgmmaShared s = wgmma_shared(p.w, p.aux_ring, static_cast<int>(thread_count()) / kLanes).at(shared_base());
  const std::uint32_t ring = s.rings + static_cast<std::uint32_t>(warp) * s.ring_bytes;

  // One group of copies per unit; the first holds the first rounds of weights as well.
  Stream<kBits, kWgmmaRounds> stream(p, b, ring);
  stream.start();
  SINQ_CUDA_UNROLL
  for (int round = 0; round < kWgmmaRounds; ++round) {
    const int left = b.end_unit - b.first_unit - round * kRoundUnits;
    if (left > 0) stream.issue(round, left < kRoundUnits ? left : kRoundUnits);
  }
  const Activations activations(p, b, s);
  activations.start(p, b, s);
  if constexpr (kPaired) fill_table<kBits>(p, b, s.table);
  barrier();
  constexpr int kAhead = kWgmmaStages - 2;
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kAhead; ++k) {
    if (b.first_unit + k < b.end_unit) activations.bring(b.first_unit + k, k);
    copy_commit();
  }

  // The reader starts afresh with every round: its state would cost the registers that the loop needs.
  const std::uint32_t factors = stream.records() + stream.mask() + 1;
  const Dequantizer<kBits, kPaired, kNumber> dequantizer(p.w, s.table, factors, ring + s.columns);
  const auto decode_round = [&](int first) {
    const int left = b.end_unit - first, units = left < kRoundUnits ? left : kRoundUnits;
    RecordReader<kBits, true> records(p.w, first * kUnitCols, stream.records(), stream.mask(), stream.aux());
    records.decode_round(first * kUnitCols, (first + units) * kUnitCols);
    decode_columns(p.w, b, first, units, ring + s.columns);
    warp_barrier();  // all of it is there
  };
  copy_wait<kAhead - 1>();
  warp_barrier();
  decode_round(b.first_unit);
  std::uint32_t a[2][2][4];  // of the two halves of a unit
  dequantizer.template make<0>(stream.slot(0), 0, a[0]);

  float total[kWgmmaTokens / 2] = {};
  std::uint32_t unit_at = stream.slot(0);
  int in_round = 0, slot = 0, stage = 0;
  SINQ_CUDA_NO_UNROLL
  for (int unit = b.first_unit; unit < b.end_unit; ++unit) {
    copy_wait<kAhead - 1>();
    async_proxy_fence();
    barrier();  // this stage is there, and everybody has waited for the products of the one before last
    if (unit + kAhead < b.end_unit) activations.bring(unit + kAhead, (stage + kAhead) % kWgmmaStages);
    const std::uint64_t x = describe_swizzled(s.x + static_cast<std::uint32_t>(stage * kWgmmaStageBytes));
    wgmma_fence();
    wgmma<kNumber>(total, a[0][0], x);
    wgmma<kNumber>(total, a[0][1], x + 2);
    wgmma_commit();
    wgmma_wait<1>();  // a[1] is free
    dequantizer.template make<1>(unit_at, in_round, a[1]);
    wgmma_fence();
    wgmma<kNumber>(total, a[1][0], x + 4);
    wgmma<kNumber>(total, a[1][1], x + 6);
    wgmma_commit();
    wgmma_wait<1>();  // a[0] is free
    if (unit + 1 < b.end_unit) {
      unit_at += unit_bytes(kBits);
      if (++in_round == kRoundUnits) {
        warp_barrier();  // all lanes have read this round
        const int ahead = b.end_unit - (unit + 1) - kRoundUnits;
        if (ahead > 0) stream.issue(slot, ahead < kRoundUnits ? ahead : kRoundUnits);
        in_round = 0;
        slot = (slot + 1) % kWgmmaRounds;
        unit_at = stream.slot(slot);
        decode_round(unit + 1);
      }
      dequantizer.template make<0>(unit_at, in_round, a[0]);
    }
    copy_commit();
    stage = (stage + 1) % kWgmmaStages;
  }
  wgmma_finish(total);

  copy_wait<0>();
  barrier();  // nobody needs the stages and rings any more
  write_results(p, b, total, s.x + static_cast<std::uint32_t>(warp) * kScratchBytes);
}

template <int kBits, bool kPaired, Number kNumber>
SINQ_CUDA_KERNEL
#if defined(__CUDACC__)
__launch_bounds__(4 * kWarpgroup, 1)
#endif
    multiply_wgmma_kernel(const Product p) {
#if SINQ_CUDA_WGMMA
  multiply_wgmma_block<kBits, kPaired, kNumber>(p);
#else
  __trap();  // no plan chooses it where this code runs
#endif
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
