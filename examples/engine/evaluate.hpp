// SPDX-License-Identifier: Apache-2.0
#pragma once

// How well a model predicts windows of tokens, and how far it departs from a reference model:
//
//   perplexity   exp(mean of -log p(token | the tokens before it in its window))
//   kl           mean of sum_v p_ref(v) (log p_ref(v) - log p(v)), in nats per predicted token
//   flips        how often the most likely next token is another one than the reference's
//
// One thread works on one window from its first to its last operation, and the windows are summed in order, so the
// number of threads changes no bit. Softmaxes are in double.

#include <atomic>
#include <functional>

#include "model.hpp"

namespace engine {

using Window = std::vector<std::int32_t>;

struct Evaluation {
  double nll = 0;
  double kl = 0;
  std::int64_t flips = 0;
  std::int64_t predicted = 0;

  [[nodiscard]] double perplexity() const { return std::exp(nll / static_cast<double>(predicted)); }
  [[nodiscard]] double mean_kl() const { return kl / static_cast<double>(predicted); }
  [[nodiscard]] double flip_rate_percent() const {
    return 100 * static_cast<double>(flips) / static_cast<double>(predicted);
  }
};

/// What a model is compared with. Its hidden states and logits may be kept, where several models are compared with the
/// same one.
struct Reference {
  const Model* model = nullptr;
  std::vector<Matrix> hidden{};  // one per window, or empty
  std::vector<Matrix> logits{};  // of every predicted token, one per window, or empty
};

namespace detail {

/// log of the softmax.
inline Eigen::RowVectorXd log_softmax(const Eigen::Ref<const Vector>& logits) {
  const Eigen::RowVectorXd d = (logits.array() - logits.maxCoeff()).cast<double>();
  return d.array() - std::log(d.array().exp().sum());
}

inline constexpr std::int64_t kChunk = 64;  // tokens whose logits exist at a time: vocabularies are large

/// `reference_logits` may be empty: then they are computed.
inline Evaluation score(const Model& model, const Matrix& hidden, const Model* reference,
                        const Matrix& reference_hidden, const Matrix& reference_logits, const Window& window) {
  sinq::SerialExecutor serial;
  Evaluation e;
  e.predicted = static_cast<std::int64_t>(window.size()) - 1;
  for (std::int64_t first = 0; first < e.predicted; first += kChunk) {
    const std::int64_t count = std::min(kChunk, e.predicted - first);
    const Matrix logits = model.logits(hidden.middleRows(first, count), serial);
    Matrix expected;
    if (reference_logits.size() != 0)
      expected = reference_logits.middleRows(first, count);
    else if (reference)
      expected = reference->logits(reference_hidden.middleRows(first, count), serial);
    for (std::int64_t t = 0; t < count; ++t) {
      const Eigen::RowVectorXd log_p = log_softmax(logits.row(t));
      e.nll -= log_p[window[static_cast<std::size_t>(first + t + 1)]];
      if (!reference) continue;
      const Eigen::RowVectorXd log_ref = log_softmax(expected.row(t));
      e.kl += (log_ref.array().exp() * (log_ref - log_p).array()).sum();
      Eigen::Index top = 0;
      Eigen::Index reference_top = 0;
      logits.row(t).maxCoeff(&top);
      expected.row(t).maxCoeff(&reference_top);
      e.flips += top != reference_top;
    }
  }
  return e;
}

inline Matrix run_window(const Model& model, const Window& window) {
  sinq::SerialExecutor serial;
  KvCache cache(model.config);
  return model.hidden(window, cache, serial);
}

}  // namespace detail

/// Hidden states of all windows.
[[nodiscard]] inline std::vector<Matrix> hidden_states(const Model& model, const std::vector<Window>& windows,
                                                       sinq::Executor& executor) {
  std::vector<Matrix> hidden(windows.size());
  executor.run(static_cast<std::int64_t>(windows.size()), [&](std::int64_t w, int) {
    const auto i = static_cast<std::size_t>(w);
    hidden[i] = detail::run_window(model, windows[i]);
  });
  return hidden;
}

/// Logits of every token that is followed by another one, in the pieces in which `evaluate` would compute them: the
/// same bits.
[[nodiscard]] inline std::vector<Matrix> predictions(const Model& model, const std::vector<Matrix>& hidden,
                                                     sinq::Executor& executor) {
  std::vector<Matrix> logits(hidden.size());
  executor.run(static_cast<std::int64_t>(hidden.size()), [&](std::int64_t w, int) {
    const Matrix& h = hidden[static_cast<std::size_t>(w)];
    Matrix& out = logits[static_cast<std::size_t>(w)];
    out.resize(std::max<std::int64_t>(h.rows() - 1, 0), model.config.vocab_size);
    sinq::SerialExecutor serial;
    for (std::int64_t first = 0; first < out.rows(); first += detail::kChunk) {
      const std::int64_t count = std::min(detail::kChunk, out.rows() - first);
      out.middleRows(first, count) = model.logits(h.middleRows(first, count), serial);
    }
  });
  return logits;
}

/// Window by window. `progress(done, total)` is called after every one, from any thread.
[[nodiscard]] inline std::vector<Evaluation> evaluate_windows(
    const Model& model, const std::vector<Window>& windows, sinq::Executor& executor, const Reference& reference = {},
    const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  for (const Window& window : windows) {
    model.check_tokens(window);
    if (reference.model) reference.model->check_tokens(window);
  }
  if (reference.model && reference.model->config.vocab_size != model.config.vocab_size)
    throw ModelError(text("the model has ", model.config.vocab_size, " tokens, the reference ",
                          reference.model->config.vocab_size, ": they cannot be compared"));
  const auto total = static_cast<std::int64_t>(windows.size());
  std::vector<Evaluation> parts(windows.size());
  std::atomic<std::int64_t> done{0};
  executor.run(total, [&](std::int64_t w, int) {
    const auto i = static_cast<std::size_t>(w);
    if (windows[i].size() < 2) return;  // nothing to predict
    Matrix reference_hidden;
    if (reference.model)
      reference_hidden =
          reference.hidden.empty() ? detail::run_window(*reference.model, windows[i]) : reference.hidden[i];
    parts[i] = detail::score(model, detail::run_window(model, windows[i]), reference.model, reference_hidden,
                             reference.logits.empty() ? Matrix() : reference.logits[i], windows[i]);
    if (progress) progress(++done, total);
  });
  if (std::all_of(parts.begin(), parts.end(), [](const Evaluation& part) { return part.predicted == 0; }))
    throw ModelError("there is no token to predict: every window has fewer than two");
  return parts;
}

[[nodiscard]] inline Evaluation sum(const std::vector<Evaluation>& parts) {
  Evaluation sum;
  for (const Evaluation& part : parts) {
    sum.nll += part.nll;
    sum.kl += part.kl;
    sum.flips += part.flips;
    sum.predicted += part.predicted;
  }
  return sum;
}

/// All windows together.
[[nodiscard]] inline Evaluation evaluate(const Model& model, const std::vector<Window>& windows,
                                         sinq::Executor& executor, const Reference& reference = {},
                                         const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  return sum(evaluate_windows(model, windows, executor, reference, progress));
}

}  // namespace engine
