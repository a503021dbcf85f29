// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <optional>
#include <sinq/core/thread_pool.hpp>
#include <sinq/matmul.hpp>
#include <span>
#include <thread>
#include <vector>

#include "support/fenced.hpp"
#include "support/formats.hpp"
#include "support/isas.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "support/product.hpp"

extern std::atomic<long> allocations;  // through operator new, counted in counted_new.cpp

namespace {

using namespace sinq;
using test::Codes;
using test::formats_of_use;
using test::IsaTest;
using test::kCodes;
using test::message_of;
using test::Naive;
using test::random_activations;
using test::random_matrix;
using test::RowMajor;

/// A matrix and activations, and what products of the first of them may come out as.
template <class X>
class Expected {
 public:
  Expected(const QuantizedMatrix& q, const MatrixView<const X>& x) : q_(q), x_(x) {}

  template <class Y>
  void compare(const MatrixView<Y>& y, Numerics numerics) {
    const std::int64_t pass = detail::matmul::token_block(numerics);
    for (std::int64_t t = 0; t < y.rows; ++t) {
      const std::int64_t tokens = std::min(pass, y.rows - t / pass * pass);  // of its pass
      const test::ExpectedProduct& expected = of(numerics, test::in_bfloat16(q_, numerics, tokens));
      for (std::int64_t i = 0; i < q_.rows; ++i)
        ASSERT_NEAR(
            static_cast<double>(y.row(t)[i]), expected.value(t, i),
            expected.error(t, i) + test::kRounding<std::remove_const_t<Y>> * std::abs(expected.value(t, i)) + 1e-30)
            << (numerics == Numerics::fast ? "fast" : "exact") << ", token " << t << " of " << y.rows << ", row " << i
            << " of " << q_.rows << 'x' << q_.cols << ", bits " << q_.format.bits << " levels "
            << static_cast<int>(q_.format.levels) << " group " << q_.format.group_size << " tile "
            << static_cast<int>(q_.format.tile) << " scale " << name_of(q_.format.scale) << " zero "
            << name_of(q_.format.zero) << " on " << name_of(current_isa());
    }
  }

 private:
  const test::ExpectedProduct& of(Numerics numerics, bool bfloat16) {
    auto& known = known_[bfloat16 ? 2 : static_cast<std::size_t>(numerics)];
    if (!known) known = test::expected_product<X>(q_, x_, numerics, bfloat16);
    return *known;
  }

