// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device_matrix.cuh"
#include "launch.cuh"
#include "multiply.cuh"

namespace sinq::inline SINQ_ABI::cuda {

/// How to multiply `tokens` (from 0 on) activations of type X (__half, __nv_bfloat16 or float) by `w` on `device`.
template <class X = __half>
[[nodiscard]] Plan plan(const DeviceMatrix& w, std::int64_t tokens, const Device& device,
                        const PlanOptions& options = {}) {
  return detail::cuda::make_plan(w.weights(), tokens, detail::cuda::NumberOf<X>::value, device, options);
}

/// y = x W^T + bias: x is tokens x cols, y tokens x rows, row-major in device memory; `bias` has `rows` elements or is
/// null. x and y may be __half, __nv_bfloat16 or float; sums are float. y must not overlap x or the workspace.
///
/// Asynchronous on `stream`, allocates nothing, may be captured in a graph. `workspace` holds `plan.workspace_bytes`
/// bytes, aligned to 16 (may be null if that is 0); two calls that may run at the same time need one each. The same
/// call gives the same bits every time. InvalidArgument if shapes or plan do not fit.
template <class X, class Y>
void matmul(const Plan& plan, const DeviceMatrix& w, MatrixView<const X> x, MatrixView<Y> y, void* workspace,
            cudaStream_t stream, const Y* bias = nullptr) {
  using namespace detail::cuda;
  using detail::core::require;
  require(x.cols == w.cols(), "x.cols", x.cols, "must equal the cols of the matrix");
  require(y.cols == w.rows(), "y.cols", y.cols, "must equal the rows of the matrix");
  require(x.rows == y.rows, "y.rows", y.rows, "must equal x.rows, the number of tokens");
  require(x.stride >= x.cols || x.rows <= 1, "x.stride", x.stride, "must be at least x.cols");
  require(y.stride >= y.cols || y.rows <= 1, "y.stride", y.stride, "must be at least y.cols");
  require(x.rows == plan.tokens, "x.rows", x.rows, "the plan is for another number of tokens");
  Product p;
  p.w = w.weights();
  require_fitting(plan, p.w, NumberOf<X>::value);
  require(plan.workspace_bytes == 0 || workspace != nullptr, "workspace", "null", "the plan asks for one");
  require(reinterpret_cast<std::uintptr_t>(workspace) % 16 == 0, "workspace", workspace, "must be aligned to 16 bytes");
  if (plan.tokens == 0) return;
  p.x = x.data;
  p.y = y.data;
  p.bias = bias;
  p.partial = static_cast<float*>(workspace);
  p.x_stride = x.stride;
  p.y_stride = y.stride;
  p.x_number = NumberOf<X>::value;
  p.y_number = NumberOf<Y>::value;
  p.x_aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride * sizeof(X) % 16 == 0;
  apply(plan, p);
  const auto u = [](int n) { return static_cast<unsigned>(n); };
  with_codes(p.w.bits, p.w.paired, [&](auto bits, auto paired) {
    with_tiles(plan.tiles, [&](auto tiles) {
      launch(multiply_kernel<bits(), paired(), tiles()>, {u(plan.grid_x), u(plan.grid_y), u(plan.grid_z)}, plan.threads,
             plan.shared_bytes, stream, p);
    });
  });
  if (plan.slices > 1)
    launch(add_slices_kernel<>, {u((p.w.rows + 255) / 256), u(std::min(plan.tokens, 65535)), 1}, 256, 0, stream, p);
}

}  // namespace sinq::inline SINQ_ABI::cuda
