// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "job.hpp"

namespace sinq::inline SINQ_ABI::detail::matmul {

/// How a block of tokens is multiplied on the instruction set in use.
struct Method {
  Prepare prepare;
  Kernel kernel;
  Deliver deliver;
  std::int64_t strips = 1;  // that the kernel takes at once, at most
};

/// What tiles, where there are any, multiply.
enum class TileProducts : std::uint8_t { none, bytes, bfloat16 };

/// By counting instructions; nothing of it is measured yet. Restoring a weight as bfloat16 takes six times what a byte
/// takes, but sums of bytes are scaled for every segment and token. In fast numerics bfloat16 begins where both take as
/// long, tiles and vectors overlapping by half: with 11 tokens where segments have less than 32 columns (with fewer
/// tokens too much of a tile is empty), with 32 below 64 columns, and with 128 from there on. Up to four tokens VNNI's
/// products keep up with the memory.
[[nodiscard]] inline TileProducts tile_products(const Format& f, const Tiling& t, std::int64_t tokens,
                                                Numerics numerics) noexcept {
  if (current_isa() != Isa::amx) return TileProducts::none;
  constexpr std::int64_t kFewestTokens = 5;
  const std::int64_t cols = segment_cols(t);
  if (numerics == Numerics::exact)
    return tokens >= kFewestTokens && !core::is_nf(f.levels) ? TileProducts::bytes : TileProducts::none;
  if (tokens >= (cols < 32 ? 11 : cols < 64 ? 32 : 128)) return TileProducts::bfloat16;
  return tokens >= kFewestTokens && cols >= 32 ? TileProducts::bytes : TileProducts::none;
}

/// Whether vectors of 512 bits multiply in floats in exact numerics, not in three digits of every activation (VNNI): NF
/// levels are no integers, and from 16 tokens on, sums of groups of 16 take longer to scale (measured).
[[nodiscard]] inline bool exact_in_floats(const Format& f, const Tiling& t, std::int64_t tokens) noexcept {
  return core::is_nf(f.levels) || (tokens >= 16 && t.group_size == 16);
}

/// The choice (kernels.hpp).
[[nodiscard]] SINQ_KERNEL Method choose(const Format& f, const Tiling& t, std::int64_t tokens,
                                        Numerics numerics) noexcept;

}  // namespace sinq::inline SINQ_ABI::detail::matmul
