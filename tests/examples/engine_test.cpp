// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sinq/core/thread_pool.hpp>

#include "engine/build.hpp"
#include "engine/collect.hpp"
#include "engine/generate.hpp"
#include "examples/tiny_model.hpp"

namespace {

using tiny::Json;
using tiny::parse;
using tiny::random_tensors;
using tiny::tiny_config;
using tiny::with;

struct MapSource {
  const std::map<std::string, reference::Tensor>& tensors;

  [[nodiscard]] bool has(const std::string& name) const { return tensors.count(name) != 0; }
  [[nodiscard]] engine::Vector vector(const std::string& name, int size) const {
    return Eigen::Map<const engine::Vector>(tensors.at(name).values.data(), size);
  }
  [[nodiscard]] engine::Linear matrix(const std::string& name, int rows, int cols) const {
    return engine::Linear(sinq::WeightView(tensors.at(name).values.data(), sinq::DType::f32, rows, cols));
  }
};

const std::vector<std::int32_t> kTokens = {3, 14, 15, 9, 26, 5, 35, 8, 0, 36, 32, 3, 3};

/// The float engine rounds every value to eps = 2^-24 relative, and a sum of n values to at most n eps of the sum of
/// their magnitudes. With n <= 48 and about ten sums in a row per layer, two layers stay below 20 * 48 * 2^-24 = 6e-5
/// of the largest value; a residual stream that keeps its size passes that on. Mistakes (a swapped head, a missing
/// bias, cos for sin) move logits by more than a hundredth.
constexpr double kTolerance = 1e-4;

double largest(const reference::Rows& rows) {
  double result = 0;
  for (const auto& row : rows)
    for (const double x : row) result = std::max(result, std::abs(x));
  return result;
}

double difference(const engine::Matrix& logits, const reference::Rows& expected) {
  double result = 0;
  for (std::size_t t = 0; t < expected.size(); ++t)
    for (std::size_t i = 0; i < expected[t].size(); ++i)
      result = std::max(result, std::abs(expected[t][i] - double{logits(static_cast<int>(t), static_cast<int>(i))}));
  return result;
}

/// Prefill and steps of one token, against the reference.
void expect_same_as_reference(const Json& json_config) {
  const engine::ModelConfig config = parse(json_config);
  reference::Decoder reference{config, random_tensors(config), {}, config.rope.attention_factor};
  reference.frequencies = engine::rope_frequencies(config.rope, config.head_dim, 0);  // tested below
  MapSource source{reference.tensors};
  const engine::Model model = engine::build_model(config, source);
  const reference::Rows expected = reference.logits(kTokens);
  const double tolerance = kTolerance * largest(expected);

  sinq::SerialExecutor serial;
  engine::KvCache whole(config);
  const engine::Matrix prefill = model.logits(model.hidden(kTokens, whole, serial), serial);
  EXPECT_LT(difference(prefill, expected), tolerance);
  EXPECT_EQ(whole.length(), static_cast<std::int64_t>(kTokens.size()));

  // A prefill of five, then single tokens.
  engine::KvCache cache(config);
  const std::span<const std::int32_t> tokens(kTokens);
  engine::Matrix steps(prefill.rows(), prefill.cols());
  steps.topRows(5) = model.logits(model.hidden(tokens.first(5), cache, serial), serial);
  for (std::size_t t = 5; t < kTokens.size(); ++t)
    steps.row(static_cast<int>(t)) = model.logits(model.hidden(tokens.subspan(t, 1), cache, serial), serial);
  EXPECT_LT(difference(steps, expected), tolerance);
}

TEST(Engine, LlamaAgreesWithTheReference) {
  expect_same_as_reference(tiny_config("LlamaForCausalLM"));
}
TEST(Engine, LlamaWithBiasesAndHead) {
  expect_same_as_reference(with(tiny_config("LlamaForCausalLM"),
                                {{"attention_bias", true}, {"mlp_bias", true}, {"tie_word_embeddings", false}}));
}
TEST(Engine, LlamaDerivesHeadDimAndKvHeads) {
  Json config = tiny_config("LlamaForCausalLM");
  config.erase("head_dim");
  config.erase("num_key_value_heads");
  EXPECT_EQ(parse(config).head_dim, 4);
  EXPECT_EQ(parse(config).kv_heads, 6);
  expect_same_as_reference(config);
}
TEST(Engine, Qwen2AgreesWithTheReference) {
  const Json config = tiny_config("Qwen2ForCausalLM");
  EXPECT_TRUE(parse(config).qkv_bias);
  expect_same_as_reference(config);
  expect_same_as_reference(with(config, {{"tie_word_embeddings", false}}));
}
TEST(Engine, Qwen2SlidingWindow) {
  const Json config = with(tiny_config("Qwen2ForCausalLM"),
                           {{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 1}});
  EXPECT_EQ(parse(config).window, (std::vector<int>{0, 4}));
  expect_same_as_reference(config);
  const Json types = with(config, {{"layer_types", {"sliding_attention", "full_attention"}}});
  EXPECT_EQ(parse(types).window, (std::vector<int>{4, 0}));
  expect_same_as_reference(types);
}
TEST(Engine, Qwen3AgreesWithTheReference) {
  expect_same_as_reference(tiny_config("Qwen3ForCausalLM"));
  expect_same_as_reference(
      with(tiny_config("Qwen3ForCausalLM"), {{"tie_word_embeddings", false}, {"attention_bias", true}}));
}
TEST(Engine, ScaledRopeReachesTheLogits) {
  const Json llama = tiny_config("LlamaForCausalLM");
  expect_same_as_reference(with(llama, {{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}));
  expect_same_as_reference(with(llama, {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 4.0}}}}));
}

