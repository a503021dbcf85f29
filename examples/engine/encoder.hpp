// SPDX-License-Identifier: Apache-2.0
#pragma once

// An encoder of the BERT family, read top to bottom:
//
//   x = norm(word[token] + position[0, 1, ...] + type[0])
//   per layer:  x = norm(x + output(attention(query(x), key(x), value(x))))
//               x = norm(x + down(gelu(up(x))))
//
// Every token sees every other. What becomes of a text is the mean of its tokens' last hidden states.

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <unsupported/Eigen/SpecialFunctions>
#include <vector>

#include "source.hpp"

namespace engine {

struct EncoderConfig {
  int hidden_size = 0;
  int intermediate_size = 0;
  int layers = 0;
  int heads = 0;  // divides hidden_size
  int vocab_size = 0;
  int max_positions = 0;  // a limit: positions have learned embeddings
  int types = 0;
  float eps = 1e-12f;
};

[[nodiscard]] inline bool is_encoder(const sinq::store::Config& config) {
  return config.text_or("model_type", "") == "bert";
}

[[nodiscard]] inline EncoderConfig parse_encoder_config(const sinq::store::Config& config) {
  using detail::count;
  EncoderConfig c;
  c.hidden_size = count(config, "hidden_size");
  c.intermediate_size = count(config, "intermediate_size");
  c.layers = count(config, "num_hidden_layers");
  c.heads = count(config, "num_attention_heads");
  if (c.hidden_size % c.heads != 0)
    config.refuse("num_attention_heads", text("is ", c.heads, ", must divide hidden_size, which is ", c.hidden_size));
  c.vocab_size = count(config, "vocab_size");
  c.max_positions = count(config, "max_position_embeddings");
  c.types = count(config, "type_vocab_size");
  c.eps = static_cast<float>(detail::positive_or(config, "layer_norm_eps", 1e-12));
  if (const std::string act = config.text_or("hidden_act", "gelu"); act != "gelu")
    config.refuse("hidden_act", text("is \"", act, "\", which is not supported; supported is gelu"));
  if (const std::string type = config.text_or("position_embedding_type", "absolute"); type != "absolute")
    config.refuse("position_embedding_type", text("is \"", type, "\", which is not supported; supported is absolute"));
  return c;
}

/// y = (x - mean) / deviation * weight + bias, row by row.
struct LayerNorm {
  Vector weight, bias;

  [[nodiscard]] Matrix operator()(const Matrix& x, float eps) const {
    Matrix y = x.colwise() - x.rowwise().mean();
    for (std::int64_t t = 0; t < y.rows(); ++t) {
      const float variance = y.row(t).squaredNorm() / static_cast<float>(y.cols());
      y.row(t) = (y.row(t) / std::sqrt(variance + eps)).cwiseProduct(weight) + bias;
    }
    return y;
  }
};

struct EncoderLayer {
  Linear query, key, value, output;
  LayerNorm attention_norm;
  Linear up, down;
  LayerNorm norm;
};

/// What linear layers of an encoder are multiplied with: of query, key and value; of output; of up; of down.
enum class EncoderInput : std::uint8_t { attention, output, up, down };

class Encoder {
 public:
  /// Sees the inputs of linear layers while the encoder runs.
  using Observer = std::function<void(std::size_t layer, EncoderInput input, const Matrix& x)>;

  EncoderConfig config;
  std::string prefix;  // of the tensors' names: "bert." or none
  Linear words, positions, types;
  LayerNorm norm;
  std::vector<EncoderLayer> layers;
  std::shared_ptr<const void> files;  // what the dense weights point into

  /// The last hidden state of each token.
  [[nodiscard]] Matrix hidden(
      std::span<const std::int32_t> tokens, sinq::Executor& executor,
      const Observer& see = [](std::size_t, EncoderInput, const Matrix&) {}) const {
    std::vector<std::int32_t> index(tokens.size());
    for (std::size_t t = 0; t < index.size(); ++t) index[t] = static_cast<std::int32_t>(t);
    const std::vector<std::int32_t> first_type(tokens.size(), 0);
    Matrix x = norm(words.rows_at(tokens) + positions.rows_at(index) + types.rows_at(first_type), config.eps);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const EncoderLayer& layer = layers[l];
      see(l, EncoderInput::attention, x);
      const Matrix seen = attention(layer, x, executor);
      see(l, EncoderInput::output, seen);
      x = layer.attention_norm(x + layer.output(seen, executor), config.eps);
      see(l, EncoderInput::up, x);
      Matrix up = layer.up(x, executor);
      up.array() *= 0.5f * (1 + (up.array() * std::sqrt(0.5f)).erf());
      see(l, EncoderInput::down, up);
      x = layer.norm(x + layer.down(up, executor), config.eps);
    }
    return x;
  }

