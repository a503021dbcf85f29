// SPDX-License-Identifier: Apache-2.0
#include "device.cuh"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <sinq/cuda.cuh>
#include <sinq/cuda/blas.cuh>
#include <vector>

#include "support/message_of.hpp"
#include "support/naive.hpp"

// What only a GPU can show: that the instructions do what their models say, and that launches, streams and graphs work.
// Indexing, layouts and bounds are proven in the executor (multiply_test.cpp, dequantize_test.cpp).

namespace {

using namespace sinq;
using test::check;
using test::Gpu;
using test::OnDevice;

struct Case {
  int bits;
  Levels levels;
  Aux aux;
  std::int64_t group, rows, cols, tokens;
};
constexpr Case kCases[] = {
    {4, Levels::uniform, Aux::f16, 64, 256, 1024, 1},  {4, Levels::uniform, Aux::u8, 32, 100, 777, 2},
    {3, Levels::uniform, Aux::u6, 16, 70, 1000, 5},    {2, Levels::uniform, Aux::bf16, 48, 33, 600, 9},
    {5, Levels::uniform, Aux::f32, 128, 130, 300, 16}, {6, Levels::uniform, Aux::u4, 256, 64, 512, 17},
    {8, Levels::uniform, Aux::f16, 0, 48, 333, 40},    {4, Levels::nf4, Aux::f16, 64, 64, 512, 3},
    {3, Levels::nf3, Aux::u8, 64, 64, 512, 64},        {4, Levels::table, Aux::u6, 32, 64, 512, 100},
    {2, Levels::table, Aux::u5, 16, 17, 99, 200},      {4, Levels::symmetric, Aux::f16, 64, 512, 2048, 1}};

QuantizedMatrix matrix_of(const Case& c, std::mt19937& random) {
  Format f{.bits = c.bits, .levels = c.levels, .group_size = c.group, .scale = c.aux, .zero = c.aux};
  if (c.levels == Levels::symmetric) f.zero = Aux::none;
  f.coarse_groups = is_integer(c.aux) ? 4 : 0;
  return test::random_matrix(f, c.rows, c.cols, random);
}

using Products = Gpu;
using Matrices = Gpu;

TEST_F(Matrices, ComeBackBitForBit) {
  std::mt19937 random(1);
  for (const Case& c : kCases) {
    const QuantizedMatrix q = matrix_of(c, random);
    EXPECT_EQ(cuda::DeviceMatrix(q, stream_).download(stream_), q);
  }
}

TEST_F(Matrices, DequantizeToTheBitsOfTheCpu) {
  std::mt19937 random(2);
  for (const Case& c : kCases) {
    const QuantizedMatrix q = matrix_of(c, random);
    const cuda::DeviceMatrix d(q, stream_);
    OnDevice<float> out(static_cast<std::size_t>(c.rows * c.cols));
    cuda::dequantize(d, MatrixView<float>(out.data(), c.rows, c.cols), stream_);
    const auto expected = dequantize<float>(q);
    const std::vector<float> got = out.read();
    ASSERT_EQ(std::memcmp(got.data(), expected.data(), 4 * got.size()), 0) << "bits " << c.bits;
  }
}

template <class X>
X rounded(float value);
template <>
__half rounded(float value) {
  return __float2half_rn(value);
}
template <>
__nv_bfloat16 rounded(float value) {
  return __float2bfloat16_rn(value);
}

/// As in expect_product.hpp, in short: with two halves per activation the sums are what rounds, with one the
/// activations are (2^-11), with wgmma the weights (2^-11, 2^-9 for bfloat16); NF levels round to half.
template <class X>
void expect_agreement(const Case& c, const cuda::PlanOptions& options, std::mt19937& random, cudaStream_t stream) {
  const QuantizedMatrix q = matrix_of(c, random);
  const test::Naive n{q};
  const cuda::DeviceMatrix d(q, stream);
  std::vector<X> x(static_cast<std::size_t>(c.tokens * c.cols));
  for (X& v : x) v = rounded<X>(test::random_float(random, -1, 1));
  OnDevice<X> x_device(x);
  OnDevice<float> y_device(static_cast<std::size_t>(c.tokens * c.rows));
  const cuda::Plan plan = cuda::plan<X>(d, c.tokens, cuda::device_facts(), options);
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
  cuda::matmul(plan, d, MatrixView<const X>(x_device.data(), c.tokens, c.cols),
               MatrixView<float>(y_device.data(), c.tokens, c.rows), workspace.memory(), stream);
  const std::vector<float> y = y_device.read();
  const double rounding = plan.kernel == cuda::Kernel::wgmma           ? std::is_same_v<X, __half> ? 0x1p-10 : 0x1p-8
                          : plan.pieces == 2 && c.levels < Levels::nf4 ? 0x1p-21
                                                                       : 0x1p-10;
  for (std::int64_t t = 0; t < c.tokens; ++t)
    for (std::int64_t i = 0; i < c.rows; ++i) {
      double exact = 0, size = 0, weight = 0;
      for (std::int64_t j = 0; j < c.cols; ++j) {
        const double xs = static_cast<double>(static_cast<float>(x[static_cast<std::size_t>(t * c.cols + j)])) *
                          n.col_scale(i, j) * n.scale(i, j / n.width);
        const double shift = c.levels == Levels::symmetric ? 1 << (c.bits - 1) : 0;
        exact += (n.level(i, j) - n.zero(i, j / n.width)) * xs;
        size += (std::abs(n.level(i, j) + shift) + std::abs(n.zero(i, j / n.width) + shift)) * std::abs(xs);
        weight += (std::abs(n.level(i, j)) + std::abs(n.zero(i, j / n.width))) * std::abs(xs);
      }
      ASSERT_NEAR(y[static_cast<std::size_t>(t * c.rows + i)], exact,
                  4 * static_cast<double>(c.cols + 16) * 0x1p-24 * size + rounding * weight)
          << "token " << t << " row " << i << " bits " << c.bits << "\n"
          << to_string(plan);
    }
}

TEST_F(Products, AgreeWithDoublePrecision) {
  std::mt19937 random(3);
  for (const Case& c : kCases) {
    expect_agreement<__half>(c, {.kernel = cuda::Kernel::mma}, random, stream_);
    if (HasFatalFailure()) return;
  }
}

/// Every kind of codes, rows and tokens that fill no block, few units and many, slices.
TEST_F(Products, OfManyTokensOnHopper) {
  if (!cuda::device_facts().wgmma) GTEST_SKIP() << "NO WGMMA: not a Hopper, or not compiled for sm_90a";
  std::mt19937 random(7);
  for (Case c : kCases)
    for (std::int64_t tokens : {65, 128, 300})
      for (int slices : {0, 1, 2}) {
        c.tokens = tokens;
        const cuda::PlanOptions options{.kernel = cuda::Kernel::wgmma, .slices = slices};
        expect_agreement<__half>(c, options, random, stream_);
        expect_agreement<__nv_bfloat16>(c, options, random, stream_);
        if (HasFatalFailure()) return;
      }
}

TEST_F(Products, SameBitsEveryTimeAndInAGraph) {
  std::mt19937 random(4);
  const QuantizedMatrix q = test::random_matrix({}, 300, 4096, random);
  const cuda::DeviceMatrix d(q, stream_);
  std::vector<__nv_bfloat16> x(3 * 4096);
  for (auto& v : x) v = __float2bfloat16(test::random_float(random, -1, 1));
  OnDevice<__nv_bfloat16> x_device(x), y_device(3 * 300);
  const cuda::Plan plan = cuda::plan<__nv_bfloat16>(d, 3, cuda::device_facts());
  EXPECT_GT(plan.slices, 1);
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
  const auto multiply = [&] {
    cuda::matmul(plan, d, MatrixView<const __nv_bfloat16>(x_device.data(), 3, 4096),
                 MatrixView<__nv_bfloat16>(y_device.data(), 3, 300), workspace.memory(), stream_);
  };
  multiply();
  const auto first = y_device.read();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t runnable = nullptr;
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  multiply();
  check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&runnable, graph, 0), "cudaGraphInstantiate");
  for (int k = 0; k < 10; ++k) {
    check(cudaGraphLaunch(runnable, stream_), "cudaGraphLaunch");
    const auto again = y_device.read();
    ASSERT_EQ(std::memcmp(again.data(), first.data(), 2 * first.size()), 0);
  }
  check(cudaGraphExecDestroy(runnable), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

TEST_F(Products, WrongShapesAreNamed) {
  std::mt19937 random(5);
  const cuda::DeviceMatrix d(test::random_matrix({}, 20, 70, random), stream_);
  OnDevice<float> memory(4000);
  const cuda::Plan plan = cuda::plan<float>(d, 2, cuda::device_facts(), {.slices = 1});
  const auto message = [&](std::int64_t tokens, std::int64_t x_cols, std::int64_t y_cols) {
    return test::message_of([&] {
      cuda::matmul(plan, d, MatrixView<const float>(memory.data(), tokens, x_cols),
                   MatrixView<float>(memory.data() + 2000, tokens, y_cols), {}, stream_);
    });
  };
  EXPECT_EQ(message(2, 70, 20), "nothing was thrown");
  EXPECT_EQ(message(2, 71, 20), "sinq: x.cols = 71: must equal the cols of the matrix");
  EXPECT_EQ(message(2, 70, 19), "sinq: y.cols = 19: must equal the rows of the matrix");
  EXPECT_EQ(message(3, 70, 20), "sinq: y.rows = 3: the plan is for another number of tokens");
}

/// Sums in float of products of halves: as above, the weights rounded to half (2^-11) and the results too.
TEST_F(Products, OfManyTokensByCublas) {
  std::mt19937 random(6);
  cublasLtHandle_t handle = nullptr;
  detail::cuda::check(cublasLtCreate(&handle), "cublasLtCreate");
  constexpr std::int64_t kRows = 200, kCols = 333, kTokens = 300;
  const QuantizedMatrix q = test::random_matrix({}, kRows, kCols, random);
  const cuda::DeviceMatrix d(q, stream_);
  const auto w = dequantize<float>(q);
  std::vector<__half> x(kTokens * kCols), bias(kRows);
  for (__half& v : x) v = __float2half_rn(test::random_float(random, -1, 1));
  for (__half& v : bias) v = __float2half_rn(test::random_float(random, -1, 1));
  OnDevice<__half> x_device(x), bias_device(bias), y_device(kTokens * kRows);
  for (std::int64_t at_once : {0, 48}) {
    const cuda::BlasPlan plan =
        cuda::plan_blas(d, kTokens, cuda::device_facts(), {.path = cuda::Path::restored, .rows_at_once = at_once});
    OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
    cuda::matmul(plan, d, MatrixView<const __half>(x_device.data(), kTokens, kCols),
                 MatrixView<__half>(y_device.data(), kTokens, kRows), workspace.memory(), handle, stream_,
                 static_cast<const __half*>(bias_device.data()));
    const std::vector<__half> y = y_device.read();
    for (std::int64_t t = 0; t < kTokens; ++t)
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

// Several matrices in one launch give what each gives alone; that this is right is proven above and in group_test.cpp.

using Groups = Gpu;

std::vector<float> random_activations(std::int64_t count, std::mt19937& random) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& v : x) v = test::random_float(random, -1, 1);
  return x;
}

TEST_F(Groups, SideBySideIsWhatEachMatrixGivesAlone) {
  std::mt19937 random(1);
  const cuda::DeviceMatrix q(test::random_matrix({}, 200, 777, random), stream_),
      k(test::random_matrix({}, 17, 777, random), stream_), v(test::random_matrix({}, 64, 777, random), stream_);
  const cuda::DeviceMatrix* all[] = {&q, &k, &v};
  OnDevice<float> x(random_activations(3 * 777, random)), y(3 * 281);
  const cuda::Plan plan = cuda::plan<float>(all, 3, cuda::device_facts(), {.slices = 2});
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(plan.workspace_bytes));
  const MatrixView<const float> xs(x.data(), 3, 777);
  cuda::matmul(plan, all, xs, MatrixView<float>(y.data(), 3, 281), workspace.memory(), stream_);
  const std::vector<float> together = y.read();
  std::int64_t first = 0;
  for (const cuda::DeviceMatrix* m : all) {
    OnDevice<float> own(static_cast<std::size_t>(3 * m->rows()));
    const cuda::Plan alone =
        cuda::plan<float>(*m, 3, cuda::device_facts(), {.slices = 2, .chunk_units = plan.chunk_units});
    OnDevice<std::uint8_t> own_workspace(static_cast<std::size_t>(alone.workspace_bytes));
    cuda::matmul(alone, *m, xs, MatrixView<float>(own.data(), 3, m->rows()), own_workspace.memory(), stream_);
    const std::vector<float> expected = own.read();
    for (std::int64_t t = 0; t < 3; ++t)
      ASSERT_EQ(std::memcmp(together.data() + t * 281 + first, expected.data() + t * m->rows(),
                            static_cast<std::size_t>(4 * m->rows())),
                0);
    first += m->rows();
  }
}

