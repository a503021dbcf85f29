// SPDX-License-Identifier: Apache-2.0
#include "device.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <sinq/cuda.cuh>
#include <vector>
#if defined(SINQ_HAVE_CUBLAS)
#include <sinq/cuda/blas.cuh>
#endif

// Eigen again (device_matrix.cuh).
#pragma nv_diagnostic push
#pragma nv_diag_suppress 20012, 20013, 20014, 20015
#include <sinq/quantize/preset.hpp>
#pragma nv_diagnostic pop

#include "cut_off.hpp"
#include "small_and_large.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

// What only a GPU can show: that the instructions do what their models say, and that launches, streams and graphs work.
// Indexing, layouts and bounds are proven in the executor (multiply_test.cpp, dequantize_test.cpp).

namespace {

using namespace sinq;
using test::check;
using test::Gpu;
using test::Graph;
using test::OnDevice;

struct Case {
  Format format;
  std::int64_t rows, cols, tokens;
};

std::vector<Case> cases() {
  const auto uniform = [](int bits, Aux aux, std::int64_t group) {
    return Format{
        .bits = bits, .group_size = group, .scale = aux, .zero = aux, .coarse_groups = is_integer(aux) ? 4 : 0};
  };
  const auto levels = [&](Levels levels, int bits, Aux aux, std::int64_t group) {
    Format f = uniform(bits, aux, group);
    f.levels = levels;
    return f;
  };
  const Format preset45 = detail::quantize::format_of(preset(4.5), true);
  Format square = preset45, signed_scale = uniform(5, Aux::u7, 32);
  square.tile = Tile::square;
  signed_scale.signed_scale = true;
  const auto columns = [&](int bits, Aux col_scale) {
    Format f = uniform(bits, Aux::f16, 64);
    f.col_scale = col_scale;
    f.tile = bits == 3 ? Tile::square : Tile::stripe;
    return f;
  };
  return {{uniform(4, Aux::f16, 64), 256, 1024, 1},
          {uniform(4, Aux::u8, 32), 100, 777, 2},
          {uniform(3, Aux::u6, 16), 70, 1000, 5},
          {uniform(2, Aux::bf16, 48), 33, 600, 9},
          {uniform(5, Aux::f32, 128), 130, 300, 16},
          {uniform(6, Aux::u4, 256), 64, 512, 17},
          {uniform(8, Aux::f16, 0), 48, 333, 40},
          {levels(Levels::nf4, 4, Aux::f16, 64), 64, 512, 3},
          {levels(Levels::nf3, 3, Aux::u8, 64), 64, 512, 64},
          {levels(Levels::table, 4, Aux::u6, 32), 64, 512, 100},
          {levels(Levels::table, 2, Aux::u5, 16), 17, 99, 200},
          {{.bits = 4, .levels = Levels::symmetric, .zero = Aux::none}, 512, 2048, 1},
          {preset45, 300, 1024, 4},
          {square, 300, 1000, 6},
          {signed_scale, 90, 640, 8},
          {columns(4, Aux::none), 40, 200, 3},
          {columns(3, Aux::bf16), 100, 333, 4},
          {columns(2, Aux::f32), 40, 130, 10}};
}

QuantizedMatrix matrix_of(const Case& c, std::mt19937& random) {
  return test::random_matrix(c.format, c.rows, c.cols, random);
}

using Products = Gpu;
using Matrices = Gpu;

TEST_F(Matrices, ComeBackBitForBit) {
  std::mt19937 random(1);
  for (const Case& c : cases()) {
    const QuantizedMatrix q = matrix_of(c, random);
    EXPECT_EQ(cuda::DeviceMatrix(q, stream_).download(stream_), q);
  }
}

TEST_F(Matrices, LieInTheCallersMemory) {
  std::mt19937 random(1);
  const QuantizedMatrix q = matrix_of(cases().front(), random);
  const std::size_t size = cuda::device_bytes(q.format, q.rows, q.cols);
  OnDevice<std::uint8_t> memory(size + 256);
  check(cudaMemset(memory.data(), 0x5a, size + 256), "cudaMemset");
  cuda::DeviceMatrix d(q, memory.memory().first(size), stream_);
  EXPECT_EQ(static_cast<std::size_t>(d.bytes()), size);
  EXPECT_EQ(static_cast<const void*>(d.memory()), memory.data());
  const cuda::DeviceMatrix moved = std::move(d);
  EXPECT_EQ(moved.download(stream_), q);
  const std::vector<std::uint8_t> all = memory.read();
  EXPECT_TRUE(std::all_of(all.begin() + static_cast<std::ptrdiff_t>(size), all.end(), [](int v) { return v == 0x5a; }));
  const auto message = [&](std::span<std::byte> at) {
    return test::message_of([&] { cuda::DeviceMatrix(q, at, stream_); });
  };
  EXPECT_EQ(message(memory.memory().first(size - 1)), "sinq: memory.size() = " + std::to_string(size - 1) +
                                                          ": must be at least " + std::to_string(size) +
                                                          ", see device_bytes");
  EXPECT_EQ(message({static_cast<std::byte*>(nullptr), size}), "sinq: memory.data() = null: must not be null");
  EXPECT_NE(message(memory.memory().subspan(16)).find(": must be a multiple of 256"), std::string::npos);
}

TEST_F(Matrices, AreEmptyBeforeTheyAreMadeAndAfterAMove) {
  std::mt19937 random(1);
  const QuantizedMatrix q = matrix_of(cases().front(), random);
  cuda::DeviceMatrix a;
  const auto expect_empty = [&](const cuda::DeviceMatrix& d) {
    EXPECT_EQ(d.rows(), 0);
    EXPECT_EQ(d.cols(), 0);
    EXPECT_EQ(d.bytes(), 0);
    EXPECT_EQ(test::message_of([&] { (void)d.download(stream_); }), "sinq: w = empty: must hold a matrix");
    EXPECT_EQ(test::message_of([&] { (void)cuda::plan<__half>(d, 1, cuda::device_facts()); }),
              "sinq: w = empty: must hold a matrix");
  };
  expect_empty(a);
  cuda::DeviceMatrix b(q, stream_);
  a = std::move(b);
  expect_empty(b);  // NOLINT(bugprone-use-after-move): what is left of it
  EXPECT_EQ(a.download(stream_), q);
}

/// T on the device is Host on the CPU.
template <class T, class Host>
void expect_bits_of_the_cpu(const cuda::DeviceMatrix& d, const QuantizedMatrix& q, cudaStream_t stream) {
  OnDevice<T> out(static_cast<std::size_t>(q.rows * q.cols));
  cuda::dequantize(d, MatrixView<T>(out.data(), q.rows, q.cols), stream);
  const auto expected = dequantize<Host>(q);
  const std::vector<T> got = out.read();
  ASSERT_EQ(std::memcmp(got.data(), expected.data(), sizeof(T) * got.size()), 0) << "bits " << q.format.bits;
}

TEST_F(Matrices, DequantizeToTheBitsOfTheCpu) {
  std::mt19937 random(2);
  for (const Case& c : cases()) {
    const QuantizedMatrix q = matrix_of(c, random);
    const cuda::DeviceMatrix d(q, stream_);
    expect_bits_of_the_cpu<float, float>(d, q, stream_);
    expect_bits_of_the_cpu<__half, sinq::half>(d, q, stream_);
    expect_bits_of_the_cpu<__nv_bfloat16, bfloat16>(d, q, stream_);
    if (HasFatalFailure()) return;
  }
}

/// Rows apart from each other, the first at an odd element or at a multiple of 16 bytes; what lies between them stays.
TEST_F(Matrices, DequantizeToStridedAndUnalignedViews) {
  std::mt19937 random(12);
  constexpr std::int64_t kRows = 37, kCols = 77, kStride = 80;
  const QuantizedMatrix q =
      test::random_matrix({.bits = 3, .group_size = 32, .tile = Tile::square}, kRows, kCols, random);
  const auto expected = dequantize<sinq::half>(q);
  for (std::int64_t first : {3, 8}) {
    OnDevice<__half> out(static_cast<std::size_t>(first + kRows * kStride));
    check(cudaMemset(out.data(), 0xff, out.memory().size()), "cudaMemset");  // NaN
    cuda::dequantize(cuda::DeviceMatrix(q, stream_), MatrixView<__half>(out.data() + first, kRows, kCols, kStride),
                     stream_);
    const std::vector<__half> got = out.read();
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(got.size()); ++k) {
      const std::int64_t row = (k - first) / kStride, col = (k - first) % kStride;
      std::uint16_t bits = 0xffff;
      if (k >= first && col < kCols) std::memcpy(&bits, &expected(row, col), sizeof bits);
      ASSERT_EQ(__half_as_ushort(got[static_cast<std::size_t>(k)]), bits) << "element " << k - first;
    }
  }
}

