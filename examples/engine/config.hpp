// SPDX-License-Identifier: Apache-2.0
#pragma once

// config.json of a Llama, Qwen2 or Qwen3 model in Hugging Face layout -> a checked struct. What the engine would
// compute differently from what the file asks for is an error that names the key, never a silent default.

#include <cmath>
#include <optional>
#include <sinq/store.hpp>
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

/// "a = 1, b = 2" from its pieces.
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
  std::optional<int> bos;  // the token that texts begin with
  int max_positions = 0;   // not a limit: longer sequences simply go on
  float rms_norm_eps = 1e-6f;
  bool tied = false;  // the head is the embedding
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  RopeConfig rope;
  std::vector<int> window;  // per layer: how many positions it sees, itself included; 0: all
};

namespace detail {

using sinq::store::Config;

/// A whole number from 1 on.
inline int count(const Config& config, const char* name) {
  return static_cast<int>(config.integer(name, 1, 0x7fff'ffff));
}
inline int count_or(const Config& config, const char* name, int fallback) {
  return config.has(name) ? count(config, name) : fallback;
}

inline double positive(const Config& config, const char* name) {
  const double value = config.number(name);
  if (!(value > 0)) config.refuse(name, text("is ", value, ", must be above 0"));
  return value;
}
inline double positive_or(const Config& config, const char* name, double fallback) {
  return config.has(name) ? positive(config, name) : fallback;
}

inline Family family(const Config& config) {
  const bool listed = config.has("architectures");
  const char* key = listed ? "architectures" : "model_type";
  const std::vector<std::string> names = listed ? config.texts(key) : std::vector<std::string>{config.text(key)};
  if (names.empty()) config.refuse(key, "is empty");
  const std::string& name = names.front();
  if (name == "LlamaForCausalLM" || name == "llama") return Family::llama;
  if (name == "Qwen2ForCausalLM" || name == "qwen2") return Family::qwen2;
  if (name == "Qwen3ForCausalLM" || name == "qwen3") return Family::qwen3;
  config.refuse(key, text("is \"", name,
                          "\", which is not supported; supported are LlamaForCausalLM, Qwen2ForCausalLM and "
                          "Qwen3ForCausalLM"));
}

/// YaRN's correction of the attention temperature (arXiv 2309.00071, section 3.4).
inline double yarn_scale(double factor, double weight) {
  return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
}

inline void refuse_partial_rotary(const Config& config) {
  if (config.number_or("partial_rotary_factor", 1) != 1)
    config.refuse("partial_rotary_factor", "is not 1, which is not supported");
}

/// `rope_theta` + `rope_scaling` of the older files, or the one object `rope_parameters` of the newer ones.
inline RopeConfig rope(const Config& config, int max_positions) {
  RopeConfig r;
  r.theta = positive_or(config, "rope_theta", r.theta);
  r.original_positions = max_positions;
  refuse_partial_rotary(config);
  const char* name = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!config.has(name)) return r;
  const Config scaling = config.object(name);
  r.theta = positive_or(scaling, "rope_theta", r.theta);
  refuse_partial_rotary(scaling);
  const char* type_name = scaling.has("rope_type") ? "rope_type" : "type";
  const std::string type = scaling.text_or(type_name, "default");
  if (type == "default") return r;

  constexpr std::pair<const char*, RopeConfig::Type> kTypes[] = {{"linear", RopeConfig::Type::linear},
                                                                 {"dynamic", RopeConfig::Type::dynamic},
                                                                 {"llama3", RopeConfig::Type::llama3},
                                                                 {"yarn", RopeConfig::Type::yarn}};
  for (const auto& [known, value] : kTypes)
    if (type == known) r.type = value;
  if (r.type == RopeConfig::Type::plain)
    scaling.refuse(type_name, text("is \"", type,
                                   "\", which is not supported; supported are default, linear, dynamic, llama3 and "
                                   "yarn"));
  r.factor = scaling.number("factor");
  if (!(r.factor >= 1)) scaling.refuse("factor", text("is ", r.factor, ", must be at least 1"));
  if (r.type == RopeConfig::Type::llama3) {
    r.original_positions = positive(scaling, "original_max_position_embeddings");
    r.low_freq_factor = positive(scaling, "low_freq_factor");
    r.high_freq_factor = positive(scaling, "high_freq_factor");
    if (r.high_freq_factor <= r.low_freq_factor) scaling.refuse("high_freq_factor", "must be above low_freq_factor");
  } else if (r.type == RopeConfig::Type::yarn) {
    r.original_positions = positive_or(scaling, "original_max_position_embeddings", max_positions);
    r.beta_fast = positive_or(scaling, "beta_fast", r.beta_fast);
    r.beta_slow = positive_or(scaling, "beta_slow", r.beta_slow);
    r.truncate = scaling.flag_or("truncate", true);
    r.attention_factor = yarn_scale(r.factor, 1);
    if (scaling.has("mscale") && scaling.has("mscale_all_dim"))
      r.attention_factor =
          yarn_scale(r.factor, scaling.number("mscale")) / yarn_scale(r.factor, scaling.number("mscale_all_dim"));
    r.attention_factor = positive_or(scaling, "attention_factor", r.attention_factor);
  }
  return r;
}

/// Which layers look back only so far: Qwen's `use_sliding_window` from layer `max_window_layers` on, or `layer_types`.
inline std::vector<int> windows(const Config& config, Family family, int layers) {
  std::vector<int> result(static_cast<std::size_t>(layers), 0);
  if (family == Family::llama || !config.flag_or("use_sliding_window", false) || !config.has("sliding_window"))
    return result;
  const int window = count(config, "sliding_window");
  if (!config.has("layer_types")) {
    const auto first = config.integer_or("max_window_layers", 28, 0);  // 28: the default of both families
    for (std::int64_t i = first; i < layers; ++i) result[static_cast<std::size_t>(i)] = window;
    return result;
  }
  const std::vector<std::string> types = config.texts("layer_types");
  if (types.size() != result.size())
    config.refuse("layer_types", text("lists ", types.size(), " layers, num_hidden_layers is ", layers));
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (types[i] != "sliding_attention" && types[i] != "full_attention")
      config.refuse("layer_types", text("has \"", types[i],
                                        "\", which is not supported; supported are full_attention and "
                                        "sliding_attention"));
    if (types[i] == "sliding_attention") result[i] = window;
  }
  return result;
}

}  // namespace detail

