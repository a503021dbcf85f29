// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "amx_bfloat16.hpp"
#include "amx_bytes.hpp"
#include "avx2.hpp"
#include "avx512.hpp"
#include "method.hpp"
#include "neon.hpp"
#include "strip.hpp"

namespace sinq::inline SINQ_ABI::detail::matmul {

/// visit(bits, table) with constants: the width of the codes, and whether they need a table.
template <class Visit>
[[nodiscard]] Method with_codes(const Format& f, Visit&& visit) noexcept {
  return core::with_code_bits(f.bits, [&](auto bits) {
    if constexpr (bits() <= 4)
      if (f.levels > Levels::symmetric) return visit(bits, std::true_type{});
    return visit(bits, std::false_type{});
  });
}

#if defined(__x86_64__)
/// Two products start per cycle and take five (Intel): ten or more sums keep them busy. Fewer tokens have two each.
template <int kBits, bool kTable>
[[nodiscard]] Method bytes_avx512(bool exact) noexcept {
  using OneSum = avx512::ByFours<avx512::Shifted<kBits, kTable, 1>>;
  using TwoSums = avx512::ByFours<avx512::Shifted<kBits, kTable, 2>>;
  if (exact)
    return {avx512::prepare_bytes<3, false>, avx512::multiply_bytes<kBits, 3, 8, TwoSums, TwoSums, OneSum>,
            avx512::deliver};
  return {avx512::prepare_bytes<1, false>, avx512::multiply_bytes<kBits, 1, 16, TwoSums, TwoSums, OneSum>,
          avx512::deliver};
}
template <int kBits>
[[nodiscard]] Method groups_vbmi(bool exact) noexcept {
  using OneSum = avx512::vbmi::ByFours<avx512::vbmi::Permuted<kBits, 1>>;
  using TwoSums = avx512::vbmi::ByFours<avx512::vbmi::Permuted<kBits, 2>>;
  if (exact)
    return {avx512::prepare_bytes<3, true>, avx512::vbmi::multiply_groups<kBits, 3, 8, TwoSums, TwoSums, OneSum>,
            avx512::deliver};
  return {avx512::prepare_bytes<1, true>, avx512::vbmi::multiply_groups<kBits, 1, 16, TwoSums, TwoSums, OneSum>,
          avx512::deliver};
}
template <int kBits, bool kTable>
[[nodiscard]] Method groups_avx512(bool exact, bool vbmi) noexcept {
  constexpr bool kEven = !kTable && kBits <= 4;
  using OneSum =
      avx512::ByFours<std::conditional_t<kEven && kBits != 3, avx512::AtTop<kBits>, avx512::Shifted<kBits, kTable, 1>>>;
  using TwoSums = avx512::ByFours<avx512::Shifted<kBits, kTable, 2>>;
  if constexpr (kTable)
    if (vbmi) return groups_vbmi<kBits>(exact);
  if (exact)
    return {avx512::prepare_bytes<3, true>, avx512::multiply_groups<kBits, 3, 8, TwoSums, TwoSums, OneSum>,
            avx512::deliver};
  using OneToken = std::conditional_t<kEven, avx512::ByFours<avx512::InPlace<kBits>>, TwoSums>;
  using Few = std::conditional_t<kEven && kBits == 4, OneToken, TwoSums>;  // two sums either way
  return {avx512::prepare_bytes<1, true>, avx512::multiply_groups<kBits, 1, 16, OneToken, Few, OneSum>,
          avx512::deliver};
}
/// Few tokens only of NF levels (exact_in_floats).
[[nodiscard]] inline Method floats_avx512(const Format& f, std::int64_t tokens) noexcept {
  return core::with_code_bits(f.bits, [&](auto bits) -> Method {
    Kernel kernel = avx512::multiply_many<bits(), true>;
    if constexpr (bits() == 3 || bits() == 4) {
      if (tokens == 1) kernel = avx512::multiply_few<bits(), true, 1>;
      if (tokens == 2) kernel = avx512::multiply_few<bits(), true, 2>;
      if (tokens > 2 && tokens < 16) kernel = avx512::multiply_few<bits(), true, 8>;
    }
    return {avx512::prepare_floats, kernel, avx512::deliver};
  });
}
template <int kBits>
[[nodiscard]] Method floats_avx2(std::int64_t tokens) noexcept {
  return {avx2::prepare_floats,
          tokens == 1   ? avx2::multiply_few<kBits, true, 1>
          : tokens == 2 ? avx2::multiply_few<kBits, true, 2>
                        : avx2::multiply_many<kBits, true>,
          avx2::deliver};
}

/// With products of four bytes (VNNI).
[[nodiscard]] inline Method choose_avx512(const Format& f, const Tiling& t, std::int64_t tokens, bool exact,
                                          bool vbmi) noexcept {
  if (exact && exact_in_floats(f, t, tokens)) return floats_avx512(f, tokens);
  const bool groups = has_integer_groups(f, t);
  return with_codes(f, [&](auto bits, auto table) {
    return groups ? groups_avx512<bits(), table()>(exact, vbmi) : bytes_avx512<bits(), table()>(exact);
  });
}

/// Activations and restored weights rounded to bfloat16.
template <class Tiles>
[[nodiscard]] Method bfloat16_tiles(const Format& f) noexcept {
  return core::with_code_bits(f.bits, [](auto bits) -> Method {
    return {amx::prepare_bfloat16, amx::multiply_bfloat16<Tiles, bits()>, avx512::deliver, kMostStrips};
  });
}
template <class Tiles, int kPlanes>
[[nodiscard]] Method byte_tiles(const Format& f) noexcept {
  return with_codes(f, [](auto bits, auto table) -> Method {
    return {avx512::prepare_bytes<kPlanes, false, true>, amx::multiply_bytes<Tiles, bits(), table(), kPlanes>,
            avx512::deliver, kMostStrips};
  });
}
template <class Tiles>
[[nodiscard]] Method choose_tiles(const Format& f, TileProducts products, bool exact) noexcept {
  if (products == TileProducts::bfloat16) return bfloat16_tiles<Tiles>(f);
  return exact ? byte_tiles<Tiles, 3>(f) : byte_tiles<Tiles, 1>(f);
}

/// Bytes and Groups are the Codes of multiply_bytes and multiply_groups.
template <int kBits, class Bytes, class Groups, int kPlanes, int kMost>
[[nodiscard]] Method integers_avx2(bool groups) noexcept {
  if (groups)
    return {avx2::prepare_bytes<kPlanes, true, false, Groups::kSpread>,
            avx2::maddubs::multiply_groups<kBits, kPlanes, kMost, Groups>, avx2::deliver};
  return {avx2::prepare_bytes<kPlanes, false, false, Bytes::kSpread>,
          avx2::maddubs::multiply_bytes<kBits, kPlanes, kMost, Bytes>, avx2::deliver};
}
/// From four tokens on, exact numerics, which would take three times as many products, restore weights as floats, and
/// what takes digits goes by words instead.
template <int kBits, bool kTable>
[[nodiscard]] Method method_avx2(std::int64_t tokens, bool exact, bool groups) noexcept {
  using Bytes = avx2::maddubs::Shorts<kBits, kTable, 1>;
  using Groups = avx2::maddubs::Shorts<kBits, kTable, kTable ? 1 : 1 << (8 - kBits)>;
  using Words = avx2::maddubs::ByWords<kBits, kTable>;
  constexpr bool kDigits = Bytes::kSpread == Spread::digits;
  constexpr int kMost = kDigits ? 1 : avx2::kTokensAtOnce;
  if (exact) {
    if (tokens < 4) return integers_avx2<kBits, Bytes, Groups, 3, 1>(groups);
    // As floats, even levels cost less than a table of sixteen, but more than a smaller one.
    return {avx2::prepare_floats, avx2::multiply_many<kBits, (kTable || kBits <= 3)>, avx2::deliver};
  }
  if constexpr (kDigits)
    if (tokens >= 4) return integers_avx2<kBits, Words, Words, 1, avx2::kTokensAtOnce>(groups);
  return integers_avx2<kBits, Bytes, Groups, 1, kMost>(groups);
}
[[nodiscard]] inline Method choose_avx2(const Format& f, const Tiling& t, std::int64_t tokens, bool exact) noexcept {
  if (exact && f.levels == Levels::nf4) return floats_avx2<4>(tokens);
  if (exact && f.levels == Levels::nf3) return floats_avx2<3>(tokens);
  const bool groups = has_integer_groups(f, t);
  return with_codes(f, [&](auto bits, auto table) { return method_avx2<bits(), table()>(tokens, exact, groups); });
}

template <int kBits, bool kTable>
[[nodiscard]] Method bytes_avxvnni(bool exact) noexcept {
  using Few = avx2::vnni::ByFours<avx2::Shifted<kBits, kTable, 2>>;
  using Many = avx2::vnni::ByFours<avx2::Shifted<kBits, kTable, 1>>;
  if (exact) return {avx2::prepare_bytes<3, false>, avx2::vnni::multiply_bytes<kBits, 3, 4, Many>, avx2::deliver};
  return {avx2::prepare_bytes<1, false>, avx2::vnni::multiply_bytes<kBits, 1, 4, Few, Many>, avx2::deliver};
}

/// Digits as with AVX-512, but for any number of tokens.
[[nodiscard]] inline Method choose_avxvnni(const Format& f, const Tiling& t, std::int64_t tokens, bool exact) noexcept {
  if (exact && core::is_nf(f.levels)) return choose_avx2(f, t, tokens, exact);
  return with_codes(f, [&](auto bits, auto table) { return bytes_avxvnni<bits(), table()>(exact); });
}
#endif

#if defined(__aarch64__) && !defined(__clang__)
[[nodiscard]] inline bool has_i8mm() noexcept {
#if defined(__linux__)
  return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#else
  return false;
#endif
}

/// As with AVX2, exact numerics multiply in floats.
template <int kBits, bool kTable>
[[nodiscard]] Method method_neon(std::int64_t tokens, bool exact) noexcept {
  if (!exact) {
    using Few = neon::Shifted<kBits, kTable, 2>;
    using Many = neon::Shifted<kBits, kTable, 1>;
    if (has_i8mm())
      return {neon::prepare_bytes<1, false>,
              neon::i8mm::multiply_bytes<kBits, 1, 4, neon::i8mm::ByFours<Few>, neon::i8mm::ByFours<Many>>,
              neon::deliver};
    return {neon::prepare_bytes<1, false>,
            neon::dotprod::multiply_bytes<kBits, 1, 4, neon::dotprod::ByFours<Few>, neon::dotprod::ByFours<Many>>,
            neon::deliver};
  }
  return {neon::prepare_floats,
          tokens == 1   ? neon::multiply_few<kBits, kTable, 1>
          : tokens == 2 ? neon::multiply_few<kBits, kTable, 2>
                        : neon::multiply_many<kBits, kTable>,
          neon::deliver};
}

[[nodiscard]] inline Method choose_neon(const Format& f, std::int64_t tokens, bool exact) noexcept {
  return with_codes(f, [&](auto bits, auto table) { return method_neon<bits(), table()>(tokens, exact); });
}
#endif

[[nodiscard]] SINQ_KERNEL Method choose(const Format& f, const Tiling& t, std::int64_t tokens,
                                        Numerics numerics) noexcept {
  const bool exact = numerics == Numerics::exact;
  const Isa isa = current_isa();
#if defined(__x86_64__)
  if (const TileProducts products = tile_products(f, t, tokens, numerics); products != TileProducts::none) {
    if constexpr (core::kStandIns)
      if (!core::has_tiles()) return choose_tiles<EmulatedTiles>(f, products, exact);
    return choose_tiles<HardwareTiles>(f, products, exact);
  }
  if (isa >= Isa::avx512 && avx512::has_byte_products())
    return choose_avx512(f, t, tokens, exact, isa >= Isa::avx512vbmi);
  if (isa == Isa::avxvnni) return choose_avxvnni(f, t, tokens, exact);
  if (isa != Isa::portable) return choose_avx2(f, t, tokens, exact);
#elif defined(__aarch64__) && !defined(__clang__)
  if (isa == Isa::neon) return choose_neon(f, tokens, exact);
#endif
  (void)f;
  (void)t;
  (void)tokens;
  (void)exact;
  return {prepare_portable, strip_portable, deliver_portable};
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
