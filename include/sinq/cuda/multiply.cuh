// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stream.cuh"

// The product, for any number of tokens: one kernel, on the tensor cores from the first token on.
//
//   block   up to 8 warps, each on one strip or on several in turn, all of one panel  x  a slice of the columns
//           x  up to 64 operand columns
//   warp    walks along its strip, in rounds of two to eight units of 16 rows x 64 columns:
//
//     global --cp.async--> ring of units in shared memory --> words --> operands A (decode.cuh)
//     records (scales, zeros) the same way                                  |
//     activations: staged once per chunk for the whole block --> operands B |--> mma --> part
//                                                                           at the end of a group (or of 64 columns):
//                                        total += scale (part - zero sum of the activations);  part = 0
//
// Why tensor cores even for one token: with 4-bit codes 4.8 TB/s are 9e12 weights/s, which leaves an H200 3.3
// instructions per weight and lane. Conversion to float and a multiply-add are already 3; a mask per two weights and
// one mma per eight are 0.75. The seven columns of B that one token leaves idle cost nothing, which is why 1 to 8
// tokens need no instantiations of their own.
//
// What tokens do cost is staging them, in every block again: a token takes as many instructions as a tenth of the
// block's weights. So with several tokens a warp multiplies several strips in turn (plan.hpp).
//
// Operand B. Activation times column scale is computed in float; per token a power of two brings the largest of the
// slice to [2^13, 2^14), and the result becomes one half, or two (`pieces`) in neighbouring columns of B, so that their
// results meet in one lane: about 11 bits of an activation, or 22. That serves half, bfloat16 and float activations
// with one type of operand, without overflow.
//
// What the tensor core loses. It lines up the products of 8 or 16 columns by the exponents that their operands are
// written with, and cuts off what lies 24 bits below the largest (25 on Hopper and later; model::fused_sum says who
// found that out). Codes are subnormal halves, written with 2^-14 where a 1 is 2^-24, so ten bits earlier than their
// size would have it: up to 2^-14 of the largest activation of the 16 columns times a step of the code, per column.
// Little as that is beside the 2^-11 of one half per activation, a second one would be lost in it.
//   One half     the one nearest to the activation: what is lost is that, and up to 2^-11 of each activation.
//   Two halves   the first is the whole number nearest to the activation, then the nearest half. So all products of
//                first halves, and their sums, are whole multiples of what is kept, and nothing of them is cut off. The
//                second is the half nearest to the rest, which is at most 2^-11 of the activation and 1/2. In all up to
//                2^-22 of each activation or 2^-26 of the token's largest, and 2^-25 of the largest of the 16 columns
//                (or 2^-28 of the token's) times a step of the code; for tokens whose largest is at least 2^-97, below
//                which no power of two brings it to [2^13, 2^14).
// Levels of a table are normal halves: no more is lost of them than of any sum in float. The bounds are derived in
// tests/cuda/expect_product.hpp.
//
// Slices are added up in their order by add_slices: the same bits on every run.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// 2^-exponent for a token whose largest scaled activation has the bits `maximum`: brings it below 2^14. A sum of
/// products with 2^8 levels and 2^19 columns stays below 2^41. Clamped so that the power and its inverse are normal
/// numbers.
SINQ_CUDA_DEVICE int token_exponent(std::uint32_t maximum) {
  const int exponent = static_cast<int>(maximum >> 23) - 127 - 13;
  return exponent < -110 ? -110 : exponent;
}
SINQ_CUDA_DEVICE float power_of_two(int exponent) {
  return as_float(static_cast<std::uint32_t>(127 + exponent) << 23);
}

// --- activations ----------------------------------------------------------------------------------------------------

/// Which activations a thread takes: a warp takes a token and then others, lane by lane four columns; where there are
/// fewer tokens than warps, several share one.
struct TokenWalk {
  int first_token;
  int tokens;      // at once
  int first_four;  // this lane's
  int fours;       // at once

  SINQ_CUDA_DEVICE explicit TokenWalk(int all_tokens) {
    const int warps = static_cast<int>(thread_count()) / kLanes, warp = static_cast<int>(thread_index()) / kLanes;
    const int per_token = all_tokens < warps ? warps / all_tokens : 1;
    tokens = warps / per_token;
    first_token = warp / per_token;
    first_four = (warp - first_token * per_token) * kLanes + static_cast<int>(thread_index()) % kLanes;
    fours = per_token * kLanes;
  }
};

