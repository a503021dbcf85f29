// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "avx2.hpp"
#include "avx512.hpp"
#include "strip.hpp"

namespace sinq::inline SINQ_ABI::detail::matmul {

#if defined(__x86_64__)
template <int kBits, bool kTable>
[[nodiscard]] Kernel kernel_avx512(std::int64_t tokens) noexcept {
  if (tokens == 1) return avx512::multiply_few<kBits, kTable, 1>;
  if (tokens == 2) return avx512::multiply_few<kBits, kTable, 2>;
  return avx512::multiply_many<kBits, kTable>;
}
template <int kBits, bool kTable>
[[nodiscard]] Kernel kernel_avx2(std::int64_t tokens) noexcept {
  if (tokens == 1) return avx2::multiply_few<kBits, kTable, 1>;
  if (tokens == 2) return avx2::multiply_few<kBits, kTable, 2>;
  return avx2::multiply_many<kBits, kTable>;
}
#endif

/// The kernel of fast numerics and what rounds its activations.
struct Fast {
  Kernel kernel = nullptr;  // null: this instruction set has none, use the exact one
  Round round = nullptr;
};

[[nodiscard]] inline Fast choose_fast(const Format& f) noexcept {
  Fast fast;
#if defined(__x86_64__)
  if (current_isa() == Isa::portable) return fast;
  const bool vnni = current_isa() == Isa::avx512 && avx512::has_byte_products();
  fast.round = vnni ? avx512::round_activations : avx2::round_activations;
  core::with_bits(f.bits, [&](auto bits) {
    if constexpr (bits() <= 4) {
      if (f.levels > Levels::symmetric) {
        fast.kernel = vnni ? avx512::multiply_fast<bits(), true> : avx2::multiply_fast<bits(), true>;
        return;
      }
    }
    if constexpr (bits() != 7)
      fast.kernel = vnni ? avx512::multiply_fast<bits(), false> : avx2::multiply_fast<bits(), false>;
  });
#endif
  (void)f;
  return fast;
}

/// The kernel for a block of tokens on the instruction set in use.
[[nodiscard]] inline Kernel choose_kernel(const Format& f, std::int64_t tokens) noexcept {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa != Isa::portable)
    return core::with_bits(f.bits, [&](auto bits) -> Kernel {
      if constexpr (bits() == 7) {
        return strip_portable;  // no such codes
      } else {
        if (isa == Isa::avx512) return kernel_avx512<bits(), bits() <= 5>(tokens);
        if constexpr (bits() == 4)  // even levels cost less than a table of sixteen
          if (f.levels == Levels::uniform || f.levels == Levels::symmetric) return kernel_avx2<4, false>(tokens);
        return kernel_avx2<bits(), bits() <= 4>(tokens);
      }
    });
#endif
  (void)f;
  (void)tokens;
  return strip_portable;
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
