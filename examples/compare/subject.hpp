// SPDX-License-Identifier: Apache-2.0
#pragma once

// What is quantized in many ways and compared with its original: a decoder, judged by its predictions, or an encoder,
// judged by its embeddings.

#include <atomic>
#include <optional>

#include "../calibration_text.hpp"
#include "../engine/collect_encoder.hpp"
#include "../engine/load.hpp"
#include "estimate.hpp"

namespace compare {

struct Scores {
  std::optional<Estimate> perplexity;  // of a decoder; the interval is that of its ratio to the original's
  std::optional<Estimate> kl;          // nats per predicted token
  std::optional<Estimate> flip_rate_percent;
  std::optional<Estimate> cosine_distance;  // of an encoder: 1 - cosine to the original's embedding

  /// What methods are ranked by.
  [[nodiscard]] const Estimate& loss() const { return kl ? *kl : *cosine_distance; }
};

/// The share done, from any thread.
using Progress = std::function<void(double)>;

class Subject {
 public:
  Subject() = default;
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;
  virtual ~Subject() = default;

  [[nodiscard]] virtual const char* loss_name() const = 0;
  [[nodiscard]] virtual std::int64_t parameters() const = 0;
  /// What the scores are made of: "13860 predicted tokens".
  [[nodiscard]] virtual std::string sample() const = 0;
  /// What the linear layers are multiplied with, second moments included. Text of the model's own where `text` is
  /// empty; none of an encoder, which writes none.
  [[nodiscard]] virtual engine::ActivationMap activations(std::vector<engine::Window> text,
                                                          sinq::Executor& executor) const = 0;
  /// The model with `weights` in place of its own, against itself.
  [[nodiscard]] virtual Scores score(const engine::Replacements& weights, sinq::Executor& executor,
                                     const Progress& progress) const = 0;
};

class Decoder final : public Subject {
 public:
  Decoder(std::shared_ptr<const sinq::store::Checkpoint> checkpoint, const sinq::store::Config& config,
          std::vector<engine::Window> windows, sinq::Executor& executor)
      : checkpoint_(std::move(checkpoint)), config_(engine::parse_config(config)), windows_(std::move(windows)) {
    // A window without a prediction says nothing, and counts for nothing.
    std::erase_if(windows_, [](const engine::Window& w) { return w.size() < 2; });
    original_ = build_model(config_, engine::CheckpointSource(*checkpoint_));
    for (const engine::Window& w : windows_) original_.check_tokens(w);
    reference_ = {&original_, engine::hidden_states(original_, windows_, executor)};
    double tokens = 0;
    for (const engine::Window& w : windows_) tokens += static_cast<double>(w.size());
    if (4 * tokens * config_.vocab_size <= kLogitsBytes)
      reference_.logits = engine::predictions(original_, reference_.hidden, executor);
    original_scores_ = engine::evaluate_windows(original_, windows_, executor);
  }

  [[nodiscard]] const char* loss_name() const override { return "KL divergence, nats per token"; }
  [[nodiscard]] std::int64_t parameters() const override { return original_.parameters(); }
  [[nodiscard]] std::string sample() const override {
    return std::to_string(engine::sum(original_scores_).predicted) + " predicted tokens";
  }

  [[nodiscard]] engine::ActivationMap activations(std::vector<engine::Window> text,
                                                  sinq::Executor& executor) const override {
    if (text.empty()) text = calibration_text::write(original_, calibration_text::kWindows, executor);
    return engine::collect(original_, text, {.second_moments = true}, executor);
  }

  [[nodiscard]] Scores score(const engine::Replacements& weights, sinq::Executor& executor,
                             const Progress& progress) const override {
    const engine::Model model = build_model(config_, engine::CheckpointSource(*checkpoint_, &weights));
    const auto parts =
        engine::evaluate_windows(model, windows_, executor, reference_, [&](std::int64_t done, std::int64_t total) {
          progress(static_cast<double>(done) / static_cast<double>(total));
        });
    std::vector<double> tokens, more_nll, kl, flips;
    for (std::size_t w = 0; w < parts.size(); ++w) {
      tokens.push_back(static_cast<double>(parts[w].predicted));
      more_nll.push_back(parts[w].nll - original_scores_[w].nll);
      kl.push_back(parts[w].kl);
      flips.push_back(100 * static_cast<double>(parts[w].flips));
    }
    const Estimate more = ratio(more_nll, tokens);
    const double perplexity = engine::sum(parts).perplexity();
    return {.perplexity = Estimate{perplexity, perplexity * std::exp(more.low - more.value),
                                   perplexity * std::exp(more.high - more.value)},
            .kl = ratio(kl, tokens),
            .flip_rate_percent = ratio(flips, tokens),
            .cosine_distance = {}};
  }

