// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <random>
#include <sinq/quantize/preset.hpp>
#include <string>
#include <vector>

// The formats that tests go through.

namespace sinq::test {

/// All codes that there are.
struct Codes {
  Levels levels;
  int bits;
};
inline constexpr Codes kCodes[] = {{Levels::uniform, 2},   {Levels::uniform, 3},   {Levels::uniform, 4},
                                   {Levels::uniform, 5},   {Levels::uniform, 6},   {Levels::uniform, 8},
                                   {Levels::symmetric, 2}, {Levels::symmetric, 3}, {Levels::symmetric, 4},
                                   {Levels::symmetric, 5}, {Levels::symmetric, 6}, {Levels::symmetric, 8},
                                   {Levels::nf4, 4},       {Levels::nf3, 3},       {Levels::table, 2},
                                   {Levels::table, 3},     {Levels::table, 4}};
inline constexpr Aux kScales[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};
inline constexpr Aux kZeros[] = {Aux::none, Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};
inline constexpr std::int64_t kGroups[] = {16, 32, 48, 64, 80, 128, 256, kWholeRow};
inline constexpr Aux kColScales[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::none};

/// Whole numbers of the groups that share a record on a GPU, and others (cuda/order.hpp).
inline constexpr std::int64_t kCoarseGroups[] = {0, 1, 3, 4, 6, 8};

/// Every kind of codes with every scale and zero. Groups, tiles, column scales, signs and blocks of coarse scales are
/// drawn, so that none of them goes with another: what is taken by turns meets only some of what else is taken by
/// turns. formats_test.cpp counts that every two meet.
inline std::vector<Format> formats() {
  std::mt19937 random(2);
  const auto one_of = [&](const auto& choices) { return choices[random() % std::size(choices)]; };
  std::vector<Format> all;
  for (const Codes& c : kCodes)
    for (Aux scale : kScales)
      for (Aux zero : kZeros) {
        if (c.levels == Levels::uniform && zero == Aux::none) continue;
        // Symmetric levels have no zero: they are drawn more often instead.
        if (c.levels == Levels::symmetric) zero = Aux::none;
        Format f{.bits = c.bits, .levels = c.levels, .scale = scale, .zero = zero};
        f.group_size = one_of(kGroups);
        f.tile = random() % 2 ? Tile::square : Tile::stripe;
        f.col_scale = one_of(kColScales);
        if (is_integer(scale)) {
          f.signed_scale = random() % 2;
          f.coarse_groups = one_of(kCoarseGroups);
        }
        all.push_back(f);
      }
  return all;
}

struct NamedFormat {
  std::string name;
  Format format;
};

/// The formats of every preset in every role.
inline std::vector<NamedFormat> preset_formats() {
  std::vector<NamedFormat> all;
  for (double size : kPresets)
    for (Role role : {Role::other, Role::query, Role::value, Role::down}) {
      const Format f = detail::quantize::format_of(preset(size, role), true);
      if (std::any_of(all.begin(), all.end(), [&](const NamedFormat& known) { return known.format == f; })) continue;
      all.push_back({"preset-" + detail::core::text(size) + ", role " + std::to_string(static_cast<int>(role)), f});
    }
  return all;
}

/// What is in use: the presets, and the other formats that are measured (bench/matmul_bench.cpp).
inline std::vector<NamedFormat> formats_of_use() {
  std::vector<NamedFormat> all = preset_formats();
  for (int bits : kBitWidths)
    all.push_back({"uniform-aux8, bits " + std::to_string(bits), {.bits = bits, .scale = Aux::u8, .zero = Aux::u8}});
  all.push_back({"uniform-aux8, without column scale", {.scale = Aux::u8, .zero = Aux::u8, .col_scale = Aux::none}});
  all.push_back({"uniform-aux16", {}});
  all.push_back({"nf4-aux8", {.bits = 4, .levels = Levels::nf4, .scale = Aux::u8, .zero = Aux::none}});
  all.push_back({"nf3-aux8", {.bits = 3, .levels = Levels::nf3, .scale = Aux::u8, .zero = Aux::none}});
  return all;
}

}  // namespace sinq::test
