// SPDX-License-Identifier: Apache-2.0

// Runs the programs as a user does.

#include <limits>
#include <sinq/sinq.hpp>

#include "examples/programs.hpp"

namespace {

using programs::contents;
using programs::Outcome;
using programs::Programs;
using tiny::Json;

constexpr const char* kPrograms[] = {"sinq_quantize", "sinq_perplexity", "sinq_inspect", "sinq_generate",
                                     "sinq_fold",     "sinq_demo",       "sinq_compare"};

TEST_F(Programs, HelpGoesToStandardOutput) {
  for (const std::string program : kPrograms) {
    const Outcome o = run(program + " --help");
    EXPECT_EQ(o.code, 0);
    EXPECT_NE(o.out.find("Usage: " + program), std::string::npos) << o.out;
    EXPECT_NE(o.out.find("Exit codes"), std::string::npos);
    EXPECT_EQ(o.err, "");
  }
}

TEST_F(Programs, WrongUsageSaysWhatIsAllowed) {
  save_model("model");
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  const std::string model = path("model");
  for (const std::string program : kPrograms) {
    expect_failure(program + " --colour", 2, {"--colour", "allowed:", "--help"});
    expect_failure(program + " " + path("nowhere"), 2, {"does not exist", "nowhere"});
    if (program != "sinq_demo") expect_failure(program, 2, {"MODEL_DIR", "required"});
  }
  const std::string quantize = "sinq_quantize " + model + " " + path("q") + " ";
  expect_failure(quantize + "--bits 7", 2, {"--bits", "7", "{2,3,4,5,6,8}"});
  expect_failure(quantize + "--bits four", 2, {"--bits", "four", "{2,3,4,5,6,8}"});
  expect_failure(quantize + "--group-size 24", 2, {"--group-size", "24", "multiple of 16"});
  expect_failure(quantize + "--tile round", 2, {"--tile", "round", "{stripe,square}"});
  expect_failure(quantize + "--rounding nf5", 2, {"--rounding", "{uniform,symmetric,nf4,nf3,table}"});
  expect_failure(quantize + "--rounding nf4 --bits 3", 2, {"--bits 3", "nf4", "4 bits"});
  expect_failure(quantize + "--rounding nf4 --refine hqq", 2, {"--refine hqq", "uniform"});
  expect_failure(quantize + "--bits ''", 2, {"--bits", "{2,3,4,5,6,8}"});
  expect_failure(quantize + "--kurtosis-gate -1", 2, {"--kurtosis-gate", "-1", "from 0"});
  expect_failure(quantize + "--kurtosis-gate nan", 2, {"--kurtosis-gate", "nan", "from 0"});
  expect_failure(quantize + "--aux-bits 12", 2, {"--aux-bits", "{16,8,6,4}"});
  expect_failure(quantize + "--preset 3.3", 2, {"--preset", "3.3", "{2.5,3,3.5,4,4.5,5,6,8}"});
  expect_failure(quantize + "--preset 3.5 --bits 3", 2, {"--preset", "--bits"});
  expect_failure(quantize + "--budget 1", 2, {"--budget", "1", "from 2 to 16"});
  expect_failure(quantize + "--budget 3 --preset 3.5", 2, {"--budget", "--preset"});
  expect_failure(quantize + "--budget 3 --bits 3", 2, {"--budget", "--bits"});
  expect_failure(quantize + "--budget 2.5", 2, {"--budget 2.5", "bits per weight at least"});
  expect_failure(quantize + "--rounding table", 2, {"--rounding table", "only fit"});
  expect_failure(quantize + "--rounding table --refine fit --bits 5", 2, {"--bits 5", "2, 3 or 4"});
  expect_failure(quantize + "--calibration imatrix", 2, {"--calibration", "{none,awq,weighted,gptq}"});
  expect_failure(quantize + "--calibration weighted --bits 4", 2, {"--calibration weighted", "--refine fit"});
  expect_failure(quantize + "--windows 4", 2, {"--windows", "--calibration"});
  expect_failure(quantize + "--calibration none --windows 4", 2, {"--windows", "--calibration"});
  expect_failure(quantize + "--tokens " + path("tokens.safetensors"), 2, {"--tokens", "--calibration"});
  expect_failure(quantize + "--calibration gptq --windows 0", 2, {"--windows", "1"});
  expect_failure(quantize + "--calibration gptq --windows 4 --tokens " + path("tokens.safetensors"), 2,
                 {"--windows", "--tokens"});
  expect_failure(quantize + "--calibration gptq --tokens " + path("nowhere"), 2, {"--tokens", "does not exist"});
  expect_failure(quantize + "--threads 0", 2, {"--threads", "1", "1024"});
  expect_failure(quantize + "--include '('", 2, {"--include", "regular expression"});
  expect_failure(quantize + "--include lm_head", 2, {"--include", "no tensor"});
  expect_failure(quantize + "--exclude lm_head", 2, {"--exclude", "no tensor"});
  expect_failure(quantize + "--exclude ''", 2, {"--exclude", "empty"});
  expect_failure(quantize + "--report " + path("nowhere/r.json"), 2, {"--report", "nowhere", "no directory"});
  expect_failure("sinq_quantize " + model + " ''", 2, {"OUT_DIR", "empty"});
  expect_failure(quantize + "--exclude .", 2, {"no tensor", "left"});
  const std::string fold = "sinq_fold " + model + " " + path("q") + " ";
  expect_failure(fold + "--group-size 24", 2, {"--group-size", "24", "multiple of 16"});
  expect_failure(fold + "--factors halves", 2, {"--factors", "halves", "powers-of-two"});
  expect_failure(fold + "--type f8", 2, {"--type", "f8", "bf16"});
  expect_failure("sinq_perplexity " + model, 2, {"--tokens", "required"});
  expect_failure("sinq_perplexity " + model + " --tokens " + path("none"), 2, {"--tokens", "does not exist"});
  expect_failure("sinq_perplexity " + model + " --tokens " + path("tokens.safetensors") + " --numerics quick", 2,
                 {"--numerics", "exact", "fast"});
  expect_failure("sinq_generate " + model, 2, {"--prompt", "--tokens"});
  expect_failure("sinq_generate " + model + " --prompt a --tokens 1", 2, {"--prompt", "--tokens"});
  expect_failure("sinq_generate " + model + " --colour", 2, {"--prompt", "--tokens"});
  const std::string generate = "sinq_generate " + model + " --prompt a ";
  expect_failure(generate + "--count 0", 2, {"--count", "1"});
  expect_failure(generate + "--temperature nan", 2, {"--temperature", "nan", "0 to 100"});
  expect_failure(generate + "--seed -1", 2, {"--seed", "-1", "from 0"});
  expect_failure("sinq_generate " + model + " --tokens ''", 2, {"--tokens", "empty"});
  for (const char* tokens : {"1,x", "1,,2", "1,", "99999999999"})
    expect_failure("sinq_generate " + model + " --tokens " + tokens, 2, {"--tokens", "whole numbers"});
  EXPECT_FALSE(std::filesystem::exists(directory_ / "q"));
}

TEST_F(Programs, FailuresNameTheCause) {
  save_model("model");
  std::filesystem::create_directories(directory_ / "empty");
  expect_failure("sinq_inspect " + path("empty"), 1, {"empty", "model.safetensors"});
  expect_failure("sinq_quantize " + path("empty") + " " + path("q"), 1, {"empty", "model.safetensors"});
  expect_failure("sinq_generate " + path("empty") + " --prompt a", 1, {"config.json"});
  expect_failure("sinq_quantize " + path("model") + " " + path("model"), 1, {"the model itself"});
  expect_failure("sinq_perplexity " + path("model") + " --tokens " + path("model/model.safetensors"), 1, {"tokens"});
  expect_failure("sinq_generate " + path("model") + " --tokens 3,256", 1, {"token 1 is 256", "0 to 255"});
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  save_model("other", {{"vocab_size", 300}});
  expect_failure(
      "sinq_perplexity " + path("model") + " --tokens " + path("tokens.safetensors") + " --reference " + path("other"),
      1, {"256", "300"});
  expect_failure("sinq_generate " + path("other") + " --prompt a", 2, {"300", "--tokens"});
}

TEST_F(Programs, QuantizePerplexityInspectGenerate) {
  const auto tensors = save_model("model");
  std::ofstream(directory_ / "model" / "tokenizer.json") << "{}";
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  const std::string quantized = path("q");
  const Json report = expect_json("sinq_quantize " + path("model") + " " + quantized +
                                  " --bits 3 --group-size 32 --threads 2 --json --report " + path("report.json"));
  EXPECT_EQ(report.at("quantized").size(), 14u);
  EXPECT_EQ(report.at("left_alone").size(), 6u);
  EXPECT_EQ(report.at("settings").at("bits"), 3);
  Json written = sinq::store::read_json(directory_ / "report.json");
  EXPECT_EQ(written, report);
  EXPECT_TRUE(std::filesystem::exists(directory_ / "q" / "tokenizer.json"));
  EXPECT_EQ(sinq::store::Config(directory_ / "q" / "config.json").object("quantization_config").integer("bits"), 3);

  // What lies on the disk is what the library makes of the same weights.
  const auto loaded = sinq::store::load(directory_ / "q");
  ASSERT_EQ(loaded.size(), 14u);
  for (const auto& [name, q] : loaded) {
    const auto& t = tensors.at(name);
    EXPECT_EQ(q, sinq::quantize(sinq::WeightView(t.values.data(), sinq::DType::f32, t.rows, t.cols),
                                {.bits = 3, .group_size = 32}))
        << name;
  }

  const std::string perplexity = "sinq_perplexity " + quantized + " --tokens " + path("tokens.safetensors") + " --json";
  const Json alone = expect_json(perplexity);
  EXPECT_EQ(alone.at("predicted_tokens"), 60);
  EXPECT_GT(alone.at("perplexity").get<double>(), 1);
  EXPECT_FALSE(alone.contains("kl"));
  const Json compared = expect_json(perplexity + " --threads 2 --reference " + path("model"));
  EXPECT_EQ(compared.at("perplexity"), alone.at("perplexity"));  // to the last bit, whatever the threads
  const double fast = expect_json(perplexity + " --numerics fast").at("perplexity").get<double>();
  EXPECT_NE(fast, alone.at("perplexity").get<double>());
  EXPECT_GT(fast, 1);
  EXPECT_GT(compared.at("kl").get<double>(), 0);
  EXPECT_TRUE(compared.contains("flip_rate_percent"));
  EXPECT_GT(compared.at("tokens_per_second").get<double>(), 0);
  EXPECT_EQ(compared.at("instruction_set"), sinq::name_of(sinq::current_isa()));
  EXPECT_EQ(compared.at("bits_per_weight"), report.at("bits_per_weight"));
  const Json full = expect_json("sinq_perplexity " + path("model") + " --tokens " + path("tokens.safetensors") +
                                " --reference " + path("model") + " --json");
  EXPECT_TRUE(full.at("bits_per_weight").is_null());
  EXPECT_EQ(full.at("kl"), 0);
  EXPECT_EQ(full.at("flip_rate_percent"), 0);

  const Json inspected = expect_json("sinq_inspect " + quantized + " --original " + path("model") + " --json");
  EXPECT_EQ(inspected.at("tensors").size(), 20u);
  EXPECT_EQ(inspected.at("bits_per_weight"), report.at("bits_per_weight"));
  std::map<std::string, double> errors;
  for (const auto& t : report.at("quantized")) errors[t.at("name")] = t.at("relative_error");
  for (const auto& t : inspected.at("tensors")) {
    EXPECT_EQ(t.contains("bits"), errors.contains(t.at("name")));
    EXPECT_NEAR(t.at("relative_error").get<double>(), errors[t.at("name")], 1e-12) << t;
    if (t.at("shape").size() == 2) {
      EXPECT_GE(t.at("imbalance").get<double>(), 1) << t;
    }
  }

  const std::string generate = "sinq_generate " + quantized + " --prompt 'To be' --count 12 --json";
  const Json greedy = expect_json(generate);
  EXPECT_EQ(greedy.at("tokens").size(), 12u);
  EXPECT_GT(greedy.at("tokens_per_second").get<double>(), 0);
  EXPECT_EQ(greedy.at("instruction_set"), sinq::name_of(sinq::current_isa()));
  EXPECT_EQ(expect_json(generate + " --threads 2").at("tokens"), greedy.at("tokens"));
  EXPECT_EQ(expect_json("sinq_generate " + quantized + " --tokens 84,111,32,98,101 --count 12 --json").at("tokens"),
            greedy.at("tokens"));
  const Json sampled = expect_json(generate + " --temperature 1 --seed 3");
  EXPECT_EQ(expect_json(generate + " --temperature 1 --seed 3").at("tokens"), sampled.at("tokens"));
  EXPECT_NE(expect_json(generate + " --temperature 1 --seed 4").at("tokens"), sampled.at("tokens"));

  for (const char* program : {"sinq_quantize", "sinq_inspect", "sinq_generate"}) {  // the same for people
    const std::string name = program;
    const std::string rest = name == "sinq_quantize" ? path("model") + " " + path("q2")
                                                     : quantized + (name == "sinq_generate" ? " --prompt a" : "");
    const Outcome o = run(name + " " + rest);
    EXPECT_EQ(o.code, 0) << o.err;
    EXPECT_NE(o.out, "");
    EXPECT_EQ(o.err.find('\r'), std::string::npos) << "a progress bar where there is no terminal";
  }
  expect_failure("sinq_quantize " + quantized + " " + path("q3"), 1, {"already quantized"});
}

TEST_F(Programs, InspectGoesOnWhereATensorHasNoMeasure) {
  auto tensors = save_model("model");
  reference::Tensor mask = tensors.begin()->second;
  std::fill(mask.values.begin(), mask.values.end(), -3.4e38f);
  tensors["model.mask"] = mask;
  tiny::save(directory_ / "model", sinq::store::read_json(directory_ / "model" / "config.json"), tensors);
  const std::string why = "sinq: weights(0, 0) = -3.4e+38: must be below 2^120 in magnitude";
  const Json inspected = expect_json("sinq_inspect " + path("model") + " --json");
  EXPECT_EQ(inspected.at("tensors").size(), tensors.size());
  for (const auto& t : inspected.at("tensors")) {
    const bool is_mask = t.at("name") == "model.mask";
    EXPECT_EQ(t.contains("note"), is_mask) << t;
    if (is_mask) {
      EXPECT_EQ(t.at("note"), why);
      EXPECT_TRUE(t.at("kurtosis").is_null());
    }
  }
  const Outcome o = run("sinq_inspect " + path("model"));
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.out.find("\nmodel.mask: " + why + "\n"), std::string::npos) << o.out;
  for (const auto& [name, tensor] : tensors) EXPECT_NE(o.out.find("\n" + name + " "), std::string::npos) << name;
}

