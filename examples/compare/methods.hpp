// SPDX-License-Identifier: Apache-2.0
#pragma once

// Ways to quantize that can be compared: weights in, restored weights and the bytes they were stored in out.

#include <functional>
#include <sinq/sinq.hpp>

#include "ggml.hpp"
#include "hadamard.hpp"

namespace compare {

struct Restored {
  engine::Matrix weights;
  std::int64_t bytes = 0;  // of codes, auxiliaries and column scales
};

enum class Family { presets, published, ggml, calibrated };

[[nodiscard]] inline const char* name_of(Family family) {
  constexpr const char* kNames[] = {"presets", "published", "ggml", "calibrated"};
  return kNames[static_cast<int>(family)];
}

/// One matrix of a model.
struct Job {
  std::string tensor;
  sinq::WeightView weights;
  const sinq::Activations* activations;  // for calibrated methods only
  sinq::Executor& executor;
};

struct Method {
  std::string name;
  std::string curve;  // what it is a point of in a plot
  Family family = Family::presets;
  int bits = 0;  // per code; 0: the name says how large it is
  std::function<Restored(const Job&)> restore;

  [[nodiscard]] bool calibrated() const { return family == Family::calibrated; }
  [[nodiscard]] std::string title() const { return bits == 0 ? name : name + " " + std::to_string(bits) + " bits"; }
};

namespace detail {

[[nodiscard]] inline Restored quantize_and_restore(const sinq::QuantizeConfig& config, const Job& job) {
  const sinq::QuantizedMatrix q =
      sinq::quantize(job.weights, config, {.executor = &job.executor, .activations = job.activations});
  return {sinq::dequantize(q, &job.executor), q.bytes()};
}

[[nodiscard]] inline Method of_config(const std::string& name, const std::string& curve,
                                      const sinq::QuantizeConfig& config) {
  const bool calibrated = config.calibration != sinq::Calibration::none;
  return {name, curve, calibrated ? Family::calibrated : Family::published, config.bits,
          [config](const Job& job) { return quantize_and_restore(config, job); }};
}

/// "preset-3.5", and with a calibration "preset-3.5-gptq".
[[nodiscard]] inline Method of_preset(double size, sinq::Calibration calibration = sinq::Calibration::none) {
  const bool calibrated = calibration != sinq::Calibration::none;
  std::ostringstream name;
  name << "preset-" << size << (calibrated ? "-gptq" : "");
  return {name.str(), calibrated ? "presets, gptq" : "presets", calibrated ? Family::calibrated : Family::presets, 0,
          [size, calibration](const Job& job) {
            sinq::QuantizeConfig config = sinq::preset(size, sinq::role_of(job.tensor));
            config.calibration = calibration;
            return quantize_and_restore(config, job);
          }};
}

[[nodiscard]] inline engine::Matrix floats(const sinq::WeightView& weights) {
  engine::Matrix w(weights.rows, weights.cols);
  weights.load(0, weights.rows, 0, weights.cols, w.data(), weights.cols);
  return w;
}

/// Round to nearest, rotated. (Of an engine it asks for rotated activations.)
[[nodiscard]] inline Method of_hadamard(int bits) {
  return {"hadamard-rtn", "hadamard-rtn", Family::published, bits, [bits](const Job& job) {
            const sinq::QuantizeConfig config{.bits = bits, .balance = sinq::Balancing::none};
            std::int64_t bytes = 0;
            engine::Matrix w = rotate_and_round(floats(job.weights), config, {.executor = &job.executor}, bytes);
            return Restored{std::move(w), bytes};
          }};
}

[[nodiscard]] inline Method of_ggml(const GgmlType& type, const std::shared_ptr<const Ggml>& ggml) {
  return {type.name, type.block == 256 ? "k-quants" : type.name, Family::ggml, 0, [&type, ggml](const Job& job) {
            Restored r{floats(job.weights)};
            r.bytes = ggml->round(type, r.weights, job.executor);
            return r;
          }};
}

}  // namespace detail

/// Every preset, without and with error feedback; what was published for each width of `bits` that it has; ggml's
/// types, if there is a ggml.
[[nodiscard]] inline std::vector<Method> all_methods(const std::vector<int>& bits,
                                                     const std::shared_ptr<const Ggml>& ggml) {
  using sinq::Balancing;
  using sinq::Calibration;
  using sinq::Refine;
  using sinq::Rounding;
  std::vector<Method> methods;
  for (const Calibration calibration : {Calibration::none, Calibration::gptq})
    for (const double size : sinq::kPresets) methods.push_back(detail::of_preset(size, calibration));
  for (const int b : bits) {
    const auto add = [&](const std::string& name, sinq::QuantizeConfig config, const std::string& curve = "") {
      config.bits = b;
      methods.push_back(detail::of_config(name, curve.empty() ? name : curve, config));
    };
    add("rtn", {.balance = Balancing::none});
    add("hqq", {.refine = Refine::hqq, .balance = Balancing::none});
    add("sinq", {});
    add("sinq-hqq", {.refine = Refine::hqq});
    methods.push_back(detail::of_hadamard(b));
    add("awq", {.balance = Balancing::none, .calibration = Calibration::awq});
    add("a-sinq", {.calibration = Calibration::awq});
    add("gptq", {.balance = Balancing::none, .calibration = Calibration::gptq});
    add("sinq-gptq", {.calibration = Calibration::gptq});
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
