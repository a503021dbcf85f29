// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

#include "coder.hpp"
#include "config.hpp"
#include "rounding.hpp"

// Codes that make up for each other's errors (GPTQ, arXiv 2210.17323), scales and zeros being fixed before.
//
//   H = E[x x^T] + damping = (U + I) D (U + I)^T      U strictly upper triangular, columns in the order of the steps
//
//   first pass, column after column:   wanted[t] = w[t] + sum over u < t of   e[u] U[u][t]          e = w - restored
//   later passes, the same again:      wanted[t] = w[t] + sum over u != t of  e[u] H[u][t] / H[t][t]
//
// With the first the error of a row's output, e H e^T, is the sum over t of D[t] (wanted[t] - restored[t])^2: the form
// of LDLQ (arXiv 2307.13304), the same codes as GPTQ's, which needs the inverse of H for it. Each later pass moves
// every code to where it is best beside all the others as they are, so that the error only falls.
//
// A weight is x col_scale with x what is rounded: the errors are kept in weights, and sums divided by the column's
// scale. So H is factorised once for all panels, and no balancing changes it. Columns of large activations come first,
// since the last ones have nobody left to make up for them.
//
// Cost: cols^3 / 3 for the factors, and per row cols^2 / 2, and cols^2 for every later pass. Nothing here is Eigen's,
// for the reason given in squares.hpp: every sum has one order, and the result the same bits everywhere.

namespace sinq::inline SINQ_ABI::detail::quantize {

struct AddRow {
  /// to[j] += factor from[j] for j in [first, end), and from the multiple of 16 below `first` on.
  template <int kWidth>
  [[gnu::always_inline]] static void run(double* to, const double* from, double factor, std::int64_t first,
                                         std::int64_t end) noexcept {
    using Doubles = core::DoubleLanes<kWidth>;
    for (std::int64_t j = first / core::kLanes * core::kLanes; j < end; j += kWidth) {
      Doubles sum;
      Doubles row;
      sum.load(to + j);
      row.load(from + j);
      sum.add_rounded_product(factor, row);
      sum.store(to + j);
    }
  }
};

/// The upper Cholesky factor in place: H = R^T R, of which the upper triangle is read and written; n x padded(n). False
/// if a pivot is not above 0.
[[nodiscard]] inline bool factorise(double* h, std::int64_t n, Executor& threads) {
  const std::int64_t stride = core::padded(n);
  for (std::int64_t first = 0; first < n; first += kSquareRows) {
    const std::int64_t end = std::min(first + kSquareRows, n);
    for (std::int64_t k = first; k < end; ++k) {
      double* row = h + k * stride;
      for (const double* before = h + first * stride; before < row; before += stride)
        core::on_isa<AddRow>(row, before, -before[k], k, stride);
      if (!(row[k] > 0)) return false;
      const double root = std::sqrt(row[k]);
      for (std::int64_t j = k; j < n; ++j) row[j] /= root;
    }
    add_squares(h, n, end, h + first * stride, stride, end - first, -1.0, threads);
  }
  return true;
}

struct FeedbackPlan {
  std::vector<std::int64_t> column;  // of each step
  std::vector<float> before;         // steps x padded(steps): U[u][t] in row t, 0 from u = t on
  std::vector<float> others;         // steps x padded(steps): H[u][t] / H[t][t] in row t, 0 for u = t
  int later_passes = 0;

  FeedbackPlan() = default;
  FeedbackPlan(const Activations& a, const GptqOptions& options, Executor& threads) : later_passes(options.passes) {
    const std::int64_t n = a.cols();
    const std::int64_t stride = core::padded(n);
    const std::vector<double> squares = a.mean_square();
    const double mean = std::accumulate(squares.begin(), squares.end(), 0.0) / static_cast<double>(n);
    column.resize(squares.size());
    std::iota(column.begin(), column.end(), 0);
    std::stable_sort(column.begin(), column.end(), [&](std::int64_t i, std::int64_t j) {
      return squares[static_cast<std::size_t>(i)] > squares[static_cast<std::size_t>(j)];
    });
    before.resize(static_cast<std::size_t>(n * stride));
    others.resize(later_passes > 0 ? before.size() : 0);
    if (mean == 0) return;  // nothing was ever seen: no column tells about another

    // The factorisation begins with what is the last step.
    std::vector<double> h(before.size());
    const auto column_at = [&](std::int64_t k) { return column[static_cast<std::size_t>(n - 1 - k)]; };
    const double share = 1 / options.damping;  // divided by: a product could be fused with the sum
    for (std::int64_t i = 0; i < n; ++i) {
      double* row = h.data() + i * stride;
      for (std::int64_t j = i; j < n; ++j) row[j] = a.second_moment(column_at(i), column_at(j));
      row[i] += mean / share;
    }
    if (later_passes > 0)
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = i + 1; j < n; ++j) {
          const double moment = h[static_cast<std::size_t>(i * stride + j)];
          for (const auto& [t, u] : {std::pair{i, j}, {j, i}})
            others[static_cast<std::size_t>((n - 1 - t) * stride + n - 1 - u)] =
                static_cast<float>(moment / h[static_cast<std::size_t>(t * stride + t)]);
        }
    if (!factorise(h.data(), n, threads))
      core::raise<InvalidArgument>(core::text("sinq: gptq.damping = ", options.damping,
                                              ": too small for these activations, whose second moments have no "
                                              "factors"));
    for (std::int64_t i = 0; i < n; ++i) {
      const double* row = h.data() + i * stride;
      for (std::int64_t j = i + 1; j < n; ++j)
        before[static_cast<std::size_t>((n - 1 - i) * stride + n - 1 - j)] = static_cast<float>(row[j] / row[i]);
    }
  }
};

