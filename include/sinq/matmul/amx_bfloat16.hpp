// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "avx512.hpp"
#include "tiles.hpp"

#if defined(__x86_64__)

// AMX: products of bfloat16 in tiles, for many tokens in fast numerics. For each chunk of columns and each strip of a
// task:
//
//   restore    (level - zero) * scale, rounded to bfloat16, into the first-level cache: pairs of columns of 16 rows in
//              a line, as the second operand wants them
//   multiply   tiles of 16 tokens, six at a time, whose sums stay in registers for the whole chunk
//
// A chunk of all tokens is read from the third-level cache for the first strip and from the second for the others.
// A tile of 16 x 32 x 16 products takes 16 cycles, and loading its activations from the second-level cache some 21;
// restoring a weight takes a sixth of a cycle, the products with 512 tokens one. So half of the peak is in reach.

#define SINQ_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma")

namespace sinq::inline SINQ_ABI::detail::matmul::amx {

using namespace avx512;

inline constexpr std::int64_t kChunkCols = 512;  // of restored weights: as large as kChunk columns of floats

/// Floats -> bfloat16 in the upper halves of the lanes, to nearest, halves away from zero.
[[SINQ_TARGET, gnu::always_inline]] inline Ints round_to_bfloat16(Floats v) noexcept {
  return add_ints(_mm512_castps_si512(v), all_ints(0x8000));
}

/// Where the 32 columns that begin with number 32 u of token n lie.
[[nodiscard]] inline std::uint8_t* tile_row(const Prepared& x, std::int64_t n, std::int64_t u) noexcept {
  const std::int64_t tile = n / kTileRows * (x.values / pack::kUnitCols) + u;
  return reinterpret_cast<std::uint8_t*>(x.base) + tile * kTileBytes + n % kTileRows * 64;
}

/// Token n as bfloat16, columns in the order of codes. NaN stays NaN. Tiles of 16 tokens fit where the tokens' floats
/// would: those take twice the bytes, and from 8 tokens on less than that is added to fill the last tile.
[[SINQ_TARGET]] inline void prepare_bfloat16(const pack::StripReader& w, std::int64_t panel, const void* x, DType dtype,
                                             const Prepared& out, std::int64_t n) noexcept {
  const std::int64_t cols = w.tiling().cols;
  std::int32_t columns[16];
  for (int k = 0; k < 16; ++k) columns[k] = pack::column_of(w.format().bits, k / 4, k % 4);
  const Ints order = load_ints(reinterpret_cast<const std::uint8_t*>(columns));
  alignas(64) float values[256];
  for (std::int64_t first = 0; first < out.values; first += 256) {
    const std::int64_t count = std::clamp<std::int64_t>(cols - first, 0, 256);
    const std::int64_t end = std::min<std::int64_t>(out.values - first, 256);
    scale(w, panel, x, dtype, first, count, values);
    std::fill(values + count, values + end, 0.0f);
    for (std::int64_t at = 0; at < end; at += 16) {
      Floats v = _mm512_maskz_permutexvar_ps(kAll, order, load(values + at));
      v = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_castsi512_ps(all_ints(0x7fc0'0000)));
      const __m256i halves = _mm512_maskz_cvtepi32_epi16(kAll, shift<16>(round_to_bfloat16(v)));
      std::uint8_t* const to = tile_row(out, n, (first + at) / pack::kUnitCols) + at % pack::kUnitCols * 2;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
    }
  }
}

/// Weights on their way into the cache: restored[pair of positions][row][2].
struct RestorePairs {
  static constexpr int kHalf = 8 * 16;  // elements of half a unit
  std::uint32_t* to;
  Floats scale;
  Floats offset;  // -zero * scale
  Ints even;

  template <int kColumn, int kPosition>
  [[SINQ_TARGET, gnu::always_inline]] inline void add(Floats level) noexcept {
    const Ints v = round_to_bfloat16(multiply_add(level, scale, offset));
    if constexpr (kPosition % 2 == 0)
      even = shift<16>(v);
    else
      _mm512_storeu_si512(to + kPosition / 2 * 16, _mm512_mask_blend_epi16(0xaaaa'aaaa, even, v));
  }
};

/// y[token][row] (+)= x[token][column] restored[column][row] for kCount tiles of tokens and `units` times 32 columns.
template <class Tiles, int kCount>
struct TileProduct {
  Tiles& tiles;
  const std::uint8_t* x;
  std::int64_t x_tile;  // bytes from one tile of tokens to the next
  float* y;

  template <int kT = 0>
  [[SINQ_TARGET, gnu::always_inline]] inline void begin(bool from_zero) noexcept {
    if constexpr (kT < kCount) {
      if (from_zero)
        tiles.template zero<kT>();
      else
        tiles.template load<kT>(y + kT * kTileRows * kStripRows, 64);
      begin<kT + 1>(from_zero);
    }
  }
  template <int kT = 0>
  [[SINQ_TARGET, gnu::always_inline]] inline void add(std::int64_t u) noexcept {
    if constexpr (kT < kCount) {
      tiles.template load<kTileA>(x + kT * x_tile + u * kTileBytes, 64);
      tiles.template dot_bfloat16<kT, kTileA, kTileB>();
      add<kT + 1>(u);
    }
  }
  template <int kT = 0>
  [[SINQ_TARGET, gnu::always_inline]] inline void end() noexcept {
    if constexpr (kT < kCount) {
      tiles.template store<kT>(y + kT * kTileRows * kStripRows);
      end<kT + 1>();
    }
  }
  [[SINQ_TARGET]] inline void run(const std::uint32_t* restored, std::int64_t units, bool from_zero) noexcept {
    begin(from_zero);
    for (std::int64_t u = 0; u < units; ++u) {
      tiles.template load<kTileB>(restored + u * (kTileBytes / 4), 64);
      add(u);
    }
    end();
  }
};

/// All tokens times a chunk of `units` times 32 columns, from the `first`-th on, that lies in `restored`.
template <class Tiles>
[[SINQ_TARGET]] inline void multiply_chunk(Tiles& tiles, const Job& job, const std::uint32_t* restored,
                                           std::int64_t first, std::int64_t units, float* y) noexcept {
  const std::int64_t x_tile = job.x->values / pack::kUnitCols * kTileBytes;
  const auto run = [&]<int kCount>(std::int64_t token) {
    TileProduct<Tiles, kCount>{tiles, tile_row(*job.x, token, first), x_tile, y + token * kStripRows}.run(
        restored, units, first == 0);
  };
  std::int64_t t = 0;
  for (; t + kTilesOfSums * kTileRows <= job.tokens; t += kTilesOfSums * kTileRows)
    run.template operator()<kTilesOfSums>(t);
  switch ((job.tokens - t + kTileRows - 1) / kTileRows) {
    case 6:
      return run.template operator()<6>(t);
    case 5:
      return run.template operator()<5>(t);
    case 4:
      return run.template operator()<4>(t);
    case 3:
      return run.template operator()<3>(t);
    case 2:
      return run.template operator()<2>(t);
    case 1:
      return run.template operator()<1>(t);
    default:
      return;
  }
}

/// Strips times many tokens.
template <class Tiles, int kBits>
[[SINQ_TARGET]] inline void multiply_bfloat16(const Job& job) noexcept {
  const pack::StripReader& w = *job.weights;
  const pack::StripOrder& o = w.order();
  float* const scales = job.scratch;
  float* const zeros = scales + pack::kMostBlockGroups * kStripRows;
  auto* const restored = reinterpret_cast<std::uint32_t*>(zeros + pack::kMostBlockGroups * kStripRows);
  const Lookup lookup(w.levels().data(), kBits);
  Tiles tiles(kTileRows, kTileRowBytes);
  // Several short blocks make up a chunk, or a part of a long one.
  const std::int64_t blocks = std::max<std::int64_t>(1, kChunkCols / o.block_cols(0));
  for (std::int64_t begin = 0; begin < o.blocks; begin += blocks) {
    const std::int64_t end = std::min(begin + blocks, o.blocks);
    const std::int64_t longest = (o.block_cols(begin) + 15) / 16;
    for (std::int64_t first = 0; first < longest; first += kChunkCols / 16)
      for (std::int64_t s = 0; s < job.strips; ++s) {
        const std::uint8_t* const strip = w.strip(job.strip + s);
        RestorePairs restore;
        restore.to = restored;
        for (std::int64_t b = begin; b < end; ++b) {
          read_block(w, strip, b, scales, zeros);
          const std::int64_t last = std::min(first + kChunkCols / 16, (o.block_cols(b) + 15) / 16);
          restore_halves<kBits, true>(o, strip + o.codes(b), 0, first, last, scales, zeros, lookup, restore);
          restore.to += (last - first) * RestorePairs::kHalf;
        }
        const std::int64_t halves = (restore.to - restored) / RestorePairs::kHalf;
        if (halves % 2 != 0) std::fill(restore.to, restore.to + RestorePairs::kHalf, 0);
        multiply_chunk(tiles, job, restored, (o.block_begin(begin) + first * 16) / pack::kUnitCols, (halves + 1) / 2,
                       job.y + s * kStripRows * most_tokens());
      }
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul::amx

#undef SINQ_TARGET
#endif
