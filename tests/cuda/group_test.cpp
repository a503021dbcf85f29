// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "expect_product.hpp"
#include "support/message_of.hpp"

// Several matrices in one launch: with one input, and as the experts of a mixture.

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;
using test::Codes;
using test::expect_product;
using test::kCodes;
using test::random_activations;
using test::random_matrix;
using test::Resident;
using test::RowMajor;

struct Group {
  std::vector<QuantizedMatrix> q;
  std::vector<Resident> resident;
  std::vector<Resident*> pointers;

  explicit Group(std::vector<QuantizedMatrix> matrices) : q(std::move(matrices)) {
    resident.reserve(q.size());
    for (const QuantizedMatrix& m : q) pointers.push_back(&resident.emplace_back(m));
  }
  void show(test::Executor& run) {
    for (Resident& r : resident) r.show(run);
  }
  struct Launch {
    Problem problem;
    std::int64_t first_row;
  };
  [[nodiscard]] std::vector<Launch> launches() const {
    std::vector<Launch> all;
    for_launches(pointers, [&](const Problem& problem, std::int64_t first_row) {
      all.push_back({problem, first_row});
    });
    return all;
  }
  [[nodiscard]] Problem only_launch() const {
    const std::vector<Launch> all = launches();
    EXPECT_EQ(all.size(), 1);
    return all.front().problem;
  }
};

Format format_of(const Codes& c, unsigned k) {
  const std::int64_t groups[] = {16, 48, 64, 128};
  Format f{
      .bits = c.bits, .levels = c.levels, .group_size = groups[k % 4], .tile = k % 2 ? Tile::square : Tile::stripe};
  if (k % 3 == 0) f.scale = Aux::u6, f.coarse_groups = 3;
  if (c.levels == Levels::symmetric) f.zero = Aux::none;
  if (c.levels == Levels::symmetric && is_integer(f.scale)) f.signed_scale = true;
  return f;
}

// --- side by side ----------------------------------------------------------------------------------------------------

TEST(SideBySide, EveryKindOfCodesIsWhatEachMatrixGivesAlone) {
  std::mt19937 random(1);
  unsigned k = 0;
  for (const Codes& c : kCodes)
    for (int slices : {1, 2}) {
      const Format f = format_of(c, ++k);
      const std::int64_t cols = 70 + k * 31 % 200, tokens = 1 + k % 11;
      std::vector<QuantizedMatrix> matrices;
      for (std::int64_t rows : {std::int64_t{1 + k * 7 % 50}, std::int64_t{16}, std::int64_t{150}})
        matrices.push_back(random_matrix(f, rows, cols, random));
      for (int n = 0; c.levels == Levels::table && n < 4; ++n) matrices[1].table[static_cast<std::size_t>(n)] -= 1;
      for (int n = 1; n < 16 && c.levels == Levels::table; ++n)  // still ascending
        matrices[1].table[static_cast<std::size_t>(n)] =
            n < 1 << c.bits ? std::max(matrices[1].table[static_cast<std::size_t>(n)],
                                       matrices[1].table[static_cast<std::size_t>(n - 1)])
                            : std::int8_t{0};
      Group group(matrices);
      const Problem problem = group.only_launch();
      const RowMajor<half> x = random_activations<half>(tokens, cols, random);
      const RowMajor<float> bias = random_activations<float>(1, problem.rows, random);
      RowMajor<float> y = RowMajor<float>::Constant(tokens, problem.rows, NAN);
      const cuda::PlanOptions options{.strips = 1 + static_cast<int>(k % 3), .slices = slices};
      test::Executor run;
      group.show(run);
      const auto all = test::simulate<half, float>(run, problem, {}, MatrixView<const half>(x), MatrixView<float>(y),
                                                   bias.data(), options);
      std::int64_t first = 0;
      for (const QuantizedMatrix& q : group.q) {
        const MatrixView<float> part(y.data() + first, tokens, q.rows, problem.rows);
        expect_product<half, float>(q, MatrixView<const half>(x), part, bias.data() + first, all);
        RowMajor<float> alone(tokens, q.rows);
        (void)test::simulate<half, float>(q, MatrixView<const half>(x), MatrixView<float>(alone), bias.data() + first,
                                          {.strips = 1, .slices = slices, .chunk_units = all.plan.chunk_units});
        ASSERT_EQ(y.middleCols(first, q.rows), alone) << to_string(all.plan);
        first += q.rows;
      }
      if (HasFatalFailure()) return;
    }
}