/// The activations of a token of the block.
SINQ_CUDA_DEVICE const void* row_of_x(const Product& p, const Block& b, int token) {
  std::int64_t from = b.first_token + token;
  if (p.token_list != nullptr) from = load_global<std::int32_t>(p.token_list + from);
  return static_cast<const std::uint8_t*>(p.x) + from * p.x_stride * size_of(p.x_number);
}

/// x times col_scale of four columns; `col_scale` is the panel's.
SINQ_CUDA_DEVICE void load_scaled(const Product& p, const void* x, const void* col_scale, int col, float (&v)[4]) {
  load_numbers(p.x_number, x, col, p.w.cols - col, p.x_aligned, v);
  if (!p.w.has_col_scale) return;
  float scale[4];
  load_numbers(p.w.col_number, col_scale, col, 4, true, scale);
  SINQ_CUDA_UNROLL
  for (int i = 0; i < 4; ++i) v[i] = multiply(v[i], scale[i]);
}
SINQ_CUDA_DEVICE const void* col_scale_of(const Product& p, const Block& b) {
  return b.col_scale + std::int64_t{b.panel} * p.w.units * kUnitCols * size_of(p.w.col_number);
}

/// Largest magnitude per token over the columns of the slice. Ends without a barrier.
SINQ_CUDA_DEVICE void find_maxima(const Product& p, const Block& b, const SharedPlan& s) {
  for (unsigned k = thread_index(); k < static_cast<unsigned>(b.tokens); k += thread_count())
    store_shared(s.maxima + 4 * k, std::uint32_t{0});
  barrier();
  const TokenWalk walk(b.tokens);
  const void* const col_scale = col_scale_of(p, b);
  const int lane = static_cast<int>(thread_index()) % kLanes;
  const int end = b.end_unit * kUnitCols < p.w.cols ? b.end_unit * kUnitCols : p.w.cols;
  SINQ_CUDA_NO_UNROLL
  for (int token = walk.first_token; token < b.tokens; token += walk.tokens) {
    const void* const x = row_of_x(p, b, token);
    std::uint32_t largest = 0;
    SINQ_CUDA_NO_UNROLL
    for (int col = b.first_unit * kUnitCols + 4 * walk.first_four; col < end; col += 4 * walk.fours) {
      float v[4];
      load_scaled(p, x, col_scale, col, v);
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t magnitude = as_bits(v[i]) & 0x7fff'ffffu;
        largest = magnitude > largest ? magnitude : largest;
      }
    }
    SINQ_CUDA_UNROLL
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      const std::uint32_t other = shuffle(largest, lane ^ distance);
      largest = other > largest ? other : largest;
    }
    if (lane == 0) raise_shared(s.maxima + 4 * static_cast<std::uint32_t>(token), largest);
  }
}

/// Whether sums of activations are read: the loops of longer periods have no test for zeros (multiply_block).
SINQ_CUDA_DEVICE bool uses_sums(const Weights& w) {
  return w.has_zero() || w.period != kStepCols;
}

