// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "config.hpp"
#include "elementary.hpp"
#include "encode.hpp"

// Activation-aware column scales (AWQ, arXiv 2306.00978; with balancing A-SINQ): columns with large activations are
// multiplied by a factor before rounding, and their column scale divided by it, so that their error becomes smaller at
// the expense of the others'.
//
//   factor[j] = E|x_j|^alpha / (mean |W[.,j]|^(1 - alpha) + 1e-4)      both at least 1e-4, then over sqrt(max min)
//
// for alpha = 0, 0.05, ..., 0.95; the one of the least output error on the sample of tokens stays: of |W x - restored
// x| with balancing, of its square without. Among equals the first.
//
// Two things differ from the Python reference of SINQ. The error is that of the whole method, auxiliaries in their
// stored types included, rather than of a plain rounding to float scales. And with balancing, W and x are those that
// meet there, W / col_scale and x col_scale: with the raw ones, as in the reference, the mean of |W| is divided out a
// second time, and A-SINQ loses more than SINQ does (bench/results/quality.md).

namespace sinq::inline SINQ_ABI::detail::quantize {

inline constexpr int kAwqExponents = 20;

/// x^p for x >= 0 and 0 <= p <= 1, alike on every machine (relative error below 1e-5).
[[nodiscard]] inline float power(float x, float p) noexcept {
  if (p == 0) return 1;
  if (x < 0x1p-120f) return 0;
  return exp2(mul_add(core::Lanes<4>(p), log2(core::Lanes<4>(std::min(x, 0x1p119f))), 0)).fold(core::Most{});
}

/// y[t] = sum_j d[j] x[j][t], j ascending; tokens in lanes.
struct OutputsOf {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const float* d, const float* x, std::int64_t cols, std::int64_t tokens,
                                         float* y) noexcept {
    using Float = core::Lanes<kWidth>;
    constexpr std::int64_t kVectors = 16 / kWidth * 2;  // 32 tokens: as many sums as hide the latency
    constexpr std::int64_t kTokens = kVectors * kWidth;
    for (std::int64_t t = 0; t < tokens; t += kTokens) {
      std::array<Float, kVectors> sum;
      for (std::int64_t j = 0; j < cols; ++j)
        for (std::int64_t v = 0; v < kVectors; ++v)
          sum[static_cast<std::size_t>(v)] =
              mul_add(d[j], Float::load(x + j * tokens + t + v * kWidth), sum[static_cast<std::size_t>(v)]);
      for (std::int64_t v = 0; v < kVectors; ++v) sum[static_cast<std::size_t>(v)].store(y + t + v * kWidth);
    }
  }
};

class AwqSearch {
 public:
  AwqSearch(const WeightView& weights, const Activations& activations, bool balanced)
      : w_(weights), absolute_(balanced) {
    const MatrixView<const float> sample = activations.sample();
    tokens_ = (sample.rows + 31) / 32 * 32;
    x_.resize(static_cast<std::size_t>(w_.cols * tokens_));
    for (std::int64_t t = 0; t < sample.rows; ++t)
      for (std::int64_t j = 0; j < w_.cols; ++j) x_[static_cast<std::size_t>(j * tokens_ + t)] = sample.row(t)[j];
    for (double v : activations.mean_magnitude()) activation_.push_back(static_cast<float>(v));
    std::vector<double> sum(static_cast<std::size_t>(w_.cols));
    std::vector<float> row(sum.size());
    for (std::int64_t i = 0; i < w_.rows; ++i) {
      w_.load(i, 0, w_.cols, row.data());
      for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += std::abs(double{row[j]});
    }
    for (double v : sum) weight_.push_back(static_cast<float>(v / static_cast<double>(w_.rows)));
  }

  /// Column scales (panels x cols) of one exponent: `balanced` over the factors, as they are stored. False if one of
  /// them does not fit its type.
  [[nodiscard]] bool column_scales(int exponent, Aux aux, const std::vector<float>& balanced,
                                   std::vector<float>& out) const {
    const float alpha = static_cast<float>(exponent) / kAwqExponents;
    const std::size_t cols = weight_.size();
    std::vector<float> factor(cols);
    for (std::size_t first = 0; first < balanced.size(); first += cols) {
      float least = INFINITY;
      float most = 0;
      for (std::size_t j = 0; j < cols; ++j) {
        const float col_scale = balanced[first + j];
        const float a = std::max(power(activation_[j] * col_scale, alpha), 1e-4f);
        factor[j] = std::max(a / (power(weight_[j] / col_scale, 1 - alpha) + 1e-4f), 1e-4f);
        least = std::min(least, factor[j]);
        most = std::max(most, factor[j]);
      }
      const auto middle = static_cast<float>(std::sqrt(double{least} * double{most}));
      for (std::size_t j = 0; j < cols; ++j) {
        out[first + j] = pack::round_to(aux, balanced[first + j] / (factor[j] / middle));
        if (!fits(aux, out[first + j])) return false;
      }
    }
    return true;
  }

  /// Sum over rows and sampled tokens of |W x - restored x|, or of its square.
  [[nodiscard]] double output_error(const QuantizedMatrix& q, Executor& threads) const {
    const pack::RowReader reader(q);
    std::vector<double> errors(static_cast<std::size_t>(w_.rows));
    struct Scratch {
      std::vector<float> factors, weights, restored, outputs;
    };
    std::vector<Scratch> scratch(static_cast<std::size_t>(core::width_of(threads)));
    core::run_throwing(threads, w_.rows, [&](std::int64_t i, int worker) {
      Scratch& s = scratch[static_cast<std::size_t>(worker)];
      s.factors.resize(static_cast<std::size_t>(2 * reader.tiling().groups()));
      for (auto* v : {&s.weights, &s.restored}) v->resize(static_cast<std::size_t>(w_.cols));
      s.outputs.resize(static_cast<std::size_t>(tokens_));
      w_.load(i, 0, w_.cols, s.weights.data());
      pack::restore_row(reader, i, s.factors.data(), s.restored.data());
      for (std::size_t j = 0; j < s.weights.size(); ++j) s.restored[j] -= s.weights[j];
      core::on_isa<OutputsOf>(s.restored.data(), x_.data(), w_.cols, tokens_, s.outputs.data());
      double sum = 0;
      for (float y : s.outputs) sum += absolute_ ? std::abs(double{y}) : double{y} * double{y};
      errors[static_cast<std::size_t>(i)] = sum;
    });
    double sum = 0;
    for (double e : errors) sum += e;
    return sum;
  }

 private:
  const WeightView& w_;
  bool absolute_;
  std::int64_t tokens_ = 0;        // of the sample, and zeros up to a multiple of 32
  std::vector<float> x_;           // cols x tokens
  std::vector<float> activation_;  // mean magnitude of each column
  std::vector<float> weight_;      //
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
