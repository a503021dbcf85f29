// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <sinq/core/thread_pool.hpp>
#include <sinq/matmul.hpp>
#include <thread>
#include <vector>

#include "support/isas.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/product.hpp"

extern std::atomic<long> allocations;  // through operator new, counted in counted_new.cpp

namespace {

using namespace sinq;
using test::message_of;
using test::Naive;
using test::random_float;
using test::random_matrix;

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
RowMajor<T> random_activations(std::int64_t tokens, std::int64_t cols, std::mt19937& random) {
  return RowMajor<T>::NullaryExpr(tokens, cols, [&] { return static_cast<T>(random_float(random, -1, 1)); });
}

template <class X, class Y>
void expect_product(const QuantizedMatrix& q, const MatrixView<const X>& x, const MatrixView<Y>& y, Numerics numerics) {
  const auto expected = test::expected_product<X>(q, x, numerics, test::in_bfloat16(q, numerics, x.rows));
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t i = 0; i < q.rows; ++i)
      ASSERT_NEAR(
          static_cast<double>(y.row(t)[i]), expected.value(t, i),
          expected.error(t, i) + test::kRounding<std::remove_const_t<Y>> * std::abs(expected.value(t, i)) + 1e-30)
          << (numerics == Numerics::fast ? "fast" : "exact") << ", token " << t << " row " << i << " of " << q.rows
          << 'x' << q.cols << ", bits " << q.format.bits << " levels " << static_cast<int>(q.format.levels) << " on "
          << name_of(current_isa());
}

void expect_product(const QuantizedMatrix& q, const RowMajor<float>& x, const RowMajor<float>& y,
                    Numerics numerics = Numerics::exact) {
  expect_product<float, const float>(q, MatrixView<const float>(x), MatrixView<const float>(y), numerics);
}

RowMajor<float> product(const PackedMatrix& p, const RowMajor<float>& x, const MatmulOptions& options = {}) {
  RowMajor<float> y = RowMajor<float>::Constant(x.rows(), p.rows(), NAN);
  matmul(p, x, y, options);
  return y;
}

// --- against the reference ----------------------------------------------------------------------------------------

struct Codes {
  Levels levels;
  int bits;
};
constexpr Codes kCodes[] = {
    {Levels::uniform, 2}, {Levels::uniform, 3},   {Levels::uniform, 4},   {Levels::uniform, 5},   {Levels::uniform, 6},
    {Levels::uniform, 8}, {Levels::symmetric, 2}, {Levels::symmetric, 3}, {Levels::symmetric, 8}, {Levels::nf4, 4},
    {Levels::nf3, 3},     {Levels::table, 2},     {Levels::table, 3},     {Levels::table, 4}};

TEST(Reference, IsTheNaiveSum) {
  std::mt19937 random(1);
  for (const Codes& c : kCodes) {
    Format f{
        .bits = c.bits, .levels = c.levels, .group_size = 16, .tile = Tile::square, .scale = Aux::u6, .zero = Aux::u7};
    if (c.levels == Levels::symmetric) f.zero = Aux::none;
    const QuantizedMatrix q = random_matrix(f, 21, 43, random);
    const auto x = random_activations<float>(2, 43, random);
    Eigen::MatrixXd magnitude;
    const auto y = reference_matmul(q, MatrixView<const float>(x), &magnitude);
    for (std::int64_t t = 0; t < 2; ++t)
      for (std::int64_t i = 0; i < 21; ++i) {
        double sum = 0, size = 0;
        for (std::int64_t j = 0; j < 43; ++j) {
          sum += double{x(t, j)} * Naive{q}.weight(i, j);
          size += std::abs(double{x(t, j)} * Naive{q}.weight(i, j));
        }
        EXPECT_NEAR(y(t, i), sum, 50 * 0x1p-53 * size);
        EXPECT_NEAR(magnitude(t, i), size, 50 * 0x1p-53 * size);
      }
  }
}

class IsaTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { force_isa(GetParam()); }
  void TearDown() override { force_isa(detail::core::best_isa()); }
};

