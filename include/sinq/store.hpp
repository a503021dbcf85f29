// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `store`: safetensors, checkpoints, and quantized matrices in them. Every byte that comes from outside is
// checked here, completely, so that no other stage takes untrusted bytes.
//
//   Checkpoint       a model: one file, or the shards that an index lists               (checkpoint.hpp)
//   File             one safetensors file, memory-mapped                                (file.hpp)
//   Tensor           name, element type, shape, bytes; as weights, floats, integers     (tensor.hpp)
//   Config           config.json with checked questions                                 (config.hpp)
//   Writer           writes a file tensor by tensor and replaces the old one at the end (writer.hpp)
//   DirectoryWriter  a quantized copy of a model directory                              (directory.hpp)
//   save, load       all quantized matrices of a file at once                           (quantized.hpp)
//   write, read_quantized, contents   one at a time, and what there is                  (quantized.hpp)
//
//     sinq::store::save("layer.safetensors", {{"q_proj", q}});
//     sinq::QuantizedMatrix q = sinq::store::load("layer.safetensors").at("q_proj");
//
// Errors: FormatError for a malformed file (naming file, tensor and byte), IoError for what the system refuses,
// InvalidArgument for what a caller asks to write. Reading never over-reads, and allocates in proportion to the bytes
// that are there, not to what they claim.
//
// What a file must be is said in header.hpp (safetensors) and format.hpp (the stored form of a quantized matrix).
// POSIX only: mmap, fsync, rename.

#include "store/checkpoint.hpp"
#include "store/config.hpp"
#include "store/directory.hpp"
#include "store/file.hpp"
#include "store/quantized.hpp"
#include "store/tensor.hpp"
#include "store/writer.hpp"
