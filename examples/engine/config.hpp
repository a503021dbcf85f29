// SPDX-License-Identifier: Apache-2.0
#pragma once

// config.json of a Llama, Qwen2 or Qwen3 model in Hugging Face layout -> a checked struct. What the engine would
// compute differently from what the file asks for is an error that names the key, never a silent default.

#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace engine {

/// The model cannot be run: the message says which file, key or tensor and what was expected.
class ModelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Pieces>
std::string text(const Pieces&... pieces) {
  std::ostringstream out;
  (out << ... << pieces);
  return out.str();
}

enum class Family { llama, qwen2, qwen3 };

/// How positions become angles; see rope.hpp for what the numbers do.
struct RopeConfig {
  enum class Type { plain, linear, dynamic, llama3, yarn };
  Type type = Type::plain;
  double theta = 10000.0;
  double factor = 1.0;
  double original_positions = 0.0;  // length of the sequences in training; dynamic, llama3 and yarn
  double low_freq_factor = 1.0;     // llama3
  double high_freq_factor = 4.0;    // llama3
  double beta_fast = 32.0;          // yarn
  double beta_slow = 1.0;           // yarn
  bool truncate = true;             // yarn: the ramp begins and ends at whole dimensions
  double attention_factor = 1.0;    // yarn: what cos and sin are multiplied with
};

struct ModelConfig {
  Family family = Family::llama;
  int hidden_size = 0;
  int intermediate_size = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;  // divides heads: grouped-query attention
  int head_dim = 0;  // even
  int vocab_size = 0;
  int max_positions = 0;  // not a limit: longer sequences simply go on
  float rms_norm_eps = 1e-6f;
  bool tied = false;  // the head is the embedding
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  RopeConfig rope;
  std::vector<int> window;  // per layer: how many positions it sees, itself included; 0: all
};

namespace detail {

using nlohmann::json;

inline const json* find(const json& object, const char* key) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;  // null means "not given", as in Python
}

inline double number(const json& object, const char* key, double otherwise) {
  const json* value = find(object, key);
  if (!value) return otherwise;
  if (!value->is_number()) throw ModelError(text("config.json: ", key, " is ", value->dump(), ", expected a number"));
  return value->get<double>();
}

inline double required_number(const json& object, const char* key) {
  if (!find(object, key)) throw ModelError(text("config.json: ", key, " is missing"));
  return number(object, key, 0);
}

