// SPDX-License-Identifier: Apache-2.0

// What every method loses on a model, by size.

#include <fstream>

#include "compare/methods.hpp"
#include "compare/subject.hpp"
#include "program.hpp"
#include "quantize_model.hpp"
#include "svg_plot.hpp"

namespace {

using compare::Estimate;
using compare::Method;
using sinq::store::Json;

struct Arguments {
  std::string model;
  std::string tokens;
  std::vector<std::string> methods;
  std::vector<int> bits = {3, 4};
  int windows = 1'000'000;
  std::string calibration;
  std::string ggml;
  std::string plot;
  bool json = false;
};

struct Result {
  const Method* method = nullptr;
  double bits_per_weight = 0;
  compare::Scores scores{};
  double seconds = 0;  // of quantizing
  bool front = false;  // nothing that is as small or smaller loses less
};

/// ggml where it is; null where it is not and nobody asked for it.
std::shared_ptr<const compare::Ggml> open_ggml(const Arguments& a) {
  if (!a.ggml.empty()) return std::make_shared<compare::Ggml>(a.ggml);
  std::optional<compare::Ggml> found = compare::Ggml::find();
  return found ? std::make_shared<compare::Ggml>(std::move(*found)) : nullptr;
}

/// Those of `all` that the command line names, by name or by family; all of them where it names none.
std::vector<Method> chosen(std::vector<Method> all, const Arguments& a) {
  if (a.methods.empty()) return all;
  std::vector<Method> out;
  const auto named = [](const Method& m, const std::string& name) {
    return name == m.name || name == compare::name_of(m.family);
  };
  for (const std::string& name : a.methods)
    if (std::none_of(all.begin(), all.end(), [&](const Method& m) { return named(m, name); })) {
      std::string list = "presets published ggml calibrated";
      for (const Method& m : all)
        if (list.find(" " + m.name) == std::string::npos) list += " " + m.name;
      throw program::UsageError("--methods: there is no " + name + " here; allowed: " + list +
                                " (ggml's types where a ggml is found, nf3 and nf4 with their --bits)");
    }
  for (Method& m : all)
    if (std::any_of(a.methods.begin(), a.methods.end(), [&](const std::string& name) { return named(m, name); }))
      out.push_back(std::move(m));
  return out;
}

/// The matrices that sinq_quantize would quantize.
std::vector<const sinq::store::Tensor*> matrices(const sinq::store::Checkpoint& checkpoint) {
  std::vector<const sinq::store::Tensor*> out;
  for (const sinq::store::Tensor* t : checkpoint.tensors())
    if (sinq::store::is_matrix(*t) && quantize_model::reason_to_leave(*t, {}).empty()) out.push_back(t);
  if (out.empty()) throw engine::ModelError(checkpoint.name() + ": there is no linear layer to quantize");
  return out;
}

/// For the calibrated methods, if there are any; empty where there is no text.
engine::ActivationMap activations(const compare::Subject& subject, const std::vector<Method>& methods,
                                  const Arguments& a, sinq::Executor& executor) {
  if (std::none_of(methods.begin(), methods.end(), [](const Method& m) { return m.calibrated(); })) return {};
  std::vector<engine::Window> text;
  if (!a.calibration.empty()) text = calibration_text::read("--calibration", a.calibration);
  engine::ActivationMap statistics = subject.activations(std::move(text), executor);
  if (statistics.empty() && !a.methods.empty())
    throw program::UsageError("calibrated methods of an encoder need --calibration FILE: it writes no text of its own");
  return statistics;
}

void mark_front(std::vector<Result>& by_size) {
  double least = INFINITY;
  for (Result& r : by_size) {
    r.front = r.scores.loss().value < least;
    if (r.front) least = r.scores.loss().value;
  }
}

std::string with_half(const std::optional<Estimate>& e, const char* number, double factor = 1) {
  if (!e) return "-";
  std::string value = program::format(number, factor * e->value);
  if (std::isnan(e->high)) return value;
  return value + " +-" + program::format(number, factor * (e->high - e->low) / 2);
}

void print(const std::vector<Result>& results, bool encoder, std::ostream& out) {
  using program::format;
  std::vector<std::string> head = {"method", "bits/weight"};
  if (encoder)
    head.insert(head.end(), {"1 - cosine, x 1000"});
  else
    head.insert(head.end(), {"perplexity", "KL, nats/token", "flips, %"});
  head.insert(head.end(), {"quantize", "front"});
  program::Table table(head);
  for (const Result& r : results) {
    std::vector<std::string> row = {r.method->title(), format("%.3f", r.bits_per_weight)};
    if (encoder) {
      row.push_back(with_half(r.scores.cosine_distance, "%.2f", 1000));
    } else {
      row.push_back(with_half(r.scores.perplexity, "%.4f"));
      row.push_back(with_half(r.scores.kl, "%.5f"));
      row.push_back(with_half(r.scores.flip_rate_percent, "%.2f"));
    }
    row.push_back(format("%.2f s", r.seconds));
    row.emplace_back(r.front ? "*" : "");
    table.add(std::move(row));
  }
  table.print(out);
}

std::string picture(const std::vector<Result>& by_size, const std::string& title, const std::string& subtitle,
                    const char* loss) {
  // Nine colours and four markers: as many curves as there can be differ in at least one of them.
  constexpr std::pair<const char*, const char*> kColours[] = {
      {"#0969da", "#58a6ff"}, {"#bc4c00", "#f0883e"}, {"#1a7f37", "#3fb950"},
      {"#8250df", "#bc8cff"}, {"#bf3989", "#f778ba"}, {"#9a6700", "#d29922"},
      {"#cf222e", "#ff7b72"}, {"#0f766e", "#2dd4bf"}, {"#6e7781", "#9198a1"}};
  constexpr svg::Marker kMarkers[] = {svg::Marker::square, svg::Marker::diamond, svg::Marker::circle,
                                      svg::Marker::triangle};
  svg::Plot plot{title, subtitle, "bits per weight, auxiliaries and column scales included", loss, {}};
  svg::Series front{"Pareto front", "#57606a", "#8b949e", svg::Marker::halo, true, {}};
  for (const Result& r : by_size)
    if (r.front) front.points.emplace_back(r.bits_per_weight, r.scores.loss().value);
  plot.series.push_back(std::move(front));
  for (const Result& r : by_size) {
    auto at = std::find_if(plot.series.begin(), plot.series.end(),
                           [&](const svg::Series& s) { return s.name == r.method->curve; });
    if (at == plot.series.end()) {
      const std::size_t k = plot.series.size() - 1;
      const auto& [light, dark] = kColours[k % std::size(kColours)];
      at = plot.series.insert(at, {r.method->curve, light, dark, kMarkers[k % std::size(kMarkers)], false, {}});
    }
    at->points.emplace_back(r.bits_per_weight, r.scores.loss().value);
  }
  return svg::draw(plot);
}

Json to_json(const Result& r) {
  Json out = {{"method", r.method->name}, {"bits", nullptr}, {"bits_per_weight", r.bits_per_weight}};
  if (r.method->bits != 0) out["bits"] = r.method->bits;
  const auto add = [&](const std::string& name, const std::optional<Estimate>& e) {
    out[name] = e ? Json(e->value) : Json();
    if (e) out[name + "_95_percent"] = {e->low, e->high};
  };
  add("perplexity", r.scores.perplexity);
  add("kl", r.scores.kl);
  add("flip_rate_percent", r.scores.flip_rate_percent);
  if (r.scores.cosine_distance) add("cosine_distance", r.scores.cosine_distance);
  out["calibrated"] = r.method->calibrated();
  out["seconds"] = r.seconds;
  out["pareto_front"] = r.front;
  return out;
}

void run(const Arguments& a, program::Threads& threads) {
  std::ostream& out = a.json ? std::cerr : std::cout;
  sinq::Executor& executor = threads.executor();
  const std::shared_ptr<const compare::Ggml> ggml = open_ggml(a);
  std::vector<Method> methods = chosen(compare::all_methods(a.bits, ggml), a);
  std::ofstream plot;
  if (!a.plot.empty()) {
    plot.open(a.plot);  // before the work, not after it
    if (!plot) throw program::UsageError("--plot " + a.plot + " cannot be written");
  }

  const sinq::store::Config config(std::filesystem::path(a.model) / "config.json");
  const auto checkpoint = std::make_shared<const sinq::store::Checkpoint>(a.model);
  if (!sinq::store::contents(*checkpoint).quantized.empty())
    throw engine::ModelError(a.model + " is already quantized: name the original");
  std::vector<engine::Window> windows = engine::read_windows(a.tokens);
  if (static_cast<int>(windows.size()) > a.windows) windows.resize(static_cast<std::size_t>(a.windows));
  const std::size_t count = windows.size();
  const auto subject = compare::open_subject(checkpoint, config, std::move(windows), executor);
  const auto tensors = matrices(*checkpoint);
  const engine::ActivationMap statistics = activations(*subject, methods, a, executor);
  const std::string about =
      program::format("%.1f M parameters; %zu windows, %s", static_cast<double>(subject->parameters()) / 1e6, count,
                      subject->sample().c_str());
  out << a.model << ": " << about << "\n";
  if (ggml) out << "ggml: " << ggml->file() << "\n";
  if (!ggml && a.methods.empty())
    out << "ggml's types are left out: no libggml-base.so was found (pip install libggml-python, or --ggml FILE)\n";
  if (statistics.empty() && std::erase_if(methods, [](const Method& m) { return m.calibrated(); }) > 0)
    out << "calibrated methods are left out: an encoder writes no text of its own (--calibration FILE)\n";
  out << "\n";

  program::ProgressBar bar("comparing");
  std::vector<Result> results;
  for (const Method& method : methods) {
    const auto share = [&](double of_this_one) {
      return (static_cast<double>(results.size()) + of_this_one) / static_cast<double>(methods.size());
    };
    Result r;
    r.method = &method;
    engine::Replacements weights;
    double bits = 0;
    double elements = 0;
    for (const sinq::store::Tensor* t : tensors) {
      bar.update(share(0.3 * static_cast<double>(weights.size()) / static_cast<double>(tensors.size())),
                 method.title());
      const program::Stopwatch time;
      const auto found = statistics.find(t->name);
      compare::Restored restored =
          method.restore({t->name, sinq::store::weights(*t),
                          method.calibrated() && found != statistics.end() ? found->second.get() : nullptr, executor});
      r.seconds += time.seconds();
      bits += 8.0 * static_cast<double>(restored.bytes);
      elements += static_cast<double>(t->elements());
      weights.emplace(t->name, std::move(restored.weights));
    }
    r.bits_per_weight = bits / elements;
    r.scores =
        subject->score(weights, executor, [&](double done) { bar.update(share(0.3 + 0.7 * done), method.title()); });
    results.push_back(r);
  }
  bar.clear();
  std::stable_sort(results.begin(), results.end(),
                   [](const Result& x, const Result& y) { return x.bits_per_weight < y.bits_per_weight; });
  mark_front(results);

  print(results, engine::is_encoder(config), out);
  out << "\n+- is half of the 95 % interval over windows (perplexity: of its ratio to the original's); front: nothing "
         "as small or smaller loses less\n";
  if (plot.is_open()) {
    const std::string name = std::filesystem::path(a.model + "/.").lexically_normal().parent_path().filename();
    plot << picture(results, "Loss against size: " + name, about, subject->loss_name());
    if (!plot.flush()) throw std::runtime_error(a.plot + ": cannot be written");
  }
  if (!a.json) return;
  Json rows = Json::array();
  for (const Result& r : results) rows.push_back(to_json(r));
  Json json = {{"model", a.model}, {"tokens", a.tokens}, {"sample", subject->sample()}};
  json["ggml"] = ggml ? Json(ggml->file()) : Json();
  json["results"] = std::move(rows);
  std::cout << json.dump() << "\n";
}

}  // namespace

