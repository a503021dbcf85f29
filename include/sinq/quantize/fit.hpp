// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <span>
#include <vector>

#include "config.hpp"
#include "rounding.hpp"

// Scale and zero by least error instead of minimum and maximum, in the balanced domain x = w / col_scale.
//
// Per group, x ~= s level(code) + b with b = -zero s:
//
//   for both signs of s (where the levels are not their own mirror image) and several ranges, from the whole range of
//   the group down to 0.6 of it (2 bits; 0.8 at 3, 0.88 from 4 on): round and solve the least squares for (s, b),
//   `rounds` times; take the error from the same sums; keep the (s, b) of least error.
//   Shrinking the range lets the ends be clipped where that is worth it; the signs let an uneven table meet the longer
//   side.
//
// Per row, where scales are integers below a coarse one: the coarse scale, among 24 between 0.485 and 1.06 times the
// largest fitted scale, that costs least:  sum over groups of  (sum of level^2) (stored - fitted)^2.
//
// Per group again: the stored scale and its two neighbours, each with the zero that fits it best and that one's two
// neighbours; the pair of least error stays. So what the auxiliaries' few bits lose, the codes take back.
//
// Without activations the error is not weighted. In the balanced domain a column counts by its share of the row;
// weighting by col_scale^2 (the plain error of the weights) was clearly worse on every model, weighting by x^2 no better
// (bench/results/quality.md). With them columns count by their importance (importance.hpp). Least squares shrinks;
// unbias.hpp takes that back when the codes are known.

namespace sinq::inline SINQ_ABI::detail::quantize {

inline constexpr std::int64_t kStrip = 16;  // rows that are fitted together

/// What all groups of a matrix have in common.
struct FitPlan {
  FitPlan(const Format& f, const LevelTable& table, const FitOptions& options)
      : scale(f.scale),
        zero(f.zero),
        signed_scale(is_float(f.scale) || f.signed_scale),
        coarse_groups(f.coarse_groups),
        starts(options.starts),
        rounds(options.rounds),
        reach(f.bits == 2   ? 0.4f
              : f.bits == 3 ? 0.2f
                            : 0.12f) {
    const int last = (1 << f.bits) - 1;
    low = core::level(f.levels, f.bits, table, 0);
    high = core::level(f.levels, f.bits, table, last);
    span = core::level_span(f.levels, f.bits);
    if (f.levels <= Levels::symmetric) return;
    levels = last + 1;
    for (int code = 0; code <= last; ++code)
      level[static_cast<std::size_t>(code)] = core::level(f.levels, f.bits, table, code);
    for (std::size_t code = 0; code + 1 < static_cast<std::size_t>(levels); ++code)
      middle[code] = level[code] / 2 + level[code + 1] / 2;
  }

  /// A group turned round (x -> -x) needs the other sign: of no use to levels that are their own mirror image where a
  /// zero can move them.
  [[nodiscard]] bool both_signs() const noexcept { return signed_scale && (levels != 0 || zero == Aux::none); }

  /// Largest integer scale; 0 for float scales.
  [[nodiscard]] int most() const noexcept {
    return is_integer(scale) ? (1 << (bits_of(scale) - (signed_scale ? 1 : 0))) - 1 : 0;
  }