 private:
  /// The original's logits are kept where they fit: a third of the time of a comparison.
  static constexpr double kLogitsBytes = 2e9;

  std::shared_ptr<const sinq::store::Checkpoint> checkpoint_;
  engine::ModelConfig config_;
  std::vector<engine::Window> windows_;
  engine::Model original_;
  engine::Reference reference_;
  std::vector<engine::Evaluation> original_scores_;
};

class Encoder final : public Subject {
 public:
  Encoder(std::shared_ptr<const sinq::store::Checkpoint> checkpoint, const sinq::store::Config& config,
          std::vector<engine::Window> windows, sinq::Executor& executor)
      : checkpoint_(std::move(checkpoint)),
        config_(engine::parse_encoder_config(config)),
        windows_(std::move(windows)),
        original_(build_encoder(config_, engine::CheckpointSource(*checkpoint_))) {
    for (const engine::Window& w : windows_) original_.check_tokens(w);
    for (const sinq::store::Tensor* t : checkpoint_->tensors()) parameters_ += t->elements();
    reference_ = embeddings(original_, executor, [](double) {});
  }

  [[nodiscard]] const char* loss_name() const override { return "1 - cosine to the original's embedding"; }
  [[nodiscard]] std::int64_t parameters() const override { return parameters_; }
  [[nodiscard]] std::string sample() const override { return std::to_string(windows_.size()) + " embeddings"; }

  [[nodiscard]] engine::ActivationMap activations(std::vector<engine::Window> text,
                                                  sinq::Executor& executor) const override {
    if (text.empty()) return {};
    return engine::collect(original_, text, {.second_moments = true}, executor);
  }

  [[nodiscard]] Scores score(const engine::Replacements& weights, sinq::Executor& executor,
                             const Progress& progress) const override {
    const engine::Encoder model = build_encoder(config_, engine::CheckpointSource(*checkpoint_, &weights));
    const auto embedded = embeddings(model, executor, progress);
    std::vector<double> distance;
    for (std::size_t w = 0; w < embedded.size(); ++w) {
      const Eigen::RowVectorXd a = embedded[w].cast<double>();
      const Eigen::RowVectorXd b = reference_[w].cast<double>();
      distance.push_back(1 - a.dot(b) / (a.norm() * b.norm()));
    }
    return {.perplexity = {},
            .kl = {},
            .flip_rate_percent = {},
            .cosine_distance = ratio(distance, std::vector<double>(distance.size(), 1.0))};
  }

 private:
  [[nodiscard]] std::vector<engine::Vector> embeddings(const engine::Encoder& model, sinq::Executor& executor,
                                                       const Progress& progress) const {
    std::vector<engine::Vector> out(windows_.size());
    std::atomic<int> done{0};
    executor.run(static_cast<std::int64_t>(windows_.size()), [&](std::int64_t w, int) {
      sinq::SerialExecutor serial;
      const auto i = static_cast<std::size_t>(w);
      out[i] = model.embedding(windows_[i], serial);
      progress(++done / static_cast<double>(windows_.size()));
    });
    return out;
  }

  std::shared_ptr<const sinq::store::Checkpoint> checkpoint_;
  engine::EncoderConfig config_;
  std::vector<engine::Window> windows_;
  engine::Encoder original_;
  std::int64_t parameters_ = 0;
  std::vector<engine::Vector> reference_;
};

[[nodiscard]] inline std::unique_ptr<Subject> open_subject(std::shared_ptr<const sinq::store::Checkpoint> checkpoint,
                                                           const sinq::store::Config& config,
                                                           std::vector<engine::Window> windows,
                                                           sinq::Executor& executor) {
  if (windows.empty()) throw engine::ModelError("there is no window to evaluate");
  if (engine::is_encoder(config))
    return std::make_unique<Encoder>(std::move(checkpoint), config, std::move(windows), executor);
  return std::make_unique<Decoder>(std::move(checkpoint), config, std::move(windows), executor);
}

}  // namespace compare
