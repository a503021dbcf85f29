// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "platform.hpp"

// Every hardware instruction that the kernels use, once: the assembly, and beside it a model for the host, written from
// the PTX ISA (titles of its sections in quotation marks). Plain C++ that compiles to the right instruction (lop3,
// prmt, byte permutations, fused multiply-add) needs no wrapper. The arguments are bits (a half is 16 bits of an
// integer), so that neither the kernels nor their tests depend on a header of the CUDA Toolkit.

namespace sinq::inline SINQ_ABI::detail::cuda {

#if !defined(__CUDACC__)

/// The models: what one lane receives, given what all 32 lanes bring. Tested against plain loops.
namespace model {

/// IEEE 754 binary16 -> float, exact.
inline float half_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
  if (exponent == 0) return static_cast<float>(mantissa) * (bits >> 15 != 0 ? -0x1p-24f : 0x1p-24f);
  const std::uint32_t pattern = (exponent == 31 ? 0xff : exponent + 112) << 23 | mantissa << 13;
  float value = 0;
  std::memcpy(&value, &pattern, sizeof value);
  return bits >> 15 != 0 ? -value : value;
}

/// float -> binary16, to nearest, ties to even ("cvt", .rn; subnormal results are supported).
inline std::uint16_t float_to_half(float value) noexcept {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fff'ffff;
  if (bits > 0x7f80'0000) return 0x7fff;                                      // NaN: the canonical one
  if (bits >= 0x477f'f000) return static_cast<std::uint16_t>(sign | 0x7c00);  // from 65520: infinity
  if (bits < 0x3300'0001) return static_cast<std::uint16_t>(sign);            // up to 2^-25: zero
  const int exponent = static_cast<int>(bits >> 23) - 127;
  const std::uint32_t mantissa = (bits & 0x7f'ffff) | 0x80'0000;
  const int drop = exponent < -14 ? -1 - exponent : 13;  // bits of the mantissa that do not fit
  std::uint32_t kept = mantissa >> drop;
  const std::uint32_t rest = mantissa & ((1u << drop) - 1), tie = 1u << (drop - 1);
  kept += rest > tie || (rest == tie && (kept & 1) != 0);
  if (exponent >= -14) kept += static_cast<std::uint32_t>(exponent + 14) << 10;  // a carry moves into the exponent
  return static_cast<std::uint16_t>(sign | kept);
}

/// What a lane brings to mma.m16n8k16.
struct MmaOperands {
  std::uint32_t a[4];
  std::uint32_t b[2];
  float c[4];
};

/// How a tensor core adds up: so many products and the sum so far at once, each cut off so many bits below the largest
/// exponent among them. The ISA promises no more than "at least single precision" for products; what it leaves open is
/// known from the measurements behind MMA-Sim (arXiv:2511.10909), a model that gives the devices' bits.
struct TensorCore {
  int together;
  int bits;
};
inline constexpr TensorCore kTuring{8, 24};  // Ampere and Ada Lovelace, too
inline constexpr TensorCore kHopper{16, 25};

/// The exponent as it is written: that of the smallest normal number for all below it.
inline int written_exponent(float value, int smallest) noexcept {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127;
  return exponent < smallest ? smallest : exponent;
}

/// 2^exponent, from -1022 to 1023.
inline double power(int exponent) noexcept {
  const std::uint64_t bits = static_cast<std::uint64_t>(1023 + exponent) << 52;
  double value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// c + sum of `count` products a b, as a tensor core has it: a product's exponent is the sum of its operands', as they
/// are written (`smallest`: of the operands' normal numbers); all are cut off, towards zero, `bits` bits below the
/// largest, and so is the sum behind 24 bits. A product of 0 has no exponent.
inline float fused_sum(float c, const float* a, const float* b, int count, int smallest, int bits) noexcept {
  constexpr int kNone = -1000;
  int largest = c != 0 ? written_exponent(c, -126) : kNone;
  double plain = double{c};
  for (int k = 0; k < count; ++k) {
    const double product = double{a[k]} * double{b[k]};
    plain += product;
    const int exponent = written_exponent(a[k], smallest) + written_exponent(b[k], smallest);
    if (product != 0 && exponent > largest) largest = exponent;
  }
  if (!std::isfinite(plain)) return static_cast<float>(plain);
  if (largest == kNone) return 0;
  const double units = power(bits - largest);
  auto sum = static_cast<std::int64_t>(double{c} * units);
  for (int k = 0; k < count; ++k) sum += static_cast<std::int64_t>(double{a[k]} * double{b[k]} * units);
  const double exact = static_cast<double>(sum) * power(largest - bits);
  const auto nearest = static_cast<float>(exact);
  if (std::abs(double{nearest}) <= std::abs(exact) || !std::isfinite(nearest)) return nearest;
  std::uint32_t pattern = 0;
  std::memcpy(&pattern, &nearest, sizeof pattern);
  --pattern;
  float towards_zero = 0;
  std::memcpy(&towards_zero, &pattern, sizeof towards_zero);
  return towards_zero;
}

/// "Matrix Fragments for mma.m16n8k16 with floating point type": lane = 4 group + t holds, two halves per register,
///   A (16 x 16)  a[0] row group, columns 2t, 2t+1;  a[1] row group+8;  a[2], a[3] the same rows, columns 2t+8, 2t+9
///   B (16 x 8)   b[0] rows 2t, 2t+1 of column group;  b[1] rows 2t+8, 2t+9
///   C (16 x 8)   c[0], c[1] row group, columns 2t, 2t+1;  c[2], c[3] row group+8
/// Unless told otherwise, it adds as the devices that keep least.
inline void mma(const MmaOperands* all, int lane, float* d, const TensorCore& core = kTuring) noexcept {
  const auto at = [](const std::uint32_t* registers, int index) {
    return half_to_float(static_cast<std::uint16_t>(registers[index / 2] >> (16 * (index % 2))));
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i < 2 ? 0 : 8), col = lane % 4 * 2 + i % 2;
    float a[16], b[16];
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2, high = k / 8;
      a[k] = at(all[row % 8 * 4 + t].a, 4 * high + 2 * (row / 8) + k % 2);
      b[k] = at(all[col * 4 + t].b, 2 * high + k % 2);
    }
    d[i] = all[lane].c[i];
    for (int k = 0; k < 16; k += core.together) d[i] = fused_sum(d[i], a + k, b + k, core.together, -14, core.bits);
  }
}

/// "shf", .r.wrap: bits [shift, shift + 32) of high:low.
inline std::uint32_t funnel(std::uint32_t low, std::uint32_t high, unsigned shift) noexcept {
  return static_cast<std::uint32_t>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}

}  // namespace model

#endif

// --- who am I --------------------------------------------------------------------------------------------------------

SINQ_CUDA_DEVICE unsigned thread_index() {
#if defined(__CUDACC__)
  return threadIdx.x;
#else
  return machine()->thread();
#endif
}

SINQ_CUDA_DEVICE unsigned thread_count() {
#if defined(__CUDACC__)
  return blockDim.x;
#else
  return machine()->threads();
#endif
}

SINQ_CUDA_DEVICE Index3 block_index() {
#if defined(__CUDACC__)
  return {blockIdx.x, blockIdx.y, blockIdx.z};
#else
  return machine()->block();
#endif
}

// --- meeting points --------------------------------------------------------------------------------------------------

/// All threads of the block wait for each other and see what each other wrote, in shared and global memory.
SINQ_CUDA_DEVICE void barrier() {
#if defined(__CUDACC__)
  __syncthreads();
#else
  machine()->barrier();
#endif
}

/// The same among the lanes of a warp.
SINQ_CUDA_DEVICE void warp_barrier() {
#if defined(__CUDACC__)
  __syncwarp();
#else
  machine()->meet("bar.warp", nullptr, 0, true);
#endif
}

/// The value (of 4 or 8 bytes) that lane `from` (of 32) brings. Orders no memory.
template <class T>
SINQ_CUDA_DEVICE T shuffle(T value, int from) {
#if defined(__CUDACC__)
  return __shfl_sync(0xffff'ffffu, value, from);
#else
  T all[kLanes];
  std::memcpy(all, machine()->meet("shfl.idx", &value, sizeof value, false), sizeof all);
  return all[from & 31];
#endif
}

/// D = A B + C on the tensor cores: A 16 x 16 and B 16 x 8 half, C 16 x 8 float; who holds what: model::mma. A
/// subnormal half is worth what it says, but lines up with the others as if it were 2^-14 large (model::fused_sum).
/// sm_75 has only the shape k8, of which this is two.
SINQ_CUDA_DEVICE void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
#else
  const model::MmaOperands mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
  model::MmaOperands all[kLanes];
  std::memcpy(all, machine()->meet("mma.m16n8k16", &mine, sizeof mine, false), sizeof all);
  model::mma(all, static_cast<int>(machine()->thread() % kLanes), c);
#endif
}

// --- conversions -----------------------------------------------------------------------------------------------------

/// The bits of the half nearest to a float.
SINQ_CUDA_DEVICE std::uint16_t to_half(float value) {
#if defined(__CUDACC__)
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  return model::float_to_half(value);
#endif
}

/// The value of a half.
SINQ_CUDA_DEVICE float from_half(std::uint16_t bits) {
#if defined(__CUDACC__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return model::half_to_float(bits);
#endif
}

/// The float with the given bits.
SINQ_CUDA_DEVICE float as_float(std::uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

/// The bits of a float.
SINQ_CUDA_DEVICE std::uint32_t as_bits(float value) {
#if defined(__CUDACC__)
  return __float_as_uint(value);
#else
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

/// The bits of the bfloat16 nearest to a float, ties to even: integer arithmetic, since sm_75 has no instruction.
SINQ_CUDA_DEVICE std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = as_bits(value);
  if ((bits & 0x7fff'ffffu) > 0x7f80'0000u) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Bits [shift, shift + 32) of high:low, shift below 32.
SINQ_CUDA_DEVICE std::uint32_t funnel(std::uint32_t low, std::uint32_t high, unsigned shift) {
#if defined(__CUDACC__)
  return __funnelshift_r(low, high, shift);
#else
  return model::funnel(low, high, shift);
#endif
}

// --- arithmetic that the compiler must neither fuse nor reorder nor approximate --------------------------------------

/// a b, rounded.
SINQ_CUDA_DEVICE float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

/// a / b, rounded.
SINQ_CUDA_DEVICE float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

/// a b + c, the product rounded first.
SINQ_CUDA_DEVICE float multiply_add(float a, float b, float c) {
  return multiply(a, b) + c;
}

/// a b + c, rounded once.
SINQ_CUDA_DEVICE float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}
SINQ_CUDA_DEVICE double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

SINQ_CUDA_DEVICE float square_root(float value) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(value);
#else
  return std::sqrt(value);
#endif
}
SINQ_CUDA_DEVICE double square_root(double value) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(value);
#else
  return std::sqrt(value);
#endif
}

/// To the nearest integer, ties to even.
SINQ_CUDA_DEVICE float nearest_integer(float value) {
#if defined(__CUDA_ARCH__)
  return rintf(value);
#else
  return std::nearbyint(value);
#endif
}

// --- shared memory (addresses of 32 bits; the block's dynamic shared memory begins at shared_base()) -----------------

/// Where the block's dynamic shared memory begins: at a multiple of 1024, as the operands of wgmma need it.
SINQ_CUDA_DEVICE std::uint32_t shared_base() {
#if defined(__CUDACC__)
  extern __shared__ __align__(1024) unsigned char sinq_shared_memory[];
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(sinq_shared_memory));
#else
  return 0;
#endif
}

/// Reads 2, 4, 8 or 16 bytes. Assembly rather than a pointer, whose 64 bits would cost an addition at every access.
template <class T>
SINQ_CUDA_DEVICE T load_shared(std::uint32_t address) {
#if defined(__CUDACC__)
  union {
    T value;
    std::uint16_t half;
    std::uint32_t w[(sizeof(T) + 3) / 4];
  } bits;
  if constexpr (sizeof(T) == 16)
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(bits.w[0]), "=r"(bits.w[1]), "=r"(bits.w[2]), "=r"(bits.w[3])
                 : "r"(address)
                 : "memory");
  else if constexpr (sizeof(T) == 8)
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(bits.w[0]), "=r"(bits.w[1]) : "r"(address) : "memory");
  else if constexpr (sizeof(T) == 4)
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits.w[0]) : "r"(address) : "memory");
  else
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits.half) : "r"(address) : "memory");
  return bits.value;
