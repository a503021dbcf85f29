// SPDX-License-Identifier: Apache-2.0
#pragma once

// Where build_model and build_encoder take their tensors from: a checkpoint, or dense matrices that stand in for some
// of it.

#include <map>

#include "config.hpp"
#include "linear.hpp"

namespace engine {

/// Dense matrices that stand in for those of the files, by the names of the tensors. Models point into them.
using Replacements = std::map<std::string, Matrix>;

class CheckpointSource {
 public:
  explicit CheckpointSource(const sinq::store::Checkpoint& checkpoint, const Replacements* replacements = nullptr)
      : checkpoint_(checkpoint), replacements_(replacements) {}

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
    if (replacements_ != nullptr) {
      if (const auto found = replacements_->find(name); found != replacements_->end()) {
        require_shape(name, {found->second.rows(), found->second.cols()}, {rows, cols});
        return Linear(sinq::WeightView(sinq::MatrixView<const float>(found->second)));
      }
    }
    if (sinq::store::is_quantized(checkpoint_, name)) {
      const sinq::QuantizedMatrix q = sinq::store::read_quantized(checkpoint_, name);
      require_shape(name, {q.rows, q.cols}, {rows, cols});
      return Linear(sinq::pack(q));
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
  const Replacements* replacements_;
};

}  // namespace engine
