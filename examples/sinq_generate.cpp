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
  std::string tokens;
  int count = 200;
  engine::Sampling sampling;
  bool json = false;
};

/// "84,111" -> {84, 111}
engine::Window ids(const std::string& text) {
  engine::Window out;
  std::istringstream in(text + ",");
  for (std::string piece; std::getline(in, piece, ',');) {
    const auto id = program::number<std::int32_t>(piece);
    if (!id)
      throw program::UsageError("--tokens \"" + text + "\": \"" + piece +
                                "\" is not a token; allowed are whole numbers with commas between them");
    out.push_back(*id);
  }
  return out;
}

void run(const Arguments& a, program::Threads& threads) {
  if (a.prompt.empty() == a.tokens.empty()) throw program::UsageError("needed is either --prompt or --tokens");
  const engine::Model model = engine::load_model(a.model);
  const bool bytes = a.tokens.empty();
  if (bytes && model.config.vocab_size != 256)
    throw program::UsageError("--prompt needs a model whose tokens are bytes (a vocabulary of 256), this one has " +
                              std::to_string(model.config.vocab_size) + ": give ids with --tokens 1,2,3");
  const engine::Window prompt = bytes ? engine::bytes_as_tokens(a.prompt) : ids(a.tokens);

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
    sinq::store::Json json = {
        {"tokens", tokens}, {"tokens_per_second", speed}, {"instruction_set", sinq::name_of(sinq::current_isa())}};
    // Bytes of a model need not be UTF-8, JSON must be.
    if (bytes) json["text"] = std::string(tokens.begin(), tokens.end());
    std::cout << json.dump(-1, ' ', false, sinq::store::Json::error_handler_t::replace) << "\n";
  } else {
    std::cout << "\n";
    std::cerr << program::format("%zu tokens, %.0f tokens per second with %s, the prompt's %zu included in the time\n",
                                 tokens.size(), speed, sinq::name_of(sinq::current_isa()), prompt.size());
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
  app.add_option("--prompt", a.prompt, "What to continue: a text, for models whose tokens are bytes");
  app.add_option("--tokens", a.tokens, "What to continue: token ids, separated by commas, for other models");
  app.add_option("--count", a.count, "Tokens to generate")
      ->check(program::from_to(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--temperature", a.sampling.temperature, "0: always the most likely token")
      ->check(program::from_to(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--seed", a.sampling.seed, "Of the random choices; the same seed gives the same text")
      ->check(program::from_to<std::uint64_t>(0, UINT64_MAX))
      ->capture_default_str();
  threads.add_option(app);
  app.add_flag("--json", a.json, "One JSON object on standard output");
  return program::run(app, argc, argv, [&] { run(a, threads); });
}