TEST(Engine, ThreadsDoNotChangeABit) {
  const engine::ModelConfig config = parse(tiny_config("Qwen3ForCausalLM"));
  const auto tensors = random_tensors(config);
  MapSource source{tensors};
  const engine::Model model = engine::build_model(config, source);
  Eigen::ThreadPool pool(3);
  sinq::ThreadPoolExecutor threads(pool);
  sinq::SerialExecutor serial;
  engine::KvCache a(config), b(config);
  EXPECT_EQ(model.logits(model.hidden(kTokens, a, serial), serial),
            model.logits(model.hidden(kTokens, b, threads), threads));
}

TEST(Engine, TokenOutsideTheVocabulary) {
  engine::Model model;
  model.config.vocab_size = 37;
  const std::vector<std::int32_t> tokens = {1, 37};
  EXPECT_THROW(model.check_tokens(tokens), engine::ModelError);
}

// --- positions -----------------------------------------------------------------------------------------------------

engine::RopeConfig parse_rope(const Json& changes) {
  return parse(with(tiny_config("LlamaForCausalLM"), changes)).rope;
}

void expect_frequencies(const engine::RopeConfig& rope, int head_dim, std::int64_t length,
                        const std::vector<double>& expected) {
  const std::vector<double> f = engine::rope_frequencies(rope, head_dim, length);
  ASSERT_EQ(f.size(), expected.size());
  for (std::size_t k = 0; k < f.size(); ++k) EXPECT_NEAR(f[k] / expected[k], 1, 1e-12) << k;
}

