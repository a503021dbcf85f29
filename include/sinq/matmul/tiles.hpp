// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "../core.hpp"

// Tiles: eight registers of 16 rows of 64 bytes. Two classes of the same operations, the registers of AMX and plain
// memory, so that the kernel made of them (amx.hpp) is tested on machines without.
//
//   load<T>(p, stride)   sixteen rows of 64 bytes, `stride` bytes apart
//   store<T>(p)          sixteen rows behind each other
//   dot<C, A, B>()       C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k + 1] B[k][2n + 1]
//                        C: 16 x 16 floats, A: 16 x 32 bfloat16, B: 16 x 32 bfloat16, which is 32 x 16 with each pair
//                        of rows interleaved

namespace sinq::inline SINQ_ABI::detail::matmul {

#if defined(__x86_64__)
/// AMX's own. While an object lives, its thread's tiles are configured.
struct HardwareTiles {
  HardwareTiles() noexcept {
    struct alignas(64) {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" : : "m"(config));
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
  [[gnu::always_inline]] inline void store(float* p) noexcept {
    asm volatile("{tilestored %%tmm%c0, (%1,%2,1)|tilestored [%1+%2*1], %%tmm%c0}"
                 :
                 : "i"(kT), "r"(p), "r"(std::int64_t{64})
                 : "memory");
  }
  template <int kC, int kA, int kB>
  [[gnu::always_inline]] inline void dot() noexcept {
    asm volatile("{tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2}"
                 :
                 : "i"(kC), "i"(kA), "i"(kB));
  }
};
#endif

/// The same in memory, as Intel's Software Developer's Manual describes it (volume 2, TDPBF16PS): even and odd products
/// have sums of their own, what is subnormal counts as zero. Registers that no `load` or `zero` has reached are NaN.
struct EmulatedTiles {
  float c[8][16][16];

  EmulatedTiles() noexcept { std::memset(c, 0xff, sizeof c); }

  template <int kT>
  void zero() noexcept {
    std::memset(c[kT], 0, sizeof c[kT]);
  }
  template <int kT>
  void load(const void* p, std::int64_t stride) noexcept {
    for (int row = 0; row < 16; ++row) std::memcpy(c[kT][row], static_cast<const std::byte*>(p) + row * stride, 64);
  }
  template <int kT>
  void store(float* p) const noexcept {
    std::memcpy(p, c[kT], sizeof c[kT]);
  }
  template <int kC, int kA, int kB>
  void dot() noexcept {
    for (int m = 0; m < 16; ++m) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 16; ++n) {
          even[n] += element(kA, m, 2 * k) * element(kB, k, 2 * n);
          odd[n] += element(kA, m, 2 * k + 1) * element(kB, k, 2 * n + 1);
        }
      for (int n = 0; n < 16; ++n) c[kC][m][n] += even[n] + odd[n];
    }
  }

 private:
  [[nodiscard]] float element(int tile, int row, int at) const noexcept {
    std::uint16_t bits = 0;
    std::memcpy(&bits, reinterpret_cast<const std::byte*>(c[tile][row]) + 2 * at, 2);
    if ((bits & 0x7f80) == 0) bits &= 0x8000;
    const std::uint32_t wide = std::uint32_t{bits} << 16;
    float value = 0;
    std::memcpy(&value, &wide, 4);
    return value;
  }
};

}  // namespace sinq::inline SINQ_ABI::detail::matmul