TEST_P(IsaTest, EveryFormat) {
  std::mt19937 random(2);
  const Aux auxes[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};
  const Aux columns[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::none};
  const std::int64_t groups[] = {16, 32, 48, 64, 256, kWholeRow};
  unsigned k = 0;
  for (const Codes& c : kCodes)
    for (Aux scale : auxes)
      for (Aux zero : {Aux::none, Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u8}) {
        if ((c.levels == Levels::uniform && zero == Aux::none) || (c.levels == Levels::symmetric && zero != Aux::none))
          continue;
        Format f{.bits = c.bits, .levels = c.levels, .scale = scale, .zero = zero};
        f.group_size = groups[++k % 6];
        f.tile = k / 2 % 2 ? Tile::square : Tile::stripe;
        f.col_scale = columns[k / 3 % 4];
        if (is_integer(scale)) {
          f.signed_scale = k % 2;
          f.coarse_groups = k % 4;
        }
        const std::int64_t rows = 1 + k * 7 % 40, cols = 1 + k * 131 % 1100, tokens = 1 + k % 20;
        const QuantizedMatrix q = random_matrix(f, rows, cols, random);
        const auto x = random_activations<float>(tokens, cols, random);
        const PackedMatrix p = pack(q);
        expect_product(q, x, product(p, x));
        expect_product(q, x, product(p, x, {.numerics = Numerics::fast}), Numerics::fast);
        if (HasFatalFailure()) return;
      }
}

TEST_P(IsaTest, EveryShape) {
  std::mt19937 random(3);
  unsigned k = 0;
  for (std::int64_t tokens : {1, 2, 3, 7, 64, 65, 130})
    for (std::int64_t cols : {1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257, 300, 600})
      for (Tile tile : {Tile::stripe, Tile::square}) {
        Format f{.bits = kBitWidths[++k % 6], .group_size = k % 3 ? 16 : kWholeRow, .tile = tile};
        const QuantizedMatrix q = random_matrix(f, 1 + k * 11 % 40, cols, random);
        const auto x = random_activations<float>(tokens, cols, random);
        const PackedMatrix p = pack(q);
        expect_product(q, x, product(p, x));
        expect_product(q, x, product(p, x, {.numerics = Numerics::fast}), Numerics::fast);
        if (HasFatalFailure()) return;
      }
  for (std::int64_t rows = 1; rows <= 40; ++rows) {
    const QuantizedMatrix q =
        random_matrix({.group_size = 16, .tile = rows % 2 ? Tile::square : Tile::stripe}, rows, 50, random);
    const auto x = random_activations<float>(3, 50, random);
    expect_product(q, x, product(pack(q), x));
    if (HasFatalFailure()) return;
  }
}

/// Scales and zeros that are integers, where a product stays in integers up to the end of a step.
TEST_P(IsaTest, IntegerGroups) {
  std::mt19937 random(17);
  unsigned k = 0;
  for (const Codes& c : kCodes)
    for (std::int64_t group : {16, 32, 64, 96, 256})
      for (Aux scale : {Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8}) {
        constexpr Aux kZeros[] = {Aux::none, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};
        Format f{.bits = c.bits, .levels = c.levels, .group_size = group, .scale = scale, .zero = kZeros[++k % 6]};
        if (c.levels == Levels::symmetric) f.zero = Aux::none;
        if (c.levels == Levels::uniform && f.zero == Aux::none) f.zero = Aux::u5;
        f.signed_scale = k / 3 % 2;
        const std::int64_t rows = 1 + k * 7 % 40, cols = 1 + k * 131 % 700;
        const QuantizedMatrix q = random_matrix(f, rows, cols, random);
        const PackedMatrix p = pack(q);
        for (std::int64_t tokens : {1, 5, 11, 15}) {
          const auto x = random_activations<float>(tokens, cols, random);
          expect_product(q, x, product(p, x));
          expect_product(q, x, product(p, x, {.numerics = Numerics::fast}), Numerics::fast);
          if (HasFatalFailure()) return;
        }
      }
}

