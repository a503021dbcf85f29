// SPDX-License-Identifier: Apache-2.0

// Every tensor of a model: how it is stored, how even its rows and columns are, and how far it is from its original.

#include <charconv>
#include <limits>
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>

#include "program.hpp"

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();  // JSON shows it as null

struct Arguments {
  std::string model;
  std::string original;
  bool json = false;
};

struct Row {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string stored;  // "F16", or "4 bits nf4"
  int bits = 0;        // of a code; 0: not quantized
  double weights = 0;
  double bytes = 0;
  double imbalance = kNone;
  double kurtosis = kNone;
  double relative_error = kNone;
  double max_error = kNone;
  std::string note;  // why numbers are missing
};

/// What the library refuses to measure, such as a mask of -3.4e38, still has the rest of its row.
template <class Numbers>
void fill_in(Row& row, const Numbers& numbers) {
  try {
    numbers();
  } catch (const sinq::InvalidArgument& e) {
    row.note += (row.note.empty() ? "" : "; ") + std::string(e.what());
  }
}

/// The weights of `name` in the original: a matrix, or one of a stack that was stored matrix by matrix.
sinq::WeightView original_of(const sinq::store::Checkpoint& original, const std::string& name) {
  if (const auto* t = original.find(name)) return sinq::store::weights(*t);
  const std::size_t dot = name.rfind('.');
  std::int64_t index = -1;
  if (dot != std::string::npos) {
    const char* end = name.data() + name.size();
    if (const auto [stop, error] = std::from_chars(name.data() + dot + 1, end, index); stop != end) index = -1;
    if (const auto* t = original.find(name.substr(0, dot)); t != nullptr && index >= 0)
      return sinq::store::weights(*t, index);
  }
  throw std::runtime_error(original.name() + ": there is no tensor " + name + " to compare with");
}

Row quantized_row(const sinq::store::Checkpoint& model, const sinq::store::Contents::Matrix& m,
                  const sinq::store::Checkpoint* original) {
  const sinq::QuantizedMatrix q = sinq::store::read_quantized(model, m.name);
  Row row;
  row.name = m.name;
  row.shape = {m.rows, m.cols};
  row.bits = m.format.bits;
  row.stored = std::to_string(m.format.bits) + " bits " + sinq::name_of(m.format.levels);
  row.weights = static_cast<double>(m.rows) * static_cast<double>(m.cols);
  row.bytes = static_cast<double>(m.bytes);
  const auto restored = sinq::dequantize<float>(q);
  fill_in(row, [&] {
    row.imbalance = sinq::imbalance(restored);
    row.kurtosis = sinq::kurtosis(restored);
  });
  if (original != nullptr) {
    const sinq::WeightView weights = original_of(*original, m.name);
    fill_in(row, [&] {
      const sinq::ErrorMetrics e = sinq::measure(q, weights);
      row.relative_error = e.relative_error;
      row.max_error = e.max_error;
    });
  }
  return row;
}

Row plain_row(const sinq::store::Tensor& t, const sinq::store::Checkpoint* original) {
  Row row;
  row.name = t.name;
  row.shape = t.shape;
  row.stored = sinq::store::name_of(t.type);
  row.weights = static_cast<double>(t.elements());
  row.bytes = static_cast<double>(t.data.size());
  const auto type = sinq::store::weight_type(t.type);
  if (type && t.shape.size() >= 2 && t.elements() > 0) {  // more dimensions count as rows
    const sinq::WeightView view(t.data.data(), *type, t.elements() / t.shape.back(), t.shape.back());
    fill_in(row, [&] {
      row.imbalance = sinq::imbalance(view);
      row.kurtosis = sinq::kurtosis(view);
    });
  }
  const sinq::store::Tensor* other = original == nullptr ? nullptr : original->find(t.name);
  if (type && other != nullptr && other->shape == t.shape && sinq::store::weight_type(other->type)) {
    const std::vector<float> a = sinq::store::to_floats(t);
    const std::vector<float> b = sinq::store::to_floats(*other);
    double error = 0;
    double norm = 0;
    row.max_error = 0;
    for (std::size_t k = 0; k < a.size(); ++k) {
      const double d = double{a[k]} - double{b[k]};
      error += d * d;
      norm += double{b[k]} * double{b[k]};
      row.max_error = std::max(row.max_error, std::abs(d));
    }
    row.relative_error = norm == 0 ? 0 : std::sqrt(error / norm);
  }
  return row;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out;
  for (const std::int64_t extent : shape) out += (out.empty() ? "" : " x ") + std::to_string(extent);
  return out.empty() ? "scalar" : out;
}

