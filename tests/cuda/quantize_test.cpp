// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <sinq/cuda/quantize_plan.hpp>
#include <sinq/cuda/quantize_steps.cuh>
#include <vector>

#include "simulate.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

// Quantizing in the executor against the CPU: the same matrix, bit for bit.

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;
using test::random_float;
using test::random_normal;

struct Outcome {
  QuantizedMatrix q;
  std::string failure;
  double before = 1, after = 1;
};

/// What cuda::quantize does, with the executor in place of the device.
template <class T>
Outcome on_device(const MatrixView<const T>& weights, const QuantizeConfig& config,
                  const std::function<void(test::Executor&, Quantization&)>& change = nullptr) {
  Quantization q = quantization_of(config, weights.rows, weights.cols, test::kNumber<T>);
  q.weights = weights.data;
  q.stride = weights.stride;
  q.aligned = reinterpret_cast<std::uintptr_t>(weights.data) % (4 * sizeof(T)) == 0 && weights.stride % 4 == 0;
  test::Aligned workspace(static_cast<std::size_t>(place(q, nullptr)));
  (void)place(q, workspace.data());

  test::Executor run;
  for (std::int64_t i = 0; i < weights.rows; ++i)
    run.constant("weights", weights.row(i), static_cast<std::size_t>(weights.cols));
  for_arrays(q, [&](const std::string& name, auto* array, std::int64_t count) {
    if (count == 0) return;
    if (name == "largest" || name == "faults")
      run.zeroed(name, array, static_cast<std::size_t>(count));
    else
      run.writable(name, array, static_cast<std::size_t>(count));
  });
  if (change) change(run, q);
  const auto launch = [&](auto kernel, std::int64_t blocks, int threads, int shared_bytes,
                          const Quantization& argument) {
    if (run.failures().empty())
      run.launch({static_cast<unsigned>(blocks)}, static_cast<unsigned>(threads),
                 static_cast<std::size_t>(shared_bytes), [&] { kernel(argument); });
  };
  choose_factors(q, launch);
  raise_faults(
      q, q.faults, [&](auto row, auto col) { return static_cast<float>(weights.row(row)[col]); },
      [&](auto row, auto group) { return q.scale[q.at_row(static_cast<int>(row), static_cast<int>(group))]; });

  Format format = detail::quantize::format_of(config, q.balanced);
  if (q.faults[kBeyondAux] != 0) format.scale = Aux::f32;
  const KernelOrder order = kernel_order(format, {}, weights.rows, weights.cols);
  test::Aligned memory(static_cast<std::size_t>(order.bytes));
  run.zeroed("matrix", memory.data(), static_cast<std::size_t>(order.bytes));
  aim(q, order, memory.data());
  store_matrix(q, launch);
  Outcome out{from_kernel_order(format, {}, order, {memory.data(), memory.data() + order.bytes}), run.first_failure()};
  for (std::int64_t t = 0; q.balanced && t < q.tiles(); ++t) {
    out.before = (t == 0 ? 0 : out.before) + q.first_imbalance[t] / static_cast<double>(q.tiles());
    out.after = (t == 0 ? 0 : out.after) + q.imbalance[t] / static_cast<double>(q.tiles());
  }
  return out;
}

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Normal weights whose rows and columns differ in spread, with outliers.
template <class T>
RowMajor<T> random_weights(std::int64_t rows, std::int64_t cols, std::mt19937& random) {
  std::vector<float> row(static_cast<std::size_t>(rows)), col(static_cast<std::size_t>(cols));
  for (float& f : row) f = std::exp(random_float(random, -1, 1));
  for (float& f : col) f = std::exp(random_float(random, -1, 1));
  return RowMajor<T>::NullaryExpr(rows, cols, [&](Eigen::Index i, Eigen::Index j) {
    const float outlier = random() % 200 == 0 ? 8.0f : 1.0f;
    return static_cast<T>(0.02f * outlier * random_normal(random) * row[static_cast<std::size_t>(i)] *
                          col[static_cast<std::size_t>(j)]);
  });
}

template <class T>
void expect_the_cpus(const RowMajor<T>& w, const QuantizeConfig& config, const char* what = "") {
  const Outcome got = on_device<T>(MatrixView<const T>(w), config);
  ASSERT_EQ(got.failure, "") << what;
  QuantizeReport report;
  const QuantizedMatrix expected = quantize(w, config, {.report = &report});
  const std::string of = std::string(what) + " " + std::to_string(w.rows()) + 'x' + std::to_string(w.cols()) +
                         " bits " + std::to_string(config.bits) + " group " + std::to_string(config.group_size);
  ASSERT_EQ(got.q.format, expected.format) << of;
  ASSERT_NEAR(got.before, report.imbalance_before, 1e-12 * report.imbalance_before) << of;  // summed in another order
  ASSERT_NEAR(got.after, report.imbalance_after, 1e-12 * report.imbalance_after) << of;
  ASSERT_EQ(got.q.col_scale, expected.col_scale) << of;
  ASSERT_EQ(got.q.coarse_scale, expected.coarse_scale) << of;
  ASSERT_EQ(got.q.scale, expected.scale) << of;
  ASSERT_EQ(got.q.zero, expected.zero) << of;
  ASSERT_EQ(got.q.codes, expected.codes) << of;
}