  const QuantizedMatrix& q_;
  MatrixView<const X> x_;
  std::array<std::optional<test::ExpectedProduct>, 3> known_;
};

void expect_product(const QuantizedMatrix& q, const RowMajor<float>& x, const RowMajor<float>& y,
                    Numerics numerics = Numerics::exact) {
  Expected<float>(q, MatrixView<const float>(x)).compare(MatrixView<const float>(y), numerics);
}

RowMajor<float> product(const PackedMatrix& p, const RowMajor<float>& x, const MatmulOptions& options = {}) {
  RowMajor<float> y = RowMajor<float>::Constant(x.rows(), p.rows(), NAN);
  matmul(p, x, y, options);
  return y;
}

// --- against the reference ----------------------------------------------------------------------------------------

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

/// One of several. Every axis of a format is drawn by itself: with counters, some would only ever meet some others.
template <class T, std::size_t kCount>
T one_of(const T (&all)[kCount], std::mt19937& random) {
  return all[test::random_bits(random) % kCount];
}
std::int64_t up_to(std::int64_t most, std::mt19937& random) {
  return 1 + test::random_bits(random) % most;
}
bool either(std::mt19937& random) {
  return test::random_bits(random) % 2 != 0;
}
Tile any_tile(std::mt19937& random) {
  return either(random) ? Tile::square : Tile::stripe;
}

constexpr Numerics kNumerics[] = {Numerics::exact, Numerics::fast};

/// Both numerics of a product of random activations.
void expect_products(const QuantizedMatrix& q, std::int64_t tokens, std::mt19937& random) {
  const auto x = random_activations<float>(tokens, q.cols, random);
  const PackedMatrix p = pack(q);
  for (Numerics numerics : kNumerics) expect_product(q, x, product(p, x, {.numerics = numerics}), numerics);
}

TEST_P(IsaTest, EveryFormat) {
  std::mt19937 random(2);
  for (const Format& f : test::formats()) {
    expect_products(random_matrix(f, up_to(40, random), up_to(1100, random), random), up_to(20, random), random);
    if (HasFatalFailure()) return;
  }
}

/// The formats that engines have, at a shape with a short last strip, panel, group and unit.
TEST_P(IsaTest, FormatsOfUse) {
  std::mt19937 random(19);
  for (const test::NamedFormat& f : formats_of_use())
    for (Tile tile : {Tile::stripe, Tile::square}) {
      SCOPED_TRACE(f.name);
      Format format = f.format;
      format.tile = tile;
      const QuantizedMatrix q = random_matrix(format, 75, 653, random);
      const PackedMatrix p = pack(q);
      const auto x = random_activations<float>(64, 653, random);
      Expected<float> expected(q, MatrixView<const float>(x));
      for (Numerics numerics : kNumerics)
        for (std::int64_t tokens : {1, 2, 3, 4, 5, 8, 11, 16, 64}) {
          const auto y = product(p, x.topRows(tokens), {.numerics = numerics});
          expected.compare(MatrixView<const float>(y), numerics);
          if (HasFatalFailure()) return;
        }
    }
}

/// More tokens than any pass takes, and a last pass of few.
TEST_P(IsaTest, FormatsOfUseWithManyTokens) {
  std::mt19937 random(20);
  for (const test::NamedFormat& f : formats_of_use()) {
    SCOPED_TRACE(f.name);
    Format format = f.format;
    format.tile = any_tile(random);
    expect_products(random_matrix(format, 19, 70, random), 1030, random);
    if (HasFatalFailure()) return;
  }
}

TEST_P(IsaTest, EveryShape) {
  std::mt19937 random(3);
  const auto expect_any_codes = [&](Format f, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
    const Codes c = one_of(kCodes, random);
    f.bits = c.bits;
    f.levels = c.levels;
    if (c.levels == Levels::symmetric) f.zero = Aux::none;
    expect_products(random_matrix(f, rows, cols, random), tokens, random);
  };
  for (Tile tile : {Tile::stripe, Tile::square})
    for (Aux aux : {Aux::f16, Aux::u8})
      for (std::int64_t group : {std::int64_t{16}, std::int64_t{32}, std::int64_t{64}, kWholeRow}) {
        const Format f{.group_size = group, .tile = tile, .scale = aux, .zero = aux};
        for (std::int64_t tokens : {1, 2, 3, 7, 64, 65, 130})
          for (std::int64_t cols : {1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257, 300, 600})
            expect_any_codes(f, up_to(40, random), cols, tokens);
        for (std::int64_t rows = 1; rows <= 40; ++rows) expect_any_codes(f, rows, 50, 3);
        if (HasFatalFailure()) return;
      }
}

/// Scales and zeros that are integers, where a product stays in integers up to the end of a step.
TEST_P(IsaTest, IntegerGroups) {
  std::mt19937 random(17);
  const Aux zeros[] = {Aux::none, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};
  for (const Codes& c : kCodes)
    for (std::int64_t group : {16, 32, 64, 96, 256})
      for (Aux scale : {Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8}) {
        Format f{.bits = c.bits, .levels = c.levels, .group_size = group, .scale = scale};
        f.zero = c.levels == Levels::symmetric ? Aux::none : one_of(zeros, random);
        if (c.levels == Levels::uniform && f.zero == Aux::none) f.zero = Aux::u5;
        f.tile = any_tile(random);
        f.signed_scale = either(random);
        const QuantizedMatrix q = random_matrix(f, up_to(40, random), up_to(700, random), random);
        for (std::int64_t tokens : {1, 5, 11, 25}) {
          expect_products(q, tokens, random);
          if (HasFatalFailure()) return;
        }
      }
}

/// The largest sums there are, of 32 bits (256 columns, levels 255 from the zero, scales of 8 bits) and of 16, which
/// hold the more columns the narrower the codes are: all codes the lowest or the highest, in tables levels of -128 and
/// 127; activations all at the limit, and such that digits to base 256 are -128 or 127.
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
              const RowMajor<float> x = RowMajor<float>::Constant(16, 512, value);
              for (Numerics numerics : {Numerics::exact, Numerics::fast})
                for (std::int64_t tokens : {1, 4, 16})
                  expect_product(q, x.topRows(tokens), product(p, x.topRows(tokens), {.numerics = numerics}), numerics);
              if (HasFatalFailure()) return;
            }
          }
  }
}

