// SPDX-License-Identifier: Apache-2.0

// Quantizes a model directory in Hugging Face layout.

#include <fstream>
#include <map>

#include "calibration_text.hpp"
#include "engine/load.hpp"
#include "quantize_budget.hpp"
#include "quantize_model.hpp"

namespace {

struct Arguments {
  std::string source;
  std::string target;
  sinq::QuantizeConfig config;
  std::optional<double> preset;
  std::optional<double> budget;
  std::string tile = "stripe";
  std::string rounding = "uniform";
  std::string refine = "none";
  std::string balance = "sinkhorn";
  int aux_bits = 16;
  std::string calibration = "none";
  std::string tokens;
  std::optional<int> windows;
  std::string include;
  std::string exclude;
  std::string report;
  bool json = false;
};

std::optional<std::regex> pattern(const std::string& text, const char* option) {
  if (text.empty()) return std::nullopt;
  try {
    return std::regex(text);
  } catch (const std::regex_error& e) {
    throw program::UsageError(std::string(option) + " \"" + text + "\" is not a regular expression: " + e.what());
  }
}

/// The words of the command line as a configuration. What CLI11 lets through is one of the words.
sinq::QuantizeConfig configuration(const Arguments& a, bool bits_given) {
  using sinq::Aux;
  using sinq::Rounding;
  sinq::QuantizeConfig c = a.config;
  c.tile = a.tile == "stripe" ? sinq::Tile::stripe : sinq::Tile::square;
  c.rounding = a.rounding == "uniform"     ? Rounding::uniform
               : a.rounding == "symmetric" ? Rounding::symmetric
               : a.rounding == "nf4"       ? Rounding::nf4
               : a.rounding == "nf3"       ? Rounding::nf3
                                           : Rounding::table;
  c.refine = a.refine == "none" ? sinq::Refine::none : a.refine == "hqq" ? sinq::Refine::hqq : sinq::Refine::fit;
  c.balance = a.balance == "sinkhorn" ? sinq::Balancing::sinkhorn : sinq::Balancing::none;
  if (a.calibration == "weighted" && a.refine != "fit" && !a.budget)
    throw program::UsageError("--calibration weighted weights a fit: it needs --refine fit, a preset or a budget");
  c.scale = c.zero = a.aux_bits == 16 ? Aux::f16 : static_cast<Aux>(a.aux_bits);
  const auto refuse = [](const std::string& one, const std::string& other, const std::string& why) {
    throw program::UsageError(one + " does not go with " + other + ", " + why);
  };
  const std::string rounding = "--rounding " + a.rounding;
  if (a.rounding == "nf4" || a.rounding == "nf3") {
    const int own = a.rounding == "nf4" ? 4 : 3;
    if (bits_given && c.bits != own)
      refuse("--bits " + std::to_string(c.bits), rounding, "which has " + std::to_string(own) + " bits");
    c.bits = own;
  }
  if (a.refine == "hqq" && a.rounding != "uniform") refuse("--refine hqq", rounding, "only with uniform");
  if (a.rounding == "table" && a.refine != "fit") refuse("--refine " + a.refine, rounding, "only fit does");
  if (a.rounding == "table" && c.bits > 4)
    refuse("--bits " + std::to_string(c.bits), rounding, "which has 2, 3 or 4 bits");
  return c;
}

sinq::Calibration calibration(const Arguments& a) {
  return a.calibration == "awq"        ? sinq::Calibration::awq
         : a.calibration == "weighted" ? sinq::Calibration::weighted
         : a.calibration == "gptq"     ? sinq::Calibration::gptq
                                       : sinq::Calibration::none;
}

/// Runs the model over the calibration text, its own where no other is given.
engine::ActivationMap activations(const Arguments& a, program::Threads& threads) {
  if (a.calibration == "none") return {};
  const engine::Model model = engine::load_model(a.source);
  const std::vector<engine::Window> windows =
      a.tokens.empty()
          ? calibration_text::write(model, a.windows.value_or(calibration_text::kWindows), threads.executor())
          : calibration_text::read("--tokens", a.tokens);
  program::ProgressBar bar("reading calibration text");
  return engine::collect(model, windows, {.second_moments = a.calibration == "gptq"}, threads.executor(),
                         [&](std::int64_t done, std::int64_t total) {
                           bar.update(static_cast<double>(done) / static_cast<double>(total));
                         });
}

/// model.layers.7.mlp.up_proj.weight -> layers.*.mlp.up_proj
std::string class_of(const std::string& name) {
  static const std::regex number(R"(\.[0-9]+\.)");
  static const std::regex ends(R"(^model\.|\.weight$)");
  return std::regex_replace(std::regex_replace(name, number, ".*."), ends, "");
}

struct Class {
  std::string name;
  std::int64_t count = 0;
  double weights = 0, bits = 0, square_error = 0, before = 0, after = 0;
  bool widened = false;
  std::map<int, std::int64_t> widths{};  // bits of a code -> matrices
};

std::vector<Class> classes(const quantize_model::Report& report) {
  std::vector<Class> result;
  std::map<std::string, std::size_t> at;
  for (const auto& t : report.quantized) {
    const auto [found, is_new] = at.emplace(class_of(t.name), result.size());
    if (is_new) result.push_back({.name = found->first});
    Class& c = result[found->second];
    const auto n = static_cast<double>(t.matrices);
    c.count += t.matrices;
    c.weights += t.weights();
    c.bits += 8.0 * static_cast<double>(t.bytes);
    c.square_error += n * t.relative_error * t.relative_error;
    c.before += n * t.imbalance_before;
    c.after += n * t.imbalance_after;
    c.widened |= t.widened;
    c.widths[t.bits] += t.matrices;
  }
  return result;
}

void print(const quantize_model::Report& report, const Arguments& a, double seconds, std::ostream& out) {
  using program::format;
  const bool balanced = a.balance == "sinkhorn";
  std::vector<std::string> head = {"quantized", "matrices", "weights", "bits/weight", "error"};
  if (balanced) head.emplace_back("imbalance");
  if (a.budget) head.emplace_back("bits of a code");
  program::Table table(head);
  bool widened = false;
  for (const Class& c : classes(report)) {
    const auto n = static_cast<double>(c.count);
    std::vector<std::string> row = {c.name + (c.widened ? " (1)" : ""), std::to_string(c.count),
                                    format("%.3g M", c.weights / 1e6), format("%.3f", c.bits / c.weights),
                                    format("%.2f %%", 100 * std::sqrt(c.square_error / n))};
    if (balanced) row.push_back(format("%.3g -> %.3g", c.before / n, c.after / n));
    if (a.budget) {
      std::string widths;
      for (const auto& [bits, count] : c.widths)
        widths += (widths.empty() ? "" : ", ") + std::to_string(bits) + " x " + std::to_string(count);
      row.push_back(std::move(widths));
    }
    table.add(std::move(row));
    widened |= c.widened;
  }
  table.print(out);
  if (widened) out << "(1) scales beyond the range of 16 bits: stored in 32\n";

  std::map<std::string, std::vector<std::string>> reasons;  // reason -> classes
  std::map<std::string, int> counts;
  for (const auto& t : report.left_alone) {
    auto& names = reasons[t.reason];
    const std::string name = class_of(t.name);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    ++counts[t.reason];
  }
  out << "\n";
  program::Table left({"left alone", "tensors", "because it is"});
  for (const auto& [reason, names] : reasons) {
    std::string list;
    for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 3); ++i) list += (i ? ", " : "") + names[i];
    if (names.size() > 3) list += ", ...";
    left.add({list, std::to_string(counts[reason]), reason});
  }
  left.print(out);
  out << format(
      "\n%.4f bits per weight over the quantized tensors; %s holds %.2f MB; %.2f s, of which %.2f s quantizing\n",
      report.bits_per_weight(), a.target.c_str(), static_cast<double>(report.model_bytes) / 1e6, seconds,
      report.seconds());
}

