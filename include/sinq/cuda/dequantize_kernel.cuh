// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stream.cuh"

// Weights back as numbers. A warp walks along a slice of its strip as in a product (stream.cuh) and makes of each unit
// (16 rows x 64 columns) the 32 weights per lane that would be its operand. Each lane writes four columns at once, four
// lanes a whole sector of 32 bytes.

namespace sinq::inline SINQ_ABI::detail::cuda {

struct Restoration {
  Weights w;
  void* out = nullptr;
  std::int64_t stride = 0;  // elements from row to row
  Number number = Number::f16;
  bool aligned = false;          // every row begins at a multiple of four elements' size
  std::int64_t strips = 0;       // how many
  std::int64_t first_strip = 0;  // which ones
  std::int64_t first_row = 0;    // where `out` begins
  int aux_ring = 0;              // bytes, a power of two
};

/// Three quarters of the traffic and more are results, so two short rounds bring codes early enough, and leave room for
/// many warps.
inline constexpr Rounds kRestorationRounds{4, 2};

/// Units that a warp restores: enough that filling its pipeline does not count, few enough that a matrix of 4096 rows
/// and columns occupies an H200.
inline constexpr int kRestorationUnits = 16;

/// Bytes of the levels of paired codes as floats, in every bank.
SINQ_CUDA_BOTH constexpr std::uint32_t level_bytes(const Weights& w) {
  return w.paired ? std::uint32_t{4 * kLanes} << w.bits : 0;
}
SINQ_CUDA_BOTH constexpr std::uint32_t restoration_ring_bytes(const Weights& w, int aux_ring) {
  const Rounds rounds = kRestorationRounds;
  return static_cast<std::uint32_t>(rounds.units * (rounds.stages * unit_bytes(w.bits) + factor_bytes(w)) + aux_ring);
}

/// Writes the rows and columns of a unit that exist. `factors`: those of the unit in shared memory.
template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE void restore_unit(const Restoration& r, const Block& b, int unit, std::uint32_t words_at,
                                   std::uint32_t factors, std::uint32_t levels) {
  const Weights& w = r.w;
  const int lane = static_cast<int>(thread_index()) % kLanes, group = lane / 4, t = lane % 4;
  std::uint32_t words[kBits];
  load_words<kBits>(words_at, lane, words);
  Words4 f{};  // scale and zero of row g, of row g + 8
  SINQ_CUDA_UNROLL
  for (int step = 0; step < 4; ++step) {
    if ((step * kStepCols & (w.period - 1)) == 0) {
      f = load_shared<Words4>(factors + static_cast<std::uint32_t>(16 * group));
      factors += 4 * kLanes;
    }
    const int col = unit * kUnitCols + step * kStepCols + 4 * t;
    const int count = w.cols - col < 4 ? w.cols - col : 4;
    if (count <= 0) continue;
    float col_scale[4] = {1, 1, 1, 1};
    if (w.has_col_scale)
      load_numbers(w.col_number, w.col_scale, std::int64_t{b.panel} * w.units * kUnitCols + col, 4, true, col_scale);
    SINQ_CUDA_UNROLL
    for (int upper = 0; upper < 2; ++upper) {
      const int row = group + 8 * upper;
      if (row >= b.rows) continue;
      const float scale = as_float(f.w[2 * upper]), zero = as_float(f.w[2 * upper + 1]);
      float v[4];
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t code = code_at<kBits, kPaired>(words, 2 * step + i / 2, upper, i % 2);
        // 2^23 + code has the code for its last bits.
        const float level = kPaired ? load_shared<float>(levels + 4 * kLanes * code + 4 * static_cast<unsigned>(lane))
                                    : as_float(0x4b00'0000u | code) - 0x1p23f;
        // From left to right, as on the CPU: the same bits.
        v[i] = multiply(multiply(level - zero, scale), col_scale[i]);
      }
      const std::int64_t to = (b.first_row + row - r.first_row) * r.stride + col;
      if (!r.aligned || count < 4) {
        for (int i = 0; i < 4; ++i)
          if (i < count) store_number(r.number, r.out, to + i, v[i]);
      } else if (r.number == Number::f32) {
        store_global(static_cast<std::uint8_t*>(r.out) + 4 * to,
                     Words4{{as_bits(v[0]), as_bits(v[1]), as_bits(v[2]), as_bits(v[3])}});
      } else {
        store_global(static_cast<std::uint8_t*>(r.out) + 2 * to,
                     Words2{{two_shorts(r.number, v[0], v[1]), two_shorts(r.number, v[2], v[3])}});
      }
    }
  }
}

/// Grid: x over strips, one per warp, y over slices of kRestorationUnits units.
template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE void dequantize_block(const Restoration& r) {
  constexpr Rounds kRounds = kRestorationRounds;
  const Weights& w = r.w;
  const auto warps = thread_count() / kLanes, warp = thread_index() / kLanes;
  const std::uint32_t levels = shared_base();
  if constexpr (kPaired) {
    for (unsigned k = thread_index(); k < static_cast<unsigned>(kLanes) << kBits; k += thread_count())
      store_shared(levels + 4 * k, w.levels[k / kLanes]);
    barrier();
  }
  const std::int64_t strip = r.first_strip + std::int64_t{block_index().x} * warps + warp;
  if (strip >= r.first_strip + r.strips) return;
  Block b{};
  b.panel = static_cast<int>(strip / w.panel_strips);
  const int row_in_panel = static_cast<int>(strip - std::int64_t{b.panel} * w.panel_strips) * kStripRows;
  b.first_row = b.panel * w.tile_height + row_in_panel;
  const int left_in_panel = w.tile_height - row_in_panel, left_rows = w.rows - b.first_row;
  b.rows = left_in_panel < left_rows ? left_in_panel : left_rows;
  b.codes = w.codes + strip * w.units * unit_bytes(kBits);
  b.aux = w.aux + strip * w.aux_stride;
  b.first_unit = static_cast<int>(block_index().y) * kRestorationUnits;
  b.end_unit = b.first_unit + kRestorationUnits < w.units ? b.first_unit + kRestorationUnits : w.units;

  Stream<kBits, kRounds> stream(w, r.aux_ring, b,
                                levels + level_bytes(w) + warp * restoration_ring_bytes(w, r.aux_ring));
  stream.fill(b);
  RecordCursor cursor = RecordReader<kRounds.units, false>::start(w, b.first_unit * kUnitCols);
  RecordReader<kRounds.units, false> records(w, cursor, stream.records(), stream.mask(), b.aux);
  SINQ_CUDA_NO_UNROLL
  for (int unit = b.first_unit, stage = 0; unit < b.end_unit; unit += kRounds.units) {
    const int left = b.end_unit - unit, units = left < kRounds.units ? left : kRounds.units;
    copy_wait<kRounds.stages - 1>();
    warp_barrier();  // each lane has waited for its own copies only
    records.decode_round(unit * kUnitCols, (unit + units) * kUnitCols);
    warp_barrier();  // the factors are there
    SINQ_CUDA_NO_UNROLL
    for (int u = 0; u < units; ++u)
      restore_unit<kBits, kPaired>(r, b, unit + u,
                                   stream.slot(stage) + static_cast<std::uint32_t>(u * unit_bytes(kBits)),
                                   records.factors() + static_cast<std::uint32_t>(u * factor_bytes(w)), levels);
    warp_barrier();  // all lanes have read what is overwritten now
    stream.next(stage, left);
    stage = stage + 1 == kRounds.stages ? 0 : stage + 1;
  }
}

template <int kBits, bool kPaired>
SINQ_CUDA_KERNEL dequantize_kernel(const Restoration r) {
  dequantize_block<kBits, kPaired>(r);
}

/// Rows [first, first + out.rows): all, or whole strips whose panels end with a strip. `launch(kernel, x, y, threads,
/// shared bytes, restoration)`.
template <class T, class Launch>
void restore(const Weights& w, std::int64_t first, MatrixView<T> out, Number number, Launch&& launch) {
  // What any device gives a block without being asked.
  constexpr std::uint32_t kSharedBytes = 48 << 10;
  Restoration r;
  r.w = w;
  r.out = out.data;
  r.stride = out.stride;
  r.number = number;
  r.aligned = reinterpret_cast<std::uintptr_t>(out.data) % (4 * sizeof(T)) == 0 && out.stride % 4 == 0;
  r.first_strip = first / kStripRows;
  r.first_row = first;
  r.strips = first == 0 && out.rows == w.rows ? strips_of(w) : (out.rows + kStripRows - 1) / kStripRows;
  r.aux_ring = aux_ring_bytes(w, (kRestorationRounds.stages + 1) * kRestorationRounds.units);
  unsigned warps = 8;
  const auto shared = [&] { return level_bytes(w) + warps * restoration_ring_bytes(w, r.aux_ring); };
  while (warps > 1 && shared() > kSharedBytes) warps /= 2;
  const auto x = static_cast<unsigned>((r.strips + warps - 1) / warps);
  const auto y = static_cast<unsigned>((w.units + kRestorationUnits - 1) / kRestorationUnits);
  with_codes(w.bits, w.paired, [&](auto bits, auto paired) {
    launch(dequantize_kernel<bits(), paired()>, x, y, kLanes * warps, shared(), r);
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
