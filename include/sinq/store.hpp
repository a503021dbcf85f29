// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `store`: safetensors and checkpoints. Every byte that comes from outside is checked here, completely, so that
// the stages to the right take no untrusted bytes: a malformed file is a FormatError naming file, tensor and byte.
//
//   Checkpoint   a model: one file, or the shards that an index lists          (checkpoint.hpp)
//   File         one safetensors file, memory-mapped                           (file.hpp)
//   Tensor       name, element type, shape, bytes                              (tensor.hpp)
//   Config       config.json with checked questions                            (config.hpp)

#include "store/checkpoint.hpp"
#include "store/config.hpp"
#include "store/file.hpp"
#include "store/tensor.hpp"
