// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device_matrix.cuh"

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Starts a kernel with one argument. More than 48 KB of shared memory have to be asked for first.
template <class Argument>
void launch(void (*kernel)(Argument), Index3 grid, int threads, int shared_bytes, cudaStream_t stream,
            Argument argument) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > 48 << 10)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
          "cudaFuncSetAttribute");
  void* arguments[] = {&argument};
  check(cudaLaunchKernel(function, dim3(grid.x, grid.y, grid.z), dim3(static_cast<unsigned>(threads)), arguments,
                         static_cast<std::size_t>(shared_bytes), stream),
        "cudaLaunchKernel");
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