template <class T>
T rounded(float value) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(value);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(value);
  else
    return value;
}

template <class T>
std::vector<T> random_numbers(std::int64_t count, std::mt19937& random) {
  std::vector<T> x(static_cast<std::size_t>(count));
  for (T& v : x) v = rounded<T>(test::random_float(random, -1, 1));
  return x;
}

/// Up to `most` of 0 ... count - 1, with the first and the last.
std::vector<std::int64_t> sample(std::int64_t count, std::int64_t most) {
  const std::int64_t n = std::min(count, most);
  std::vector<std::int64_t> some;
  for (std::int64_t k = 0; k < n; ++k) some.push_back(n == 1 ? 0 : k * (count - 1) / (n - 1));
  return some;
}

/// A matrix on the device, and some rows of it in double: reading the stored form bit by bit takes longer than a GPU
/// for all of them.
struct Known {
  struct Row {
    std::int64_t row;
    std::vector<double> weight, size, plain;  // (level - zero) scale; bounds of its parts
    std::vector<double> scale, col;           // the column scale of its panel
  };
  cuda::DeviceMatrix matrix;
  std::vector<Row> rows;

  Known(const QuantizedMatrix& q, cudaStream_t stream) : matrix(q, stream) {
    const test::Naive n{q};
    const double shift = q.format.levels == Levels::symmetric ? 1 << (q.format.bits - 1) : 0;
    for (std::int64_t i : sample(q.rows, 48)) {
      Row r{i, {}, {}, {}, {}, {}};
      for (std::int64_t j = 0; j < q.cols; ++j) {
        const double level = n.level(i, j), zero = n.zero(i, j / n.width), scale = n.scale(i, j / n.width);
        r.weight.push_back((level - zero) * scale);
        r.size.push_back((std::abs(level + shift) + std::abs(zero + shift)) * std::abs(scale));
        r.plain.push_back((std::abs(level) + std::abs(zero)) * std::abs(scale));
        r.scale.push_back(scale);
        r.col.push_back(n.col_scale(i, j));
      }
      rows.push_back(std::move(r));
    }
  }
};

