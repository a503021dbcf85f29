// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <sinq/cuda/dequantize_kernel.cuh>
#include <vector>

#include "simulate.hpp"
#include "support/formats.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;

/// Rows `stride` apart that begin `offset` elements behind an aligned address; everything between them stays.
template <class T>
void expect_same_bits(const QuantizedMatrix& q, std::int64_t stride, std::size_t offset) {
  const KernelOrder order = kernel_order(q.format, q.table, q.rows, q.cols);
  test::Aligned memory(to_kernel_order(q, order));
  test::Aligned out(static_cast<std::size_t>(q.rows * stride + 64) * sizeof(T));
  T* const first = reinterpret_cast<T*>(out.data()) + offset;
  const T guard = static_cast<T>(-77.0f);
  std::fill(first, first + q.rows * stride, guard);

  const Weights w = order.place(memory.data());
  test::Executor run;
  run.constant("matrix", memory.data(), static_cast<std::size_t>(order.bytes));
  for (std::int64_t i = 0; i < q.rows; ++i) run.writable("out", first + i * stride, static_cast<std::size_t>(q.cols));
  // In one piece, or where panels allow it two strips at a time.
  const std::int64_t step = w.panels == 1 || w.tile_height % kStripRows == 0 ? 2 * kStripRows : q.rows;
  for (std::int64_t row = 0; row < q.rows; row += step)
    restore(w, row, MatrixView<T>(first + row * stride, std::min(step, q.rows - row), q.cols, stride), test::kNumber<T>,
            [&](auto kernel, unsigned x, unsigned y, unsigned threads, unsigned shared_bytes, const Restoration& r) {
              run.launch({x, y}, threads, shared_bytes, [&] { kernel(r); });
            });
  ASSERT_EQ(run.first_failure(), "");

  const auto expected = dequantize<T>(q);
  for (std::int64_t i = 0; i < q.rows; ++i)
    for (std::int64_t j = 0; j < stride; ++j) {
      const T want = j < q.cols ? expected(i, j) : guard;
      const auto* got = reinterpret_cast<const std::byte*>(first + i * stride + j);
      ASSERT_EQ(std::memcmp(got, reinterpret_cast<const std::byte*>(&want), sizeof(T)), 0)
          << i << ' ' << j << " of " << q.rows << 'x' << q.cols << " bits " << q.format.bits << ": "
          << static_cast<float>(first[i * stride + j]) << " is not " << static_cast<float>(want);
    }
}

TEST(Dequantize, TheBitsOfTheCpu) {
  std::mt19937 random(1);
  std::vector<Format> all = test::formats();
  for (test::NamedFormat f : test::preset_formats())
    for (Tile tile : {Tile::stripe, Tile::square}) {
      f.format.tile = tile;
      all.push_back(f.format);
    }
  for (const Format& f : all) {
    const QuantizedMatrix q = test::random_matrix(f, 1 + random() % 40, 1 + random() % 200, random);
    const std::int64_t aligned = (q.cols + 3) / 4 * 4;
    const unsigned number = test::random_bits(random) % 3;
    if (number == 0) expect_same_bits<half>(q, aligned, random() % 2 * 4);
    if (number == 1) expect_same_bits<bfloat16>(q, aligned, random() % 2);
    if (number == 2) expect_same_bits<float>(q, q.cols + random() % 4, 4);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
