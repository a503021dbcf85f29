// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "instructions.cuh"
#include "wgmma_layout.hpp"

// Hopper's asynchronous products, which only code for sm_90a has. As in instructions.cuh: the assembly, and beside it
// what the host needs to do the same.
//
// A warpgroup is four consecutive warps. It starts a product and goes on; until a wait tells that the product is done
// nobody may touch its accumulators and its operand in registers, or write what it reads from shared memory.

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SINQ_CUDA_WGMMA 1
#else
#define SINQ_CUDA_WGMMA 0
#endif

namespace sinq::inline SINQ_ABI::detail::cuda {

inline constexpr int kWarpgroup = 4 * kLanes;

/// "Matrix Descriptor Format": operand B at `address`, one column's 64 halves to 128 bytes, eight columns to 1024,
/// whose pieces of 16 bytes are exchanged as "Swizzling Modes" has it for 128 bytes. A step of 16 rows further is two
/// more.
SINQ_CUDA_DEVICE std::uint64_t describe_swizzled(std::uint32_t address) {
  constexpr std::uint64_t kEightColumns = 1024 >> 4, kSwizzle128 = 1;
  return kSwizzle128 << 62 | kEightColumns << 32 | std::uint64_t{1} << 16 | (address & 0x3'ffffu) >> 4;
}

/// Where piece `piece` of 16 bytes of column `column` lies from the start of such an operand.
SINQ_CUDA_BOTH constexpr std::uint32_t swizzled(std::uint32_t column, std::uint32_t piece) {
  return 128 * column + 16 * (piece ^ (column & 7));
}

#if !defined(__CUDACC__)

namespace model {

/// Where the ISA says that row `k` (of 16) of column `n` of an operand in shared memory lies, whose rows are
/// contiguous, swizzled by 128 bytes: bits 4 to 6 of the address, exclusive or bits 7 to 9. The leading dimension's
/// distance is not used there.
inline std::uint32_t operand_address(std::uint64_t descriptor, int n, int k) noexcept {
  const auto field = [&](int bit) { return static_cast<std::uint32_t>(descriptor >> bit & 0x3fff) << 4; };
  const std::uint32_t address =
      field(0) + static_cast<std::uint32_t>(n / 8) * field(32) + static_cast<std::uint32_t>(128 * (n % 8) + 2 * k);
  return address ^ (address >> 7 & 7) << 4;
}

/// What a thread brings to wgmma and what it gets: "Register Fragments for wgmma.mma_async.m64nNk16". Warp w of the
/// warpgroup holds rows 16 w to 16 w + 15, and in them what it would hold of mma.m16n8k16: A as there, D as C for
/// columns 0 to 7, 8 to 15, ...
struct Wgmma {
  std::uint32_t* a;  // 4
  float* d;          // columns / 2
  std::uint64_t b;
  int columns;
  bool bfloat;  // half otherwise
};

}  // namespace model

#endif

// Sixteen of the accumulators as operands, and how the assembly numbers all of them.
#define SINQ_CUDA_16(d, i)                                                                                    \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),      \
      "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define SINQ_CUDA_64(d, i) SINQ_CUDA_16(d, i), SINQ_CUDA_16(d, i + 16), SINQ_CUDA_16(d, i + 32), SINQ_CUDA_16(d, i + 48)
#define SINQ_CUDA_NUMBERS_64                                         \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"           \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SINQ_CUDA_NUMBERS_128                                                    \
  SINQ_CUDA_NUMBERS_64                                                           \
  ","                                                                            \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"             \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"             \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SINQ_CUDA_WGMMA_128(type)                                                        \
  "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" SINQ_CUDA_NUMBERS_64 \
  "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;"
#define SINQ_CUDA_WGMMA_256(type)                                                         \
  "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" SINQ_CUDA_NUMBERS_128 \
  "}, {%128,%129,%130,%131}, %132, 1, 1, 1, 0;"
#define SINQ_CUDA_START(text, ...) \
  asm volatile(text:__VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b) : "memory")

/// Starts D += A B: A 64 x 16 in registers, B 16 x 128 or 16 x 256 in shared memory, of halves or bfloat16; D float.
template <Number kNumber, int kAccumulators>
SINQ_CUDA_DEVICE void wgmma(float (&d)[kAccumulators], std::uint32_t (&a)[4], std::uint64_t b) {
  static_assert(kAccumulators == 64 || kAccumulators == 128);
#if defined(__CUDACC__)
  if constexpr (kAccumulators == 64 && kNumber == Number::f16)
    SINQ_CUDA_START(SINQ_CUDA_WGMMA_128("f16"), SINQ_CUDA_64(d, 0));
  if constexpr (kAccumulators == 64 && kNumber == Number::bf16)
    SINQ_CUDA_START(SINQ_CUDA_WGMMA_128("bf16"), SINQ_CUDA_64(d, 0));
  if constexpr (kAccumulators == 128 && kNumber == Number::f16)
    SINQ_CUDA_START(SINQ_CUDA_WGMMA_256("f16"), SINQ_CUDA_64(d, 0), SINQ_CUDA_64(d, 64));
  if constexpr (kAccumulators == 128 && kNumber == Number::bf16)
    SINQ_CUDA_START(SINQ_CUDA_WGMMA_256("bf16"), SINQ_CUDA_64(d, 0), SINQ_CUDA_64(d, 64));
#else
  machine()->wgmma({a, d, b, 2 * kAccumulators, kNumber == Number::bf16});
#endif
}

/// What a thread wrote to registers before is what products started afterwards read and add to.
SINQ_CUDA_DEVICE void wgmma_fence() {
#if defined(__CUDACC__)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  machine()->wgmma_fence();
#endif
}

/// Makes a group of the products since the last group.
SINQ_CUDA_DEVICE void wgmma_commit() {
#if defined(__CUDACC__)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  machine()->wgmma_commit();
#endif
}

/// Waits until all groups but the newest kNewest are done.
template <int kNewest>
SINQ_CUDA_DEVICE void wgmma_wait() {
#if defined(__CUDACC__)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
#else
  machine()->wgmma_wait(kNewest);
#endif
}

/// Waits until all are done. Names the accumulators, so that the compiler reads them afterwards.
template <int kAccumulators>
SINQ_CUDA_DEVICE void wgmma_finish(float (&d)[kAccumulators]) {
  wgmma_wait<0>();
#if defined(__CUDACC__)
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kAccumulators; k += 16) asm volatile("" : SINQ_CUDA_16(d, k)::"memory");
#else
  (void)d;
#endif
}