  /// The mean of the hidden states.
  [[nodiscard]] Vector embedding(std::span<const std::int32_t> tokens, sinq::Executor& executor) const {
    return hidden(tokens, executor).colwise().mean();
  }

  void check_tokens(std::span<const std::int32_t> tokens) const {
    if (tokens.empty() || static_cast<std::int64_t>(tokens.size()) > config.max_positions)
      throw ModelError(text("a window has ", tokens.size(), " tokens, the model allows 1 to ", config.max_positions));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (tokens[i] < 0 || tokens[i] >= config.vocab_size)
        throw ModelError(
            text("token ", i, " is ", tokens[i], ", the model's vocabulary has 0 to ", config.vocab_size - 1));
  }

 private:
  [[nodiscard]] Matrix attention(const EncoderLayer& layer, const Matrix& x, sinq::Executor& executor) const {
    const auto [queries, keys, values] = Linear::of_one_input(x, executor, layer.query, layer.key, layer.value);
    const Matrix &q = queries, &k = keys, &v = values;  // lambdas cannot capture what is bound
    const int dim = config.hidden_size / config.heads;
    const float scale = 1 / std::sqrt(static_cast<float>(dim));
    Matrix out(x.rows(), x.cols());
    executor.run(config.heads, [&](std::int64_t h, int) {
      Matrix p = q.middleCols(h * dim, dim) * k.middleCols(h * dim, dim).transpose();
      for (std::int64_t t = 0; t < p.rows(); ++t) {
        p.row(t) = ((p.row(t).array() - p.row(t).maxCoeff()) * scale).exp();
        p.row(t) /= p.row(t).sum();
      }
      out.middleCols(h * dim, dim).noalias() = p * v.middleCols(h * dim, dim);
    });
    return out;
  }
};

/// Names as BertModel has them, with or without "bert." before them.
[[nodiscard]] inline Encoder build_encoder(const EncoderConfig& c, const CheckpointSource& source) {
  Encoder e;
  e.config = c;
  e.prefix = source.has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  const auto norm = [&](const std::string& name) {
    return LayerNorm{source.vector(name + ".weight", c.hidden_size), source.vector(name + ".bias", c.hidden_size)};
  };
  const auto linear = [&](const std::string& name, int rows, int cols) {
    Linear l = source.matrix(name + ".weight", rows, cols);
    l.set_bias(source.vector(name + ".bias", rows));
    return l;
  };
  const std::string embeddings = e.prefix + "embeddings.";
  e.words = source.matrix(embeddings + "word_embeddings.weight", c.vocab_size, c.hidden_size);
  e.positions = source.matrix(embeddings + "position_embeddings.weight", c.max_positions, c.hidden_size);
  e.types = source.matrix(embeddings + "token_type_embeddings.weight", c.types, c.hidden_size);
  e.norm = norm(embeddings + "LayerNorm");
  for (int i = 0; i < c.layers; ++i) {
    const std::string name = e.prefix + "encoder.layer." + std::to_string(i) + ".";
    EncoderLayer& l = e.layers.emplace_back();
    l.query = linear(name + "attention.self.query", c.hidden_size, c.hidden_size);
    l.key = linear(name + "attention.self.key", c.hidden_size, c.hidden_size);
    l.value = linear(name + "attention.self.value", c.hidden_size, c.hidden_size);
    l.output = linear(name + "attention.output.dense", c.hidden_size, c.hidden_size);
    l.attention_norm = norm(name + "attention.output.LayerNorm");
    l.up = linear(name + "intermediate.dense", c.intermediate_size, c.hidden_size);
    l.down = linear(name + "output.dense", c.hidden_size, c.intermediate_size);
    l.norm = norm(name + "output.LayerNorm");
  }
  return e;
}

}  // namespace engine