template <class T>
constexpr double kRounding = std::is_same_v<T, __half>          ? 0x1p-11
                             : std::is_same_v<T, __nv_bfloat16> ? 0x1p-8
                                                                : 0x1p-24;

/// Elements before the first token and between tokens.
struct Spacing {
  std::int64_t x_first = 0, x_gap = 0, y_first = 0, y_gap = 0;
};

/// As in expect_product.hpp, in short: with two halves per activation the sums are what rounds, with one the
/// activations are (2^-11), with wgmma the weights (2^-11, 2^-8 for bfloat16); levels of NF round to half. Halves below
/// the normal ones round to 2^-25 and count as large as those when sums are cut off.
template <class X, class Y = float>
void expect_agreement(const Known& known, std::int64_t tokens, const cuda::PlanOptions& options, std::mt19937& random,
                      cudaStream_t stream, bool with_bias = false, const Spacing& spacing = {}) {
  const cuda::DeviceMatrix& w = known.matrix;
  const std::int64_t x_stride = w.cols() + spacing.x_gap, y_stride = w.rows() + spacing.y_gap;
  const std::vector<X> x = random_numbers<X>(spacing.x_first + tokens * x_stride, random);
  const std::vector<Y> bias = random_numbers<Y>(w.rows(), random);
  OnDevice<X> x_device(x);
  OnDevice<Y> bias_device(bias), y_device(static_cast<std::size_t>(spacing.y_first + tokens * y_stride));
  check(cudaMemset(y_device.data(), 0xff, y_device.memory().size()), "cudaMemset");  // NaN
  const cuda::Plan plan = cuda::plan<X>(w, tokens, cuda::device_facts(), options);
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
  cuda::matmul(plan, w, MatrixView<const X>(x_device.data() + spacing.x_first, tokens, w.cols(), x_stride),
               MatrixView<Y>(y_device.data() + spacing.y_first, tokens, w.rows(), y_stride), workspace.memory(), stream,
               static_cast<const Y*>(with_bias ? bias_device.data() : nullptr));
  const std::vector<Y> y = y_device.read();
  for (std::size_t k = 0; k < y.size(); ++k) {
    const std::int64_t at = static_cast<std::int64_t>(k) - spacing.y_first;
    const bool result = at >= 0 && at % y_stride < w.rows();
    ASSERT_EQ(std::isfinite(static_cast<float>(y[k])), result) << "element " << k << "\n" << to_string(plan);
  }

  const bool wgmma = plan.kernel == cuda::Kernel::wgmma;
  const bool codes = !wgmma && w.format().levels <= Levels::symmetric;
  // By wgmma, weights are rounded to the type of x, levels of NF before that to halves.
  const double rounding = wgmma
                              ? (std::is_same_v<X, __half> ? 0x1p-11 : 0x1p-8) +
                                    (w.format().levels == Levels::nf4 || w.format().levels == Levels::nf3 ? 0x1p-11 : 0)
                          : plan.pieces == 2 && w.format().levels < Levels::nf4 ? 0x1p-21
                                                                                : 0x1p-10;
  const double least = codes && plan.pieces == 2 ? 0x1p-26 + 0x1p-32 : 0x1p-32;
  std::vector<double> xs(static_cast<std::size_t>(w.cols()));
  for (std::int64_t t : sample(tokens, 24)) {
    for (const Known::Row& r : known.rows) {
      const auto at = static_cast<std::size_t>(r.row);
      double exact = with_bias ? static_cast<double>(static_cast<float>(bias[at])) : 0;
      double size = std::abs(exact), plain = 0, below = 0, cut_off = 0, largest = 0;
      const auto activation = [&](std::size_t j) {
        return static_cast<double>(static_cast<float>(x[static_cast<std::size_t>(spacing.x_first + t * x_stride) + j]));
      };
      for (std::size_t j = 0; j < xs.size(); ++j) {
        xs[j] = activation(j) * r.col[j];
        largest = std::max(largest, std::abs(xs[j]));
      }
      double step_largest = 0, step_cut_off = 0;
      for (std::size_t j = 0; j < xs.size(); ++j) {
        exact += r.weight[j] * xs[j];
        size += r.size[j] * std::abs(xs[j]);
        plain += r.plain[j] * std::abs(xs[j]);
        below += wgmma ? 0x1p-25 * std::abs(activation(j)) : least * largest * std::abs(r.weight[j]);
        step_largest = std::max(step_largest, std::abs(xs[j]));
        if (codes)
          step_cut_off = test::cut_off_of_codes(plan.pieces, step_largest, largest) * std::abs(r.scale[j]);
        else if (wgmma && std::is_same_v<X, __half>)
          step_cut_off = std::max(step_cut_off,
                                  test::cut_off_of_halves(std::abs(r.weight[j] * r.col[j]), std::abs(activation(j))));
        if (j % 16 == 15 || j + 1 == xs.size()) {
          cut_off += step_cut_off;
          step_largest = step_cut_off = 0;
        }
      }
      const double error = 4 * static_cast<double>(w.cols() + 16) * 0x1p-24 * size + rounding * plain + below +
                           cut_off + kRounding<Y> * std::abs(exact) + 0x1p-25;
      ASSERT_NEAR(
          static_cast<double>(static_cast<float>(y[static_cast<std::size_t>(spacing.y_first + t * y_stride) + at])),
          exact, error)
          << "token " << t << " row " << r.row << " bits " << w.format().bits << "\n"
          << to_string(plan);
    }
  }
}

