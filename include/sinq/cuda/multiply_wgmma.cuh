// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stream.cuh"
#include "wgmma.cuh"

// The product of many tokens on Hopper. Like multiply.cuh it reads the packed weights and leaves no copy of them;
// unlike it, it multiplies by weights that are rounded to the type of the activations, which stay as they are: what
// dequantizing and a library would compute.
//
//   block        1 or 2 warpgroups of 64 rows  x  a slice of the columns  x  256 tokens (or 128)
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
// blocks of rows do not care about panels. What a weight costs does not depend on the tokens, of which 256 share it.
//
// 128 rows x 256 tokens, since the instructions that make weights are what there is least of: 256 rows x 128 tokens
// need half the bandwidth for activations, 25 KB instead of 37 per 1024 cycles of the tensor cores, but twice the
// instructions, more than a multiprocessor issues in that time (bench/results/cuda-sass.md).
//
// The order of columns. The kernel order gives lane t of four the columns 4 t + {0, 1, 2, 3} of a step, an operand has
// 2 t + {0, 1} and 8 + 2 t + {0, 1}: those lie in the words of lanes t / 2 and 2 + t / 2, as their first or second
// pair. So a lane reads the words of these two and takes one pair of each, and the activations may lie as in memory.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Brings activations to the stages: 16 bytes per copy, eight copies per token and stage.
template <int kTokens>
class Activations {
 public:
  SINQ_CUDA_DEVICE Activations(const Product& p, const WgmmaShared& s)
      : whole_cols_(p.x_aligned ? p.w.cols : 0),
        cols_(p.w.cols),
        col_(8 * static_cast<int>(thread_index() % 8)),
        source_(s.sources + 8 * (thread_index() / 8)),
        to_(s.x + swizzled(thread_index() / 8, thread_index() % 8)) {}

  /// Notes where the rows of x begin. Columns of operand B without a token repeat the last one, and nobody looks at
  /// their results. To be followed by a barrier.
  SINQ_CUDA_DEVICE static void note_rows(const Product& p, const Block& b, const WgmmaShared& s) {
    for (unsigned k = thread_index(); k < kTokens; k += thread_count()) {
      std::int64_t from = b.first_token + (static_cast<int>(k) < b.tokens ? static_cast<int>(k) : b.tokens - 1);
      if (p.token_list != nullptr) from = load_global<std::int32_t>(p.token_list + from);
      const auto row = reinterpret_cast<std::uintptr_t>(static_cast<const std::uint16_t*>(p.x) + from * p.x_stride);
      store_shared(s.sources + 8 * k, Words2{{static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32)}});
    }
  }

  /// Starts to bring the activations of a unit. Columns behind the last one become 0.
  SINQ_CUDA_DEVICE void bring(int unit, int stage) const {
    const std::uint32_t to = to_ + static_cast<std::uint32_t>(stage * wgmma_stage_bytes(kTokens));
    const int col = unit * kUnitCols + col_;
    if ((unit + 1) * kUnitCols > whole_cols_)
      load_rows(col, to);
    else if (thread_count() == 2 * kWarpgroup)
      copy_rows<2 * kWarpgroup / 8>(col, to);
    else
      copy_rows<kWarpgroup / 8>(col, to);
  }

 private:
  [[nodiscard]] SINQ_CUDA_DEVICE const std::uint16_t* row(unsigned token) const {
    const auto words = load_shared<Words2>(source_ + 8 * token);
    return reinterpret_cast<const std::uint16_t*>(std::uint64_t{words.w[1]} << 32 | words.w[0]);
  }

  /// The block's threads copy kRows rows at once.
  template <int kRows>
  SINQ_CUDA_DEVICE void copy_rows(int col, std::uint32_t to) const {
    SINQ_CUDA_UNROLL
    for (unsigned k = 0; k < kTokens; k += kRows) copy_async(to + 128 * k, row(k) + col);
  }
  SINQ_CUDA_DEVICE void load_rows(int col, std::uint32_t to) const {
    SINQ_CUDA_NO_UNROLL
    for (unsigned k = 0; k < kTokens; k += thread_count() / 8) {
      const std::uint16_t* const from = row(k) + col;
      std::uint32_t halves[8];
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 8; ++i) halves[i] = col + i < cols_ ? load_global<std::uint16_t>(from + i) : 0;
      Words4 words;
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) words.w[i] = halves[2 * i] | halves[2 * i + 1] << 16;
      store_shared(to + 128 * k, words);
    }
  }

  int whole_cols_;        // that can be copied 16 bytes at a time
  int cols_;              //
  int col_;               // the first of this thread's eight columns
  std::uint32_t source_;  // of its first token
  std::uint32_t to_;      // where its first piece lies in the first stage
};

