// SPDX-License-Identifier: Apache-2.0
#include "fold_model.hpp"

#include <gtest/gtest.h>

#include "engine/load.hpp"
#include "examples/tiny_model.hpp"
#include "quantize_model.hpp"

namespace {

using tiny::Json;

const std::vector<std::int32_t> kSome = {3, 14, 15, 9, 26, 5, 35, 8, 9, 7};

engine::Matrix logits(const std::filesystem::path& directory) {
  const engine::Model model = engine::load_model(directory);
  engine::KvCache cache(model.config);
  sinq::SerialExecutor serial;
  return model.logits(model.hidden(kSome, cache, serial), serial);
}

/// Every kind of bias, grouped-query attention, norms on queries and keys: whatever a family has.
struct Case {
  const char* name;
  const char* architecture;
  Json changes;
};

const Case kCases[] = {
    {"Llama", "LlamaForCausalLM", {{"attention_bias", true}, {"mlp_bias", true}}},
    {"LlamaWithoutGroups", "LlamaForCausalLM", {{"num_key_value_heads", 6}, {"tie_word_embeddings", false}}},
    {"Qwen2", "Qwen2ForCausalLM", Json::object()},
    {"Qwen3", "Qwen3ForCausalLM", {{"num_key_value_heads", 3}, {"attention_bias", true}}},
};

class Fold : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    config_ = tiny::with(tiny::tiny_config(GetParam().architecture), GetParam().changes);
    tensors_ = tiny::random_tensors(tiny::parse(config_));
    const engine::ModelConfig c = tiny::parse(config_);
    for (int l = 0; l < c.layers; ++l) {
      const std::string layer = "model.layers." + std::to_string(l) + ".";
      unbalance(layer, "input_layernorm", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
      unbalance(layer, "post_attention_layernorm", {"mlp.gate_proj", "mlp.up_proj"});
      unbalance(layer, "mlp.up_proj", {"mlp.down_proj"});
      unbalance(layer, "self_attn.v_proj", {"self_attn.o_proj"}, c.head_dim, c.heads / c.kv_heads);
    }
    save("model");
  }

  /// What folding undoes: a balanced model gets columns of uneven sizes, and computes the same as before. Blocks of
  /// `width` columns of a reader read the same `width` features `copies` times.
  void unbalance(const std::string& layer, const std::string& maker, const std::vector<std::string>& readers,
                 int width = 1, int copies = 1) {
    std::mt19937 random(7);
    for (const std::string& reader : readers) {
      reference::Tensor& t = tensors_.at(layer + reader + ".weight");
      std::vector<float> by(static_cast<std::size_t>(t.cols / copies));
      random.seed(7);
      for (float& x : by) x = std::exp2(std::uniform_real_distribution<float>(-3, 3)(random));
      for (int i = 0; i < t.rows; ++i)
        for (int j = 0; j < t.cols; ++j) {
          const int feature = j / width / copies * width + j % width;
          t.values[t.index(i, j)] *= by[static_cast<std::size_t>(feature)];
        }
      if (&reader != &readers.front()) continue;
      for (const char* part : {".weight", ".bias"})
        if (const auto at = tensors_.find(layer + maker + part); at != tensors_.end())
          for (std::size_t k = 0; k < at->second.values.size(); ++k)
            at->second.values[k] /= by[k / (at->second.values.size() / by.size())];
    }
  }
  void save(const std::string& name) { tiny::save(directory_ / name, config_, tensors_); }

  [[nodiscard]] fold_model::Report fold(const fold_model::Options& options, const std::string& from = "model",
                                        const std::string& to = "folded") const {
    return fold_model::run((directory_ / from).string(), (directory_ / to).string(), options);
  }

  tiny::Directory directory_;
  Json config_;
  std::map<std::string, reference::Tensor> tensors_;
};

INSTANTIATE_TEST_SUITE_P(Families, Fold, testing::ValuesIn(kCases), [](const auto& i) { return i.param.name; });

/// Powers of two commute with every product and sum on the way from the factor to its inverse, so not a bit changes, in
/// any type: a factor at a wrong head, bias or norm shows as well as one that is missing.
TEST_P(Fold, PowersOfTwoChangeNoBitOfTheLogits) {
  const engine::Matrix expected = logits(directory_ / "model");
  const fold_model::Report report = fold({.shared = {.group_size = 16, .powers_of_two = true}, .type = {}});
  EXPECT_EQ(logits(directory_ / "folded"), expected);
  EXPECT_EQ(report.rounding_error, 0);
  ASSERT_EQ(report.groups.size(), 8u);
  for (const auto& g : report.groups) {
    EXPECT_LT(g.least, g.most) << g.from;  // something was folded
    EXPECT_LT(g.imbalance_after, g.imbalance_before) << g.from;
  }
  EXPECT_EQ(report.groups[1].from, "layers.0: gate, up");
}

/// A weight and the factor's other place are each off by 2^-24 of themselves, in 8 places; a sum of 40 products grows
/// such an error by sqrt(40) at most where terms cancel, and the layers behind it by less than 10 (measured with random
/// errors of 1e-3): 16 * 2^-24 * 6.3 * 10 = 6e-5 of the largest logit.
TEST_P(Fold, ExactFactorsKeepTheLogits) {
  const engine::Matrix expected = logits(directory_ / "model");
  const fold_model::Report report = fold({.shared = {.group_size = 16}, .type = {}});
  const engine::Matrix found = logits(directory_ / "folded");
  EXPECT_LT((found - expected).cwiseAbs().maxCoeff(), 6e-5f * expected.cwiseAbs().maxCoeff());
  EXPECT_NE(found, expected);
  // Rounding: evenly distributed in a step of at most 2^-23 of the weight.
  EXPECT_GT(report.rounding_error, 0);
  EXPECT_LT(report.rounding_error, 0x1p-24);
  const Json folded = sinq::store::read_json(directory_ / "folded" / "config.json");
  EXPECT_EQ(folded, config_);
}

