// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dequantize_kernel.cuh"
#include "device_matrix.cuh"
#include "launch.cuh"

namespace sinq::inline SINQ_ABI {
namespace detail::cuda {

template <class T>
void restore(const Weights& w, std::int64_t first, MatrixView<T> out, cudaStream_t stream) {
  restore(w, first, out, NumberOf<T>::value,
          [&](auto kernel, unsigned x, unsigned y, unsigned threads, unsigned shared_bytes, const Restoration& r) {
            launch(kernel, {x, y, 1}, static_cast<int>(threads), static_cast<int>(shared_bytes), stream, r);
          });
}

}  // namespace detail::cuda

namespace cuda {

/// W ~= (level(code) - zero) * scale * col_scale, rows x cols of __half, __nv_bfloat16 or float in device memory: the
/// same bits as `sinq::dequantize` gives, unless the code that calls this is compiled with -ftz=true, as
/// --use_fast_math does: subnormal numbers become 0 then. Asynchronous on `stream`, allocates nothing. InvalidArgument
/// if the shape does not fit, or the matrix lies on another device than the current one.
template <class T>
void dequantize(const DeviceMatrix& w, MatrixView<T> out, cudaStream_t stream = nullptr) {
  using detail::core::require;
  detail::cuda::require_here(w, detail::cuda::here());
  require(out.rows == w.rows(), "out.rows", out.rows, "must equal the rows of the matrix, ", w.rows());
  require(out.cols == w.cols(), "out.cols", out.cols, "must equal the cols of the matrix, ", w.cols());
  detail::core::require_view(out, "out");
  detail::cuda::restore(w.weights(), 0, out, stream);
}

}  // namespace cuda
}  // namespace sinq::inline SINQ_ABI