struct Kind {
  Rounding rounding;
  int bits;
};
constexpr Kind kKinds[] = {{Rounding::uniform, 2},   {Rounding::uniform, 3},   {Rounding::uniform, 4},
                           {Rounding::uniform, 5},   {Rounding::uniform, 6},   {Rounding::uniform, 8},
                           {Rounding::symmetric, 2}, {Rounding::symmetric, 3}, {Rounding::symmetric, 4},
                           {Rounding::symmetric, 5}, {Rounding::symmetric, 6}, {Rounding::symmetric, 8},
                           {Rounding::nf4, 4},       {Rounding::nf3, 3}};

TEST(Quantize, EveryFormat) {
  std::mt19937 random(1);
  const Aux scales[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};
  const Aux columns[] = {Aux::f16, Aux::bf16, Aux::f32};
  const std::int64_t groups[] = {16, 32, 48, 64, 80, 128, kWholeRow};
  unsigned k = 0;
  for (const Kind& kind : kKinds)
    for (Aux scale : scales) {
      QuantizeConfig c;
      c.bits = kind.bits;
      c.rounding = kind.rounding;
      c.scale = scale;
      c.zero = scales[++k * 3 % 8];
      c.col_scale = columns[k % 3];
      c.group_size = groups[k % 7];
      c.tile = k / 7 % 2 ? Tile::square : Tile::stripe;
      c.balance = k % 5 == 0 ? Balancing::none : Balancing::sinkhorn;
      c.coarse_groups = is_integer(scale) ? k / 2 % 4 : 0;
      c.sinkhorn.iterations = 4;
      const std::int64_t rows = 2 + k * 7 % 40, cols = 2 + k * 31 % 150;
      if (k % 3 == 0) expect_the_cpus(random_weights<half>(rows, cols, random), c);
      if (k % 3 == 1) expect_the_cpus(random_weights<bfloat16>(rows, cols, random), c);
      if (k % 3 == 2) expect_the_cpus(random_weights<float>(rows, cols, random), c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, EveryShape) {
  std::mt19937 random(2);
  const std::int64_t groups[] = {16, 64, 96, kWholeRow};
  unsigned k = 0;
  for (std::int64_t rows : {1, 2, 8, 9, 127, 128, 129, 300})
    for (std::int64_t cols : {1, 15, 16, 17, 64, 65, 81}) {
      QuantizeConfig c;
      c.group_size = groups[++k % 4];
      c.tile = k / 4 % 2 ? Tile::square : Tile::stripe;
      c.sinkhorn.iterations = 3;
      expect_the_cpus(random_weights<float>(rows, cols, random), c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, Hqq) {
  std::mt19937 random(9);
  const Aux scales[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u8};
  const std::int64_t groups[] = {16, 64, 80, kWholeRow};
  unsigned k = 0;
  for (int bits : kBitWidths)
    for (Aux zero : {Aux::f16, Aux::f32, Aux::u6}) {
      QuantizeConfig c;
      c.bits = bits;
      c.refine = Refine::hqq;
      c.zero = zero;
      c.scale = scales[++k % 5];
      c.group_size = groups[k % 4];
      c.tile = k % 3 == 0 ? Tile::square : Tile::stripe;
      c.balance = k % 4 == 0 ? Balancing::none : Balancing::sinkhorn;
      c.sinkhorn.iterations = 4;
      c.hqq.iterations = k % 7 == 0 ? 20 : 4;
      RowMajor<float> w = random_weights<float>(2 + k * 13 % 60, 1 + k * 37 % 170, random);
      w.row(w.rows() / 2).setZero();
      if (is_float(c.scale)) w.row(w.rows() - 1) *= 0x1p-130f;  // left out: its scales are subnormal
      if (k % 3 == 0) expect_the_cpus<half>(w.cast<half>(), c);
      if (k % 3 == 1) expect_the_cpus<bfloat16>(w.cast<bfloat16>(), c);
      if (k % 3 == 2) expect_the_cpus(w, c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, SixteenIterations) {
  std::mt19937 random(3);
  for (std::int64_t group : {16, 64, 256})
    expect_the_cpus(random_weights<bfloat16>(400, 260, random), {.group_size = group});
}

TEST(Quantize, HardMatrices) {
  std::mt19937 random(4);
  const RowMajor<float> plain = random_weights<float>(150, 130, random);
  const QuantizeConfig c{.scale = Aux::f32, .zero = Aux::f32, .col_scale = Aux::f32};
  for (int iterations : {0, 1, 2, 40}) {
    QuantizeConfig other = c;
    other.sinkhorn.iterations = iterations;
    expect_the_cpus(plain, other, "iterations");
  }
  expect_the_cpus<float>(RowMajor<float>::Zero(20, 70), c, "zeros");
  expect_the_cpus<float>(RowMajor<float>::Constant(20, 70, -3.0f), c, "constant");
  // Means far beyond the deviations: the sums of the sweep lose their digits.
  expect_the_cpus<float>((plain.array() + 5.0f).matrix(), c, "far from 0");
  RowMajor<float> column = plain;
  column.col(70).array() += 100.0f;
  column.row(3).setZero();
  expect_the_cpus(column, c, "one column far from 0");
  // Squares that overflow or vanish.
  expect_the_cpus<float>(plain * 0x1p100f, c, "huge");
  expect_the_cpus<float>(plain * 0x1p-100f, c, "tiny");
  expect_the_cpus<float>(plain * 0x1p-140f, c, "subnormal");
  // Scales beyond f16: stored as f32.
  QuantizeConfig narrow;
  expect_the_cpus<float>(plain * 1e-6f, narrow, "widened");
}

TEST(Quantize, StridesAndAlignment) {
  std::mt19937 random(5);
  const RowMajor<bfloat16> all = random_weights<bfloat16>(70, 150, random);
  const MatrixView<const bfloat16> part(all.data() + 3, 60, 101, 150);
  const RowMajor<bfloat16> copy = all.block(0, 3, 60, 101);
  const Outcome got = on_device<bfloat16>(part, {.group_size = 32});
  ASSERT_EQ(got.failure, "");
  EXPECT_EQ(got.q, quantize(copy, {.group_size = 32}));
}

TEST(Quantize, ThreadsInAnyOrder) {
  std::mt19937 random(6);
  const RowMajor<float> w = random_weights<float>(140, 70, random);
  const Outcome got =
      on_device<float>(MatrixView<const float>(w), {}, [](test::Executor& e, Quantization&) { e.backwards = true; });
  ASSERT_EQ(got.failure, "");
  EXPECT_EQ(got.q, quantize(w, QuantizeConfig{}));
}

TEST(Quantize, ErrorsAreTheCpus) {
  const auto same_message = [](const RowMajor<float>& w, const QuantizeConfig& c) {
    const std::string expected = test::message_of([&] { (void)quantize(w, c); });
    EXPECT_NE(expected, "nothing was thrown");
    EXPECT_EQ(test::message_of([&] { (void)on_device<float>(MatrixView<const float>(w), c); }), expected);
  };
  std::mt19937 random(7);
  RowMajor<float> w = random_weights<float>(40, 100, random);
  same_message(w, {.bits = 7});
  same_message(w, {.group_size = 24});
  same_message(w * 1e-12f, {.scale = Aux::u8});
  same_message(w * 1e12f, {.balance = Balancing::none, .scale = Aux::u8, .coarse_groups = 1});
  w(20, 70) = NAN;
  same_message(w, {});
  w(20, 70) = -INFINITY;
  same_message(w, {});
  w(20, 70) = 0x1p120f;
  same_message(w, {});
  EXPECT_EQ(test::message_of([&] { (void)on_device<float>(MatrixView<const float>(w), {.refine = Refine::fit}); }),
            "sinq: refine = fit: the device quantizes with refine = none and hqq");
}

// --- bugs put in ----------------------------------------------------------------------------------------------------

std::string failure_with(const std::function<void(test::Executor&, Quantization&)>& bug) {
  std::mt19937 random(8);
  const RowMajor<float> w = random_weights<float>(140, 100, random);
  return on_device<float>(MatrixView<const float>(w), {.scale = Aux::u8}, bug).failure;
}

TEST(QuantizeBugs, EveryRemovedBarrierIsFound) {
  EXPECT_EQ(failure_with(nullptr), "");
  for (int n = 0; n < 2; ++n) {
    // Of the sweep: the row factors are there; the sums are there. Of the judge: the second; the first and the last
    // matter only to what one launch of 128 threads does not show twice.
    EXPECT_NE(failure_with([&](test::Executor& e, Quantization&) { e.faults.skip_warp_barrier = n; }), "") << n;
  }
  EXPECT_NE(failure_with([&](test::Executor& e, Quantization&) { e.faults.skip_barrier = 1; }), "");
}

TEST(QuantizeBugs, OneColumnTooManyIsFound) {
  EXPECT_NE(failure_with([](test::Executor&, Quantization& q) { ++q.w.cols; }).find("outside weights"),
            std::string::npos);
}

TEST(QuantizeBugs, OneRowTooManyIsFound) {
  EXPECT_NE(failure_with([](test::Executor&, Quantization& q) { ++q.w.rows, ++q.w.tile_height; }), "");
}

}  // namespace