#undef SINQ_CUDA_START
#undef SINQ_CUDA_WGMMA_256
#undef SINQ_CUDA_WGMMA_128
#undef SINQ_CUDA_NUMBERS_128
#undef SINQ_CUDA_NUMBERS_64
#undef SINQ_CUDA_64
#undef SINQ_CUDA_16

/// "Async Proxy": what this thread has written to shared memory, by stores and copies that have arrived, becomes
/// visible to products that start after a barrier.
SINQ_CUDA_DEVICE void async_proxy_fence() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  machine()->async_proxy_fence();
#endif
}

/// The bits of the halves nearest to two floats, `low` in the lower bits.
SINQ_CUDA_DEVICE std::uint32_t to_halves(float low, float high) {
#if defined(__CUDACC__)
  std::uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#else
  return to_half(low) | static_cast<std::uint32_t>(to_half(high)) << 16;
#endif
}

/// The same in bfloat16.
SINQ_CUDA_DEVICE std::uint32_t to_bfloats(float low, float high) {
#if defined(__CUDACC__)
  std::uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#else
  return to_bfloat16(low) | static_cast<std::uint32_t>(to_bfloat16(high)) << 16;
#endif
}

#if defined(__CUDACC__)
/// Never launched: the limit on its threads tells the host which code a device runs.
inline constexpr int kProbeThreads = 64;
template <int = 0>
SINQ_CUDA_KERNEL __launch_bounds__(SINQ_CUDA_WGMMA ? kProbeThreads : kProbeThreads / 2) wgmma_probe_kernel() {}
#endif

}  // namespace sinq::inline SINQ_ABI::detail::cuda