  Aux scale;
  Aux zero;
  bool signed_scale;
  std::int64_t coarse_groups;
  int starts;
  int rounds;
  float reach;                     // the narrowest start leaves out this share of the range
  int levels = 0;                  // of a codebook; 0: even levels, one apart
  float low = 0;                   // lowest and highest level
  float high = 0;                  //
  core::LevelSpan span{};          // that an integer zero may lie in
  std::array<float, 32> level{};   // see Lanes::nearest_level
  std::array<float, 32> middle{};  // boundaries between neighbours
};

/// Up to kStrip rows of one panel. Arrays are [..][kStrip]: a lane per row; lanes without a row are zeros.
struct FitStrip {
  const Tiling* tiling;
  float* x;                                 // cols x lanes; the fit scales every group by a power of two, see Group
  float* scale;                             // groups x lanes: the scale as it will be read
  float* zero;                              // groups x lanes: the zero as it will be read
  float* weight;                            // groups x lanes: scratch
  float* unit;                              //
  float* coarse;                            // coarse scales per row x lanes
  std::int32_t* scale_integer;              // groups x lanes, of integer scales; 0 only for groups of zeros
  std::int32_t* zero_integer;               // groups x lanes, of integer zeros
  const float* importance = nullptr;        // of each column, with mean 1 over its group; null: all alike
  const float* group_importance = nullptr;  // of each group beside the others
};

/// One sub-block of kWidth lanes, beginning with lane `lane`. kLevels: 0 or the size of the codebook; kZero: whether
/// the format has a zero. kWeighted: whether columns differ in importance.
template <int kWidth, int kLevels, bool kZero, bool kWeighted>
class StripFitter {
  using Float = core::Lanes<kWidth>;

 public:
  [[gnu::always_inline]] StripFitter(const FitPlan& plan, const FitStrip& strip, int lane) noexcept
      : p_(plan), s_(strip), lane_(lane) {}

  [[gnu::always_inline]] void run() noexcept {
    const Tiling& t = *s_.tiling;
    for (std::int64_t g = 0; g < t.groups(); ++g) fit_group(g);
    if (is_float(p_.scale)) {
      for (std::int64_t g = 0; g < t.groups(); ++g) finish_float(g);
      return;
    }
    const std::int64_t block = p_.coarse_groups == 0 ? t.groups() : p_.coarse_groups;
    for (std::int64_t first = 0; first < t.groups(); first += block) {
      const std::int64_t last = std::min(first + block, t.groups());
      const Float coarse = choose_coarse(first, last);
      coarse.store(s_.coarse + first / block * kStrip + lane_);
      for (std::int64_t g = first; g < last; ++g) finish_integer(g, coarse);
    }
  }

 private:
  /// x ~= s level + b.
  struct Line {
    Float s, b;
  };
  struct Sums {
    Float q, qq, xq;  // over the group: level, level^2, x level, each times the column's importance
  };
  /// A group, scaled by a power of two so that its largest weight lies in [1, 2): nothing overflows or vanishes.
  struct Group {
    const float* x;  // columns are kStrip apart
    std::int64_t cols;
    Float unit;    // the power of two
    Float factor;  // its inverse
    const float* importance;

    [[gnu::always_inline]] Float operator[](std::int64_t j) const noexcept { return Float::load(x + j * kStrip); }
    /// v as often as column j counts.
    [[gnu::always_inline]] Float times(std::int64_t j, const Float& v) const noexcept {
      if constexpr (kWeighted) return v * Float(importance[j]);
      return v;
    }
  };
  /// What a group is stored with, and its error.
  struct Stored {
    Float scale_integer, zero, zero_integer;
    Float error = INFINITY;
  };

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
    Group r{s_.x + t.group_begin(g) * kStrip + lane_, t.group_cols(g), 1, 1,
            kWeighted ? s_.importance + t.group_begin(g) : nullptr};
    Float::power_of_two(load(s_.unit, g), r.unit, r.factor);
    return r;
  }

  /// The level nearest to a position; ties as in Coder.
  [[gnu::always_inline]] Float nearest(const Float& position) const noexcept {
    if constexpr (kLevels == 0) {
      return round(clamp(position, p_.low, p_.high));
    } else {
      return Float::template nearest_level<kLevels>(position, p_.middle.data(), p_.level.data());
    }
  }

  [[gnu::always_inline]] Sums sums(const Group& g, const Line& a) const noexcept {
    const Float inverse = 1.0f / a.s;
    Sums r;
    for (std::int64_t j = 0; j < g.cols; ++j) {
      const Float x = g[j];
      const Float q = nearest(kZero ? (x - a.b) * inverse : x * inverse);
      const Float counted = g.times(j, q);
      if constexpr (kZero) r.q = r.q + counted;
      r.qq = mul_add(counted, q, r.qq);
      r.xq = mul_add(counted, x, r.xq);
    }
    return r;
  }

