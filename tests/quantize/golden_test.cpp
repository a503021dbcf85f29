// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <sinq/quantize.hpp>
#include <sinq/store.hpp>
#include <string>
#include <vector>

// The library beside the Python reference: tests/golden/reference.safetensors (made by make_reference.py) and, where
// the real data is there, what the package itself computed.

namespace {

using namespace sinq;

struct Golden {
  std::string file;
  std::string prefix;
  std::int64_t group;
};

void PrintTo(const Golden& g, std::ostream* out) {
  *out << g.file << ' ' << g.prefix;
}

class GoldenTest : public testing::TestWithParam<Golden> {
 protected:
  void SetUp() override {
    const bool own = GetParam().file == "reference";
    if (!own && std::string(SINQ_DATA_DIR).empty())
      GTEST_SKIP() << "SINQ_DATA_DIR is not set: nothing was compared with the Python package";
    path_ = own ? std::string(SINQ_GOLDEN_DIR) + "/reference.safetensors"
                : std::string(SINQ_DATA_DIR) + "/upstream-golden/" + GetParam().file + ".safetensors";
    file_.emplace(path_);
    const WeightView stored = store::weights(file_->at(GetParam().prefix + "weight"));  // at any alignment
    values_ = floats("weight");
    weights_ = {values_.data(), DType::f32, stored.rows, stored.cols};
    tiling_ = tiling(weights_.rows, weights_.cols, GetParam().group, Tile::stripe);
  }

  [[nodiscard]] std::vector<float> floats(const std::string& name) const {
    return store::to_floats(file_->at(GetParam().prefix + name));
  }
  [[nodiscard]] bool has(const std::string& name) const { return file_->find(GetParam().prefix + name) != nullptr; }

  [[nodiscard]] float weight(std::int64_t i, std::int64_t j) const {
    return values_[static_cast<std::size_t>(i * weights_.cols + j)];
  }

  [[nodiscard]] WeightView tile(std::int64_t g) const {
    return {values_.data() + tiling_.group_begin(g), DType::f32, weights_.rows, tiling_.group_cols(g), weights_.stride};
  }

