// SPDX-License-Identifier: Apache-2.0
#pragma once

// Moves column factors out of a decoder's matrices into what makes their inputs. What the model computes stays what it
// was; its matrices come out balanced.
//
//   input_layernorm  *= t          q, k, v   columns / t
//   v rows (+ bias)  *= t          o         columns / t      heads that share a value head share its factors
//   post_attention_layernorm *= t  gate, up  columns / t
//   up rows (+ bias) *= t          down      columns / t      silu(gate) up is linear in up
//
// Norms on queries and keys see rows of q and k, which keep their sizes. Neither the rotation of queries and keys nor
// the softmax sees a factor: attention is linear in v.

#include <map>
#include <regex>
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>

#include "engine/config.hpp"
#include "program.hpp"

namespace fold_model {

struct Options {
  sinq::SharedOptions shared;
  std::optional<sinq::DType> type;  // of the result's floating-point tensors; none: as they were
};

/// W[i,j] -> W[i,j] row[i] / col[j]; empty: ones. A vector is one column.
struct Change {
  std::vector<float> row;
  std::vector<float> col;
};

struct GroupReport {
  std::string from;  // "layers.0: q, k, v"
  std::string to;    // "input_layernorm"
  double imbalance_before = 1;
  double imbalance_after = 1;
  double least = 1;
  double most = 1;
};

struct Report {
  std::vector<GroupReport> groups;
  double rounding_error = 0;  // Frobenius norm of what the element type cost over that of the changed tensors
  std::int64_t model_bytes = 0;
};

namespace detail {

using sinq::WeightView;
using sinq::store::Checkpoint;
using sinq::store::Tensor;

/// The shape that config.json asks for, or an error that names the tensor.
inline const Tensor& tensor_of_shape(const Checkpoint& model, const std::string& name,
                                     const std::vector<std::int64_t>& shape) {
  const Tensor& t = model.at(name);
  if (!sinq::store::weight_type(t.type) || t.shape != shape)
    throw engine::ModelError(engine::text(model.name(), ": tensor ", name, " is ", sinq::store::describe(t),
                                          ", config.json asks for floating-point weights of ",
                                          sinq::store::describe(t.type, shape)));
  return t;
}

/// What else reads a norm or makes a value cannot be known, so a tensor of another name inside a layer is refused.
inline void refuse_unknown(const Checkpoint& model) {
  static const std::regex layer(R"(^model\.layers\.[0-9]+\.(.*)$)");
  static const std::regex known(
      R"((input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)\.weight|)"
      R"((self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.(weight|bias)|self_attn\.rotary_emb\.inv_freq)");
  for (const Tensor* t : model.tensors()) {
    std::smatch match;
    if (std::regex_match(t->name, match, layer) && !std::regex_match(match[1].str(), known))
      throw engine::ModelError(engine::text(model.name(), ": tensor ", t->name,
                                            " is not one that a decoder of this family has: what it would take to "
                                            "keep its layer's results is not known"));
  }
}

class Planner {
 public:
  Planner(const Checkpoint& model, const engine::ModelConfig& config, const Options& options, Report& report)
      : model_(model), config_(config), options_(options), report_(report) {}

  [[nodiscard]] std::map<std::string, Change> plan(const std::function<void(double)>& progress) {
    refuse_unknown(model_);
    for (int l = 0; l < config_.layers; ++l) {
      plan_layer("model.layers." + std::to_string(l) + ".");
      if (progress) progress((l + 1.0) / config_.layers);
    }
    return std::move(changes_);
  }

 private:
  void plan_layer(const std::string& layer) {
    const auto& c = config_;
    const std::int64_t q_size = std::int64_t{c.heads} * c.head_dim;
    const std::int64_t kv_size = std::int64_t{c.kv_heads} * c.head_dim;
    const auto matrix = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
      return sinq::store::weights(tensor_of_shape(model_, layer + name + ".weight", {rows, cols}));
    };
    const WeightView q = matrix("self_attn.q_proj", q_size, c.hidden_size);
    const WeightView k = matrix("self_attn.k_proj", kv_size, c.hidden_size);
    const WeightView v = matrix("self_attn.v_proj", kv_size, c.hidden_size);
    const WeightView o = matrix("self_attn.o_proj", c.hidden_size, q_size);
    const WeightView gate = matrix("mlp.gate_proj", c.intermediate_size, c.hidden_size);
    const WeightView up = matrix("mlp.up_proj", c.intermediate_size, c.hidden_size);
    const WeightView down = matrix("mlp.down_proj", c.hidden_size, c.intermediate_size);