TEST_F(Programs, EveryMethodGoesThrough) {
  save_model("model");
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  for (const char* options :
       {"--bits 2 --balance none", "--bits 3 --refine hqq", "--bits 5 --tile square --group-size 16",
        "--bits 6 --rounding symmetric", "--preset 2.5", "--bits 3 --rounding table --refine fit --aux-bits 6",
        "--rounding nf4", "--rounding nf3 --balance none", "--bits 8 --group-size 0", "--aux-bits 8",
        "--rounding symmetric --aux-bits 8 --include embed", "--calibration gptq --windows 2 --include embed",
        "--calibration weighted --preset 3.5 --windows 2", "--calibration awq --bits 4 --balance none --windows 2"}) {
    const Outcome o = run("sinq_quantize " + path("model") + " " + path("q") + " " + options);
    EXPECT_EQ(o.code, 0) << options << "\n" << o.err;
    const Json result = expect_json("sinq_perplexity " + path("q") + " --tokens " + path("tokens.safetensors") +
                                    " --json --reference " + path("model"));
    EXPECT_LT(result.at("kl").get<double>(), 2) << options;
  }
}

// Calibrated with a text, the model departs less from its original on that text.
TEST_F(Programs, CalibrationHelpsOnItsText) {
  save_model("model");
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  const auto kl = [&](const std::string& options) {
    const Json report =
        expect_json("sinq_quantize " + path("model") + " " + path("q") + " --preset 3 --json" + options);
    EXPECT_EQ(report.at("settings").contains("calibration"), !options.empty());
    return expect_json("sinq_perplexity " + path("q") + " --tokens " + path("tokens.safetensors") +
                       " --json --reference " + path("model"))
        .at("kl")
        .get<double>();
  };
  const std::string tokens = " --tokens " + path("tokens.safetensors");
  EXPECT_LT(kl(" --calibration gptq" + tokens), 0.9 * kl(""));
  const double two_threads = kl(" --calibration gptq --threads 2 --windows 3");
  EXPECT_EQ(kl(" --calibration gptq --threads 1 --windows 3"), two_threads);
}

