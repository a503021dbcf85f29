// SPDX-License-Identifier: Apache-2.0
#pragma once

// Mixed precision for a model directory: a configuration per tensor, within a budget.

#include "quantize_model.hpp"

namespace quantize_model {

/// Separately stored experts of one layer share its tokens, so each counts for its part; the name without its number.
inline std::string without_expert(const std::string& name) {
  static const std::regex expert(R"(experts\.[0-9]+\.)");
  return std::regex_replace(name, expert, "experts.*.");
}

/// The number in model.layers.7.mlp.up_proj.weight; -1: none.
inline int layer_of(const std::string& name) {
  static const std::regex layer(R"((^|\.)(layers?|h|blocks?)\.([0-9]{1,6})\.)");
  std::smatch match;
  return std::regex_search(name, match, layer) ? std::stoi(match[3].str()) : -1;
}

/// Configurations for all tensors that `run` will quantize. With activations the error of the outputs counts.
/// InvalidArgument where the budget is below what the smallest ones take.
inline std::map<std::string, sinq::QuantizeConfig> within_budget(const std::string& source, double bits_per_weight,
                                                                 sinq::Balancing balance, const Selection& selection,
                                                                 sinq::Executor& executor,
                                                                 const ActivationsOf& activations_of = {},
                                                                 const std::function<void(double)>& progress = {}) {
  using namespace sinq;
  const store::Checkpoint model(source);
  const std::set<std::string> twice = held_twice(model, source, selection);
  std::vector<const store::Tensor*> tensors;
  std::map<std::string, double> experts;
  double weights = 0;
  int last_layer = 0;
  for (const store::Tensor* t : model.tensors())
    if (reason_to_leave(*t, selection).empty() && !twice.contains(t->name)) {
      tensors.push_back(t);
      weights += static_cast<double>(t->elements());
      ++experts[without_expert(t->name)];
      last_layer = std::max(last_layer, layer_of(t->name));
    }
  std::vector<QuantizeConfig> configs = budget_configs();
  for (QuantizeConfig& c : configs) c.balance = balance;
  std::vector<std::vector<Choice>> choices;
  double done = 0;
  std::int64_t least = 0;
  for (const store::Tensor* t : tensors) {
    const bool stack = store::is_matrix_stack(*t);
    const std::int64_t matrices = stack ? t->shape[0] : 1;
    const int layer = layer_of(t->name);
    const double importance = importance_of(role_of(t->name), layer == 0 || layer == last_layer) /
                              (experts.at(without_expert(t->name)) * static_cast<double>(matrices));
    const Activations* seen = activations_of ? activations_of(t->name) : nullptr;
    std::vector<Choice> sum(configs.size());
    for (std::int64_t k = 0; k < matrices; ++k) {
      try {
        const std::vector<Choice> one = choices_for(stack ? store::weights(*t, k) : store::weights(*t), configs,
                                                    importance, {.executor = &executor, .activations = seen});
        for (std::size_t c = 0; c < one.size(); ++c) {
          sum[c].bits += one[c].bits;
          sum[c].loss += one[c].loss;
        }
      } catch (const InvalidArgument& e) {
        throw InvalidArgument("tensor " + (stack ? store::name_in_stack(t->name, k) : t->name) + ": " + e.what());
      }
    }
    model.forget(*t);
    least += sum.front().bits;
    choices.push_back(std::move(sum));
    done += static_cast<double>(t->elements());
    if (progress) progress(done / weights);
  }
  const auto budget = static_cast<std::int64_t>(bits_per_weight * weights);
  if (least > budget)
    throw program::UsageError(
        program::format("--budget %g is too small for this model: it takes %.4f bits per weight "
                        "at least",
                        bits_per_weight, static_cast<double>(least) / weights));
  const std::vector<std::size_t> chosen = choose_within(choices, budget);
  std::map<std::string, QuantizeConfig> result;
  for (std::size_t i = 0; i < tensors.size(); ++i) result[tensors[i]->name] = configs[chosen[i]];
  return result;
}

}  // namespace quantize_model
