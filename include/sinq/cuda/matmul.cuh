// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device_matrix.cuh"
#include "launch.cuh"
#include "multiply.cuh"
#include "multiply_wgmma.cuh"

namespace sinq::inline SINQ_ABI {
namespace detail::cuda {

/// InvalidArgument unless everything fits.
template <class X, class Y>
void require_product(const sinq::cuda::Plan& plan, const Problem& problem, MatrixView<const X> x, MatrixView<Y> y,
                     std::span<std::byte> workspace, const Here& here) {
  using core::require;
  require(x.cols == problem.w.cols, "x.cols", x.cols, "must equal the cols of the matrix, ", problem.w.cols);
  require(y.cols == problem.rows, "y.cols", y.cols, "must equal the rows of the matrix, ", problem.rows);
  core::require_view(x, "x");
  core::require_view(y, "y");
  require(y.rows == plan.tokens, "y.rows", y.rows, "the plan is for ", plan.tokens, " tokens");
  require_fitting(plan, problem, NumberOf<X>::value);
  require_possible(plan, here.device);
  require_workspace(workspace, plan.workspace_bytes, 16);
}

template <class X, class Y>
void multiply(const sinq::cuda::Plan& plan, const Problem& problem, Product p, MatrixView<const X> x, MatrixView<Y> y,
              std::span<std::byte> workspace, cudaStream_t stream, const Y* bias, const Here& here) {
  if (plan.tokens == 0) return;
  p.x = x.data;
  p.y = y.data;
  p.bias = bias;
  p.partial = reinterpret_cast<float*>(workspace.data());
  p.x_stride = x.stride;
  p.y_stride = y.stride;
  p.x_number = NumberOf<X>::value;
  p.y_number = NumberOf<Y>::value;
  p.x_aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride * sizeof(X) % 16 == 0;
  apply(plan, problem, p);
  const auto u = [](int n) { return static_cast<unsigned>(n); };
  const auto start = [&](void (*kernel)(Product)) {
    if (plan.shared_bytes > 48 << 10) allow_shared(kernel, here);
    launch(kernel, {u(plan.grid_x), u(plan.grid_y), u(plan.grid_z)}, plan.threads, plan.shared_bytes, stream, p);
  };
  with_codes(p.w.bits, p.w.paired, [&](auto bits, auto paired) {
    if constexpr (NumberOf<X>::value != Number::f32)
      if (plan.kernel == sinq::cuda::Kernel::wgmma)
        return with_wgmma_tokens(plan.tiles, [&](auto tokens) {
          start(multiply_wgmma_kernel<bits(), paired(), NumberOf<X>::value, tokens()>);
        });
    with_tiles(plan.tiles, [&](auto tiles) { start(multiply_kernel<bits(), paired(), tiles()>); });
  });
  if (plan.slices > 1)
    launch(add_slices_kernel<>, {u((p.rows + 255) / 256), u(std::min(plan.tokens, 65535)), 1}, 256, 0, stream, p);
}

}  // namespace detail::cuda

namespace cuda {

/// How to multiply `tokens` (from 0 on) activations of type X (__half, __nv_bfloat16 or float) by `w` on `device`.
template <class X = __half>
[[nodiscard]] Plan plan(const DeviceMatrix& w, std::int64_t tokens, const Device& device,
                        const PlanOptions& options = {}) {
  return detail::cuda::make_plan(w.weights(), tokens, detail::cuda::NumberOf<X>::value, device, options);
}

/// y = x W^T + bias: x is tokens x cols, y tokens x rows, row-major in device memory; `bias` has `rows` elements or is
/// null. x (constant or not) and y may be __half, __nv_bfloat16 or float; sums are float. y must not overlap x or the
/// workspace.
///
/// Asynchronous on `stream`, allocates nothing, may be captured in a graph. `workspace` holds `plan.workspace_bytes`
/// bytes of device memory, aligned to 16 (may be empty if that is 0); two calls that may run at the same time need one
/// each. The same call gives the same bits every time. InvalidArgument if shapes, plan or the current device do not
/// fit.
template <class X, class Y>
void matmul(const Plan& plan, const DeviceMatrix& w, MatrixView<X> x, MatrixView<Y> y, std::span<std::byte> workspace,
            cudaStream_t stream, const std::type_identity_t<Y>* bias = nullptr) {
  using namespace detail::cuda;
  detail::core::require(x.rows == y.rows, "y.rows", y.rows, "must equal x.rows, the number of tokens, ", x.rows);
  const Here current = here();
  require_here(w, current);
  const Problem problem = w.weights();
  require_product(plan, problem, constant(x), y, workspace, current);
  multiply(plan, problem, {}, constant(x), y, workspace, stream, bias, current);
}

/// Several matrices with one input, as query, key and value or gate and up have: neighbours of one format in one
/// launch, as if they lay below each other. InvalidArgument unless they have the same columns.
using DeviceMatrices = std::span<const DeviceMatrix* const>;
template <class X = __half>
[[nodiscard]] SideBySidePlan plan(DeviceMatrices matrices, std::int64_t tokens, const Device& device,
                                  const PlanOptions& options = {}) {
  return detail::cuda::make_side_by_side_plan(matrices, tokens, detail::cuda::NumberOf<X>::value, device, options);
}

/// y is tokens x (rows of all matrices), the outputs of the first matrix first, and so is the bias. Nothing is launched
/// unless all of it fits.
template <class X, class Y>
void matmul(const SideBySidePlan& plan, DeviceMatrices matrices, MatrixView<X> x, MatrixView<Y> y,
            std::span<std::byte> workspace, cudaStream_t stream, const std::type_identity_t<Y>* bias = nullptr) {
  using namespace detail::cuda;
  using detail::core::require;
  require(x.rows == y.rows, "y.rows", y.rows, "must equal x.rows, the number of tokens, ", x.rows);
  detail::core::require_view(y, "y");
  const auto for_all = [&](auto&& visit) {
    std::size_t k = 0;
    for_launches(matrices, [&](const Problem& problem, std::int64_t row) {
      require(k < plan.launches.size(), "plan.launches.size()", plan.launches.size(), "was made for other matrices");
      visit(plan.launches[k++], problem, row, MatrixView<Y>(y.data + row, y.rows, problem.rows, y.stride));
    });
    require(k == plan.launches.size(), "plan.launches.size()", plan.launches.size(), "was made for other matrices");
  };
  require_matrices(matrices, "matrices");
  const Here current = here();
  for (const DeviceMatrix* w : matrices) require_here(*w, current);
  std::int64_t rows = 0;
  for_all([&](const Plan& launch, const Problem& problem, std::int64_t, MatrixView<Y> part) {
    require_product(launch, problem, constant(x), part, workspace, current);
    rows += problem.rows;
  });
  require(y.cols == rows, "y.cols", y.cols, "must equal the rows of all matrices, ", rows);
  for_all([&](const Plan& launch, const Problem& problem, std::int64_t row, MatrixView<Y> part) {
    multiply(launch, problem, {}, constant(x), part, workspace, stream, bias != nullptr ? bias + row : nullptr,
             current);
  });
}

}  // namespace cuda
}  // namespace sinq::inline SINQ_ABI
