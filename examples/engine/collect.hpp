// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the inputs of a model's linear layers look like while it reads some text.

#include <map>

#include "evaluate.hpp"

namespace engine {

/// By tensor name; matrices that share an input share their statistics.
using ActivationMap = std::map<std::string, std::shared_ptr<const sinq::Activations>>;

/// Runs the windows one after the other (the executor's threads work inside), so the number of threads changes no bit.
/// With second moments it holds 8 cols^2 bytes per input: three of hidden and one of intermediate size per layer.
[[nodiscard]] inline ActivationMap collect(const Model& model, const std::vector<Window>& windows,
                                           const sinq::ActivationsOptions& options, sinq::Executor& executor,
                                           const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  struct Matrices {
    Input input;
    std::vector<const char*> names;
  };
  static const Matrices matrices[] = {{Input::attention, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}},
                                      {Input::output, {"self_attn.o_proj"}},
                                      {Input::mlp, {"mlp.gate_proj", "mlp.up_proj"}},
                                      {Input::down, {"mlp.down_proj"}}};
  for (const Window& window : windows) model.check_tokens(window);
  ActivationMap result;
  std::vector<std::map<Input, std::shared_ptr<sinq::Activations>>> of_layer(model.layers.size());
  for (std::size_t l = 0; l < model.layers.size(); ++l)
    for (const auto& [input, names] : matrices) {
      const Layer& layer = model.layers[l];
      const std::int64_t cols = input == Input::output ? layer.o.cols()
                                : input == Input::down ? layer.down.cols()
                                                       : model.config.hidden_size;
      auto& statistics = of_layer[l][input];
      statistics = std::make_shared<sinq::Activations>(cols, options);
      for (const char* name : names) result[text("model.layers.", l, ".", name, ".weight")] = statistics;
    }
  std::int64_t done = 0;
  for (const Window& window : windows) {
    KvCache cache(model.config);
    if (!window.empty())
      (void)model.hidden(window, cache, executor, [&](std::size_t layer, Input input, const Matrix& x) {
        of_layer[layer].at(input)->add(x, &executor);
      });
    if (progress) progress(++done, std::ssize(windows));
  }
  return result;
}

}  // namespace engine