TEST(SideBySide, OfManyTokensAsWell) {
  std::mt19937 random(4);
  Group group({random_matrix({.tile = Tile::square}, 70, 100, random),
               random_matrix({.tile = Tile::square}, 16, 100, random),
               random_matrix({.tile = Tile::square}, 150, 100, random)});
  const Problem problem = group.only_launch();
  const RowMajor<half> x = random_activations<half>(70, 100, random);
  RowMajor<float> y = RowMajor<float>::Constant(70, problem.rows, NAN);
  test::Executor run;
  group.show(run);
  const auto all =
      test::simulate<half, float>(run, problem, {}, MatrixView<const half>(x), MatrixView<float>(y), nullptr);
  EXPECT_EQ(all.plan.kernel, cuda::Kernel::wgmma);
  std::int64_t first = 0;
  for (const QuantizedMatrix& q : group.q) {
    const MatrixView<float> part(y.data() + first, 70, q.rows, problem.rows);
    expect_product<half, float>(q, MatrixView<const half>(x), part, nullptr, all);
    first += q.rows;
  }
}

/// The values of a preset have another format than its queries and keys.
TEST(SideBySide, NeighboursOfOneFormatShareALaunch) {
  std::mt19937 random(9);
  const Format a{.bits = 3, .group_size = 16}, b{.bits = 4, .group_size = 32, .tile = Tile::square};
  std::vector<QuantizedMatrix> matrices;
  for (const Format& f : {a, a, b, a}) matrices.push_back(random_matrix(f, 20 + random() % 30, 200, random));
  for (int k = 0; k < 9; ++k) matrices.push_back(random_matrix(b, 5, 200, random));
  Group group(matrices);
  const std::vector<Group::Launch> launches = group.launches();
  std::vector<int> members;
  members.reserve(launches.size());
  for (const Group::Launch& l : launches) members.push_back(l.problem.member_count);
  EXPECT_EQ(members, (std::vector{2, 1, 1, 8, 1}));

  const std::int64_t rows = launches.back().first_row + launches.back().problem.rows;
  const RowMajor<half> x = random_activations<half>(3, 200, random);
  const RowMajor<float> bias = random_activations<float>(1, rows, random);
  RowMajor<float> y = RowMajor<float>::Constant(3, rows, NAN);
  const cuda::PlanOptions options{.slices = 2};
  const cuda::SideBySidePlan plan = make_side_by_side_plan(group.pointers, 3, Number::f16, {}, options);
  ASSERT_EQ(plan.launches.size(), launches.size());
  test::Simulation all;
  for (std::size_t k = 0; k < launches.size(); ++k) {
    const auto& [problem, first] = launches[k];
    test::Executor run;
    group.show(run);
    all = test::simulate<half, float>(run, problem, {}, MatrixView<const half>(x),
                                      MatrixView<float>(y.data() + first, 3, problem.rows, rows), bias.data() + first,
                                      options);
    ASSERT_EQ(all.failure, "");
    EXPECT_EQ(plan.launches[k], all.plan);
    EXPECT_LE(all.plan.workspace_bytes, plan.workspace_bytes);
  }
  EXPECT_EQ(plan.workspace_bytes, plan.launches[0].workspace_bytes);  // it has the most rows
  std::int64_t first = 0;
  for (const QuantizedMatrix& q : group.q) {
    const MatrixView<float> part(y.data() + first, 3, q.rows, rows);
    expect_product<half, float>(q, MatrixView<const half>(x), part, bias.data() + first, all);
    first += q.rows;
  }
  EXPECT_EQ(first, rows);
}

