// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <sinq/core/thread_pool.hpp>
#include <sinq/pack.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/formats.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using test::message_of;
using test::Naive;
using test::random_matrix;

// --- what a format may be -----------------------------------------------------------------------------------------

TEST(Format, WrongOnesAreNamed) {
  const auto message = [](const Format& f) { return message_of([&] { detail::pack::validate(f); }); };
  EXPECT_EQ(message({}), "nothing was thrown");
  EXPECT_EQ(message({.bits = 7}), "sinq: bits = 7: allowed are 2, 3, 4, 5, 6, 8");
  EXPECT_EQ(message({.levels = static_cast<Levels>(5)}),
            "sinq: levels = 5: allowed are uniform, symmetric, nf4, nf3 and table");
  EXPECT_EQ(message({.bits = 3, .levels = Levels::nf4}), "sinq: bits = 3: NF4 has 4 bits");
  EXPECT_EQ(message({.bits = 4, .levels = Levels::nf3}), "sinq: bits = 4: NF3 has 3 bits");
  EXPECT_EQ(message({.bits = 5, .levels = Levels::table}), "sinq: bits = 5: a level table has 2, 3 or 4 bits");
  EXPECT_EQ(message({.group_size = 24}),
            "sinq: group_size = 24: allowed are multiples of 16 from 16 to 256, and 0 for the whole row");
  EXPECT_EQ(message({.tile = static_cast<Tile>(2)}), "sinq: tile = 2: allowed are stripe and square");
  EXPECT_EQ(message({.scale = Aux::none}), "sinq: scale = none: allowed are u4 to u8, f16, bf16 and f32");
  EXPECT_EQ(message({.scale = static_cast<Aux>(3)}), "sinq: scale = 3: allowed are u4 to u8, f16, bf16 and f32");
  EXPECT_EQ(message({.zero = static_cast<Aux>(9)}), "sinq: zero = 9: allowed are none, u4 to u8, f16, bf16 and f32");
  EXPECT_EQ(message({.zero = Aux::none}), "sinq: zero = none: uniform levels have a zero");
  EXPECT_EQ(message({.levels = Levels::symmetric}), "sinq: zero = f16: symmetric levels have no zero");
  EXPECT_EQ(message({.col_scale = Aux::u8}), "sinq: col_scale = u8: allowed are none, f16, bf16 and f32");
  EXPECT_EQ(message({.signed_scale = true}), "sinq: signed_scale = true: only for integer scales");
  EXPECT_EQ(message({.coarse_groups = 1}),
            "sinq: coarse_groups = 1: 0 to 2^31 - 1, and 0 unless the scale is an integer");
  EXPECT_EQ(message({.scale = Aux::u8, .coarse_groups = -1}),
            "sinq: coarse_groups = -1: 0 to 2^31 - 1, and 0 unless the scale is an integer");
  EXPECT_EQ(
      message({.scale = Aux::u4, .zero = Aux::u7, .col_scale = Aux::none, .signed_scale = true, .coarse_groups = 3}),
      "nothing was thrown");
}

TEST(Names, OfEveryEnumeration) {
  const auto names = [](auto... values) { return (std::string() + ... + (" " + std::string(name_of(values)))); };
  EXPECT_EQ(names(Levels::uniform, Levels::symmetric, Levels::nf4, Levels::nf3, Levels::table),
            " uniform symmetric nf4 nf3 table");
  EXPECT_EQ(names(Tile::stripe, Tile::square), " stripe square");
  EXPECT_EQ(names(Aux::none, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8, Aux::f16, Aux::bf16, Aux::f32),
            " none u4 u5 u6 u7 u8 f16 bf16 f32");
  EXPECT_EQ(names(static_cast<Levels>(5), static_cast<Tile>(2), static_cast<Aux>(9)), "   ");
}

// --- sizes, by hand -----------------------------------------------------------------------------------------------

struct Size {
  const char* name;
  Format format;
  std::int64_t rows, cols;
  std::int64_t codes, scale, zero, coarse, col;  // bytes in total
  std::int64_t table = 0;
};

void PrintTo(const Size& s, std::ostream* out) {
  *out << s.name;
}

class SizeTest : public testing::TestWithParam<Size> {};

TEST_P(SizeTest, ArraysAndBitsPerWeight) {
  const Size& s = GetParam();
  const QuantizedMatrix q = make_quantized_matrix(s.format, s.rows, s.cols);
  EXPECT_EQ(std::ssize(q.codes), s.codes);
  EXPECT_EQ(std::ssize(q.scale), s.scale);
  EXPECT_EQ(std::ssize(q.zero), s.zero);
  EXPECT_EQ(std::ssize(q.coarse_scale), s.coarse);
  EXPECT_EQ(std::ssize(q.col_scale), s.col);
  const std::int64_t bytes = s.codes + s.scale + s.zero + s.coarse + s.col + s.table;
  EXPECT_EQ(q.bytes(), bytes);
  EXPECT_EQ(q.bits_per_weight(), 8.0 * static_cast<double>(bytes) / static_cast<double>(s.rows * s.cols));
  EXPECT_NO_THROW(validate(q));
}

