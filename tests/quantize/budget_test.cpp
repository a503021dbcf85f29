// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <sinq/quantize.hpp>

#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using test::message_of;
using Tensors = std::vector<std::vector<Choice>>;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Sum {
  std::int64_t bits = 0;
  double loss = 0;
};

Sum sum(const Tensors& tensors, const std::vector<std::size_t>& chosen) {
  Sum s;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    s.bits += tensors[i][chosen[i]].bits;
    s.loss += tensors[i][chosen[i]].loss;
  }
  return s;
}

/// The least loss within a budget, from all combinations.
double brute_force(const Tensors& tensors, std::int64_t budget, std::size_t from = 0) {
  if (budget < 0) return INFINITY;
  if (from == tensors.size()) return 0;
  double best = INFINITY;
  for (const Choice& c : tensors[from]) best = std::min(best, c.loss + brute_force(tensors, budget - c.bits, from + 1));
  return best;
}

/// With fractions of a step allowed the steps up to the first that does not fit are optimal, and the part of that step
/// which would fit saves less than the whole. So the loss is at most that of the best choice plus what the step that
/// saves most saves: what lies between neighbours on a hull.
TEST(ChooseWithin, AgainstAllCombinations) {
  std::mt19937 random(1);
  const auto number = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  int best = 0;
  int total = 0;
  for (int trial = 0; trial < 300; ++trial) {
    Tensors tensors(static_cast<std::size_t>(number(1, 6)));
    double step = 0;
    std::int64_t least = 0, most = 0;
    for (auto& choices : tensors) {
      for (int k = number(1, 5); k > 0; --k) choices.push_back({number(1, 60), number(0, 40) / 8.0});
      const auto hull = detail::quantize::lower_hull(choices);
      for (std::size_t k = 1; k < hull.size(); ++k)
        step = std::max(step, choices[hull[k - 1]].loss - choices[hull[k]].loss);
      least += choices[hull.front()].bits;
      most += choices[hull.back()].bits;
    }
    for (const std::int64_t budget : {least, (3 * least + most) / 4, (least + most) / 2, most, most + 1000}) {
      const Sum found = sum(tensors, choose_within(tensors, budget));
      const double expected = brute_force(tensors, budget);
      EXPECT_LE(found.bits, budget);
      EXPECT_GE(found.loss, expected);
      EXPECT_LE(found.loss, expected + step);
      if (budget >= most) {
        EXPECT_EQ(found.loss, expected);
      }
      best += found.loss == expected;
      ++total;
    }
  }
  EXPECT_GT(best, total * 3 / 4);  // "little more" is rare even with up to six tensors
}

/// Where every budget of a hull corner is met exactly, the choice is the best there is.
TEST(ChooseWithin, IsExactWhereStepsFit) {
  const Tensors tensors = {{{2, 9}, {4, 1}, {3, 8}}, {{10, 4}, {20, 0}}, {{1, 5}, {2, 5}, {3, 4.9}}};
  using Chosen = std::vector<std::size_t>;
  EXPECT_EQ(choose_within(tensors, 13), (Chosen{0, 0, 0}));
  EXPECT_EQ(choose_within(tensors, 14), (Chosen{2, 0, 0}));  // the corner does not fit, a choice above the hull does
  EXPECT_EQ(choose_within(tensors, 15), (Chosen{1, 0, 0}));
  EXPECT_EQ(choose_within(tensors, 24), (Chosen{1, 0, 2}));  // what is left goes to what fits
  EXPECT_EQ(choose_within(tensors, 25), (Chosen{1, 1, 0}));
  EXPECT_EQ(choose_within(tensors, 27), (Chosen{1, 1, 2}));
  EXPECT_EQ(choose_within(Tensors{}, 0), Chosen{});
}

TEST(ChooseWithin, WrongArgumentsAreNamed) {
  const auto complaint = [](const Tensors& tensors, std::int64_t budget) {
    return message_of([&] { (void)choose_within(tensors, budget); });
  };
  EXPECT_EQ(complaint({{{5, 1}, {4, 2}}, {{3, 0}}}, 6), "sinq: budget = 6: the least that the choices allow is 7 bits");
  EXPECT_EQ(complaint({{{5, 1}}, {}}, 6), "sinq: tensors[1] has no choices");
  EXPECT_EQ(complaint({{{-1, 1}}}, 6), "sinq: tensors[0][0].bits = -1: allowed are 0 to 2^52");
  EXPECT_EQ(complaint({{{5, 1}}, {{4, 2}, {1, NAN}}}, 6),
            "sinq: tensors[1][1].loss = nan: must be finite and not negative");
}

