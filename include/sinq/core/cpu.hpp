// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "error.hpp"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace sinq::inline SINQ_ABI {

/// Instruction sets with code of their own. The choice is made at run time from feature bits (and what the operating
/// system saves), never from a model number. On one kind of processor each has what those before it have. Quantizing
/// gives the same bits on all of them.
///
///   neon         ARM NEON with dot products of bytes
///   avx2         AVX2, FMA
///   avx512       AVX-512 F, BW, VL, DQ; VNNI where the machine has it
///   avx512vbmi   the same with VNNI and VBMI
enum class Isa : std::uint8_t { portable, neon, avx2, avx512, avx512vbmi };

[[nodiscard]] constexpr const char* name_of(Isa isa) noexcept {
  return isa == Isa::avx512vbmi ? "avx512vbmi"
         : isa == Isa::avx512   ? "avx512"
         : isa == Isa::avx2     ? "avx2"
         : isa == Isa::neon     ? "neon"
                                : "portable";
}

namespace detail::core {

[[nodiscard]] inline bool supported(Isa isa) noexcept {
#if defined(__x86_64__)
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
  for (Isa isa : {Isa::avx512vbmi, Isa::avx512, Isa::avx2, Isa::neon})
    if (supported(isa)) return isa;
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
  for (Isa isa : {Isa::portable, Isa::neon, Isa::avx2, Isa::avx512, Isa::avx512vbmi})
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
