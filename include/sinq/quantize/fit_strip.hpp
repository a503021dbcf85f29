// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "../core/two_lanes.hpp"
#include "fit.hpp"

// The kernel of the fit: a strip of rows, a lane per row.

namespace sinq::inline SINQ_ABI::detail::quantize {

#define SINQ_SHARED [[gnu::always_inline]] inline
#define SINQ_SHARED_UNROLL
#define SINQ_SHARED_NO_UNROLL
#include "fit_group.inc"
#undef SINQ_SHARED
#undef SINQ_SHARED_UNROLL
#undef SINQ_SHARED_NO_UNROLL

/// How the levels nearest to weights are found.
enum class Find { rounding, comparing, grid, bytes };

/// kLevels: the size of the codebook; 0: even levels, or a grid.
template <class Float, Find kFind, int kLevels>
class FitCoding {
 public:
  [[gnu::always_inline]] explicit FitCoding(const FitPlan& plan) noexcept : p_(plan) {}

  [[gnu::always_inline]] const FitRules& rules() const noexcept { return p_; }
  template <bool kZero, class Group, class Use>
  [[gnu::always_inline]] void each_level(const Group& g, const Float& b, const Float& inverse,
                                         Use& use) const noexcept {
    std::int64_t j = 0;
#if defined(__x86_64__) && !defined(__clang__)
    if constexpr (kFind == Find::bytes) {
      constexpr std::int64_t kMany = LevelBytes::kVectors;
      if (g.cols >= kMany) {
        // One search ahead: what is found is used while the next one waits for its own steps.
        auto found = search<kZero>(g, 0, b, inverse + inverse, kAllVectors);
        for (; j + 2 * kMany <= g.cols; j += kMany) {
          const auto next = search<kZero>(g, j + kMany, b, inverse + inverse, kAllVectors);
          use_found(g, j, found, use, kAllVectors);
          found = next;
        }
        use_found(g, j, found, use, kAllVectors);
        j += kMany;
      }
    }
#endif
    for (; j < g.cols; ++j) use(j, g[j], nearest(above<kZero>(g[j], b) * inverse));
  }
  [[gnu::always_inline]] Float scale_as_stored(const Float& v) const noexcept {
    return as_stored(p_.scale, v);
  }
  [[gnu::always_inline]] Float zero_as_stored(const Float& v) const noexcept {
    return as_stored(p_.zero, v);
  }
  [[gnu::always_inline]] Float coarse_as_stored(const Float& v) const noexcept {
    return as_stored(Aux::f16, v);
  }

 private:
  template <bool kZero>
  [[gnu::always_inline]] static Float above(const Float& x, const Float& b) noexcept {
    if constexpr (kZero) return x - b;
    return x;
  }
#if defined(__x86_64__) && !defined(__clang__)
  /// A zero can make positions overflow. Without one they cannot: inverse_of.
  template <bool kZero>
  [[gnu::always_inline]] static Float bounded(const Float& twice) noexcept {
    if constexpr (kZero) return min(Float(512), twice);  // and what is not a number stays that
    return twice;
  }
  static constexpr std::make_integer_sequence<int, LevelBytes::kVectors> kAllVectors{};

  /// Of columns j, j + 1, ..., a search in either half of the lanes.
  template <bool kZero, class Group, int... kCol>
  [[gnu::always_inline]] auto search(const Group& g, std::int64_t j, const Float& b, const Float& twice,
                                     std::integer_sequence<int, kCol...> /*all*/) const noexcept {
    using Half = decltype(Float::low);
    const Float positions[] = {bounded<kZero>(above<kZero>(g[j + kCol], b) * twice)...};
    const Half low[] = {positions[kCol].low...};
    const Half high[] = {positions[kCol].high...};
    return LevelBytes::Searches<kLevels>(p_.bytes, low, high);
  }
  template <class Group, class Use, int... kCol>
  [[gnu::always_inline]] static void use_found(const Group& g, std::int64_t j,
                                               const LevelBytes::Searches<kLevels>& found, Use& use,
                                               std::integer_sequence<int, kCol...> /*all*/) noexcept {
    using Half = decltype(Float::low);
    Half low[sizeof...(kCol)];
    Half high[sizeof...(kCol)];
    found.levels(low, high);
    (use(j + kCol, g[j + kCol], Float(low[kCol], high[kCol])), ...);
  }
#endif
  [[gnu::always_inline]] Float nearest(const Float& position) const noexcept {
    if constexpr (kFind == Find::rounding) {
      return round(clamp(position, p_.low, p_.high));
    } else if constexpr (kFind == Find::grid) {
      return p_.grid.nearest(position);
    } else {
      Float code;
      return Float::template nearest_level<kLevels>(position, p_.middle, p_.level, code);
    }
  }
  [[gnu::always_inline]] static Float as_stored(Aux aux, const Float& value) noexcept {
    float lanes[sizeof(Float) / sizeof(float)];
    value.store(lanes);
    pack::round_all_to(aux, lanes, sizeof(Float) / sizeof(float));
    return Float::load(lanes);
  }