TEST_F(Groups, ExpertsGiveWhatEachGivesAlone) {
  std::mt19937 random(2);
  constexpr int kExperts = 40;
  std::vector<cuda::DeviceMatrix> matrices;
  std::vector<const cuda::DeviceMatrix*> pointers;
  for (int e = 0; e < kExperts; ++e) matrices.emplace_back(test::random_matrix({}, 100, 300, random), stream_);
  for (const auto& m : matrices) pointers.push_back(&m);
  const cuda::DeviceExperts experts(pointers, stream_);
  std::vector<std::int32_t> offsets{0}, tokens;
  for (int e = 0; e < kExperts; ++e) {
    for (unsigned n = random() % 4; n > 0; --n) tokens.push_back(static_cast<std::int32_t>(random() % 20));
    offsets.push_back(static_cast<std::int32_t>(tokens.size()));
  }
  const auto routed = static_cast<std::int64_t>(tokens.size());
  const std::vector<float> activations = random_activations(20 * 300, random);
  OnDevice<float> x(activations), y(static_cast<std::size_t>(routed * 100));
  OnDevice<std::int32_t> offsets_device(offsets), tokens_device(tokens);
  const cuda::Plan plan = cuda::plan<float>(experts, routed, cuda::device_facts(), {.slices = 1});
  cuda::matmul(plan, experts, {offsets_device.data(), tokens_device.data()}, MatrixView<const float>(x.data(), 20, 300),
               MatrixView<float>(y.data(), routed, 100), {}, stream_);
  const std::vector<float> together = y.read();
  for (std::size_t e = 0; e < kExperts; ++e)
    for (std::int32_t t = offsets[e]; t < offsets[e + 1]; ++t) {
      const cuda::Plan alone =
          cuda::plan<float>(matrices[e], 1, cuda::device_facts(), {.slices = 1, .chunk_units = plan.chunk_units});
      OnDevice<float> own(100);
      cuda::matmul(alone, matrices[e],
                   MatrixView<const float>(x.data() + std::int64_t{300} * tokens[static_cast<std::size_t>(t)], 1, 300),
                   MatrixView<float>(own.data(), 1, 100), {}, stream_);
      ASSERT_EQ(std::memcmp(together.data() + 100 * t, own.read().data(), 400), 0) << "expert " << e << " row " << t;
    }
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
}

}  // namespace
