// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>

#include "layout.hpp"

// What a product is to the kernels, and how a block of theirs uses its shared memory.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// A matrix of a product.
struct Member {
  const std::uint8_t* codes = nullptr;
  const std::uint8_t* aux = nullptr;
  const std::uint8_t* col_scale = nullptr;
  int rows = 0;
  int tile_height = 0;
  int panels = 0;
  int panel_strips = 0;
  int first_row = 0;  // where its rows begin in y
  float levels[16] = {};

  [[nodiscard]] SINQ_CUDA_BOTH constexpr int strips() const {
    const int last = rows - (panels - 1) * tile_height;
    return (panels - 1) * panel_strips + (last + kStripRows - 1) / kStripRows;
  }
  /// Blocks that multiply it, each `at_once` strips of one panel, or of any.
  [[nodiscard]] SINQ_CUDA_BOTH constexpr int blocks(int at_once, bool across) const {
    return across ? (strips() + at_once - 1) / at_once : panels * ((panel_strips + at_once - 1) / at_once);
  }
};

[[nodiscard]] constexpr Member member_of(const Weights& w, int first_row = 0) {
  Member m{w.codes, w.aux, w.col_scale, w.rows, w.tile_height, w.panels, w.panel_strips, first_row, {}};
  for (int k = 0; k < 16; ++k) m.levels[k] = w.levels[k];
  return m;
}

/// Matrices of one launch: query, key and value; gate and up. They travel in the kernel's argument.
inline constexpr int kMostMembers = 8;

/// y = x W^T + bias. x is tokens x cols, y tokens x rows, row-major. W is one matrix, or several below each other, or
/// (experts) another one for each run of tokens.
struct Product {
  Weights w;  // what the matrices have in common: how they are stored, columns
  Member members[kMostMembers];
  int rows = 0;  // of all members
  const void* x = nullptr;
  void* y = nullptr;
  const void* bias = nullptr;  // rows, of y's type, a row of them per expert; or null
  float* partial = nullptr;    // slices x tokens x rows, if there is more than one slice
  // Experts: all of the shape of member 0. Expert e multiplies tokens [offsets[e], offsets[e + 1]) of y, and token t of
  // y comes from token token_list[t] of x.
  const Member* experts = nullptr;  // in device memory, or null
  int expert_count = 0;
  const std::int32_t* offsets = nullptr;     // expert_count + 1
  const std::int32_t* token_list = nullptr;  // or null: from token t
  std::int64_t x_stride = 0;                 // elements from token to token
  std::int64_t y_stride = 0;
  Number x_number = Number::f16;
  Number y_number = Number::f16;
  bool x_aligned = false;  // every token begins at a multiple of 16 bytes
  int tokens = 0;
  int pieces = 1;       // halves per activation
  int strips = 1;       // that a warp multiplies, one after the other
  int slices = 1;       // the columns are cut into
  int slice_units = 0;  // units per slice
  int chunk_units = 0;  // units whose activations are in shared memory at once; whole rounds, or the slice
  int aux_ring = 0;     // bytes, a power of two
};

/// How a warp walks along its strip: a round of `units` units after the other, `stages` of them in its ring.
struct Rounds {
  int units, stages;
};

/// What a round costs whatever it does (waiting, bringing more, decoding) its units share, so the narrow codes, which
/// instructions bind and not memory, have the longest. The ring has 4 to 8 KB, so that 16 warps per multiprocessor have
/// 40 KB and more under way while they work on one round (4.8 TB/s over 132 multiprocessors with a latency of 0.8 us
/// are 29 KB). Beside a table of levels, or with more columns of operand B than a tile's, long rounds would leave
/// activations too little room.
SINQ_CUDA_BOTH constexpr Rounds rounds_of(int bits, bool paired, int columns) {
  if (bits == 8) return {2, 3};
  if (bits > 4) return {4, 2};
  if (paired || columns > 8) return {4, bits == 2 ? 4 : 3};
  return {8, bits == 2 ? 3 : 2};
}

/// Whether a warp may multiply several strips, one after the other. With 32 columns of operand B the two blocks that
/// share a multiprocessor have no register left to count them.
SINQ_CUDA_BOTH constexpr bool takes_turns(int tiles) {
  return tiles != 4;
}

/// By how many bytes the records that are needed may be ahead of the average: the record of a group is needed with its
/// first column, a slice may begin anywhere in a group, and the coarse scales of a block come first.
SINQ_CUDA_BOTH constexpr int aux_lead(const Weights& w) {
  return w.header + 2 * w.record;
}

/// Bytes of the ring for records: what `units` units bring, those in flight and those at hand, and the record in use.
SINQ_CUDA_BOTH constexpr int aux_ring_bytes(const Weights& w, int units) {
  const int needed = units * (w.aux_rate / 256 + 1) + 2 * aux_lead(w) + 64;
  int ring = 64;
  while (ring < needed) ring *= 2;
  return ring;
}

/// Bytes of the table of levels: a row of 32 banks for every value of the index that is looked up at once.
SINQ_CUDA_BOTH constexpr std::uint32_t table_bytes(const Weights& w) {
  return w.paired ? std::uint32_t{4 * kLanes} << index_bits(w.bits) : 0;
}

/// Bytes of a unit's decoded factors: per period, scale and zero of 16 rows as floats.
SINQ_CUDA_BOTH constexpr int factor_bytes(const Weights& w) {
  return kUnitCols / w.period * 8 * kStripRows;
}

/// Addresses in the dynamic shared memory of a block.
struct SharedPlan {
  std::uint32_t table;     // pairs of levels, paired codes only; at the start, which is a constant of look-ups
  std::uint32_t maxima;    // word per token: largest magnitude of its scaled activations
  std::uint32_t steps;     // float per 16 columns and operand column: sum of activations
  std::uint32_t sums;      // the same per period
  std::uint32_t x;         // row of halves per operand column
  std::uint32_t x_stride;  // bytes: an odd multiple of 16, so that the rows of 8 lanes fall into different banks
  std::uint32_t rings;     // per warp: codes, records, decoded factors
  std::uint32_t ring_bytes;
  std::uint32_t total;

  /// The same, counted from `base`.
  [[nodiscard]] SINQ_CUDA_BOTH constexpr SharedPlan at(std::uint32_t base) const {
    SharedPlan s = *this;
    for (std::uint32_t* offset : {&s.table, &s.maxima, &s.steps, &s.sums, &s.x, &s.rings}) *offset += base;
    return s;
  }
};

/// `columns` of the `capacity` columns of operand B hold activations.
SINQ_CUDA_BOTH constexpr SharedPlan shared_plan(const Weights& w, int columns, int capacity, int chunk_units,
                                                int aux_ring, int warps) {
  const auto u = [](int n) { return static_cast<std::uint32_t>(n); };
  SharedPlan s{};
  s.table = 0;
  s.maxima = s.table + table_bytes(w);
  s.steps = s.maxima + u(4 * capacity);
  s.sums = s.steps + u(4 * capacity * chunk_units * (kUnitCols / kStepCols));
  s.x = s.sums + u(4 * capacity * chunk_units * (kUnitCols / w.period));
  s.x_stride = u(2 * kUnitCols * chunk_units + 16);
  s.rings = s.x + u(columns) * s.x_stride;
  const Rounds rounds = rounds_of(w.bits, w.paired, capacity);
  s.ring_bytes = u(rounds.units * (rounds.stages * unit_bytes(w.bits) + factor_bytes(w)) + aux_ring);
  s.total = s.rings + u(warps) * s.ring_bytes;
  return s;
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