sinq::store::Json to_json(const quantize_model::Report& report, const sinq::store::Json& settings) {
  using sinq::store::Json;
  Json quantized = Json::array();
  for (const auto& t : report.quantized)
    quantized.push_back({{"name", t.name},
                         {"matrices", t.matrices},
                         {"rows", t.rows},
                         {"cols", t.cols},
                         {"bits", t.bits},
                         {"bytes", t.bytes},
                         {"bits_per_weight", t.bits_per_weight()},
                         {"relative_error", t.relative_error},
                         {"imbalance_before", t.imbalance_before},
                         {"imbalance_after", t.imbalance_after},
                         {"widened", t.widened},
                         {"seconds", t.seconds}});
  Json left = Json::array();
  for (const auto& t : report.left_alone) left.push_back({{"name", t.name}, {"tensor", t.shape}, {"reason", t.reason}});
  return {{"settings", settings},
          {"bits_per_weight", report.bits_per_weight()},
          {"model_bytes", report.model_bytes},
          {"quantize_seconds", report.seconds()},
          {"quantized", std::move(quantized)},
          {"left_alone", std::move(left)}};
}

void run(const Arguments& a, bool bits_given, program::Threads& threads) {
  if (!a.report.empty())  // now, not after an hour of quantizing
    if (const auto folder = std::filesystem::absolute(a.report).parent_path(); !std::filesystem::is_directory(folder))
      throw program::UsageError("--report " + a.report + ": there is no directory " + folder.string());
  if (a.calibration == "none" && (a.windows || !a.tokens.empty()))
    throw program::UsageError(std::string(a.windows ? "--windows" : "--tokens") +
                              " is for a calibration: choose one with --calibration");
  sinq::QuantizeConfig fixed = a.preset ? sinq::preset(*a.preset) : configuration(a, bits_given);
  const quantize_model::Selection selection{pattern(a.include, "--include"), pattern(a.exclude, "--exclude")};
  fixed.calibration = calibration(a);
  const engine::ActivationMap statistics = activations(a, threads);
  const auto activations_of = [&](const std::string& name) {
    const auto found = statistics.find(name);
    return found == statistics.end() ? nullptr : found->second.get();
  };
  const auto balance = a.balance == "none" ? sinq::Balancing::none : sinq::Balancing::sinkhorn;
  std::map<std::string, sinq::QuantizeConfig> chosen;
  if (a.budget) {
    program::ProgressBar bar("choosing widths");
    chosen = quantize_model::within_budget(a.source, *a.budget, balance, selection, threads.executor(), activations_of,
                                           [&](double share) { bar.update(share); });
  }
  const auto config_of = [&](const std::string& name) {
    sinq::QuantizeConfig c = a.budget   ? chosen.at(name)
                             : a.preset ? sinq::preset(*a.preset, sinq::role_of(name))
                                        : fixed;
    c.balance = balance;
    c.calibration = statistics.contains(name) ? fixed.calibration : sinq::Calibration::none;
    return c;
  };
  sinq::store::Json settings = {{"bits", fixed.bits},     {"group_size", fixed.group_size},
                                {"tile", a.tile},         {"rounding", a.rounding},
                                {"refine", a.refine},     {"balance", a.balance},
                                {"aux_bits", a.aux_bits}, {"kurtosis_gate", fixed.kurtosis_gate}};
  if (a.preset) settings = {{"preset", *a.preset}, {"balance", a.balance}};
  if (a.budget) settings = {{"budget", *a.budget}, {"balance", a.balance}};
  if (a.calibration != "none") {
    settings["calibration"] = a.calibration;
    if (a.tokens.empty())
      settings["windows"] = a.windows.value_or(calibration_text::kWindows);
    else
      settings["tokens"] = a.tokens;
  }
  program::ProgressBar bar("quantizing");
  const program::Stopwatch time;
  const auto report = quantize_model::run(
      a.source, a.target, config_of, selection, settings, threads.executor(),
      [&](double share, const std::string& name) { bar.update(share, name); }, activations_of);
  bar.clear();
  const sinq::store::Json json = to_json(report, settings);
  if (!a.report.empty()) {
    std::ofstream file(a.report);
    file << json.dump(1) << "\n";
    if (!file.flush()) throw std::runtime_error(a.report + ": the report cannot be written");
  }
  print(report, a, time.seconds(), a.json ? std::cerr : std::cout);
  if (a.json) std::cout << json.dump() << "\n";
}

}  // namespace