  const FitPlan& p_;
};

/// Float: the lanes that are worked on at once, beginning with `lane`. kWeighted: whether columns differ in importance.
template <class Float, Find kFind, int kLevels, bool kZero, bool kWeighted>
class StripFitter {
 public:
  [[gnu::always_inline]] StripFitter(const FitPlan& plan, const FitStrip& strip, int lane) noexcept
      : p_(plan), s_(strip), lane_(lane), coding_(plan) {}

  [[gnu::always_inline]] void run() noexcept {
    const Tiling& t = *s_.tiling;
    for (std::int64_t g = 0; g < t.groups(); ++g) fit_group(g);
    const bool integers = is_integer(p_.scale);
    const std::int64_t per_coarse = p_.coarse_groups == 0 ? t.groups() : p_.coarse_groups;
    for (std::int64_t first = 0; first < t.groups(); first += per_coarse) {
      const std::int64_t last = std::min(first + per_coarse, t.groups());
      Float coarse;
      if (integers) {
        coarse = choose_coarse(first, last);
        coarse.store(s_.coarse + first / per_coarse * kStrip + lane_);
      }
      for (std::int64_t g = first; g < last; ++g) {
        const Group of = group(g);
        const FitStored<Float> stored = Fitter(coding_, of).store(load(s_.scale, g), load(s_.zero, g), coarse);
        store(s_.scale, g, stored.scale);
        store(s_.zero, g, stored.zero);
        store(s_.zero_integer, g, stored.zero_integer);
        if (integers) store(s_.scale_integer, g, stored.scale_integer);
      }
    }
  }

 private:
  struct Group {
    Float unit;
    Float factor;
    const float* x;  // columns are kStrip apart
    std::int64_t cols;
    const float* importance;

    [[gnu::always_inline]] Float operator[](std::int64_t j) const noexcept { return Float::load(x + j * kStrip); }
    [[gnu::always_inline]] Float times(std::int64_t j, const Float& v) const noexcept {
      if constexpr (kWeighted) return v * Float(importance[j]);
      return v;
    }
  };
  using Coding = FitCoding<Float, kFind, kLevels>;
  using Fitter = GroupFitter<Float, kZero, Coding, Group>;

  [[gnu::always_inline]] Float load(const float* array, std::int64_t group) const noexcept {
    return Float::load(array + group * kStrip + lane_);
  }
  template <class T>
  [[gnu::always_inline]] void store(T* array, std::int64_t group, const Float& value) const noexcept {
    value.store(array + group * kStrip + lane_);
  }

  /// A group that has been scaled.
  [[gnu::always_inline]] Group group(std::int64_t g) const noexcept {
    const Tiling& t = *s_.tiling;
    Group r{1, 1, s_.x + t.group_begin(g) * kStrip + lane_, t.group_cols(g),
            kWeighted ? s_.importance + t.group_begin(g) : nullptr};
    Float::power_of_two(load(s_.unit, g), r.unit, r.factor);
    return r;
  }

