// SPDX-License-Identifier: Apache-2.0

// sinq_compare: its numbers, its encoder, and what it takes from a ggml.

#include "compare/methods.hpp"
#include "compare/subject.hpp"
#include "examples/programs.hpp"

namespace {

using programs::contents;
using programs::Programs;
using tiny::Json;

TEST(Estimate, RatioAndItsInterval) {
  const std::vector<double> x = {2, 4, 9};
  const std::vector<double> n = {1, 2, 3};
  const compare::Estimate e = compare::ratio(x, n);
  EXPECT_DOUBLE_EQ(e.value, 2.5);
  // Residuals x - 2.5 n: -0.5, -1, 1.5.
  const double half = 1.96 * std::sqrt((0.25 + 1 + 2.25) * 3 / 2) / 6;
  EXPECT_DOUBLE_EQ(e.high - e.value, half);
  EXPECT_DOUBLE_EQ(e.value - e.low, half);
  const compare::Estimate one = compare::ratio(std::span(x).first(1), std::span(n).first(1));
  EXPECT_EQ(one.value, 2);
  EXPECT_TRUE(std::isnan(one.low) && std::isnan(one.high));
}

// ------------------------------------------------------------------------------------------------- the encoder

Json bert_config() {
  return {{"model_type", "bert"},         {"hidden_size", 24},        {"intermediate_size", 40},
          {"num_hidden_layers", 2},       {"num_attention_heads", 3}, {"vocab_size", 37},
          {"type_vocab_size", 2},         {"layer_norm_eps", 1e-12},  {"hidden_act", "gelu"},
          {"max_position_embeddings", 32}};
}

using Tensors = std::map<std::string, reference::Tensor>;

Tensors bert_tensors() {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  Tensors tensors;
  const auto add = [&](const std::string& name, int rows, int cols, float scale, float mean) {
    reference::Tensor t{rows, cols, std::vector<float>(static_cast<std::size_t>(rows * cols))};
    for (float& x : t.values) x = mean + scale * normal(random);
    tensors[name] = std::move(t);
  };
  const auto norm = [&](const std::string& name) {
    add(name + ".weight", 1, 24, 0.2f, 1);
    add(name + ".bias", 1, 24, 0.3f, 0);
  };
  const auto linear = [&](const std::string& name, int rows, int cols) {
    add(name + ".weight", rows, cols, 1 / std::sqrt(static_cast<float>(cols)), 0);
    add(name + ".bias", 1, rows, 0.3f, 0);
  };
  add("embeddings.word_embeddings.weight", 37, 24, 1, 0);
  add("embeddings.position_embeddings.weight", 32, 24, 0.5f, 0);
  add("embeddings.token_type_embeddings.weight", 2, 24, 0.5f, 0);
  norm("embeddings.LayerNorm");
  for (const std::string layer : {"encoder.layer.0.", "encoder.layer.1."}) {
    for (const char* part :
         {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"})
      linear(layer + part, 24, 24);
    norm(layer + "attention.output.LayerNorm");
    linear(layer + "intermediate.dense", 40, 24);
    linear(layer + "output.dense", 24, 40);
    norm(layer + "output.LayerNorm");
  }
  return tensors;
}

/// The encoder once more, in double and plain loops, from the description of BERT (arXiv 1810.04805) and of the
/// transformer's encoder (arXiv 1706.03762).
struct ReferenceEncoder {
  const Tensors& tensors;

  reference::Row linear(const std::string& name, const reference::Row& x) const {
    const reference::Tensor& w = tensors.at(name + ".weight");
    reference::Row y;
    for (int i = 0; i < w.rows; ++i) {
      double sum = tensors.at(name + ".bias").at(0, i);
      for (int j = 0; j < w.cols; ++j) sum += w.at(i, j) * x[static_cast<std::size_t>(j)];
      y.push_back(sum);
    }
    return y;
  }
  reference::Row norm(const std::string& name, reference::Row x) const {
    const auto n = static_cast<double>(x.size());
    double mean = 0;
    for (const double v : x) mean += v / n;
    double variance = 0;
    for (const double v : x) variance += (v - mean) * (v - mean) / n;
    for (std::size_t j = 0; j < x.size(); ++j) {
      const int k = static_cast<int>(j);
      x[j] = (x[j] - mean) / std::sqrt(variance + 1e-12) * tensors.at(name + ".weight").at(0, k) +
             tensors.at(name + ".bias").at(0, k);
    }
    return x;
  }
  static reference::Row plus(reference::Row a, const reference::Row& b) {
    for (std::size_t j = 0; j < a.size(); ++j) a[j] += b[j];
    return a;
  }

  reference::Row embedding(const engine::Window& tokens) const {
    reference::Rows x;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      reference::Row row;
      for (int j = 0; j < 24; ++j)
        row.push_back(tensors.at("embeddings.word_embeddings.weight").at(tokens[t], j) +
                      tensors.at("embeddings.position_embeddings.weight").at(static_cast<int>(t), j) +
                      tensors.at("embeddings.token_type_embeddings.weight").at(0, j));
      x.push_back(norm("embeddings.LayerNorm", row));
    }
    for (const std::string layer : {"encoder.layer.0.", "encoder.layer.1."}) {
      reference::Rows q, k, v;
      for (const auto& row : x) {
        q.push_back(linear(layer + "attention.self.query", row));
        k.push_back(linear(layer + "attention.self.key", row));
        v.push_back(linear(layer + "attention.self.value", row));
      }
      for (std::size_t t = 0; t < x.size(); ++t) {
        reference::Row seen(24, 0.0);
        for (std::size_t head = 0; head < 24; head += 8) {
          reference::Row p;
          double total = 0;
          for (std::size_t s = 0; s < x.size(); ++s) {
            double dot = 0;
            for (std::size_t j = head; j < head + 8; ++j) dot += q[t][j] * k[s][j];
            p.push_back(std::exp(dot / std::sqrt(8.0)));
            total += p.back();
          }
          for (std::size_t s = 0; s < x.size(); ++s)
            for (std::size_t j = head; j < head + 8; ++j) seen[j] += p[s] / total * v[s][j];
        }
        x[t] = norm(layer + "attention.output.LayerNorm", plus(x[t], linear(layer + "attention.output.dense", seen)));
      }
      for (auto& row : x) {
        reference::Row up = linear(layer + "intermediate.dense", row);
        for (double& u : up) u = 0.5 * u * (1 + std::erf(u / std::sqrt(2.0)));
        row = norm(layer + "output.LayerNorm", plus(row, linear(layer + "output.dense", up)));
      }
    }
    reference::Row mean(24, 0.0);
    for (const auto& row : x)
      for (std::size_t j = 0; j < 24; ++j) mean[j] += row[j] / static_cast<double>(x.size());
    return mean;
  }
};

TEST(Encoder, EmbedsLikeTheReference) {
  const Tensors tensors = bert_tensors();
  const tiny::Directory directory;
  tiny::save(directory / "bert", bert_config(), tensors);
  const auto checkpoint = sinq::store::Checkpoint(directory / "bert");
  const engine::Encoder encoder = engine::build_encoder(engine::parse_encoder_config({bert_config(), "config.json"}),
                                                        engine::CheckpointSource(checkpoint));
  const engine::Window tokens = {5, 36, 0, 7, 7, 21, 2};
  sinq::SerialExecutor serial;
  const engine::Vector embedding = encoder.embedding(tokens, serial);
  const reference::Row expected = ReferenceEncoder{tensors}.embedding(tokens);
  // Norms keep activations near 1. A product of 24 or 40 terms of that size is off by less than 40 units of 2^-24
  // = 2.4e-6 in float, and 12 products follow each other: 3e-5, were no error ever to cancel.
  for (std::size_t j = 0; j < 24; ++j) EXPECT_NEAR(embedding[static_cast<int>(j)], expected[j], 3e-5) << j;

  EXPECT_THROW(encoder.check_tokens(engine::Window{}), engine::ModelError);
  EXPECT_THROW(encoder.check_tokens(engine::Window(33, 1)), engine::ModelError);
  EXPECT_THROW(encoder.check_tokens(engine::Window{37}), engine::ModelError);
}

TEST(Encoder, RefusesWhatItWouldComputeDifferently) {
  for (const Json& change : {Json{{"hidden_act", "relu"}}, Json{{"position_embedding_type", "relative_key"}},
                             Json{{"num_attention_heads", 5}}}) {
    try {
      (void)engine::parse_encoder_config({tiny::with(bert_config(), change), "config.json"});
      ADD_FAILURE() << change;
    } catch (const sinq::FormatError& e) {
      EXPECT_NE(std::string(e.what()).find(change.begin().key()), std::string::npos) << e.what();
    }
  }
}

// ------------------------------------------------------------------------------------------------- the program

const Json& row_of(const Json& result, const std::string& method, int bits = 0) {
  for (const Json& row : result.at("results"))
    if (row.at("method") == method && (bits == 0 || row.at("bits") == bits)) return row;
  throw std::runtime_error("no row " + method);
}

TEST_F(Programs, CompareSaysWhatQuantizeAndPerplexitySay) {
  save_model("model");
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  const std::string tokens = " --tokens " + path("tokens.safetensors");
  const Json result = expect_json("sinq_compare " + path("model") + tokens +
                                  " --methods presets,published --bits 2,3,4 --json --plot " + path("plot.svg"));
  const Json& rows = result.at("results");
  EXPECT_EQ(rows.size(), 8u + 3 * 5 + 4);
  double least = INFINITY;
  double bits = 0;
  for (const Json& row : rows) {
    EXPECT_GE(row.at("bits_per_weight").get<double>(), bits) << "sorted by size";
    bits = row.at("bits_per_weight");
    const double kl = row.at("kl");
    EXPECT_EQ(row.at("pareto_front").get<bool>(), kl < least) << row;
    least = std::min(least, kl);
    EXPECT_LE(row.at("kl_95_percent")[0].get<double>(), kl);
    EXPECT_GE(row.at("kl_95_percent")[1].get<double>(), kl);
    EXPECT_LT(row.at("perplexity_95_percent")[0].get<double>(), row.at("perplexity").get<double>());
    EXPECT_GT(row.at("perplexity_95_percent")[1].get<double>(), row.at("perplexity").get<double>());
    EXPECT_FALSE(row.at("calibrated").get<bool>());
    EXPECT_GE(row.at("seconds").get<double>(), 0);
  }

  // Restored weights in float products there, products with the packed matrix here: the same but for rounding, 24 bits
  // after the largest of a row's sums, a thousandth of what quantization itself changes.
  for (const auto& [method, method_bits, options] :
       {std::tuple{"sinq-hqq", 3, "--bits 3 --refine hqq"}, std::tuple{"preset-3.5", 0, "--preset 3.5"},
        std::tuple{"nf4", 4, "--rounding nf4 --balance none"}}) {
    ASSERT_EQ(run("sinq_quantize " + path("model") + " " + path("q") + " " + options).code, 0);
    const Json alone = expect_json("sinq_perplexity " + path("q") + tokens + " --json --reference " + path("model"));
    const Json& row = row_of(result, method, method_bits);
    EXPECT_EQ(row.at("bits_per_weight"), alone.at("bits_per_weight")) << method;
    EXPECT_NEAR(row.at("kl").get<double>(), alone.at("kl").get<double>(), 1e-3 * alone.at("kl").get<double>())
        << method;
    EXPECT_NEAR(row.at("perplexity").get<double>(), alone.at("perplexity").get<double>(),
                1e-5 * alone.at("perplexity").get<double>());
    std::filesystem::remove_all(directory_ / "q");
  }

  const std::string svg = contents(path("plot.svg"));
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  std::size_t points = 0;
  for (std::size_t at = 0; (at = svg.find("class=\"ring", at)) != std::string::npos; ++at) ++points;
  EXPECT_EQ(points, rows.size());
  EXPECT_NE(svg.find("Pareto front"), std::string::npos);

  const Json calibrated = expect_json("sinq_compare " + path("model") + tokens + " --calibration " +
                                      path("tokens.safetensors") + " --methods calibrated,rtn --bits 3 --json");
  EXPECT_EQ(calibrated.at("results").size(), 1u + 8 + 4);
  for (const Json& row : calibrated.at("results")) EXPECT_EQ(row.at("calibrated"), row.at("method") != "rtn") << row;
  // Calibrated with the very windows it is judged by, error feedback loses less than rounding to nearest.
  EXPECT_LT(row_of(calibrated, "gptq").at("kl").get<double>(), row_of(calibrated, "rtn").at("kl").get<double>());

  const std::string some = "sinq_compare " + path("model") + tokens + " --methods rtn,preset-8 --bits 8 --windows 2";
  const Json two = expect_json(some + " --json");
  EXPECT_EQ(two.at("results").size(), 2u);
  EXPECT_EQ(expect_json(some + " --threads 1 --json").at("results")[0].at("kl"), two.at("results")[0].at("kl"));
  const programs::Outcome table = run(some);
  EXPECT_EQ(table.code, 0);
  EXPECT_NE(table.out.find("preset-8"), std::string::npos) << table.out;
}

TEST_F(Programs, CompareEncoders) {
  tiny::save(directory_ / "bert", bert_config(), bert_tensors());
  tiny::save_windows(directory_ / "tokens.safetensors", 37);
  const Json result = expect_json("sinq_compare " + path("bert") + " --tokens " + path("tokens.safetensors") +
                                  " --methods rtn --bits 2,8 --json");
  const double two = row_of(result, "rtn", 2).at("cosine_distance");
  const double eight = row_of(result, "rtn", 8).at("cosine_distance");
  EXPECT_GT(eight, 0);
  EXPECT_LT(eight, 1e-3);
  EXPECT_GT(two, 100 * eight);  // a step is 85 times as long, and the distance grows with its square
  EXPECT_TRUE(row_of(result, "rtn", 8).at("kl").is_null());

  const std::string compare = "sinq_compare " + path("bert") + " --tokens " + path("tokens.safetensors");
  expect_failure(compare + " --methods gptq", 2, {"--calibration", "encoder"});
  const Json calibrated =
      expect_json(compare + " --calibration " + path("tokens.safetensors") + " --methods rtn,gptq --bits 2 --json");
  EXPECT_LT(row_of(calibrated, "gptq").at("cosine_distance").get<double>(), two);
}

TEST_F(Programs, CompareRefuses) {
  save_model("model");
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  const std::string compare = "sinq_compare " + path("model") + " --tokens " + path("tokens.safetensors") + " ";
  expect_failure(compare + "--methods sinc", 2, {"--methods", "sinc", "presets", "sinq-hqq"});
  expect_failure(compare + "--bits 7", 2, {"--bits", "7", "{2,3,4,5,6,8}"});
  expect_failure(compare + "--windows 0", 2, {"--windows", "1"});
  expect_failure(compare + "--plot " + path("nowhere/plot.svg"), 2, {"--plot", "nowhere"});
  expect_failure(compare + "--ggml " + path("tokens.safetensors"), 1, {"ggml", "tokens.safetensors"});
  std::filesystem::create_directories(directory_ / "q");
  ASSERT_EQ(run("sinq_quantize " + path("model") + " " + path("q")).code, 0);
  expect_failure("sinq_compare " + path("q") + " --tokens " + path("tokens.safetensors") + " --methods rtn", 1,
                 {"already quantized"});
}

// ------------------------------------------------------------------------------------------------- ggml

TEST(Ggml, RoundsInBlocks) {
  const auto ggml = compare::Ggml::find();
  if (!ggml) GTEST_SKIP() << "*** no ggml on this machine (pip install libggml-python) ***";
  sinq::SerialExecutor serial;
  engine::Matrix w(3, 20);  // 60 weights: a block of 32 and a short one, which ends of rows do not end
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& x : w.reshaped()) x = normal(random);
  engine::Matrix rounded = w;
  EXPECT_EQ(ggml->round(compare::kGgmlTypes[5], rounded, serial), 2 * 18);
  // Q4_0: the weight of largest magnitude becomes -8 steps; steps are stored as half.
  for (Eigen::Index block = 0; block < 60; block += 32) {
    const Eigen::Index count = std::min<Eigen::Index>(32, 60 - block);
    float extreme = 0;
    for (Eigen::Index k = block; k < block + count; ++k)
      if (std::abs(w.data()[k]) > std::abs(extreme)) extreme = w.data()[k];
    const float step = extreme / -8;
    const float stored = static_cast<float>(Eigen::half(step));
    for (Eigen::Index k = block; k < block + count; ++k)
      EXPECT_EQ(rounded.data()[k], stored * (std::min(15.0f, std::floor(w.data()[k] / step + 8.5f)) - 8)) << k;
  }
  double last = 1;
  for (const char* name : {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}) {  // each bit less than halves the error
    engine::Matrix many(7, 300);
    for (float& x : many.reshaped()) x = normal(random);
    engine::Matrix restored = many;
    const auto type = std::find_if(compare::kGgmlTypes.begin(), compare::kGgmlTypes.end(),
                                   [&](const auto& t) { return std::string(t.name) == name; });
    ggml->round(*type, restored, serial);
    const double error = (restored - many).norm() / many.norm();
    EXPECT_LT(error, 0.7 * last) << name;
    EXPECT_GT(error, 0.01) << name;
    last = error;
  }
}

}  // namespace