std::string number(const char* pattern, double value) {
  return std::isnan(value) ? "-" : program::format(pattern, value);
}

sinq::store::Json to_json(const Row& r) {
  sinq::store::Json json = {{"name", r.name}, {"shape", r.shape}};
  if (r.bits == 0)
    json["dtype"] = r.stored;
  else
    json["bits"] = r.bits;
  json["stored_as"] = r.stored;
  json["bytes"] = r.bytes;
  json["bits_per_weight"] = 8 * r.bytes / r.weights;
  json["imbalance"] = r.imbalance;
  json["kurtosis"] = r.kurtosis;
  json["relative_error"] = r.relative_error;
  json["max_error"] = r.max_error;
  if (!r.note.empty()) json["note"] = r.note;
  return json;
}

void run(const Arguments& a) {
  const sinq::store::Checkpoint model(a.model);
  std::optional<sinq::store::Checkpoint> original;
  if (!a.original.empty()) original.emplace(a.original);
  const auto* other = original ? &*original : nullptr;
  const sinq::store::Contents contents = sinq::store::contents(model);
  std::vector<Row> rows;
  for (const auto& m : contents.quantized) rows.push_back(quantized_row(model, m, other));
  for (const auto* t : contents.plain) {
    rows.push_back(plain_row(*t, other));
    model.forget(*t);
  }

  double bits = 0;
  double weights = 0;
  double bytes = 0;
  for (const Row& r : rows) {
    bytes += r.bytes;
    if (r.bits == 0) continue;
    bits += 8 * r.bytes;
    weights += r.weights;
  }
  if (a.json) {
    sinq::store::Json list = sinq::store::Json::array();
    for (const Row& r : rows) list.push_back(to_json(r));
    const sinq::store::Json json = {{"model", a.model},
                                    {"tensors", std::move(list)},
                                    {"quantized_matrices", contents.quantized.size()},
                                    {"bits_per_weight", bits / weights},
                                    {"bytes", bytes}};
    std::cout << json.dump() << "\n";
    return;
  }
  std::vector<std::string> head = {"tensor", "shape", "stored as", "bits/weight", "imbalance", "kurtosis"};
  if (original) head.insert(head.end(), {"error", "largest"});
  program::Table table(head);
  for (const Row& r : rows) {
    std::vector<std::string> cells = {r.name,
                                      shape_text(r.shape),
                                      r.stored,
                                      number("%.3f", 8 * r.bytes / r.weights),
                                      number("%.4g", r.imbalance),
                                      number("%.4g", r.kurtosis)};
    if (original) {
      cells.push_back(number("%.3f %%", 100 * r.relative_error));
      cells.push_back(number("%.3g", r.max_error));
    }
    table.add(std::move(cells));
  }
  table.print(std::cout);
  for (const Row& r : rows)
    if (!r.note.empty()) std::cout << "\n" << r.name << ": " << r.note << "\n";
  std::cout << program::format("\n%zu tensors, %.2f MB", rows.size(), bytes / 1e6);
  if (weights > 0) std::cout << program::format("; %.4f bits per weight over the quantized ones", bits / weights);
  std::cout << "\n";
}

}  // namespace

// What could be thrown here is a mistake in the options below; `run` catches everything else.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app("Lists every tensor of a model: shape, how it is stored, imbalance and kurtosis of its weights.",
               "sinq_inspect");
  Arguments a;
  app.add_option("MODEL_DIR", a.model, "Model directory, full-precision or quantized")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--original", a.original, "Directory of the model it was made from: adds relative and largest error")
      ->check(CLI::ExistingDirectory);
  app.add_flag("--json", a.json, "One JSON object on standard output");
  return program::run(app, argc, argv, [&] { run(a); });
}