TEST(SideBySide, WrongOnesAreNamed) {
  std::mt19937 random(2);
  const QuantizedMatrix q = random_matrix({}, 20, 100, random);
  const auto message = [&](std::vector<QuantizedMatrix> matrices) {
    Group group(std::move(matrices));
    return test::message_of([&] { (void)group.launches(); });
  };
  EXPECT_EQ(message({q, random_matrix({}, 31, 100, random)}), "nothing was thrown");
  EXPECT_EQ(message({}), "sinq: matrices.size() = 0: must be positive");
  for (int bits : {4, 3})
    EXPECT_EQ(message({q, random_matrix({.bits = bits}, 20, 101, random)}),
              "sinq: cols = 101: matrices of one product have the same columns");
  Group group({q});
  const std::vector<Resident*> with_null{group.pointers[0], nullptr};
  EXPECT_EQ(test::message_of([&] { for_launches(with_null, [](const Problem&, std::int64_t) {}); }),
            "sinq: matrices[1] = null: must point to a matrix");
}

TEST(SideBySide, APlanForOneOfThemDoesNotFitAll) {
  std::mt19937 random(3);
  Group group({random_matrix({}, 20, 100, random), random_matrix({}, 20, 100, random)});
  const Problem problem = group.only_launch();
  EXPECT_NO_THROW(require_fitting(make_plan(problem, 2, Number::f16, {}, {}), problem, Number::f16));
  EXPECT_NE(test::message_of([&] {
              require_fitting(make_plan(group.resident[0].weights(), 2, Number::f16, {}, {}), problem, Number::f16);
            }),
            "nothing was thrown");
}

// --- experts ---------------------------------------------------------------------------------------------------------

struct Mixture {
  Group group;
  std::vector<Member> members;
  std::vector<std::int32_t> offsets{0};
  std::vector<std::int32_t> tokens;

  Mixture(std::vector<QuantizedMatrix> experts, const std::vector<int>& counts, std::int64_t x_rows,
          std::mt19937& random)
      : group(std::move(experts)) {
    for (Resident& r : group.resident) members.push_back(member_of(r.weights()));
    for (int n : counts) offsets.push_back(offsets.back() + n);
    for (int k = 0; k < offsets.back(); ++k) tokens.push_back(static_cast<std::int32_t>(random() % x_rows));
  }
  Product product(test::Executor& run) {
    group.show(run);
    run.constant("experts", members.data(), members.size());
    run.constant("offsets", offsets.data(), offsets.size());
    run.constant("tokens", tokens.data(), tokens.size());
    Product p;
    p.experts = members.data();
    p.offsets = offsets.data();
    p.token_list = tokens.data();
    return p;
  }
};

/// Experts with the given numbers of tokens; `rows` of y, of which the last may be nobody's.
void check_experts(const Format& f, const std::vector<int>& counts, std::int64_t rows, std::int64_t cols,
                   int rows_of_y_beyond, std::mt19937& random, const cuda::PlanOptions& options = {}) {
  std::vector<QuantizedMatrix> experts;
  for (std::size_t e = 0; e < counts.size(); ++e) experts.push_back(random_matrix(f, rows, cols, random));
  Mixture m(std::move(experts), counts, 7, random);
  const std::int64_t routed = m.offsets.back();
  const RowMajor<half> x = random_activations<half>(7, cols, random);
  const RowMajor<float> bias = random_activations<float>(static_cast<std::int64_t>(counts.size()), rows, random);
  const bool with_bias = random() % 2 != 0;
  RowMajor<float> y = RowMajor<float>::Constant(routed + rows_of_y_beyond, rows, -77);
  test::Executor run;
  const Problem problem = experts_of(m.group.pointers);
  const auto all = test::simulate<half, float>(run, problem, m.product(run), MatrixView<const half>(x),
                                               MatrixView<float>(y), with_bias ? bias.data() : nullptr, options);
  ASSERT_EQ(all.failure, "");
  for (std::size_t e = 0; e < counts.size(); ++e) {
    if (counts[e] == 0) continue;
    RowMajor<half> own(counts[e], cols);
    for (int t = 0; t < counts[e]; ++t)
      own.row(t) = x.row(m.tokens[static_cast<std::size_t>(m.offsets[e]) + static_cast<std::size_t>(t)]);
    const MatrixView<float> part(y.data() + m.offsets[e] * rows, counts[e], rows);
    const float* own_bias = with_bias ? bias.row(static_cast<std::int64_t>(e)).data() : nullptr;
    expect_product<half, float>(m.group.q[e], MatrixView<const half>(own), part, own_bias, all);
    if (testing::Test::HasFatalFailure()) return;
  }
  EXPECT_EQ(y.bottomRows(rows_of_y_beyond), RowMajor<float>::Constant(rows_of_y_beyond, rows, -77));
}