TEST_F(Products, AgreeWithDoublePrecision) {
  std::mt19937 random(3);
  for (const Case& c : cases()) {
    const Known known(matrix_of(c, random), stream_);
    expect_agreement<__half>(known, c.tokens, {.kernel = cuda::Kernel::mma}, random, stream_);
    if (HasFatalFailure()) return;
  }
}

/// Types of activations and results, with a bias; one slice and two, since the bias is added by another kernel then.
TEST_F(Products, OfEveryElementTypeWithABias) {
  std::mt19937 random(8);
  for (const Case& c : cases()) {
    const Known known(matrix_of(c, random), stream_);
    for (int slices : {1, 2}) {
      const cuda::PlanOptions mma{.kernel = cuda::Kernel::mma, .slices = slices};
      expect_agreement<__half, __half>(known, c.tokens, mma, random, stream_, true);
      expect_agreement<__half, float>(known, c.tokens, mma, random, stream_, true);
      expect_agreement<__nv_bfloat16, __nv_bfloat16>(known, c.tokens, mma, random, stream_, true);
      expect_agreement<__nv_bfloat16, float>(known, c.tokens, mma, random, stream_, true);
      expect_agreement<float, __half>(known, c.tokens, mma, random, stream_, true);
      expect_agreement<float, float>(known, c.tokens, mma, random, stream_, true);
      if (HasFatalFailure()) return;
    }
  }
}

/// Tokens apart from each other, x and y beginning at odd elements; tokens that are apart and aligned all the same.
/// What lies between the results stays as it is.
TEST_F(Products, OfStridedAndUnalignedViews) {
  std::mt19937 random(11);
  const Known known(test::random_matrix({.bits = 3, .group_size = 32, .tile = Tile::square}, 37, 77, random), stream_);
  for (const Spacing& spacing : {Spacing{3, 4, 1, 3}, Spacing{8, 3, 8, 3}})
    for (int slices : {1, 2}) {
      const cuda::PlanOptions mma{.kernel = cuda::Kernel::mma, .slices = slices},
          wgmma{.kernel = cuda::Kernel::wgmma, .slices = slices};
      expect_agreement<__half, __half>(known, 5, mma, random, stream_, true, spacing);
      expect_agreement<__nv_bfloat16, __half>(known, 5, mma, random, stream_, false, spacing);
      expect_agreement<float, float>(known, 5, mma, random, stream_, true, spacing);
      if (!cuda::device_facts().wgmma || HasFatalFailure()) continue;
      expect_agreement<__half, float>(known, 70, wgmma, random, stream_, false, spacing);
      expect_agreement<__nv_bfloat16, __nv_bfloat16>(known, 70, wgmma, random, stream_, true, spacing);
    }
}

/// small_and_large.hpp: exact, if the tensor core keeps as many bits as multiply.cuh counts on. Allowed is half of a
/// float's last bit and as much for luck, 2^-22; with the first halves not rounded to whole numbers the model of
/// instructions.cuh loses 2^-18 to 2^-14 of the sum.
TEST_F(Products, AddSmallActivationsToLargeOnes) {
  using test::SmallAndLarge;
  constexpr std::int64_t kRows = SmallAndLarge::kRows, kCols = SmallAndLarge::kCols, kTokens = SmallAndLarge::kTokens;
  const std::vector<float> x = SmallAndLarge::activations();
  OnDevice<float> x_device(x), y_device(kTokens * kRows);
  for (int bits : kBitWidths) {
    const cuda::DeviceMatrix w(SmallAndLarge::ones(bits), stream_);
    for (std::int64_t tokens : {std::int64_t{1}, kTokens}) {
      const cuda::Plan plan = cuda::plan<float>(w, tokens, cuda::device_facts(), {.pieces = 2, .slices = 1});
      cuda::matmul(plan, w, MatrixView<const float>(x_device.data(), tokens, kCols),
                   MatrixView<float>(y_device.data(), tokens, kRows), {}, stream_);
      const std::vector<float> y = y_device.read();
      for (std::int64_t t = 0; t < tokens; ++t) {
        const double exact = SmallAndLarge::exact(x, t);
        for (std::int64_t i = 0; i < kRows; ++i)
          ASSERT_NEAR(double{y[static_cast<std::size_t>(t * kRows + i)]}, exact, 0x1p-22 * exact)
              << "bits " << bits << " token " << t << " row " << i << "\n"
              << to_string(plan);
      }
    }
  }
}

