// SPDX-License-Identifier: Apache-2.0
#pragma once

// A decoder of the Llama family, read top to bottom:
//
//   x = embedding[token]
//   per layer:  x += o(attention(rope(q(n)), rope(k(n)), v(n)))    n = rms_norm(x)      Qwen3: norms on q and k, too
//               x += down(silu(gate(n)) * up(n))                   n = rms_norm(x)
//   logits = head(rms_norm(x))
//
// A window of tokens and a single token go the same way; what earlier calls have seen is in the KvCache.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "config.hpp"
#include "linear.hpp"
#include "rope.hpp"
#include "tensor.hpp"

namespace engine {

struct Layer {
  Vector attention_norm, mlp_norm;
  Linear q, k, v, o;
  Vector q_norm, k_norm;  // one head wide; empty: none
  Linear gate, up, down;
};

/// Keys (already turned) and values of every position seen so far, per layer: positions x kv_heads * head_dim.
class KvCache {
 public:
  explicit KvCache(const ModelConfig& config) : layers_(static_cast<std::size_t>(config.layers)) {}

  [[nodiscard]] std::int64_t length() const { return length_; }

 private:
  friend class Model;
  struct Entry {
    Matrix keys, values;  // rows from length_ on are spare
  };

  void append(std::size_t layer, const Matrix& keys, const Matrix& values) {
    Entry& entry = layers_[layer];
    if (const std::int64_t needed = length_ + keys.rows(); needed > entry.keys.rows()) {
      const std::int64_t capacity = length_ == 0 ? needed : 2 * needed;  // a window fits; a text doubles
      entry.keys.conservativeResize(capacity, keys.cols());
      entry.values.conservativeResize(capacity, values.cols());
    }
    entry.keys.middleRows(length_, keys.rows()) = keys;
    entry.values.middleRows(length_, values.rows()) = values;
  }

  std::vector<Entry> layers_;
  std::int64_t length_ = 0;
};

/// What linear layers are multiplied with; matrices of one layer that share an input share a name here.
enum class Input : std::uint8_t { attention, output, mlp, down };  // of q, k and v; of o; of gate and up; of down

/// Sees the inputs of linear layers while a model runs.
using Observer = std::function<void(std::size_t layer, Input input, const Matrix& x)>;

class Model {
 public:
  ModelConfig config;
  Linear embedding;
  std::vector<Layer> layers;
  Vector norm;
  std::optional<Linear> head;         // none: the embedding is the head
  std::shared_ptr<const void> files;  // what the dense weights point into

  /// The hidden state after the last norm for each of `tokens`, which follow what `cache` holds.
  [[nodiscard]] Matrix hidden(
      std::span<const std::int32_t> tokens, KvCache& cache, sinq::Executor& executor,
      const Observer& see = [](std::size_t, Input, const Matrix&) {}) const {
    const auto count = static_cast<std::int64_t>(tokens.size());
    Matrix x = embedding.rows_at(tokens);
    const RopeTable table = rope_table(config.rope, config.head_dim, cache.length(), count);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const Layer& layer = layers[l];
      x += attention(l, rms_norm(x, layer.attention_norm, config.rms_norm_eps), table, cache, executor, see);
      const Matrix n = rms_norm(x, layer.mlp_norm, config.rms_norm_eps);
      see(l, Input::mlp, n);
      auto [gate, up] = Linear::of_one_input(n, executor, layer.gate, layer.up);
      gate.array() *= up.array() / (1 + (-gate.array()).exp());
      see(l, Input::down, gate);
      x += layer.down(gate, executor);
    }
    cache.length_ += count;
    return rms_norm(x, norm, config.rms_norm_eps);
  }

  [[nodiscard]] Matrix logits(const Matrix& hidden, sinq::Executor& executor) const {
    return (head ? *head : embedding)(hidden, executor);
  }

  /// What the weights take in memory, and how many they are; norms and biases, which are floats here, left out.
  [[nodiscard]] std::int64_t bytes() const {
    return sum([](const Linear& l) { return l.bytes(); });
  }
  [[nodiscard]] std::int64_t parameters() const {
    return sum([](const Linear& l) { return l.rows() * l.cols(); });
  }

  void set_numerics(sinq::Numerics numerics) {
    embedding.set_numerics(numerics);
    if (head) head->set_numerics(numerics);
    for (Layer& l : layers)
      for (Linear* w : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) w->set_numerics(numerics);
  }

  void check_tokens(std::span<const std::int32_t> tokens) const {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (tokens[i] < 0 || tokens[i] >= config.vocab_size)
        throw ModelError(
            text("token ", i, " is ", tokens[i], ", the model's vocabulary has 0 to ", config.vocab_size - 1));
  }

 private:
  template <class F>
  [[nodiscard]] std::int64_t sum(F of) const {
    std::int64_t total = of(embedding) + (head ? of(*head) : 0);
    for (const Layer& l : layers)
      for (const Linear* w : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) total += of(*w);
    return total;
  }

  [[nodiscard]] Matrix attention(std::size_t l, const Matrix& n, const RopeTable& table, KvCache& cache,
                                 sinq::Executor& executor, const Observer& see) const {
    const Layer& layer = layers[l];
    see(l, Input::attention, n);
    auto [queries, keys, values] = Linear::of_one_input(n, executor, layer.q, layer.k, layer.v);
    Matrix &q = queries, &k = keys;  // lambdas cannot capture what is bound
    if (layer.q_norm.size() != 0) norm_heads(q, layer.q_norm);
    if (layer.k_norm.size() != 0) norm_heads(k, layer.k_norm);
    rotate(table, config.head_dim, q);
    rotate(table, config.head_dim, k);
    cache.append(l, k, values);

    const KvCache::Entry& seen = cache.layers_[l];
    const std::int64_t past = cache.length();
    const std::int64_t total = past + n.rows();
    const std::int64_t dim = config.head_dim;
    const std::int64_t window = config.window[l] == 0 ? total : config.window[l];
    const float scale = 1 / std::sqrt(static_cast<float>(dim));
    Matrix out(n.rows(), q.cols());
    executor.run(config.heads, [&](std::int64_t h, int) {
      const std::int64_t kv = h / (config.heads / config.kv_heads) * dim;  // heads share keys and values in groups
      Matrix p = q.middleCols(h * dim, dim) * seen.keys.block(0, kv, total, dim).transpose();
      for (std::int64_t t = 0; t < p.rows(); ++t) {
        const std::int64_t end = past + t + 1;  // of what token t sees
        const std::int64_t begin = std::max<std::int64_t>(0, end - window);
        auto row = p.row(t).segment(begin, end - begin);
        row = ((row.array() - row.maxCoeff()) * scale).exp();
        row /= row.sum();
        p.row(t).head(begin).setZero();
        p.row(t).tail(total - end).setZero();
      }
      out.middleCols(h * dim, dim).noalias() = p * seen.values.block(0, kv, total, dim);
    });
    see(l, Input::output, out);
    return layer.o(out, executor);
  }

  void norm_heads(Matrix& x, const Vector& weight) const {
    for (std::int64_t at = 0; at < x.cols(); at += config.head_dim) {
      const Matrix normed = rms_norm(x.middleCols(at, config.head_dim), weight, config.rms_norm_eps);
      x.middleCols(at, config.head_dim) = normed;
    }
  }
};

}  // namespace engine
