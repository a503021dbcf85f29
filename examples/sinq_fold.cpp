// SPDX-License-Identifier: Apache-2.0

// Writes a full-precision model that computes the same and whose matrices are balanced.

#include "fold_model.hpp"

namespace {

struct Arguments {
  std::string source;
  std::string target;
  std::int64_t group_size = 64;
  std::string factors = "exact";
  std::string type = "keep";
  bool json = false;
};

fold_model::Options options(const Arguments& a, sinq::Executor& executor) {
  fold_model::Options o;
  o.shared.group_size = a.group_size;
  o.shared.powers_of_two = a.factors == "powers-of-two";
  o.shared.executor = &executor;
  for (const sinq::DType type : {sinq::DType::f32, sinq::DType::f16, sinq::DType::bf16})
    if (a.type == sinq::name_of(type)) o.type = type;
  return o;
}

/// All layers of one kind in one line: layers.3: q, k, v -> q, k, v
void print(const fold_model::Report& report, const Arguments& a, double seconds, std::ostream& out) {
  using program::format;
  struct Line {
    fold_model::GroupReport sum;
    int count = 0;
  };
  std::vector<std::pair<std::string, Line>> lines;
  for (const auto& g : report.groups) {
    const std::string name = g.from.substr(g.from.find(' ') + 1) + " -> " + g.to;
    auto at = std::find_if(lines.begin(), lines.end(), [&](const auto& line) { return line.first == name; });
    if (at == lines.end()) at = lines.insert(at, {name, {.sum = {"", "", 0, 0}}});
    Line& line = at->second;
    ++line.count;
    line.sum.imbalance_before += g.imbalance_before;
    line.sum.imbalance_after += g.imbalance_after;
    line.sum.least = std::min(line.sum.least, g.least);
    line.sum.most = std::max(line.sum.most, g.most);
  }
  program::Table table({"columns of -> into", "layers", "imbalance", "factors"});
  for (const auto& [name, line] : lines)
    table.add({name, std::to_string(line.count),
               format("%.3g -> %.3g", line.sum.imbalance_before / line.count, line.sum.imbalance_after / line.count),
               format("%.3g to %.3g", line.sum.least, line.sum.most)});
  table.print(out);
  out << format("\nrounding to the element type: %.2g of the changed weights; %s holds %.2f MB; %.2f s\n",
                report.rounding_error, a.target.c_str(), static_cast<double>(report.model_bytes) / 1e6, seconds);
}

sinq::store::Json to_json(const fold_model::Report& report, const Arguments& a) {
  using sinq::store::Json;
  Json groups = Json::array();
  for (const auto& g : report.groups)
    groups.push_back({{"from", g.from},
                      {"to", g.to},
                      {"imbalance_before", g.imbalance_before},
                      {"imbalance_after", g.imbalance_after},
                      {"least_factor", g.least},
                      {"most_factor", g.most}});
  return {{"settings", {{"group_size", a.group_size}, {"factors", a.factors}, {"type", a.type}}},
          {"rounding_error", report.rounding_error},
          {"model_bytes", report.model_bytes},
          {"groups", std::move(groups)}};
}

void run(const Arguments& a, program::Threads& threads) {
  program::ProgressBar bar("balancing");
  const program::Stopwatch time;
  const auto report =
      fold_model::run(a.source, a.target, options(a, threads.executor()), [&](double share) { bar.update(share); });
  bar.clear();
  print(report, a, time.seconds(), a.json ? std::cerr : std::cout);
  if (a.json) std::cout << to_json(report, a).dump() << "\n";
}

}  // namespace

// What could be thrown here is a mistake in the options below; `run` catches everything else.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app(
      "Moves column factors out of a decoder's matrices into the norms and matrices that make their inputs (Pre-SINQ). "
      "The result is a full-precision model directory that computes the same; its matrices are balanced, so that any "
      "format and engine without a second axis loses less: llama.cpp's, or `sinq_quantize --balance none`.",
      "sinq_fold");
  Arguments a;
  program::Threads threads;
  app.add_option("MODEL_DIR", a.source, "Model directory in Hugging Face layout: Llama, Qwen2 or Qwen3")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("OUT_DIR", a.target, "Directory to write")->required();
  app.add_option("--group-size", a.group_size,
                 "Columns balanced at a time: a multiple of 16 up to 256, or 0 for all of them")
      ->check(program::group_size())
      ->capture_default_str();
  app.add_option("--factors", a.factors,
                 "exact, or rounded to powers of two, which changes no bit of a weight's fraction")
      ->check(CLI::IsMember({"exact", "powers-of-two"}))
      ->capture_default_str();
  app.add_option("--type", a.type, "Element type of the result's floating-point tensors")
      ->check(CLI::IsMember({"keep", "f32", "f16", "bf16"}))
      ->capture_default_str();
  threads.add_option(app);
  app.add_flag("--json", a.json, "The report as one JSON object on standard output");
  return program::run(app, argc, argv, [&] { run(a, threads); });
}