/// The activations of units [first, first + units) as halves, in the order of the operands, and their sums. A thread
/// takes the four columns that a lane needs of a step. Begins and ends with a barrier.
template <int kBits, bool kPaired, int kCapacity>
SINQ_CUDA_DEVICE void stage_activations(const Product& p, const Block& b, const SharedPlan& s, int first, int units) {
  const int fours = units * (kUnitCols / 4), steps = units * (kUnitCols / kStepCols);
  const int lane = static_cast<int>(thread_index()) % kLanes;
  const TokenWalk walk(b.tokens);
  const void* const col_scale = col_scale_of(p, b);
  const bool sums = uses_sums(p.w);
  barrier();
  SINQ_CUDA_NO_UNROLL
  for (int token = walk.first_token; token < b.tokens; token += walk.tokens) {
    const void* const x = row_of_x(p, b, token);
    const int up = -token_exponent(load_shared<std::uint32_t>(s.maxima + 4 * static_cast<std::uint32_t>(token)));
    // Whole warps stay in the loop, since the lanes of a step add up their sums.
    SINQ_CUDA_NO_UNROLL
    for (int four = walk.first_four; four - lane < fours; four += walk.fours) {
      const bool exists = four < fours;
      const int step = four / 4, t = four % 4;
      float v[4] = {};
      if (exists) load_scaled(p, x, col_scale, first * kUnitCols + 4 * four, v);
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i)
        v[i] = multiply(v[i], power_of_two(up - (kPaired ? 0 : operand_shift(kBits, step % 4 * 2 + i / 2))));
      // Rounds to whole numbers what it is added to and taken off again: of codes' two halves the first.
      float whole = !kPaired && p.pieces == 2 ? 0x1.8p23f : 0.0f;
      std::uint32_t column = static_cast<std::uint32_t>(token * p.pieces);
      SINQ_CUDA_NO_UNROLL
      for (int piece = 0; piece < p.pieces; ++piece, ++column, whole = 0) {
        float sum = 0;
        Words2 words;
        SINQ_CUDA_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int shift = kPaired ? 0 : operand_shift(kBits, step % 4 * 2 + i);
          const float grid = multiply(whole, power_of_two(-shift));
          const std::uint32_t two = two_shorts(Number::f16, v[2 * i] + grid - grid, v[2 * i + 1] + grid - grid);
          words.w[i] = two;
          const float low = from_half(static_cast<std::uint16_t>(two));
          const float high = from_half(static_cast<std::uint16_t>(two >> 16));
          const float undo = power_of_two(shift);
          sum += low * undo;
          sum += high * undo;
          v[2 * i] -= low;
          v[2 * i + 1] -= high;
        }
        if (sums) {
          sum += shuffle(sum, lane ^ 1);
          sum += shuffle(sum, lane ^ 2);
          if (exists && t == 0)
            store_shared(s.steps + 4 * (static_cast<std::uint32_t>(step * kCapacity) + column), sum);
        }
        // The lane's four columns of a step follow those of the step before: 64 columns as [t][step][4].
        if (exists)
          store_shared(s.x + column * s.x_stride +
                           2 * static_cast<std::uint32_t>(step / 4 * kUnitCols + kStepCols * t + step % 4 * 4),
                       words);
      }
    }
  }
  barrier();
  if (!sums) return;
  const int per_period = p.w.period / kStepCols;
  for (int k = static_cast<int>(thread_index()); k < steps / per_period * kCapacity;
       k += static_cast<int>(thread_count())) {
    const int column = k % kCapacity;
    float sum = 0;
    for (int i = 0; column < b.tokens * p.pieces && i < per_period; ++i)
      sum += load_shared<float>(s.steps +
                                4 * static_cast<std::uint32_t>((k / kCapacity * per_period + i) * kCapacity + column));
    // In the units of the product: direct codes are numbers times 2^-24.
    store_shared(s.sums + 4 * static_cast<std::uint32_t>(k), sum * (kPaired ? 1.0f : 0x1p-24f));
  }
  barrier();
}

// --- the kernel -----------------------------------------------------------------------------------------------------

/// Operand A of step `step` of a unit.
template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE void make_operand(const std::uint32_t (&words)[kBits], int step, std::uint32_t table, int lane,
                                   std::uint32_t (&a)[4]) {
  SINQ_CUDA_UNROLL
  for (int k = 0; k < 2; ++k) {
    Words2 rows;
    if constexpr (kPaired)
      rows = load_levels<kBits>(words, 2 * step + k, table, lane);
    else
      rows = {{direct_operand<kBits>(words, 2 * step + k, 0), direct_operand<kBits>(words, 2 * step + k, 1)}};
    a[2 * k] = rows.w[0];
    a[2 * k + 1] = rows.w[1];
  }
}