/// Every kind of codes, rows and tokens that fill no block, few units and many, slices; biases and types of results.
TEST_F(Products, OfManyTokensOnHopper) {
  if (!cuda::device_facts().wgmma) GTEST_SKIP() << "NO WGMMA: not a Hopper, or not compiled for sm_90a";
  std::mt19937 random(7);
  for (const Case& c : cases()) {
    const Known known(matrix_of(c, random), stream_);
    for (std::int64_t tokens : {65, 128, 300})
      for (int slices : {0, 1, 2}) {
        const cuda::PlanOptions options{.kernel = cuda::Kernel::wgmma, .slices = slices};
        expect_agreement<__half>(known, tokens, options, random, stream_);
        expect_agreement<__nv_bfloat16>(known, tokens, options, random, stream_);
        expect_agreement<__half, __half>(known, tokens, options, random, stream_, true);
        expect_agreement<__nv_bfloat16, __nv_bfloat16>(known, tokens, options, random, stream_, true);
        if (HasFatalFailure()) return;
      }
  }
}

TEST_F(Products, SameBitsEveryTimeAndInAGraph) {
  std::mt19937 random(4);
  const QuantizedMatrix q = test::random_matrix({}, 300, 4096, random);
  const cuda::DeviceMatrix d(q, stream_);
  OnDevice<__nv_bfloat16> x_device(random_numbers<__nv_bfloat16>(3 * 4096, random)), y_device(3 * 300);
  const cuda::Plan plan = cuda::plan<__nv_bfloat16>(d, 3, cuda::device_facts());
  EXPECT_GT(plan.slices, 1);
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
  const auto multiply = [&] {
    cuda::matmul(plan, d, MatrixView<const __nv_bfloat16>(x_device.data(), 3, 4096),
                 MatrixView<__nv_bfloat16>(y_device.data(), 3, 300), workspace.memory(), stream_);
  };
  multiply();
  const auto first = y_device.read();
  Graph graph(stream_, multiply);
  for (int k = 0; k < 10; ++k) {
    graph.run();
    const auto again = y_device.read();
    ASSERT_EQ(std::memcmp(again.data(), first.data(), 2 * first.size()), 0);
  }
}

/// A kernel is loaded when it is first used, which must not disturb a capture: this is the only test with 2 bits and 64
/// columns of operand B. Two sizes of shared memory above 48 KB in one graph: neither takes the other's away.
TEST_F(Products, FirstCallsInAGraph) {
  std::mt19937 random(9);
  const cuda::DeviceMatrix d(test::random_matrix({.bits = 2}, 200, 4096, random), stream_);
  const std::int64_t tokens = 64;
  OnDevice<__half> x(random_numbers<__half>(tokens * 4096, random));
  OnDevice<float> small_y(tokens * 200), large_y(tokens * 200);
  const auto plan_with = [&](int chunk) {
    return cuda::plan<__half>(d, tokens, cuda::device_facts(),
                              {.pieces = 1, .tiles = 8, .slices = 1, .chunk_units = chunk});
  };
  const cuda::Plan small = plan_with(4), large = plan_with(8);
  EXPECT_GT(small.shared_bytes, 48 << 10);
  EXPECT_GT(large.shared_bytes, small.shared_bytes);
  const auto multiply = [&](const cuda::Plan& plan, OnDevice<float>& y) {
    cuda::matmul(plan, d, MatrixView<const __half>(x.data(), tokens, 4096), MatrixView<float>(y.data(), tokens, 200),
                 {}, stream_);
  };
  Graph graph(stream_, [&] { multiply(large, large_y), multiply(small, small_y); });
  graph.run();
  const auto small_first = small_y.read(), large_first = large_y.read();
  multiply(small, small_y);
  multiply(large, large_y);
  EXPECT_EQ(std::memcmp(small_y.read().data(), small_first.data(), 4 * small_first.size()), 0);
  EXPECT_EQ(std::memcmp(large_y.read().data(), large_first.data(), 4 * large_first.size()), 0);
}

TEST_F(Products, WrongArgumentsAreNamed) {
  std::mt19937 random(5);
  const cuda::DeviceMatrix d(test::random_matrix({}, 20, 70, random), stream_);
  OnDevice<float> memory(4000);
  const cuda::Plan plan = cuda::plan<float>(d, 2, cuda::device_facts(), {.slices = 1});
  const cuda::Plan sliced = cuda::plan<float>(d, 2, cuda::device_facts(), {.slices = 2});
  const auto message = [&](const cuda::Plan& p, const float* x, std::int64_t tokens, std::int64_t x_cols, float* y,
                           std::int64_t y_cols) {
    return test::message_of([&] {
      cuda::matmul(p, d, MatrixView<const float>(x, tokens, x_cols), MatrixView<float>(y, tokens, y_cols),
                   memory.memory().last(300), stream_);
    });
  };
  float *const x = memory.data(), *const y = x + 2000;
  EXPECT_EQ(message(plan, x, 2, 70, y, 20), "nothing was thrown");
  EXPECT_EQ(message(plan, x, 2, 71, y, 20), "sinq: x.cols = 71: must equal the cols of the matrix, 70");
  EXPECT_EQ(message(plan, x, 2, 70, y, 19), "sinq: y.cols = 19: must equal the rows of the matrix, 20");
  EXPECT_EQ(message(plan, x, 3, 70, y, 20), "sinq: y.rows = 3: the plan is for 2 tokens");
  EXPECT_EQ(message(plan, nullptr, 2, 70, y, 20), "sinq: x.data = null: must not be null");
  EXPECT_EQ(message(plan, x, 2, 70, nullptr, 20), "sinq: y.data = null: must not be null");
  EXPECT_EQ(message(sliced, x, 2, 70, y, 20), "sinq: workspace.size() = 300: must be at least 320");
  EXPECT_EQ(test::message_of([&] { cuda::dequantize(d, MatrixView<float>(nullptr, 20, 70), stream_); }),
            "sinq: out.data = null: must not be null");
}

