// SPDX-License-Identifier: Apache-2.0
#pragma once

// Rounding after a random rotation, the other calibration-free way to tame outliers (QuIP#, QuaRot): each row is
// multiplied by an orthogonal matrix, rounded, and multiplied by its transpose.
//
//   w R = (w S) H      S: random signs;  H: Hadamard, block by block of 2^k columns, 2^k the largest power of 2 that
//                      divides the cols;  R R^T = 1
//
// A rotated weight is a sum of 2^k weights with random signs, near a normal distribution whatever the row looked like,
// and an outlier is spread over all of its block. An engine has to rotate the activations in return: log2(2^k)
// additions per input, which this header, made for comparisons of quality, does not look at.

#include <bit>
#include <random>
#include <sinq/sinq.hpp>

namespace compare {

using FloatMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class Rotation {
 public:
  /// The signs depend on `seed` and nothing else; the generator is the same everywhere.
  explicit Rotation(std::int64_t cols, std::uint32_t seed = 1)
      : block_(std::int64_t{1} << std::countr_zero(static_cast<std::uint64_t>(cols))), signs_(cols) {
    std::mt19937 random(seed);
    for (float& s : signs_) s = random() >> 31 != 0 ? -1.0f : 1.0f;
  }

  [[nodiscard]] std::int64_t block() const { return block_; }

  /// w R.
  [[nodiscard]] FloatMatrix forward(FloatMatrix w) const {
    w.array().rowwise() *= signs_.array();
    transform(w);
    return w;
  }

  /// w R^T: a Hadamard matrix is symmetric.
  [[nodiscard]] FloatMatrix backward(FloatMatrix w) const {
    transform(w);
    w.array().rowwise() *= signs_.array();
    return w;
  }

 private:
  /// The fast transform, log2(block) steps of sums and differences, divided by sqrt(block).
  void transform(FloatMatrix& w) const {
    const float scale = 1 / std::sqrt(static_cast<float>(block_));
    for (std::int64_t i = 0; i < w.rows(); ++i) {
      for (std::int64_t half = 1; half < block_; half *= 2)
        for (std::int64_t at = 0; at < w.cols(); at += 2 * half) {
          auto a = w.row(i).segment(at, half);
          auto b = w.row(i).segment(at + half, half);
          const Eigen::RowVectorXf difference = a - b;
          a += b;
          b = difference;
        }
      w.row(i) *= scale;
    }
  }

  std::int64_t block_;
  Eigen::RowVectorXf signs_;
};

/// `weights` rotated, quantized, restored and rotated back.
/// `bytes`: what the quantized matrix takes.
[[nodiscard]] inline FloatMatrix rotate_and_round(const FloatMatrix& weights, const sinq::QuantizeConfig& config,
                                                  const sinq::QuantizeOptions& options, std::int64_t& bytes,
                                                  std::uint32_t seed = 1) {
  const Rotation rotation(weights.cols(), seed);
  FloatMatrix w = rotation.forward(weights);
  const sinq::QuantizedMatrix q = sinq::quantize(w, config, options);
  bytes = q.bytes();
  sinq::dequantize(q, sinq::MatrixView<float>(w));
  return rotation.backward(std::move(w));
}

}  // namespace compare
