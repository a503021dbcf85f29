// SPDX-License-Identifier: Apache-2.0
#pragma once

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

/// Lets blocks of a kernel have all the shared memory that a block of the device at hand can have: an amount per launch
/// would be overwritten by other threads, and captured launches, that need another one.
template <class Argument>
void allow_shared(void (*kernel)(Argument), const Here& here) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             here.device.shared_per_block),
        "cudaFuncSetAttribute");
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
