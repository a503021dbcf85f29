// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../version.hpp"

// The same kernel source is compiled twice: by nvcc for a GPU, and by any C++ compiler for a simulated machine that a
// test provides. This file holds what differs by spelling; instructions.cuh holds what differs by instruction.

#if defined(__CUDACC__)
#define SINQ_CUDA_BOTH __host__ __device__
#define SINQ_CUDA_DEVICE __device__ __forceinline__
#define SINQ_CUDA_KERNEL __global__ void
#else
#define SINQ_CUDA_BOTH
#define SINQ_CUDA_DEVICE inline
#define SINQ_CUDA_KERNEL void
#endif
#if defined(__CUDA_ARCH__)  // the host's compiler does not know these
#define SINQ_CUDA_UNROLL _Pragma("unroll")
#define SINQ_CUDA_UNROLL_2 _Pragma("unroll 2")
#define SINQ_CUDA_NO_UNROLL _Pragma("unroll 1")
#else
#define SINQ_CUDA_UNROLL
#define SINQ_CUDA_UNROLL_2
#define SINQ_CUDA_NO_UNROLL
#endif

namespace sinq::inline SINQ_ABI::detail::cuda {

inline constexpr int kLanes = 32;  // threads of a warp

/// Two and four words that one load or store moves; the address is a multiple of the size.
struct alignas(8) Words2 {
  std::uint32_t w[2];
};
struct alignas(16) Words4 {
  std::uint32_t w[4];
};

/// A position in the grid of blocks.
struct Index3 {
  unsigned x, y, z;
};

#if !defined(__CUDACC__)

namespace model {
struct Wgmma;
}

/// What a kernel needs from the machine that runs it, where that is not a GPU. One virtual call per instruction: the
/// machine sees every access to memory and every meeting of threads, and may check them.
class Machine {
 public:
  Machine() = default;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  virtual ~Machine() = default;

  [[nodiscard]] virtual unsigned thread() const = 0;
  [[nodiscard]] virtual unsigned threads() const = 0;
  [[nodiscard]] virtual Index3 block() const = 0;

  /// All threads of the block meet.
  virtual void barrier() = 0;
  /// The 32 lanes of the warp meet; each brings `bytes` bytes. Returns what all brought, in the order of lanes, valid
  /// until the lane's next meeting. All lanes must name the same instruction. `orders_memory`: what a lane wrote
  /// before, the others may read afterwards.
  virtual const std::byte* meet(const char* instruction, const void* mine, std::size_t bytes, bool orders_memory) = 0;

  virtual void shared_read(std::uint32_t offset, void* to, std::size_t bytes) = 0;
  virtual void shared_write(std::uint32_t offset, const void* from, std::size_t bytes) = 0;
  /// Read, maximum, write as one.
  virtual void shared_max(std::uint32_t offset, std::uint32_t value) = 0;
  virtual void global_read(const void* from, void* to, std::size_t bytes) = 0;
  virtual void global_write(void* to, const void* from, std::size_t bytes) = 0;
  /// Of 4 or 8 bytes.
  virtual void global_max(void* to, std::uint64_t value, std::size_t bytes) = 0;

  /// 16 bytes from global to shared memory at some time between now and the wait for their group.
  virtual void copy_async(std::uint32_t offset, const void* from) = 0;
  virtual void copy_commit() = 0;
  virtual void copy_wait(int newest) = 0;

  /// Products of a warpgroup (wgmma.cuh), from now until the wait for their group.
  virtual void wgmma(const model::Wgmma& mine) = 0;
  virtual void wgmma_fence() = 0;
  virtual void wgmma_commit() = 0;
  virtual void wgmma_wait(int newest) = 0;
  virtual void async_proxy_fence() = 0;
};

/// The machine of the running block.
inline Machine*& machine() noexcept {
  static thread_local Machine* current = nullptr;
  return current;
}

#endif

}  // namespace sinq::inline SINQ_ABI::detail::cuda
