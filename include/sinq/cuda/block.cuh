// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "decode.cuh"
#include "product.hpp"

// Which part of a product a block computes.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// What a block multiplies.
struct Block {
  const std::uint8_t* codes;  // of this warp's strip
  const std::uint8_t* aux;    //
  const std::uint8_t* col_scale;
  int member;
  int panel;
  int first_row;  // of this warp, in y
  int rows;       // of this warp: 16, fewer at the end of a panel, 0 for a warp that has none
  int expert;
  int first_token;
  int tokens;  // 0: nothing to do
  int first_unit;
  int end_unit;
};

/// The expert and the tokens of the z-th block of tokens, counting those of each expert one after the other. The lanes
/// of a warp count the blocks of some experts each; every warp does the same, which saves a barrier.
SINQ_CUDA_DEVICE void locate_expert(const Product& p, int z, int block_tokens, Block& b) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  const int per_lane = (p.expert_count + kLanes - 1) / kLanes;
  const auto tokens_of = [&](int e) {
    if (e >= p.expert_count) return 0;
    return load_global<std::int32_t>(p.offsets + e + 1) - load_global<std::int32_t>(p.offsets + e);
  };
  const auto blocks_of = [&](int e) { return (tokens_of(e) + block_tokens - 1) / block_tokens; };
  int blocks = 0;
  for (int k = 0; k < per_lane; ++k) blocks += blocks_of(lane * per_lane + k);
  int end = blocks;  // of the lanes so far
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const int before = shuffle(end, lane - distance);
    if (lane >= distance) end += before;
  }
  int found = -1;
  int left = z - (end - blocks);
  if (left >= 0 && z < end) {
    found = lane * per_lane;
    for (; left >= blocks_of(found); ++found) left -= blocks_of(found);
  }
  // One lane has found it, or none.
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const int other = shuffle(found, lane ^ distance), others_left = shuffle(left, lane ^ distance);
    if (other > found) {
      found = other;
      left = others_left;
    }
  }
  b.tokens = 0;
  if (found < 0) return;
  b.expert = found;
  b.first_token = load_global<std::int32_t>(p.offsets + found) + left * block_tokens;
  const int rest = tokens_of(found) - left * block_tokens;
  b.tokens = rest < block_tokens ? rest : block_tokens;
}

/// What the warp multiplies in turn `turn` of `p.strips`.
///
/// A block's strips belong to one panel, whose activations it shares, or (kAcross) to any panels of one matrix; then a
/// warp behind the last strip repeats that strip, and has no rows to write.
template <bool kAcross>
SINQ_CUDA_DEVICE Block locate(const Product& p, int block_tokens, int turn = 0) {
  const Index3 at = block_index();
  const int warps = static_cast<int>(thread_count()) / kLanes, warp = static_cast<int>(thread_index()) / kLanes;
  const int block_strips = warps * p.strips;
  Block b{};
  int x = static_cast<int>(at.x);
  while (x >= p.members[b.member].blocks(block_strips, kAcross))
    x -= p.members[b.member++].blocks(block_strips, kAcross);
  const Member& m = p.members[b.member];
  int strip = 0;  // of its panel
  bool exists = true;
  if constexpr (kAcross) {
    const int wanted = x * warps + warp, last = m.strips() - 1;
    exists = wanted <= last;
    b.panel = (exists ? wanted : last) / m.panel_strips;
    strip = (exists ? wanted : last) - b.panel * m.panel_strips;
  } else {
    const int panel_blocks = m.blocks(block_strips, false) / m.panels;
    b.panel = x / panel_blocks;
    strip = (x - b.panel * panel_blocks) * block_strips + turn * warps + warp;
  }
  const int first_row = b.panel * m.tile_height + strip * kStripRows;
  const int left_in_panel = m.tile_height - strip * kStripRows;
  const int left = m.rows - first_row < left_in_panel ? m.rows - first_row : left_in_panel;
  b.rows = left < 0 || !exists ? 0 : left < kStripRows ? left : kStripRows;
  b.first_row = m.first_row + first_row;

  b.codes = m.codes;
  b.aux = m.aux;
  b.col_scale = m.col_scale;
  if (p.experts != nullptr) {
    locate_expert(p, static_cast<int>(at.z), block_tokens, b);
    b.codes = load_global<const std::uint8_t*>(&p.experts[b.expert].codes);
    b.aux = load_global<const std::uint8_t*>(&p.experts[b.expert].aux);
    b.col_scale = load_global<const std::uint8_t*>(&p.experts[b.expert].col_scale);
  } else {
    b.first_token = static_cast<int>(at.z) * block_tokens;
    b.tokens = p.tokens - b.first_token < block_tokens ? p.tokens - b.first_token : block_tokens;
  }
  const std::int64_t strip_index = std::int64_t{b.panel} * m.panel_strips + strip;
  b.codes += strip_index * p.w.units * unit_bytes(p.w.bits);
  b.aux += strip_index * p.w.aux_stride;
  b.first_unit = static_cast<int>(at.y) * p.slice_units;
  b.end_unit = b.first_unit + p.slice_units < p.w.units ? b.first_unit + p.slice_units : p.w.units;
  return b;
}

/// The bias of a row of an expert, or of the one matrix (expert 0).
SINQ_CUDA_DEVICE float load_bias(const Product& p, int expert, std::int64_t row) {
  return load_number(p.y_number, p.bias, std::int64_t{expert} * p.rows + row);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