TEST(Experts, EveryKindOfCodes) {
  std::mt19937 random(4);
  unsigned k = 0;
  for (const Codes& c : kCodes) {
    ++k;
    check_experts(format_of(c, k), {2, 0, 5, 1}, 1 + k * 7 % 40, 70 + k * 31 % 100, k % 3, random,
                  {.strips = 1 + static_cast<int>(k % 3), .slices = 1 + static_cast<int>(k % 2)});
    if (HasFatalFailure()) return;
  }
}

TEST(Experts, EveryNumberAndSplit) {
  std::mt19937 random(5);
  const Format f{.group_size = 32};
  for (int experts : {1, 2, 31, 32, 33, 64, 70}) {
    std::vector<int> counts(static_cast<std::size_t>(experts));
    for (int& n : counts) n = random() % 3 == 0 ? static_cast<int>(random() % 4) : 0;
    counts.back() += 2;
    check_experts(f, counts, 17, 66, 0, random);
    if (HasFatalFailure()) return;
  }
  check_experts(f, {0, 0, 40, 0}, 17, 66, 1, random);  // one has all, in several blocks
  check_experts(f, {9, 8, 7, 16, 17}, 17, 66, 0, random, {.pieces = 1, .tiles = 1});
}

TEST(Experts, OfManyTokensAsWell) {
  std::mt19937 random(8);
  for (const Codes& c : {Codes{Levels::uniform, 4}, Codes{Levels::table, 3}})
    check_experts(format_of(c, 2), {70, 0, 3, 130, 1}, 50, 130, 2, random, {.kernel = cuda::Kernel::wgmma});
}

TEST(Experts, OnlyOfOneShape) {
  std::mt19937 random(6);
  const QuantizedMatrix q = random_matrix({}, 20, 100, random);
  const auto message = [&](std::vector<QuantizedMatrix> matrices) {
    Group group(std::move(matrices));
    return test::message_of([&] { (void)experts_of(group.pointers); });
  };
  EXPECT_EQ(message({}), "sinq: experts = 0: allowed are 1 to 65535");
  EXPECT_EQ(message({q, random_matrix({}, 21, 100, random)}), "sinq: rows = 21: experts have the same rows");
  EXPECT_EQ(message({q, random_matrix({}, 20, 101, random)}), "sinq: cols = 101: experts have the same columns");
  EXPECT_EQ(message({q, random_matrix({.group_size = 32}, 20, 100, random)}),
            "sinq: experts = 1: this one has another format than the first");
  Group group({q});
  EXPECT_EQ(test::message_of([&] {
              (void)experts_of(std::vector<Resident*>{nullptr, group.pointers[0]});
            }),
            "sinq: experts[0] = null: must point to a matrix");
  EXPECT_EQ(test::message_of([&] {
              (void)experts_of(std::vector<Resident*>{group.pointers[0], nullptr});
            }),
            "sinq: experts[1] = null: must point to a matrix");
}

TEST(Experts, ATokenTooManyIsFound) {
  std::mt19937 random(7);
  Mixture m({random_matrix({}, 20, 100, random), random_matrix({}, 20, 100, random)}, {2, 3}, 7, random);
  const RowMajor<half> x = random_activations<half>(7, 100, random);
  RowMajor<float> y(5, 20);
  test::Executor run;
  const Product p = m.product(run);
  ++m.offsets[2];
  const auto broken = test::simulate<half, float>(run, experts_of(m.group.pointers), p, MatrixView<const half>(x),
                                                  MatrixView<float>(y));
  EXPECT_NE(broken.failure.find("outside tokens"), std::string::npos) << broken.failure;
}

}  // namespace
