// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
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
///   avx2         AVX2, FMA
///   avxvnni      the same with AVX-VNNI
///   avx512       AVX-512 F, BW, VL, DQ; VNNI where the machine has it
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

/// Whether tiles may be used: the processor has AMX-TILE, AMX-INT8 and AMX-BF16 (CPUID 7, EDX bits 24, 25, 22), the
/// system saves their state (XCR0 bits 17 and 18) and lets this process have it: Linux wants to be asked, once, before
/// any use (ARCH_REQ_XCOMP_PERM in its arch/x86/xstate documentation).
[[nodiscard]] inline bool ask_for_tiles() noexcept {
#if defined(__linux__) && defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTiles = 1u << 24 | 1u << 25 | 1u << 22, kOsxsave = 1u << 27, kState = 1u << 17 | 1u << 18;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTiles) != kTiles) return false;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kOsxsave) == 0) return false;
  asm("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  constexpr long kRequest = 0x1023, kTileData = 18;
  return (a & kState) == kState && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
[[nodiscard]] inline bool has_tiles() noexcept {
  static const bool allowed = ask_for_tiles();
  return allowed;
}
/// CPUID 7.1, EAX bit 4. What saving its registers takes is part of AVX2.
[[nodiscard]] inline bool ask_for_avx_vnni() noexcept {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 4) != 0;
#else
  return false;
#endif
}
[[nodiscard]] inline bool has_avx_vnni() noexcept {
  static const bool has = ask_for_avx_vnni();
  return has;
}

[[nodiscard]] inline bool supported(Isa isa) noexcept {
#if defined(__x86_64__)
  if (isa == Isa::amx) return supported(Isa::avx512vbmi) && (has_tiles() || kStandIns);
  if (isa == Isa::avxvnni) return supported(Isa::avx2) && (has_avx_vnni() || kStandIns);
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512 || isa == Isa::avx512vbmi)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           (isa == Isa::avx512 || (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")));
#elif defined(__aarch64__) && defined(__linux__)
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

/// Uses `isa` from now on, in every thread: for tests and comparisons. InvalidArgument if the machine lacks it.
inline void force_isa(Isa isa) {
  detail::core::require(detail::core::supported(isa), "isa", name_of(isa), "this machine does not have it");
  detail::core::chosen_isa().store(isa, std::memory_order_relaxed);
}

}  // namespace sinq::inline SINQ_ABI