// 4 bits, group 64, f16: 4 + 32/64 + 16/rows = 4.625 at 128 rows.
const Size kSizes[] = {
    {"default", {}, 128, 256, 128 * 128, 128 * 4 * 2, 128 * 4 * 2, 0, 256 * 2},
    {"no_second_axis", {.col_scale = Aux::none}, 128, 256, 128 * 128, 128 * 4 * 2, 128 * 4 * 2, 0, 0},
    // 3 bits of 17 codes: 51 bits = 7 bytes; 2 groups
    {"three_bits_odd", {.bits = 3, .group_size = 16}, 5, 17, 5 * 7, 5 * 4, 5 * 4, 0, 34},
    // 300 columns = 5 groups: u5 scales 25 bits = 4 bytes, u7 zeros 35 bits = 5 bytes, coarse blocks of 2: 3 of f16
    {"u5_u7", {.scale = Aux::u5, .zero = Aux::u7, .coarse_groups = 2}, 3, 300, 450, 12, 15, 18, 600},
    {"u8_u8", {.scale = Aux::u8, .zero = Aux::u8}, 2, 300, 300, 10, 10, 4, 600},
    {"u4_u6", {.bits = 2, .scale = Aux::u4, .zero = Aux::u6, .coarse_groups = 1}, 2, 300, 150, 6, 8, 20, 600},
    {"u6_u4", {.bits = 5, .scale = Aux::u6, .zero = Aux::u4, .coarse_groups = 9}, 2, 300, 376, 8, 6, 4, 600},
    {"u7_none",
     {.bits = 6, .levels = Levels::symmetric, .scale = Aux::u7, .zero = Aux::none, .signed_scale = true},
     2,
     300,
     450,
     10,
     0,
     4,
     600},
    {"f32_bf16",
     {.bits = 8, .scale = Aux::f32, .zero = Aux::bf16, .col_scale = Aux::f32},
     2,
     300,
     600,
     40,
     20,
     0,
     1200},
    {"whole_row", {.group_size = kWholeRow, .scale = Aux::u8, .zero = Aux::u8}, 3, 301, 453, 3, 3, 6, 602},
    // 70 rows of square tiles of 32: 3 panels
    {"square", {.group_size = 32, .tile = Tile::square, .col_scale = Aux::bf16}, 70, 40, 1400, 280, 280, 0, 240},
    {"table3", {.bits = 3, .levels = Levels::table, .zero = Aux::none}, 1, 64, 24, 2, 0, 0, 128, 8},
    {"table4", {.bits = 4, .levels = Levels::table, .zero = Aux::u8}, 1, 64, 32, 2, 1, 0, 128, 16},
    {"one", {}, 1, 1, 1, 2, 2, 0, 2},
};
INSTANTIATE_TEST_SUITE_P(Formats, SizeTest, testing::ValuesIn(kSizes),
                         [](const auto& size) { return std::string(size.param.name); });

TEST(QuantizedMatrix, DefaultCostsFourAndFiveEighthsBits) {
  EXPECT_EQ(make_quantized_matrix({}, 128, 256).bits_per_weight(), 4.625);
}

TEST(QuantizedMatrix, LargestExtentsDoNotOverflow) {
  constexpr std::int64_t kMost = 0x7fff'ffff;
  const Format f{.bits = 8, .group_size = 16, .scale = Aux::f32, .zero = Aux::f32, .col_scale = Aux::f32};
  const auto e = detail::pack::extents(f, tiling(kMost, kMost, 16, Tile::square));
  EXPECT_EQ(e.code_row, kMost);
  EXPECT_EQ(e.scale_row, std::int64_t{4} << 27);
  EXPECT_EQ(e.col_row, 4 * kMost);
}

// --- decoding -----------------------------------------------------------------------------------------------------

TEST(RowReader, DecodesEveryEncodingAsDescribed) {
  std::mt19937 random(1);
  for (Format f : test::formats()) {
    f.group_size = 16;  // and a last one that is short; at 4 bits more of them than one round of the reader takes (64)
    const QuantizedMatrix q = random_matrix(f, 19, f.bits == 4 ? 16 * 70 + 3 : 43, random);
    ASSERT_NO_THROW(validate(q));
    const Naive naive{q};
    const detail::pack::RowReader reader(q);
    const auto groups = static_cast<std::size_t>(naive.groups);
    std::vector<float> scales(groups), zeros(groups), columns(static_cast<std::size_t>(q.cols));
    std::vector<std::uint8_t> codes(16);
    for (std::int64_t i = 0; i < q.rows; ++i) {
      reader.scales(i, scales.data());
      reader.zeros(i, zeros.data());
      const std::int64_t p = reader.tiling().panel_of(i);
      reader.col_scales(p, 0, 5, columns.data());  // in two parts
      reader.col_scales(p, 5, q.cols - 5, columns.data() + 5);
      for (std::size_t g = 0; g < groups; ++g) {
        const auto at = static_cast<std::int64_t>(g);
        // coarse (11 bits) times an integer of at most 8 bits: exact in float, like everything else here
        ASSERT_EQ(double{scales[g]}, naive.scale(i, at));
        ASSERT_EQ(double{zeros[g]}, naive.zero(i, at));
        reader.codes(i, at, codes.data());
        for (std::int64_t j = 16 * at; j < std::min(16 * at + 16, q.cols); ++j) {
          ASSERT_EQ(codes[static_cast<std::size_t>(j - 16 * at)], naive.code(i, j));
          ASSERT_EQ(double{reader.levels()[static_cast<std::size_t>(naive.code(i, j))]}, naive.level(i, j));
          ASSERT_EQ(double{columns[static_cast<std::size_t>(j)]}, naive.col_scale(i, j));
        }
      }
    }
  }
}

