// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sinq/matmul.hpp>

#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using test::message_of;

TEST(Problem, ViewsWithoutMemoryAreNamed) {
  std::mt19937 random(1);
  const PackedMatrix w = pack(test::random_matrix({}, 20, 70, random));
  std::vector<float> memory(2 * 70 + 2 * 20);
  const MatrixView<const float> x(memory.data(), 2, 70);
  const MatrixView<float> y(memory.data() + 140, 2, 20);
  const MatrixView<const float> no_x(nullptr, 2, 70);
  const MatrixView<float> no_y(nullptr, 2, 20);
  EXPECT_EQ(message_of([&] { matmul(w, no_x, y); }), "sinq: x.data = null: must not be null");
  EXPECT_EQ(message_of([&] { matmul(w, x, no_y); }), "sinq: y.data = null: must not be null");
  const Product several[] = {{&w, x, y}, {&w, no_x, y}};
  EXPECT_EQ(message_of([&] { matmul(several); }), "sinq: products[1].x.data = null: must not be null");
  const MatrixView<const float> narrow(memory.data(), 2, 70, 69);
  const Product overlapping[] = {{&w, narrow, y}, {&w, x, y}};
  EXPECT_EQ(message_of([&] { matmul(overlapping); }),
            "sinq: products[0].x.stride = 69: must be at least products[0].x.cols");
  EXPECT_EQ(message_of([&] { (void)reference_matmul(unpack(w), no_x); }), "sinq: x.data = null: must not be null");
  EXPECT_EQ(message_of([&] { (void)reference_matmul(unpack(w), narrow); }),
            "sinq: x.stride = 69: must be at least x.cols");
  // No tokens, no memory: an expert that nobody asked.
  EXPECT_NO_THROW(matmul(w, MatrixView<const float>(nullptr, 0, 70), MatrixView<float>(nullptr, 0, 20)));
}

/// A result is written while other rows of the matrix still need the activations.
TEST(Problem, ResultsLieApartFromActivations) {
  std::mt19937 random(2);
  const PackedMatrix square = pack(test::random_matrix({.tile = Tile::square}, 64, 64, random));
  const PackedMatrix low = pack(test::random_matrix({}, 16, 64, random));
  std::vector<float> memory(20 * 64);
  const auto view = [&](std::int64_t first, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
    return MatrixView<float>(memory.data() + first, rows, cols, stride);
  };
  const auto alone = [&](const PackedMatrix& w, const MatrixView<float>& x, const MatrixView<float>& y) {
    return message_of([&] { matmul(w, x, y); });
  };
  const std::string refused = "sinq: y overlaps x: must lie in memory of its own", fine = "nothing was thrown";
  for (std::int64_t tokens : {1, 3}) {
    const auto x = view(10 * 64, tokens, 64, 64);
    EXPECT_EQ(alone(square, x, x), refused);
    EXPECT_EQ(alone(square, x, view((10 - tokens) * 64 + 1, tokens, 64, 64)), refused);
    EXPECT_EQ(alone(square, x, view((10 - tokens) * 64, tokens, 64, 64)), fine);
    EXPECT_EQ(alone(square, x, view((10 + tokens) * 64 - 1, tokens, 64, 64)), refused);
    EXPECT_EQ(alone(square, x, view((10 + tokens) * 64, tokens, 64, 64)), fine);
    EXPECT_EQ(alone(low, x, view(10 * 64 + 30, tokens, 16, 64)), refused);
  }
  // The types may differ.
  const MatrixView<half> halves(reinterpret_cast<half*>(memory.data()) + 2 * 64 - 1, 1, 64);
  EXPECT_EQ(message_of([&] { matmul(square, view(0, 1, 64, 64), halves); }), refused);
  // Columns of one matrix are apart, whatever their order; even where they go round its end.
  EXPECT_EQ(alone(low, view(0, 9, 64, 80), view(64, 9, 16, 80)), fine);
  EXPECT_EQ(alone(low, view(16, 9, 64, 80), view(0, 9, 16, 80)), fine);
  EXPECT_EQ(alone(low, view(64, 9, 64, 100), view(28, 9, 16, 100)), fine);
  EXPECT_EQ(alone(low, view(64, 9, 64, 100), view(27, 9, 16, 100)), refused);
  EXPECT_EQ(alone(low, view(64, 9, 64, 100), view(49, 9, 16, 100)), refused);
  EXPECT_EQ(alone(low, view(0, 9, 64, 80), view(63, 9, 16, 80)), refused);
  EXPECT_EQ(alone(low, view(0, 9, 64, 80), view(64, 9, 16, 40)), refused);
}

