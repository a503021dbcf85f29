// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "error.hpp"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace sinq::inline SINQ_ABI {

/// Instruction sets with code of their own. The choice is made at run time from feature bits (and what the operating
/// system saves), never from a model number. On one kind of processor each has what those before it have, but for
/// avxvnni, which not every machine with AVX-512 has. Quantizing gives the same bits on all of them.
///
///   neon         ARM NEON with dot products of bytes
///   avx2         AVX2, FMA, F16C
///   avxvnni      the same with AVX-VNNI
///   avx512       AVX-512 F, BW, VL, DQ; with VNNI, too, where the machine has it. Where it does not, products run the
///                code of avx2 under this name; quantizing uses AVX-512 either way
///   avx512vbmi   the same with VNNI and VBMI
///   amx          the same with AMX's tiles of bfloat16 and bytes, if the system lets the process use them (Linux)
enum class Isa : std::uint8_t { portable, neon, avx2, avxvnni, avx512, avx512vbmi, amx };

[[nodiscard]] constexpr const char* name_of(Isa isa) noexcept {
  return isa == Isa::amx          ? "amx"
         : isa == Isa::avx512vbmi ? "avx512vbmi"
         : isa == Isa::avx512     ? "avx512"
         : isa == Isa::avxvnni    ? "avxvnni"
         : isa == Isa::avx2       ? "avx2"
         : isa == Isa::neon       ? "neon"
                                  : "portable";
}

namespace detail::core {

/// With SINQ_STAND_INS, for tests, instructions that a machine lacks are stood in for: tiles by memory, where there is
/// AVX-512, and those of AVX-VNNI by AVX2's. So `amx` and `avxvnni` can be forced there.
#ifdef SINQ_STAND_INS
inline constexpr bool kStandIns = true;
#else
inline constexpr bool kStandIns = false;
#endif

/// What an x86 processor, the operating system and Linux's permissions say, as read: what can be run is a function of
/// these numbers alone.
struct X86 {
  std::uint32_t leaf1_ecx = 0;  // CPUID
  std::uint32_t leaf7_ebx = 0;
  std::uint32_t leaf7_ecx = 0;
  std::uint32_t leaf7_edx = 0;
  std::uint32_t leaf7_1_eax = 0;
  std::uint32_t saved = 0;     // XCR0, the low half: registers that the system saves
  bool tiles_granted = false;  // Linux lets this process use tiles
};

[[nodiscard]] constexpr bool has_bits(std::uint32_t word, std::initializer_list<int> which) noexcept {
  for (const int bit : which)
    if ((word >> bit & 1) == 0) return false;
  return true;
}

/// FMA, OSXSAVE (without it there is no XCR0), AVX, F16C; AVX2; the system saves registers of 128 and 256 bits.
[[nodiscard]] constexpr bool has_avx2(const X86& x) noexcept {
  return has_bits(x.leaf1_ecx, {12, 27, 28, 29}) && has_bits(x.leaf7_ebx, {5}) && has_bits(x.saved, {1, 2});
}
[[nodiscard]] constexpr bool has_avx_vnni(const X86& x) noexcept {
  return has_avx2(x) && has_bits(x.leaf7_1_eax, {4});
}
/// F, DQ, BW, VL; the system saves masks, the upper halves of 16 registers and 16 more.
[[nodiscard]] constexpr bool has_avx512(const X86& x) noexcept {
  return has_avx2(x) && has_bits(x.leaf7_ebx, {16, 17, 30, 31}) && has_bits(x.saved, {5, 6, 7});
}
[[nodiscard]] constexpr bool has_avx512_vnni(const X86& x) noexcept {
  return has_avx512(x) && has_bits(x.leaf7_ecx, {11});
}
[[nodiscard]] constexpr bool has_avx512_vbmi(const X86& x) noexcept {
  return has_avx512_vnni(x) && has_bits(x.leaf7_ecx, {1});
}
/// AMX-BF16, AMX-TILE, AMX-INT8; the system saves tiles, if it gives them to a process at all.
[[nodiscard]] constexpr bool could_have_tiles(const X86& x) noexcept {
  return has_avx512_vbmi(x) && has_bits(x.leaf7_edx, {22, 24, 25}) && has_bits(x.saved, {17, 18});
}
[[nodiscard]] constexpr bool has_tiles(const X86& x) noexcept {
  return could_have_tiles(x) && x.tiles_granted;
}

#if defined(__x86_64__)
[[nodiscard]] inline X86 read_x86() noexcept {
  X86 x;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0) x.leaf1_ecx = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
    x.leaf7_ebx = b;
    x.leaf7_ecx = c;
    x.leaf7_edx = d;
  }
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) x.leaf7_1_eax = a;
  if (has_bits(x.leaf1_ecx, {27})) asm("xgetbv" : "=a"(x.saved), "=d"(d) : "c"(0));