    into_norm(layer, "input_layernorm", shared(layer, "q, k, v", "input_layernorm", {{q, k, v}}),
              {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    into_norm(layer, "post_attention_layernorm", shared(layer, "gate, up", "post_attention_layernorm", {{gate, up}}),
              {"mlp.gate_proj", "mlp.up_proj"});
    into_rows(layer, "mlp.up_proj", shared(layer, "down", "up", {{down}}), "mlp.down_proj", 1);
    into_rows(layer, "self_attn.v_proj", shared(layer, "o", "v", by_value_head(o)), "self_attn.o_proj",
              c.heads / c.kv_heads);
  }

  /// The columns of `o` that read the same value head are matrices with one input.
  ///
  ///   heads          0  1  2  3  4  5
  ///   value heads    0  0  0  1  1  1      ->  {0, 1, 2}, {3, 4, 5}
  [[nodiscard]] std::vector<std::vector<WeightView>> by_value_head(const WeightView& o) const {
    const int sharing = config_.heads / config_.kv_heads;
    std::vector<std::vector<WeightView>> result(sharing == 1 ? 1 : static_cast<std::size_t>(config_.kv_heads));
    if (sharing == 1) {
      result[0] = {o};
      return result;
    }
    const auto bytes = config_.head_dim * static_cast<std::int64_t>(sinq::size_of(o.dtype));
    for (int h = 0; h < config_.heads; ++h)
      result[static_cast<std::size_t>(h / sharing)].emplace_back(static_cast<const std::byte*>(o.data) + h * bytes,
                                                                 o.dtype, o.rows, config_.head_dim, o.stride);
    return result;
  }

  /// The factors of one or several inputs, one behind the other.
  std::vector<float> shared(const std::string& layer, const std::string& from, const std::string& to,
                            const std::vector<std::vector<WeightView>>& inputs) {
    GroupReport r{layer.substr(6) + " " + from, to, 0, 0};
    r.from[r.from.find_last_of('.')] = ':';
    std::vector<float> all;
    const auto count = static_cast<double>(inputs.size());
    for (const auto& matrices : inputs) {
      sinq::SharedBalance b = sinq::shared_col_scale(matrices, options_.shared);
      r.imbalance_before += b.imbalance_before / count;
      r.imbalance_after += b.imbalance_after / count;
      all.insert(all.end(), b.col.begin(), b.col.end());
    }
    r.least = double{*std::min_element(all.begin(), all.end())};
    r.most = double{*std::max_element(all.begin(), all.end())};
    report_.groups.push_back(std::move(r));
    return all;
  }

  void into_norm(const std::string& layer, const std::string& norm, const std::vector<float>& t,
                 const std::vector<std::string>& readers) {
    tensor_of_shape(model_, layer + norm + ".weight", {static_cast<std::int64_t>(t.size())});
    changes_[layer + norm + ".weight"].row = t;
    for (const std::string& name : readers) changes_[layer + name + ".weight"].col = t;
  }

  /// Every head_dim factors of `t` belong to `copies` heads of the reader.
  void into_rows(const std::string& layer, const std::string& maker, const std::vector<float>& t,
                 const std::string& reader, int copies) {
    changes_[layer + maker + ".weight"].row = t;
    if (const std::string bias = layer + maker + ".bias"; model_.find(bias) != nullptr) {
      tensor_of_shape(model_, bias, {static_cast<std::int64_t>(t.size())});
      changes_[bias].row = t;
    }
    std::vector<float>& col = changes_[layer + reader + ".weight"].col;
    const std::ptrdiff_t head = copies == 1 ? static_cast<std::ptrdiff_t>(t.size()) : config_.head_dim;
    for (auto at = t.begin(); at != t.end(); at += head)
      for (int k = 0; k < copies; ++k) col.insert(col.end(), at, at + head);
  }

  const Checkpoint& model_;
  const engine::ModelConfig& config_;
  const Options& options_;
  Report& report_;
  std::map<std::string, Change> changes_;
};

/// Sums over all changed tensors.
struct Rounding {
  double square_error = 0;
  double square_norm = 0;
};

/// One tensor, changed, in its new type.
inline std::vector<std::byte> changed(const Tensor& t, const Change& change, sinq::DType type, Rounding& rounding) {
  const bool is_matrix = t.shape.size() == 2;
  const std::int64_t rows = is_matrix || !change.row.empty() ? t.shape[0] : 1;
  const std::int64_t cols = rows == 0 ? 0 : t.elements() / rows;
  const sinq::DType source = *sinq::store::weight_type(t.type);
  std::vector<std::byte> out(static_cast<std::size_t>(t.elements()) * sinq::size_of(type));
  sinq::detail::core::with_dtype(source, [&](auto from) {
    sinq::detail::core::with_dtype(type, [&](auto to) {
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < cols; ++j) {
          const std::int64_t at = i * cols + j;
          double value = static_cast<double>(sinq::detail::core::load_unaligned<decltype(from)>(t.data.data(), at));
          if (!change.row.empty()) value *= double{change.row[static_cast<std::size_t>(i)]};
          if (!change.col.empty()) value /= double{change.col[static_cast<std::size_t>(j)]};
          const auto stored = static_cast<decltype(to)>(value);
          if (!std::isfinite(static_cast<double>(stored)) && std::isfinite(value))
            throw std::runtime_error(engine::text(t.file, ": tensor ", t.name, " would hold ", value, ", beyond ",
                                                  sinq::name_of(type), ": choose another --type"));
          const double error = static_cast<double>(stored) - value;
          rounding.square_error += error * error;
          rounding.square_norm += value * value;
          std::memcpy(out.data() + static_cast<std::size_t>(at) * sizeof stored, static_cast<const void*>(&stored),
                      sizeof stored);
        }
    });
  });
  return out;
}

/// What config.json calls a type.
inline const char* torch_name(sinq::DType type) {
  switch (type) {
    case sinq::DType::f16:
      return "float16";
    case sinq::DType::bf16:
      return "bfloat16";
    case sinq::DType::f64:
      return "float64";
    default:
      return "float32";
  }
}

}  // namespace detail

/// Throws, and leaves no trace of `target`, where anything is wrong. `progress(share)`.
inline Report run(const std::string& source, const std::string& target, const Options& options,
                  const std::function<void(double)>& progress = {}) {
  using namespace sinq;
  const store::Config file(std::filesystem::path(source) / "config.json");
  const engine::ModelConfig config = engine::parse_config(file);
  const store::Checkpoint model(source);
  store::DirectoryWriter out(model, target);
  Report report;
  auto changes = detail::Planner(model, config, options, report).plan(progress);
  detail::Rounding rounding;
  for (const store::Tensor* t : model.tensors()) {
    const auto change = changes.find(t->name);
    const auto own = store::weight_type(t->type);
    if (change != changes.end() || (own && options.type)) {
      const DType type = options.type.value_or(own.value_or(DType::f32));
      detail::Rounding other;  // of what only changes its type
      const auto bytes = detail::changed(*t, change == changes.end() ? Change{} : change->second, type,
                                         change == changes.end() ? other : rounding);
      out.add(t->name, store::element_type(type), t->shape, bytes);
    } else {
      out.add(t->name, t->type, t->shape, t->data);
    }
    model.forget(*t);
  }
  store::Json config_changes = store::Json::object();
  if (options.type) config_changes[file.has("dtype") ? "dtype" : "torch_dtype"] = detail::torch_name(*options.type);
  report.rounding_error = rounding.square_norm == 0 ? 0 : std::sqrt(rounding.square_error / rounding.square_norm);
  report.model_bytes = out.finish_unquantized(config_changes).model_bytes;
  return report;
}

}  // namespace fold_model