/// Two commands make a model that any engine runs: balanced, and without a second axis.
TEST_F(Programs, FoldThenQuantizeWithoutBalancing) {
  save_model("model");
  tiny::save_windows(directory_ / "tokens.safetensors", 256);
  const Json report = expect_json("sinq_fold " + path("model") + " " + path("folded") + " --group-size 32 --json");
  EXPECT_EQ(report.at("groups").size(), 8u);
  EXPECT_LT(report.at("rounding_error").get<double>(), 0x1p-24);
  const std::string compare = " --json --tokens " + path("tokens.safetensors") + " --reference " + path("model");
  // Logits off by 1e-4 of themselves (fold_test.cpp) change a KL divergence by the square of that.
  EXPECT_LT(expect_json("sinq_perplexity " + path("folded") + compare).at("kl").get<double>(), 1e-7);

  const Json quantized =
      expect_json("sinq_quantize " + path("folded") + " " + path("q") + " --preset 4.5 --balance none --json");
  EXPECT_EQ(quantized.at("settings"), Json({{"preset", 4.5}, {"balance", "none"}}));
  for (const auto& [name, q] : sinq::store::load(directory_ / "q")) EXPECT_TRUE(q.col_scale.empty()) << name;
  EXPECT_LT(expect_json("sinq_perplexity " + path("q") + compare).at("kl").get<double>(), 0.1);
  const Outcome text = run("sinq_fold " + path("model") + " " + path("text"));
  EXPECT_NE(text.out.find("q, k, v -> input_layernorm"), std::string::npos) << text.out;
  expect_failure("sinq_fold " + path("q") + " " + path("again"), 1, {"already quantized"});
}