/// Views of constant elements and of others, with and without a bias.
TEST_F(Products, TakeAnyViews) {
  std::mt19937 random(13);
  const cuda::DeviceMatrix d(test::random_matrix({}, 20, 70, random), stream_);
  OnDevice<__half> x(random_numbers<__half>(2 * 70, random)), y(2 * 20);
  const cuda::Plan plan = cuda::plan<__half>(d, 2, cuda::device_facts(), {.slices = 1});
  const MatrixView<__half> xs(x.data(), 2, 70), ys(y.data(), 2, 20);
  cuda::matmul(plan, d, xs, ys, {}, stream_);
  const std::vector<__half> expected = y.read();
  check(cudaMemset(y.data(), 0xff, y.memory().size()), "cudaMemset");  // NaN
  cuda::matmul(plan, d, MatrixView<const __half>(xs), ys, {}, stream_, nullptr);
  EXPECT_EQ(std::memcmp(y.read().data(), expected.data(), 2 * expected.size()), 0);
}

TEST_F(Products, OfAMatrixOnAnotherDeviceAreRefused) {
  int devices = 0;
  check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  if (devices < 2) GTEST_SKIP() << "ONE GPU: nothing to mistake it for";
  std::mt19937 random(10);
  const cuda::DeviceMatrix d(test::random_matrix({}, 20, 70, random), stream_);
  OnDevice<float> out(20 * 70);
  check(cudaSetDevice(1), "cudaSetDevice");
  EXPECT_EQ(test::message_of([&] { cuda::dequantize(d, MatrixView<float>(out.data(), 20, 70), nullptr); }),
            "sinq: w.device() = 0: must be the current device (cudaSetDevice)");
  check(cudaSetDevice(0), "cudaSetDevice");
}

#if !defined(SINQ_HAVE_CUBLAS)
TEST_F(Products, OfManyTokensByCublas) {
  GTEST_SKIP() << "NO CUBLAS: this was built without it";
}
#else
/// Sums in float of products of halves: as above, the weights rounded to half (2^-11) and the results too.
TEST_F(Products, OfManyTokensByCublas) {
  std::mt19937 random(6);
  cublasLtHandle_t handle = nullptr;
  detail::cuda::check(cublasLtCreate(&handle), "cublasLtCreate");
  constexpr std::int64_t kRows = 200, kCols = 333, kTokens = 300;
  const QuantizedMatrix q = test::random_matrix({}, kRows, kCols, random);
  const cuda::DeviceMatrix d(q, stream_);
  const auto w = dequantize<float>(q);
  const std::vector<__half> x = random_numbers<__half>(kTokens * kCols, random);
  const std::vector<__half> bias = random_numbers<__half>(kRows, random);
  OnDevice<__half> x_device(x), bias_device(bias), y_device(kTokens * kRows);
  for (std::int64_t at_once : {0, 48}) {
    const cuda::BlasPlan plan =
        cuda::plan_blas(d, kTokens, cuda::device_facts(), {.path = cuda::Path::restored, .rows_at_once = at_once});
    OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
    cuda::matmul(plan, d, MatrixView<const __half>(x_device.data(), kTokens, kCols),
                 MatrixView<__half>(y_device.data(), kTokens, kRows), workspace.memory(), handle, stream_,
                 static_cast<const __half*>(bias_device.data()));
    const std::vector<__half> y = y_device.read();
    for (std::int64_t t : sample(kTokens, 40))
      for (std::int64_t i = 0; i < kRows; ++i) {
        double exact = static_cast<double>(__half2float(bias[static_cast<std::size_t>(i)])), size = std::abs(exact);
        for (std::int64_t j = 0; j < kCols; ++j) {
          const double product = static_cast<double>(__half2float(x[static_cast<std::size_t>(t * kCols + j)])) *
                                 static_cast<double>(w(i, j));
          exact += product;
          size += std::abs(product);
        }
        ASSERT_NEAR(__half2float(y[static_cast<std::size_t>(t * kRows + i)]), exact,
                    (0x1p-11 + 2 * kCols * 0x1p-24) * size + 0x1p-11 * std::abs(exact));
      }
  }
  detail::cuda::check(cublasLtDestroy(handle), "cublasLtDestroy");
}
#endif

