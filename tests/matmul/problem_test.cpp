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

}  // namespace