/// The defaults are those of the families' configuration classes.
inline ModelConfig parse_config(const sinq::store::Config& config) {
  using namespace detail;
  ModelConfig c;
  c.family = family(config);
  c.hidden_size = count(config, "hidden_size");
  c.intermediate_size = count(config, "intermediate_size");
  c.layers = count(config, "num_hidden_layers");
  c.heads = count(config, "num_attention_heads");
  c.kv_heads = count_or(config, "num_key_value_heads", c.heads);
  if (c.heads % c.kv_heads != 0)
    config.refuse("num_key_value_heads",
                  text("is ", c.kv_heads, ", must divide num_attention_heads, which is ", c.heads));
  if (!config.has("head_dim") && c.family != Family::qwen3 && c.hidden_size % c.heads != 0)
    config.refuse("num_attention_heads", text("is ", c.heads, ", must divide hidden_size, which is ", c.hidden_size,
                                              ", where there is no head_dim"));
  c.head_dim = count_or(config, "head_dim", c.family == Family::qwen3 ? 128 : c.hidden_size / c.heads);
  if (c.head_dim % 2 != 0)
    config.refuse("head_dim",
                  text("(hidden_size / num_attention_heads where it is not given) is ", c.head_dim, ", must be even"));
  c.vocab_size = count(config, "vocab_size");
  if (config.has("bos_token_id")) c.bos = static_cast<int>(config.integer("bos_token_id", 0, c.vocab_size - 1));
  c.max_positions = count_or(config, "max_position_embeddings", c.family == Family::llama ? 2048 : 32768);
  c.rms_norm_eps = static_cast<float>(positive_or(config, "rms_norm_eps", 1e-6));
  c.tied = config.flag_or("tie_word_embeddings", false);
  const bool attention_bias = config.flag_or("attention_bias", false);
  c.qkv_bias = c.family == Family::qwen2 || attention_bias;
  c.o_bias = c.family != Family::qwen2 && attention_bias;
  c.mlp_bias = config.flag_or("mlp_bias", false);
  if (const std::string act = config.text_or("hidden_act", "silu"); act != "silu" && act != "swish")
    config.refuse("hidden_act", text("is \"", act, "\", which is not supported; supported is silu"));
  c.rope = rope(config, c.max_positions);
  c.window = windows(config, c.family, c.layers);
  return c;
}

}  // namespace engine