/// Rows apart from each other, the last one ending where the memory does; `shift` bytes before the first.
template <class T>
class Strided {
 public:
  Strided(std::int64_t rows, std::int64_t cols, std::int64_t stride, std::size_t shift, int fill)
      : cols_(cols),
        stride_(stride),
        shift_(shift),
        memory_(shift + static_cast<std::size_t>((rows - 1) * stride + cols) * sizeof(T), fill) {}

  /// What such a view has is checked by nobody but the kernels: any address will do.
  template <class Void>
  [[nodiscard]] ActivationView<Void> view(std::int64_t rows) const {
    ActivationView<Void> v;
    v.data = memory_.data() + shift_;
    v.dtype = DTypeOf<T>::value;
    v.rows = rows;
    v.cols = cols_;
    v.stride = stride_;
    return v;
  }
  void put(const RowMajor<T>& from) const {
    for (std::int64_t t = 0; t < from.rows(); ++t) std::memcpy(at(t), from.row(t).data(), row_bytes());
  }
  [[nodiscard]] RowMajor<T> get(std::int64_t rows) const {
    RowMajor<T> to(rows, cols_);
    for (std::int64_t t = 0; t < rows; ++t) std::memcpy(static_cast<void*>(to.row(t).data()), at(t), row_bytes());
    return to;
  }
  /// Whether all bytes outside of the first rows are still the given one.
  [[nodiscard]] bool untouched(std::int64_t rows, std::byte fill) const {
    std::vector<std::byte> rest(memory_.data(), memory_.data() + memory_.size());
    for (std::int64_t t = 0; t < rows; ++t) std::fill_n(rest.begin() + (at(t) - memory_.data()), row_bytes(), fill);
    return std::all_of(rest.begin(), rest.end(), [&](std::byte b) { return b == fill; });
  }

 private:
  [[nodiscard]] std::byte* at(std::int64_t row) const {
    return memory_.data() + shift_ + static_cast<std::size_t>(row * stride_) * sizeof(T);
  }
  [[nodiscard]] std::size_t row_bytes() const { return static_cast<std::size_t>(cols_) * sizeof(T); }

  std::int64_t cols_, stride_;
  std::size_t shift_;
  test::Fenced memory_;
};

template <class X, class Y>
void expect_products_of_types(const QuantizedMatrix& q, const PackedMatrix& p, std::size_t x_shift, std::size_t y_shift,
                              std::mt19937& random) {
  constexpr std::int64_t kTokens = 5;
  const Strided<X> x(kTokens, q.cols, q.cols + 3, x_shift, 0xff);  // between the rows not a number, in every type
  const auto values = random_activations<X>(kTokens, q.cols, random);
  x.put(values);
  Expected<X> expected(q, MatrixView<const X>(values));
  for (Numerics numerics : kNumerics)
    for (std::int64_t tokens : {std::int64_t{1}, kTokens}) {
      const Strided<Y> y(kTokens, q.rows, q.rows + 3, y_shift, 0x5a);
      matmul(p, x.template view<const void>(tokens), y.template view<void>(tokens), {.numerics = numerics});
      const RowMajor<Y> got = y.get(tokens);
      expected.compare(MatrixView<const Y>(got), numerics);
      EXPECT_TRUE(y.untouched(tokens, std::byte{0x5a}));
    }
}

