// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "../core.hpp"

namespace sinq::inline SINQ_ABI {

/// What one run of the balancing sees: `stripe` = all rows x one group of columns ("1D" in the paper), `square` =
/// group_size x group_size ("2D").
enum class Tile : std::uint8_t { stripe, square };

/// As files spell it; empty for a value that the enumeration does not have.
[[nodiscard]] constexpr const char* name_of(Tile tile) noexcept {
  switch (tile) {
    case Tile::stripe:
      return "stripe";
    case Tile::square:
      return "square";
    default:
      return "";
  }
}

/// A group size that stands for "all columns of the row".
inline constexpr std::int64_t kWholeRow = 0;

namespace detail::tile {

inline constexpr const char* kGroupSizes = "allowed are multiples of 16 from 16 to 256, and 0 for the whole row";
inline constexpr const char* kTiles = "allowed are stripe and square";

[[nodiscard]] constexpr bool is_group_size(std::int64_t n) noexcept {
  return n == kWholeRow || (n >= 16 && n <= 256 && n % 16 == 0);
}
[[nodiscard]] constexpr bool is_tile(Tile t) noexcept {
  return t == Tile::stripe || t == Tile::square;
}

}  // namespace detail::tile

/// How a rows x cols matrix falls into groups of columns and panels of rows. Make one with `tiling()`.
struct Tiling {
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t group_size;   // columns per group; the last group may be shorter
  std::int64_t tile_height;  // rows per panel; the last panel may be lower

  [[nodiscard]] constexpr std::int64_t groups() const noexcept { return (cols + group_size - 1) / group_size; }
  [[nodiscard]] constexpr std::int64_t panels() const noexcept { return (rows + tile_height - 1) / tile_height; }
  [[nodiscard]] constexpr std::int64_t group_begin(std::int64_t g) const noexcept { return g * group_size; }
  [[nodiscard]] constexpr std::int64_t group_cols(std::int64_t g) const noexcept {
    return std::min(group_size, cols - g * group_size);
  }
  [[nodiscard]] constexpr std::int64_t panel_begin(std::int64_t p) const noexcept { return p * tile_height; }
  [[nodiscard]] constexpr std::int64_t panel_rows(std::int64_t p) const noexcept {
    return std::min(tile_height, rows - p * tile_height);
  }
  [[nodiscard]] constexpr std::int64_t panel_of(std::int64_t row) const noexcept { return row / tile_height; }
};

/// Checks the four values and resolves kWholeRow. rows and cols: 1 to 2^31 - 1; group_size: a multiple of 16 from 16
/// to 256, or kWholeRow. A group wider than the matrix is one short group.
[[nodiscard]] inline Tiling tiling(std::int64_t rows, std::int64_t cols, std::int64_t group_size, Tile tile) {
  using detail::core::require;
  constexpr std::int64_t kMost = 0x7fff'ffff;
  require(rows >= 1 && rows <= kMost, "rows", rows, "allowed are 1 to 2^31 - 1");
  require(cols >= 1 && cols <= kMost, "cols", cols, "allowed are 1 to 2^31 - 1");
  require(detail::tile::is_group_size(group_size), "group_size", group_size, detail::tile::kGroupSizes);
  require(detail::tile::is_tile(tile), "tile", static_cast<int>(tile), detail::tile::kTiles);
  const std::int64_t width = group_size == kWholeRow ? cols : group_size;
  return {rows, cols, width, tile == Tile::stripe ? rows : width};
}

}  // namespace sinq::inline SINQ_ABI
