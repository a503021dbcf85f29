// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "product.hpp"

// How the wgmma kernel (multiply_wgmma.cuh) uses its shared memory.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Tokens of a block, columns of operand B of one wgmma: this many, or half as many where there are no more.
inline constexpr int kWgmmaTokens = 256;

/// Activations of 64 columns, 128 bytes per token: one is multiplied, one may still be, two are on their way.
inline constexpr int kWgmmaStages = 4;
SINQ_CUDA_BOTH constexpr int wgmma_stage_bytes(int tokens) {
  return tokens * 2 * kUnitCols;
}

/// A round lasts thousands of cycles here, so that one ahead is enough.
SINQ_CUDA_BOTH constexpr Rounds wgmma_rounds_of(int bits) {
  return {bits == 8 ? 2 : 4, 2};
}

/// Addresses in the dynamic shared memory of a block.
struct WgmmaShared {
  std::uint32_t x;  // kWgmmaStages stages; results when all is done; at a multiple of the 1024 bytes after which the
                    // swizzle repeats
  std::uint32_t sources;  // per token: where its row of x begins, in bytes (64 bits)
  std::uint32_t table;    // as in SharedPlan
  std::uint32_t rings;    // per warp: codes, records, decoded factors, column scales as floats
  std::uint32_t ring_bytes;
  std::uint32_t columns;  // in a ring: where the column scales begin
  std::uint32_t total;

  /// The same, counted from `base`.
  [[nodiscard]] SINQ_CUDA_BOTH constexpr WgmmaShared at(std::uint32_t base) const {
    WgmmaShared s = *this;
    for (std::uint32_t* offset : {&s.x, &s.sources, &s.table, &s.rings}) *offset += base;
    return s;
  }
};

SINQ_CUDA_BOTH constexpr WgmmaShared wgmma_shared(const Weights& w, int tokens, int aux_ring, int warps) {
  const auto u = [](int n) { return static_cast<std::uint32_t>(n); };
  WgmmaShared s{};
  s.x = 0;
  s.sources = s.x + u(kWgmmaStages * wgmma_stage_bytes(tokens));
  s.table = s.sources + u(8 * tokens);
  s.rings = s.table + table_bytes(w);
  const Rounds rounds = wgmma_rounds_of(w.bits);
  s.columns = u(rounds.units * (rounds.stages * unit_bytes(w.bits) + factor_bytes(w)) + aux_ring);
  s.ring_bytes = s.columns + u(rounds.units * 4 * kUnitCols);
  s.total = s.rings + u(warps) * s.ring_bytes;
  return s;
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