/// Every pair of types, of several formats, at the address of an element that nothing but its type aligns, and at odd
/// bytes (a mapped file aligns nothing).
TEST_P(IsaTest, ElementTypesAddressesAndStrides) {
  std::mt19937 random(4);
  const Format formats[] = {{.bits = 3, .group_size = 32},
                            {.bits = 4, .scale = Aux::u8, .zero = Aux::u8},
                            {.levels = Levels::nf4, .group_size = kWholeRow, .zero = Aux::none},
                            detail::quantize::format_of(preset(4.5), true)};
  const auto with_types = [&]<class... Y>(const QuantizedMatrix& q, const PackedMatrix& p, auto x) {
    using X = decltype(x);
    for (bool odd : {false, true})
      (expect_products_of_types<X, Y>(q, p, odd ? 1 : sizeof(X), odd ? 1 : sizeof(Y), random), ...);
  };
  for (Format f : formats)
    for (Tile tile : {Tile::stripe, Tile::square}) {
      f.tile = tile;
      const QuantizedMatrix q = random_matrix(f, 37, 77, random);
      const PackedMatrix p = pack(q);
      const auto with_x = [&](auto x) { with_types.template operator()<float, double, half, bfloat16>(q, p, x); };
      with_x(float{});
      with_x(double{});
      with_x(half{});
      with_x(bfloat16{});
      if (HasFailure()) return;
    }
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
  EXPECT_EQ(message(2, 71, 71, 2, 20, 20), "sinq: x.cols = 71: must be 70, the cols of the matrix");
  EXPECT_EQ(message(2, 70, 70, 2, 19, 19), "sinq: y.cols = 19: must be 20, the rows of the matrix");
  EXPECT_EQ(message(2, 70, 70, 3, 20, 20), "sinq: y.rows = 3: must be 2, the rows of x");
  EXPECT_EQ(message(2, 70, 69, 2, 20, 20), "sinq: x.stride = 69: must be at least x.cols");
  EXPECT_EQ(message(2, 70, 70, 2, 20, 19), "sinq: y.stride = 19: must be at least y.cols");
  EXPECT_EQ(message(-1, 70, 70, -1, 20, 20), "sinq: y.rows = -1: allowed are 0 to 2^31 - 1 tokens");
  const std::vector<float> x(69);
  EXPECT_EQ(message_of([&] { (void)reference_matmul(unpack(p), MatrixView<const float>(x.data(), 1, 69)); }),
            "sinq: x.cols = 69: must be 70, the cols of the matrix");
}

// --- several products ----------------------------------------------------------------------------------------------

/// Query, key and value: one input, matrices of different size, format and tiling.
TEST_P(IsaTest, ProductsThatShareAnInputAreWhatTheyAreAlone) {
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
        EXPECT_EQ(allocations, before);
        const MatmulOptions alone{.numerics = numerics};
        EXPECT_EQ(qy, product(q, x, alone));
        EXPECT_EQ(ky, product(k, x, alone));
        EXPECT_EQ(vy, product(v, x, alone).cast<half>());
      }
}