// What could be thrown here is a mistake in the options below; `run` catches everything else.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app(
      "Quantizes the linear layers of a model with many methods, in memory, and shows what each loses and how small "
      "it is: perplexity, KL divergence from the original and flipped predictions of a decoder, cosine distance of "
      "mean-pooled embeddings to the original's for an encoder of the BERT family. With a ggml on the machine "
      "llama.cpp's types are among them.",
      "sinq_compare");
  Arguments a;
  program::Threads threads;
  app.add_option("MODEL_DIR", a.model, "Model directory in Hugging Face layout, full-precision")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--tokens", a.tokens, "safetensors file with `tokens` and `offsets` (integers)")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--methods", a.methods, "Names, or the families presets, published, ggml and calibrated [all]")
      ->delimiter(',');
  app.add_option("--bits", a.bits, "Widths of the published methods")
      ->delimiter(',')
      ->check(program::one_of<int>({2, 3, 4, 5, 6, 8}))
      ->capture_default_str();
  app.add_option("--windows", a.windows, "At most so many windows")->check(program::from_to(1, 1'000'000));
  app.add_option("--calibration", a.calibration,
                 "Text for the calibrated methods, as --tokens [64 windows that the decoder writes for itself]")
      ->check(CLI::ExistingFile);
  app.add_option("--ggml", a.ggml, "libggml-base.so to use [searched for]")->check(CLI::ExistingFile);
  app.add_option("--plot", a.plot, "SVG file: loss against bits per weight, with the Pareto front");
  threads.add_option(app);
  app.add_flag("--json", a.json, "One JSON object on standard output");
  return program::run(app, argc, argv, [&] { run(a, threads); });
}