/// The column scales of units [first, first + units) of a panel as floats, those of a lane's four columns of a step
/// together; ones if there are none.
template <int kRoundUnits>
SINQ_CUDA_DEVICE void decode_columns(const Weights& w, const Block& b, int first, int units, std::uint32_t to) {
  constexpr int kFours = kRoundUnits * kUnitCols / 4 / kLanes;  // per lane
  const int first_four = static_cast<int>(thread_index()) % kLanes;
  float v[kFours][4];
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kFours; ++k) {
    const int col = 4 * (first_four + k * kLanes);
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 4; ++i) v[k][i] = 1;
    if (w.has_col_scale && col < units * kUnitCols)
      load_numbers(w.col_number, b.col_scale, (std::int64_t{b.panel} * w.units + first) * kUnitCols + col, 4, true,
                   v[k]);
  }
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kFours; ++k) {
    const int col = 4 * (first_four + k * kLanes);
    const int place = col / kStepCols * kStepCols + col % 8 * 2 + col % kStepCols / 8 * 2;
    store_shared(to + 4 * static_cast<std::uint32_t>(place), Words2{{as_bits(v[k][0]), as_bits(v[k][1])}});
    store_shared(to + 4 * static_cast<std::uint32_t>(place + 4), Words2{{as_bits(v[k][2]), as_bits(v[k][3])}});
  }
}

/// Makes one of each step's two column pairs the first one: pair 2 step is what pair 2 step + odd was, the others mean
/// nothing any more. (Indices of 6 bits are looked for where they are: no shift brings them to the places of others.)
template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE void choose_pairs(std::uint32_t (&words)[kBits], bool odd) {
  if constexpr (kBits == 8) {
    SINQ_CUDA_UNROLL
    for (int k = 0; k < kBits; k += 2) words[k] = odd ? words[k + 1] : words[k];
  } else if constexpr (!kPaired || kBits != 3) {
    const int shift = odd ? (kPaired ? 4 * kBits : main_bits(kBits)) : 0;
    SINQ_CUDA_UNROLL
    for (int k = 0; k < kBits; ++k) words[k] = rotated(words[k], shift);
  }
}

/// Makes the weights of a lane, as operand A has them, of 32 columns at a time.
template <int kBits, bool kPaired, Number kNumber>
class Dequantizer {
 public:
  SINQ_CUDA_DEVICE Dequantizer(const Weights& w, std::uint32_t table)
      : table_(table),
        lane_(static_cast<int>(thread_index()) % kLanes),
        periods_(static_cast<std::uint32_t>(kUnitCols / w.period)) {}

  /// Where codes, factors and column scales of a round lie.
  SINQ_CUDA_DEVICE void start_round(std::uint32_t units, std::uint32_t factors, std::uint32_t columns) {
    unit_ = units;
    factors_ = factors + static_cast<std::uint32_t>(16 * (lane_ / 4));
    columns_ = columns + static_cast<std::uint32_t>(16 * (lane_ % 4));
  }
  SINQ_CUDA_DEVICE void next_unit() {
    unit_ += unit_bytes(kBits);
    factors_ += kFactorBytes * periods_;
    columns_ += 4 * kUnitCols;
  }

