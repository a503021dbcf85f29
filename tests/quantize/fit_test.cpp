// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <sinq/core/thread_pool.hpp>
#include <sinq/quantize.hpp>
#include <vector>

#include "support/isas.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "weights.hpp"

namespace {

using namespace sinq;
using test::describe;
using test::message_of;
using test::Naive;
using test::random_float;
using test::random_normal;
using test::weights;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Every rounding at each of its widths, with a zero and, where that exists, without.
std::vector<QuantizeConfig> fits() {
  std::vector<QuantizeConfig> all;
  for (int bits : kBitWidths)
    for (Rounding rounding : {Rounding::uniform, Rounding::symmetric, Rounding::nf4, Rounding::nf3, Rounding::table}) {
      if (rounding == Rounding::nf4 && bits != 4) continue;
      if (rounding == Rounding::nf3 && bits != 3) continue;
      if (rounding == Rounding::table && bits > 4) continue;
      for (Aux zero : {Aux::f16, Aux::none}) {
        if (zero == Aux::none && rounding == Rounding::uniform) continue;
        if (zero != Aux::none && rounding == Rounding::symmetric) continue;
        all.push_back({.bits = bits, .rounding = rounding, .refine = Refine::fit, .zero = zero});
      }
    }
  return all;
}

double square_error(const Matrix& w, const QuantizedMatrix& q) {
  return (dequantize(q) - w).cast<double>().squaredNorm();
}

double dot(const Matrix& a, const Matrix& b) {
  return a.cast<double>().cwiseProduct(b.cast<double>()).sum();
}

TEST(Fit, LosesLessThanTheFirstChoice) {
  const Matrix w = weights(64, 256);
  for (QuantizeConfig c : fits())
    for (Aux scale : {Aux::f16, Aux::u8})
      for (std::int64_t group : {std::int64_t{16}, std::int64_t{64}, kWholeRow}) {
        if (c.rounding == Rounding::table || c.zero == Aux::none) continue;  // there is no other way to these
        c.scale = scale;
        c.group_size = group;
        QuantizeConfig plain = c;
        plain.refine = Refine::none;
        EXPECT_LT(square_error(w, quantize(w, c)), square_error(w, quantize(w, plain))) << describe(c);
      }
}

/// Least error of one group over a fine grid of scales and zeros, everything in double.
double best_error(const std::vector<float>& x, const std::vector<double>& levels, bool with_zero) {
  double largest = 0;
  for (float v : x) largest = std::max(largest, std::abs(double{v}));
  const double span = levels.back() - levels.front();
  double best = INFINITY;
  for (int k = 40; k <= 240; ++k)
    for (int sign : {1, -1})
      for (int z = with_zero ? 0 : 100; z <= (with_zero ? 200 : 100); ++z) {
        const double scale = sign * 0.01 * k * largest / span;
        const double zero = with_zero ? levels.front() + span * z / 200 : 0;
        double error = 0;
        for (float v : x) {
          double least = INFINITY;
          for (double level : levels) least = std::min(least, std::abs(v - (level - zero) * scale));
          error += least * least;
        }
        best = std::min(best, error);
      }
  return best;
}

// The search is not exhaustive, and each start ends in a local optimum. A grid a hundred times finer finds up to a
// tenth less error where it has a zero to move as well, and a few percent without. The gain then adds e^2 / |x|^2 to an
// error of e: below 10 % where 2 bits lose a tenth, some percent at 3.
TEST(Fit, IsNearTheBestLine) {
  for (int bits : {2, 3, 4})
    for (bool with_zero : {true, false}) {
      const LevelTable table = fitted_levels(bits, with_zero);
      std::vector<double> levels(table.begin(), table.begin() + (1 << bits));
      double fitted = 0;
      double best = 0;
      std::mt19937 random(7);
      for (int trial = 0; trial < 40; ++trial) {
        const Matrix w = Matrix::NullaryExpr(1, 16, [&] { return random_normal(random); });
        const QuantizedMatrix q = quantize(w, {.bits = bits,
                                               .group_size = 16,
                                               .rounding = Rounding::table,
                                               .refine = Refine::fit,
                                               .balance = Balancing::none,
                                               .scale = Aux::f32,
                                               .zero = with_zero ? Aux::f32 : Aux::none});
        fitted += square_error(w, q);
        best += best_error({w.data(), w.data() + 16}, levels, with_zero);
      }
      EXPECT_LT(fitted, best * (bits == 2 ? 1.2 : with_zero ? 1.15 : 1.1)) << bits << ' ' << with_zero;
    }
}

// A scale of 5 bits, one of them its sign, is one of 15 sizes: groups of normal weights, whose scales are half to all
// of the largest, are off by 5 % of theirs at most, 3 % on average. Times a level of 65 that is 2, squared a fifth of
// what a table with steps of 15 loses anyway (15^2 / 12); codes chosen anew take some of it back. One step too far:
// twice as much error.
TEST(Fit, CoarseScalesCostLittle) {
  const Matrix w = weights(64, 512);
  QuantizeConfig c = preset(4.5);
  const double coarse = square_error(w, quantize(w, c));
  c.scale = Aux::f32;
  EXPECT_LT(coarse, 1.2 * square_error(w, quantize(w, c)));
}

TEST(Unbias, RowsAreAsLongAsTheWeightsAlongThem) {
  const Matrix w = weights(40, 100);
  for (QuantizeConfig c : fits()) {
    if (c.bits == 2) continue;  // the square root of the gain
    c.balance = Balancing::none;
    c.scale = Aux::f32;
    const Matrix y = dequantize(quantize(w, c));
    for (std::int64_t i = 0; i < w.rows(); ++i)  // a factor and a product per weight are rounded to float
      EXPECT_NEAR(dot(w.row(i), y.row(i)) / dot(w.row(i), w.row(i)), 1, 4 * 0x1p-24) << describe(c) << " row " << i;
  }
}

TEST(Unbias, ColumnsAreAsLongAsTheWeightsAlongThem) {
  const Matrix w = weights(150, 40);
  for (QuantizeConfig c : fits())
    for (Tile tile : {Tile::stripe, Tile::square}) {
      if (c.bits == 2) continue;
      c.tile = tile;
      c.group_size = 32;
      c.scale = Aux::f32;
      c.col_scale = Aux::f32;
      const QuantizedMatrix q = quantize(w, c);
      const Matrix y = dequantize(q);
      const Naive n{q};
      for (std::int64_t first = 0; first < w.rows(); first += tile == Tile::stripe ? w.rows() : 32) {
        const std::int64_t rows = std::min<std::int64_t>(w.rows() - first, tile == Tile::stripe ? w.rows() : 32);
        for (std::int64_t j = 0; j < w.cols(); ++j) {
          double xx = 0;
          double xy = 0;
          for (std::int64_t i = first; i < first + rows; ++i) {
            double square = 0;  // of the row in the balanced domain; the gains hardly change it
            for (std::int64_t k = 0; k < w.cols(); ++k) square += std::pow(w(i, k) / n.col_scale(i, k), 2);
            xx += double{w(i, j)} * double{w(i, j)} / square;
            xy += double{w(i, j)} * double{y(i, j)} / square;
          }
          // Columns are weighed by rows as they were before the columns' own gains of a few percent: second order.
          EXPECT_NEAR(xy / xx, 1, 0.004) << describe(c) << " column " << j;
        }
      }
    }
}

TEST(Fit, ShapesAndEdges) {
  for (const auto& [rows, cols] : {std::pair{1, 1}, {1, 40}, {3, 17}, {17, 16}, {70, 300}, {130, 33}})
    for (std::int64_t group : {std::int64_t{16}, std::int64_t{256}, kWholeRow})
      for (Aux aux : {Aux::u4, Aux::u6, Aux::bf16})
        for (std::int64_t coarse : {0, 3})
          for (QuantizeConfig c : fits()) {
            if (coarse != 0 && !is_integer(aux)) continue;
            c.group_size = group;
            c.tile = c.bits % 2 == 0 ? Tile::square : Tile::stripe;
            c.scale = aux;
            if (c.zero != Aux::none) c.zero = aux;
            c.coarse_groups = coarse;
            const Matrix w = weights(rows, cols, 5);
            const QuantizedMatrix q = quantize(w, c);
            validate(q);
            // Never worse than forgetting the weights, even where one scale of 4 bits serves a row of one group.
            EXPECT_LT(square_error(w, q), 0.5 * w.cast<double>().squaredNorm()) << describe(c) << ' ' << rows << cols;
          }
}

TEST(Fit, ZeroRowsColumnsAndGroupsStayZero) {
  Matrix w = weights(20, 100);
  w.row(3).setZero();
  w.col(50).setZero();
  w.block(7, 32, 1, 32).setZero();
  for (QuantizeConfig c : fits())
    for (Aux aux : {Aux::f16, Aux::u5}) {
      c.group_size = 32;
      c.scale = aux;
      if (c.zero != Aux::none) c.zero = aux;
      const Matrix y = dequantize(quantize(w, c));
      EXPECT_TRUE((y.row(3).array() == 0).all()) << describe(c);
      EXPECT_TRUE((y.block(7, 32, 1, 32).array() == 0).all()) << describe(c);
      EXPECT_TRUE(y.allFinite()) << describe(c);
    }
  EXPECT_TRUE((dequantize(quantize(Matrix::Zero(5, 40).eval())).array() == 0).all());
}

TEST(Fit, ConstantGroups) {
  Matrix w(20, 64);
  for (int i = 0; i < 20; ++i) w.row(i).setConstant(0.5f + static_cast<float>(i));
  for (QuantizeConfig c : fits())
    for (Balancing balance : {Balancing::sinkhorn, Balancing::none}) {
      c.balance = balance;
      // Scale, zero and column scale are off by 2^-11 each; zeros of turned codebooks are at most 2 spans from 0, which
      // triples what the zero's rounding costs.
      EXPECT_LT((dequantize(quantize(w, c)) - w).cwiseQuotient(w).cwiseAbs().maxCoeff(), 5 * 0x1p-11) << describe(c);
    }
}

// All weights nearly alike: the sums of squares of a fit are rounded by more than its lines differ. What the fit ends
// with is never worse than even levels from minimum to maximum; a codebook's first choice (of NF4 and NF3) is not just
// the one without a fit, whose zero is of a scale not yet rounded. The gain then rounds each scale once more, by up to
// 2^-11 in f16, and (level - zero) scale is rounded anyway.
TEST(Fit, NearlyConstantGroupsLoseNoMoreThanWithoutAFit) {
  std::mt19937 random(3);
  const Matrix ordinary = weights(20, 256);
  for (QuantizeConfig c : fits())
    for (Aux zero : {Aux::f16, Aux::bf16, Aux::f32, Aux::u6})
      for (Aux scale : {Aux::f16, Aux::f32})
        for (std::int64_t group : {std::int64_t{16}, std::int64_t{64}, kWholeRow}) {
          if (c.zero == Aux::none) continue;
          c.zero = zero;
          c.scale = scale;
          c.group_size = group;
          c.balance = Balancing::none;
          QuantizeConfig plain = c;
          plain.refine = Refine::none;
          for (float noise : {1e-7f, 1e-6f, 1e-5f, 1e-4f, 3e-4f, 1e-3f, 1e-2f}) {
            Matrix w = ordinary;
            const float mean = random_float(random, -2, 2);
            for (int j = 0; j < 256; ++j) w(7, j) = mean * (1 + noise * random_normal(random));
            const auto error = [&](const QuantizeConfig& of) {
              return static_cast<double>((dequantize(quantize(w, of)).row(7) - w.row(7)).norm() / w.row(7).norm());
            };
            // A table has no way without a fit. It loses what is not alike, and in u6 its zeros lie 4 apart, of 128 +
            // 106 levels from the lowest zero to the highest level.
            const double first = c.rounding == Rounding::table     ? 2 * noise + 2.0 / 234
                                 : c.rounding == Rounding::uniform ? error(plain)
                                                                   : 1.2 * error(plain);
            EXPECT_LE(error(c), first + (scale == Aux::f16 ? 0x1p-11 : 0x1p-20)) << describe(c) << " noise " << noise;
          }
        }
}

// One huge weight beside many tiny ones: without a level at 0 every tiny weight would become a sizeable error.
TEST(Fit, OutliersDoNotDrownTheirGroup) {
  Matrix w = weights(64, 64) * 0.01f;
  for (int i = 0; i < 64; ++i) w(i, i) = 3;
  for (int bits : {2, 3, 4}) {
    const Matrix y = dequantize(quantize(w, {.bits = bits,
                                             .group_size = 16,
                                             .rounding = Rounding::table,
                                             .refine = Refine::fit,
                                             .scale = Aux::u6,
                                             .zero = Aux::none}));
    Matrix tiny = w;
    Matrix tiny_restored = y;
    for (int i = 0; i < 64; ++i) tiny(i, i) = tiny_restored(i, i) = 0;
    EXPECT_LE(tiny_restored.norm(), 2 * tiny.norm()) << bits;
  }
}

TEST(Fit, TheSizeOfTheWeightsDoesNotMatter) {
  const Matrix w = weights(30, 64);
  for (float factor : {0x1p-100f, 0x1p-40f, 0x1p100f}) {
    QuantizeReport report;
    const QuantizedMatrix q =
        quantize(w * factor, {.refine = Refine::fit, .balance = Balancing::none}, {.report = &report});
    EXPECT_TRUE(report.widened);
    EXPECT_EQ(q.format.scale, Aux::f32);
    const Matrix same = dequantize(quantize(w, {.refine = Refine::fit, .balance = Balancing::none, .scale = Aux::f32}));
    EXPECT_EQ(dequantize(q), same * factor) << factor;
  }
  const std::string message = message_of([&] { (void)quantize(w * 0x1p60f, preset(3.5)); });
  EXPECT_EQ(message.find("sinq: row 0 has a coarse scale of "), 0u) << message;
  EXPECT_NE(message.find(": f16 holds up to 65504, use scale = f32"), std::string::npos) << message;
}

/// A matrix with rows of a size that no coarse scale has.
Matrix with_tiny_rows(float size, float mean) {
  std::mt19937 random(5);
  Matrix w = weights(40, 150);
  for (int i : {3, 20, 21})
    for (float& v : w.row(i))
      v = size * (mean + 1e-4f * mean * random_normal(random) + (1 - mean) * random_float(random, -1, 1));
  return w;
}

// Dead neurons. They come back to within 2^-19 (encode.hpp), the format stays, and no other row notices.
TEST(Quantize, TinyRowsKeepTheFormat) {
  std::vector<QuantizeConfig> all = fits();
  for (QuantizeConfig c : fits())
    if (c.rounding != Rounding::table && (c.rounding == Rounding::symmetric || c.zero != Aux::none)) {
      c.refine = Refine::none;
      all.push_back(c);
      if (c.rounding != Rounding::uniform) continue;
      c.refine = Refine::hqq;
      all.push_back(c);
    }
  const Aux scales[] = {Aux::u4, Aux::u6, Aux::u8};
  unsigned k = 0;
  for (QuantizeConfig c : all)
    for (Aux zero : {Aux::f16, Aux::f32, Aux::u5})
      for (float mean : {0.0f, 1.0f}) {
        if (c.zero == Aux::none && zero != Aux::f16) continue;
        if (c.zero != Aux::none) c.zero = zero;
        c.scale = scales[++k % 3];
        c.group_size = 32;
        c.balance = c.scale == Aux::u6 ? Balancing::sinkhorn : Balancing::none;
        const Matrix plain = with_tiny_rows(0, 0);
        const Matrix of_plain = dequantize(quantize(plain, c)) - plain;
        const Matrix large = with_tiny_rows(0.02f, mean);
        const Matrix of_large = dequantize(quantize(large, c)) - large;
        for (float size : {3e-5f, 3e-6f, 4e-7f, 3e-8f, 1e-12f, 1e-20f, 1e-30f, 1e-38f, 1e-44f}) {
          const Matrix w = with_tiny_rows(size, mean);
          QuantizeReport report;
          const QuantizedMatrix q = quantize(w, c, {.report = &report});
          EXPECT_EQ(q.format.scale, c.scale);
          EXPECT_FALSE(report.widened);
          EXPECT_TRUE(report.tiny_rows || size > 1e-7f || size < 1e-37f) << describe(c) << ' ' << size;
          const Matrix error = dequantize(q) - w;
          QuantizeConfig wide = c;
          wide.scale = Aux::f32;
          const Matrix of_wide = dequantize(quantize(w, wide)) - w;
          const Naive n{q};
          for (int i : {3, 20, 21}) {
            const float lost_anyway = of_large.row(i).cwiseAbs().maxCoeff() / 0.02f * size;
            for (std::int64_t j = 0; j < w.cols(); ++j)
              EXPECT_LE(std::abs(error(i, j)), 0x1p-19f * n.col_scale(i, j) + 2 * lost_anyway)
                  << describe(c) << ' ' << size << ' ' << mean;
          }
          for (std::int64_t i = 0; i < w.rows(); ++i) {
            if (w(i, 0) == 0 || i == 3 || i == 20 || i == 21) continue;
            if (c.balance == Balancing::none)
              EXPECT_EQ(error.row(i), of_plain.row(i)) << describe(c) << ' ' << size << ' ' << mean;
            else  // rows of any size have a say in the balance
              EXPECT_LE(error.row(i).norm(), 2 * of_wide.row(i).norm()) << describe(c) << ' ' << size << ' ' << mean;
          }
        }
      }
}

// A row of the least numbers there are has scales below them. The rows around it must not notice.
TEST(Fit, ScalesThatVanishInF32CostTheirGroupsOnly) {
  Matrix w = weights(40, 100);
  w.row(3).setConstant(0x1p-149f);
  w(3, 5) = -0x1p-148f;
  for (Aux scale : {Aux::f16, Aux::f32}) {
    QuantizeConfig c = preset(4.5);
    c.scale = scale;
    c.balance = Balancing::none;  // column factors would flush the row to zeros
    const Matrix y = dequantize(quantize(w, c));
    for (std::int64_t i = 0; i < w.rows(); ++i)
      EXPECT_LT((y.row(i) - w.row(i)).norm(), i == 3 ? 0x1p-140f : 0.2f * w.row(i).norm()) << "row " << i;
  }
}

TEST(Fit, TheSameBitsWhateverTheThreadsAndTheInstructionSet) {
  const Matrix w = weights(300, 150, 16);
  Eigen::ThreadPool six(6);
  ThreadPoolExecutor pool(six);
  for (QuantizeConfig c : fits())
    for (Aux aux : {Aux::f16, Aux::u6}) {
      c.group_size = c.bits == 3 ? 48 : 32;
      c.tile = c.bits % 2 ? Tile::square : Tile::stripe;
      c.scale = aux;
      if (c.zero != Aux::none) c.zero = aux;
      const QuantizedMatrix expected = quantize(w, c);
      test::on_every_isa([&](Isa isa) {
        EXPECT_EQ(quantize(w, c), expected) << name_of(isa) << ' ' << describe(c);
        EXPECT_EQ(quantize(w, c, {.executor = &pool}), expected) << name_of(isa) << ' ' << describe(c);
      });
    }
}

TEST(Fit, WrongConfigurationsAreNamed) {
  const Matrix w = Matrix::Ones(2, 20);
  const auto message = [&](const QuantizeConfig& c) { return message_of([&] { (void)quantize(w, c); }); };
  EXPECT_EQ(message({.rounding = Rounding::table}), "sinq: rounding = table: needs refine = fit");
  EXPECT_EQ(message({.bits = 5, .rounding = Rounding::table, .refine = Refine::fit}),
            "sinq: bits = 5: a level table has 2, 3 or 4 bits");
  EXPECT_EQ(message({.rounding = Rounding::nf4, .zero = Aux::none}),
            "sinq: zero = none: only symmetric rounding, and codebooks with refine = fit, have no zero");
  EXPECT_EQ(message({.refine = Refine::fit, .fit = {.starts = 0}}), "sinq: fit.starts = 0: allowed are 1 to 64");
  EXPECT_EQ(message({.refine = Refine::fit, .fit = {.rounds = 17}}), "sinq: fit.rounds = 17: allowed are 0 to 16");
  EXPECT_EQ(message({.table = {-1, 0, 1, 2}}), "sinq: table = -1: only rounding = table has one");
  const auto with_table = [&](const LevelTable& table) {
    return message({.bits = 2, .rounding = Rounding::table, .refine = Refine::fit, .table = table});
  };
  EXPECT_EQ(with_table({-5, 0, 3, 9}), "nothing was thrown");
  EXPECT_EQ(with_table({0, 1, 3, 9}), "sinq: table[0] = 0: must be below 0");
  EXPECT_EQ(with_table({-9, -5, -3, 0}), "sinq: table's last level = 0: must be above 0");
  EXPECT_EQ(with_table({-9, 3, 3, 4}), "sinq: table = 3: must rise, and be 0 beyond 2^bits levels");
  EXPECT_EQ(with_table({-9, 0, 3, 4, 5}), "sinq: table = 5: must rise, and be 0 beyond 2^bits levels");
}

TEST(Preset, StaysBelowItsName) {
  const Matrix w = weights(512, 512);
  for (double size : kPresets) {
    EXPECT_LE(quantize(w, preset(size)).bits_per_weight(), size) << size;
    EXPECT_LE(quantize(w, preset(size, Role::query)).bits_per_weight(), size) << size;
    // A layer of Llama's proportions: query, key, value and output are square, the other three 8/3 as large.
    double bits = 0;
    double parts = 0;
    const auto add = [&](Role role, double part) {
      bits += part * quantize(w, preset(size, role)).bits_per_weight();
      parts += part;
    };
    add(Role::query, 2);
    add(Role::value, 2);
    add(Role::other, 16.0 / 3);
    add(Role::down, 8.0 / 3);
    EXPECT_LE(bits / parts, size) << size;
  }
  EXPECT_EQ(message_of([] { (void)preset(3.3); }),
            "sinq: bits_per_weight = 3.3: allowed are 2.5, 3, 3.5, 4, 4.5, 5, 6 and 8");
}

TEST(Preset, MoreBitsLoseLess) {
  const Matrix w = weights(128, 256);
  for (Role role : {Role::other, Role::query, Role::value, Role::down}) {
    double before = INFINITY;
    for (double size : kPresets) {
      const double error = square_error(w, quantize(w, preset(size, role)));
      EXPECT_LE(error, before) << size << ' ' << static_cast<int>(role);
      before = error;
    }
  }
}

TEST(FittedLevels, OfOtherBitsDoNotExist) {
  static_assert(fitted_levels(2, true)[3] == 121);
  for (int bits : {-1, 0, 1, 5, 8})
    EXPECT_EQ(message_of([&] { (void)fitted_levels(bits, true); }),
              "sinq: bits = " + std::to_string(bits) + ": a level table has 2, 3 or 4 bits");
}

TEST(Preset, IsTheDefault) {
  const Matrix w = weights(32, 64);
  EXPECT_EQ(quantize(w), quantize(w, preset(4.5)));
}

TEST(Preset, RolesByName) {
  EXPECT_EQ(role_of("model.layers.3.self_attn.q_proj.weight"), Role::query);
  EXPECT_EQ(role_of("model.layers.3.self_attn.k_proj.weight"), Role::query);
  EXPECT_EQ(role_of("model.layers.3.self_attn.v_proj.weight"), Role::value);
  EXPECT_EQ(role_of("model.layers.3.self_attn.o_proj.weight"), Role::value);
  EXPECT_EQ(role_of("model.layers.3.mlp.gate_proj.weight"), Role::other);
  EXPECT_EQ(role_of("model.layers.3.mlp.up_proj.weight"), Role::other);
  EXPECT_EQ(role_of("model.layers.3.mlp.down_proj.weight"), Role::down);
  EXPECT_EQ(role_of("model.layers.3.mlp.experts.down_proj"), Role::down);
  EXPECT_EQ(role_of("model.layers.3.block_sparse_moe.experts.2.w2.weight"), Role::down);
  EXPECT_EQ(role_of("encoder.layer.0.attention.self.query.weight"), Role::query);
  EXPECT_EQ(role_of("encoder.layer.0.attention.self.value.weight"), Role::value);
  EXPECT_EQ(role_of("encoder.layer.0.attention.output.dense.weight"), Role::value);
  EXPECT_EQ(role_of("encoder.layer.0.intermediate.dense.weight"), Role::other);
  EXPECT_EQ(role_of("encoder.layer.0.output.dense.weight"), Role::down);
  EXPECT_EQ(role_of("model.layers.3.self_attn.qkv_proj.weight"), Role::other);  // Phi-3: fused
  EXPECT_EQ(role_of("model.layers.3.mlp.gate_up_proj.weight"), Role::other);
  EXPECT_EQ(role_of("model.layers.3.self_attn.dense.weight"), Role::value);  // Phi-2: the output projection
  EXPECT_EQ(role_of("model.layers.3.mlp.fc1.weight"), Role::other);
  EXPECT_EQ(role_of("model.layers.3.mlp.fc2.weight"), Role::down);
  EXPECT_EQ(role_of("gpt_neox.layers.3.attention.query_key_value.weight"), Role::other);
  EXPECT_EQ(role_of("gpt_neox.layers.3.attention.dense.weight"), Role::value);
  EXPECT_EQ(role_of("gpt_neox.layers.3.mlp.dense_h_to_4h.weight"), Role::other);
  EXPECT_EQ(role_of("gpt_neox.layers.3.mlp.dense_4h_to_h.weight"), Role::down);
  EXPECT_EQ(role_of("transformer.h.3.self_attention.query_key_value.weight"), Role::other);  // Falcon
  EXPECT_EQ(role_of("transformer.h.3.self_attention.dense.weight"), Role::value);
  EXPECT_EQ(role_of("model.layers.3.self_attn.kv_proj.weight"), Role::value);  // half of it is
  EXPECT_EQ(role_of("unheard.of"), Role::other);
}

}  // namespace