// Numbers worked out by hand, so that the naive reading above cannot share a mistake with the library.
TEST(RowReader, ByHand) {
  const auto decode = [](const Format& f, int scale_m, float coarse, int zero_m) {
    QuantizedMatrix q = make_quantized_matrix(f, 1, 1);
    q.scale[0] = static_cast<std::uint8_t>(scale_m);
    const half c(coarse);
    std::memcpy(q.coarse_scale.data(), &c, 2);
    if (!q.zero.empty()) q.zero[0] = static_cast<std::uint8_t>(zero_m);
    const detail::pack::RowReader reader(q);
    std::pair<float, float> result;
    reader.scales(0, &result.first);
    reader.zeros(0, &result.second);
    return result;
  };
  using Pair = std::pair<float, float>;
  Format f{.bits = 4, .scale = Aux::u8, .zero = Aux::u8};
  EXPECT_EQ(decode(f, 255, 2.0f, 255), Pair(1.9921875f, 15.9375f));  // 2 * 255/256; 16 * 255/256
  EXPECT_EQ(decode(f, 128, 2.0f, 128), Pair(1.0f, 8.0f));
  EXPECT_EQ(decode(f, 0, 2.0f, 0), Pair(0.0f, 0.0f));
  f = {.bits = 3, .scale = Aux::u4, .zero = Aux::u4};
  EXPECT_EQ(decode(f, 15, 1.0f, 15), Pair(0.9375f, 7.5f));
  f = {.bits = 4, .levels = Levels::nf4, .scale = Aux::u5, .zero = Aux::u6, .signed_scale = true};
  EXPECT_EQ(decode(f, 0b10000, 1.0f, 0), Pair(-1.0f, -1.0f));
  EXPECT_EQ(decode(f, 0b11111, 1.0f, 32), Pair(-0.0625f, 0.0f));
  EXPECT_EQ(decode(f, 0b01111, 1.0f, 63), Pair(0.9375f, 0.96875f));
  f = {.bits = 2, .levels = Levels::table, .scale = Aux::u7, .zero = Aux::u7};
  EXPECT_EQ(decode(f, 127, 1.0f, 127), Pair(0.9921875f, 126.0f));
  EXPECT_EQ(decode(f, 1, 1.0f, 64), Pair(0.0078125f, 0.0f));
}

TEST(Dequantize, IsTheFormulaOnEveryFormat) {
  std::mt19937 random(2);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  for (const Format& f : test::formats()) {
    const QuantizedMatrix q = random_matrix(f, 19, 43, random);
    const Naive naive{q};
    const auto restored = dequantize(q);
    for (std::int64_t i = 0; i < q.rows; ++i)
      for (std::int64_t j = 0; j < q.cols; ++j) {
        // Three roundings: of level - zero (its size times 2^-24), and of two products.
        const double exact = naive.weight(i, j);
        ASSERT_LE(std::abs(double{restored(i, j)} - exact), 3.01 * 0x1p-24 * std::abs(exact)) << i << ' ' << j;
      }
    ASSERT_EQ(dequantize(q, &threads), restored);
    // Other types: the float result, rounded once.
    ASSERT_EQ(dequantize<double>(q), restored.cast<double>());
    ASSERT_EQ(dequantize<half>(q), restored.cast<half>());
    ASSERT_EQ(dequantize<bfloat16>(q), restored.cast<bfloat16>());
  }
}

TEST(Dequantize, GroupsLongerThanOneRoundOfTheReader) {
  std::mt19937 random(3);
  for (int bits : kBitWidths) {
    const QuantizedMatrix q = random_matrix({.bits = bits, .group_size = kWholeRow}, 2, 771, random);
    const Naive naive{q};
    const auto restored = dequantize(q);
    for (std::int64_t j = 0; j < 771; ++j)
      ASSERT_NEAR(double{restored(1, j)}, naive.weight(1, j), 3.01 * 0x1p-24 * std::abs(naive.weight(1, j)));
  }
}

TEST(Dequantize, WritesOnlyItsRows) {
  std::mt19937 random(4);
  const QuantizedMatrix q = random_matrix({}, 3, 70, random);
  std::vector<float> memory(4 * 75, -7.0f);
  dequantize(q, MatrixView<float>(memory.data() + 2, 3, 70, 75));
  const auto expected = dequantize(q);
  for (std::int64_t k = 0; k < std::ssize(memory); ++k) {
    const std::int64_t i = (k - 2) / 75, j = (k - 2) % 75;
    const bool inside = k >= 2 && i < 3 && j < 70;
    ASSERT_EQ(memory[static_cast<std::size_t>(k)], inside ? expected(i, j) : -7.0f) << k;
  }
  auto matrix = expected;
  matrix.setZero();
  dequantize<float>(q, matrix);  // a view of Eigen's
  EXPECT_EQ(matrix, expected);
  const auto message = [&](std::int64_t rows, std::int64_t cols, std::int64_t stride) {
    return message_of([&] { dequantize(q, MatrixView<float>(memory.data(), rows, cols, stride)); });
  };
  EXPECT_EQ(message(2, 70, 75), "sinq: out.rows = 2: must equal the rows of the matrix, 3");
  EXPECT_EQ(message(3, 71, 75), "sinq: out.cols = 71: must equal the cols of the matrix, 70");
  EXPECT_EQ(message(3, 70, 69), "sinq: out.stride = 69: must be at least out.cols");
  EXPECT_EQ(message_of([&] { dequantize(q, MatrixView<float>(nullptr, 3, 70)); }),
            "sinq: out.data = null: must not be null");
}

