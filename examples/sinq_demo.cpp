// SPDX-License-Identifier: Apache-2.0

// The main job: quantizes a small trained model with every method, saves and reloads each result, and shows what it
// costs and what it saves. Everything but the times comes out the same for everyone: the text is fixed, quantization is
// deterministic to the bit, and no sum depends on threads.

#include <fstream>

#include "engine/generate.hpp"
#include "engine/load.hpp"
#include "engine/windows.hpp"
#include "quantize_model.hpp"
#include "svg_plot.hpp"

namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string model = SINQ_EXAMPLES_DIR "/demo-model";
  std::string tokens;
  std::string out = "sinq-demo-out";
  std::string prompt = "KING RICHARD:\n";
  int windows = 96;
  bool json = false;
};

struct Method {
  std::string name;
  const char* family;  // its curve in the picture
  sinq::QuantizeConfig config;
  double preset = 0;  // 0: config for every matrix; else the preset of each one's role
};

std::vector<Method> methods() {
  using sinq::Balancing;
  using sinq::Refine;
  using sinq::Rounding;
  std::vector<Method> list;
  for (const int bits : {2, 3, 4}) {
    list.push_back({"RTN", "RTN", {.bits = bits, .balance = Balancing::none}});
    list.push_back({"HQQ", "HQQ", {.bits = bits, .refine = Refine::hqq, .balance = Balancing::none}});
    list.push_back({"SINQ", "SINQ", {.bits = bits}});
    list.push_back({"SINQ + HQQ", "SINQ + HQQ", {.bits = bits, .refine = Refine::hqq}});
    if (bits == 2) continue;
    const Rounding nf = bits == 3 ? Rounding::nf3 : Rounding::nf4;
    list.push_back({bits == 3 ? "NF3" : "NF4", "NF3, NF4", {.bits = bits, .rounding = nf, .balance = Balancing::none}});
    list.push_back({bits == 3 ? "SINQ-NF3" : "SINQ-NF4", "SINQ-NF3, -NF4", {.bits = bits, .rounding = nf}});
  }
  for (const double size : {2.5, 3.0, 3.5, 4.0, 4.5})
    list.push_back({program::format("preset %g", size), "presets", sinq::preset(size), size});
  return list;
}

struct Result {
  std::string name;
  std::string family;
  int bits = 16;
  double bits_per_weight = 16;
  std::int64_t file_bytes = 0;
  std::int64_t resident_bytes = 0;
  engine::Evaluation evaluation;
  double quantize_seconds = 0;
};

std::string file_name(const Method& m) {
  const std::string name = m.preset == 0 ? m.name + "-" + std::to_string(m.config.bits) : m.name;
  std::string out;
  for (const char c : name)
    if (c != ' ' && c != '+') out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string megabytes(std::int64_t bytes) {
  return program::format("%.2f MB", static_cast<double>(bytes) / 1e6);
}

double saving_percent(std::int64_t now, std::int64_t before) {
  return 100 * (1 - static_cast<double>(now) / static_cast<double>(before));
}

std::string continue_text(const engine::Model& model, const Arguments& a, sinq::Executor& executor) {
  const auto tokens =
      engine::generate(model, engine::bytes_as_tokens(a.prompt), 280, {.temperature = 0.5, .seed = 7}, executor);
  std::string text = a.prompt;
  for (const std::int32_t token : tokens) text += token == '\n' || token >= ' ' ? static_cast<char>(token) : '?';
  return text;
}

/// Lines of at most `width` characters, broken between words.
std::vector<std::string> wrapped(const std::string& text, std::size_t width) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    while (line.size() > width) {
      const std::size_t space = line.rfind(' ', width);
      const std::size_t cut = space == std::string::npos ? width : space;
      lines.push_back(line.substr(0, cut));
      line = line.substr(cut + (space == std::string::npos ? 0 : 1));
    }
    lines.push_back(line);
  }
  return lines;
}

void print_side_by_side(const std::string& a, const std::string& b, std::ostream& out) {
  constexpr std::size_t kWidth = 54;
  const auto left = wrapped(a, kWidth);
  const auto right = wrapped(b, kWidth);
  for (std::size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
    const std::string l = i < left.size() ? left[i] : "";
    const std::string r = i < right.size() ? right[i] : "";
    out << "  " << l << (r.empty() ? "" : std::string(kWidth - l.size(), ' ') + " | " + r) << "\n";
  }
}

