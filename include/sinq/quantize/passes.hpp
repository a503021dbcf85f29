// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numeric>
#include <thread>

#include "awq.hpp"
#include "coder.hpp"
#include "encode.hpp"
#include "fit_matrix.hpp"
#include "hqq.hpp"
#include "quantize_matrix.hpp"

// What `quantize` does, pass by pass.

namespace sinq::inline SINQ_ABI {
namespace detail::quantize {

/// Counts finished tasks and asks the caller's callback, on the calling thread only, whether to go on: when that thread
/// has finished a task, and after each pass.
class Progress {
 public:
  Progress(const std::function<bool(double)>& callback, std::int64_t total) : callback_(callback), total_(total) {}

  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }
  void finished_one() { finished(1); }
  void finished(std::int64_t tasks) {
    const auto done = std::min(total_, done_.fetch_add(tasks, std::memory_order_relaxed) + tasks);  // some are repeated
    if (callback_ && std::this_thread::get_id() == caller_) report(done);
  }
  /// The last tasks may have been other threads'.
  void finished_pass() { catch_up(std::min(total_, done_.load(std::memory_order_relaxed))); }
  void finished_all() { catch_up(total_); }

 private:
  void catch_up(std::int64_t done) {
    if (callback_ && reported_ < done) report(done);
    if (cancelled()) core::raise<Cancelled>("sinq: quantize was cancelled by its progress callback");
  }
  void report(std::int64_t done) {
    if (cancelled()) return;
    reported_ = done;
    if (!callback_(static_cast<double>(done) / static_cast<double>(total_)))
      cancelled_.store(true, std::memory_order_relaxed);
  }

  const std::function<bool(double)>& callback_;
  std::int64_t total_;
  std::int64_t reported_ = 0;  // the calling thread's alone
  std::thread::id caller_ = std::this_thread::get_id();
  std::atomic<std::int64_t> done_{0};
  std::atomic<bool> cancelled_{false};
};

/// What the first pass leaves behind for the whole matrix.
struct Factors {
  std::vector<ScaleZero> chosen;         // groups x choices_of_group: what a tile writes is its own
  std::vector<float> col_scale;          // panels x cols, as they are stored; empty where there are none
  std::vector<float> col_inverse;        // panels x cols; where there are no column scales, a row of ones
  std::vector<float> row;                // rows x groups: the balancing's row factors; empty where none are needed
  std::vector<double> imbalance_before;  // per tile
  std::vector<double> imbalance_after;   //
  std::atomic<bool> beyond_aux{false};   // a scale does not fit the type asked for

