// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "avx512.hpp"
#include "tiles.hpp"

#if defined(__x86_64__)

// AMX: products of bytes in tiles, from a few tokens on. What bytes.inc computes, with the same bits, some segments of
// a strip at a time:
//
//   restore    their codes as unsigned bytes, into the first-level cache: fours of columns of 16 rows in a line, as the
//              second operand wants them
//   multiply   by up to 16 tokens: a tile of sums for every segment and plane of the activations
//   scale      y += scale unit step (sum of byte * integer  -  (base + zero / unit) * sum of integers)
//
// Instructions for 16 rows x 64 columns in one group: 48 to 64 to restore, once; then for every token 5 with
// activations of one byte (VNNI: 16 products and 4 to 8 more) and 9 with three (48 and 12 more), beside a cycle of the
// tiles' own unit per plane.

#define SINQ_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace sinq::inline SINQ_ABI::detail::matmul::amx {

using namespace avx512;

/// Room for the restored codes of at least two segments.
inline constexpr std::int64_t kBatchBytes = 8192;
inline constexpr std::int64_t kTileSums = kTileBytes / 4;

/// Columns of one product of tiles; what a segment lacks of whole ones is zero.
[[nodiscard]] inline std::int64_t tile_cols(const Tiling& t) noexcept {
  return std::min<std::int64_t>(kTileRowBytes, (segment_cols(t) + 15) / 16 * 16);
}

/// Codes as unsigned bytes of columns [16 first, 16 last) of a block, a line of 64 bytes for every four.
using RestoreBytes = void (*)(const std::uint8_t* codes, std::int64_t first, std::int64_t last,
                              const ByteLevels& levels, std::uint8_t* to) noexcept;

template <int kBits, bool kTable>
[[SINQ_TARGET]] inline void restore_bytes(const std::uint8_t* codes, std::int64_t first, std::int64_t last,
                                          const ByteLevels& levels, std::uint8_t* to) noexcept {
  const Ints table = load_table(levels.table);
  for (std::int64_t h = first; h < last; ++h, to += 4 * pack::kLine) {
    const std::uint8_t* const unit = codes + (h >> 1) * (kBits * pack::kLine);
    Half<kBits>::ask_behind(unit, (h & 1) != 0);
    const Half<kBits> half(unit, (h & 1) != 0);
    _mm512_storeu_si512(to, bytes_of<kBits, kTable, 0>(half, table));
    _mm512_storeu_si512(to + pack::kLine, bytes_of<kBits, kTable, 1>(half, table));
    _mm512_storeu_si512(to + 2 * pack::kLine, bytes_of<kBits, kTable, 2>(half, table));
    _mm512_storeu_si512(to + 3 * pack::kLine, bytes_of<kBits, kTable, 3>(half, table));
  }
}

/// Segments that are multiplied together, at most as many as there are tiles for their sums.
template <int kPlanes>
struct Batch {
  static constexpr int kMost = kTilesOfSums / kPlanes;

  int count = 0;
  std::int64_t first = 0;            // of all segments
  const std::uint8_t* bytes[kMost];  // restored codes
  std::int64_t products[kMost];      // of tiles that make up the segment
  Floats scale[kMost];
  Floats zero[kMost];
};

/// Sums over the segments of a batch for the tokens of a tile: sums[segment][plane][token][row].
template <class Tiles, int kPlanes>
struct SegmentSums {
  Tiles& tiles;
  const Batch<kPlanes>& batch;
  const std::int8_t* x;  // of the first token and segment
  std::int64_t token;    // bytes from one to the next
  std::int64_t plane;
  std::int64_t segment;
  std::int64_t cols;  // of a product
  std::int32_t* sums;

  template <int kS = 0>
  [[SINQ_TARGET, gnu::always_inline]] inline void run() noexcept {
    if constexpr (kS < Batch<kPlanes>::kMost) {
      if (kS >= batch.count) return;
      begin<kS>();
      for (std::int64_t k = 0; k < batch.products[kS]; ++k) {
        tiles.template load<kTileB>(batch.bytes[kS] + k * cols * pack::kStripRows, pack::kLine);
        add<kS>(x + kS * segment + k * cols);
      }
      end<kS>();
      run<kS + 1>();
    }
  }

 private:
  template <int kS, int kP = 0>
  [[SINQ_TARGET, gnu::always_inline]] inline void begin() noexcept {
    tiles.template zero<kS * kPlanes + kP>();
    if constexpr (kP + 1 < kPlanes) begin<kS, kP + 1>();
  }
  template <int kS, int kP = 0>
  [[SINQ_TARGET, gnu::always_inline]] inline void add(const std::int8_t* at) noexcept {
    tiles.template load<kTileA>(at + kP * plane, token);
    tiles.template dot_bytes<kS * kPlanes + kP, kTileA, kTileB>();
    if constexpr (kP + 1 < kPlanes) add<kS, kP + 1>(at);
  }
  template <int kS, int kP = 0>
  [[SINQ_TARGET, gnu::always_inline]] inline void end() noexcept {
    tiles.template store<kS * kPlanes + kP>(sums + (kS * kPlanes + kP) * kTileSums);
    if constexpr (kP + 1 < kPlanes) end<kS, kP + 1>();
  }
};

