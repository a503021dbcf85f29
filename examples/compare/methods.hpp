// SPDX-License-Identifier: Apache-2.0
#pragma once

// Ways to quantize that can be compared: weights in, restored weights and the bytes they were stored in out.

#include <functional>
#include <sinq/sinq.hpp>

#include "ggml.hpp"

namespace compare {

struct Restored {
  engine::Matrix weights;
  std::int64_t bytes = 0;  // of codes, auxiliaries and column scales
};

enum class Family { presets, published, ggml };

[[nodiscard]] inline const char* name_of(Family family) {
  constexpr const char* kNames[] = {"presets", "published", "ggml"};
  return kNames[static_cast<int>(family)];
}

struct Method {
  std::string name;
  std::string curve;  // what it is a point of in a plot
  Family family = Family::presets;
  int bits = 0;  // per code; 0: the name says how large it is
  bool calibrated = false;
  std::function<Restored(const std::string& tensor, const sinq::WeightView&, sinq::Executor&)> restore;

  [[nodiscard]] std::string title() const { return bits == 0 ? name : name + " " + std::to_string(bits) + " bits"; }
};

namespace detail {

[[nodiscard]] inline Restored quantize_and_restore(const sinq::QuantizeConfig& config, const sinq::WeightView& weights,
                                                   sinq::Executor& executor) {
  const sinq::QuantizedMatrix q = sinq::quantize(weights, config, {.executor = &executor});
  return {sinq::dequantize(q, &executor), q.bytes()};
}

[[nodiscard]] inline Method of_config(const std::string& name, const std::string& curve,
                                      const sinq::QuantizeConfig& config) {
  return {name,
          curve,
          Family::published,
          config.bits,
          false,
          [config](const std::string&, const sinq::WeightView& weights, sinq::Executor& executor) {
            return quantize_and_restore(config, weights, executor);
          }};
}

[[nodiscard]] inline Method of_preset(double size) {
  std::ostringstream name;
  name << "preset-" << size;
  return {name.str(),
          "presets",
          Family::presets,
          0,
          false,
          [size](const std::string& tensor, const sinq::WeightView& weights, sinq::Executor& executor) {
            return quantize_and_restore(sinq::preset(size, sinq::role_of(tensor)), weights, executor);
          }};
}

[[nodiscard]] inline Method of_ggml(const GgmlType& type, const std::shared_ptr<const Ggml>& ggml) {
  return {type.name,
          type.block == 256 ? "k-quants" : type.name,
          Family::ggml,
          0,
          false,
          [&type, ggml](const std::string&, const sinq::WeightView& weights, sinq::Executor& executor) {
            Restored r{engine::Matrix(weights.rows, weights.cols)};
            weights.load(0, weights.rows, 0, weights.cols, r.weights.data(), weights.cols);
            r.bytes = ggml->round(type, r.weights, executor);
            return r;
          }};
}

}  // namespace detail

/// Every preset; what was published for each width of `bits` that it has; ggml's types, if there is a ggml.
[[nodiscard]] inline std::vector<Method> all_methods(const std::vector<int>& bits,
                                                     const std::shared_ptr<const Ggml>& ggml) {
  using sinq::Balancing;
  using sinq::Refine;
  using sinq::Rounding;
  std::vector<Method> methods;
  for (const double size : sinq::kPresets) methods.push_back(detail::of_preset(size));
  for (const int b : bits) {
    const auto add = [&](const std::string& name, sinq::QuantizeConfig config, const std::string& curve = "") {
      config.bits = b;
      methods.push_back(detail::of_config(name, curve.empty() ? name : curve, config));
    };
    add("rtn", {.balance = Balancing::none});
    add("hqq", {.refine = Refine::hqq, .balance = Balancing::none});
    add("sinq", {});
    add("sinq-hqq", {.refine = Refine::hqq});
    if (b == 3 || b == 4) {
      const Rounding nf = b == 3 ? Rounding::nf3 : Rounding::nf4;
      add(b == 3 ? "nf3" : "nf4", {.rounding = nf, .balance = Balancing::none}, "nf3, nf4");
      add(b == 3 ? "sinq-nf3" : "sinq-nf4", {.rounding = nf}, "sinq-nf3, -nf4");
    }
  }
  if (ggml)
    for (const GgmlType& type : kGgmlTypes) methods.push_back(detail::of_ggml(type, ggml));
  return methods;
}

}  // namespace compare
