// SPDX-License-Identifier: Apache-2.0
#pragma once

// A model directory in Hugging Face layout, full-precision or quantized -> a Model. Dense weights stay in the mapped
// files, quantized ones are packed for the kernel once.

#include <filesystem>

#include "build.hpp"
#include "source.hpp"

namespace engine {

[[nodiscard]] inline Model load_model(const std::filesystem::path& directory) {
  const ModelConfig config = parse_config(sinq::store::Config(directory / "config.json"));
  auto checkpoint = std::make_shared<const sinq::store::Checkpoint>(directory);
  const CheckpointSource source(*checkpoint);
  Model model = build_model(config, source);
  model.files = checkpoint;
  return model;
}

}  // namespace engine