/// A warp's strip in turn `turn`. The first turn stages the activations; if all of the slice's fit, the next ones find
/// them. A turn knows nothing of those before: there is no register to spare for what it could.
template <int kBits, bool kPaired, int kTiles>
SINQ_CUDA_DEVICE void multiply_strip(const Product& p, int turn) {
  constexpr int kCapacity = 8 * kTiles;
  constexpr Rounds kRounds = rounds_of(kBits, kPaired, kCapacity);
  const Block b = locate<false>(p, kCapacity / p.pieces, turn);
  if (b.tokens == 0) return;  // more blocks than the experts' tokens need
  const int lane = static_cast<int>(thread_index()) % kLanes, warp = static_cast<int>(thread_index()) / kLanes;
  const int group = lane / 4, t = lane % 4;
  const int columns = b.tokens * p.pieces;
  // The layout is that of a full block, so that all blocks agree with what the plan has allocated.
  const int full = p.tokens * p.pieces < kCapacity ? p.tokens * p.pieces : kCapacity;
  const SharedPlan s =
      shared_plan(p.w, full, kCapacity, p.chunk_units, p.aux_ring, static_cast<int>(thread_count()) / kLanes)
          .at(shared_base());

  // The weights are on their way before anything else happens.
  // With few tokens no other block reads them (unless an expert has, or one tile was asked for with, more than fit).
  Stream<kBits, kRounds, kTiles == 1> stream(p.w, p.aux_ring, b,
                                             s.rings + static_cast<std::uint32_t>(warp) * s.ring_bytes);
  if (b.rows > 0) stream.fill(b);
  if (turn == 0) {
    if constexpr (kPaired) fill_table<kBits>(p, b, s.table);
    find_maxima(p, b, s);
  }
  RecordCursor cursor = RecordReader<kRounds.units, false>::start(p.w, b.first_unit * kUnitCols);
  RecordReader<kRounds.units, false> records(p.w, cursor, stream.records(), stream.mask(),
                                             b.rows > 0 ? stream.aux() : p.members[0].aux);

  float total[kTiles][4] = {};
  std::uint32_t x_at = 0, sum_at = 0;
  int left_in_chunk = 0;
  SINQ_CUDA_NO_UNROLL
  for (int unit = b.first_unit, stage = 0; unit < b.end_unit; unit += kRounds.units) {
    const int left = b.end_unit - unit, units = left < kRounds.units ? left : kRounds.units;
    if (left_in_chunk <= 0) {
      left_in_chunk = left < p.chunk_units ? left : p.chunk_units;
      if (turn == 0 || p.chunk_units < p.slice_units)
        stage_activations<kBits, kPaired, kCapacity>(p, b, s, unit, left_in_chunk);
      x_at = s.x + static_cast<std::uint32_t>(group) * s.x_stride + static_cast<std::uint32_t>(32 * t);
      sum_at = s.sums + static_cast<std::uint32_t>(8 * t);
    }
    left_in_chunk -= kRounds.units;
    if (b.rows == 0) continue;
    copy_wait<kRounds.stages - 1>();
    warp_barrier();  // each lane has waited for its own copies only
    records.decode_round(unit * kUnitCols, (unit + units) * kUnitCols);
    warp_barrier();  // the factors are there
    std::uint32_t factors_at = records.factors() + static_cast<std::uint32_t>(16 * group);
    std::uint32_t unit_at = stream.slot(stage);
    const auto add_unit = [&](int period, bool has_zero) {
      float part[kTiles][4] = {};
      std::uint32_t words[kBits];
      load_words<kBits>(unit_at, lane, words);
      SINQ_CUDA_UNROLL
      for (int two = 0; two < 2; ++two) {  // two steps of 16 columns share a load of operand B
        std::uint32_t a[2][4];
        make_operand<kBits, kPaired>(words, 2 * two, s.table, lane, a[0]);
        make_operand<kBits, kPaired>(words, 2 * two + 1, s.table, lane, a[1]);
        Words4 x[kTiles] = {};
        SINQ_CUDA_UNROLL
        for (int tile = 0; tile < kTiles; ++tile)
          if (8 * tile + group < columns)
            x[tile] = load_shared<Words4>(x_at + static_cast<std::uint32_t>(8 * tile) * s.x_stride +
                                          static_cast<std::uint32_t>(16 * two));
        SINQ_CUDA_UNROLL
        for (int i = 0; i < 2; ++i) {
          SINQ_CUDA_UNROLL
          for (int tile = 0; tile < kTiles; ++tile) mma(part[tile], a[i], x[tile].w[2 * i], x[tile].w[2 * i + 1]);
          if (((2 * two + i + 1) * kStepCols & (period - 1)) != 0) continue;
          const auto factors = load_shared<Words4>(factors_at);  // scale, zero of row g, of row g + 8
          factors_at += 4 * kLanes;
          SINQ_CUDA_UNROLL
          for (int tile = 0; tile < kTiles; ++tile) {
            const auto sums = has_zero ? load_shared<Words2>(sum_at + static_cast<std::uint32_t>(32 * tile)) : Words2{};
            SINQ_CUDA_UNROLL
            for (int k = 0; k < 4; ++k) {
              const float scale = as_float(factors.w[k / 2 * 2]), zero = as_float(factors.w[k / 2 * 2 + 1]);
              if (has_zero) part[tile][k] -= zero * as_float(sums.w[k % 2]);
              total[tile][k] += scale * part[tile][k];
              part[tile][k] = 0;
            }
          }
          sum_at += 4 * kCapacity;
        }
      }
      unit_at += unit_bytes(kBits);
      x_at += 2 * kUnitCols;
    };
    // With the fewest tokens a weight has the fewest instructions: each period gets a loop without tests for others.
    // With 16 columns registers suffice for one of these loops, with more for none.
    if constexpr (kTiles == 1) {
      const auto add_units = [&](int period, bool zero) {  // constants where it is called
        SINQ_CUDA_UNROLL_2
        for (int u = 0; u < units; ++u) add_unit(period, zero);
      };
      if (p.w.period == kUnitCols)
        add_units(kUnitCols, true);
      else if (p.w.period != kStepCols)
        add_units(2 * kStepCols, true);
      else if (p.w.has_zero())
        add_units(kStepCols, true);
      else
        add_units(kStepCols, false);
    } else if (kTiles == 2 && p.w.period == kUnitCols) {
      SINQ_CUDA_NO_UNROLL
      for (int u = 0; u < units; ++u) add_unit(kUnitCols, true);
    } else {
      SINQ_CUDA_NO_UNROLL
      for (int u = 0; u < units; ++u) add_unit(p.w.period, p.w.has_zero());
    }
    warp_barrier();  // all lanes have read what is overwritten now
    stream.next(stage, left);
    stage = stage + 1 == kRounds.stages ? 0 : stage + 1;
  }

  SINQ_CUDA_UNROLL
  for (int n = 0; n < 4 * kTiles; ++n) {
    const int tile = n / 4, k = n % 4;
    const int column = 8 * tile + 2 * t + k % 2;
    const int row = b.first_row + group + k / 2 * 8;
    const bool exists = column < columns && group + k / 2 * 8 < b.rows;
    if (!exists || (p.pieces == 2 && k % 2 != 0)) continue;
    const int token = column / p.pieces;
    const float sum = p.pieces == 2 ? total[tile][k] + total[tile][k + 1 < 4 ? k + 1 : k] : total[tile][k];
    const int exponent = token_exponent(load_shared<std::uint32_t>(s.maxima + 4 * static_cast<std::uint32_t>(token)));
    const float value = sum * (kPaired ? 1.0f : 0x1p24f) * power_of_two(exponent);
    const std::int64_t at = b.first_token + token;
    if (p.slices > 1)
      store_global(p.partial + ((block_index().y * std::int64_t{p.tokens} + at) * p.rows + row), value);
    else
      store_number(p.y_number, p.y, at * p.y_stride + row,
                   p.bias != nullptr ? value + load_bias(p, b.expert, row) : value);
  }
}