// What could be thrown here is a mistake in the options below; `run` catches everything else.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app(
      "Quantizes the linear layers of a model's decoder; embeddings, heads and norms stay as they are. Where nothing "
      "is chosen: the preset of 4.5 bits per weight. Any of the options that describe a method chooses that method "
      "instead (--bits 4: SINQ with 4 bits in groups of 64).",
      "sinq_quantize");
  Arguments a;
  program::Threads threads;
  app.add_option("MODEL_DIR", a.source, "Model directory in Hugging Face layout")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("OUT_DIR", a.target, "Directory to write")->required();
  auto* preset = app.add_option("--preset", a.preset, "Best known way to stay below so many bits per weight")
                     ->check(program::one_of<double>({sinq::kPresets.begin(), sinq::kPresets.end()}));
  auto* budget =
      app.add_option("--budget", a.budget,
                     "Mixed precision: the widths, tensor by tensor, that stay below so many bits per weight "
                     "over all of them and lose least")
          ->check(program::from_to(2.0, 16.0))
          ->excludes(preset);
  std::vector<CLI::Option*> method;
  const auto words = [&](const char* name, std::string& value, std::vector<std::string> allowed, const char* help) {
    method.push_back(
        app.add_option(name, value, help)->check(CLI::IsMember(std::move(allowed)))->capture_default_str());
  };
  auto* bits = app.add_option("--bits", a.config.bits, "Bits of a code")
                   ->check(program::one_of<int>({sinq::kBitWidths.begin(), sinq::kBitWidths.end()}))
                   ->capture_default_str();
  method.push_back(bits);
  method.push_back(
      app.add_option("--group-size", a.config.group_size,
                     "Weights of a row that share scale and zero: a multiple of 16 up to 256, or 0 for the whole row")
          ->check(program::group_size())
          ->capture_default_str());
  words("--tile", a.tile, {"stripe", "square"}, "What is balanced at a time: all rows of a group, or a square");
  words("--rounding", a.rounding, {"uniform", "symmetric", "nf4", "nf3", "table"},
        "Levels; table: a codebook fitted to balanced groups, with --refine fit");
  words("--refine", a.refine, {"none", "hqq", "fit"},
        "hqq: improvement of the zeros; fit: scales and zeros of least error, then an unbiased gain");
  words("--balance", a.balance, {"sinkhorn", "none"},
        "Second axis of scales; none goes with --preset, too, for a model that sinq_fold has balanced");
  method.push_back(
      app.add_option("--kurtosis-gate", a.config.kurtosis_gate,
                     "Leave matrices whose kurtosis exceeds this unbalanced (the paper's programs: 5); 0: balance all")
          ->check(program::from_to(0.0, 1e9))
          ->capture_default_str());
  method.push_back(app.add_option("--aux-bits", a.aux_bits, "Bits of a scale and of a zero")
                       ->check(program::one_of<int>({16, 8, 6, 4}))
                       ->capture_default_str());
  for (CLI::Option* option : method)
    if (option->get_name() != "--balance") {
      preset->excludes(option);
      budget->excludes(option);
    }
  app.add_option("--calibration", a.calibration,
                 "What is made of the activations that a text causes in the decoder's linear layers. awq: column "
                 "scales in proportion to them (with balancing: A-SINQ); weighted: the fit makes the error of the "
                 "outputs small; gptq: error feedback, and a weighted fit")
      ->check(CLI::IsMember({"none", "awq", "weighted", "gptq"}))
      ->capture_default_str();
  auto* tokens = app.add_option("--tokens", a.tokens,
                                "Text to calibrate with: a safetensors file with `tokens` and `offsets` (integers)")
                     ->check(CLI::ExistingFile);
  auto* windows = app.add_option("--windows", a.windows,
                                 "Without --tokens: how many windows of 256 tokens the model writes for itself (64)")
                      ->check(program::from_to(1, 100'000));
  windows->excludes(tokens);
  app.add_option("--include", a.include, "Regular expression: tensors to quantize beside the decoder's linear layers");
  app.add_option("--exclude", a.exclude, "Regular expression: tensors to leave alone, whatever else names them");
  threads.add_option(app);
  app.add_option("--report", a.report, "File to write a JSON report to, tensor by tensor");
  app.add_flag("--json", a.json, "The same report as one JSON object on standard output");
  return program::run(app, argc, argv, [&] {
    if (!a.budget && std::all_of(method.begin(), method.end(), [](auto* option) { return option->count() == 0; }))
      a.preset = a.preset.value_or(4.5);
    run(a, bits->count() != 0, threads);
  });
}
