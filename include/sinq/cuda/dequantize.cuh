// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dequantize_kernel.cuh"
#include "device_matrix.cuh"
#include "launch.cuh"

namespace sinq::inline SINQ_ABI::cuda {

/// W ~= (level(code) - zero) * scale * col_scale, rows x cols of __half, __nv_bfloat16 or float in device memory: the
/// same bits as `sinq::dequantize` gives. Asynchronous on `stream`, allocates nothing. InvalidArgument if the shape
/// does not fit.
template <class T>
void dequantize(const DeviceMatrix& w, MatrixView<T> out, cudaStream_t stream = nullptr) {
  using namespace detail::cuda;
  using detail::core::require;
  require(out.rows == w.rows(), "out.rows", out.rows, "must equal the rows of the matrix");
  require(out.cols == w.cols(), "out.cols", out.cols, "must equal the cols of the matrix");
  require(out.stride >= out.cols || out.rows == 1, "out.stride", out.stride, "must be at least out.cols");
  constexpr int kThreads = 256;
  Restoration r;
  r.w = w.weights();
  r.out = out.data;
  r.stride = out.stride;
  r.number = NumberOf<T>::value;
  r.aligned = reinterpret_cast<std::uintptr_t>(out.data) % (4 * sizeof(T)) == 0 && out.stride % 4 == 0;
  r.strips = w.strips();
  const std::int64_t blocks = (r.strips * r.w.units * kLanes + kThreads - 1) / kThreads;
  require(blocks <= 0x7fff'ffff, "rows", w.rows(), "too many blocks");
  with_codes(r.w.bits, r.w.paired, [&](auto bits, auto paired) {
    launch(dequantize_kernel<bits(), paired()>, {static_cast<unsigned>(blocks), 1, 1}, kThreads, 0, stream, r);
  });
}

}  // namespace sinq::inline SINQ_ABI::cuda