/// `kTiles` tiles of eight columns of operand B.
template <int kBits, bool kPaired, int kTiles>
SINQ_CUDA_DEVICE void multiply_block(const Product& p) {
  if constexpr (takes_turns(kTiles)) {
    SINQ_CUDA_NO_UNROLL
    for (int turn = 0; turn < p.strips; ++turn) multiply_strip<kBits, kPaired, kTiles>(p, turn);
  } else {
    multiply_strip<kBits, kPaired, kTiles>(p, 0);
  }
}

template <int kBits, bool kPaired, int kTiles>
SINQ_CUDA_KERNEL
#if defined(__CUDACC__)
__launch_bounds__(256, kTiles <= 4 ? 2 : 1)
#endif
    multiply_kernel(const Product p) {
  multiply_block<kBits, kPaired, kTiles>(p);
}

/// The expert that a row of y belongs to: the last one that begins at it or before.
SINQ_CUDA_DEVICE int expert_of(const Product& p, std::int64_t token) {
  int expert = 0;
  for (int end = p.expert_count; end - expert > 1;) {
    const int middle = (expert + end) / 2;
    (load_global<std::int32_t>(p.offsets + middle) <= token ? expert : end) = middle;
  }
  return expert;
}

/// y = sum of the slices, in their order, + bias. One thread per output; grid.x * threads >= rows, grid.y = tokens.
SINQ_CUDA_DEVICE void add_slices_block(const Product& p) {
  const auto row = std::int64_t{block_index().x} * thread_count() + thread_index();
  for (std::int64_t token = block_index().y; token < p.tokens; token += 65535) {
    if (row >= p.rows) return;
    if (p.experts != nullptr && token >= load_global<std::int32_t>(p.offsets + p.expert_count)) return;  // nobody's
    float sum = 0;
    for (int slice = 0; slice < p.slices; ++slice)
      sum += load_global<float>(p.partial + ((slice * std::int64_t{p.tokens} + token) * p.rows + row));
    if (p.bias != nullptr) sum += load_bias(p, p.experts != nullptr ? expert_of(p, token) : 0, row);
    store_number(p.y_number, p.y, token * p.y_stride + row, sum);
  }
}

/// A template only so that a header may hold it.
template <int = 0>
SINQ_CUDA_KERNEL add_slices_kernel(const Product p) {
  add_slices_block(p);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
