// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dequantize_kernel.cuh"
#include "device_matrix.cuh"
#include "launch.cuh"

namespace sinq::inline SINQ_ABI {
namespace detail::cuda {

/// Rows [first, first + out.rows): all, or whole strips whose panels end with a strip.
template <class T>
void restore(const Weights& w, std::int64_t first, MatrixView<T> out, cudaStream_t stream) {
  constexpr int kThreads = 256;
  Restoration r;
  r.w = w;
  r.out = out.data;
  r.stride = out.stride;
  r.number = NumberOf<T>::value;
  r.aligned = reinterpret_cast<std::uintptr_t>(out.data) % (4 * sizeof(T)) == 0 && out.stride % 4 == 0;
  r.first_strip = first / kStripRows;
  r.first_row = first;
  r.strips = first == 0 && out.rows == w.rows ? strips_of(w) : (out.rows + kStripRows - 1) / kStripRows;
  const std::int64_t blocks = (r.strips * w.units * kLanes + kThreads - 1) / kThreads;
  core::require(blocks <= 0x7fff'ffff, "rows", out.rows, "too many blocks");
  with_codes(w.bits, w.paired, [&](auto bits, auto paired) {
    launch(dequantize_kernel<bits(), paired()>, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, r);
  });
}

}  // namespace detail::cuda

namespace cuda {

/// W ~= (level(code) - zero) * scale * col_scale, rows x cols of __half, __nv_bfloat16 or float in device memory: the
/// same bits as `sinq::dequantize` gives. Asynchronous on `stream`, allocates nothing. InvalidArgument if the shape
/// does not fit, or the matrix lies on another device than the current one.
template <class T>
void dequantize(const DeviceMatrix& w, MatrixView<T> out, cudaStream_t stream = nullptr) {
  using detail::core::require;
  detail::cuda::require_here(w.device(), detail::cuda::here());
  require(out.rows == w.rows(), "out.rows", out.rows, "must equal the rows of the matrix");
  require(out.cols == w.cols(), "out.cols", out.cols, "must equal the cols of the matrix");
  detail::core::require_view(out, "out");
  detail::cuda::restore(w.weights(), 0, out, stream);
}

}  // namespace cuda
}  // namespace sinq::inline SINQ_ABI