/// The largest sums there are, of 32 bits (256 columns, levels 255 from the zero, scales of 8 bits) and of 16, which
/// hold the more columns the narrower the codes are: all codes the lowest or the highest, in tables levels of -128 and
/// 127; activations all at the limit, and such that all digits to base 256 are -128 or 127.
TEST_P(IsaTest, LargestSumsFit) {
  std::mt19937 random(18);
  for (const Codes& c : kCodes) {
    if (c.levels == Levels::symmetric) continue;  // one level less
    const bool with_zero = c.levels == Levels::uniform || c.levels == Levels::table;
    for (std::int64_t group : {16, 64, 256})
      for (Aux scale : {Aux::u8, Aux::f16})
        for (bool highest : {false, true})
          for (bool is_signed : {false, true}) {
            QuantizedMatrix q = random_matrix({.bits = c.bits,
                                               .levels = c.levels,
                                               .group_size = group,
                                               .scale = scale,
                                               .zero = with_zero ? Aux::u8 : Aux::none,
                                               .col_scale = Aux::none,
                                               .signed_scale = is_signed && scale == Aux::u8},
                                              20, 512, random);
            std::fill(q.codes.begin(), q.codes.end(), static_cast<std::uint8_t>(highest ? 255 : 0));
            std::fill(q.zero.begin(), q.zero.end(), static_cast<std::uint8_t>(highest ? 0 : 255));
            if (scale == Aux::u8)
              std::fill(q.scale.begin(), q.scale.end(), static_cast<std::uint8_t>(is_signed ? 128 : 255));
            if (c.levels == Levels::table) {
              q.table[0] = -128;
              q.table[static_cast<std::size_t>((1 << c.bits) - 1)] = 127;
            }
            const PackedMatrix p = pack(q);
            for (float value : {1.0f, -1.0f, 0x7e8080p-23f, -0x7e8080p-23f, 0x7e7f7fp-23f, -0x7e7f7fp-23f}) {
              const RowMajor<float> x = RowMajor<float>::Constant(4, 512, value);
              for (Numerics numerics : {Numerics::exact, Numerics::fast})
                for (std::int64_t tokens : {1, 4})
                  expect_product(q, x.topRows(tokens), product(p, x.topRows(tokens), {.numerics = numerics}), numerics);
              if (HasFatalFailure()) return;
            }
          }
  }
}

template <class X, class Y>
void with_types() {
  std::mt19937 random(4);
  for (Tile tile : {Tile::stripe, Tile::square}) {
    const QuantizedMatrix q = random_matrix({.bits = 3, .group_size = 32, .tile = tile}, 37, 77, random);
    const PackedMatrix p = pack(q);
    // Rows apart from each other, beginning at an odd element, guards all round.
    std::vector<X> x(3 + 5 * 81);
    for (auto& v : x) v = static_cast<X>(random_float(random, -1, 1));
    const Y guard = static_cast<Y>(-77.0f);
    std::vector<Y> y(1 + 5 * 40, guard);
    const MatrixView<const X> xs(x.data() + 3, 5, 77, 81);
    const MatrixView<Y> ys(y.data() + 1, 5, 37, 40);
    for (Numerics numerics : {Numerics::fast, Numerics::exact}) {
      matmul(p, xs, ys, {.numerics = numerics});
      expect_product<X, Y>(q, xs, ys, numerics);
    }
    for (std::size_t k = 0; k < y.size(); ++k)
      if (k == 0 || (k - 1) % 40 >= 37) {
        ASSERT_EQ(static_cast<float>(y[k]), -77.0f) << k;
      }
  }
}

TEST_P(IsaTest, ElementTypesAndStrides) {
  with_types<float, float>();
  with_types<float, half>();
  with_types<half, half>();
  with_types<half, float>();
  with_types<bfloat16, bfloat16>();
  with_types<bfloat16, float>();
  with_types<double, double>();
}