  /// Columns 32 kHalf ... 32 kHalf + 31 of the unit.
  template <int kHalf>
  SINQ_CUDA_DEVICE void make(std::uint32_t (&a)[2][4]) const {
    const bool odd = lane_ % 2 != 0;
    std::uint32_t words[2][kBits];
    SINQ_CUDA_UNROLL
    for (int k = 0; k < 2; ++k) {
      load_words<kBits>(unit_, lane_ / 4 * 4 + lane_ % 4 / 2 + 2 * k, words[k]);
      choose_pairs<kBits, kPaired>(words[k], odd);
    }
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int step = 2 * kHalf + i;
      const auto factors =
          load_shared<Words4>(factors_ + kFactorBytes * (static_cast<std::uint32_t>(step) * periods_ / 4));
      const auto columns = load_shared<Words4>(columns_ + static_cast<std::uint32_t>(4 * kStepCols * step));
      SINQ_CUDA_UNROLL
      for (int k = 0; k < 2; ++k) {
        const Words2 rows = load_rows(words[k], step, odd);
        SINQ_CUDA_UNROLL
        for (int upper = 0; upper < 2; ++upper) {
          const float scale = as_float(factors.w[2 * upper]), bias = as_float(factors.w[2 * upper + 1]);
          float v[2];
          SINQ_CUDA_UNROLL
          for (int n = 0; n < 2; ++n)
            v[n] = multiply(fused(from_half(static_cast<std::uint16_t>(rows.w[upper] >> (16 * n))), scale, bias),
                            as_float(columns.w[2 * k + n]));
          a[i][2 * k + upper] = kNumber == Number::f16 ? to_halves(v[0], v[1]) : to_bfloats(v[0], v[1]);
        }
      }
    }
  }

 private:
  /// The levels of the lane's column pair of a step, rows g and g + 8. Direct codes: times 2^-24, which the scale makes
  /// up for.
  [[nodiscard]] SINQ_CUDA_DEVICE Words2 load_rows(const std::uint32_t (&words)[kBits], int step, bool odd) const {
    const int pair = 2 * step;
    if constexpr (kPaired) {
      return load_levels<kBits>(words, pair, table_, lane_, kBits == 3 && odd);
    } else {
      const int shift = operand_shift(kBits, pair);
      return {{direct_operand<kBits>(words, pair, 0) >> shift, direct_operand<kBits>(words, pair, 1) >> shift}};
    }
  }

  static constexpr std::uint32_t kFactorBytes = 4 * kLanes;  // of a period: two floats of 16 rows

  std::uint32_t table_;
  int lane_;
  std::uint32_t periods_;  // per unit
  std::uint32_t unit_ = 0;
  std::uint32_t factors_ = 0;
  std::uint32_t columns_ = 0;
};

/// A lane has rows g and g + 8 of many tokens. Through shared memory it gets eight rows in a line, of a few.
template <int kTokens>
SINQ_CUDA_DEVICE void write_results(const Product& p, const Block& b, const float (&total)[kTokens / 2],
                                    std::uint32_t stages) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  // A warp's part of the stages: floats, 16 per token.
  const std::uint32_t scratch = stages + 4 * kStripRows * kTokens * (thread_index() / kLanes);
  // Four rows of a token together, in an order in which most lanes fall into different banks.
  const auto place = [&](int token, int row) {
    return scratch + static_cast<std::uint32_t>(4 * (kStripRows * token + ((row / 4) ^ (token / 2 % 4)) * 4 + row % 4));
  };
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kTokens / 2; ++k)
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
      for (int i = 0; i < 8; ++i) v[i] += i < count ? load_bias(p, b.expert, first_row + i) : 0;
    }
    store_numbers(p.y_number, p.y, at * p.y_stride + first_row, count, v);
  }
}