  /// Rows, filled up to an odd number of lines of 64 bytes: the groups of a row do not meet in one set of the cache.
  [[nodiscard]] static std::int64_t choices_of_group(const Tiling& t) noexcept {
    constexpr std::int64_t kOfLine = 64 / sizeof(ScaleZero);
    return ((t.rows + kOfLine - 1) / kOfLine | 1) * kOfLine;
  }
  [[nodiscard]] ScaleZero* chosen_of(std::int64_t group, const Tiling& t) noexcept {
    return chosen.data() + group * choices_of_group(t);
  }
  [[nodiscard]] const ScaleZero* chosen_of(std::int64_t group, const Tiling& t) const noexcept {
    return chosen.data() + group * choices_of_group(t);
  }
  [[nodiscard]] float* col_inverse_of(std::int64_t panel, const Tiling& t) noexcept {
    return col_inverse.data() + (col_scale.empty() ? 0 : panel * t.cols);
  }
};

/// First pass, one tile: balance (unless that was done before, with other column scales), then (unless they are fitted
/// later) choose scale and zero of each of its rows.
inline void choose_factors(const WeightView& w, const QuantizeConfig& c, const Tiling& t, bool balance,
                           std::int64_t tile, std::vector<float>& buffer, Factors& out) {
  const std::int64_t g = tile % t.groups();
  const std::int64_t p = tile / t.groups();
  const std::int64_t first_row = t.panel_begin(p);
  const std::int64_t rows = t.panel_rows(p);
  const std::int64_t first_col = t.group_begin(g);
  const std::int64_t cols = t.group_cols(g);
  const std::int64_t stride = core::padded(cols);
  buffer.resize(static_cast<std::size_t>(rows * stride));
  if (stride != cols) std::fill(buffer.begin(), buffer.end(), 0.0f);
  float largest = 0;
  constexpr std::int64_t kRowsInCache = 64;
  for (std::int64_t i = 0; i < rows; i += kRowsInCache) {
    const std::int64_t count = std::min(kRowsInCache, rows - i);
    float* block = buffer.data() + i * stride;
    w.load(first_row + i, count, first_col, cols, block, stride);
    largest = std::max(largest, core::require_finite(block, count, cols, stride, first_row + i, first_col));
  }

  float* col_inverse = out.col_inverse_of(p, t) + first_col;
  if (balance) {
    const Balance b = detail::balance::sinkhorn_tile(buffer.data(), largest, rows, cols, c.sinkhorn);
    out.imbalance_before[static_cast<std::size_t>(tile)] = b.imbalance_before;
    out.imbalance_after[static_cast<std::size_t>(tile)] = b.imbalance_after;
    for (std::size_t j = 0; j < b.col.size(); ++j) {
      const float col_scale = pack::round_to(c.col_scale, b.col[j]);
      out.col_scale[static_cast<std::size_t>(p * t.cols + first_col) + j] = col_scale;
      col_inverse[j] = 1 / col_scale;
    }
    for (std::int64_t i = 0; i < (out.row.empty() ? 0 : rows); ++i)
      out.row[static_cast<std::size_t>((first_row + i) * t.groups() + g)] = b.row[static_cast<std::size_t>(i)];
  }
  if (c.refine == Refine::fit) return;

  // A scale is chosen in proportion to its group, so the row's factor need not be divided out before and multiplied in
  // afterwards; only HQQ's shrinkage knows sizes.
  std::vector<ScaleZero> chosen(static_cast<std::size_t>(rows));
  const bool hqq = c.refine == Refine::hqq;
  const auto row_factor = [&](std::int64_t i) {
    return out.row.empty() ? 1.0f : out.row[static_cast<std::size_t>((first_row + i) * t.groups() + g)];
  };
  const std::vector<float> ones(hqq ? static_cast<std::size_t>(cols) : 0, 1.0f);
  if (hqq)
    for (std::int64_t i = 0; i < rows; ++i)
      core::on_isa<Multiply>(buffer.data() + i * stride, col_inverse, 1 / row_factor(i), cols);
  std::vector<Range> ranges(chosen.size());
  core::on_isa<RangesOf>(buffer.data(), stride, cols, hqq ? ones.data() : col_inverse, std::span(ranges));
  for (std::size_t k = 0; k < chosen.size(); ++k)
    chosen[k] = hqq ? hqq_first_choice(ranges[k], c.bits, c.zero) : first_choice(c.rounding, ranges[k], c.bits, c.zero);
  if (hqq) {
    refine_hqq(buffer.data(), cols, chosen, c.bits, c.hqq);
    for (std::int64_t i = 0; i < rows; ++i) chosen[static_cast<std::size_t>(i)].scale *= row_factor(i);
  }

  ScaleZero* to = out.chosen_of(g, t) + first_row;
  for (std::int64_t i = 0; i < rows; ++i) {
    const ScaleZero of = to[i] = chosen[static_cast<std::size_t>(i)];
    if (!core::is_finite(of.scale) || !core::is_finite(of.zero))  // factors far beyond the defaults
      core::raise<InvalidArgument>(core::text("sinq: row ", first_row + i, " has a scale of ", of.scale,
                                              " in the group from column ", first_col, ": must be finite"));
    if (of.scale != 0 && !fits(c.scale, of.scale)) out.beyond_aux.store(true, std::memory_order_relaxed);
  }
}

/// Second pass, scales and zeros of one row: written, and what a reader will see, for the codes to be chosen against.
struct RowAuxiliaries {
  std::vector<float> chosen_scales, chosen_zeros, scales, zeros;

