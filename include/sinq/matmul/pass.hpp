// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels.hpp"

// One pass of a call over the weights of its products: up to kTokenBlock tokens of each, prepared, then multiplied by
// every strip. Nothing here is kept: a task finds its product by counting, so that a call allocates nothing.

namespace sinq::inline SINQ_ABI::detail::matmul {

/// Tokens of a product that a pass beginning with token `first` serves.
[[nodiscard]] inline std::int64_t tokens_of(const Product& p, std::int64_t first) noexcept {
  return std::clamp<std::int64_t>(p.y.rows - first, 0, kTokenBlock);
}

/// Strips that one task multiplies: a few, while there are tasks enough for all workers; or, where every panel has
/// column scales of its own (square), those of a panel, for which the tokens are then prepared once.
[[nodiscard]] inline std::int64_t strips_per_task(const pack::StripOrder& o, int width) noexcept {
  return o.tiling.panels() == 1 ? std::clamp<std::int64_t>(o.strips / (16 * width), 1, 4) : o.strips_per_panel;
}
[[nodiscard]] inline std::int64_t tasks_of(const Product& p, std::int64_t first, int width) noexcept {
  const pack::StripOrder& o = pack::StripAccess::order(*p.w);
  return tokens_of(p, first) == 0 ? 0 : (o.strips + strips_per_task(o, width) - 1) / strips_per_task(o, width);
}

/// Tokens that are prepared before the tasks begin.
[[nodiscard]] inline std::int64_t shared_tokens_of(const Product& p, std::int64_t first, int) noexcept {
  return pack::StripAccess::order(*p.w).tiling.panels() == 1 ? tokens_of(p, first) : 0;
}

/// What prepared tokens take of the workspace, in floats: one copy, or one for every worker.
[[nodiscard]] inline std::int64_t prepared_floats(const Tiling& t, std::int64_t tokens, int width) noexcept {
  return Prepared(t, nullptr).token * std::min(tokens, kTokenBlock) * (t.panels() == 1 ? 1 : width);
}

/// What a worker takes: scratch and the results of a strip.
inline constexpr std::int64_t kPerWorker = kScratch + kStripRows * kTokenBlock;

/// Which product, and which of its tasks or tokens.
struct Place {
  const Product* product = nullptr;
  std::int64_t index = 0;
  float* prepared = nullptr;
};

/// The `index`-th of all things of which count(product, first, width) belong to each product.
template <class Count>
[[nodiscard]] Place find(std::span<const Product> products, std::int64_t first, std::int64_t index, Count&& count,
                         int width, float* prepared) noexcept {
  for (const Product& p : products) {
    const std::int64_t own = count(p, first, width);
    if (index < own) return {&p, index, prepared};
    index -= own;
    prepared += prepared_floats(pack::StripAccess::order(*p.w).tiling, p.y.rows, width);
  }
  return {};
}

inline void prepare_token(const Product& p, const Method& method, const pack::StripReader& w, std::int64_t panel,
                          std::int64_t first, std::int64_t n, const Prepared& to) noexcept {
  const std::int64_t row = p.tokens ? (*p.tokens)[static_cast<std::size_t>(first + n)] : first + n;
  method.prepare(w, panel, p.x.at(row, 0), p.x.dtype, to, n);
}

inline void run_task(const Place& at, std::int64_t first, Numerics numerics, int width, int worker,
                     float* scratch) noexcept {
  const Product& p = *at.product;
  const pack::StripReader w(*p.w);
  const pack::StripOrder& o = w.order();
  const std::int64_t tokens = tokens_of(p, first);
  const Method method = choose(w.format(), w.tiling(), tokens, numerics);
  const std::int64_t begin = at.index * strips_per_task(o, width);
  const std::int64_t end = std::min(begin + strips_per_task(o, width), o.strips);
  Prepared x(o.tiling, at.prepared);
  if (o.tiling.panels() > 1) {
    x.base += worker * x.token * std::min(p.y.rows, kTokenBlock);
    for (std::int64_t n = 0; n < tokens; ++n) prepare_token(p, method, w, o.panel_of(begin), first, n, x);
  }
  const ByteLevels levels(w);
  float* const result = scratch + kScratch;
  for (std::int64_t strip = begin; strip < end; ++strip) {
    method.kernel({&w, &levels, strip, &x, tokens, scratch, result});
    for (std::int64_t n = 0; n < tokens; ++n)
      method.deliver(result + n * kStripRows, o.rows(strip), p.y.dtype, p.y.at(first + n, o.first_row(strip)));
  }
}

/// Tokens [first, first + kTokenBlock) of every product.
inline void run_pass(std::span<const Product> products, std::int64_t first, Numerics numerics, Executor& threads,
                     float* workspace) {
  const int width = threads.width();
  float* const prepared = workspace + width * kPerWorker;
  std::int64_t tokens = 0;
  std::int64_t tasks = 0;
  for (const Product& p : products) {
    tokens += shared_tokens_of(p, first, width);
    tasks += tasks_of(p, first, width);
  }
  const auto prepare = [&](std::int64_t index, int) {
    const Place at = find(products, first, index, shared_tokens_of, width, prepared);
    const pack::StripReader w(*at.product->w);
    const Method method = choose(w.format(), w.tiling(), tokens_of(*at.product, first), numerics);
    prepare_token(*at.product, method, w, 0, first, at.index, Prepared(w.tiling(), at.prepared));
  };
  // A token takes microseconds, waking threads takes longer than a few of them.
  SerialExecutor serial;
  (tokens <= 4 ? static_cast<Executor&>(serial) : threads).run(tokens, prepare);
  threads.run(tasks, [&](std::int64_t index, int worker) {
    run_task(find(products, first, index, tasks_of, width, prepared), first, numerics, width, worker,
             workspace + worker * kPerWorker);
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