TEST_F(Programs, BudgetIsKept) {
  save_model("model");
  const std::string command = "sinq_quantize " + path("model") + " " + path("q") + " --json --budget ";
  const Json small = expect_json(command + "4.2");
  const Json large = expect_json(command + "6.3 --balance none");
  EXPECT_LE(small.at("bits_per_weight").get<double>(), 4.2);
  EXPECT_GT(small.at("bits_per_weight").get<double>(), 4.1);  // a step of the smallest matrix is 0.02 of the whole
  EXPECT_LE(large.at("bits_per_weight").get<double>(), 6.3);
  EXPECT_GT(large.at("bits_per_weight").get<double>(), 6.2);
  EXPECT_EQ(small.at("settings").at("budget"), 4.2);
  std::map<int, int> widths;
  for (const auto& t : small.at("quantized")) ++widths[t.at("bits").get<int>()];
  EXPECT_GT(widths.size(), 1u);
  for (std::size_t i = 0; i < 14; ++i)
    EXPECT_GE(large.at("quantized")[i].at("bits"), small.at("quantized")[i].at("bits"));
  EXPECT_NE(run("sinq_quantize " + path("model") + " " + path("q") + " --budget 4.2").out.find("bits of a code"),
            std::string::npos);
}

TEST_F(Programs, TiedEmbeddingIsStoredOnce) {
  auto tensors = save_model("model");
  tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight");  // some checkpoints hold both
  const Json config = sinq::store::read_json(directory_ / "model" / "config.json");
  tiny::save(directory_ / "model", config, tensors);
  const Json report =
      expect_json("sinq_quantize " + path("model") + " " + path("q") + " --include embed_tokens --json");
  const sinq::store::Checkpoint checkpoint(directory_ / "q");
  EXPECT_TRUE(sinq::store::is_quantized(checkpoint, "model.embed_tokens.weight"));
  EXPECT_EQ(checkpoint.find("lm_head.weight"), nullptr);
  EXPECT_FALSE(sinq::store::is_quantized(checkpoint, "lm_head.weight"));
  EXPECT_NE(report.at("left_alone").dump().find("tied to the embedding"), std::string::npos);
  EXPECT_EQ(run("sinq_generate " + path("q") + " --prompt a").code, 0);
  expect_failure("sinq_quantize " + path("model") + " " + path("q2") + " --include lm_head", 2,
                 {"lm_head.weight", "tied to model.embed_tokens.weight"});
}