TEST(ChoicesFor, SizesAreExactAndErrorsThoseOfTheSample) {
  std::mt19937 random(3);
  const Matrix w = Matrix::NullaryExpr(70, 88, [&] { return test::random_normal(random); });
  const WeightView view(w.data(), DType::f32, 70, 88);
  const Matrix sample = Matrix::NullaryExpr(23, 88, [&](auto i, auto j) { return w(3 * i, j); });
  std::vector<double> mean_square(88);
  for (double& m : mean_square) m = std::exp2(test::random_float(random, -3, 3));
  const auto configs = budget_configs();
  const auto all = choices_for(view, configs);
  const auto few = choices_for(view, configs, 2, {.sample_rows = 23, .mean_square = mean_square});
  for (std::size_t k = 0; k < configs.size(); ++k) {
    const QuantizedMatrix q = quantize(view, configs[k]);
    const double error = measure(q, view).relative_error;
    EXPECT_EQ(all[k].bits, 8 * q.bytes());
    EXPECT_EQ(few[k].bits, 8 * q.bytes());
    EXPECT_EQ(all[k].loss, error * error);
    const WeightView rows(sample.data(), DType::f32, 23, 88);
    const double output = measure(quantize(rows, configs[k]), rows, mean_square).output_error;
    EXPECT_EQ(few[k].loss, 2 * output * output);
    if (k > 0) {  // each is larger than the one before (or as large, where rows end with a broken byte), and better
      EXPECT_GE(all[k].bits, all[k - 1].bits);
      EXPECT_LT(all[k].loss, all[k - 1].loss);
    }
  }
  EXPECT_NE(message_of([&] { (void)choices_for(view, configs, -1); }).find("importance = -1"), std::string::npos);
  EXPECT_NE(message_of([&] { (void)choices_for(view, configs, 1, {.sample_rows = 0}); }).find("sample_rows = 0"),
            std::string::npos);
}

TEST(ChoicesFor, ActivationsReachTheConfigurations) {
  std::mt19937 random(4);
  const Matrix w = Matrix::NullaryExpr(40, 64, [&] { return test::random_normal(random); });
  Activations seen(64, {.second_moments = true, .sample = 16});
  const Matrix tokens =
      Matrix::NullaryExpr(100, 64, [&](auto, auto j) { return test::random_normal(random) * (j % 4 ? 1.0f : 9.0f); });
  seen.add(tokens);
  std::vector<QuantizeConfig> configs = {preset(3)};
  for (Calibration calibration : {Calibration::awq, Calibration::weighted, Calibration::gptq}) {
    configs.push_back(preset(3));
    configs.back().calibration = calibration;
  }
  const auto choices = choices_for(w, configs, 1, {.activations = &seen});
  for (std::size_t k = 0; k < configs.size(); ++k) {
    const QuantizedMatrix q = quantize(w, configs[k], {.activations = &seen});
    const double error = measure(q, w, seen.mean_square()).output_error;
    EXPECT_EQ(choices[k].bits, 8 * q.bytes());
    EXPECT_EQ(choices[k].loss, error * error) << k;
  }
  EXPECT_LT(choices[2].loss, choices[0].loss);  // of the outputs, which is what the weighted fit makes small
  const std::vector<double> even(64, 1.0);      // what is given goes first
  const auto of_weights = choices_for(w, configs, 1, {.mean_square = even, .activations = &seen});
  const double error = measure(quantize(w, configs[0]), w, even).output_error;
  EXPECT_EQ(of_weights[0].loss, error * error);

  EXPECT_EQ(message_of([&] { (void)choices_for(w, configs); }),
            "sinq: activations = null: this calibration needs them");
  const Activations other(63), empty(64);
  EXPECT_EQ(message_of([&] {
              (void)choices_for(w, {configs.data(), 1}, 1, {.activations = &other});
            }),
            "sinq: activations.cols() = 63: must equal weights.cols, 64");
  EXPECT_EQ(message_of([&] {
              (void)choices_for(w, {configs.data(), 1}, 1, {.activations = &empty});
            }),
            "sinq: activations.tokens() = 0: must be at least 1");
}

}  // namespace
