// SPDX-License-Identifier: Apache-2.0

// Continues a text (models whose tokens are bytes) or a list of token ids (others).

#include "engine/generate.hpp"
#include "engine/load.hpp"
#include "engine/windows.hpp"
#include "program.hpp"

namespace {

struct Arguments {
  std::string model;
  std::string prompt;
  std::vector<std::int32_t> tokens;
  int count = 200;
  engine::Sampling sampling;
  bool json = false;
};

void run(const Arguments& a, program::Threads& threads) {
  const engine::Model model = engine::load_model(a.model);
  const bool bytes = a.tokens.empty();
  if (bytes && model.config.vocab_size != 256)
    throw program::UsageError("--prompt needs a model whose tokens are bytes (a vocabulary of 256), this one has " +
                              std::to_string(model.config.vocab_size) + ": give ids with --tokens 1,2,3");
  const engine::Window prompt = bytes ? engine::bytes_as_tokens(a.prompt) : a.tokens;

  // For people the text appears as it is made; JSON comes at the end.
  if (!a.json && bytes) std::cout << a.prompt << std::flush;
  const program::Stopwatch time;
  const auto tokens = engine::generate(model, prompt, a.count, a.sampling, threads.executor(), [&](std::int32_t token) {
    if (!a.json && bytes) std::cout << static_cast<char>(token) << std::flush;
    if (!a.json && !bytes) std::cout << token << " " << std::flush;
    return true;
  });
  const double speed = static_cast<double>(tokens.size()) / time.seconds();
  if (a.json) {
    sinq::store::Json json = {{"tokens", tokens}, {"tokens_per_second", speed}};
    // Bytes of a model need not be UTF-8, JSON must be.
    if (bytes) json["text"] = std::string(tokens.begin(), tokens.end());
    std::cout << json.dump(-1, ' ', false, sinq::store::Json::error_handler_t::replace) << "\n";
  } else {
    std::cout << "\n";
    std::cerr << program::format("%zu tokens, %.0f tokens per second, the prompt's %zu included in the time\n",
                                 tokens.size(), speed, prompt.size());
  }
}

}  // namespace

// What could be thrown here is a mistake in the options below; `run` catches everything else.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app("Continues a prompt.", "sinq_generate");
  Arguments a;
  program::Threads threads;
  app.add_option("MODEL_DIR", a.model, "Model directory, full-precision or quantized")
      ->required()
      ->check(CLI::ExistingDirectory);
  auto* input = app.add_option_group("prompt", "What to continue: one of");
  input->add_option("--prompt", a.prompt, "Text; for models whose tokens are bytes");
  input->add_option("--tokens", a.tokens, "Token ids, separated by commas; for other models")->delimiter(',');
  input->require_option(1);
  app.add_option("--count", a.count, "Tokens to generate")->check(CLI::Range(1, 1'000'000))->capture_default_str();
  app.add_option("--temperature", a.sampling.temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--seed", a.sampling.seed, "Of the random choices; the same seed gives the same text")
      ->capture_default_str();
  threads.add_option(app);
  app.add_flag("--json", a.json, "One JSON object on standard output");
  return program::run(app, argc, argv, [&] { run(a, threads); });
}