#else
  T value;
  machine()->shared_read(address, &value, sizeof value);
  return value;
#endif
}

/// Writes 4, 8 or 16 bytes.
template <class T>
SINQ_CUDA_DEVICE void store_shared(std::uint32_t address, T value) {
#if defined(__CUDACC__)
  union {
    T value;
    std::uint32_t w[sizeof(T) / 4];
  } bits{value};
  if constexpr (sizeof(T) == 16)
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(bits.w[0]), "r"(bits.w[1]), "r"(bits.w[2]),
                 "r"(bits.w[3])
                 : "memory");
  else if constexpr (sizeof(T) == 8)
    asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(address), "r"(bits.w[0]), "r"(bits.w[1]) : "memory");
  else
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(bits.w[0]) : "memory");
#else
  machine()->shared_write(address, &value, sizeof value);
#endif
}

/// Raises a word to `value` if it is lower. A maximum does not depend on who comes first.
SINQ_CUDA_DEVICE void raise_shared(std::uint32_t address, std::uint32_t value) {
#if defined(__CUDACC__)
  asm volatile("red.shared.max.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
#else
  machine()->shared_max(address, value);
#endif
}

// --- global memory ---------------------------------------------------------------------------------------------------

/// Reads what no other block writes while the kernel runs, and another thread of the block only across a barrier.
template <class T>
SINQ_CUDA_DEVICE T load_global(const void* from) {
#if defined(__CUDACC__)
  return *static_cast<const T*>(from);
#else
  T value;
  machine()->global_read(from, &value, sizeof value);
  return value;
#endif
}

template <class T>
SINQ_CUDA_DEVICE void store_global(void* to, T value) {
#if defined(__CUDACC__)
  *static_cast<T*>(to) = value;
#else
  machine()->global_write(to, &value, sizeof value);
#endif
}

/// Raises a word of 32 or 64 bits to `value` if it is lower; any number of blocks may. Read in a later launch.
template <class T>
SINQ_CUDA_DEVICE void raise_global(T* at, T value) {
#if defined(__CUDACC__)
  if constexpr (sizeof(T) == 8)
    asm volatile("red.global.max.u64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
  else
    asm volatile("red.global.max.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
#else
  machine()->global_max(at, value, sizeof value);
#endif
}

/// Starts to copy 16 bytes from global to shared memory, past the L1 cache. Before sm_80 this is a load and a store.
SINQ_CUDA_DEVICE void copy_async(std::uint32_t address, const void* from) {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
#else
  const auto bytes = load_global<Words4>(from);
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(bytes.w[0]), "r"(bytes.w[1]),
               "r"(bytes.w[2]), "r"(bytes.w[3])
               : "memory");
#endif
#else
  machine()->copy_async(address, from);
#endif
}

/// The same for what nobody will read again: the L2 cache gives it up first. The policy is a constant, which the
/// compiler puts into the descriptor that these copies have anyway. Before sm_80 there is none.
SINQ_CUDA_DEVICE void copy_async_once(std::uint32_t address, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "l"(policy)
               : "memory");
#else
  copy_async(address, from);
#endif
}

/// Makes a group of the thread's copies since the last group (which may be empty).
SINQ_CUDA_DEVICE void copy_commit() {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
#else
  machine()->copy_commit();
#endif
}

/// Waits until all groups of this thread but the newest kNewest have arrived. Other threads see them after a barrier.
template <int kNewest>
SINQ_CUDA_DEVICE void copy_wait() {
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
#endif
#else
  machine()->copy_wait(kNewest);
#endif
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