TEST_F(Programs, FusedExpertsAreQuantizedOneByOne) {
  auto tensors = save_model("model");
  const Json config = sinq::store::read_json(directory_ / "model" / "config.json");
  std::filesystem::create_directories(directory_ / "moe");
  std::ofstream(directory_ / "moe" / "config.json") << config.dump();
  const std::string experts = "model.layers.0.mlp.experts.gate_up_proj";
  std::mt19937 random(1);
  std::vector<float> values(3 * 20 * 32);
  for (float& x : values) x = std::normal_distribution<float>()(random);
  {
    sinq::store::Writer out(directory_ / "moe" / "model.safetensors");
    out.add(experts, sinq::store::ElementType::f32, {3, 20, 32}, std::as_bytes(std::span(values)));
    out.add("model.layers.0.mlp.gate.weight", sinq::store::ElementType::f32, {3, 32},
            std::as_bytes(std::span(values).first(96)));
    out.finish();
  }
  const Json report = expect_json("sinq_quantize " + path("moe") + " " + path("q") + " --json");
  ASSERT_EQ(report.at("quantized").size(), 1u);
  EXPECT_EQ(report.at("quantized")[0].at("matrices"), 3);
  EXPECT_EQ(report.at("left_alone")[0].at("reason"), "routes between experts");
  const auto loaded = sinq::store::load(directory_ / "q");
  ASSERT_EQ(loaded.size(), 3u);
  for (int k = 0; k < 3; ++k)
    EXPECT_EQ(loaded.at(experts + "." + std::to_string(k)),
              sinq::quantize(sinq::WeightView(values.data() + k * 640, sinq::DType::f32, 20, 32)));
  const Json inspected = expect_json("sinq_inspect " + path("q") + " --original " + path("moe") + " --json");
  for (const auto& t : inspected.at("tensors")) EXPECT_TRUE(t.at("relative_error").is_number()) << t;

  values[2 * 640 + 3 * 32 + 5] = std::numeric_limits<float>::quiet_NaN();
  {
    sinq::store::Writer out(directory_ / "moe" / "model.safetensors");
    out.add(experts, sinq::store::ElementType::f32, {3, 20, 32}, std::as_bytes(std::span(values)));
    out.finish();
  }
  expect_failure("sinq_quantize " + path("moe") + " " + path("nan"), 1, {experts + ".2", "(3, 5)"});
}