/// A sum over a segment, from the tiles of its planes on.
template <int kPlanes>
[[SINQ_TARGET, gnu::always_inline]] inline Floats segment_sum(const std::int32_t* sums) noexcept {
  const Floats low = to_floats(_mm512_loadu_si512(sums));
  if constexpr (kPlanes == 1) return low;
  return total_of(low, to_floats(_mm512_loadu_si512(sums + kTileSums)),
                  to_floats(_mm512_loadu_si512(sums + 2 * kTileSums)));
}

/// A batch times all tokens, added to y[token][row].
template <class Tiles, int kPlanes>
[[SINQ_TARGET]] inline void multiply_batch(Tiles& tiles, const Job& job, const Batch<kPlanes>& batch,
                                           std::int32_t* sums, float* y) noexcept {
  const Prepared& x = *job.x;
  const std::int64_t segment = segment_cols(job.weights->tiling());
  const std::int64_t rows = std::min(job.tokens, kTileRows);
  for (std::int64_t next = 0; next < job.tokens;) {
    // The last tokens share their tile with some that have been served before.
    const std::int64_t first = std::min(next, job.tokens - rows);
    const std::int8_t* const bytes = x.bytes(first) + batch.first * segment;
    SegmentSums<Tiles, kPlanes>{tiles, batch, bytes, x.token * 4, x.values, segment, tile_cols(job.weights->tiling()),
                                sums}
        .run();
    for (; next < first + rows; ++next) {
      const float* const step = x.step(next) + batch.first;
      const std::int32_t* at = sums + (next - first) * kStripRows;
      Floats total = load(y + next * kStripRows);
      for (int s = 0; s < batch.count; ++s, at += kPlanes * kTileSums) {
        const Floats above_zero = minus_product(segment_sum<kPlanes>(at), batch.zero[s], all(step[x.sums + s]));
        total = multiply_add(multiply(batch.scale[s], all(step[s])), above_zero, total);
      }
      store(y + next * kStripRows, total);
    }
  }
}

/// Strips times tokens.
template <class Tiles, int kPlanes>
[[SINQ_TARGET, gnu::noinline]] void multiply_strips(const Job& job, RestoreBytes restore) noexcept {
  const pack::StripReader& w = *job.weights;
  const pack::StripOrder& o = w.order();
  auto* const restored = reinterpret_cast<std::uint8_t*>(job.scratch);
  auto* const sums = reinterpret_cast<std::int32_t*>(restored + kBatchBytes);
  static_assert(kBatchBytes + kTilesOfSums * kTileBytes <= kScratch * std::int64_t{sizeof(float)});
  const Segments segments(o.tiling);
  const std::int64_t cols = tile_cols(o.tiling);
  const std::int64_t segment_bytes = (segments.halves * 16 + cols - 1) / cols * cols * pack::kStripRows;
  const std::int64_t most = std::min<std::int64_t>(Batch<kPlanes>::kMost, kBatchBytes / segment_bytes);
  Tiles tiles(static_cast<int>(std::min(job.tokens, kTileRows)), static_cast<int>(cols));
  for (std::int64_t s = 0; s < job.strips; ++s) {
    float* const y = job.y + s * kStripRows * most_tokens();
    std::fill_n(y, job.tokens * kStripRows, 0.0f);
    const std::uint8_t* const strip = w.strip(job.strip + s);
    Auxiliaries aux(w, strip, 0, job.byte_levels->unit, job.byte_levels->zero);
    std::int64_t segment = 0;
    for (std::int64_t b = 0; b < o.blocks; ++b) {
      const std::int64_t halves = (o.block_cols(b) + 15) / 16;
      aux.begin(o, strip, b, 0);
      ask_behind_auxiliaries(o, strip, b);
      for (std::int64_t h = 0; h < halves;) {
        Batch<kPlanes> batch;
        batch.first = segment;
        for (std::uint8_t* to = restored; batch.count < most && h < halves; ++batch.count) {
          if (h == 0 || !segments.one_group) aux.next();
          const std::int64_t stop = std::min(h + segments.halves, halves);
          const std::int64_t products = ((stop - h) * 16 + cols - 1) / cols;
          restore(strip + o.codes(b), h, stop, *job.byte_levels, to);
          std::uint8_t* const end = to + products * cols * pack::kStripRows;
          std::fill(to + (stop - h) * 4 * pack::kLine, end, std::uint8_t{0});
          batch.bytes[batch.count] = to;
          batch.products[batch.count] = products;
          batch.scale[batch.count] = aux.scale;
          batch.zero[batch.count] = aux.zero;
          to = end;
          h = stop;
        }
        multiply_batch<Tiles, kPlanes>(tiles, job, batch, sums, y);
        segment += batch.count;
      }
    }
  }
}

template <class Tiles, int kBits, bool kTable, int kPlanes>
inline void multiply_bytes(const Job& job) noexcept {
  multiply_strips<Tiles, kPlanes>(job, restore_bytes<kBits, kTable>);
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul::amx

#undef SINQ_TARGET
#endif
