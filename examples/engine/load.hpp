// SPDX-License-Identifier: Apache-2.0
#pragma once

// A model directory in Hugging Face layout, full-precision or quantized -> a Model. Dense weights stay in the mapped
// files, quantized ones are packed for the kernel once.

#include <filesystem>

#include "build.hpp"

namespace engine {

namespace detail {

class CheckpointSource {
 public:
  explicit CheckpointSource(const sinq::store::Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  [[nodiscard]] bool has(const std::string& name) const {
    return checkpoint_.find(name) != nullptr || sinq::store::is_quantized(checkpoint_, name);
  }

  [[nodiscard]] Vector vector(const std::string& name, int size) const {
    const sinq::store::Tensor& t = checkpoint_.at(name);
    require_shape(name, t.shape, {size});
    const std::vector<float> values = sinq::store::to_floats(t);
    return Eigen::Map<const Vector>(values.data(), size);
  }

  [[nodiscard]] Linear matrix(const std::string& name, int rows, int cols) const {
    if (sinq::store::is_quantized(checkpoint_, name)) {
      sinq::QuantizedMatrix q = sinq::store::read_quantized(checkpoint_, name);
      require_shape(name, {q.rows, q.cols}, {rows, cols});
      return Linear(sinq::pack(std::move(q)));
    }
    const sinq::store::Tensor& t = checkpoint_.at(name);
    require_shape(name, t.shape, {rows, cols});
    return Linear(sinq::store::weights(t));
  }

 private:
  static std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string out = "[";
    for (std::size_t k = 0; k < shape.size(); ++k) out += (k == 0 ? "" : ", ") + std::to_string(shape[k]);
    return out + "]";
  }
  void require_shape(const std::string& name, const std::vector<std::int64_t>& shape,
                     const std::vector<std::int64_t>& expected) const {
    if (shape != expected)
      throw ModelError(text(checkpoint_.name(), ": tensor ", name, " has the shape ", shape_text(shape),
                            ", config.json asks for ", shape_text(expected)));
  }

  const sinq::store::Checkpoint& checkpoint_;
};

}  // namespace detail

[[nodiscard]] inline Model load_model(const std::filesystem::path& directory) {
  const ModelConfig config = parse_config(sinq::store::Config(directory / "config.json"));
  auto checkpoint = std::make_shared<const sinq::store::Checkpoint>(directory);
  detail::CheckpointSource source(*checkpoint);
  Model model = build_model(config, source);
  model.files = checkpoint;
  return model;
}

}  // namespace engine
