// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/matmul/avx2.hpp>
#include <sinq/matmul/avx512.hpp>
#include <sinq/matmul/tiles.hpp>

#include "machine.hpp"

// What the arithmetic units give, on registers alone: the limit that binds where tokens share the weights.

namespace sinq_bench {

enum class Unit { fma, bytes, bfloat16 };

#if defined(__x86_64__)
namespace peak {

constexpr std::int64_t kRounds = 20'000;
/// Sums of 16 rows, enough to hide the latency; with AVX2 in two registers each, of which there are 16.
constexpr int kSums = 12;
constexpr int kFmaSumsAvx2 = 6;
constexpr int kByteSumsAvx2 = 4;
inline constexpr std::int8_t kFour[4] = {77, 77, 77, 77};
inline std::uint8_t start[64 + kSums];  // not constant, or else equal sums would be computed once

/// Without products of four bytes: of two, added up in 16 bits.
namespace shorts {
template <bool kWide>
[[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline sinq::detail::matmul::avx2::Ints dot(
    sinq::detail::matmul::avx2::Ints sum, sinq::detail::matmul::avx2::Ints bytes, const std::int8_t* four) noexcept {
  using namespace sinq::detail::matmul::avx2;
  return maddubs::add_shorts(sum, maddubs::products(bytes, broadcast(four)));
}
}  // namespace shorts

#define SINQ_PEAK(isa, space, dot, fma_sums, byte_sums, features)                                 \
  [[gnu::target(features), gnu::noinline]] inline float fma_##isa() noexcept {                    \
    using namespace sinq::detail::matmul::space;                                                  \
    Floats sum[fma_sums];                                                                         \
    SINQ_UNROLL for (int s = 0; s < fma_sums; ++s) sum[s] = to_floats(load_ints(start + s));      \
    const Floats a = all(1.5f);                                                                   \
    for (std::int64_t k = 0; k < kRounds; ++k) {                                                  \
      SINQ_UNROLL for (int s = 0; s < fma_sums; ++s) sum[s] = multiply_add(a, sum[s], a);         \
    }                                                                                             \
    float out[kWidth];                                                                            \
    SINQ_UNROLL for (int s = 1; s < fma_sums; ++s) sum[0] = plus(sum[0], sum[s]);                 \
    store(out, sum[0]);                                                                           \
    return out[0] + out[kWidth - 1];                                                              \
  }                                                                                               \
  [[gnu::target(features), gnu::noinline]] inline float bytes_##isa() noexcept {                  \
    using namespace sinq::detail::matmul::space;                                                  \
    Ints sum[byte_sums];                                                                          \
    SINQ_UNROLL for (int s = 0; s < byte_sums; ++s) sum[s] = load_ints(start + s);                \
    for (std::int64_t k = 0; k < kRounds; ++k) {                                                  \
      SINQ_UNROLL for (int s = 0; s < byte_sums; ++s) sum[s] = dot<false>(sum[s], sum[s], kFour); \
    }                                                                                             \
    float out[kWidth];                                                                            \
    SINQ_UNROLL for (int s = 1; s < byte_sums; ++s) sum[0] = add_ints(sum[0], sum[s]);            \
    store(out, to_floats(sum[0]));                                                                \
    return out[0] + out[kWidth - 1];                                                              \
  }
SINQ_PEAK(avx2, avx2, shorts::dot, kFmaSumsAvx2, kByteSumsAvx2, "avx2,fma,f16c")
SINQ_PEAK(avxvnni, avx2, vnni::dot, kFmaSumsAvx2, kByteSumsAvx2, "avx2,fma,f16c")
SINQ_PEAK(avx512, avx512, sinq::detail::matmul::avx512::dot, kSums, kSums,
          "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#undef SINQ_PEAK

template <Unit kUnit>
float tiles_amx() noexcept {
  alignas(64) float c[256] = {};
  sinq::detail::matmul::HardwareTiles tiles(16, 64);
  [&]<int... kT>(std::integer_sequence<int, kT...>) {
    (tiles.template zero<kT>(), ...);
    tiles.template zero<6>();
    tiles.template zero<7>();
    for (std::int64_t k = 0; k < kRounds; ++k) {
      if constexpr (kUnit == Unit::bytes)
        (tiles.template dot_bytes<kT, 6, 7>(), ...);
      else
        (tiles.template dot_bfloat16<kT, 6, 7>(), ...);
    }
    (tiles.template store<kT>(c), ...);
  }
  (std::make_integer_sequence<int, 6>{});
  return c[0];
}

}  // namespace peak
#endif

/// Billions of multiplications and additions per second on all threads of an executor; 0 where there is no code for it.
/// Takes a few milliseconds.
inline double arithmetic_peak(const Threads& threads, sinq::Isa isa, Unit unit) {
  double best = 0;
#if defined(__x86_64__)
  const bool wide = isa >= sinq::Isa::avx512;
  if (isa == sinq::Isa::portable || (wide && !sinq::detail::matmul::avx512::has_byte_products())) return 0;
  const bool tiles = isa == sinq::Isa::amx && unit != Unit::fma;
  if (unit == Unit::bfloat16 && !tiles) return 0;
  const double products =  // of a round
      tiles               ? 6 * 16 * 16 * (unit == Unit::bytes ? 64 : 32)
      : unit == Unit::fma ? 16 * (wide ? peak::kSums : peak::kFmaSumsAvx2)
                          : 4 * 16 * (wide ? peak::kSums : peak::kByteSumsAvx2);
  for (int round = 0; round < 5; ++round) {
    const std::int64_t tasks = threads.get()->width();
    const double time = seconds_of([&] {
      threads.get()->run(tasks, [&](std::int64_t, int) {
        float x = unit == Unit::bfloat16      ? peak::tiles_amx<Unit::bfloat16>()
                  : tiles                     ? peak::tiles_amx<Unit::bytes>()
                  : unit == Unit::fma         ? (wide ? peak::fma_avx512() : peak::fma_avx2())
                  : wide                      ? peak::bytes_avx512()
                  : isa == sinq::Isa::avxvnni ? peak::bytes_avxvnni()
                                              : peak::bytes_avx2();
        benchmark::DoNotOptimize(x);
      });
    });
    best = std::max(best, 1e-9 * products * static_cast<double>(peak::kRounds * tasks) / time);
  }
#endif
  return best;
}

}  // namespace sinq_bench