TEST(Rope, Plain) {
  expect_frequencies(parse_rope(Json::object()), 8, 1000, {1, 0.1, 0.01, 0.001});  // theta = 10000 by default
  expect_frequencies(parse_rope({{"rope_theta", 1e6}}), 4, 1, {1, 1e-3});
  expect_frequencies(parse_rope({{"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}}}), 4, 1,
                     {1, 1e-3});
  expect_frequencies(parse_rope({{"rope_scaling", nullptr}}), 4, 1, {1, 0.01});
}

TEST(Rope, Linear) {
  expect_frequencies(parse_rope({{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}}), 4, 1, {0.25, 0.0025});
}

TEST(Rope, DynamicStretchesBeyondTheTrainingLength) {
  const Json scaling = {{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}}};
  expect_frequencies(parse_rope(scaling), 4, 64, {1, 0.01});
  // 128 tokens: theta = 10^4 * (2 * 128 / 64 - 1)^(4 / 2) = 9 * 10^4
  expect_frequencies(parse_rope(scaling), 4, 128, {1, 1.0 / 300});
}

TEST(Rope, Llama3KeepsShortWavesAndStretchesLongOnes) {
  Json scaling = {{"rope_type", "llama3"},
                  {"factor", 8.0},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 8192}};
  // 8192 positions are 1303 turns at frequency 1 (kept) and 0.13 at 10^-4 (divided by 8).
  expect_frequencies(parse_rope({{"rope_theta", 1e8}, {"rope_scaling", scaling}}), 4, 1, {1, 1.25e-5});
  // 2.5 turns lie halfway between 1 and 4: half is kept, half is divided.
  const double f = 2.5 * 2 * std::numbers::pi / 8192;
  expect_frequencies(parse_rope({{"rope_theta", 1 / (f * f)}, {"rope_scaling", scaling}}), 4, 1, {1, f * 0.5625});
  scaling.erase("low_freq_factor");
  EXPECT_THROW(parse_rope({{"rope_scaling", scaling}}), sinq::FormatError);
}

TEST(Rope, Yarn) {
  Json yarn = {{"rope_theta", 10000.0}, {"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", 100}, {"beta_slow", 1}};
  // With 2000 pi positions dimension(turns) = 4 ln(1000 / turns) / ln 10^4: 1 for 100 turns, 3 for one turn.
  // Dimensions 0 ... 3 are interpolated by 0, 0, 1/2, 1.
  yarn["original_max_position_embeddings"] = 2000 * std::numbers::pi;
  yarn["truncate"] = false;
  expect_frequencies(parse_rope({{"rope_parameters", yarn}}), 8, 1, {1, 0.1, 0.01 * 0.625, 0.001 * 0.25});
  // 6000 positions: 0.98 and 2.98, truncated to 0 and 3: interpolated by 0, 1/3, 2/3, 1.
  yarn["original_max_position_embeddings"] = 6000;
  yarn["truncate"] = true;
  const engine::RopeConfig rope = parse_rope({{"rope_parameters", yarn}});
  expect_frequencies(rope, 8, 1, {1, 0.1 * 0.75, 0.01 * 0.5, 0.001 * 0.25});
  EXPECT_NEAR(rope.attention_factor, 1.1386294361119891, 1e-12);  // 0.1 ln 4 + 1
  yarn["attention_factor"] = 0.75;
  EXPECT_EQ(parse_rope({{"rope_parameters", yarn}}).attention_factor, 0.75);
  yarn.erase("attention_factor");
  yarn["mscale"] = 2.0;
  yarn["mscale_all_dim"] = 1.0;
  EXPECT_NEAR(parse_rope({{"rope_parameters", yarn}}).attention_factor, 1.2772588722239781 / 1.1386294361119891, 1e-12);
}

// --- what is not supported says so ----------------------------------------------------------------------------------

void expect_error(const Json& changes, const std::string& part) {
  try {
    (void)parse(with(tiny_config("LlamaForCausalLM"), changes));
    ADD_FAILURE() << "no error for " << changes;
  } catch (const sinq::FormatError& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(ModelConfig, ErrorsNameTheKeyAndWhatIsSupported) {
  expect_error({{"architectures", {"GemmaForCausalLM"}}},
               "\"architectures\" is \"GemmaForCausalLM\", which is not supported; supported are LlamaForCausalLM");
  expect_error({{"architectures", nullptr}}, "\"model_type\" is missing");
  expect_error({{"architectures", Json::array()}}, "\"architectures\" is empty");
  expect_error({{"hidden_size", nullptr}}, "\"hidden_size\" is missing");
  expect_error({{"hidden_size", "24"}}, "\"hidden_size\" is not an integer");
  expect_error({{"hidden_size", -24}}, "\"hidden_size\" is -24, allowed are 1 to");
  expect_error({{"num_key_value_heads", 4}}, "\"num_key_value_heads\" is 4, must divide");
  expect_error({{"num_attention_heads", 7}, {"head_dim", nullptr}, {"num_key_value_heads", 1}},
               "must divide hidden_size, which is 24");
  expect_error({{"head_dim", 7}}, "is 7, must be even");
  expect_error({{"hidden_act", "gelu"}}, "\"hidden_act\" is \"gelu\", which is not supported");
  expect_error({{"rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}}},
               "\"rope_scaling.type\" is \"longrope\", which is not supported; supported are default, linear");
  expect_error({{"rope_scaling", {{"type", "linear"}}}}, "\"rope_scaling.factor\" is missing");
  expect_error({{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}}, "\"rope_scaling.factor\" is 0.5");
  expect_error({{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, "\"rope_parameters.partial_rotary_factor\"");
  expect_error({{"tie_word_embeddings", 1}}, "\"tie_word_embeddings\" is neither true nor false");
}

// What the first attention gets is the embedding, normed: known without running the model.
TEST(Collect, SeesWhatTheLayersGet) {
  const engine::ModelConfig config = parse(tiny_config("LlamaForCausalLM"));
  const auto tensors = random_tensors(config);
  MapSource source{tensors};
  const engine::Model model = engine::build_model(config, source);
  const std::vector<engine::Window> windows = {kTokens, {}, {1, 2, 3}};
  sinq::SerialExecutor serial;
  const auto all = engine::collect(model, windows, {.second_moments = true}, serial);
  EXPECT_EQ(all.size(), 14u);
  for (const auto& [name, statistics] : all) {
    EXPECT_EQ(statistics->cols(), tensors.at(name).cols) << name;
    EXPECT_EQ(statistics->tokens(), 16) << name;
  }
  const std::string layer = "model.layers.0.";
  EXPECT_EQ(all.at(layer + "self_attn.q_proj.weight"), all.at(layer + "self_attn.v_proj.weight"));
  EXPECT_EQ(all.at(layer + "mlp.gate_proj.weight"), all.at(layer + "mlp.up_proj.weight"));
  EXPECT_NE(all.at(layer + "self_attn.q_proj.weight"), all.at("model.layers.1.self_attn.q_proj.weight"));

  sinq::Activations expected(config.hidden_size);
  for (const engine::Window& window : windows) {
    const engine::Matrix x = model.embedding.rows_at(window);
    const engine::Matrix n = engine::rms_norm(x, model.layers[0].attention_norm, config.rms_norm_eps);
    expected.add(n);
  }
  EXPECT_EQ(all.at(layer + "self_attn.k_proj.weight")->mean_square(), expected.mean_square());

  Eigen::ThreadPool three(3);
  sinq::ThreadPoolExecutor pool(three);
  const auto threaded = engine::collect(model, windows, {.second_moments = true}, pool);
  for (const auto& [name, statistics] : all)
    EXPECT_EQ(threaded.at(name)->mean_square(), statistics->mean_square()) << name;
}

TEST(Generate, OwnTextIsTheSameOnAnyNumberOfThreads) {
  for (bool with_bos : {true, false}) {
    Json json_config = tiny_config("LlamaForCausalLM");
    if (with_bos) json_config["bos_token_id"] = 7;
    const engine::ModelConfig config = parse(json_config);
    const auto tensors = random_tensors(config);
    MapSource source{tensors};
    const engine::Model model = engine::build_model(config, source);
    sinq::SerialExecutor serial;
    Eigen::ThreadPool three(3);
    sinq::ThreadPoolExecutor pool(three);
    const auto windows = engine::own_text(model, 5, 12, 1, serial);
    ASSERT_EQ(windows.size(), 5u);
    for (const auto& window : windows) {
      EXPECT_EQ(window.size(), 12u);
      if (with_bos) {
        EXPECT_EQ(window[0], 7);
      }
    }
    EXPECT_NE(windows[0], windows[1]);
    EXPECT_EQ(windows, engine::own_text(model, 5, 12, 1, pool));
  }
}

}  // namespace