// Several matrices in one launch give what each gives alone; that this is right is proven above and in group_test.cpp.

using Groups = Gpu;

/// The kernels of few tokens and, where it is, of many.
std::vector<cuda::PlanOptions> both_kernels() {
  std::vector<cuda::PlanOptions> all{{.kernel = cuda::Kernel::mma, .tiles = 1, .slices = 2}};
  if (cuda::device_facts().wgmma) all.push_back({.kernel = cuda::Kernel::wgmma, .tiles = 16, .slices = 2});
  return all;
}

/// y = x W^T + bias of one matrix.
std::vector<float> alone(const cuda::DeviceMatrix& w, const __half* x, std::int64_t tokens, const float* bias,
                         const cuda::PlanOptions& options, cudaStream_t stream) {
  OnDevice<float> y(static_cast<std::size_t>(tokens * w.rows()));
  const cuda::Plan plan = cuda::plan<__half>(w, tokens, cuda::device_facts(), options);
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
  cuda::matmul(plan, w, MatrixView<const __half>(x, tokens, w.cols()), MatrixView<float>(y.data(), tokens, w.rows()),
               workspace.memory(), stream, bias);
  return y.read();
}

/// What one matrix is to be told so that it adds up in the same order as several do.
cuda::PlanOptions same_order(cuda::PlanOptions options, const cuda::Plan& plan) {
  if (plan.kernel == cuda::Kernel::mma) options.pieces = plan.pieces, options.chunk_units = plan.chunk_units;
  return options;
}

TEST_F(Groups, SideBySideIsWhatEachMatrixGivesAlone) {
  std::mt19937 random(1);
  const cuda::DeviceMatrix q(test::random_matrix({}, 200, 777, random), stream_),
      k(test::random_matrix({}, 17, 777, random), stream_),
      v(test::random_matrix({.bits = 5, .group_size = 16}, 64, 777, random), stream_);
  const cuda::DeviceMatrix* all[] = {&q, &k, &v};
  for (const cuda::PlanOptions& options : both_kernels()) {
    const std::int64_t tokens = options.kernel == cuda::Kernel::wgmma ? 140 : 3;
    OnDevice<__half> x(random_numbers<__half>(tokens * 777, random));
    OnDevice<float> bias(random_numbers<float>(281, random)), y(static_cast<std::size_t>(tokens * 281));
    const cuda::SideBySidePlan plan = cuda::plan<__half>(all, tokens, cuda::device_facts(), options);
    OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
    cuda::matmul(plan, all, MatrixView<const __half>(x.data(), tokens, 777), MatrixView<float>(y.data(), tokens, 281),
                 workspace.memory(), stream_, static_cast<const float*>(bias.data()));
    const std::vector<float> together = y.read();
    ASSERT_EQ(plan.launches.size(), 2);
    std::int64_t first = 0;
    for (const cuda::DeviceMatrix* m : all) {
      const std::vector<float> expected =
          alone(*m, x.data(), tokens, bias.data() + first, same_order(options, plan.launches[m == &v]), stream_);
      for (std::int64_t t = 0; t < tokens; ++t)
        ASSERT_EQ(std::memcmp(together.data() + t * 281 + first, expected.data() + t * m->rows(),
                              static_cast<std::size_t>(4 * m->rows())),
                  0)
            << to_string(plan);
      first += m->rows();
    }
  }
}

constexpr int kExperts = 40;
constexpr std::int64_t kExpertRows = 100, kExpertCols = 304;

/// Experts of one format, each alone and all together.
void expect_what_each_gives_alone(const std::vector<QuantizedMatrix>& all, std::mt19937& random, cudaStream_t stream) {
  std::vector<cuda::DeviceMatrix> matrices;
  std::vector<const cuda::DeviceMatrix*> pointers;
  for (const QuantizedMatrix& q : all) matrices.emplace_back(q, stream);
  for (const auto& m : matrices) pointers.push_back(&m);
  const cuda::DeviceExperts experts(pointers, stream);
  std::vector<std::int32_t> offsets{0}, tokens;
  for (int e = 0; e < kExperts; ++e) {
    for (unsigned n = e == 7 ? 150 : random() % 4; n > 0; --n)
      tokens.push_back(static_cast<std::int32_t>(random() % 20));
    offsets.push_back(static_cast<std::int32_t>(tokens.size()));
  }
  const auto routed = static_cast<std::int64_t>(tokens.size());
  OnDevice<__half> x(random_numbers<__half>(20 * kExpertCols, random));
  OnDevice<float> bias(random_numbers<float>(kExperts * kExpertRows, random)),
      y(static_cast<std::size_t>(routed * kExpertRows));
  OnDevice<std::int32_t> offsets_device(offsets), tokens_device(tokens);
  for (const cuda::PlanOptions& options : both_kernels()) {
    const cuda::Plan plan = cuda::plan<__half>(experts, routed, cuda::device_facts(), options);
    OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
    cuda::matmul(plan, experts, {offsets_device.data(), tokens_device.data()},
                 MatrixView<const __half>(x.data(), 20, kExpertCols), MatrixView<float>(y.data(), routed, kExpertRows),
                 workspace.memory(), stream, static_cast<const float*>(bias.data()));
    const std::vector<float> together = y.read();
    for (std::size_t e = 0; e < kExperts; ++e)
      for (std::int32_t t = offsets[e]; t < std::min(offsets[e + 1], offsets[e] + 4); ++t) {
        const std::int64_t from = tokens[static_cast<std::size_t>(t)];
        const std::vector<float> expected = alone(matrices[e], x.data() + from * kExpertCols, 1,
                                                  bias.data() + e * kExpertRows, same_order(options, plan), stream);
        ASSERT_EQ(std::memcmp(together.data() + t * kExpertRows, expected.data(), 4 * kExpertRows), 0)
            << "expert " << e << " row " << t << "\n"
            << to_string(plan);
      }
  }
}