  [[gnu::always_inline]] void fit_group(std::int64_t index) const noexcept {
    const Tiling& t = *s_.tiling;
    float* x = s_.x + t.group_begin(index) * kStrip + lane_;
    const std::int64_t cols = t.group_cols(index);
    Float largest;
    for (std::int64_t j = 0; j < cols; ++j) largest = max(largest, abs(Float::load(x + j * kStrip)));
    store(s_.unit, index, largest);
    const Group g = group(index);
    FitMeasures<Float> of;
    for (std::int64_t j = 0; j < cols; ++j) {
      const Float v = g[j] * g.factor;
      v.store(x + j * kStrip);
      of.add(v, g.times(j, v));
    }
    const FitResult<Float> best = Fitter(coding_, g).fit(of);
    Float level_squares = best.level_squares;
    store(s_.scale, index, Float::select(largest == 0, 0, best.line.s * g.unit));
    store(s_.zero, index, -best.line.b / best.line.s);
    if constexpr (kWeighted) level_squares = level_squares * Float(s_.group_importance[index]);
    store(s_.level_squares, index, level_squares);
  }

  /// The coarse scale of groups [first, last) of each row; 0 where all scales are 0.
  [[gnu::always_inline]] Float choose_coarse(std::int64_t first, std::int64_t last) const noexcept {
    Float largest;
    for (std::int64_t g = first; g < last; ++g) largest = max(largest, abs(load(s_.scale, g)));
    Float best = FitCoarse<Float>::without_cost(largest);
    Float least = INFINITY;
    for (int k = 0; k < FitCoarse<Float>::kTrials; ++k) {
      auto trial = FitCoarse<Float>::trial(coding_, k, largest);
      for (std::int64_t g = first; g < last; ++g) trial.add(p_.most, load(s_.scale, g), load(s_.level_squares, g));
      const auto better = trial.cost < least;
      least = Float::select(better, trial.cost, least);
      best = Float::select(better, trial.coarse, best);
    }
    return best;
  }

  const FitPlan& p_;
  const FitStrip& s_;
  int lane_;
  Coding coding_;
};

template <Find kFind, int kLevels, bool kZero, bool kWeighted>
struct FitOfStrip {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const FitPlan& plan, const FitStrip& strip) noexcept {
    using Float = std::conditional_t<kWidth == 8, core::ManyLanes<8, 16>, core::Lanes<kWidth>>;
    for (int lane = 0; lane < kStrip; lane += sizeof(Float) / sizeof(float))
      StripFitter<Float, kFind, kLevels, kZero, kWeighted>(plan, strip, lane).run();
  }
};

/// Calls run(FitOfStrip<kFind, kLevels, ...>()).
template <Find kFind, int kLevels, class Run>
void with_fit(const FitPlan& plan, const FitStrip& strip, Run&& run) noexcept {
  const auto with_zero = [&](auto zero) {
    if (strip.importance == nullptr)
      run(FitOfStrip<kFind, kLevels, zero(), false>());
    else
      run(FitOfStrip<kFind, kLevels, zero(), true>());
  };
  if (plan.zero == Aux::none)
    with_zero(std::false_type{});
  else
    with_zero(std::true_type{});
}

SINQ_KERNEL void fit_strip(const FitPlan& plan, const FitStrip& strip) noexcept {
#if defined(__x86_64__) && !defined(__clang__)
  if (plan.grid.usable && current_isa() >= Isa::avx512) {
    const auto run = [&]<class Body>(const Body&) { core::run_avx512<Body>(plan, strip); };
    return with_fit<Find::grid, 0>(plan, strip, run);
  }
  if (plan.bytes.usable() && current_isa() >= Isa::avx2) {
    const auto run = [&]<class Body>(const Body&) { core::run_avx2<Body>(plan, strip); };
    return plan.levels == 16 ? with_fit<Find::bytes, 16>(plan, strip, run) : with_fit<Find::bytes, 8>(plan, strip, run);
  }
#endif
  const auto run = [&]<class Body>(const Body&) { core::on_isa<Body>(plan, strip); };
  switch (plan.levels) {
    case 16:
      return with_fit<Find::comparing, 16>(plan, strip, run);
    case 8:
      return with_fit<Find::comparing, 8>(plan, strip, run);
    case 4:
      return with_fit<Find::comparing, 4>(plan, strip, run);
    default:
      return with_fit<Find::rounding, 0>(plan, strip, run);
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