// --- validation ---------------------------------------------------------------------------------------------------

TEST(Validate, EveryArrayOfTheWrongSizeIsNamed) {
  std::mt19937 random(5);
  const QuantizedMatrix good =
      random_matrix({.group_size = 16, .scale = Aux::u8, .zero = Aux::u8, .coarse_groups = 1}, 3, 40, random);
  EXPECT_NO_THROW(validate(good));
  struct Part {
    std::vector<std::uint8_t> QuantizedMatrix::*array;
    const char* name;
    int size;
  };
  for (const Part& part :
       {Part{&QuantizedMatrix::codes, "codes", 60}, Part{&QuantizedMatrix::scale, "scale", 9},
        Part{&QuantizedMatrix::zero, "zero", 9}, Part{&QuantizedMatrix::coarse_scale, "coarse_scale", 18},
        Part{&QuantizedMatrix::col_scale, "col_scale", 80}})
    for (int change : {-1, +1}) {
      QuantizedMatrix q = good;
      const auto size = part.size + change;
      (q.*part.array).resize(static_cast<std::size_t>(size));
      const std::string expected = "sinq: " + std::string(part.name) + " has " + std::to_string(size) +
                                   " bytes, the format asks for " + std::to_string(part.size);
      EXPECT_EQ(message_of([&] { validate(q); }), expected);
      EXPECT_EQ(message_of([&] { (void)pack(q); }), expected);
      EXPECT_EQ(message_of([&] { (void)dequantize(q); }), expected);
    }
  QuantizedMatrix q = good;
  q.rows = 4;
  EXPECT_THROW(validate(q), InvalidArgument);
  q = good;
  q.format.group_size = 40;
  EXPECT_THROW(validate(q), InvalidArgument);
  q = good;
  q.cols = 0;
  EXPECT_EQ(message_of([&] { validate(q); }), "sinq: cols = 0: allowed are 1 to 2^31 - 1");
  q = good;
  q.format.bits = 1;
  EXPECT_THROW(validate(q), InvalidArgument);
}

/// What memory for it cannot be had, or not even counted.
TEST(Validate, ComesBeforeMemoryForTheResult) {
  std::mt19937 random(15);
  QuantizedMatrix q = random_matrix({}, 3, 70, random);
  q.rows = -1;
  EXPECT_EQ(message_of([&] { (void)dequantize(q); }), "sinq: rows = -1: allowed are 1 to 2^31 - 1");
  QuantizedMatrix huge;
  huge.rows = huge.cols = 0x7fff'ffff;
  EXPECT_EQ(message_of([&] { (void)dequantize(huge); }),
            "sinq: codes has 0 bytes, the format asks for 2305843008139952128");
}

TEST(Validate, AuxiliariesThatAreNotFiniteAreNamed) {
  std::mt19937 random(6);
  const float bad[] = {INFINITY, -INFINITY, NAN};
  const auto put = [](std::vector<std::uint8_t>& array, Aux aux, int k, float value) {
    detail::pack::write_float(aux, array.data(), k, value);
  };
  for (Aux aux : {Aux::f16, Aux::bf16, Aux::f32})
    for (float value : bad) {
      const QuantizedMatrix good =
          random_matrix({.group_size = 16, .scale = aux, .zero = aux, .col_scale = aux}, 3, 40, random);
      QuantizedMatrix q = good;
      put(q.scale, aux, 8, value);
      EXPECT_EQ(message_of([&] { validate(q); }), "sinq: scale[8] is not finite");
      q = good;
      put(q.zero, aux, 0, value);
      EXPECT_EQ(message_of([&] { validate(q); }), "sinq: zero[0] is not finite");
      q = good;
      put(q.col_scale, aux, 39, value);
      EXPECT_EQ(message_of([&] { validate(q); }), "sinq: col_scale[39] is not finite");
    }
  QuantizedMatrix q = random_matrix({.scale = Aux::u8, .zero = Aux::u8}, 3, 40, random);
  put(q.coarse_scale, Aux::f16, 2, INFINITY);
  EXPECT_EQ(message_of([&] { validate(q); }), "sinq: coarse_scale[2] is not finite");
}

TEST(Validate, LevelTableNeverFallsAndUnusedEntriesAreZero) {
  std::mt19937 random(7);
  const QuantizedMatrix good = random_matrix({.bits = 3, .levels = Levels::table}, 1, 16, random);
  EXPECT_NO_THROW(validate(good));
  QuantizedMatrix q = good;
  q.table[4] = static_cast<std::int8_t>(q.table[3] - 1);
  EXPECT_EQ(message_of([&] { validate(q); }), "sinq: table[4] = " + std::to_string(q.table[4]) + ": levels never fall");
  q = good;
  q.table[8] = 1;
  EXPECT_EQ(message_of([&] { validate(q); }), "sinq: table[8] = 1: unused entries are zero");
  q = make_quantized_matrix({}, 1, 16);
  q.table[0] = 5;
  EXPECT_THROW(validate(q), InvalidArgument);
}

