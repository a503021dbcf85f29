// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

#include "device_matrix.cuh"

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Starts a kernel with one argument. More than 48 KB of shared memory have to be allowed first.
template <class Argument>
void launch(void (*kernel)(Argument), Index3 grid, int threads, int shared_bytes, cudaStream_t stream,
            Argument argument) {
  void* arguments[] = {&argument};
  check(
      cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(grid.x, grid.y, grid.z),
                       dim3(static_cast<unsigned>(threads)), arguments, static_cast<std::size_t>(shared_bytes), stream),
      "cudaLaunchKernel");
}

/// Lets blocks of a kernel have all the shared memory that a block of the device at hand can have. Once per kernel and
/// device, and always all of it: an amount per launch would be overwritten by other threads and captured launches that
/// need another one. (cudaDeviceReset takes it back, as it takes the matrices.)
template <auto kKernel>
void allow_shared(const Here& here) {
  static std::atomic<std::uint64_t> allowed{0};  // a bit per device; beyond 64, each time
  const std::uint64_t bit = here.ordinal < 64 ? std::uint64_t{1} << here.ordinal : 0;
  if ((allowed.load(std::memory_order_acquire) & bit) != 0) return;
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kKernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             here.device.shared_per_block),
        "cudaFuncSetAttribute");
  allowed.fetch_or(bit, std::memory_order_release);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