TEST_P(IsaTest, SameBitsForEveryExecutor) {
  std::mt19937 random(5);
  Eigen::ThreadPool one(1), three(3);
  ThreadPoolExecutor width2(one), width4(three);
  for (Tile tile : {Tile::stripe, Tile::square})
    for (std::int64_t tokens : {1, 5, 70}) {
      const PackedMatrix p = pack(random_matrix({.tile = tile}, 150, 200, random));
      const auto x = random_activations<float>(tokens, 200, random);
      const auto expected = product(p, x);
      const auto fast = product(p, x, {.numerics = Numerics::fast});
      for (Executor* e : std::initializer_list<Executor*>{&width2, &width4})
        for (int round = 0; round < 3; ++round) {
          EXPECT_EQ(product(p, x, {.executor = e}), expected);
          EXPECT_EQ(product(p, x, {.executor = e, .numerics = Numerics::fast}), fast);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Isas, IsaTest, testing::ValuesIn(supported_isas()),
                         [](const auto& isa) { return std::string(name_of(isa.param)); });

// --- the face -----------------------------------------------------------------------------------------------------

TEST(Matmul, EigenMapsBlocksAndRefs) {
  std::mt19937 random(6);
  const QuantizedMatrix q = random_matrix({}, 20, 70, random);
  const PackedMatrix p = pack(q);
  const auto x = random_activations<float>(4, 70, random);
  const auto expected = product(p, x);
  RowMajor<float> wide = RowMajor<float>::Constant(6, 100, NAN);
  wide.block(1, 3, 4, 70) = x;
  RowMajor<float> y = RowMajor<float>::Zero(8, 50);
  matmul(p, wide.block(1, 3, 4, 70), y.block(2, 5, 4, 20));
  EXPECT_EQ(y.block(2, 5, 4, 20), expected);
  y.block(2, 5, 4, 20).setZero();
  EXPECT_TRUE((y.array() == 0).all());
  const Eigen::Map<const RowMajor<float>> x_map(x.data(), 4, 70);
  std::vector<float> out(80);
  matmul(p, x_map, Eigen::Map<RowMajor<float>>(out.data(), 4, 20));
  EXPECT_EQ((Eigen::Map<RowMajor<float>>(out.data(), 4, 20)), expected);
  const Eigen::RowVectorXf one = x.row(0);
  Eigen::RowVectorXf y_one(20);
  matmul(p, one, y_one);
  EXPECT_TRUE(((y_one - expected.row(0)).array().abs() < 1e-3f).all());
}

TEST(Matmul, WithoutTokensNothingHappens) {
  std::mt19937 random(7);
  const PackedMatrix p = pack(random_matrix({}, 20, 70, random));
  EXPECT_NO_THROW(matmul(p, MatrixView<const float>(nullptr, 0, 70), MatrixView<float>(nullptr, 0, 20)));
  EXPECT_NO_THROW(matmul(std::span<const Product>()));
}

TEST(Matmul, WrongShapesAreNamed) {
  std::mt19937 random(8);
  const PackedMatrix p = pack(random_matrix({}, 20, 70, random));
  std::vector<float> memory(4000);
  const auto message = [&](std::int64_t x_rows, std::int64_t x_cols, std::int64_t x_stride, std::int64_t y_rows,
                           std::int64_t y_cols, std::int64_t y_stride) {
    return message_of([&] {
      matmul(p, MatrixView<const float>(memory.data(), x_rows, x_cols, x_stride),
             MatrixView<float>(memory.data() + 2000, y_rows, y_cols, y_stride));
    });
  };
  EXPECT_EQ(message(2, 70, 70, 2, 20, 20), "nothing was thrown");
  EXPECT_EQ(message(2, 71, 71, 2, 20, 20), "sinq: x.cols = 71: must equal the cols of the matrix");
  EXPECT_EQ(message(2, 70, 70, 2, 19, 19), "sinq: y.cols = 19: must equal the rows of the matrix");
  EXPECT_EQ(message(2, 70, 70, 3, 20, 20), "sinq: y.rows = 3: must equal x.rows, the number of tokens");
  EXPECT_EQ(message(2, 70, 69, 2, 20, 20), "sinq: x.stride = 69: must be at least x.cols");
  EXPECT_EQ(message(2, 70, 70, 2, 20, 19), "sinq: y.stride = 19: must be at least y.cols");
  EXPECT_EQ(message(-1, 70, 70, -1, 20, 20), "sinq: y.rows = -1: allowed are 0 to 2^31 - 1 tokens");
  const std::vector<float> x(69);
  EXPECT_EQ(message_of([&] { (void)reference_matmul(unpack(p), MatrixView<const float>(x.data(), 1, 69)); }),
            "sinq: x.cols = 69: must equal the cols of the matrix");
}

// --- several products ----------------------------------------------------------------------------------------------

/// Query, key and value: one input, matrices of different size, format and tiling.
TEST(Products, ThatShareAnInputAreWhatTheyAreAlone) {
  std::mt19937 random(13);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  SerialExecutor serial;
  const PackedMatrix q = pack(random_matrix({}, 100, 130, random));
  const PackedMatrix k = pack(random_matrix({.bits = 3, .group_size = 16, .tile = Tile::square}, 33, 130, random));
  const PackedMatrix v = pack(random_matrix({.levels = Levels::nf4, .zero = Aux::none}, 7, 130, random));
  for (std::int64_t tokens : {1, 3, 70, 130})
    for (Executor* e : std::initializer_list<Executor*>{&serial, &threads})
      for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
        const auto x = random_activations<float>(tokens, 130, random);
        RowMajor<float> qy(tokens, 100), ky(tokens, 33);
        RowMajor<half> vy(tokens, 7);
        const Product products[] = {{&q, x, qy}, {&k, x, ky}, {&v, x, vy}};
        std::vector<std::byte> workspace(matmul_workspace(products, e->width()));
        const long before = allocations;
        matmul(products, {.executor = e, .workspace = workspace, .numerics = numerics});
        if (e == &serial) {
          EXPECT_EQ(allocations, before);
        }
        const MatmulOptions alone{.numerics = numerics};
        EXPECT_EQ(qy, product(q, x, alone));
        EXPECT_EQ(ky, product(k, x, alone));
        EXPECT_EQ(vy, product(v, x, alone).cast<half>());
      }
}

/// Experts: every one gets some tokens, in any order, possibly none; another one's rows of x are not read.
TEST(Products, OfExpertsTakeTheirTokens) {
  std::mt19937 random(14);
  Eigen::ThreadPool pool(1);
  ThreadPoolExecutor threads(pool);
  for (Tile tile : {Tile::stripe, Tile::square}) {
    std::vector<PackedMatrix> experts;
    for (int e = 0; e < 5; ++e)
      experts.push_back(pack(random_matrix({.group_size = 32, .tile = tile}, 50, 96, random)));
    const auto x = random_activations<bfloat16>(90, 96, random);
    std::vector<std::vector<std::int32_t>> tokens(5);
    for (std::int32_t t = 89; t >= 0; --t) {
      tokens[static_cast<std::size_t>(t % 2)].push_back(t);
      if (t % 5 == 0) tokens[3].push_back(t);
      tokens[4].push_back(t);
    }
    std::vector<RowMajor<float>> y(5);
    std::vector<Product> products;
    for (std::size_t e = 0; e < 5; ++e) {
      y[e].resize(std::ssize(tokens[e]), 50);
      products.push_back({&experts[e], x, y[e], tokens[e]});
    }
    matmul(products, {.executor = &threads});
    for (std::size_t e = 0; e < 5; ++e) {
      RowMajor<float> own(std::ssize(tokens[e]), 96);
      for (std::int64_t k = 0; k < own.rows(); ++k)
        own.row(k) = x.row(tokens[e][static_cast<std::size_t>(k)]).cast<float>();
      EXPECT_EQ(y[e], product(experts[e], own));
    }
  }
}

TEST(Products, WrongOnesAreNamed) {
  std::mt19937 random(15);
  const PackedMatrix w = pack(random_matrix({}, 20, 70, random));
  const auto x = random_activations<float>(3, 70, random);
  RowMajor<float> y(2, 20);
  const std::vector<std::int32_t> good = {2, 0}, high = {0, 3}, low = {-1, 0}, one = {0};
  const auto message = [&](const Product& second) {
    const Product products[] = {{&w, x, y, good}, second};
    return message_of([&] { matmul(products); });
  };
  EXPECT_EQ(message({&w, x, y, good}), "nothing was thrown");
  EXPECT_EQ(message({nullptr, x, y, good}), "sinq: products[1].w = 0: must point to a matrix");
  EXPECT_EQ(message({&w, x, y, high}), "sinq: products[1].token = 3: must be one of the rows of x");
  EXPECT_EQ(message({&w, x, y, low}), "sinq: products[1].token = -1: must be one of the rows of x");
  EXPECT_EQ(message({&w, x, y, one}), "sinq: products[1].y.rows = 2: must equal tokens.size()");
  EXPECT_EQ(message({&w, x, y}), "sinq: products[1].y.rows = 2: must equal x.rows, the number of tokens");
  RowMajor<float> wide(3, 70);
  EXPECT_EQ(message({&w, x, wide}), "sinq: products[1].y.cols = 70: must equal the rows of the matrix");
}

/// Tensor parallelism: parts by rows give the same bits, parts by columns add up.
TEST(Products, OfPartsMakeUpTheWhole) {
  std::mt19937 random(16);
  const QuantizedMatrix q =
      random_matrix({.bits = 3, .group_size = 16, .scale = Aux::u5, .zero = Aux::u5}, 90, 192, random);
  const PackedMatrix p = pack(q);
  const auto x = random_activations<float>(3, 192, random);
  const auto whole = product(p, x);
  RowMajor<float> y(3, 90);
  matmul(slice_rows(p, 0, 37), x, y.leftCols(37));
  matmul(slice_rows(p, 37, 53), x, y.rightCols(53));
  EXPECT_EQ(y, whole);
  RowMajor<float> sum = product(slice_cols(p, 0, 80), x.leftCols(80));
  sum += product(slice_cols(p, 80, 112), x.rightCols(112));
  expect_product(q, x, sum);
}

// --- workspace ----------------------------------------------------------------------------------------------------

TEST(Workspace, ExactSizeAtEveryAlignmentTouchesNothingElse) {
  std::mt19937 random(9);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  SerialExecutor serial;
  for (Tile tile : {Tile::stripe, Tile::square})
    for (Executor* e : std::initializer_list<Executor*>{&serial, &threads})
      for (std::int64_t tokens : {1, 3, 64, 65}) {
        const PackedMatrix p = pack(random_matrix({.group_size = 48, .tile = tile}, 101, 130, random));
        const auto x = random_activations<float>(tokens, 130, random);
        const auto expected = product(p, x);
        const std::size_t size = matmul_workspace(p, tokens, e->width());
        std::vector<std::byte> memory(size + 200, std::byte{0x5a});
        for (std::size_t shift : {64, 65, 99, 127}) {
          EXPECT_EQ(product(p, x, {.executor = e, .workspace = {memory.data() + shift, size}}), expected);
          for (std::size_t k = 0; k < memory.size(); ++k)
            if (k < 64 || k >= 127 + size) {
              ASSERT_EQ(memory[k], std::byte{0x5a}) << k;
            }
          std::fill(memory.begin(), memory.end(), std::byte{0x5a});
        }
        EXPECT_EQ(message_of([&] {
                    (void)product(p, x, {.executor = e, .workspace = {memory.data(), size - 1}});
                  }),
                  "sinq: workspace.size() = " + std::to_string(size - 1) + ": must be at least matmul_workspace(...)");
      }
}

TEST(Workspace, OneForTheMostTokensServesFewer) {
  std::mt19937 random(10);
  const PackedMatrix p = pack(random_matrix({}, 40, 130, random));
  std::size_t last = 0;
  for (std::int64_t tokens : {0, 1, 2, 63, 64, 65, 1000000}) {
    EXPECT_GE(matmul_workspace(p, tokens), last);
    last = matmul_workspace(p, tokens);
  }
  EXPECT_EQ(message_of([&] { (void)matmul_workspace(p, -1); }), "sinq: tokens = -1: allowed are 0 to 2^31 - 1");
  EXPECT_EQ(message_of([&] { (void)matmul_workspace(p, 1, 0); }), "sinq: width = 0: allowed are 1 to 65536");
}

TEST(Workspace, NothingIsAllocatedWhereOneIsGiven) {
  std::mt19937 random(11);
  for (const Format& f :
       {Format{}, Format{.bits = 3, .group_size = 16, .tile = Tile::square, .scale = Aux::u8, .zero = Aux::u6},
        Format{.levels = Levels::table, .group_size = kWholeRow}})
    for (std::int64_t tokens : {1, 130}) {
      const PackedMatrix p = pack(random_matrix(f, 40, 300, random));
      const auto x = random_activations<float>(tokens, 300, random);
      RowMajor<float> y(tokens, 40);
      std::vector<std::byte> workspace(matmul_workspace(p, tokens));
      const long before = allocations;
      matmul(p, x, y, {.workspace = workspace});
      matmul(p, x, y, {.workspace = workspace, .numerics = Numerics::fast});
      EXPECT_EQ(allocations, before);
      matmul(p, x, y);
      EXPECT_EQ(allocations, before + 1);  // and the counter counts
    }
}

TEST(Matmul, ConstantMatrixFromSeveralThreads) {
  std::mt19937 random(12);
  const PackedMatrix p = pack(random_matrix({.tile = Tile::square}, 90, 130, random));
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  const auto x = random_activations<float>(5, 130, random);
  const auto expected = product(p, x);
  std::vector<RowMajor<float>> results(3);
  std::vector<std::thread> callers;
  for (auto& r : results)
    callers.emplace_back([&] {
      for (int round = 0; round < 10; ++round) r = product(p, x, {.executor = round % 2 ? &threads : nullptr});
    });
  for (auto& t : callers) t.join();
  for (const auto& r : results) EXPECT_EQ(r, expected);
}

}  // namespace
