// SPDX-License-Identifier: Apache-2.0
#pragma once

// Random models small enough to be made for every test.

#include <filesystem>
#include <fstream>
#include <random>
#include <sinq/store.hpp>

#include "examples/reference_decoder.hpp"

namespace tiny {

using sinq::store::Json;

inline engine::ModelConfig parse(const Json& config) {
  return engine::parse_config({config, "config.json"});
}

/// Small numbers that no mistake in a shape survives: all sizes differ.
inline Json tiny_config(const std::string& architecture) {
  return {{"architectures", {architecture}},
          {"hidden_size", 24},
          {"intermediate_size", 40},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"head_dim", 8},
          {"vocab_size", 37},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", true}};
}

inline Json with(Json config, const Json& changes) {
  config.update(changes);
  return config;
}

/// Every tensor that the configuration asks for, random, of a size that keeps activations near 1.
inline std::map<std::string, reference::Tensor> random_tensors(const engine::ModelConfig& c, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::map<std::string, reference::Tensor> tensors;
  const auto add = [&](const std::string& name, int rows, int cols, float scale, float mean) {
    reference::Tensor t{rows, cols, std::vector<float>(static_cast<std::size_t>(rows * cols))};
    for (float& x : t.values) x = mean + scale * normal(random);
    tensors[name] = std::move(t);
  };
  const auto linear = [&](const std::string& name, int rows, int cols, bool bias) {
    add(name + ".weight", rows, cols, 1 / std::sqrt(static_cast<float>(cols)), 0);
    if (bias) add(name + ".bias", 1, rows, 0.3f, 0);
  };
  add("model.embed_tokens.weight", c.vocab_size, c.hidden_size, 1, 0);
  add("model.norm.weight", 1, c.hidden_size, 0.2f, 1);
  if (!c.tied) add("lm_head.weight", c.vocab_size, c.hidden_size, 0.3f, 0);
  for (int l = 0; l < c.layers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    const std::string attention = layer + "self_attn.";
    add(layer + "input_layernorm.weight", 1, c.hidden_size, 0.2f, 1);
    add(layer + "post_attention_layernorm.weight", 1, c.hidden_size, 0.2f, 1);
    linear(attention + "q_proj", c.heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(attention + "k_proj", c.kv_heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(attention + "v_proj", c.kv_heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(attention + "o_proj", c.hidden_size, c.heads * c.head_dim, c.o_bias);
    linear(layer + "mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear(layer + "mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear(layer + "mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
    if (c.family == engine::Family::qwen3) {
      add(attention + "q_norm.weight", 1, c.head_dim, 0.2f, 1);
      add(attention + "k_norm.weight", 1, c.head_dim, 0.2f, 1);
    }
  }
  return tensors;
}

/// A directory that goes away with the test.
class Directory {
 public:
  Directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sinq-examples-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = pattern;
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Writes a model directory. Tensors of one row are vectors.
inline void save(const std::filesystem::path& directory, const Json& config,
                 const std::map<std::string, reference::Tensor>& tensors) {
  using sinq::store::ElementType;
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "config.json") << config.dump(1);
  sinq::store::Writer out(directory / "model.safetensors");
  for (const auto& [name, t] : tensors) {
    const auto bytes = std::as_bytes(std::span(t.values));
    if (t.rows == 1)
      out.add(name, ElementType::f32, {t.cols}, bytes);
    else
      out.add(name, ElementType::f32, {t.rows, t.cols}, bytes);
  }
  out.finish();
}

/// Windows of random tokens below `vocab_size`.
inline void save_windows(const std::filesystem::path& file, int vocab_size, int windows = 3, int length = 20) {
  std::mt19937 random(5);
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> offsets = {0};
  for (int w = 0; w < windows; ++w) {
    for (int i = 0; i < length + w; ++i)
      tokens.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab_size)));
    offsets.push_back(static_cast<std::int32_t>(tokens.size()));
  }
  sinq::store::Writer out(file);
  out.add("tokens", sinq::store::ElementType::i32, {static_cast<std::int64_t>(tokens.size())},
          std::as_bytes(std::span(tokens)));
  out.add("offsets", sinq::store::ElementType::i32, {static_cast<std::int64_t>(offsets.size())},
          std::as_bytes(std::span(offsets)));
  out.finish();
}

}  // namespace tiny