  void encode(const Factors& factors, const Tiling& t, const pack::RowReader& reader, const pack::Extents& e,
              std::int64_t i, QuantizedMatrix& q) {
    const auto groups = static_cast<std::size_t>(t.groups());
    for (auto* v : {&chosen_scales, &chosen_zeros, &scales, &zeros}) v->resize(groups);
    for (std::size_t g = 0; g < groups; ++g) {
      const ScaleZero& of = factors.chosen_of(static_cast<std::int64_t>(g), t)[i];
      chosen_scales[g] = of.scale;
      chosen_zeros[g] = of.zero;
    }
    encode_scales(q, e, i, chosen_scales);
    reader.scales(i, scales.data());
    follow_scales(q.format, chosen_scales, scales, chosen_zeros);
    encode_zeros(q, e, i, chosen_zeros);
    reader.zeros(i, zeros.data());
  }
};

/// Second pass without a fit.
inline void encode_rows(const WeightView& weights, const Tiling& t, Factors& factors, Executor& threads,
                        Progress& progress, QuantizedMatrix& q) {
  const pack::Extents e = pack::extents(q.format, t);
  const pack::RowReader reader(q);
  const Coder coder(q.format);
  struct Scratch {
    RowAuxiliaries aux;
    std::vector<float> x;
    std::vector<std::uint8_t> codes;
  };
  std::vector<Scratch> scratch(static_cast<std::size_t>(core::width_of(threads)));
  core::run_throwing(threads, t.rows, [&](std::int64_t i, int worker) {
    if (progress.cancelled()) return;
    Scratch& s = scratch[static_cast<std::size_t>(worker)];
    s.x.resize(static_cast<std::size_t>(core::padded(t.cols)));
    s.codes.resize(s.x.size());
    s.aux.encode(factors, t, reader, e, i, q);
    weights.load(i, 0, t.cols, s.x.data());
    core::on_isa<Multiply>(s.x.data(), factors.col_inverse_of(t.panel_of(i), t), 1.0f, t.cols);
    coder.encode(s.x.data(), t.cols, s.aux.scales.data(), s.aux.zeros.data(), s.codes.data());
    pack::write_codes(q.format.bits, q.codes.data() + i * e.code_row, 0, t.cols, s.codes.data());
    progress.finished_one();
  });
}

/// Second pass without a fit, but with feedback: strips of 16 rows of one panel.
inline void encode_rows_with_feedback(const WeightView& weights, const Tiling& t, Factors& factors,
                                      const FeedbackPlan& plan, Executor& threads, Progress& progress,
                                      QuantizedMatrix& q) {
  const pack::Extents e = pack::extents(q.format, t);
  const pack::RowReader reader(q);
  const Coder coder(q.format);
  const std::int64_t strips_per_panel = (t.tile_height + kStrip - 1) / kStrip;
  struct Scratch {
    RowAuxiliaries aux;
    std::vector<float> x, scale, zero;
    std::vector<std::uint8_t> codes;
    FeedbackScratch feedback;
  };
  std::vector<Scratch> scratch(static_cast<std::size_t>(core::width_of(threads)));
  core::run_throwing(threads, t.panels() * strips_per_panel, [&](std::int64_t strip, int worker) {
    const std::int64_t panel = strip / strips_per_panel;
    const std::int64_t first = strip % strips_per_panel * kStrip;
    const std::int64_t rows = std::min(kStrip, t.panel_rows(panel) - first);
    if (progress.cancelled() || rows <= 0) return;
    Scratch& s = scratch[static_cast<std::size_t>(worker)];
    const auto groups = static_cast<std::size_t>(t.groups());
    const std::int64_t stride = core::padded(t.cols);
    s.x.assign(static_cast<std::size_t>(kStrip * stride), 0.0f);
    s.scale.assign(groups * kStrip, 1.0f);
    s.zero.assign(groups * kStrip, 0.0f);
    s.codes.resize(static_cast<std::size_t>(stride));
    const float* col_inverse = factors.col_inverse_of(panel, t);
    const float* col_scale = factors.col_scale.empty() ? col_inverse : factors.col_scale.data() + panel * t.cols;
    const std::int64_t first_row = t.panel_begin(panel) + first;
    weights.load(first_row, rows, 0, t.cols, s.x.data(), stride);
    for (std::int64_t r = 0; r < rows; ++r) {
      s.aux.encode(factors, t, reader, e, first_row + r, q);
      for (std::size_t g = 0; g < groups; ++g) {
        s.scale[g * kStrip + static_cast<std::size_t>(r)] = s.aux.scales[g];
        s.zero[g * kStrip + static_cast<std::size_t>(r)] = s.aux.zeros[g];
      }
      core::on_isa<Multiply>(s.x.data() + r * stride, col_inverse, 1.0f, t.cols);
    }
    choose_with_feedback(plan, coder, t, s.x.data(), s.scale.data(), s.zero.data(), col_scale, col_inverse, s.feedback);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < t.cols; ++j)
        s.codes[static_cast<std::size_t>(j)] = s.feedback.codes[static_cast<std::size_t>(j * kStrip + r)];
      pack::write_codes(q.format.bits, q.codes.data() + (first_row + r) * e.code_row, 0, t.cols, s.codes.data());
    }
    progress.finished(rows);
  });
}