  [[gnu::always_inline]] Float sum(const Group& g) const noexcept {
    Float r;
    for (std::int64_t j = 0; j < g.cols; ++j) r = r + g.times(j, g[j]);
    return r;
  }

  [[gnu::always_inline]] Float error(const Group& g, const Line& a) const noexcept {
    const Float inverse = 1.0f / a.s;
    Float r;
    for (std::int64_t j = 0; j < g.cols; ++j) {
      const Float x = kZero ? g[j] - a.b : g[j];
      const Float difference = mul_add(-a.s, nearest(x * inverse), x);
      r = mul_add(g.times(j, difference), difference, r);
    }
    return r;
  }

  static constexpr float kTiny = 1e-9f;  // of the group's largest weight: no scale is smaller

  /// The zero of a line, moved to where it can be stored.
  [[gnu::always_inline]] Float reachable_zero(const Line& a) const noexcept {
    const Float z = -a.b / a.s;
    if (is_integer(p_.zero)) {
      const float step = p_.span.width / static_cast<float>(1 << bits_of(p_.zero));
      return clamp(z, p_.span.low, p_.span.low + p_.span.width - step);
    }
    const float reach = largest_zero(p_.zero);
    return clamp(z, -reach, reach);
  }

  /// Least squares for the line, the levels being given by their sums.
  [[gnu::always_inline]] Line solve(const Sums& r, const Float& sum_x, std::int64_t cols,
                                    const Line& before) const noexcept {
    const auto n = static_cast<float>(cols);
    if constexpr (!kZero) {
      const Float s = r.xq / max(r.qq, kTiny);
      return {Float::select(Float(kTiny) < abs(s), s, before.s), 0};
    }
    const Float mean_q = r.q / n;
    const Float spread = mul_add(-r.q, mean_q, r.qq);
    const Float slope = mul_add(-sum_x, mean_q, r.xq) / max(spread, kTiny);
    // All weights on one level: nothing to learn about the scale.
    Float s = Float::select(1e-6f * r.qq < spread, slope, before.s);
    s = Float::select(Float(kTiny) < abs(s), s, before.s);
    const Float b = mul_add(-s, r.q, sum_x) / n;
    return {s, -reachable_zero({s, b}) * s};
  }

  /// The line that lays the outermost levels on `share` of the range of the group, turned round if `turned`.
  [[gnu::always_inline]] Line start(const Float& lowest, const Float& highest, float share,
                                    bool turned) const noexcept {
    if constexpr (!kZero) {  // 0 stays 0: the side that needs the larger scale sets it
      const Float up = max(highest, kTiny);
      const Float down = max(-lowest, kTiny);
      const Float s = turned ? max(down / p_.high, up / -p_.low) : max(up / p_.high, down / -p_.low);
      return {(turned ? -share : share) * s, 0};
    }
    // An integer zero is a level: the range takes in 0. A constant group has its value as its step, as in min_max.
    const bool within = is_integer(p_.zero);
    const Float low = within ? min(lowest, 0) : lowest;
    const Float high = within ? max(highest, 0) : highest;
    const Float range = (high - low) * (share / (p_.high - p_.low));
    const auto constant = high == low;
    const Float size =
        Float::select(constant, max(abs(high), kTiny), max(range, within ? 0 : 2 / largest_zero(p_.zero)));
    const Float s = turned ? -size : size;
    const Float level = Float::select(constant, p_.low, (p_.high + p_.low) / 2);
    const Float b = mul_add(-s, level, (high + low) * 0.5f);
    return {s, -reachable_zero({s, b}) * s};
  }

  /// Error of a line with the levels that the sums are of.
  [[gnu::always_inline]] static Float error(const Sums& r, const Float& sum_xx, const Float& sum_x, const Float& n,
                                            const Line& a) noexcept {
    const Float along = mul_add(a.s, r.qq, -2 * r.xq);  // s^2 qq - 2 s xq
    if constexpr (!kZero) return mul_add(a.s, along, sum_xx);
    const Float across = mul_add(2 * a.s, r.q, mul_add(a.b, n, -2 * sum_x));  // n b^2 - 2 b sum x + 2 s b q
    return mul_add(a.s, along, mul_add(a.b, across, sum_xx));
  }