/// Experts: every one gets some tokens, in any order, possibly none; another one's rows of x are not read.
TEST_P(IsaTest, ProductsOfExpertsTakeTheirTokens) {
  std::mt19937 random(14);
  Eigen::ThreadPool pool(1);
  ThreadPoolExecutor threads(pool);
  for (Tile tile : {Tile::stripe, Tile::square}) {
    std::vector<PackedMatrix> experts;
    experts.reserve(5);
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
  RowMajor<float> first_y(2, 20);
  const auto message = [&](const Product& second) {
    const Product products[] = {{&w, x, first_y, good}, second};
    return message_of([&] { matmul(products); });
  };
  EXPECT_EQ(message({&w, x, y, good}), "nothing was thrown");
  EXPECT_EQ(message({nullptr, x, y, good}), "sinq: products[1].w = null: must point to a matrix");
  const PackedMatrix empty;
  EXPECT_EQ(message({&empty, x, y, good}), "sinq: products[1].w = empty: must hold a matrix, see pack");
  EXPECT_EQ(message({&w, x, y, high}), "sinq: products[1].token = 3: must be one of the 3 rows of x");
  EXPECT_EQ(message({&w, x, y, low}), "sinq: products[1].token = -1: must be one of the 3 rows of x");
  EXPECT_EQ(message({&w, x, y, one}), "sinq: products[1].y.rows = 2: must be 1, tokens.size()");
  EXPECT_EQ(message({&w, x, y}), "sinq: products[1].y.rows = 2: must be 3, the rows of x");
  RowMajor<float> wide(3, 70);
  EXPECT_EQ(message({&w, x, wide}), "sinq: products[1].y.cols = 70: must be 20, the rows of the matrix");
}

/// A sum of two floats, rounded once more where y is not float: the same bits as adding it to a product in float.
TEST_P(IsaTest, BiasIsAddedInFloat) {
  std::mt19937 random(17);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  for (Tile tile : {Tile::stripe, Tile::square})
    for (std::int64_t tokens : {1, 3, 17, 130})
      for (Numerics numerics : kNumerics) {
        const PackedMatrix p = pack(random_matrix({.group_size = 32, .tile = tile}, 75, 130, random));
        const auto x = random_activations<float>(tokens, 130, random);
        const auto bias = random_activations<float>(1, 75, random);
        const RowMajor<bfloat16> short_bias = bias.cast<bfloat16>();
        const MatmulOptions options{.executor = &threads, .numerics = numerics};
        const RowMajor<float> without = product(p, x, options);
        RowMajor<float> sum = without;
        for (std::int64_t t = 0; t < tokens; ++t) sum.row(t) += bias;
        RowMajor<float> y(tokens, 75);
        matmul(p, x, y, options, bias);
        EXPECT_EQ(y, sum);
        RowMajor<half> halves(tokens, 75);
        RowMajor<float> apart(tokens, 75);
        const Product products[] = {{&p, x, halves, {}, short_bias}, {&p, x, apart}};
        matmul(products, options);
        for (std::int64_t t = 0; t < tokens; ++t)
          EXPECT_EQ(halves.row(t), (without.row(t) + short_bias.cast<float>()).cast<half>());
        EXPECT_EQ(apart, without);
      }
}

TEST(Products, WrongBiasesAreNamed) {
  std::mt19937 random(18);
  const PackedMatrix w = pack(random_matrix({}, 20, 70, random));
  const auto x = random_activations<float>(2, 70, random);
  RowMajor<float> y(2, 20), first_y(2, 20);
  const RowMajor<float> good = RowMajor<float>::Zero(1, 20);
  const auto message = [&](const ActivationView<const void>& bias) {
    const Product products[] = {{&w, x, first_y, {}, good}, {&w, x, y, {}, bias}};
    return message_of([&] { matmul(products); });
  };
  EXPECT_EQ(message(good), "nothing was thrown");
  EXPECT_EQ(message(MatrixView<const float>(good.data(), 1, 19)),
            "sinq: products[1].bias.cols = 19: must be 20, the rows of the matrix");
  EXPECT_EQ(message(MatrixView<const float>(good.data(), 2, 20)), "sinq: products[1].bias.rows = 2: must be 1");
  EXPECT_EQ(message(y.row(1)), "sinq: products[1].y overlaps products[1].bias: must lie in memory of its own");
  EXPECT_EQ(message(first_y.row(0)), "sinq: products[0].y overlaps products[1].bias: must lie in memory of its own");
}

/// Tensor parallelism: parts by rows give the same bits, parts by columns add up. Columns are cut between groups and
/// coarse scales, rows of squares between tiles.
TEST_P(IsaTest, ProductsOfPartsMakeUpTheWhole) {
  std::mt19937 random(16);
  const Format formats[] = {{.bits = 3, .group_size = 16, .scale = Aux::u5, .zero = Aux::u5},
                            {.bits = 6, .group_size = 16, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 4},
                            {.bits = 5, .group_size = 32},
                            {.bits = 4, .group_size = 64, .scale = Aux::u8, .zero = Aux::u8},
                            {.levels = Levels::nf4, .scale = Aux::u8, .zero = Aux::none},
                            detail::quantize::format_of(preset(4.5), true)};
  for (Format f : formats)
    for (Tile tile : {Tile::stripe, Tile::square})
      for (std::int64_t tokens : {1, 3, 11})
        for (Numerics numerics : kNumerics) {
          f.tile = tile;
          const std::int64_t upper = tile == Tile::square ? 64 : 37, left = 128;
          const QuantizedMatrix q = random_matrix(f, 90, 219, random);
          const PackedMatrix p = pack(q);
          const auto x = random_activations<float>(tokens, 219, random);
          const MatmulOptions options{.numerics = numerics};
          RowMajor<float> y(tokens, 90);
          matmul(slice_rows(p, 0, upper), x, y.leftCols(upper), options);
          matmul(slice_rows(p, upper, 90 - upper), x, y.rightCols(90 - upper), options);
          EXPECT_EQ(y, product(p, x, options));
          RowMajor<float> sum = product(slice_cols(p, 0, left), x.leftCols(left), options);
          sum += product(slice_cols(p, left, 219 - left), x.rightCols(219 - left), options);
          expect_product(q, x, sum, numerics);
          if (HasFailure()) return;
        }
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
                  "sinq: workspace.size() = " + std::to_string(size - 1) + ": must be at least " +
                      std::to_string(size) + ", see matmul_workspace");
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

/// Planned before there is any memory for x and y, and each by itself.
TEST(Workspace, ShapesAreEnoughToKnowItsSize) {
  std::mt19937 random(19);
  const PackedMatrix p = pack(random_matrix({}, 40, 130, random));
  const PackedMatrix square = pack(random_matrix({.tile = Tile::square}, 70, 130, random));
  const auto x = random_activations<float>(5, 130, random);
  RowMajor<float> y(5, 40), square_y(2, 70);
  const std::vector<std::int32_t> tokens = {4, 1};
  const Product products[] = {{&p, x, y}, {&square, x, square_y, tokens}};
  Product planned[] = {products[0], products[1]};
  for (Product& one : planned) one.x.data = one.y.data = nullptr;
  const std::vector<std::int32_t> unknown(2, -1);
  planned[1].tokens = unknown;
  for (int width : {1, 3}) {
    EXPECT_EQ(matmul_workspace(planned, width), matmul_workspace(products, width));
    EXPECT_GE(matmul_workspace(p, 5, width) + matmul_workspace(square, 2, width), matmul_workspace(products, width));
  }
  EXPECT_EQ(message_of([&] { (void)matmul_workspace(PackedMatrix(), 1); }),
            "sinq: w = empty: must hold a matrix, see pack");
}

/// What lies behind the bytes that are needed is not used.
TEST(Workspace, IsNobodyElsesMemory) {
  std::mt19937 random(20);
  const PackedMatrix p = pack(random_matrix({}, 20, 70, random));
  const std::size_t size = matmul_workspace(p, 2);
  ASSERT_EQ(size % sizeof(float), 0u);
  std::vector<float> memory(size / sizeof(float) + 400);
  const std::span<std::byte> workspace(reinterpret_cast<std::byte*>(memory.data()), memory.size() * sizeof(float));
  std::vector<float> other(400);
  const auto message = [&](const float* x, float* y, const float* bias) {
    return message_of([&] {
      matmul(p, MatrixView<const float>(x, 2, 70), MatrixView<float>(y, 2, 20), {.workspace = workspace},
             MatrixView<const float>(bias, 1, 20));
    });
  };
  float* const inside = memory.data() + size / sizeof(float) - 1;
  EXPECT_EQ(message(inside, other.data(), other.data() + 40),
            "sinq: workspace overlaps x: must lie in memory of its own");
  EXPECT_EQ(message(other.data() + 40, inside, other.data()),
            "sinq: workspace overlaps y: must lie in memory of its own");
  EXPECT_EQ(message(other.data() + 40, other.data(), inside),
            "sinq: workspace overlaps bias: must lie in memory of its own");
  EXPECT_EQ(message(inside + 1, other.data(), other.data() + 40), "nothing was thrown");
  const auto x = random_activations<float>(2, 70, random);
  EXPECT_EQ(message_of([&] {
              (void)product(p, x, {.workspace = {static_cast<std::byte*>(nullptr), size}});
            }),
            "sinq: workspace.data() = null: must not be null");
}

TEST_P(IsaTest, NothingIsAllocatedWhereAWorkspaceIsGiven) {
  std::mt19937 random(11);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  SerialExecutor serial;
  for (const test::NamedFormat& f : formats_of_use()) {
    SCOPED_TRACE(f.name);
    Format format = f.format;
    format.tile = any_tile(random);
    const PackedMatrix p = pack(random_matrix(format, 70, 300, random));
    for (std::int64_t tokens : {1, 5, 16, 130}) {
      const auto x = random_activations<float>(tokens, 300, random);
      RowMajor<float> y(tokens, 70);
      for (Executor* e : std::initializer_list<Executor*>{&serial, &threads}) {
        std::vector<std::byte> workspace(matmul_workspace(p, tokens, e->width()));
        const long before = allocations;
        for (Numerics numerics : kNumerics)
          matmul(p, x, y, {.executor = e, .workspace = workspace, .numerics = numerics});
        EXPECT_EQ(allocations, before) << tokens << " tokens, " << e->width() << " threads";
        matmul(p, x, y, {.executor = e});
        EXPECT_EQ(allocations, before + 1);  // and the counter counts
      }
    }
  }
}

TEST(Workspace, AlignedAllocationsAreCountedToo) {
  const long before = allocations;
  constexpr std::align_val_t kAlign{64};
  ::operator delete(::operator new(64, kAlign), kAlign);  // called by name, which no compiler leaves out
  EXPECT_EQ(allocations, before + 1);
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
  callers.reserve(results.size());
  for (auto& r : results)
    callers.emplace_back([&] {
      for (int round = 0; round < 10; ++round) r = product(p, x, {.executor = round % 2 ? &threads : nullptr});
    });
  for (auto& t : callers) t.join();
  for (const auto& r : results) EXPECT_EQ(r, expected);
}

INSTANTIATE_TEST_SUITE_P(Isas, IsaTest, testing::ValuesIn(test::named_isas()), test::isa_name);

}  // namespace