#if defined(__linux__)
  // It wants to be asked, once, before any use (ARCH_REQ_XCOMP_PERM in its arch/x86/xstate documentation).
  constexpr long kRequest = 0x1023, kTileData = 18;
  x.tiles_granted = could_have_tiles(x) && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#endif
  return x;
}
[[nodiscard]] inline const X86& this_x86() noexcept {
  static const X86 x = read_x86();
  return x;
}
#endif

[[nodiscard]] inline bool has_tiles() noexcept {
#if defined(__x86_64__)
  return has_tiles(this_x86());
#else
  return false;
#endif
}
[[nodiscard]] inline bool has_avx_vnni() noexcept {
#if defined(__x86_64__)
  return has_avx_vnni(this_x86());
#else
  return false;
#endif
}

[[nodiscard]] inline bool supported(Isa isa) noexcept {
#if defined(__x86_64__)
  const X86& x = this_x86();
  if (isa == Isa::amx) return has_tiles(x) || (kStandIns && has_avx512_vbmi(x));
  if (isa == Isa::avx512vbmi) return has_avx512_vbmi(x);
  if (isa == Isa::avx512) return has_avx512(x);
  if (isa == Isa::avxvnni) return has_avx_vnni(x) || (kStandIns && has_avx2(x));
  if (isa == Isa::avx2) return has_avx2(x);
#elif defined(__aarch64__) && defined(__linux__) && !defined(__clang__)  // whose products are portable code
  if (isa == Isa::neon) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
  return isa == Isa::portable;
}

[[nodiscard]] inline Isa best_isa() noexcept {
  if (supported(Isa::amx) && has_tiles()) return Isa::amx;
  for (Isa isa : {Isa::avx512vbmi, Isa::avx512, Isa::avxvnni, Isa::avx2, Isa::neon})
    if (supported(isa) && (isa != Isa::avxvnni || has_avx_vnni())) return isa;
  return Isa::portable;
}

inline std::atomic<Isa>& chosen_isa() noexcept {
  static std::atomic<Isa> chosen{best_isa()};
  return chosen;
}

}  // namespace detail::core

/// What this machine can run, slowest first.
[[nodiscard]] inline std::vector<Isa> supported_isas() {
  std::vector<Isa> found;
  for (Isa isa : {Isa::portable, Isa::neon, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::avx512vbmi, Isa::amx})
    if (detail::core::supported(isa)) found.push_back(isa);
  return found;
}

/// The instruction set in use: the best one, or the one last forced.
[[nodiscard]] inline Isa current_isa() noexcept {
  return detail::core::chosen_isa().load(std::memory_order_relaxed);
}

/// Uses `isa` from now on, in every thread: for tests and comparisons, and not while a product is computed, which takes
/// its workspace for one instruction set and its kernels as it goes. InvalidArgument if the machine lacks it.
inline void force_isa(Isa isa) {
  detail::core::require(detail::core::supported(isa), "isa", name_of(isa), "this machine does not have it");
  detail::core::chosen_isa().store(isa, std::memory_order_relaxed);
}

}  // namespace sinq::inline SINQ_ABI