void print_table(const std::vector<Result>& results, std::ostream& out) {
  using program::format;
  program::Table table({"method", "bits", "bits/weight", "file", "perplexity", "KL, nats/token", "flips", "quantize"});
  for (const Result& r : results) {
    const bool original = r.quantize_seconds == 0;
    table.add({r.name, std::to_string(r.bits), format("%.3f", r.bits_per_weight), megabytes(r.file_bytes),
               format("%.4f", r.evaluation.perplexity()), original ? "-" : format("%.5f", r.evaluation.mean_kl()),
               original ? "-" : format("%.2f %%", r.evaluation.flip_rate_percent()),
               original ? "-" : format("%.2f s", r.quantize_seconds)});
  }
  table.print(out);
}

std::string picture(const std::vector<Result>& results, const std::string& subtitle) {
  svg::Plot plot{"What quantization loses, and what it saves",
                 subtitle,
                 "bits per weight, scales and zeros included",
                 "KL divergence from fp16, nats per token",
                 {}};
  // Balanced methods are solid, their counterparts dashed in the same shape.
  plot.series = {{"RTN", "#6e7781", "#9198a1", svg::Marker::circle, true, {}},
                 {"HQQ", "#bc4c00", "#f0883e", svg::Marker::diamond, true, {}},
                 {"NF3, NF4", "#8250df", "#bc8cff", svg::Marker::triangle, true, {}},
                 {"SINQ", "#0969da", "#58a6ff", svg::Marker::circle, false, {}},
                 {"SINQ + HQQ", "#1a7f37", "#3fb950", svg::Marker::diamond, false, {}},
                 {"SINQ-NF3, -NF4", "#bf3989", "#f778ba", svg::Marker::triangle, false, {}},
                 {"presets", "#9a6700", "#d29922", svg::Marker::square, false, {}}};
  for (const Result& r : results)
    for (svg::Series& s : plot.series)
      if (s.name == r.family) s.points.emplace_back(r.bits_per_weight, r.evaluation.mean_kl());
  return svg::draw(plot);
}

sinq::store::Json to_json(const Result& r) {
  return {{"method", r.name},
          {"bits", r.bits},
          {"bits_per_weight", r.bits_per_weight},
          {"file_bytes", r.file_bytes},
          {"resident_bytes", r.resident_bytes},
          {"perplexity", r.evaluation.perplexity()},
          {"kl", r.evaluation.mean_kl()},
          {"flip_rate_percent", r.evaluation.flip_rate_percent()},
          {"quantize_seconds", r.quantize_seconds}};
}

