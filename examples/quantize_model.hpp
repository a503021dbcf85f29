// SPDX-License-Identifier: Apache-2.0
#pragma once

// Quantizes a model directory tensor by tensor. At any time one tensor's weights are in memory beside its quantized
// form and the writer's buffer.

#include <functional>
#include <regex>
#include <set>
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>

#include "program.hpp"

namespace quantize_model {

struct Selection {
  std::optional<std::regex> include;  // beside the linear layers of the decoder
  std::optional<std::regex> exclude;
};

struct TensorReport {
  std::string name;
  std::int64_t matrices = 1;  // experts of a fused tensor
  int bits = 0;               // of a code
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t bytes = 0;
  double relative_error = 0;  // root mean square over the matrices
  double imbalance_before = 1;
  double imbalance_after = 1;
  double seconds = 0;  // of quantizing, not of measuring and writing
  bool widened = false;

  [[nodiscard]] double weights() const {
    return static_cast<double>(matrices) * static_cast<double>(rows) * static_cast<double>(cols);
  }
  [[nodiscard]] double bits_per_weight() const { return 8.0 * static_cast<double>(bytes) / weights(); }
};

struct LeftAlone {
  std::string name;
  std::string reason;
  std::string shape;
};

struct Report {
  std::vector<TensorReport> quantized;
  std::vector<LeftAlone> left_alone;
  std::int64_t model_bytes = 0;  // of the files written

