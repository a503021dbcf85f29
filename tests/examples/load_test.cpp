// SPDX-License-Identifier: Apache-2.0
#include "engine/load.hpp"

#include <gtest/gtest.h>

#include <sinq/core/thread_pool.hpp>

#include "engine/windows.hpp"
#include "examples/tiny_model.hpp"

namespace {

using tiny::Json;

void expect_error(const std::filesystem::path& directory, const std::vector<std::string>& parts) {
  try {
    (void)engine::load_model(directory);
    ADD_FAILURE() << "no error";
  } catch (const std::exception& e) {
    for (const std::string& part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what() << "\nlacks: " << part;
  }
}

TEST(LoadModel, MissingAndMisshapenTensorsAreNamed) {
  const tiny::Directory directory;
  const Json config = tiny::tiny_config("LlamaForCausalLM");
  auto tensors = tiny::random_tensors(tiny::parse(config));
  tiny::save(directory / "good", config, tensors);
  EXPECT_EQ(engine::load_model(directory / "good").layers.size(), 2u);

  const std::string name = "model.layers.1.mlp.up_proj.weight";
  auto missing = tensors;
  missing.erase(name);
  tiny::save(directory / "missing", config, missing);
  expect_error(directory / "missing", {name, "no tensor"});

  auto& t = tensors.at(name);
  std::swap(t.rows, t.cols);
  tiny::save(directory / "misshapen", config, tensors);
  expect_error(directory / "misshapen", {name, "[24, 40]", "[40, 24]"});

  expect_error(directory / "nowhere", {"nowhere/config.json"});
}

TEST(LoadModel, Qwen2NeedsItsBiases) {
  const tiny::Directory directory;
  const Json config = tiny::tiny_config("Qwen2ForCausalLM");
  auto tensors = tiny::random_tensors(tiny::parse(config));
  tensors.erase("model.layers.0.self_attn.k_proj.bias");
  tiny::save(directory / "model", config, tensors);
  expect_error(directory / "model", {"model.layers.0.self_attn.k_proj.bias"});
}

/// A quantized directory gives the logits of the reference decoder on the restored weights, tied embedding included:
/// what the kernel multiplies with is what `dequantize` says.
TEST(LoadModel, QuantizedWeightsMultiplyAsTheyAreRestored) {
  const tiny::Directory directory;
  const Json config = tiny::with(tiny::tiny_config("Qwen3ForCausalLM"), {{"hidden_size", 48}});
  const engine::ModelConfig parsed = tiny::parse(config);
  reference::Decoder reference{parsed, tiny::random_tensors(parsed), {}, 1.0};
  reference.frequencies = engine::rope_frequencies(parsed.rope, parsed.head_dim, 0);
  std::filesystem::create_directories(directory / "model");
  std::ofstream(directory / "model" / "config.json") << config.dump();
  sinq::store::Writer out(directory / "model" / "model.safetensors");
  for (auto& [name, t] : reference.tensors) {
    if (t.rows == 1) {
      out.add(name, sinq::store::ElementType::f32, {t.cols}, std::as_bytes(std::span(t.values)));
      continue;
    }
    const auto q = sinq::quantize(sinq::WeightView(t.values.data(), sinq::DType::f32, t.rows, t.cols),
                                  {.bits = 4, .group_size = 32});
    sinq::store::write(out, name, q);
    sinq::dequantize(q, sinq::MatrixView<float>(t.values.data(), t.rows, t.cols));
  }
  out.finish();

  const engine::Model model = engine::load_model(directory / "model");
  EXPECT_TRUE(model.embedding.quantized() && model.layers[0].q.quantized() && model.layers[1].down.quantized());
  const engine::Window tokens = {3, 14, 15, 9, 26, 5, 35};
  sinq::SerialExecutor serial;
  engine::KvCache cache(parsed);
  const engine::Matrix logits = model.logits(model.hidden(tokens, cache, serial), serial);
  const reference::Rows expected = reference.logits(tokens);
  double largest = 0;
  double difference = 0;
  for (std::size_t t = 0; t < expected.size(); ++t)
    for (std::size_t i = 0; i < expected[t].size(); ++i) {
      largest = std::max(largest, std::abs(expected[t][i]));
      difference =
          std::max(difference, std::abs(expected[t][i] - double{logits(static_cast<int>(t), static_cast<int>(i))}));
    }
  EXPECT_LT(difference, 1e-4 * largest);  // as derived in engine_test.cpp
}

TEST(Windows, OffsetsAreChecked) {
  const tiny::Directory directory;
  const auto write = [&](std::vector<std::int32_t> offsets) {
    const std::vector<std::int32_t> tokens = {1, 2, 3, 4};
    sinq::store::Writer out(directory / "tokens.safetensors");
    out.add("tokens", sinq::store::ElementType::i32, {4}, std::as_bytes(std::span(tokens)));
    out.add("offsets", sinq::store::ElementType::i32, {static_cast<std::int64_t>(offsets.size())},
            std::as_bytes(std::span(offsets)));
    out.finish();
    return engine::read_windows(directory / "tokens.safetensors");
  };
  EXPECT_EQ(write({0, 3, 3, 4}), (std::vector<engine::Window>{{1, 2, 3}, {}, {4}}));
  EXPECT_THROW(write({0, 5}), engine::ModelError);
  EXPECT_THROW(write({2, 1}), engine::ModelError);
  EXPECT_THROW(write({-1, 1}), engine::ModelError);
}

/// Perplexities of real models, to the four digits that are known.
void expect_perplexity(const std::string& model_name, const std::string& windows_name, double expected,
                       std::int64_t predicted) {
  const std::filesystem::path data = SINQ_DATA_DIR;
  if (data.empty() || !std::filesystem::exists(data / model_name))
    GTEST_SKIP() << "*** " << model_name << " is not here: set SINQ_DATA_DIR to the folder of the real models ***";
  const engine::Model model = engine::load_model(data / model_name);
  const auto windows = engine::read_windows(data / model_name / windows_name);
  Eigen::ThreadPool pool(1);
  sinq::ThreadPoolExecutor threads(pool);
  const engine::Evaluation e = engine::evaluate(model, windows, threads);
  EXPECT_EQ(e.predicted, predicted);
  EXPECT_NEAR(e.perplexity(), expected, 0.00005);
}

TEST(Perplexity, Stories260K) {
  expect_perplexity("stories260K-hf", "tinystories-valid-30-windows.tokens.safetensors", 4.69476, 7268);
}

TEST(Perplexity, Stories15M) {
#ifndef NDEBUG
  GTEST_SKIP() << "takes minutes without optimization";
#else
  expect_perplexity("stories15M-hf", "tinystories-valid-60-windows.tokens.safetensors", 5.2888, 13860);
#endif
}

/// The parts of the sum are those that the definitions say, on a case small enough for plain loops.
TEST(Evaluation, AgreesWithItsDefinition) {
  const engine::ModelConfig config = tiny::parse(tiny::tiny_config("LlamaForCausalLM"));
  reference::Decoder a{config, tiny::random_tensors(config, 1), {}, 1.0};
  reference::Decoder b{config, tiny::random_tensors(config, 2), {}, 1.0};
  a.frequencies = b.frequencies = engine::rope_frequencies(config.rope, config.head_dim, 0);
  const tiny::Directory directory;
  tiny::save(directory / "a", tiny::tiny_config("LlamaForCausalLM"), a.tensors);
  tiny::save(directory / "b", tiny::tiny_config("LlamaForCausalLM"), b.tensors);
  const engine::Model model_a = engine::load_model(directory / "a");
  const engine::Model model_b = engine::load_model(directory / "b");
  const std::vector<engine::Window> windows = {{1, 2, 3, 4, 30, 31}, {7}, {36, 0, 5}};

  double nll = 0;
  double kl = 0;
  std::int64_t flips = 0;
  for (const auto& window : windows) {
    const auto la = a.logits(window);
    const auto lb = b.logits(window);
    for (std::size_t t = 0; t + 1 < window.size(); ++t) {
      const auto softmax = [](reference::Row row) {
        double sum = 0;
        for (double& x : row) sum += x = std::exp(x);
        for (double& x : row) x /= sum;
        return row;
      };
      const auto pa = softmax(la[t]);
      const auto pb = softmax(lb[t]);
      nll -= std::log(pa[static_cast<std::size_t>(window[t + 1])]);
      for (std::size_t v = 0; v < pa.size(); ++v) kl += pb[v] * std::log(pb[v] / pa[v]);
      flips +=
          std::max_element(pa.begin(), pa.end()) - pa.begin() != std::max_element(pb.begin(), pb.end()) - pb.begin();
    }
  }
  sinq::SerialExecutor serial;
  const engine::Evaluation e = engine::evaluate(model_a, windows, serial, {&model_b, {}});
  EXPECT_EQ(e.predicted, 7);
  // Logits are right to 1e-4 of their size, about 10, and seven log probabilities are summed.
  EXPECT_NEAR(e.nll, nll, 1e-2);
  EXPECT_NEAR(e.kl, kl, 1e-2);
  EXPECT_EQ(e.flips, flips);
  EXPECT_GT(e.flips, 0);

  const engine::Evaluation kept =
      engine::evaluate(model_a, windows, serial, {&model_b, engine::hidden_states(model_b, windows, serial)});
  EXPECT_EQ(kept.kl, e.kl);
  EXPECT_EQ(engine::evaluate(model_b, windows, serial, {&model_b, {}}).kl, 0);
}

}  // namespace