  [[gnu::always_inline]] void fit_group(std::int64_t index) const noexcept {
    const Tiling& t = *s_.tiling;
    float* x = s_.x + t.group_begin(index) * kStrip + lane_;
    const std::int64_t cols = t.group_cols(index);
    Float largest;
    for (std::int64_t j = 0; j < cols; ++j) largest = max(largest, abs(Float::load(x + j * kStrip)));
    store(s_.unit, index, largest);
    const Group g = group(index);
    Float highest = -2;
    Float lowest = 2;
    Float sum_x;
    Float sum_xx;
    for (std::int64_t j = 0; j < cols; ++j) {
      const Float v = g[j] * g.factor;
      v.store(x + j * kStrip);
      highest = max(highest, v);
      lowest = min(lowest, v);
      const Float counted = g.times(j, v);
      sum_x = sum_x + counted;
      sum_xx = mul_add(counted, v, sum_xx);
    }
    const auto n = static_cast<float>(cols);
    Line best{1, 0};
    Float weight;
    Float least = INFINITY;
    for (int turned = 0; turned < (p_.both_signs() ? 2 : 1); ++turned) {
      for (int k = 0; k < p_.starts; ++k) {
        const float share = 1 - p_.reach * static_cast<float>(k) / static_cast<float>(std::max(1, p_.starts - 1));
        Line a = start(lowest, highest, share, turned == 1);
        Sums r = sums(g, a);
        for (int pass = 0; pass < p_.rounds; ++pass) {
          if (pass > 0) r = sums(g, a);
          a = solve(r, sum_x, cols, a);
        }
        const Float e = error(r, sum_xx, sum_x, n, a);
        const auto better = e < least;
        least = Float::select(better, e, least);
        best.s = Float::select(better, a.s, best.s);
        best.b = Float::select(better, a.b, best.b);
        weight = Float::select(better, r.qq, weight);
      }
    }
    store(s_.scale, index, Float::select(largest == 0, 0, best.s * g.unit));
    store(s_.zero, index, -best.b / best.s);
    if constexpr (kWeighted) weight = weight * Float(s_.group_importance[index]);
    store(s_.weight, index, weight);
  }

  /// The coarse scale of groups [first, last) of each row; 0 where all are 0.
  [[gnu::always_inline]] Float choose_coarse(std::int64_t first, std::int64_t last) const noexcept {
    const auto most = static_cast<float>(p_.most());
    Float largest;
    for (std::int64_t g = first; g < last; ++g) largest = max(largest, abs(load(s_.scale, g)));
    Float best;
    Float least = INFINITY;
    for (int k = 0; k < 24; ++k) {
      const float share = 1.06f - 0.025f * static_cast<float>(k);
      const Float coarse =
          (largest * (share * (most + 1) / most)).each([](float v) { return pack::round_to(Aux::f16, v); });
      const Float step = coarse / (most + 1);
      Float cost;
      for (std::int64_t g = first; g < last; ++g) {
        const Float s = abs(load(s_.scale, g));
        const Float m = clamp(round(s / step), 1, most);
        const Float off = mul_add(m, step, -s) / largest;  // as a share: its square stays in range
        cost = mul_add(load(s_.weight, g) * off, off, cost);
      }
      const auto better = cost < least;
      least = Float::select(better, cost, least);
      best = Float::select(better, coarse, best);
    }
    return best;
  }