  [[nodiscard]] double seconds() const {
    double sum = 0;
    for (const auto& t : quantized) sum += t.seconds;
    return sum;
  }
  [[nodiscard]] double bits_per_weight() const {
    double bits = 0;
    double weights = 0;
    for (const auto& t : quantized) {
      bits += 8.0 * static_cast<double>(t.bytes);
      weights += t.weights();
    }
    return bits / weights;
  }
};

/// Why a tensor stays as it is; empty: it is quantized.
inline std::string reason_to_leave(const sinq::store::Tensor& t, const Selection& selection) {
  static const std::regex layer(R"((^|\.)(layers?|h|blocks?)\.[0-9]+\.)");
  static const std::regex router(R"((router|mlp\.gate|block_sparse_moe\.gate)\.weight$)");
  const auto matches = [&](const std::optional<std::regex>& pattern) {
    return pattern && std::regex_search(t.name, *pattern);
  };
  const auto contains = [&](const char* part) { return t.name.find(part) != std::string::npos; };
  if (t.elements() == 0) return "empty";
  if (!sinq::store::weight_type(t.type)) return "of type " + std::string(sinq::store::name_of(t.type));
  if (!sinq::store::is_matrix(t) && !sinq::store::is_matrix_stack(t))
    return contains("norm") ? "a norm" : contains("bias") ? "a bias" : "not a matrix";
  if (matches(selection.exclude)) return "excluded";
  if (matches(selection.include)) return "";
  if (contains("embed")) return "an embedding";
  if (contains("lm_head")) return "a head";
  if (!std::regex_search(t.name, layer)) return "outside of the decoder's layers";
  if (contains("norm")) return "a norm";
  if (contains("bias")) return "a bias";
  if (std::regex_search(t.name, router)) return "routes between experts";
  if (sinq::store::is_matrix_stack(t) && !contains("expert")) return "three dimensions that are no experts";
  return "";
}

/// The tensors that a directory would hold twice: the head, where it is tied to an embedding that is quantized.
inline std::set<std::string> held_twice(const sinq::store::Checkpoint& model, const std::string& source,
                                        const Selection& selection) {
  const std::filesystem::path config = std::filesystem::path(source) / "config.json";
  if (!std::filesystem::exists(config) || !sinq::store::Config(config).flag_or("tie_word_embeddings", false)) return {};
  const sinq::store::Tensor* head = model.find("lm_head.weight");
  const sinq::store::Tensor* embedding = model.find("model.embed_tokens.weight");
  if (head == nullptr || embedding == nullptr) return {};
  if (reason_to_leave(*embedding, selection).empty()) return {head->name};
  if (reason_to_leave(*head, selection).empty())
    throw program::UsageError("--include names " + head->name + ", which is tied to " + embedding->name +
                              ": name that one");
  return {};
}

/// How a tensor of this name is quantized.
using ConfigOf = std::function<sinq::QuantizeConfig(const std::string&)>;

/// What a tensor of this name is multiplied with; null: not known.
using ActivationsOf = std::function<const sinq::Activations*(const std::string&)>;

/// `progress(share, tensor)`. Throws, and leaves no trace of `target`, where anything is wrong.
inline Report run(const std::string& source, const std::string& target, const ConfigOf& config_of,
                  const Selection& selection, const sinq::store::Json& settings, sinq::Executor& executor,
                  const std::function<void(double, const std::string&)>& progress = {},
                  const ActivationsOf& activations_of = {}) {
  using namespace sinq;
  const store::Checkpoint model(source);
  const std::set<std::string> twice = held_twice(model, source, selection);
  double total = 0;
  const auto require_use = [&](const char* option, const std::optional<std::regex>& pattern) {
    if (pattern && std::none_of(model.tensors().begin(), model.tensors().end(),
                                [&](const store::Tensor* t) { return std::regex_search(t->name, *pattern); }))
      throw program::UsageError(std::string(option) + " names no tensor of " + source);
  };
  require_use("--include", selection.include);
  require_use("--exclude", selection.exclude);
  for (const store::Tensor* t : model.tensors())
    if (reason_to_leave(*t, selection).empty() && !twice.contains(t->name)) total += static_cast<double>(t->elements());
  if (total == 0) throw program::UsageError("no tensor of " + source + " is left to quantize");

  store::DirectoryWriter out(model, target);
  Report report;
  double done = 0;
  for (const store::Tensor* t : model.tensors()) {
    if (twice.contains(t->name)) {
      report.left_alone.push_back({t->name, "tied to the embedding and stored there", store::describe(*t)});
      continue;
    }
    if (std::string reason = reason_to_leave(*t, selection); !reason.empty()) {
      out.keep(*t, reason);
      report.left_alone.push_back({t->name, std::move(reason), store::describe(*t)});
      model.forget(*t);
      continue;
    }
    const bool stack = store::is_matrix_stack(*t);
    TensorReport r;
    r.name = t->name;
    r.matrices = stack ? t->shape[0] : 1;
    double square_error = 0;
    for (std::int64_t k = 0; k < r.matrices; ++k) {
      const WeightView weights = stack ? store::weights(*t, k) : store::weights(*t);
      const std::string name = stack ? store::name_in_stack(t->name, k) : t->name;
      r.rows = weights.rows;
      r.cols = weights.cols;
      const auto size = static_cast<double>(weights.rows) * static_cast<double>(weights.cols);
      QuantizeReport details;
      QuantizeOptions options{.executor = &executor, .report = &details};
      if (activations_of) options.activations = activations_of(t->name);
      if (progress)
        options.progress = [&](double share) {
          progress((done + share * size) / total, name);
          return true;
        };
      try {
        const program::Stopwatch time;
        const QuantizedMatrix q = quantize(weights, config_of(t->name), options);
        r.bits = q.format.bits;
        r.seconds += time.seconds();
        const double error = measure(q, weights).relative_error;
        square_error += error * error;
        r.imbalance_before += (details.imbalance_before - 1) / static_cast<double>(r.matrices);
        r.imbalance_after += (details.imbalance_after - 1) / static_cast<double>(r.matrices);
        r.widened |= details.widened;
        r.bytes += q.bytes();
        out.write(name, q);
      } catch (const InvalidArgument& e) {
        throw InvalidArgument("tensor " + name + ": " + e.what());
      }
      done += size;
    }
    if (stack) out.declare_stack(t->name, r.matrices);
    r.relative_error = std::sqrt(square_error / static_cast<double>(r.matrices));
    report.quantized.push_back(std::move(r));
    model.forget(*t);
  }
  report.model_bytes = out.finish(settings).model_bytes;
  return report;
}

}  // namespace quantize_model