/// Second pass with a fit. False if scales do not fit the float type that the format asks for, or if cancelled.
[[nodiscard]] inline bool fit_rows(const WeightView& weights, const FitOptions& options, const Factors& factors,
                                   const Importance& importance, const FeedbackPlan* feedback, Executor& threads,
                                   Progress& progress, QuantizedMatrix& q) {
  FitPass pass(weights, options, factors.col_scale, factors.col_inverse, importance, feedback, q);
  std::vector<FitScratch> scratch(static_cast<std::size_t>(core::width_of(threads)));
  std::atomic<bool> all_fit{true};
  core::run_throwing(threads, pass.chunks(), [&](std::int64_t chunk, int worker) {
    if (progress.cancelled() || !all_fit.load(std::memory_order_relaxed)) return;
    if (!pass.run_chunk(chunk, scratch[static_cast<std::size_t>(worker)]))
      all_fit.store(false, std::memory_order_relaxed);
    else
      progress.finished(pass.rows_of(chunk));
  });
  if (!all_fit || progress.cancelled()) return false;
  pass.unbias_columns();
  return true;
}

}  // namespace detail::quantize

[[nodiscard]] SINQ_KERNEL QuantizedMatrix quantize(const WeightView& weights, const QuantizeConfig& config,
                                                   const QuantizeOptions& options) {
  using namespace detail;
  quantize::validate(config);
  const Tiling t = tiling(weights.rows, weights.cols, config.group_size, config.tile);
  core::require_view(weights, "weights");
  quantize::validate(config, options.activations, weights.cols);
  const bool balanced =
      config.balance == Balancing::sinkhorn && !(config.kurtosis_gate > 0 && kurtosis(weights) > config.kurtosis_gate);
  const bool awq = config.calibration == Calibration::awq;
  SerialExecutor serial;
  Executor& threads = options.executor ? *options.executor : serial;
  const std::int64_t tiles = t.panels() * t.groups();
  quantize::Progress progress(options.progress, tiles + t.rows * (awq ? quantize::kAwqExponents : 1));

  quantize::Factors factors;
  const bool second_axis = balanced || awq;
  if (config.refine != Refine::fit)
    factors.chosen.resize(static_cast<std::size_t>(t.groups() * quantize::Factors::choices_of_group(t)));
  factors.col_scale.resize(second_axis ? static_cast<std::size_t>(t.panels() * t.cols) : 0, 1.0f);
  factors.col_inverse.resize(static_cast<std::size_t>(second_axis ? t.panels() * t.cols : t.cols), 1.0f);
  if (balanced && config.refine == Refine::hqq) factors.row.resize(static_cast<std::size_t>(t.rows * t.groups()));
  factors.imbalance_before.resize(static_cast<std::size_t>(tiles), 1.0);
  factors.imbalance_after.resize(static_cast<std::size_t>(tiles), 1.0);
  std::vector<std::vector<float>> buffers(static_cast<std::size_t>(core::width_of(threads)));
  const auto choose_all = [&](bool balance, bool counted) {
    core::run_throwing(threads, tiles, [&](std::int64_t tile, int worker) {
      if (progress.cancelled()) return;
      quantize::choose_factors(weights, config, t, balance, tile, buffers[static_cast<std::size_t>(worker)], factors);
      if (counted) progress.finished_one();
    });
    progress.finished_pass();
  };
  choose_all(balanced, true);

  const quantize::FeedbackPlan plan = config.calibration == Calibration::gptq
                                          ? quantize::FeedbackPlan(*options.activations, config.gptq, threads)
                                          : quantize::FeedbackPlan();
  const quantize::FeedbackPlan* feedback = config.calibration == Calibration::gptq ? &plan : nullptr;
  const quantize::Importance importance =
      config.refine == Refine::fit && (feedback || config.calibration == Calibration::weighted)
          ? quantize::importance_of(options.activations->mean_square(), factors.col_scale, t)
          : quantize::Importance();

  bool widened = false;
  const auto make = [&] {  // from the factors
    Format format = quantize::format_of(config, second_axis);
    widened = factors.beyond_aux;
    QuantizedMatrix q;
    const auto start = [&] {
      if (widened) format.scale = Aux::f32;
      q = make_quantized_matrix(format, t.rows, t.cols);
      q.table = quantize::table_of(config);
      for (std::size_t k = 0; k < factors.col_scale.size(); ++k)
        pack::write_float(format.col_scale, q.col_scale.data(), static_cast<std::int64_t>(k), factors.col_scale[k]);
    };
    start();
    if (config.refine == Refine::fit) {
      if (!quantize::fit_rows(weights, config.fit, factors, importance, feedback, threads, progress, q)) {
        progress.finished_pass();
        widened = true;
        start();
        if (!quantize::fit_rows(weights, config.fit, factors, importance, feedback, threads, progress, q) &&
            !progress.cancelled())
          core::raise<InvalidArgument>("sinq: a fitted scale is beyond f32: weights this large need balance = none");
      }
    } else if (feedback) {
      quantize::encode_rows_with_feedback(weights, t, factors, plan, threads, progress, q);
    } else {
      quantize::encode_rows(weights, t, factors, threads, progress, q);
    }
    progress.finished_pass();
    return q;
  };

  QuantizedMatrix q;
  if (awq) {
    bool best_widened = false;
    double least = INFINITY;
    const quantize::AwqSearch search(weights, *options.activations, balanced);
    const std::vector<float> col_scale = factors.col_scale;
    for (int k = 0; k < quantize::kAwqExponents; ++k) {
      if (!search.column_scales(k, config.col_scale, col_scale, factors.col_scale)) continue;
      for (std::size_t j = 0; j < col_scale.size(); ++j) factors.col_inverse[j] = 1 / factors.col_scale[j];
      factors.beyond_aux = false;
      if (config.refine != Refine::fit) choose_all(false, false);
      QuantizedMatrix candidate = make();
      const double error = search.output_error(candidate, threads);
      if (!(error < least)) continue;
      least = error;
      q = std::move(candidate);
      best_widened = widened;
    }
    core::require(least < INFINITY, "calibration", "awq",
                  "with no exponent the column scales fit their type and the error of the outputs is finite");
    widened = best_widened;
  } else {
    q = make();
  }
  buffers.clear();
  progress.finished_all();

  if (options.report) {
    const auto mean = [&](const std::vector<double>& v) {
      return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
    };
    *options.report = {mean(factors.imbalance_before), mean(factors.imbalance_after), balanced, widened,
                       quantize::has_least_coarse(q)};
  }
  return q;
}

}  // namespace sinq::inline SINQ_ABI
