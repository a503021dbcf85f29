// SPDX-License-Identifier: Apache-2.0

// How well a model predicts a text, and how far a quantized model departs from its original.

#include "engine/load.hpp"
#include "engine/windows.hpp"
#include "program.hpp"

namespace {

struct Arguments {
  std::string model;
  std::string tokens;
  std::string reference;
  std::string numerics = "exact";
  bool json = false;
};

/// Bits per weight over the quantized matrices; none: not a number, which JSON shows as null.
double bits_per_weight(const std::string& model) {
  const sinq::store::Checkpoint checkpoint(model);
  double bits = 0;
  double weights = 0;
  for (const auto& matrix : sinq::store::contents(checkpoint).quantized) {
    bits += 8.0 * static_cast<double>(matrix.bytes);
    weights += static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols);
  }
  return bits / weights;
}

void run(const Arguments& a, program::Threads& threads) {
  engine::Model model = engine::load_model(a.model);
  model.set_numerics(a.numerics == "fast" ? sinq::Numerics::fast : sinq::Numerics::exact);
  const auto windows = engine::read_windows(a.tokens);
  std::optional<engine::Model> reference;
  if (!a.reference.empty()) reference = engine::load_model(a.reference);

  program::ProgressBar bar("evaluating");
  const program::Stopwatch time;
  const engine::Evaluation e = engine::evaluate(model, windows, threads.executor(), {reference ? &*reference : nullptr},
                                                [&](std::int64_t done, std::int64_t total) {
                                                  bar.update(static_cast<double>(done) / static_cast<double>(total));
                                                });
  const double speed = static_cast<double>(e.predicted) / time.seconds();
  const double bits = bits_per_weight(a.model);

  if (a.json) {
    sinq::store::Json json = {{"perplexity", e.perplexity()}};
    if (reference) {
      json["kl"] = e.mean_kl();
      json["flip_rate_percent"] = e.flip_rate_percent();
    }
    json["predicted_tokens"] = e.predicted;
    json["bits_per_weight"] = bits;
    json["tokens_per_second"] = speed;
    json["instruction_set"] = sinq::name_of(sinq::current_isa());
    bar.clear();
    std::cout << json.dump() << "\n";
    return;
  }
  bar.clear();
  std::cout << program::format("perplexity         %.4f\n", e.perplexity());
  if (reference)
    std::cout << program::format("KL divergence      %.5f nats per token\nflip rate          %.2f %%\n", e.mean_kl(),
                                 e.flip_rate_percent());
  std::cout << program::format("predicted tokens   %lld\n", static_cast<long long>(e.predicted));
  if (!std::isnan(bits)) std::cout << program::format("bits per weight    %.4f of the quantized tensors\n", bits);
  std::cout << program::format("speed              %.0f tokens per second, with %s\n", speed,
                               sinq::name_of(sinq::current_isa()));
}

}  // namespace

// What could be thrown here is a mistake in the options below; `run` catches everything else.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app(
      "Perplexity of a model over windows of tokens, each evaluated alone; with --reference also the mean KL "
      "divergence from the reference's predictions and how often the most likely token differs.",
      "sinq_perplexity");
  Arguments a;
  program::Threads threads;
  app.add_option("MODEL_DIR", a.model, "Model directory, full-precision or quantized")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--tokens", a.tokens, "safetensors file with `tokens` and `offsets` (integers)")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--reference", a.reference, "Model directory to compare with")->check(CLI::ExistingDirectory);
  app.add_option("--numerics", a.numerics, "Of quantized products: exact, or fast (activations rounded to 8 bits)")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->capture_default_str();
  threads.add_option(app);
  app.add_flag("--json", a.json, "One JSON object on standard output");
  return program::run(app, argc, argv, [&] { run(a, threads); });
}