TEST(QuantizedMatrix, TakesAsManyBytesAsItsFormatSays) {
  for (const Format& f :
       {Format{.bits = 3, .levels = Levels::symmetric, .group_size = 16, .scale = Aux::u5, .zero = Aux::none},
        Format{.bits = 2,
        .levels = Levels::table,
        .group_size = 32,
        .tile = Tile::square,
        .scale = Aux::u4,
        .zero = Aux::u4,
        .col_scale = Aux::bf16,
        .coarse_groups = 2},
        Format{.bits = 8, .group_size = kWholeRow, .scale = Aux::f32, .col_scale = Aux::none}})
    EXPECT_EQ(stored_bytes(f, 37, 91), make_quantized_matrix(f, 37, 91).bytes());
  // Rows of 46 bytes of codes, 4 of scales and one coarse scale; a row of column scales.
  EXPECT_EQ(stored_bytes({.levels = Levels::symmetric, .group_size = 16, .scale = Aux::u5, .zero = Aux::none}, 37, 91),
            37 * (46 + 4 + 2) + 2 * 91);
  EXPECT_EQ(message_of([] { (void)stored_bytes({.bits = 7}, 4, 16); }), "sinq: bits = 7: allowed are 2, 3, 4, 5, 6, 8");
}

TEST(PackedMatrix, UnpacksToTheCanonicalFormBitForBit) {
  std::mt19937 random(8);
  const Aux auxes[] = {Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8, Aux::f16, Aux::bf16, Aux::f32};
  const std::int64_t sizes[] = {16, 32, 48, 64, 256, kWholeRow};
  unsigned k = 0;
  for (int bits : kBitWidths)
    for (Aux scale : auxes)
      for (Aux zero : auxes)
        for (Tile tile : {Tile::stripe, Tile::square}) {
          Format f{.bits = bits, .group_size = sizes[++k % 6], .tile = tile, .scale = scale, .zero = zero};
          if (is_integer(scale)) f.coarse_groups = k % 4;
          f.signed_scale = is_integer(scale) && k % 3 == 0;
          // Up to 1100 columns: several blocks of at most 20 groups of 16, the last one not whole.
          const QuantizedMatrix q = random_matrix(f, 1 + k * 7 % 70, 1 + k * 131 % 1100, random);
          const PackedMatrix p = pack(q);
          ASSERT_EQ(unpack(p), q) << k;
          EXPECT_EQ(p.rows(), q.rows);
          EXPECT_EQ(p.cols(), q.cols);
          EXPECT_EQ(p.format(), f);
        }
}

TEST(PackedMatrix, IsTheSameWithThreads) {
  std::mt19937 random(11);
  Eigen::ThreadPool pool(3);
  ThreadPoolExecutor threads(pool);
  for (Tile tile : {Tile::stripe, Tile::square}) {
    const QuantizedMatrix q = random_matrix({.group_size = 16, .tile = tile, .scale = Aux::u5}, 85, 130, random);
    EXPECT_EQ(unpack(pack(q, &threads)), q);
  }
}

/// Bits behind the last entry of a row mean nothing, so they are zero: equal matrices have equal bytes, and `unpack`
/// gives back what was packed.
TEST(Validate, BitsBehindTheEndOfARowAreZero) {
  std::mt19937 random(12);
  for (int bits : {2, 3, 5, 6}) {
    const QuantizedMatrix q = random_matrix({.bits = bits, .scale = Aux::u5, .zero = Aux::u7}, 17, 67, random);
    for (auto array : {&QuantizedMatrix::codes, &QuantizedMatrix::scale, &QuantizedMatrix::zero}) {
      const bool codes = array == &QuantizedMatrix::codes, scale = array == &QuantizedMatrix::scale;
      const std::size_t row = (q.*array).size() / 17;
      const int used = codes ? 67 * bits % 8 : scale ? 10 % 8 : 14 % 8;  // two groups
      for (std::size_t i : {0, 4, 16}) {
        QuantizedMatrix dirty = q;
        (dirty.*array)[(i + 1) * row - 1] |= static_cast<std::uint8_t>(1 << used);
        const std::string expected = std::string("sinq: ") +
                                     (codes   ? "codes"
                                      : scale ? "scale"
                                              : "zero") +
                                     " has bits set behind the end of row " + std::to_string(i);
        EXPECT_EQ(message_of([&] { validate(dirty); }), expected);
        EXPECT_EQ(message_of([&] { (void)pack(dirty); }), expected);
      }
    }
  }
}

/// The pictures of strip_order.hpp: where the code of a column lies in its unit.
TEST(StripOrder, UnitsAreAsDrawn) {
  using namespace sinq::detail::pack;
  std::mt19937 random(13);
  for (int bits : kBitWidths)
    for (int round = 0; round < 20; ++round) {
      std::uint8_t stream[32];
      for (auto& byte : stream) byte = static_cast<std::uint8_t>(test::random_bits(random));
      std::vector<std::uint8_t> unit(static_cast<std::size_t>(bits * kLine), 0xee);
      detail::core::with_bits(bits, [&](auto b) { put_unit<b()>(stream, unit.data() + 4); });
      const auto byte = [&](int line, int i) { return int{unit[static_cast<std::size_t>(line * kLine + 4 + i)]}; };
      for (int h = 0; h < 2; ++h)
        for (int n = 0; n < 4; ++n)
          for (int i = 0; i < 4; ++i) {
            int code = 0;
            if (bits == 2) code = byte(h, i) >> (2 * n);
            if (bits == 4) code = byte(2 * h + n / 2, i) >> (4 * (n % 2));
            if (bits == 8) code = byte(4 * h + n, i);
            if (bits == 5) code = (byte(2 * h + n / 2, i) >> (4 * (n % 2)) & 15) | (byte(4, i) >> (4 * h + n) & 1) << 4;
            if (bits == 3 || bits == 6) {
              const int six = bits == 6 ? n : 2 * h + n / 2;
              const int first = bits == 6 ? 3 * h : 0;
              code = six < 3 ? byte(first + six, i)
                             : byte(first, i) >> 6 << 4 | byte(first + 1, i) >> 6 << 2 | byte(first + 2, i) >> 6;
              if (bits == 3) code >>= 3 * (n % 2);
            }
            ASSERT_EQ(code & ((1 << bits) - 1), test::bits_at(stream, 16 * h + column_of(bits, n, i), bits))
                << bits << " bits, half " << h << ", four " << n << ", byte " << i;
          }
    }
}

