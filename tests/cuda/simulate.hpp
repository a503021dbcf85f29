// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/cuda/multiply.cuh>
#include <sinq/cuda/multiply_wgmma.cuh>
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

/// A matrix as it lies on the device.
class Resident {
 public:
  explicit Resident(const QuantizedMatrix& q)
      : format_(q.format),
        order_(detail::cuda::kernel_order(q.format, q.table, q.rows, q.cols)),
        memory_(detail::cuda::to_kernel_order(q, order_)) {}

  [[nodiscard]] detail::cuda::Weights weights() { return order_.place(memory_.data()); }
  [[nodiscard]] const Format& format() const { return format_; }
  /// Names its buffers.
  void show(Executor& run) {
    const detail::cuda::Weights w = weights();
    const auto sized = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    run.constant("codes", w.codes, sized(order_.strips * w.units * detail::cuda::unit_bytes(w.bits)));
    run.constant("aux", w.aux, sized(order_.strips * w.aux_stride));
    run.constant("col_scale", w.col_scale, sized(order_.bytes - order_.col_scale_at));
  }

 private:
  Format format_;
  detail::cuda::KernelOrder order_;
  Aligned memory_;
};

/// Changes to the machine and to what the kernels are told.
using Change = std::function<void(Executor&, detail::cuda::Product&)>;

/// The product of a problem whose matrices the executor knows, as the device would compute it. x.stride and the
/// alignment of x are those of the view.
template <class X, class Y>
Simulation simulate(Executor& run, const detail::cuda::Problem& problem, detail::cuda::Product p,
                    const MatrixView<const X>& x, const MatrixView<Y>& y, const Y* bias = nullptr,
                    const cuda::PlanOptions& options = {}, const cuda::Device& device = {},
                    const Change& change = nullptr) {
  using namespace detail::cuda;
  Simulation result;
  result.plan = make_plan(problem, y.rows, kNumber<X>, device, options);
  Aligned workspace(static_cast<std::size_t>(result.plan.workspace_bytes));
  p.x = x.data;
  p.x_stride = x.stride;
  p.x_number = kNumber<X>;
  p.x_aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride * sizeof(X) % 16 == 0;
  p.y = y.data;
  p.y_stride = y.stride;
  p.y_number = kNumber<Y>;
  p.bias = bias;
  p.partial = reinterpret_cast<float*>(workspace.data());
  apply(result.plan, problem, p);
  for (std::int64_t t = 0; t < x.rows; ++t) run.constant("x", x.row(t), static_cast<std::size_t>(x.cols));
  for (std::int64_t t = 0; t < y.rows; ++t) run.writable("y", y.row(t), static_cast<std::size_t>(y.cols));
  if (bias) run.constant("bias", bias, static_cast<std::size_t>(std::max(problem.experts, 1) * y.cols));
  run.writable("workspace", p.partial, static_cast<std::size_t>(result.plan.workspace_bytes / 4));
  if (change) change(run, p);
  const auto start = [&](void (*kernel)(Product)) {
    run.launch({static_cast<unsigned>(result.plan.grid_x), static_cast<unsigned>(result.plan.grid_y),
                static_cast<unsigned>(result.plan.grid_z)},
               static_cast<unsigned>(result.plan.threads), static_cast<std::size_t>(result.plan.shared_bytes),
               [&] { kernel(p); });
  };
  with_codes(p.w.bits, p.w.paired, [&](auto bits, auto paired) {
    if constexpr (kNumber<X> != Number::f32)
      if (result.plan.kernel == cuda::Kernel::wgmma)
        return with_wgmma_tokens(result.plan.tiles, [&](auto tokens) {
          start(multiply_wgmma_kernel<bits(), paired(), kNumber<X>, tokens()>);
        });
    with_tiles(result.plan.tiles, [&](auto tiles) { start(multiply_kernel<bits(), paired(), tiles()>); });
  });
  if (p.slices > 1)
    run.launch({static_cast<unsigned>((p.rows + 255) / 256), static_cast<unsigned>(std::min(p.tokens, 65535))}, 256, 0,
               [&] { add_slices_kernel<>(p); });
  result.failure = run.first_failure();
  return result;
}

/// y = x W^T (+ bias) with one matrix.
template <class X, class Y>
Simulation simulate(const QuantizedMatrix& q, const MatrixView<const X>& x, const MatrixView<Y>& y,
                    const Y* bias = nullptr, const cuda::PlanOptions& options = {}, const cuda::Device& device = {},
                    const Change& change = nullptr) {
  Resident matrix(q);
  Executor run;
  matrix.show(run);
  return simulate<X, Y>(run, matrix.weights(), {}, x, y, bias, options, device, change);
}

}  // namespace sinq::test
