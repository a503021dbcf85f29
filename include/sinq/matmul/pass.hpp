// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "method.hpp"
#ifndef SINQ_EXTERN_KERNELS
#include "kernels.hpp"
#endif

// One pass of a call over the weights of its products: up to token_block tokens of each, prepared, then multiplied by
// every strip. Nothing here is kept: a task finds its product by counting, so that a call allocates nothing.

namespace sinq::inline SINQ_ABI::detail::matmul {

/// Tokens from `first` on of every product.
struct Pass {
  std::int64_t first;
  Numerics numerics;
  int width;  // of the executor
};

/// Tokens of a product that a pass serves.
[[nodiscard]] inline std::int64_t tokens_of(const Product& p, const Pass& pass) noexcept {
  return std::clamp<std::int64_t>(p.y.rows - pass.first, 0, token_block(pass.numerics));
}

/// Strips that one task multiplies: many, since what a kernel asks the memory for behind the last one is lost, while
/// there are tasks enough for all workers; or, where every panel has column scales of its own (square), those of a
/// panel, for which the tokens are then prepared once.
[[nodiscard]] inline std::int64_t strips_per_task(const pack::StripOrder& o, int width) noexcept {
  return o.tiling.panels() == 1 ? std::clamp<std::int64_t>(o.strips / (16 * width), 1, 16) : o.strips_per_panel;
}
[[nodiscard]] inline std::int64_t tasks_of(const Product& p, const Pass& pass) noexcept {
  const pack::StripOrder& o = pack::StripAccess::order(*p.w);
  const std::int64_t strips = strips_per_task(o, pass.width);
  return tokens_of(p, pass) == 0 ? 0 : (o.strips + strips - 1) / strips;
}

/// Tokens that are prepared before the tasks begin.
[[nodiscard]] inline std::int64_t shared_tokens_of(const Product& p, const Pass& pass) noexcept {
  return pack::StripAccess::order(*p.w).tiling.panels() == 1 ? tokens_of(p, pass) : 0;
}

/// What prepared tokens take of the workspace, in floats: one copy, or one for every worker.
[[nodiscard]] inline std::int64_t prepared_floats(const Tiling& t, std::int64_t tokens, int width) noexcept {
  return Prepared(t, nullptr).token * std::min(tokens, most_tokens()) * (t.panels() == 1 ? 1 : width);
}

/// What a worker takes: scratch and the results of strips.
[[nodiscard]] inline std::int64_t floats_per_worker() noexcept {
  return kScratch + kMostStrips * kStripRows * most_tokens();
}

/// Which product, and which of its tasks or tokens.
struct Place {
  const Product* product = nullptr;
  std::int64_t index = 0;
  float* prepared = nullptr;
};

/// The `index`-th of all things of which count(product, pass) belong to each product.
template <class Count>
[[nodiscard]] Place find(std::span<const Product> products, const Pass& pass, std::int64_t index, Count&& count,
                         float* prepared) noexcept {
  for (const Product& p : products) {
    const std::int64_t own = count(p, pass);
    if (index < own) return {&p, index, prepared};
    index -= own;
    prepared += prepared_floats(pack::StripAccess::order(*p.w).tiling, p.y.rows, pass.width);
  }
  return {};
}

inline void prepare_token(const Product& p, const Method& method, const pack::StripReader& w, std::int64_t panel,
                          const Pass& pass, std::int64_t n, const Prepared& to) noexcept {
  const std::int64_t at = pass.first + n;
  const std::int64_t row = p.tokens ? (*p.tokens)[static_cast<std::size_t>(at)] : at;
  method.prepare(w, panel, p.x.at(row, 0), p.x.dtype, to, n);
}

/// To the results of a strip, tokens x kStripRows.
inline void add_bias(const ActivationView<const void>& bias, std::int64_t first, std::int64_t rows, std::int64_t tokens,
                     float* y) noexcept {
  if (bias.data == nullptr) return;
  float of_rows[kStripRows] = {};
  WeightView(bias.data, bias.dtype, 1, bias.cols).load(0, first, rows, of_rows);
  for (std::int64_t n = 0; n < tokens; ++n)
    for (std::int64_t r = 0; r < kStripRows; ++r) y[n * kStripRows + r] += of_rows[r];
}

inline void run_task(const Place& at, const Pass& pass, int worker, float* scratch) noexcept {
  const Product& p = *at.product;
  const pack::StripReader w(*p.w);
  const pack::StripOrder& o = w.order();
  const std::int64_t tokens = tokens_of(p, pass);
  const Method method = choose(w.format(), w.tiling(), tokens, pass.numerics);
  const std::int64_t begin = at.index * strips_per_task(o, pass.width);
  const std::int64_t end = std::min(begin + strips_per_task(o, pass.width), o.strips);
  Prepared x(o.tiling, at.prepared);
  if (o.tiling.panels() > 1) {
    x.base += worker * x.token * std::min(p.y.rows, most_tokens());
    for (std::int64_t n = 0; n < tokens; ++n) prepare_token(p, method, w, o.panel_of(begin), pass, n, x);
  }
  const ByteLevels levels(w);
  const std::int64_t result = kStripRows * most_tokens();
  for (std::int64_t first = begin; first < end; first += method.strips) {
    const std::int64_t strips = std::min(method.strips, end - first);
    float* const y = scratch + kScratch;
    method.kernel({&w, &levels, first, strips, &x, tokens, scratch, y});
    for (std::int64_t s = 0; s < strips; ++s) {
      const std::int64_t row = o.first_row(first + s);
      const std::int64_t rows = o.rows(first + s);
      add_bias(p.bias, row, rows, tokens, y + s * result);
      for (std::int64_t n = 0; n < tokens; ++n)
        method.deliver(y + s * result + n * kStripRows, rows, p.y.dtype, p.y.at(pass.first + n, row));
    }
  }
}

/// Prepares tokens that strips share, then multiplies them by every strip.
inline void run_pass(std::span<const Product> products, const Pass& pass, Executor& threads, float* workspace) {
  float* const prepared = workspace + pass.width * floats_per_worker();
  std::int64_t tokens = 0;
  std::int64_t tasks = 0;
  for (const Product& p : products) {
    tokens += shared_tokens_of(p, pass);
    tasks += tasks_of(p, pass);
  }
  const auto prepare = [&](std::int64_t index, int) {
    const Place at = find(products, pass, index, shared_tokens_of, prepared);
    const pack::StripReader w(*at.product->w);
    const Method method = choose(w.format(), w.tiling(), tokens_of(*at.product, pass), pass.numerics);
    prepare_token(*at.product, method, w, 0, pass, at.index, Prepared(w.tiling(), at.prepared));
  };
  // A token takes microseconds, waking threads takes longer than a few of them.
  SerialExecutor serial;
  (tokens <= 4 ? static_cast<Executor&>(serial) : threads).run(tokens, prepare);
  threads.run(tasks, [&](std::int64_t index, int worker) {
    run_task(find(products, pass, index, tasks_of, prepared), pass, worker, workspace + worker * floats_per_worker());
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