  std::string path_;
  std::optional<store::File> file_;
  std::vector<float> values_;
  WeightView weights_;  // of these
  Tiling tiling_{};
};

/// The reference adds logarithms of at most 16 steps in float (each off by 2^-24 of at most 0.7, the sum by as much
/// again), takes an exponential (2^-24 of at most 10) and measures deviations in float (about 1e-6, which the next step
/// mostly takes back): below 1e-5 in all, ten times less than what is asked for.
constexpr double kFactorBound = 1e-5;

double farthest(const auto& mine, const float* theirs) {
  double worst = 0;
  for (std::size_t k = 0; k < mine.size(); ++k) worst = std::max(worst, std::abs(double{mine[k]} / theirs[k] - 1));
  return worst;
}

TEST_P(GoldenTest, FactorsAreTheReferences) {
  const auto row = floats("stripe.row");
  const auto col = floats("stripe.sinq.4.col_scale");
  const auto imbalance = floats("stripe.imbalance_before_after");
  for (std::int64_t g = 0; g < tiling_.groups(); ++g) {
    const float* their_row = row.data() + g * tiling_.rows;
    const float* their_col = col.data() + tiling_.group_begin(g);
    const auto k = static_cast<std::size_t>(2 * g);
    const Balance mine = sinkhorn(tile(g));
    EXPECT_NEAR(mine.imbalance_before / imbalance[k], 1, kFactorBound) << "tile " << g;
    EXPECT_LE(mine.imbalance_after / imbalance[k + 1], 1 + 2 * kFactorBound) << "tile " << g;
    if (std::max(farthest(mine.row, their_row), farthest(mine.col, their_col)) <= kFactorBound) continue;
    // Where successive iterates are equally balanced but for rounding, the reference's last bit chooses one of them.
    // Then its factors are those of another of our iterates, and ours are balanced at least as well (above).
    std::vector<float> buffer;
    const WeightView w = tile(g);
    const std::int64_t stride = detail::core::padded(w.cols);
    buffer.resize(static_cast<std::size_t>(w.rows * stride));
    for (std::int64_t i = 0; i < w.rows; ++i) w.load(i, 0, w.cols, buffer.data() + i * stride);
    double nearest = INFINITY;
    (void)detail::balance::sinkhorn_tile(
        buffer.data(), detail::core::largest_magnitude(buffer.data(), std::ssize(buffer)), w.rows, w.cols, {},
        [&](const auto& r, const auto& c, double unevenness) {
          if (std::abs(unevenness / imbalance[k + 1] - 1) < 2 * kFactorBound)
            nearest = std::min(nearest, std::max(farthest(r, their_row), farthest(c, their_col)));
        });
    EXPECT_LE(nearest, kFactorBound) << "tile " << g << ": the reference's factors are none of our iterates";
  }
}

struct Method {
  std::string name;
  QuantizeConfig config;
};

std::vector<Method> reference_methods() {
  std::vector<Method> all;
  for (int bits : kBitWidths) {
    all.push_back({"rtn." + std::to_string(bits), {.bits = bits, .balance = Balancing::none}});
    all.push_back({"sinq." + std::to_string(bits), {.bits = bits}});
    all.push_back({"sinq_hqq." + std::to_string(bits), {.bits = bits, .refine = Refine::hqq}});
  }
  all.push_back({"sinq_nf4.4", {.bits = 4, .rounding = Rounding::nf4}});
  all.push_back({"sinq_nf3.3", {.bits = 3, .rounding = Rounding::nf3}});
  return all;
}

/// Distance of a code from being the nearest level to `position`, in units of the levels: 0 if it is the nearest.
double excess(const std::array<float, 256>& levels, int bits, int code, double position) {
  double nearest = INFINITY;
  for (int c = 0; c < 1 << bits; ++c)
    nearest = std::min(nearest, std::abs(position - double{levels[static_cast<std::size_t>(c)]}));
  return std::abs(position - double{levels[static_cast<std::size_t>(code)]}) - nearest;
}

TEST_P(GoldenTest, CodesAreTheReferencesButForRounding) {
  std::int64_t compared = 0, different = 0, ties = 0, astray = 0, groups_total = 0, groups_compared = 0;
  for (Method& m : reference_methods()) {
    const std::string base = "stripe." + m.name + ".";
    if (!has(base + "codes")) continue;
    SCOPED_TRACE(m.name);
    m.config.group_size = GetParam().group;
    m.config.scale = m.config.zero = m.config.col_scale = Aux::f32;
    const QuantizedMatrix q = quantize(weights_, m.config);
    const detail::pack::RowReader reader(q);
    const auto scale = floats(base + "scale");
    const auto zero = floats(base + "zero");
    const auto col = floats(base + "col_scale");
    const auto* codes =
        reinterpret_cast<const std::uint8_t*>(file_->at(GetParam().prefix + base + "codes").data.data());
    const bool hqq = m.config.refine == Refine::hqq;
    const auto groups = static_cast<std::size_t>(tiling_.groups());
    std::vector<float> my_scale(groups), my_zero(groups), my_col(static_cast<std::size_t>(tiling_.cols));
    std::vector<std::uint8_t> my_codes(256);
    reader.col_scales(0, 0, tiling_.cols, my_col.data());
    for (std::int64_t i = 0; i < tiling_.rows; ++i) {
      reader.scales(i, my_scale.data());
      reader.zeros(i, my_zero.data());
      for (std::size_t g = 0; g < groups; ++g, ++groups_total) {
        const auto at = static_cast<std::size_t>(i) * groups + g;
        const auto first = tiling_.group_begin(static_cast<std::int64_t>(g));
        const auto cols = tiling_.group_cols(static_cast<std::int64_t>(g));
        // Another iterate of the balancing (see above) moves a constant between col_scale and scale, which leaves the
        // codes alone (but not HQQ's thresholds, nor the scale of an empty group, nor unequally balanced tiles); and
        // HQQ's bound on 1 / scale and its dead range are the reference's alone.
        const double scale_ratio = double{my_scale[g]} / scale[at];
        const double col_ratio = double{my_col[static_cast<std::size_t>(first)]} / col[static_cast<std::size_t>(first)];
        if (std::abs((hqq ? scale_ratio : scale_ratio * col_ratio) - 1) > 3 * kFactorBound) continue;
        ++groups_compared;
        // Position of a weight among the codes: four float operations, each off by 2^-24 of the largest value met,
        // and factors that differ by kFactorBound at most cancel between col and scale but for 1e-6.
        const double size = std::ldexp(1.0, m.config.bits) + std::abs(zero[at]);
        double bound = size * (4 * 0x1p-24 + 2e-6);
        const double dz = std::abs(double{my_zero[g]} - zero[at]);
        if (hqq) {
          // Its zeros are means over codes, some of which sit on a boundary. One code moves the mean by 1 / cols, which
          // at 8 bits moves one of the `cols` others across a boundary as often as not. The next rounds mostly take
          // it back, but a few groups go their own way.
          if (dz > 1.5 / static_cast<double>(cols)) {
            ++astray;
            continue;
          }
          bound += dz;
        } else if (dz > bound) {
          // The zero is itself rounded: min / scale must have been a tie.
          double low = INFINITY;
          for (std::int64_t j = first; j < first + cols; ++j)
            low = std::min(low, double{weight(i, j)} / (double{col[static_cast<std::size_t>(j)]} * scale[at]));
          ASSERT_NEAR(std::abs(low - std::nearbyint(low)), 0.5, bound) << "row " << i << " group " << g;
          ++ties;
          continue;
        }
        reader.codes(i, static_cast<std::int64_t>(g), my_codes.data());
        for (std::int64_t j = 0; j < cols; ++j, ++compared) {
          const int mine = my_codes[static_cast<std::size_t>(j)];
          const int theirs = codes[i * tiling_.cols + first + j];
          if (mine == theirs) continue;
          ++different;
          const double w = weight(i, first + j);
          const double position = w / (double{col[static_cast<std::size_t>(first + j)]} * scale[at]) + zero[at];
          EXPECT_LE(excess(reader.levels(), m.config.bits, mine, position), 2 * bound)
              << "ours at row " << i << " column " << first + j;
          // The reference's HQQ returns the codes of its last round beside the zeros of its best one.
          EXPECT_LE(excess(reader.levels(), m.config.bits, theirs, position), 2 * bound + (hqq ? 0.1 : 0))
              << "the reference's at row " << i << " column " << first + j;
        }
      }
    }
  }
  std::cout << different << " of " << compared << " codes differ, all within rounding of a boundary; " << ties
            << " zeros were ties; " << groups_compared << " of " << groups_total << " groups compared\n";
  EXPECT_LE(different, compared / 10000);
  EXPECT_GE(groups_compared, groups_total / 2);
  EXPECT_LE(astray, groups_total / 1000);
}

/// Where the factors are another iterate's or HQQ's limits differ, the error tells whether ours is as good.
TEST_P(GoldenTest, ErrorIsNoLargerThanTheReferences) {
  for (Method& m : reference_methods()) {
    const std::string base = "stripe." + m.name + ".";
    if (!has(base + "codes")) continue;
    m.config.group_size = GetParam().group;
    m.config.scale = m.config.zero = m.config.col_scale = Aux::f32;
    const QuantizedMatrix q = quantize(weights_, m.config);
    const detail::pack::RowReader reader(q);
    const auto scale = floats(base + "scale");
    const auto zero = floats(base + "zero");
    const auto col = floats(base + "col_scale");
    const auto* codes =
        reinterpret_cast<const std::uint8_t*>(file_->at(GetParam().prefix + base + "codes").data.data());
    double error = 0, norm = 0;
    for (std::int64_t i = 0; i < tiling_.rows; ++i)
      for (std::int64_t j = 0; j < tiling_.cols; ++j) {
        const auto at = static_cast<std::size_t>(i * tiling_.groups() + j / tiling_.group_size);
        const double w = weight(i, j);
        const double restored = (double{reader.levels()[codes[i * tiling_.cols + j]]} - zero[at]) * scale[at] *
                                double{col[static_cast<std::size_t>(j)]};
        error += (restored - w) * (restored - w);
        norm += w * w;
      }
    // 2 %: the choice between equally balanced iterates is a matter of luck for the error.
    EXPECT_LE(measure(q, weights_).relative_error, 1.02 * std::sqrt(error / norm)) << m.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Own, GoldenTest,
                         testing::Values(Golden{"reference", "gaussian.", 64}, Golden{"reference", "scaled.", 64},
                                         Golden{"reference", "outliers.", 64}, Golden{"reference", "holes.", 64}));
INSTANTIATE_TEST_SUITE_P(Package, GoldenTest,
                         testing::Values(Golden{"gaussian_128x192", "", 64}, Golden{"scaled_96x256", "", 64},
                                         Golden{"outliers_64x128", "", 64}, Golden{"zero_row_col_128x128", "", 64},
                                         Golden{"minilm_l0_ffn_out_256rows", "", 64}, Golden{"odd_k_48x80", "", 16}));

}  // namespace