template <int kBits, bool kPaired, Number kNumber, int kTokens>
SINQ_CUDA_DEVICE void multiply_wgmma_block(const Product& p) {
  constexpr Rounds kRounds = wgmma_rounds_of(kBits);
  const Block b = locate<true>(p, kTokens);
  if (b.tokens == 0) return;  // more blocks than the experts' tokens need
  const int warp = static_cast<int>(thread_index()) / kLanes;
  const WgmmaShared s =
      wgmma_shared(p.w, kTokens, p.aux_ring, static_cast<int>(thread_count()) / kLanes).at(shared_base());
  const std::uint32_t ring = s.rings + static_cast<std::uint32_t>(warp) * s.ring_bytes;

  // One group of copies per unit; the first holds the first rounds of weights as well.
  Stream<kBits, kRounds> stream(p.w, p.aux_ring, b, ring);
  stream.start();
  SINQ_CUDA_UNROLL
  for (int round = 0; round < kRounds.stages; ++round) {
    const int left = b.end_unit - b.first_unit - round * kRounds.units;
    if (left > 0) stream.issue(round, left < kRounds.units ? left : kRounds.units);
  }
  const Activations<kTokens> activations(p, s);
  activations.note_rows(p, b, s);
  if constexpr (kPaired) fill_table<kBits>(p, b, s.table);
  barrier();
  constexpr int kAhead = kWgmmaStages - 2;
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kAhead; ++k) {
    if (b.first_unit + k < b.end_unit) activations.bring(b.first_unit + k, k);
    copy_commit();
  }

  RecordCursor cursor = RecordReader<kRounds.units, true>::start(p.w, b.first_unit * kUnitCols);
  RecordReader<kRounds.units, true> records(p.w, cursor, stream.records(), stream.mask(), stream.aux());
  Dequantizer<kBits, kPaired, kNumber> dequantizer(p.w, s.table);
  const auto start_round = [&](int first, int slot) {
    const int left = b.end_unit - first, units = left < kRounds.units ? left : kRounds.units;
    decode_columns<kRounds.units>(p.w, b, first, units, ring + s.columns);
    records.decode_round(first * kUnitCols, (first + units) * kUnitCols);
    dequantizer.start_round(stream.slot(slot), records.factors(), ring + s.columns);
    warp_barrier();  // all of it is there
  };
  copy_wait<kAhead - 1>();
  warp_barrier();
  start_round(b.first_unit, 0);
  std::uint32_t a[2][2][4];  // of the two halves of a unit
  dequantizer.template make<0>(a[0]);

  float total[kTokens / 2] = {};
  const std::uint64_t first_stage = describe_swizzled(s.x);
  int in_round = 0, slot = 0, stage = 0;
  SINQ_CUDA_NO_UNROLL
  for (int unit = b.first_unit; unit < b.end_unit; ++unit) {
    copy_wait<kAhead - 1>();
    async_proxy_fence();
    barrier();  // this stage is there, and everybody has waited for the products of the one before last
    if (unit + kAhead < b.end_unit) activations.bring(unit + kAhead, (stage + kAhead) % kWgmmaStages);
    const std::uint64_t x = first_stage + static_cast<std::uint64_t>(stage * (wgmma_stage_bytes(kTokens) >> 4));
    wgmma_fence();
    wgmma<kNumber>(total, a[0][0], x);
    wgmma<kNumber>(total, a[0][1], x + 2);
    wgmma_commit();
    wgmma_wait<1>();  // a[1] is free
    dequantizer.template make<1>(a[1]);
    wgmma_fence();
    wgmma<kNumber>(total, a[1][0], x + 4);
    wgmma<kNumber>(total, a[1][1], x + 6);
    wgmma_commit();
    wgmma_wait<1>();  // a[0] is free
    if (unit + 1 < b.end_unit) {
      dequantizer.next_unit();
      if (++in_round == kRounds.units) {
        warp_barrier();  // all lanes have read this round
        const int ahead = b.end_unit - (unit + 1) - kRounds.units;
        if (ahead > 0) stream.issue(slot, ahead < kRounds.units ? ahead : kRounds.units);
        in_round = 0;
        slot = (slot + 1) % kRounds.stages;
        start_round(unit + 1, slot);
      }
      dequantizer.template make<0>(a[0]);
    }
    copy_commit();
    stage = (stage + 1) % kWgmmaStages;
  }
  wgmma_finish(total);

  copy_wait<0>();
  barrier();  // nobody needs the stages and rings any more
  write_results<kTokens>(p, b, total, s.x);
}

template <int kBits, bool kPaired, Number kNumber, int kTokens>
SINQ_CUDA_KERNEL
#if defined(__CUDACC__)
__launch_bounds__(2 * kWarpgroup, 1)
#endif
    multiply_wgmma_kernel(const Product p) {
#if SINQ_CUDA_WGMMA
  multiply_wgmma_block<kBits, kPaired, kNumber, kTokens>(p);
#else
  __trap();  // no plan chooses it where this code runs
#endif
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