TEST(Problem, ResultsOfProductsLieApart) {
  std::mt19937 random(3);
  const PackedMatrix w = pack(test::random_matrix({}, 20, 70, random));
  std::vector<float> x_memory(6 * 70), y_memory(3 * 40);
  const MatrixView<const float> x(x_memory.data(), 3, 70), other_x(x_memory.data() + 210, 3, 70);
  const auto y = [&](std::int64_t first) { return MatrixView<float>(y_memory.data() + first, 3, 20, 40); };
  const auto message = [](std::initializer_list<Product> products) {
    return message_of([&] { matmul(std::span(products.begin(), products.size())); });
  };
  EXPECT_EQ(message({{&w, x, y(0)}, {&w, x, y(20)}}), "nothing was thrown");
  EXPECT_EQ(message({{&w, x, y(0)}, {&w, x, y(0)}}),
            "sinq: products[1].y overlaps products[0].y: must lie in memory of its own");
  EXPECT_EQ(message({{&w, x, y(0)}, {&w, x, y(19)}}),
            "sinq: products[1].y overlaps products[0].y: must lie in memory of its own");
  const MatrixView<float> in_x(x_memory.data() + 5, 3, 20), in_other(x_memory.data() + 215, 3, 20);
  EXPECT_EQ(message({{&w, x, y(0)}, {&w, other_x, in_x}}),
            "sinq: products[1].y overlaps products[0].x: must lie in memory of its own");
  EXPECT_EQ(message({{&w, x, in_other}, {&w, other_x, y(0)}}),
            "sinq: products[0].y overlaps products[1].x: must lie in memory of its own");
  EXPECT_EQ(message({{&w, other_x, y(0)}, {&w, x, in_x}}),
            "sinq: products[1].y overlaps products[1].x: must lie in memory of its own");
  // An expert that nobody asked reads and writes nothing.
  const std::span<const std::int32_t> nobody;
  EXPECT_EQ(message({{&w, x, in_other}, {&w, other_x, MatrixView<float>(y_memory.data(), 0, 20), nobody}}),
            "nothing was thrown");
}

TEST(Problem, WhatIsNoneOfItsKindIsNamed) {
  std::mt19937 random(4);
  const PackedMatrix w = pack(test::random_matrix({}, 20, 70, random));
  std::vector<double> x_memory(70), y_memory(20);
  ActivationView<const void> x(MatrixView<const double>(x_memory.data(), 1, 70));
  ActivationView<void> y(MatrixView<double>(y_memory.data(), 1, 20));
  EXPECT_EQ(message_of([&] { matmul(w, x, y, {.numerics = static_cast<Numerics>(2)}); }),
            "sinq: numerics = 2: allowed are exact and fast");
  y.dtype = static_cast<DType>(4);
  EXPECT_EQ(message_of([&] { matmul(w, x, y); }), "sinq: y.dtype = 4: allowed are f32, f64, f16 and bf16");
  x.dtype = static_cast<DType>(7);
  const Product products[] = {{&w, x, y}, {&w, x, y}};
  EXPECT_EQ(message_of([&] { matmul(products); }), "sinq: products[0].x.dtype = 7: allowed are f32, f64, f16 and bf16");
  EXPECT_EQ(message_of([&] {
              detail::core::require_view(WeightView(x_memory.data(), static_cast<DType>(200), 1, 70), "weights");
            }),
            "sinq: weights.dtype = 200: allowed are f32, f64, f16 and bf16");
}

}  // namespace
