// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <sinq/sinq.hpp>
#include <span>
#include <utility>
#include <variant>

#include "tensor.hpp"

namespace engine {

/// y = x W^T + b. W is dense, in the element type of its file and where the file is mapped, or quantized. A dense view
/// must outlive the Linear (the Model keeps the files mapped).
class Linear {
 public:
  Linear() = default;
  explicit Linear(sinq::WeightView weight) : weight_(weight) {}
  explicit Linear(sinq::PackedMatrix weight) : weight_(std::move(weight)) {}

  void set_bias(Vector bias) { bias_ = std::move(bias); }
  /// Of quantized products.
  void set_numerics(sinq::Numerics numerics) { numerics_ = numerics; }

  [[nodiscard]] bool quantized() const { return std::holds_alternative<sinq::PackedMatrix>(weight_); }

  [[nodiscard]] std::int64_t rows() const {
    return std::visit([](const auto& w) { return rows_of(w); }, weight_);
  }
  [[nodiscard]] std::int64_t cols() const {
    return std::visit([](const auto& w) { return cols_of(w); }, weight_);
  }

  /// What the weights take in memory.
  [[nodiscard]] std::int64_t bytes() const {
    if (const auto* packed = std::get_if<sinq::PackedMatrix>(&weight_)) return packed->bytes();
    return rows() * cols() * static_cast<std::int64_t>(sinq::size_of(std::get<sinq::WeightView>(weight_).dtype));
  }

  [[nodiscard]] Matrix operator()(const Matrix& x, sinq::Executor& executor) const {
    return std::move(of_one_input(x, executor, *this)[0]);
  }

  /// Several that share an input (query, key and value; gate and up), with the numerics of the first: those that are
  /// quantized go into one call, so that threads meet once.
  template <std::same_as<Linear>... L>
  [[nodiscard]] static std::array<Matrix, sizeof...(L)> of_one_input(const Matrix& x, sinq::Executor& executor,
                                                                     const L&... all) {
    const std::array<const Linear*, sizeof...(L)> layers{&all...};
    std::array<Matrix, sizeof...(L)> y{Matrix(x.rows(), all.rows())...};
    std::array<sinq::Product, sizeof...(L)> products;
    std::size_t count = 0;
    for (std::size_t k = 0; k < layers.size(); ++k) {
      const Vector& bias = layers[k]->bias_;
      if (const auto* packed = std::get_if<sinq::PackedMatrix>(&layers[k]->weight_)) {
        products[count++] = {packed, x, y[k], {}, bias};
      } else {
        multiply(std::get<sinq::WeightView>(layers[k]->weight_), x, y[k], executor);
        if (bias.size() != 0) y[k].rowwise() += bias;
      }
    }
    sinq::matmul(std::span<const sinq::Product>(products).first(count),
                 {.executor = &executor, .numerics = layers[0]->numerics_});
    return y;
  }

  /// Some rows as float: the look-up of an embedding.
  [[nodiscard]] Matrix rows_at(std::span<const std::int32_t> which) const {
    Matrix out(static_cast<std::int64_t>(which.size()), cols());
    if (const auto* packed = std::get_if<sinq::PackedMatrix>(&weight_)) {
      sinq::dequantize_rows<float>(*packed, which, out);
    } else {
      for (std::int64_t k = 0; k < out.rows(); ++k)
        std::get<sinq::WeightView>(weight_).load(which[static_cast<std::size_t>(k)], 0, cols(), out.row(k).data());
    }
    return out;
  }

 private:
  static std::int64_t rows_of(const sinq::WeightView& w) { return w.rows; }
  static std::int64_t cols_of(const sinq::WeightView& w) { return w.cols; }
  static std::int64_t rows_of(const sinq::PackedMatrix& w) { return w.rows(); }
  static std::int64_t cols_of(const sinq::PackedMatrix& w) { return w.cols(); }

  /// In blocks of rows, each converted to float first where they are not floats already. The blocks' size does not
  /// depend on the number of threads, so neither does the result: the order of a sum may depend on the shape of the
  /// product it is part of.
  static void multiply(const sinq::WeightView& w, const Matrix& x, Matrix& y, sinq::Executor& executor) {
    constexpr std::int64_t kBlock = 128;
    executor.run((w.rows + kBlock - 1) / kBlock, [&](std::int64_t block, int) {
      const std::int64_t first = block * kBlock;
      const std::int64_t count = std::min(kBlock, w.rows - first);
      const auto use = [&](const auto& rows) { y.middleCols(first, count).noalias() = x * rows.transpose(); };
      const auto* floats = static_cast<const float*>(w.data) + first * w.stride;
      if (w.dtype == sinq::DType::f32 && reinterpret_cast<std::uintptr_t>(floats) % alignof(float) == 0)
        return use(
            Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>(floats, count, w.cols, Eigen::OuterStride<>(w.stride)));
      Matrix rows(count, w.cols);
      w.load(first, count, 0, w.cols, rows.data(), w.cols);
      use(rows);
    });
  }

  std::variant<sinq::WeightView, sinq::PackedMatrix> weight_;
  Vector bias_;  // empty: none
  sinq::Numerics numerics_ = sinq::Numerics::exact;
};

}  // namespace engine
