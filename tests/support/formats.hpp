// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <sinq/quantize/preset.hpp>
#include <string>
#include <vector>

namespace sinq::test {

struct NamedFormat {
  std::string name;
  Format format;
};

/// What is in use: the formats of every preset in every role, and those that are measured (bench/matmul_bench.cpp).
inline std::vector<NamedFormat> formats_of_use() {
  std::vector<NamedFormat> all;
  const auto add = [&](const std::string& name, const Format& f) {
    const auto same = [&](const NamedFormat& known) { return known.format == f; };
    if (std::none_of(all.begin(), all.end(), same)) all.push_back({name, f});
  };
  for (int bits : kBitWidths)
    add("uniform-aux8, bits " + std::to_string(bits), {.bits = bits, .scale = Aux::u8, .zero = Aux::u8});
  add("uniform-aux8, without column scale", {.scale = Aux::u8, .zero = Aux::u8, .col_scale = Aux::none});
  add("uniform-aux16", {});
  add("nf4-aux8", {.bits = 4, .levels = Levels::nf4, .scale = Aux::u8, .zero = Aux::none});
  add("nf3-aux8", {.bits = 3, .levels = Levels::nf3, .scale = Aux::u8, .zero = Aux::none});
  for (double size : kPresets)
    for (Role role : {Role::other, Role::query, Role::value, Role::down})
      add("preset-" + detail::core::text(size) + ", role " + std::to_string(static_cast<int>(role)),
          detail::quantize::format_of(preset(size, role), true));
  return all;
}

}  // namespace sinq::test