/// Up to kStrip rows of one panel: a lane per row.
struct FeedbackStrip {
  const FeedbackPlan* plan;
  const Coder* coder;
  std::int64_t group_size;
  const float* x;            // steps x lanes, balanced
  float* error;              // steps x lanes, of the weights
  const float* scale;        // groups x lanes
  const float* zero;         //
  const float* col_scale;    // cols
  const float* col_inverse;  // cols
  std::uint8_t* codes;       // cols x lanes
  float* restored;           // cols x lanes, balanced
};

struct ChooseWithFeedback {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const FeedbackStrip& s) noexcept {
    for (std::int64_t lane = 0; lane < kStrip; lane += kWidth) {
      pass<kWidth, false>(s, lane, s.plan->before.data());
      for (int k = 0; k < s.plan->later_passes; ++k) pass<kWidth, true>(s, lane, s.plan->others.data());
    }
  }

 private:
  /// sum[b] += row[b][u] error[u] for u in [from, to). (A lambda, which an unoptimised build does not inline, would not
  /// be code for the instruction set.)
  template <class Float, std::size_t kBlock>
  [[gnu::always_inline]] static void add_errors(const float* error, const float* const (&row)[kBlock],
                                                std::int64_t from, std::int64_t to,
                                                std::array<Float, kBlock>& sum) noexcept {
    for (std::int64_t u = from; u < to; ++u) {
      const Float e = Float::load(error + u * kStrip);
      for (std::size_t b = 0; b < kBlock; ++b) sum[b] = mul_add(row[b][u], e, sum[b]);
    }
  }

  /// kAll: the sums go over all steps, or else over those before.
  template <int kWidth, bool kAll>
  [[gnu::always_inline]] static void pass(const FeedbackStrip& s, std::int64_t lane, const float* table) noexcept {
    using Float = core::Lanes<kWidth>;
    constexpr std::int64_t kBlock = 8;  // steps whose sums stay in registers while the errors are read once
    const auto steps = std::ssize(s.plan->column);
    const std::int64_t stride = core::padded(steps);
    const float* error = s.error + lane;
    for (std::int64_t first = 0; first < steps; first += kBlock) {
      const std::int64_t count = std::min(kBlock, steps - first);
      const float* row[kBlock];
      for (std::int64_t b = 0; b < kBlock; ++b) row[b] = table + (first + std::min(b, count - 1)) * stride;
      std::array<Float, kBlock> sum;
      add_errors(error, row, 0, first, sum);
      if constexpr (kAll) add_errors(error, row, first + count, steps, sum);
      for (std::int64_t b = 0; b < count; ++b) {
        Float all = sum[static_cast<std::size_t>(b)];
        for (std::int64_t u = first; u < first + (kAll ? count : b); ++u)
          all = mul_add(row[b][u], Float::load(error + u * kStrip), all);
        choose(s, first + b, lane, all);
      }
    }
  }

  template <class Float>
  [[gnu::always_inline]] static void choose(const FeedbackStrip& s, std::int64_t step, std::int64_t lane,
                                            const Float& taken_over) noexcept {
    const std::int64_t j = s.plan->column[static_cast<std::size_t>(step)];
    const std::int64_t group = j / s.group_size * kStrip + lane;
    const Float scale = Float::load(s.scale + group);
    const Float zero = Float::load(s.zero + group);
    const Float x = Float::load(s.x + step * kStrip + lane);
    const Float wanted = mul_add(taken_over, s.col_inverse[j], x);
    Float code;
    Float level;
    s.coder->nearest(wanted / scale + zero, code, level);
    const Float restored = (level - zero) * scale;
    code.store(s.codes + j * kStrip + lane);
    restored.store(s.restored + j * kStrip + lane);
    ((x - restored) * s.col_scale[j]).store(s.error + step * kStrip + lane);
  }
};

/// What one thread works in.
struct FeedbackScratch {
  std::vector<float> x, error, restored;
  std::vector<std::uint8_t> codes;

  void resize(std::int64_t cols) {
    for (auto* v : {&x, &error, &restored}) v->resize(static_cast<std::size_t>(cols * kStrip));
    codes.resize(x.size());
  }
};

/// Codes of up to 16 rows of one panel, `x` 16 x padded(cols), scales and zeros groups x 16 lanes. Lane r of s.codes
/// and s.restored (both cols x 16) is row r.
inline void choose_with_feedback(const FeedbackPlan& plan, const Coder& coder, const Tiling& t, const float* x,
                                 const float* scale, const float* zero, const float* col_scale,
                                 const float* col_inverse, FeedbackScratch& s) {
  s.resize(t.cols);
  const std::int64_t stride = core::padded(t.cols);
  for (std::size_t step = 0; step < plan.column.size(); ++step)
    for (std::int64_t r = 0; r < kStrip; ++r)
      s.x[step * kStrip + static_cast<std::size_t>(r)] = x[r * stride + plan.column[step]];
  core::on_isa<ChooseWithFeedback>(FeedbackStrip{&plan, &coder, t.group_size, s.x.data(), s.error.data(), scale, zero,
                                                 col_scale, col_inverse, s.codes.data(), s.restored.data()});
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
