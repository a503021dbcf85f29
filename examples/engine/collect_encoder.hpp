// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "collect.hpp"
#include "encoder.hpp"

namespace engine {

/// As `collect` for a decoder: what the linear layers of an encoder are multiplied with while it reads the windows.
[[nodiscard]] inline ActivationMap collect(const Encoder& encoder, const std::vector<Window>& windows,
                                           const sinq::ActivationsOptions& options, sinq::Executor& executor) {
  struct Matrices {
    EncoderInput input;
    std::vector<const char*> names;
  };
  static const Matrices matrices[] = {
      {EncoderInput::attention, {"attention.self.query", "attention.self.key", "attention.self.value"}},
      {EncoderInput::output, {"attention.output.dense"}},
      {EncoderInput::up, {"intermediate.dense"}},
      {EncoderInput::down, {"output.dense"}}};
  for (const Window& window : windows) encoder.check_tokens(window);
  ActivationMap result;
  std::vector<std::map<EncoderInput, std::shared_ptr<sinq::Activations>>> of_layer(encoder.layers.size());
  for (std::size_t l = 0; l < encoder.layers.size(); ++l)
    for (const auto& [input, names] : matrices) {
      const bool down = input == EncoderInput::down;
      const std::int64_t cols = down ? encoder.config.intermediate_size : encoder.config.hidden_size;
      of_layer[l][input] = std::make_shared<sinq::Activations>(cols, options);
      for (const char* name : names)
        result[text(encoder.prefix, "encoder.layer.", l, ".", name, ".weight")] = of_layer[l][input];
    }
  for (const Window& window : windows)
    (void)encoder.hidden(window, executor, [&](std::size_t layer, EncoderInput input, const Matrix& x) {
      of_layer[layer].at(input)->add(x, &executor);
    });
  return result;
}

}  // namespace engine
