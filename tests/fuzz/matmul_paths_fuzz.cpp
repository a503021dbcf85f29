// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>

#include "../support/product.hpp"

// The bytes choose a format, a shape, tokens, their magnitudes and types. Every instruction set of the machine and both
// numerics must come out within the derived bound of the double-precision reference; packing must lose nothing; rows,
// parts and experts must have the bits of the whole.

namespace {

using namespace sinq;

void require(bool ok, const char* what, const Format& f, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
  if (ok) return;
  std::fprintf(stderr, "%s: %lld x %lld, %lld tokens, bits %d levels %d group %lld tile %d scale %d zero %d on %s\n",
               what, static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(tokens), f.bits,
               static_cast<int>(f.levels), static_cast<long long>(f.group_size), static_cast<int>(f.tile),
               static_cast<int>(f.scale), static_cast<int>(f.zero), name_of(current_isa()));
  std::abort();
}

/// Takes numbers from the input; zeros behind its end.
class Choices {
 public:
  Choices(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::int64_t below(std::int64_t n) {
    std::int64_t value = 0;
    for (std::int64_t most = 1; most < n; most *= 256) value = value * 256 + (at_ < size_ ? data_[at_++] : 0);
    return value % n;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

Format format(Choices& c) {
  constexpr Aux kScales[] = {Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8, Aux::f16, Aux::bf16, Aux::f32};
  constexpr Aux kZeros[] = {Aux::none, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8, Aux::f16, Aux::bf16, Aux::f32};
  constexpr Aux kColumns[] = {Aux::none, Aux::f16, Aux::bf16, Aux::f32};
  Format f;
  f.levels = static_cast<Levels>(c.below(5));
  f.bits = kBitWidths[static_cast<std::size_t>(c.below(6))];
  if (f.levels == Levels::nf4) f.bits = 4;
  if (f.levels == Levels::nf3) f.bits = 3;
  if (f.levels == Levels::table && f.bits > 4) f.bits = 4;
  f.group_size = 16 * c.below(17);  // 0: the whole row
  f.tile = static_cast<Tile>(c.below(2));
  f.scale = kScales[c.below(8)];
  f.zero = kZeros[c.below(9)];
  if (f.levels == Levels::uniform && f.zero == Aux::none) f.zero = Aux::u8;
  if (f.levels == Levels::symmetric) f.zero = Aux::none;
  f.col_scale = kColumns[c.below(4)];
  if (is_integer(f.scale)) {
    f.signed_scale = c.below(2) == 1;
    f.coarse_groups = std::max<std::int64_t>(0, c.below(12) - 6);
  }
  return f;
}

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class X, class Y>
void products(const QuantizedMatrix& q, Choices& c, std::mt19937& random) {
  const Format& f = q.format;
  const std::int64_t tokens = c.below(8) >= 6 ? 11 + c.below(70) : 1 + c.below(10);
  // Magnitudes over a few or many powers of two; halves have fewer.
  const int range = std::is_same_v<X, half> ? 4 : 1 + static_cast<int>(c.below(40));
  const int middle = std::is_same_v<X, half> || std::is_same_v<Y, half> ? 0 : static_cast<int>(c.below(120)) - 70;
  const std::int64_t zeros = c.below(3);
  Matrix<X> x(tokens, q.cols + 5);
  for (std::int64_t k = 0; k < x.size(); ++k) {
    const auto bits = test::random_bits(random);
    const int exponent = middle - static_cast<int>(bits % static_cast<unsigned>(range));
    const float value = std::ldexp(test::random_float(random, -1, 1), exponent);
    x.data()[k] = static_cast<X>(zeros != 0 && bits >> 30 == 0 ? 0.0f : value);
  }
  const MatrixView<const X> view(x.data(), tokens, q.cols, q.cols + 5);
  const PackedMatrix p = pack(q);
  require(unpack(p) == q, "unpack", f, q.rows, q.cols, tokens);
  for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
    const auto on_most = test::expected_product<X>(q, view, numerics);
    const auto in_bfloat16 = test::expected_product<X>(q, view, numerics, true);
    for (Isa isa : supported_isas()) {
      force_isa(isa);
      const auto& expected = test::in_bfloat16(q, numerics, tokens) ? in_bfloat16 : on_most;
      Matrix<Y> y(tokens, q.rows);
      matmul(p, view, y, {.numerics = numerics});
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t i = 0; i < q.rows; ++i) {
          const double exact = expected.value(t, i);
          const double bound = expected.error(t, i) + test::kRounding<Y> * std::abs(exact) + 1e-30;
          if (std::is_same_v<Y, half> && std::abs(exact) > 65000) continue;
          // Halves have subnormals above 2^-14, spaced 2^-24 apart.
          const double spacing = std::is_same_v<Y, half> ? 0x1p-25 : 0;
          require(std::abs(static_cast<double>(y(t, i)) - exact) <= bound + spacing, "matmul", f, q.rows, q.cols,
                  tokens);
        }
      // Some tokens, in any order, are what they are alone; so are rows.
      const auto some = static_cast<std::int32_t>(c.below(tokens));
      const std::int32_t which[] = {some, 0};
      Matrix<Y> two(2, q.rows);
      Matrix<Y> alone(2, q.rows);
      Matrix<X> gathered(2, q.cols);
      gathered << x.row(some).head(q.cols), x.row(0).head(q.cols);
      const Product experts[] = {{&p, view, two, which}};
      matmul(experts, {.numerics = numerics});
      matmul(p, gathered, alone, {.numerics = numerics});
      require(two == alone, "tokens of an expert", f, q.rows, q.cols, tokens);
    }
  }
  const auto row = static_cast<std::int32_t>(c.below(q.rows));
  Matrix<float> restored(1, q.cols);
  dequantize_rows(p, std::span(&row, 1), MatrixView<float>(restored));
  const auto all = dequantize(q);
  require(restored.row(0) == all.row(row), "dequantize_rows", f, q.rows, q.cols, tokens);
  const Tiling t = q.tiling();
  const std::int64_t first = f.tile == Tile::stripe ? row : t.panel_begin(t.panel_of(row));
  require(dequantize(slice_rows(q, first, q.rows - first)) == all.bottomRows(q.rows - first), "slice_rows", f, q.rows,
          q.cols, tokens);
  const std::int64_t width = t.group_size * std::max<std::int64_t>(1, f.coarse_groups);
  if (f.group_size != kWholeRow) {
    const std::int64_t column = c.below((q.cols + width - 1) / width) * width;
    require(dequantize(slice_cols(q, column, q.cols - column)) == all.rightCols(q.cols - column), "slice_cols", f,
            q.rows, q.cols, tokens);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices c(data, size);
  std::mt19937 random(static_cast<std::uint32_t>(c.below(65536)));
  const Format f = format(c);
  const std::int64_t rows = 1 + c.below(70);
  const std::int64_t cols = c.below(4) == 3 ? 1 + c.below(1400) : 1 + c.below(300);
  const QuantizedMatrix q = test::random_matrix(f, rows, cols, random);
  switch (c.below(6)) {
    case 0:
      products<half, half>(q, c, random);
      break;
    case 1:
      products<bfloat16, bfloat16>(q, c, random);
      break;
    case 2:
      products<double, float>(q, c, random);
      break;
    case 3:
      products<bfloat16, float>(q, c, random);
      break;
    default:
      products<float, float>(q, c, random);
  }
  return 0;
}