TEST_F(Groups, ExpertsGiveWhatEachGivesAlone) {
  std::mt19937 random(2);
  std::vector<QuantizedMatrix> all;
  for (int e = 0; e < kExperts; ++e) all.push_back(test::random_matrix({}, kExpertRows, kExpertCols, random));
  expect_what_each_gives_alone(all, random, stream_);
}

TEST_F(Groups, ExpertsHaveLevelTablesOfTheirOwn) {
  std::mt19937 random(4);
  std::vector<QuantizedMatrix> all;
  for (int e = 0; e < kExperts; ++e) {
    all.push_back(
        test::random_matrix({.bits = 4, .levels = Levels::table, .group_size = 32}, kExpertRows, kExpertCols, random));
    for (std::size_t k = 1; k < 15; ++k) all.back().table[k] += static_cast<std::int8_t>(e % 7);  // rising all the same
  }
  expect_what_each_gives_alone(all, random, stream_);
}

TEST_F(Groups, WrongOnesAreNamed) {
  std::mt19937 random(3);
  const cuda::DeviceMatrix a(test::random_matrix({}, 20, 70, random), stream_),
      b(test::random_matrix({}, 20, 71, random), stream_);
  const cuda::DeviceMatrix* all[] = {&a, &b};
  EXPECT_EQ(test::message_of([&] { (void)cuda::plan(all, 1, cuda::device_facts()); }),
            "sinq: cols = 71: matrices of one product have the same columns");
  EXPECT_EQ(test::message_of([&] { cuda::DeviceExperts experts(all, stream_); }),
            "sinq: cols = 71: experts have the same columns");
  const cuda::DeviceMatrix* with_null[] = {&a, nullptr};
  EXPECT_EQ(test::message_of([&] { (void)cuda::plan(with_null, 1, cuda::device_facts()); }),
            "sinq: matrices[1] = null: must point to a matrix");
  EXPECT_EQ(test::message_of([&] { cuda::DeviceExperts experts(with_null, stream_); }),
            "sinq: experts[1] = null: must point to a matrix");
  const cuda::DeviceMatrix* two[] = {&a, &a};
  const cuda::SideBySidePlan plan = cuda::plan(two, 1, cuda::device_facts(), {.slices = 1});
  OnDevice<__half> x(70), y(40);
  const auto message = [&](const cuda::SideBySidePlan& p, cuda::DeviceMatrices matrices, std::int64_t rows) {
    return test::message_of([&] {
      cuda::matmul(p, matrices, MatrixView<const __half>(x.data(), 1, 70), MatrixView<__half>(y.data(), 1, rows), {},
                   stream_);
    });
  };
  EXPECT_EQ(message(plan, two, 40), "nothing was thrown");
  EXPECT_EQ(message(plan, two, 39), "sinq: y.cols = 39: must equal the rows of all matrices, 40");
  EXPECT_EQ(message({}, two, 40), "sinq: plan.launches.size() = 0: was made for other matrices");
  EXPECT_EQ(message(plan, with_null, 40), "sinq: matrices[1] = null: must point to a matrix");
  EXPECT_NE(message(plan, std::span(two).first(1), 20).find("was made for another matrix"), std::string::npos);
}

// What is looked at before any device is, and so runs everywhere.

TEST(Arguments, AreNamedWhereThereIsNoMatrix) {
  const cuda::DeviceMatrix* const none[] = {nullptr};
  EXPECT_EQ(test::message_of([&] { (void)cuda::plan(none, 1, {}); }),
            "sinq: matrices[0] = null: must point to a matrix");
  EXPECT_EQ(test::message_of([&] { cuda::DeviceExperts experts(none); }),
            "sinq: experts[0] = null: must point to a matrix");
  const cuda::DeviceMatrix empty;
  const cuda::DeviceMatrix* const of_nothing[] = {&empty};
  EXPECT_EQ(test::message_of([&] { (void)cuda::plan(empty, 1, {}); }), "sinq: w = empty: must hold a matrix");
  EXPECT_EQ(test::message_of([&] { (void)cuda::plan(of_nothing, 1, {}); }),
            "sinq: matrices[0] = empty: must hold a matrix");
  float number = 0;
  const MatrixView<float> view(&number, 1, 1);
  EXPECT_EQ(test::message_of([&] { cuda::matmul(cuda::SideBySidePlan(), none, view, view, {}, nullptr); }),
            "sinq: matrices[0] = null: must point to a matrix");
}

}  // namespace
