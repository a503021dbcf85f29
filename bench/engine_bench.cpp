// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "../examples/engine/build.hpp"
#include "machine.hpp"

// engine/<weights>: tokens per second of the example engine, one after the other, on random weights in the shape of a
// decoder of 1.2 billion parameters (16 layers, hidden 2048, intermediate 8192, vocabulary 128256, tied): larger than
// any cache in every form. Dense weights are multiplied by Eigen, compiled for the machine's own instructions.

namespace {

using namespace sinq_bench;

enum class Form { f32, bf16, sinq4, preset };

engine::ModelConfig shape_of_1b() {
  engine::ModelConfig c;
  c.hidden_size = 2048;
  c.intermediate_size = 8192;
  c.layers = 16;
  c.heads = 32;
  c.kv_heads = 8;
  c.head_dim = 64;
  c.vocab_size = 128256;
  c.max_positions = 131072;
  c.tied = true;
  c.rope.theta = 500000;
  c.window.assign(16, 0);
  return c;
}

/// Weights of one layer are made once; every layer has a copy of its own.
class RandomSource {
 public:
  explicit RandomSource(Form form) : form_(form) {}

  [[nodiscard]] bool has(const std::string& /*name*/) const { return false; }
  [[nodiscard]] engine::Vector vector(const std::string& /*name*/, int size) const {
    return engine::Vector::Ones(size);
  }
  [[nodiscard]] engine::Linear matrix(const std::string& name, int rows, int cols) const {
    const std::string shape = std::to_string(rows) + "x" + std::to_string(cols);
    if (form_ == Form::f32) return dense(floats_, shape, rows, cols);
    if (form_ == Form::bf16) return dense(bfloats_, shape, rows, cols);
    auto& packed = packed_[shape];
    if (!packed) {
      auto config = form_ == Form::preset ? sinq::preset(4.5, sinq::role_of(name)) : sinq::QuantizeConfig{};
      if (form_ == Form::sinq4) config.scale = config.zero = sinq::Aux::u8;
      packed = sinq::pack(sinq::quantize(weights(rows, cols), config));
    }
    return engine::Linear(*packed);
  }

  /// What the dense matrices point into.
  [[nodiscard]] std::shared_ptr<const void> memory() const { return memory_; }

 private:
  template <class T>
  using Dense = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  struct Memory {
    std::vector<Dense<float>> floats;
    std::vector<Dense<sinq::bfloat16>> bfloats;
  };

  template <class T>
  engine::Linear dense(std::map<std::string, Dense<T>>& made, const std::string& shape, int rows, int cols) const {
    auto& first = made[shape];
    if (first.size() == 0) first = weights(rows, cols).cast<T>();
    auto& all = [&]() -> auto& {
      if constexpr (std::is_same_v<T, float>)
        return memory_->floats;
      else
        return memory_->bfloats;
    }
    ();
    all.push_back(first);
    return engine::Linear(sinq::WeightView(sinq::MatrixView<const T>(all.back())));  // its elements stay where they are
  }

  Form form_;
  std::shared_ptr<Memory> memory_ = std::make_shared<Memory>();
  mutable std::map<std::string, Dense<float>> floats_;
  mutable std::map<std::string, Dense<sinq::bfloat16>> bfloats_;
  mutable std::map<std::string, std::optional<sinq::PackedMatrix>> packed_;
};

/// The model of a form, kept until another one is asked for.
const engine::Model& model_of(Form form) {
  static std::optional<Form> held;
  static engine::Model model;
  if (held != form) {
    model = {};
    const RandomSource source(form);
    model = engine::build_model(shape_of_1b(), source);
    model.files = source.memory();
    held = form;
  }
  return model;
}

void decode(benchmark::State& state, Form form, sinq::Numerics numerics, int width) {
  engine::Model& model = const_cast<engine::Model&>(model_of(form));  // for its numerics
  model.set_numerics(numerics);
  const Threads threads(width);
  engine::KvCache cache(model.config);
  std::int32_t token = 1;
  for ([[maybe_unused]] auto _ : state) {
    const engine::Matrix logits =
        model.logits(model.hidden(std::span(&token, 1), cache, *threads.get()), *threads.get());
    Eigen::Index top = 0;
    logits.row(0).maxCoeff(&top);
    token = static_cast<std::int32_t>(top);
  }
  state.counters["tokens_per_second"] = benchmark::Counter(1, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["gigabytes"] = 1e-9 * static_cast<double>(model.bytes());
}

const bool kRegistered = [] {
  for (const int width : {1, 2})
    for (const auto& [name, form, numerics] :
         {std::tuple{"fp32", Form::f32, sinq::Numerics::exact}, std::tuple{"bf16", Form::bf16, sinq::Numerics::exact},
          std::tuple{"sinq-4-aux8/exact", Form::sinq4, sinq::Numerics::exact},
          std::tuple{"sinq-4-aux8/fast", Form::sinq4, sinq::Numerics::fast},
          std::tuple{"preset-4.5/exact", Form::preset, sinq::Numerics::exact},
          std::tuple{"preset-4.5/fast", Form::preset, sinq::Numerics::fast}})
      add("engine/" + std::string(name) + "/tokens:1/threads:" + std::to_string(width),
          [form = form, numerics = numerics, width](benchmark::State& state) { decode(state, form, numerics, width); });
  return true;
}();

}  // namespace
