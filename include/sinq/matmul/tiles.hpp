// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "../core.hpp"

// Tiles: eight registers of up to 16 rows of 64 bytes. Two classes of the same operations, the registers of AMX and
// plain memory, so that kernels made of them (amx_bfloat16.hpp, amx_bytes.hpp) are tested on machines without.
//
//   Tiles(tokens, bytes)  A: `tokens` rows of `bytes` bytes, B: bytes / 4 rows of 64 bytes, sums: `tokens` rows of 16
//   load<T>(p, stride)    the rows of a register, `stride` bytes apart
//   store<T>(p)           the rows of sums, behind each other
//   dot_bfloat16<C, A, B>()
//                         C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k + 1] B[k][2n + 1]
//                         C: floats, A and B: bfloat16; B is a matrix with each pair of rows interleaved
//   dot_bytes<C, A, B>()  C[m][n] += sum over k and i < 4 of A[m][4k + i] B[k][4n + i]
//                         C: 32-bit integers, A: signed, B: unsigned bytes, each four of rows interleaved

namespace sinq::inline SINQ_ABI::detail::matmul {

inline constexpr std::int64_t kTileRows = 16;  // of tokens
inline constexpr std::int64_t kTileRowBytes = 64;
inline constexpr std::int64_t kTileBytes = kTileRows * kTileRowBytes;

/// Registers of sums, from 0 on; then those of the operands, activations and weights.
inline constexpr int kTilesOfSums = 6;
inline constexpr int kTileA = 6;
inline constexpr int kTileB = 7;

/// What the registers hold, as LDTILECFG reads it (palette 1).
struct alignas(64) TileShapes {
  TileShapes(int tokens, int bytes) noexcept {
    for (int t = 0; t < 8; ++t) {
      row_bytes[t] = static_cast<std::uint16_t>(t == kTileA ? bytes : kTileRowBytes);
      rows[t] = static_cast<std::uint8_t>(t == kTileB ? bytes / 4 : tokens);
    }
  }
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

#if defined(__x86_64__)
/// AMX's own. While an object lives, its thread's tiles are configured.
struct HardwareTiles {
  HardwareTiles(int tokens, int bytes) noexcept {
    const TileShapes shapes(tokens, bytes);
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }
  HardwareTiles(const HardwareTiles&) = delete;
  HardwareTiles& operator=(const HardwareTiles&) = delete;
  ~HardwareTiles() { asm volatile("tilerelease"); }

  template <int kT>
  [[gnu::always_inline]] inline void zero() noexcept {
    asm volatile("tilezero %%tmm%c0" : : "i"(kT));
  }
  template <int kT>
  [[gnu::always_inline]] inline void load(const void* p, std::int64_t stride) noexcept {
    asm volatile("{tileloadd (%1,%2,1), %%tmm%c0|tileloadd %%tmm%c0, [%1+%2*1]}"
                 :
                 : "i"(kT), "r"(p), "r"(stride)
                 : "memory");
  }
  template <int kT>
  [[gnu::always_inline]] inline void store(void* p) noexcept {
    asm volatile("{tilestored %%tmm%c0, (%1,%2,1)|tilestored [%1+%2*1], %%tmm%c0}"
                 :
                 : "i"(kT), "r"(p), "r"(std::int64_t{64})
                 : "memory");
  }
  template <int kC, int kA, int kB>
  [[gnu::always_inline]] inline void dot_bfloat16() noexcept {
    asm volatile("{tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2}"
                 :
                 : "i"(kC), "i"(kA), "i"(kB));
  }
  template <int kC, int kA, int kB>
  [[gnu::always_inline]] inline void dot_bytes() noexcept {
    asm volatile("{tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbsud %%tmm%c0, %%tmm%c1, %%tmm%c2}"
                 :
                 : "i"(kC), "i"(kA), "i"(kB));
  }
};
#endif

/// The same in memory, as Intel's Software Developer's Manual describes it (volume 2, TDPBF16PS, TDPBSUD): of bfloat16,
/// even and odd products have sums of their own, and what is subnormal counts as zero. Registers that no `load` or
/// `zero` has reached are NaN; bytes behind the rows and columns of a register that is loaded become zero.
struct EmulatedTiles {
  TileShapes shapes;
  std::byte bytes[8][16][64];

  EmulatedTiles(int tokens, int row_bytes) noexcept : shapes(tokens, row_bytes) {
    std::memset(bytes, 0xff, sizeof bytes);
  }

  template <int kT>
  void zero() noexcept {
    std::memset(bytes[kT], 0, sizeof bytes[kT]);
  }
  template <int kT>
  void load(const void* p, std::int64_t stride) noexcept {
    zero<kT>();
    for (int row = 0; row < shapes.rows[kT]; ++row)
      std::memcpy(bytes[kT][row], static_cast<const std::byte*>(p) + row * stride, shapes.row_bytes[kT]);
  }
  template <int kT>
  void store(void* p) const noexcept {
    for (int row = 0; row < shapes.rows[kT]; ++row)
      std::memcpy(static_cast<std::byte*>(p) + row * 64, bytes[kT][row], shapes.row_bytes[kT]);
  }
  template <int kC, int kA, int kB>
  void dot_bfloat16() noexcept {
    for (int m = 0; m < shapes.rows[kC]; ++m) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; k < shapes.rows[kB]; ++k)
        for (int n = 0; n < 16; ++n) {
          even[n] += bfloat16_at(kA, m, 2 * k) * bfloat16_at(kB, k, 2 * n);
          odd[n] += bfloat16_at(kA, m, 2 * k + 1) * bfloat16_at(kB, k, 2 * n + 1);
        }
      for (int n = 0; n < 16; ++n) add(kC, m, n, even[n] + odd[n]);
    }
  }
  template <int kC, int kA, int kB>
  void dot_bytes() noexcept {
    for (int m = 0; m < shapes.rows[kC]; ++m)
      for (int n = 0; n < 16; ++n) {
        std::int32_t sum = 0;
        for (int k = 0; k < shapes.rows[kB]; ++k)
          for (int i = 0; i < 4; ++i)
            sum +=
                static_cast<std::int8_t>(bytes[kA][m][4 * k + i]) * static_cast<std::uint8_t>(bytes[kB][k][4 * n + i]);
        add(kC, m, n, sum);
      }
  }

 private:
  template <class T>
  void add(int tile, int row, int col, T what) noexcept {
    T value = 0;
    std::memcpy(&value, bytes[tile][row] + 4 * col, 4);
    value += what;
    std::memcpy(bytes[tile][row] + 4 * col, &value, 4);
  }
  [[nodiscard]] float bfloat16_at(int tile, int row, int at) const noexcept {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes[tile][row] + 2 * at, 2);
    if ((bits & 0x7f80) == 0) bits &= 0x8000;
    const std::uint32_t wide = std::uint32_t{bits} << 16;
    float value = 0;
    std::memcpy(&value, &wide, 4);
    return value;
  }
};

}  // namespace sinq::inline SINQ_ABI::detail::matmul