void run(Arguments a, program::Threads& threads) {
  std::ostream& out = a.json ? std::cerr : std::cout;
  sinq::Executor& executor = threads.executor();
  if (a.tokens.empty()) a.tokens = a.model + "/held-out.tokens.safetensors";
  const program::Stopwatch total;
  const engine::Model original = engine::load_model(a.model);
  std::vector<engine::Window> windows = engine::read_windows(a.tokens);
  if (static_cast<int>(windows.size()) > a.windows) windows.resize(static_cast<std::size_t>(a.windows));
  fs::create_directories(a.out);

  const engine::Reference reference{&original, engine::hidden_states(original, windows, executor)};
  std::vector<Result> results;
  const std::int64_t original_file = static_cast<std::int64_t>(fs::file_size(a.model + "/model.safetensors"));
  results.push_back({"original", "", 16, 16, original_file, original.bytes(),
                     engine::evaluate(original, windows, executor, reference), 0});
  const std::int64_t predicted = results.front().evaluation.predicted;
  const std::string about = program::format(
      "Byte-level Llama, %.1f M parameters; %zu windows of held-out text, %lld predictions; groups of 64, presets 16",
      static_cast<double>(original.parameters()) / 1e6, windows.size(), static_cast<long long>(predicted));
  out << about << "\n\n";

  program::ProgressBar bar("quantize, save, reload, evaluate");
  const std::vector<Method> list = methods();
  std::string sinq_text;
  std::size_t sinq_at = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Method& m = list[i];
    bar.update(static_cast<double>(i) / static_cast<double>(list.size()),
               m.name + ", " + std::to_string(m.config.bits) + " bits");
    const std::string directory = a.out + "/" + file_name(m);
    const auto config_of = [&](const std::string& tensor) {
      return m.preset == 0 ? m.config : sinq::preset(m.preset, sinq::role_of(tensor));
    };
    const auto report = quantize_model::run(a.model, directory, config_of, {}, {{"method", m.name}}, executor);
    const engine::Model model = engine::load_model(directory);  // from the disk: nothing of the quantizer is left
    results.push_back({m.name, m.family, m.config.bits, report.bits_per_weight(), report.model_bytes, model.bytes(),
                       engine::evaluate(model, windows, executor, reference), report.seconds()});
    if (m.name == "SINQ" && m.config.bits == 4) {
      sinq_text = continue_text(model, a, executor);
      sinq_at = results.size() - 1;
    }
  }
  bar.clear();
  print_table(results, out);

  const Result& sinq4 = results[sinq_at];
  const Result& rtn4 =
      *std::find_if(results.begin(), results.end(), [](const Result& r) { return r.name == "RTN" && r.bits == 4; });
  const double from_rtn = 100 * (sinq4.evaluation.mean_kl() / rtn4.evaluation.mean_kl() - 1);
  out << "\nThe original and SINQ with 4 bits continue the same prompt with the same random numbers:\n\n";
  print_side_by_side(continue_text(original, a, executor), sinq_text, out);

  const std::string svg_path = a.out + "/loss-against-bits.svg";
  std::ofstream svg_file(svg_path);
  svg_file << picture(results, about);
  if (!svg_file.flush()) throw std::runtime_error(svg_path + ": cannot be written");

  out << "\nPromised: 60-70 % less memory at 4 bits, without calibration data. Came out with SINQ, 4 bits:\n"
      << program::format("  file        %s -> %s   %.1f %% less\n", megabytes(original_file).c_str(),
                         megabytes(sinq4.file_bytes).c_str(), saving_percent(sinq4.file_bytes, original_file))
      << program::format("  resident    %s -> %s   %.1f %% less (weights as the engine holds them)\n",
                         megabytes(original.bytes()).c_str(), megabytes(sinq4.resident_bytes).c_str(),
                         saving_percent(sinq4.resident_bytes, original.bytes()))
      << program::format(
             "  perplexity  %.4f -> %.4f; KL divergence %.5f, %.0f %% %s RTN's with as many bits per code\n",
             results.front().evaluation.perplexity(), sinq4.evaluation.perplexity(), sinq4.evaluation.mean_kl(),
             std::abs(from_rtn), from_rtn < 0 ? "below" : "above")
      << program::format(
             "\nThe picture: %s\nAll of it took %.0f s on %d threads with %s; the times are this machine's, all "
             "other numbers everyone's.\n",
             svg_path.c_str(), total.seconds(), threads.count(), sinq::name_of(sinq::current_isa()));
  if (a.json) {
    sinq::store::Json rows = sinq::store::Json::array();
    for (const Result& r : results) rows.push_back(to_json(r));
    const sinq::store::Json json = {
        {"model", a.model},           {"predicted_tokens", predicted},
        {"results", std::move(rows)}, {"picture", svg_path},
        {"seconds", total.seconds()}, {"instruction_set", sinq::name_of(sinq::current_isa())}};
    std::cout << json.dump() << "\n";
  }
}

}  // namespace

// What could be thrown here is a mistake in the options below; `run` catches everything else.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app(
      "Quantizes a small trained language model with every method, saves and reloads each result, and shows what it "
      "costs and what it saves: a table, a picture, and generated text.",
      "sinq_demo");
  Arguments a;
  program::Threads threads;
  app.add_option("MODEL_DIR", a.model, "Model directory; its tokens must be bytes")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--tokens", a.tokens, "Windows to evaluate [MODEL_DIR/held-out.tokens.safetensors]")
      ->check(CLI::ExistingFile);
  app.add_option("--out", a.out, "Directory for the quantized models and the picture")->capture_default_str();
  app.add_option("--windows", a.windows, "At most so many windows")
      ->check(program::from_to(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--prompt", a.prompt, "Text to continue [a speaker of the play]");
  threads.add_option(app);
  app.add_flag("--json", a.json, "One JSON object on standard output");
  return program::run(app, argc, argv, [&] { run(a, threads); });
}
