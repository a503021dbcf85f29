// SPDX-License-Identifier: Apache-2.0
#pragma once

// Names and shapes: which tensors a model consists of.

#include <string>

#include "model.hpp"

namespace engine {

/// `source` hands tensors over by name, and throws a ModelError if one is missing or has another shape:
///   bool has(name);  Vector vector(name, size);  Linear matrix(name, rows, cols);
template <class Source>
[[nodiscard]] Model build_model(const ModelConfig& config, const Source& source) {
  const auto linear = [&](const std::string& name, int rows, int cols, bool bias_required) {
    Linear l = source.matrix(name + ".weight", rows, cols);
    if (bias_required || source.has(name + ".bias")) l.set_bias(source.vector(name + ".bias", rows));
    return l;
  };
  const auto& c = config;
  const int q_size = c.heads * c.head_dim;
  const int kv_size = c.kv_heads * c.head_dim;
  Model model;
  model.config = config;
  model.embedding = source.matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  model.norm = source.vector("model.norm.weight", c.hidden_size);
  if (!c.tied) model.head = source.matrix("lm_head.weight", c.vocab_size, c.hidden_size);
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.";
    const std::string mlp = layer + "mlp.";
    Layer& l = model.layers.emplace_back();
    l.attention_norm = source.vector(layer + "input_layernorm.weight", c.hidden_size);
    l.mlp_norm = source.vector(layer + "post_attention_layernorm.weight", c.hidden_size);
    l.q = linear(attention + "q_proj", q_size, c.hidden_size, c.qkv_bias);
    l.k = linear(attention + "k_proj", kv_size, c.hidden_size, c.qkv_bias);
    l.v = linear(attention + "v_proj", kv_size, c.hidden_size, c.qkv_bias);
    l.o = linear(attention + "o_proj", c.hidden_size, q_size, c.o_bias);
    for (auto [norm, name] : {std::pair{&l.q_norm, "q_norm.weight"}, {&l.k_norm, "k_norm.weight"}})
      if (c.family == Family::qwen3 || source.has(attention + name))
        *norm = source.vector(attention + name, c.head_dim);
    l.gate = linear(mlp + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    l.up = linear(mlp + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    l.down = linear(mlp + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
  }
  return model;
}

}  // namespace engine
