// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device_matrix.cuh"

// Eigen again (device_matrix.cuh).
#pragma nv_diagnostic push
#pragma nv_diag_suppress 20012, 20013, 20014, 20015
#include "quantize_plan.hpp"
#pragma nv_diagnostic pop

#include "launch.cuh"
#include "quantizing.cuh"

namespace sinq::inline SINQ_ABI {
namespace detail::cuda {

/// What Quantizing asks of a stream.
struct DeviceStream {
  cudaStream_t stream;

  template <class Kernel>
  void launch(Kernel kernel, std::int64_t blocks, int threads, int shared_bytes, const Quantization& q) const {
    cuda::launch(kernel, {static_cast<unsigned>(blocks), 1, 1}, threads, shared_bytes, stream, q);
  }
  void zero(void* memory, std::int64_t bytes) const {
    check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), stream), "cudaMemsetAsync");
  }
  template <class U>
  void read(const U* from, std::int64_t count, U* to) const {
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(U), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }
};

template <class T>
[[nodiscard]] Quantizing<T, DeviceStream> quantizing(MatrixView<const T> weights, const QuantizeConfig& config,
                                                     std::span<std::byte> workspace, cudaStream_t stream) {
  return {weights, NumberOf<T>::value, config, workspace, DeviceStream{stream}};
}

}  // namespace detail::cuda

namespace cuda {

/// Bytes of device memory that quantizing needs beside the weights and the result: about a sixth of what the weights
/// take in bfloat16 with groups of 64, a quarter with HQQ or a fit; with groups of 16, as presets have them, three
/// quarters. InvalidArgument as in `quantize`.
[[nodiscard]] inline std::int64_t quantize_workspace_bytes(std::int64_t rows, std::int64_t cols,
                                                           const QuantizeConfig& config) {
  detail::cuda::Quantization q = detail::cuda::quantization_of(config, rows, cols, detail::cuda::Number::f32);
  return detail::cuda::place(q, nullptr);
}

/// Quantizes weights that lie on the current device, __half, __nv_bfloat16 or float: the same matrix as
/// sinq::quantize, bit for bit, unless the code that calls this is compiled with -ftz=true, as --use_fast_math does:
/// subnormal numbers become 0 then. `workspace` holds `quantize_workspace_bytes` bytes, aligned to 256.
///
/// Allocates the result and waits once for `stream`, to know whether the weights are numbers, the scales fit their type
/// and the kurtosis gate is open: all that decides over the result's format; and once more for a `report` on balanced
/// weights. The codes are still being chosen when it returns: what uses the result later on `stream` finds it whole,
/// and until then weights and workspace must stay.
///
/// With Calibration::weighted, `mean_square` is that of each column's activations (Activations::mean_square), on the
/// device; it must stay as the weights do. InvalidArgument for what sinq::quantize refuses, and for other calibrations,
/// which the device does not know.
template <class T>
[[nodiscard]] DeviceMatrix quantize(MatrixView<T> weights, const QuantizeConfig& config, std::span<std::byte> workspace,
                                    cudaStream_t stream = nullptr, QuantizeReport* report = nullptr,
                                    std::span<const double> mean_square = {}) {
  auto quantizing = detail::cuda::quantizing(detail::cuda::constant(weights), config, workspace, stream);
  quantizing.choose(mean_square);
  quantizing.wait();
  quantizing.widen_scales();
  if (report != nullptr) *report = quantizing.report();
  DeviceMatrix w(quantizing.format(), quantizing.table(), weights.rows, weights.cols, std::nullopt, stream);
  quantizing.store(w.order(), w.memory());
  return w;
}

/// Bytes of device memory that `make_device_matrix` takes.
[[nodiscard]] inline std::size_t device_bytes(const QuantizeConfig& config, std::int64_t rows, std::int64_t cols) {
  detail::cuda::require_on_device(config);
  return device_bytes(detail::quantize::format_of(config, config.balance == Balancing::sinkhorn), rows, cols);
}

/// A matrix for `quantize_into`, of zeros; in memory of the caller's if that is given, as in DeviceMatrix.
/// InvalidArgument as in `quantize`; CudaError if the device refuses.
[[nodiscard]] inline DeviceMatrix make_device_matrix(std::int64_t rows, std::int64_t cols, const QuantizeConfig& config,
                                                     std::optional<std::span<std::byte>> memory,
                                                     cudaStream_t stream = nullptr) {
  detail::cuda::require_on_device(config);
  return {detail::quantize::format_of(config, config.balance == Balancing::sinkhorn),
          detail::quantize::table_of(config),
          rows,
          cols,
          memory,
          stream};
}
[[nodiscard]] inline DeviceMatrix make_device_matrix(std::int64_t rows, std::int64_t cols, const QuantizeConfig& config,
                                                     cudaStream_t stream = nullptr) {
  return make_device_matrix(rows, cols, config, std::nullopt, stream);
}

/// The same without waiting, into a matrix that `make_device_matrix` made for this shape and configuration, however
/// often. Asynchronous on `stream`, allocates nothing, may be captured in a graph. Weights and workspace must stay
/// until the work is done, and until `check_quantized` has asked about it.
///
/// `w` has its format already. So it has column scales of 1 where the kurtosis gate is closed, and scales that do not
/// fit their type are an error, which `check_quantized` reports.
template <class T>
void quantize_into(DeviceMatrix& w, MatrixView<T> weights, const QuantizeConfig& config, std::span<std::byte> workspace,
                   cudaStream_t stream, std::span<const double> mean_square = {}) {
  using namespace detail::cuda;
  using detail::core::require;
  auto quantizing = detail::cuda::quantizing(detail::cuda::constant(weights), config, workspace, stream);
  require_here(w, here());
  require(w.rows() == weights.rows, "w.rows()", w.rows(), "must equal weights.rows, ", weights.rows);
  require(w.cols() == weights.cols, "w.cols()", w.cols(), "must equal weights.cols, ", weights.cols);
  require(w.format() == quantizing.format() && w.table() == quantizing.table(), "w.format()", "another",
          "must be the configuration's (make_device_matrix)");
  quantizing.choose(mean_square);
  quantizing.store(w.order(), w.memory());
}

/// Waits for `stream` and says how a `quantize_into` with these arguments ended, the last one that used the workspace.
/// InvalidArgument, as from sinq::quantize, if a weight is not finite or not below 2^120, or a scale is; and, unlike
/// there, if a scale does not fit its float type: quantize again, with scale = f32. What the matrix holds then means
/// nothing.
template <class T>
QuantizeReport check_quantized(MatrixView<T> weights, const QuantizeConfig& config, std::span<std::byte> workspace,
                               cudaStream_t stream) {
  auto quantizing = detail::cuda::quantizing(detail::cuda::constant(weights), config, workspace, stream);
  quantizing.wait();
  quantizing.require_scales();
  return quantizing.report();
}

}  // namespace cuda
}  // namespace sinq::inline SINQ_ABI
