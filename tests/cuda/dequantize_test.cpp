// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <sinq/cuda/dequantize_kernel.cuh>
#include <vector>

#include "simulate.hpp"
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

  Restoration r;
  r.w = order.place(memory.data());
  r.out = first;
  r.stride = stride;
  r.number = test::kNumber<T>;
  r.aligned = offset % 4 == 0 && stride % 4 == 0;
  r.strips = order.strips;
  test::Executor run;
  run.constant("matrix", memory.data(), static_cast<std::size_t>(order.bytes));
  for (std::int64_t i = 0; i < q.rows; ++i) run.writable("out", first + i * stride, static_cast<std::size_t>(q.cols));
  // In one piece, or where panels allow it two strips at a time.
  const std::int64_t step = r.w.panels == 1 || r.w.tile_height % kStripRows == 0 ? 2 : order.strips;
  for (r.first_strip = 0; r.first_strip < order.strips; r.first_strip += step) {
    r.strips = std::min(step, order.strips - r.first_strip);
    r.first_row = step == order.strips ? 0 : r.first_strip * kStripRows;
    r.out = first + r.first_row * stride;
    const auto blocks = static_cast<unsigned>((r.strips * r.w.units + 3) / 4);
    with_codes(r.w.bits, r.w.paired, [&](auto bits, auto paired) {
      run.launch({blocks}, 128, 0, [&] { dequantize_kernel<bits(), paired()>(r); });
    });
  }
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
  unsigned k = 0;
  for (int bits : kBitWidths)
    for (Levels levels : {Levels::uniform, Levels::symmetric, Levels::nf4, Levels::nf3, Levels::table})
      for (Aux scale : {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u8})
        for (Aux zero : {Aux::none, Aux::f16, Aux::f32, Aux::u6}) {
          if ((levels == Levels::nf4 && bits != 4) || (levels == Levels::nf3 && bits != 3) ||
              (levels == Levels::table && bits > 4) || (levels == Levels::uniform && zero == Aux::none) ||
              (levels == Levels::symmetric && zero != Aux::none))
            continue;
          Format f{.bits = bits, .levels = levels, .scale = scale, .zero = zero};
          const std::int64_t groups[] = {16, 48, 64, 256, kWholeRow};
          const Aux columns[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::none};
          f.group_size = groups[++k % 5];
          f.tile = k / 8 % 2 ? Tile::square : Tile::stripe;
          f.col_scale = columns[k / 3 % 4];
          f.signed_scale = is_integer(scale) && k % 2;
          f.coarse_groups = is_integer(scale) ? k / 2 % 3 : 0;
          const QuantizedMatrix q = test::random_matrix(f, 1 + k * 7 % 40, 1 + k * 31 % 200, random);
          if (k % 3 == 0) expect_same_bits<half>(q, (q.cols + 3) / 4 * 4, 0);
          if (k % 3 == 1) expect_same_bits<bfloat16>(q, (q.cols + 3) / 4 * 4, k % 2);
          if (k % 3 == 2) expect_same_bits<float>(q, q.cols + k % 4, 4);
          if (HasFatalFailure()) return;
        }
}

}  // namespace
