// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/cuda/multiply.cuh>
#include <sinq/cuda/order.hpp>
#include <sinq/cuda/plan.hpp>
#include <vector>

#include "executor.hpp"

// The host side of the kernels, for the executor: the same plans, the same arguments, buffers with names instead of
// device memory.

namespace sinq::test {

template <class T>
constexpr detail::cuda::Number kNumber = std::is_same_v<T, half>       ? detail::cuda::Number::f16
                                         : std::is_same_v<T, bfloat16> ? detail::cuda::Number::bf16
                                                                       : detail::cuda::Number::f32;

/// Memory aligned as device memory is.
class Aligned {
 public:
  explicit Aligned(std::size_t bytes) : memory_(bytes / 256 + 1) {}
  explicit Aligned(const std::vector<std::uint8_t>& bytes) : Aligned(bytes.size()) {
    std::memcpy(memory_.data(), bytes.data(), bytes.size());
  }
  std::uint8_t* data() { return reinterpret_cast<std::uint8_t*>(memory_.data()); }

 private:
  struct alignas(256) Line {
    std::uint8_t bytes[256];
  };
  std::vector<Line> memory_;
};

struct Simulation {
  std::string failure;
  cuda::Plan plan;
};

/// y = x W^T (+ bias) as the device would compute it. x.stride and the alignment of x are those of the view.
template <class X, class Y>
Simulation simulate(const QuantizedMatrix& q, const MatrixView<const X>& x, const MatrixView<Y>& y,
                    const Y* bias = nullptr, const cuda::PlanOptions& options = {}, const cuda::Device& device = {},
                    const std::function<void(Executor&, detail::cuda::Product&)>& change = nullptr) {
  using namespace detail::cuda;
  const KernelOrder order = kernel_order(q.format, q.table, q.rows, q.cols);
  const std::vector<std::uint8_t> bytes = to_kernel_order(q, order);
  Aligned memory(bytes);
  Simulation result;
  result.plan = make_plan(order.weights, x.rows, kNumber<X>, device, options);
  Aligned workspace(static_cast<std::size_t>(result.plan.workspace_bytes));

  Product p;
  p.w = order.place(memory.data());
  p.x = x.data;
  p.x_stride = x.stride;
  p.x_number = kNumber<X>;
  p.x_aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride * sizeof(X) % 16 == 0;
  p.y = y.data;
  p.y_stride = y.stride;
  p.y_number = kNumber<Y>;
  p.bias = bias;
  p.partial = reinterpret_cast<float*>(workspace.data());
  apply(result.plan, p);

  Executor run;
  run.constant("codes", p.w.codes, static_cast<std::size_t>(order.strips * p.w.units * unit_bytes(p.w.bits)));
  run.constant("aux", p.w.aux, static_cast<std::size_t>(order.strips * p.w.aux_stride));
  run.constant("col_scale", p.w.col_scale, static_cast<std::size_t>(order.bytes - order.col_scale_at));
  for (std::int64_t t = 0; t < x.rows; ++t) run.constant("x", x.row(t), static_cast<std::size_t>(x.cols));
  for (std::int64_t t = 0; t < y.rows; ++t) run.writable("y", y.row(t), static_cast<std::size_t>(y.cols));
  if (bias) run.constant("bias", bias, static_cast<std::size_t>(y.cols));
  run.writable("workspace", p.partial, static_cast<std::size_t>(result.plan.workspace_bytes / 4));
  if (change) change(run, p);
  with_codes(p.w.bits, p.w.paired, [&](auto bits, auto paired) {
    with_tiles(result.plan.tiles, [&](auto tiles) {
      run.launch({static_cast<unsigned>(result.plan.grid_x), static_cast<unsigned>(result.plan.grid_y),
                  static_cast<unsigned>(result.plan.grid_z)},
                 static_cast<unsigned>(result.plan.threads), static_cast<std::size_t>(result.plan.shared_bytes),
                 [&] { multiply_kernel<bits(), paired(), tiles()>(p); });
    });
  });
  if (p.slices > 1)
    run.launch({static_cast<unsigned>((p.w.rows + 255) / 256), static_cast<unsigned>(std::min(p.tokens, 65535))}, 256,
               0, [&] { add_slices_kernel<>(p); });
  result.failure = run.first_failure();
  return result;
}

}  // namespace sinq::test