TEST(PackedMatrix, RowsComeOutAsDequantized) {
  std::mt19937 random(9);
  unsigned k = 0;
  for (int bits : kBitWidths)
    for (Aux aux : {Aux::u4, Aux::u5, Aux::u6, Aux::u8, Aux::f16, Aux::f32})
      for (Tile tile : {Tile::stripe, Tile::square}) {
        const Format f{
            .bits = bits, .group_size = ++k % 5 ? 16 * (k % 5) : kWholeRow, .tile = tile, .scale = aux, .zero = aux};
        const QuantizedMatrix q = random_matrix(f, 70, 1 + k * 131 % 900, random);
        const std::vector<std::int32_t> rows = {69, 0, 17, 17, static_cast<std::int32_t>(k % 70)};
        using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
        Rows out = Rows::Constant(5, q.cols + 3, -1);
        dequantize_rows(pack(q), rows, MatrixView<float>(out.data(), 5, q.cols, q.cols + 3));
        const auto all = dequantize(q);
        for (int r = 0; r < 5; ++r) {
          ASSERT_EQ(out.row(r).head(q.cols), all.row(rows[static_cast<std::size_t>(r)])) << bits << ' ' << k;
          EXPECT_TRUE((out.row(r).tail(3).array() == -1).all());
        }
        Eigen::Matrix<half, 1, Eigen::Dynamic> halves(q.cols);
        dequantize_rows(pack(q), std::span(rows).first(1), MatrixView<half>(halves.data(), 1, q.cols));
        EXPECT_EQ(halves, all.row(69).cast<half>());
      }
  const PackedMatrix p = pack(random_matrix({}, 4, 70, random));
  std::vector<float> out(140);
  const auto message = [&](std::vector<std::int32_t> rows, std::int64_t n, std::int64_t cols, std::int64_t stride) {
    return message_of([&] { dequantize_rows(p, rows, MatrixView<float>(out.data(), n, cols, stride)); });
  };
  EXPECT_EQ(message({0, 3}, 2, 70, 70), "nothing was thrown");
  EXPECT_EQ(message({}, 0, 70, 70), "nothing was thrown");
  EXPECT_EQ(message({0, 4}, 2, 70, 70), "sinq: row = 4: must be one of the 4 rows of the matrix");
  EXPECT_EQ(message({-1, 3}, 2, 70, 70), "sinq: row = -1: must be one of the 4 rows of the matrix");
  EXPECT_EQ(message({0, 3}, 1, 70, 70), "sinq: out.rows = 1: must be 2, rows.size()");
  EXPECT_EQ(message({0, 3}, 2, 69, 70), "sinq: out.cols = 69: must be 70, the cols of the matrix");
  EXPECT_EQ(message({0, 3}, 2, 70, 69), "sinq: out.stride = 69: must be at least out.cols");
  const std::vector<std::int32_t> rows = {0, 3};
  EXPECT_EQ(message_of([&] { dequantize_rows(p, rows, MatrixView<float>(nullptr, 2, 70)); }),
            "sinq: out.data = null: must not be null");
}

/// Whole blocks cost what the canonical form costs, but for the two bits of 32 that five or six bits leave.
TEST(PackedMatrix, IsDense) {
  for (int bits : kBitWidths)
    for (Aux aux : {Aux::u4, Aux::u5, Aux::u6, Aux::u8, Aux::f16}) {
      const Format f{.bits = bits, .group_size = 16, .scale = aux, .zero = aux};
      const std::int64_t groups = 120;  // a multiple of all blocks: 8, 12, 20 and 4 groups
      const QuantizedMatrix q = make_quantized_matrix(f, 64, groups * 16);
      const std::int64_t coarse_padding = is_integer(aux) ? 4 * 32 : 0;
      const std::int64_t unused = aux == Aux::u5 || aux == Aux::u6 ? 64 * 2 * groups / (32 / bits_of(aux)) * 2 / 8 : 0;
      EXPECT_EQ(pack(q).bytes(), q.bytes() + coarse_padding + unused);
    }
}