inline int count(const json& object, const char* key, int otherwise = 0) {
  const double value = otherwise ? number(object, key, otherwise) : required_number(object, key);
  if (!(value >= 1 && value <= 0x7fff'ffff && value == std::floor(value)))
    throw ModelError(text("config.json: ", key, " = ", value, ", expected a whole number from 1"));
  return static_cast<int>(value);
}

inline bool flag(const json& object, const char* key, bool otherwise) {
  const json* value = find(object, key);
  if (!value) return otherwise;
  if (!value->is_boolean()) throw ModelError(text("config.json: ", key, " is ", value->dump(), ", expected a boolean"));
  return value->get<bool>();
}

inline std::string word(const json& object, const char* key, const char* otherwise) {
  const json* value = find(object, key);
  if (!value) return otherwise;
  if (!value->is_string()) throw ModelError(text("config.json: ", key, " is ", value->dump(), ", expected a string"));
  return value->get<std::string>();
}

inline Family family(const json& config) {
  const json* list = find(config, "architectures");
  const std::string name = list && list->is_array() && !list->empty() && list->front().is_string()
                               ? list->front().get<std::string>()
                               : word(config, "model_type", "(none)");
  if (name == "LlamaForCausalLM" || name == "llama") return Family::llama;
  if (name == "Qwen2ForCausalLM" || name == "qwen2") return Family::qwen2;
  if (name == "Qwen3ForCausalLM" || name == "qwen3") return Family::qwen3;
  throw ModelError(text("config.json: architecture ", name,
                        " is not supported; supported are LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"));
}

/// YaRN's correction of the attention temperature (arXiv 2309.00071, section 3.4).
inline double yarn_scale(double factor, double weight) {
  return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
}

/// `rope_theta` + `rope_scaling` of the older files, or the one object `rope_parameters` of the newer ones.
inline RopeConfig rope(const json& config, int max_positions) {
  RopeConfig r;
  r.theta = number(config, "rope_theta", r.theta);
  r.original_positions = max_positions;
  const json* scaling = find(config, "rope_parameters");
  const char* name = scaling ? "rope_parameters" : "rope_scaling";
  if (!scaling) scaling = find(config, "rope_scaling");
  if (!scaling) return r;
  if (!scaling->is_object()) throw ModelError(text("config.json: ", name, " is not an object"));

  r.theta = number(*scaling, "rope_theta", r.theta);
  if (number(*scaling, "partial_rotary_factor", 1.0) != 1.0)
    throw ModelError(text("config.json: ", name, ".partial_rotary_factor other than 1 is not supported"));
  const std::string type = word(*scaling, "rope_type", word(*scaling, "type", "default").c_str());
  if (type == "default") return r;

  r.factor = required_number(*scaling, "factor");
  if (!(r.factor >= 1)) throw ModelError(text("config.json: ", name, ".factor = ", r.factor, ", expected at least 1"));
  if (type == "linear") {
    r.type = RopeConfig::Type::linear;
  } else if (type == "dynamic") {
    r.type = RopeConfig::Type::dynamic;
  } else if (type == "llama3") {
    r.type = RopeConfig::Type::llama3;
    r.original_positions = required_number(*scaling, "original_max_position_embeddings");
    r.low_freq_factor = required_number(*scaling, "low_freq_factor");
    r.high_freq_factor = required_number(*scaling, "high_freq_factor");
    if (!(r.low_freq_factor > 0 && r.high_freq_factor > r.low_freq_factor))
      throw ModelError(text("config.json: ", name, ": low_freq_factor = ", r.low_freq_factor,
                            ", high_freq_factor = ", r.high_freq_factor, ", expected 0 < low < high"));
  } else if (type == "yarn") {
    r.type = RopeConfig::Type::yarn;
    r.original_positions = number(*scaling, "original_max_position_embeddings", max_positions);
    r.beta_fast = number(*scaling, "beta_fast", r.beta_fast);
    r.beta_slow = number(*scaling, "beta_slow", r.beta_slow);
    r.truncate = flag(*scaling, "truncate", true);
    const double mscale = number(*scaling, "mscale", 0);
    const double mscale_all = number(*scaling, "mscale_all_dim", 0);
    const double otherwise = mscale != 0 && mscale_all != 0
                                 ? yarn_scale(r.factor, mscale) / yarn_scale(r.factor, mscale_all)
                                 : yarn_scale(r.factor, 1);
    r.attention_factor = number(*scaling, "attention_factor", otherwise);
  } else {
    throw ModelError(text("config.json: ", name, ".rope_type \"", type,
                          "\" is not supported; supported are default, linear, dynamic, llama3, yarn"));
  }
  if (!(r.original_positions >= 1))
    throw ModelError(text("config.json: ", name, ".original_max_position_embeddings = ", r.original_positions));
  return r;
}

/// Which layers look back only so far: Qwen's `use_sliding_window` from layer `max_window_layers` on, or `layer_types`.
inline std::vector<int> windows(const json& config, Family family, int layers) {
  std::vector<int> result(static_cast<std::size_t>(layers), 0);
  if (family == Family::llama || !flag(config, "use_sliding_window", false) || !find(config, "sliding_window"))
    return result;
  const int window = count(config, "sliding_window");
  const json* types = find(config, "layer_types");
  if (types && (!types->is_array() || types->size() != result.size()))
    throw ModelError(text("config.json: layer_types must list the ", layers, " layers"));
  const int first = static_cast<int>(number(config, "max_window_layers", 28));  // the default of both families
  for (int i = 0; i < layers; ++i) {
    const auto n = static_cast<std::size_t>(i);
    if (!types) {
      result[n] = i >= first ? window : 0;
    } else if ((*types)[n] == "sliding_attention") {
      result[n] = window;
    } else if ((*types)[n] != "full_attention") {
      throw ModelError(text("config.json: layer_types[", i, "] is ", (*types)[n].dump(),
                            ", supported are full_attention and sliding_attention"));
    }
  }
  return result;
}

}  // namespace detail

/// The defaults are those of the families' configuration classes.
inline ModelConfig parse_config(const nlohmann::json& json) {
  using namespace detail;
  if (!json.is_object()) throw ModelError("config.json is not an object");
  ModelConfig c;
  c.family = family(json);
  c.hidden_size = count(json, "hidden_size");
  c.intermediate_size = count(json, "intermediate_size");
  c.layers = count(json, "num_hidden_layers");
  c.heads = count(json, "num_attention_heads");
  c.kv_heads = count(json, "num_key_value_heads", c.heads);
  if (c.heads % c.kv_heads != 0)
    throw ModelError(
        text("config.json: num_key_value_heads = ", c.kv_heads, " does not divide num_attention_heads = ", c.heads));
  if (find(json, "head_dim")) {
    c.head_dim = count(json, "head_dim");
  } else if (c.family == Family::qwen3) {
    c.head_dim = 128;
  } else if (c.hidden_size % c.heads == 0) {
    c.head_dim = c.hidden_size / c.heads;
  } else {
    throw ModelError(text("config.json: num_attention_heads = ", c.heads,
                          " does not divide hidden_size = ", c.hidden_size, ", and there is no head_dim"));
  }
  if (c.head_dim % 2 != 0) throw ModelError(text("config.json: head_dim = ", c.head_dim, ", expected an even number"));
  c.vocab_size = count(json, "vocab_size");
  c.max_positions = count(json, "max_position_embeddings", c.family == Family::llama ? 2048 : 32768);
  c.rms_norm_eps = static_cast<float>(number(json, "rms_norm_eps", 1e-6));
  c.tied = flag(json, "tie_word_embeddings", false);
  const bool attention_bias = flag(json, "attention_bias", false);
  c.qkv_bias = c.family == Family::qwen2 || attention_bias;
  c.o_bias = c.family != Family::qwen2 && attention_bias;
  c.mlp_bias = flag(json, "mlp_bias", false);
  if (const std::string act = word(json, "hidden_act", "silu"); act != "silu" && act != "swish")
    throw ModelError(text("config.json: hidden_act \"", act, "\" is not supported; supported is silu"));
  if (number(json, "partial_rotary_factor", 1.0) != 1.0)
    throw ModelError("config.json: partial_rotary_factor other than 1 is not supported");
  c.rope = rope(json, c.max_positions);
  c.window = windows(json, c.family, c.layers);
  return c;
}

inline ModelConfig read_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  std::ifstream file(path);
  if (!file) throw ModelError(text(path, ": cannot be opened"));
  const auto json = nlohmann::json::parse(file, nullptr, false);
  if (json.is_discarded()) throw ModelError(text(path, " is not valid JSON"));
  return parse_config(json);
}

}  // namespace engine