/// What is stored is the product, rounded once.
TEST_P(Fold, OtherTypes) {
  const fold_model::Report report = fold({.shared = {.group_size = 16}, .type = sinq::DType::bf16}, "model", "bf16");
  EXPECT_GT(report.rounding_error,
            0x1p-11);  // half a step of 2^-8 at most, evenly distributed: 2^-9 / sqrt(3) and less
  EXPECT_LT(report.rounding_error, 0x1p-9);
  const sinq::store::Checkpoint folded(directory_ / "bf16");
  for (const sinq::store::Tensor* t : folded.tensors()) EXPECT_EQ(t->type, sinq::store::ElementType::bf16) << t->name;
  EXPECT_EQ(sinq::store::Config(directory_ / "bf16" / "config.json").text("torch_dtype"), "bfloat16");

  // Powers of two lose nothing in the type that the weights come in.
  const engine::Matrix expected = logits(directory_ / "bf16");
  EXPECT_EQ(fold({.shared = {.group_size = 16, .powers_of_two = true}, .type = {}}, "bf16", "again").rounding_error, 0);
  EXPECT_EQ(logits(directory_ / "again"), expected);
}

/// Every matrix gets back the even columns that it had before `unbalance` drew factors from 1/8 to 8: what is left,
/// here below 8, are deviations of as few as 24 random weights and the one factor of several heads. (That the right
/// columns share a factor shows here only: the logits do not know what a factor is good for.)
TEST_P(Fold, MatricesAreBalanced) {
  (void)fold({.shared = {.group_size = sinq::kWholeRow}, .type = {}});
  const sinq::store::Checkpoint before(directory_ / "model");
  const sinq::store::Checkpoint after(directory_ / "folded");
  for (const sinq::store::Tensor* t : after.tensors())
    if (t->name.find("_proj.weight") != std::string::npos) {
      EXPECT_GT(sinq::imbalance(sinq::store::weights(before.at(t->name))), 16) << t->name;
      EXPECT_LT(sinq::imbalance(sinq::store::weights(*t)), 8) << t->name;
    }
}

/// A folded model needs no second axis: without one it loses less than its original does.
TEST_P(Fold, QuantizedWithoutColScale) {
  (void)fold({.shared = {.group_size = 16}, .type = {}});
  sinq::SerialExecutor serial;
  const auto quantize = [&](const std::string& from, const std::string& to) {
    const auto config_of = [](const std::string&) {
      return sinq::QuantizeConfig{.bits = 3, .group_size = 32, .balance = sinq::Balancing::none};
    };
    (void)quantize_model::run((directory_ / from).string(), (directory_ / to).string(), config_of, {}, Json::object(),
                              serial);
    const engine::Matrix expected = logits(directory_ / "model");
    return (logits(directory_ / to) - expected).norm() / expected.norm();
  };
  const float plain = quantize("model", "plain");
  const float folded = quantize("folded", "quantized");
  EXPECT_LT(folded, 0.8f * plain);
  const auto loaded = sinq::store::load(directory_ / "quantized");
  EXPECT_EQ(loaded.size(), 14u);
  for (const auto& [name, q] : loaded) EXPECT_TRUE(q.col_scale.empty()) << name;
}

/// What is wrong is named, and nothing is written.
TEST_P(Fold, WhatIsNotKnownIsRefused) {
  const auto expect_error = [&](const std::vector<std::string>& parts) {
    save("other");
    try {
      (void)fold({}, "other");
      ADD_FAILURE() << "no error";
    } catch (const std::exception& e) {
      for (const std::string& part : parts)
        EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what() << "\nlacks: " << part;
    }
    EXPECT_FALSE(std::filesystem::exists(directory_ / "folded"));
  };
  const auto good = tensors_;
  tensors_["model.layers.1.pre_feedforward_layernorm.weight"] = tensors_.at("model.norm.weight");
  expect_error({"pre_feedforward_layernorm", "not known"});
  tensors_ = good;
  tensors_.at("model.layers.1.input_layernorm.weight").cols -= 1;
  tensors_.at("model.layers.1.input_layernorm.weight").values.pop_back();
  expect_error({"model.layers.1.input_layernorm.weight", "[23]", "[24]"});
  tensors_ = good;
  tensors_.erase("model.layers.0.mlp.up_proj.weight");
  expect_error({"model.layers.0.mlp.up_proj.weight", "no tensor"});
  tensors_ = good;
  config_["architectures"] = {"GemmaForCausalLM"};
  expect_error({"architectures", "GemmaForCausalLM", "LlamaForCausalLM"});
}

TEST(FoldType, OverflowIsAnError) {
  const tiny::Directory directory;
  const Json config = tiny::tiny_config("LlamaForCausalLM");
  auto tensors = tiny::random_tensors(tiny::parse(config));
  tensors.at("model.embed_tokens.weight").values[5] = 1e6f;
  tiny::save(directory / "model", config, tensors);
  try {
    (void)fold_model::run((directory / "model").string(), (directory / "folded").string(),
                          {.shared = {}, .type = sinq::DType::f16});
    ADD_FAILURE() << "no error";
  } catch (const std::runtime_error& e) {
    for (const char* part : {"embed_tokens", "f16", "--type"})
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos);
  }
}

}  // namespace