/// Before it is made, and after it has been moved from.
TEST(PackedMatrix, IsEmptyWithoutAMatrix) {
  std::mt19937 random(11);
  const QuantizedMatrix q = random_matrix({}, 20, 70, random);
  PackedMatrix a;
  const auto expect_empty = [](const PackedMatrix& p) {
    EXPECT_EQ(p.rows(), 0);
    EXPECT_EQ(p.cols(), 0);
    EXPECT_EQ(p.bytes(), 0);
    EXPECT_EQ(message_of([&] { (void)unpack(p); }), "sinq: p = empty: must hold a matrix, see pack");
    EXPECT_EQ(message_of([&] { (void)slice_rows(p, 0, 1); }), "sinq: p = empty: must hold a matrix, see pack");
    EXPECT_EQ(message_of([&] { dequantize_rows(p, {}, MatrixView<float>()); }),
              "sinq: p = empty: must hold a matrix, see pack");
  };
  expect_empty(a);
  PackedMatrix b = pack(q);
  a = std::move(b);
  expect_empty(b);  // NOLINT(bugprone-use-after-move): what is left of it
  EXPECT_EQ(unpack(a), q);
  const PackedMatrix c(std::move(a));
  expect_empty(a);  // NOLINT(bugprone-use-after-move)
  b = c;
  EXPECT_EQ(unpack(b), q);
  EXPECT_EQ(unpack(c), q);
}

TEST(PackedMatrix, LiesInTheCallersMemory) {
  std::mt19937 random(12);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  for (const Format& f : {Format{}, {.bits = 3, .tile = Tile::square, .scale = Aux::u6, .zero = Aux::u5}}) {
    const QuantizedMatrix q = random_matrix(f, 101, 230, random);
    const std::size_t size = packed_bytes(f, 101, 230);
    std::vector<std::byte> bytes(size + 128, std::byte{0x5a});
    void* first = bytes.data();
    std::size_t space = bytes.size();
    std::byte* const memory = static_cast<std::byte*>(std::align(64, size, first, space));
    const PackedMatrix own = pack(q);
    PackedMatrix p = pack(q, {memory, size}, &threads);
    EXPECT_EQ(p.bytes(), own.bytes());
    EXPECT_EQ(std::memcmp(memory, detail::pack::StripAccess::strip(own, 0), size), 0);
    for (const std::byte* at = bytes.data(); at < bytes.data() + bytes.size(); ++at)
      if (at < memory || at >= memory + size) {
        ASSERT_EQ(*at, std::byte{0x5a});
      }
    const PackedMatrix copy = p;
    const PackedMatrix moved = std::move(p);
    EXPECT_EQ(unpack(copy), q);
    EXPECT_EQ(unpack(moved), q);
    EXPECT_EQ(unpack(slice_rows(moved, 64, 37)), slice_rows(q, 64, 37));
    const auto message = [&](std::byte* at, std::size_t count) {
      return message_of([&] { (void)pack(q, {at, count}); });
    };
    EXPECT_EQ(message(memory, size - 1), "sinq: memory.size() = " + std::to_string(size - 1) + ": must be at least " +
                                             std::to_string(size) + ", see packed_bytes");
    EXPECT_EQ(message(nullptr, size), "sinq: memory.data() = null: must not be null");
    EXPECT_NE(message(memory + 4, size).find(": must be a multiple of 64"), std::string::npos);
  }
  EXPECT_EQ(message_of([&] { (void)packed_bytes({.bits = 7}, 1, 1); }), "sinq: bits = 7: allowed are 2, 3, 4, 5, 6, 8");
}

// --- parts --------------------------------------------------------------------------------------------------------

TEST(Slice, PartsHoldTheSameWeights) {
  std::mt19937 random(10);
  unsigned k = 0;
  for (int bits : kBitWidths)
    for (Aux aux : {Aux::u4, Aux::u5, Aux::u7, Aux::f16})
      for (Tile tile : {Tile::stripe, Tile::square}) {
        Format f{.bits = bits, .group_size = ++k % 3 ? 16 : 48, .tile = tile, .scale = aux, .zero = aux};
        if (is_integer(aux)) f.coarse_groups = k % 3;
        if (k % 4 == 0) f.col_scale = Aux::none;
        const QuantizedMatrix q = random_matrix(f, 50 + k, 300 + k, random);
        const auto all = dequantize(q);
        for (std::int64_t rows : {48L, 50L + k}) {
          const std::int64_t first = rows == 48 ? 0 : 48;
          const QuantizedMatrix part = slice_rows(q, first, rows - first);
          ASSERT_EQ(dequantize(part), all.middleRows(first, rows - first)) << k;
          EXPECT_EQ(unpack(slice_rows(pack(q), first, rows - first)), part);
        }
        for (std::int64_t cols : {96L, 300L + k}) {
          const std::int64_t first = cols == 96 ? 0 : 96;
          const QuantizedMatrix part = slice_cols(q, first, cols - first);
          ASSERT_EQ(dequantize(part), all.middleCols(first, cols - first)) << k;
          EXPECT_EQ(unpack(slice_cols(pack(q), first, cols - first)), part);
        }
      }
}

/// Whether two matrices hold the same bytes for the kernels.
bool same_strips(const PackedMatrix& a, const PackedMatrix& b) {
  using detail::pack::StripAccess;
  const auto& o = StripAccess::order(a);
  const auto bytes = static_cast<std::size_t>(o.strips * o.strip);
  const auto& of_b = StripAccess::order(b);
  return o.strips == of_b.strips && o.strip == of_b.strip && StripAccess::levels(a) == StripAccess::levels(b) &&
         std::memcmp(StripAccess::strip(a, 0), StripAccess::strip(b, 0), bytes) == 0;
}

