// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device_matrix.cuh"

// Eigen again (device_matrix.cuh).
#pragma nv_diagnostic push
#pragma nv_diag_suppress 20012, 20013, 20014, 20015
#include "quantize_plan.hpp"
#pragma nv_diagnostic pop

#include "launch.cuh"
#include "quantize_steps.cuh"

namespace sinq::inline SINQ_ABI::cuda {

/// Bytes of device memory that `quantize` needs beside the weights and the result: about a sixth of what the weights
/// take in bfloat16 with groups of 64, a quarter with HQQ or a fit; with groups of 16, as presets have them, three
/// quarters. InvalidArgument as in `quantize`.
[[nodiscard]] inline std::int64_t quantize_workspace_bytes(std::int64_t rows, std::int64_t cols,
                                                           const QuantizeConfig& config) {
  detail::cuda::Quantization q = detail::cuda::quantization_of(config, rows, cols, detail::cuda::Number::f32);
  return detail::cuda::place(q, nullptr);
}

/// Quantizes weights that lie on the current device, __half, __nv_bfloat16 or float: the same matrix as
/// sinq::quantize, bit for bit. `workspace` holds `quantize_workspace_bytes` bytes, aligned to 256.
///
/// Allocates the result and waits once for `stream`, to know whether the weights are numbers and the scales fit their
/// type. The codes are still being chosen when it returns: what uses the result later on `stream` finds it whole, and
/// until then weights and workspace must stay. With a kurtosis gate it waits once more before that, to know whether to
/// balance. InvalidArgument for what sinq::quantize refuses, and for calibration, which the device does not know.
template <class T>
[[nodiscard]] DeviceMatrix quantize(MatrixView<const T> weights, const QuantizeConfig& config,
                                    std::span<std::byte> workspace, cudaStream_t stream = nullptr,
                                    QuantizeReport* report = nullptr) {
  using namespace detail::cuda;
  using detail::core::require;
  require(weights.data != nullptr, "weights.data", "null", "must not be null");
  require(weights.stride >= weights.cols || weights.rows == 1, "weights.stride", weights.stride,
          "must be at least weights.cols");
  Quantization q = quantization_of(config, weights.rows, weights.cols, NumberOf<T>::value);
  require_workspace(workspace, place(q, nullptr), 256);
  q.weights = weights.data;
  q.stride = weights.stride;
  q.aligned = reinterpret_cast<std::uintptr_t>(weights.data) % (4 * sizeof(T)) == 0 && weights.stride % 4 == 0;
  (void)place(q, reinterpret_cast<std::uint8_t*>(workspace.data()));

  const auto start = [&](auto kernel, std::int64_t blocks, int threads, int shared_bytes,
                         const Quantization& argument) {
    require(blocks <= 0x7fff'ffff, "rows", weights.rows, "more blocks than a launch has");
    launch(kernel, {static_cast<unsigned>(blocks), 1, 1}, threads, shared_bytes, stream, argument);
  };
  const auto copy = [&]<class U>(const U* from, std::int64_t count, U* to) {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(U), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  };
  if (q.gated) {
    measure_moments(q, start);
    double moments[kMoments] = {};
    copy(MomentPlaces::of(q, 0).of_all, kMoments, moments);
    if (gate_closed(config, q, moments[1], moments[2])) {
      QuantizeConfig unbalanced = config;
      unbalanced.balance = Balancing::none;
      return quantize(weights, unbalanced, workspace, stream, report);
    }
  }
  check(cudaMemsetAsync(q.largest, 0, static_cast<std::size_t>(q.tiles()) * sizeof *q.largest, stream),
        "cudaMemsetAsync");
  check(cudaMemsetAsync(q.faults, 0, kFaults * sizeof *q.faults, stream), "cudaMemsetAsync");
  choose_factors(q, start);
  std::uint64_t faults[kFaults] = {};
  copy(q.faults, kFaults, faults);
  raise_faults(
      q, faults,
      [&](std::int64_t row, std::int64_t col) {
        T value{};
        copy(weights.row(row) + col, 1, &value);
        return static_cast<float>(value);
      },
      [&](const float* from) {
        float value = 0;
        copy(from, 1, &value);
        return value;
      });

  Format format = detail::quantize::format_of(config, q.balanced);
  const bool widened = faults[kBeyondAux] != 0;
  if (widened) {
    format.scale = Aux::f32;
    widen(q, start);
  }
  DeviceMatrix result(format, detail::quantize::table_of(config), weights.rows, weights.cols, stream);
  aim(q, result.order(), result.memory());
  store_matrix(q, start);
  if (report == nullptr) return result;
  *report = {1, 1, q.balanced, widened};
  if (!q.balanced) return result;
  std::vector<double> imbalance(static_cast<std::size_t>(q.tiles()));
  const auto mean = [&](const double* from) {
    copy(from, q.tiles(), imbalance.data());
    return std::accumulate(imbalance.begin(), imbalance.end(), 0.0) / static_cast<double>(q.tiles());
  };
  report->imbalance_before = mean(q.first_imbalance);
  report->imbalance_after = mean(q.imbalance);
  return result;
}

}  // namespace sinq::inline SINQ_ABI::cuda
