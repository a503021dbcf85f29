// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quantize_plan.hpp"
#include "quantize_steps.cuh"

// The host's side of quantizing a matrix, on whatever launches the kernels: a stream of a device (quantize.cuh), or the
// tests' executor.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// The arguments of one call, checked, and what can be done with them. Only what says so waits for the kernels.
///
/// `Stream` has launch(kernel, blocks, threads, shared bytes, quantization), zero(memory, bytes) and
/// read(from, count, to), which happen in their order; `read` waits.
template <class T, class Stream>
class Quantizing {
 public:
  Quantizing(MatrixView<const T> weights, Number number, const QuantizeConfig& config, std::span<std::byte> workspace,
             Stream stream)
      : weights_(weights),
        config_(config),
        stream_(std::move(stream)),
        q_(quantization_of(config, weights.rows, weights.cols, number)) {
    core::require_view(weights, "weights");
    require_workspace(workspace, place(q_, nullptr), 256);
    (void)place(q_, reinterpret_cast<std::uint8_t*>(workspace.data()));
    q_.weights = weights.data;
    q_.stride = weights.stride;
    q_.aligned = reinterpret_cast<std::uintptr_t>(weights.data) % (4 * sizeof(T)) == 0 && weights.stride % 4 == 0;
  }

  /// Scales, zeros and column scales, into the workspace. `mean_square`: of the activations of each column, on the
  /// device; for a weighted fit.
  void choose(std::span<const double> mean_square) {
    core::require(!q_.weighted || static_cast<std::int64_t>(mean_square.size()) == weights_.cols, "mean_square.size()",
                  mean_square.size(), "must equal weights.cols, ", weights_.cols, ": this calibration needs it");
    q_.mean_square = mean_square.data();
    // The two arrays lie next to each other.
    const auto* const end = reinterpret_cast<const std::uint8_t*>(q_.largest + q_.tiles());
    stream_.zero(q_.findings, end - reinterpret_cast<const std::uint8_t*>(q_.findings));
    choose_factors(q_, launcher());
  }

  /// The matrix, into memory of an order whose gaps are zero: that of `format`, or of what `wait` has made of it.
  void store(const KernelOrder& order, std::uint8_t* memory) {
    aim(q_, order, memory);
    store_matrix(q_, launcher());
  }

  /// Waits for `choose`, in this call or an earlier one; raises what is wrong as the CPU does.
  void wait() {
    stream_.read(q_.findings, kFindings, findings_);
    raise_faults(
        q_, findings_, [&](std::int64_t row, std::int64_t col) { return value_at(weights_.row(row) + col); },
        [&](const float* from) { return value_at(from); });
    q_.balanced = q_.balanced && findings_[kGateClosed] == 0;
  }
  /// After `wait`: raises that scales are beyond their type, or gives them a wider one.
  void require_scales() const {
    raise_beyond_aux(q_, findings_, [&](const float* from) { return value_at(from); });
  }
  void widen_scales() {
    if (widened()) widen(q_, launcher());
  }

  /// Of the matrix. After `wait` of just these weights: without column scales where the gate is closed, with wider
  /// scales where they do not fit.
  [[nodiscard]] Format format() const {
    Format f = quantize::format_of(config_, q_.balanced);
    if (widened()) f.scale = Aux::f32;
    return f;
  }
  [[nodiscard]] LevelTable table() const { return quantize::table_of(config_); }

  /// After `wait`; waits once more if the matrix is balanced.
  [[nodiscard]] QuantizeReport report() const {
    QuantizeReport r{1, 1, q_.balanced, widened(), findings_[kTinyRows] != 0};
    if (!q_.balanced) return r;
    // The two arrays lie next to each other.
    const std::int64_t first = q_.first_imbalance - q_.imbalance, count = first + q_.tiles();
    std::vector<double> imbalance(static_cast<std::size_t>(count));
    stream_.read(q_.imbalance, count, imbalance.data());
    const auto mean = [&](std::int64_t from) {
      const auto begin = imbalance.begin() + from, end = begin + q_.tiles();
      return std::accumulate(begin, end, 0.0) / static_cast<double>(q_.tiles());
    };
    r.imbalance_before = mean(first);
    r.imbalance_after = mean(0);
    return r;
  }

 private:
  [[nodiscard]] bool widened() const { return findings_[kBeyondAux] != 0; }

  template <class U>
  [[nodiscard]] float value_at(const U* from) const {
    U value{};
    stream_.read(from, 1, &value);
    return static_cast<float>(value);
  }

  [[nodiscard]] auto launcher() {
    return [this](auto kernel, std::int64_t blocks, int threads, int shared_bytes, const Quantization& q) {
      core::require(blocks <= 0x7fff'ffff, "rows", weights_.rows, "more blocks than a launch has");
      stream_.launch(kernel, blocks, threads, shared_bytes, q);
    };
  }

  MatrixView<const T> weights_;
  QuantizeConfig config_;
  Stream stream_;
  Quantization q_;
  std::uint64_t findings_[kFindings] = {};
};

}  // namespace sinq::inline SINQ_ABI::detail::cuda