TEST_F(Programs, NothingIsLeftOfAModelWithNaN) {
  auto tensors = save_model("model");
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  tensors.at(name).values[7 * 80 + 11] = std::numeric_limits<float>::quiet_NaN();
  const Json config = sinq::store::read_json(directory_ / "model" / "config.json");
  tiny::save(directory_ / "model", config, tensors);
  expect_failure("sinq_quantize " + path("model") + " " + path("q"), 1, {name, "(7, 11)"});
  std::vector<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(directory_ / "."))
    left.push_back(entry.path().filename().string());
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{"err", "model", "out"}));
}

TEST_F(Programs, DemoShowsEveryMethod) {
  const std::filesystem::path model = SINQ_EXAMPLES_DIR "/demo-model";
  if (!std::filesystem::exists(model / "model.safetensors")) GTEST_SKIP() << "*** there is no demo model yet ***";
  const Json result = expect_json("sinq_demo --windows 2 --json --out " + path("demo"));
  const auto& rows = result.at("results");
  ASSERT_EQ(rows.size(), 22u);  // the original, 16 published methods, 5 presets
  for (const auto& row : rows) {
    EXPECT_GT(row.at("perplexity").get<double>(), 1) << row;
    if (row.at("bits") == 4) {
      EXPECT_LT(row.at("bits_per_weight").get<double>(), 4.8) << row;
      EXPECT_LT(row.at("file_bytes").get<double>(), 0.4 * rows[0].at("file_bytes").get<double>()) << row;
      EXPECT_LT(row.at("kl").get<double>(), 0.2) << row;
    }
  }
  EXPECT_EQ(result.at("instruction_set"), sinq::name_of(sinq::current_isa()));
  const std::string svg = contents(result.at("picture").get<std::string>());
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_NE(svg.find("SINQ + HQQ"), std::string::npos);
  std::size_t points = 0;
  for (std::size_t at = 0; (at = svg.find("class=\"ring", at)) != std::string::npos; ++at) ++points;
  EXPECT_EQ(points, rows.size() - 1) << "every row but the original's is a point of the picture";
}

}  // namespace