  /// Tries the scale s (in units of the group) with the zeros that fit it, and keeps them if they cost less.
  [[gnu::always_inline]] void consider(const Group& g, const Float& sum_x, const Float& s, const Float& scale_integer,
                                       const Float& zero, Stored& best) const noexcept {
    const auto keep_better = [&](const Float& e, const Float& z, const Float& zero_integer) {
      const auto better = e < best.error;
      best.error = Float::select(better, e, best.error);
      best.scale_integer = Float::select(better, scale_integer, best.scale_integer);
      best.zero = Float::select(better, z, best.zero);
      best.zero_integer = Float::select(better, zero_integer, best.zero_integer);
    };
    if constexpr (!kZero) return keep_better(error(g, {s, 0}), 0, 0);
    Line a{s, -zero * s};
    for (int pass = 0; pass < 2; ++pass) a.b = mul_add(-s, sums(g, a).q, sum_x) / static_cast<float>(g.cols);
    const Float reachable = reachable_zero(a);
    if (is_float(p_.zero)) {
      const Float z = reachable.each([&](float v) { return pack::round_to(p_.zero, v); });
      return keep_better(error(g, {s, -z * s}), z, 0);
    }
    const auto count = static_cast<float>(1 << bits_of(p_.zero));
    const float step = p_.span.width / count;
    const Float nearest_integer = round((reachable - p_.span.low) / step);
    for (int d = -1; d <= 1; ++d) {
      const Float m = clamp(nearest_integer + static_cast<float>(d), 0, count - 1);
      const Float z = mul_add(m, step, p_.span.low);
      keep_better(error(g, {s, -z * s}), z, m);
    }
  }

  /// A float scale: rounded, the zero fitted to the rounded one.
  [[gnu::always_inline]] void finish_float(std::int64_t index) const noexcept {
    const Group g = group(index);
    const Float stored = load(s_.scale, index).each([&](float v) { return pack::round_to(p_.scale, v); });
    Stored best;
    consider(g, sum(g), Float::select(stored == 0, 1, stored * g.factor), 0, load(s_.zero, index), best);
    store(s_.scale, index, stored);
    store(s_.zero, index, best.zero);
    store(s_.zero_integer, index, best.zero_integer);
  }

  /// An integer scale: the nearest, or a neighbour of it if that costs less; at least 1 unless the group is all zeros.
  [[gnu::always_inline]] void finish_integer(std::int64_t index, const Float& coarse) const noexcept {
    const Group g = group(index);
    const Float sum_x = sum(g);
    const auto most = static_cast<float>(p_.most());
    const Float step = coarse / (most + 1);
    const Float safe_step = Float::select(step == 0, 1, step);
    const Float fitted = load(s_.scale, index);
    const Float sign = Float::select(fitted < 0, -1, 1);
    const Float nearest_integer = round(min(abs(fitted) / safe_step, 2 * most));
    Stored best;
    for (int d = -1; d <= 1; ++d) {
      const Float m = sign * clamp(nearest_integer + static_cast<float>(d), 1, most);
      consider(g, sum_x, m * (safe_step * g.factor), m, load(s_.zero, index), best);
    }
    const Float m = Float::select(fitted == 0, 0, best.scale_integer);
    store(s_.scale, index, m * step);
    store(s_.scale_integer, index, m);
    store(s_.zero, index, best.zero);
    store(s_.zero_integer, index, best.zero_integer);
  }

  const FitPlan& p_;
  const FitStrip& s_;
  int lane_;
};

template <int kLevels, bool kZero, bool kWeighted>
struct FitOfStrip {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const FitPlan& plan, const FitStrip& strip) noexcept {
    for (int lane = 0; lane < kStrip; lane += kWidth)
      StripFitter<kWidth, kLevels, kZero, kWeighted>(plan, strip, lane).run();
  }
};

inline void fit_strip(const FitPlan& plan, const FitStrip& strip) noexcept {
  const auto with_levels = [&](auto levels) {
    const auto with_zero = [&](auto zero) {
      if (strip.importance == nullptr)
        core::on_isa<FitOfStrip<levels(), zero(), false>>(plan, strip);
      else
        core::on_isa<FitOfStrip<levels(), zero(), true>>(plan, strip);
    };
    if (plan.zero == Aux::none)
      with_zero(std::false_type{});
    else
      with_zero(std::true_type{});
  };
  switch (plan.levels) {
    case 16:
      return with_levels(std::integral_constant<int, 16>{});
    case 8:
      return with_levels(std::integral_constant<int, 8>{});
    case 4:
      return with_levels(std::integral_constant<int, 4>{});
    default:
      return with_levels(std::integral_constant<int, 0>{});
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