/// Strips are copied where parts begin and end with one, and made anew elsewhere: nobody sees which.
TEST(Slice, PackedPartsAreAsIfPackedFromParts) {
  std::mt19937 random(14);
  Eigen::ThreadPool pool(3);
  ThreadPoolExecutor threads(pool);
  for (std::int64_t group : {std::int64_t{16}, std::int64_t{48}, kWholeRow})
    for (Aux aux : {Aux::u5, Aux::f16})
      for (Tile tile : {Tile::stripe, Tile::square}) {
        const Format f{
            .bits = 3, .levels = Levels::table, .group_size = group, .tile = tile, .scale = aux, .zero = aux};
        const std::int64_t cols = group == kWholeRow ? 53 : 130;
        const QuantizedMatrix q = random_matrix(f, 165, cols, random);
        const PackedMatrix p = pack(q);
        ASSERT_EQ(unpack(p, &threads), q);
        const std::int64_t step = tile == Tile::stripe ? 8 : group == kWholeRow ? cols : group;
        for (std::int64_t first = 0; first < 165; first += step)
          for (std::int64_t count : {1L, 15L, 16L, 17L, 48L, 53L, 64L, 96L, 165L - first}) {
            if (first + count > 165) continue;
            const PackedMatrix expected = pack(slice_rows(q, first, count));
            for (Executor* executor : std::initializer_list<Executor*>{nullptr, &threads}) {
              const PackedMatrix part = slice_rows(p, first, count, executor);
              ASSERT_TRUE(same_strips(part, expected)) << first << ' ' << count << " group " << group;
              ASSERT_EQ(unpack(part, executor), slice_rows(q, first, count));
            }
          }
        if (group == kWholeRow) continue;
        for (std::int64_t first : {std::int64_t{0}, group, 2 * group})
          for (std::int64_t count : {std::min(group, 130 - first), 130 - first}) {
            EXPECT_EQ(slice_cols(q, first, count, &threads), slice_cols(q, first, count));
            EXPECT_TRUE(same_strips(slice_cols(p, first, count, &threads), pack(slice_cols(q, first, count))));
          }
      }
}

TEST(Slice, WrongPartsAreNamed) {
  const QuantizedMatrix stripe = make_quantized_matrix({}, 100, 200);
  const QuantizedMatrix square = make_quantized_matrix({.tile = Tile::square}, 100, 200);
  const QuantizedMatrix coarse = make_quantized_matrix({.scale = Aux::u8, .coarse_groups = 2}, 100, 200);
  const auto rows = [](const QuantizedMatrix& q, std::int64_t first, std::int64_t count) {
    return message_of([&] { (void)slice_rows(q, first, count); });
  };
  const auto cols = [](const QuantizedMatrix& q, std::int64_t first, std::int64_t count) {
    return message_of([&] { (void)slice_cols(q, first, count); });
  };
  EXPECT_EQ(rows(stripe, 1, 99), "nothing was thrown");
  EXPECT_EQ(rows(stripe, 100, 1), "sinq: first = 100: must be one of the 100 rows of the matrix");
  EXPECT_EQ(rows(stripe, 1, 100), "sinq: count = 100: must be 1 to 99, the rows from the first on");
  EXPECT_EQ(rows(square, 1, 1), "sinq: first = 1: must be a multiple of 64, the first row of a tile");
  EXPECT_EQ(cols(stripe, 64, 136), "nothing was thrown");
  EXPECT_EQ(cols(stripe, 32, 32),
            "sinq: first = 32: must be a multiple of 64 below 200: the first column of a group (with coarse_groups, of "
            "the first that share a coarse scale)");
  EXPECT_TRUE(cols(coarse, 64, 64).starts_with("sinq: first = 64: must be a multiple of 128 below 200: "));
  EXPECT_EQ(cols(coarse, 128, 72), "nothing was thrown");
  EXPECT_EQ(cols(stripe, 64, 63),
            "sinq: count = 63: must be 136, all that is left, or a smaller multiple of 64: whole groups (with "
            "coarse_groups, all that share a coarse scale)");
  EXPECT_TRUE(cols(stripe, 64, 192).starts_with("sinq: count = 192: must be 136, all that is left, or "));
}

// --- single auxiliaries -------------------------------------------------------------------------------------------

TEST(Auxiliary, FloatsRoundToNearestEven) {
  using detail::pack::round_to;
  EXPECT_EQ(round_to(Aux::f32, 0.1f), 0.1f);
  EXPECT_EQ(round_to(Aux::f16, 2049.0f), 2048.0f);
  EXPECT_EQ(round_to(Aux::f16, 2051.0f), 2052.0f);
  EXPECT_EQ(round_to(Aux::bf16, 257.0f), 256.0f);
  EXPECT_EQ(round_to(Aux::bf16, 259.0f), 260.0f);
  EXPECT_EQ(round_to(Aux::f16, 0x1p-25f), 0.0f);  // a tie below the smallest subnormal
  EXPECT_EQ(round_to(Aux::f16, 0x1.8p-24f), 0x1p-23f);
  std::uint8_t bytes[6] = {1, 2, 3, 4, 5, 6};
  detail::pack::write_float(Aux::f16, bytes, 1, 1.0f);
  EXPECT_EQ(std::vector<std::uint8_t>(bytes, bytes + 6), (std::vector<std::uint8_t>{1, 2, 0, 0x3c, 5, 6}));
  float back[2];
  detail::pack::write_float(Aux::f16, bytes, 2, -2.0f);
  detail::pack::read_floats(Aux::f16, bytes, 1, 2, back);
  EXPECT_EQ(back[0], 1.0f);
  EXPECT_EQ(back[1], -2.0f);
}

}  // namespace
