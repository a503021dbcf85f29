// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "../balance.hpp"
#include "../pack.hpp"
#include "activations.hpp"

namespace sinq::inline SINQ_ABI {

/// How weights become codes.
///
///   uniform    2^bits even levels between the group's minimum and maximum, integer zero (RTN, SINQ)
///   symmetric  2^bits even levels around 0, no zero, signed scale; all levels are used (the reference uses 13 of 16)
///   nf4, nf3   NormalFloat codebooks around the group's mean (mean shift)
///   table      a codebook of 8-bit levels (`QuantizeConfig::table`), by default one fitted to balanced groups; with a
///              zero, or without one and a signed scale; needs `Refine::fit`
enum class Rounding : std::uint8_t { uniform, symmetric, nf4, nf3, table };

/// What is improved after the first choice of scale and zero.
///
///   hqq   Half-Quadratic Quantization (zero only): robust to outliers; uniform rounding only; makes zeros fractional
///   fit   scale and zero of least square error in the balanced domain, then an unbiased gain per row and column
///         (fit.hpp, unbias.hpp); any rounding; three to six times the time of none
enum class Refine : std::uint8_t { none, hqq, fit };

/// Whether the second axis of scales is used.
enum class Balancing : std::uint8_t { sinkhorn, none };

/// What is made of the activations (`QuantizeOptions::activations`).
///
///   awq       column scales in proportion to the activations: of 20 exponents, that of the least output error on the
///             sample (awq.hpp). Without balancing this is AWQ, with it A-SINQ; takes 20 times as long as none
///   weighted  the error that Refine::fit makes small is that of the outputs: every column counts by its mean square
///   gptq      error feedback: each column makes up for the errors of those before it, as far as the activations'
///             second moments tell (feedback.hpp); with Refine::fit, the fit is weighted as well
enum class Calibration : std::uint8_t { none, awq, weighted, gptq };

/// HQQ's proximal iteration; the defaults are those of the Python reference.
struct HqqOptions {
  int iterations = 20;  // 1 to 1000
  double p = 0.7;       // norm of the error that is minimised, in (0, 1]
  double beta = 10;     // weight of the proximal term, above 0
};

/// The search of `Refine::fit`. More finds little: from 3 to 8 starts the error falls by 0.2 to 0.5 %.
struct FitOptions {
  int starts = 3;  // ranges tried per group and sign, 1 to 64
  int rounds = 2;  // least squares per start, 0 to 16
};

/// The error feedback of Calibration::gptq.
struct GptqOptions {
  /// Of the mean square of all columns, added to each one's; 1e-6 to 1e3. More trusts the activations less.
  double damping = 0.01;
  /// How often all codes are looked at again beside the others, 0 (GPTQ as published) to 16.
  int passes = 3;
};

/// Levels fitted to balanced groups of 16 and 32 of four models (bench/results/quality.md). Without a zero one level is
/// 0, since groups that hold one huge weight and many tiny ones need it. InvalidArgument unless bits are 2, 3 or 4 (in
/// a constant expression, it does not compile).
[[nodiscard]] constexpr LevelTable fitted_levels(int bits, bool with_zero) {
  if (bits < 2 || bits > 4) detail::core::require(false, "bits", bits, "a level table has 2, 3 or 4 bits");
  if (bits == 2) return with_zero ? LevelTable{-127, -53, 19, 121} : LevelTable{-127, -51, 0, 72};
  if (bits == 3)
    return with_zero ? LevelTable{-121, -68, -33, -3, 26, 56, 90, 127} : LevelTable{-112, -63, -30, 0, 21, 47, 79, 127};
  return with_zero ? LevelTable{-127, -100, -81, -65, -50, -37, -25, -13, -1, 11, 24, 37, 52, 69, 87, 106}
                   : LevelTable{-127, -101, -81, -63, -48, -35, -22, -11, 0, 11, 23, 35, 49, 64, 83, 108};
}

/// What `quantize` shall make. RTN is `.balance = Balancing::none`; HQQ that and `.refine = Refine::hqq`; NF4 that and
/// `.rounding = Rounding::nf4`; the same with balancing are SINQ, SINQ + HQQ and SINQ-NF4.
struct QuantizeConfig {
  int bits = 4;                  // 2, 3, 4, 5, 6, 8; NF4 asks for 4, NF3 for 3
  std::int64_t group_size = 64;  // a multiple of 16 from 16 to 256, or kWholeRow
  Tile tile = Tile::stripe;
  Rounding rounding = Rounding::uniform;
  Refine refine = Refine::none;
  Balancing balance = Balancing::sinkhorn;
  Calibration calibration = Calibration::none;
  Aux scale = Aux::f16;            // f16, bf16, f32, or u4 to u8 below one coarse f16 scale per coarse_groups groups
  Aux zero = Aux::f16;             // f16, bf16, f32, or u4 to u8; none with a codebook and fit: no zero at all;
                                   // ignored by symmetric rounding, which has none anyway
  Aux col_scale = Aux::f16;        // f16, bf16 or f32; ignored without balancing and awq
  std::int64_t coarse_groups = 0;  // groups per coarse scale; 0: the whole row
  SinkhornOptions sinkhorn{};
  HqqOptions hqq{};
  FitOptions fit{};
  GptqOptions gptq{};
  LevelTable table{};  // of Rounding::table, rising; all 0: fitted_levels(bits, zero != Aux::none)
  /// Matrices whose kurtosis exceeds this are not balanced; 0: the gate is open for all. (The reference: 5, on.
  /// Measured on two models, it loses at 3 of 4 points, by 1 to 3 % in KL, and gains 1 % at one:
  /// bench/results/core.md.)
  double kurtosis_gate = 0;
};

/// What `quantize` did besides.
struct QuantizeReport {
  double imbalance_before = 1;  // mean over tiles
  double imbalance_after = 1;   //
  bool balanced = false;        // false: not asked for, or the kurtosis gate was closed
  bool widened = false;         // scales did not fit the type asked for and took a wider one (see the result's format)
  bool tiny_rows = false;       // rows have the least coarse scale there is, and may have weights too small for it
};

/// How `quantize` runs.
struct QuantizeOptions {
  /// The caller's threads; null: the calling thread alone. The result has the same bits either way.
  Executor* executor = nullptr;
  /// Called on the calling thread with the share done, never falling, and 1 at last; returning false cancels (throws
  /// Cancelled). Called now and then while the executor runs tasks on that thread, too; after each of the two or more
  /// passes where it does not.
  std::function<bool(double)> progress{};
  /// Filled in if given.
  QuantizeReport* report = nullptr;
  /// What the matrix is multiplied with; as many columns as the weights, and at least one token. Read only where
  /// `QuantizeConfig::calibration` asks for it.
  const Activations* activations = nullptr;
};

namespace detail::quantize {

/// The format that a configuration leads to on a matrix with (or without) a second axis.
[[nodiscard]] inline Format format_of(const QuantizeConfig& c, bool second_axis) noexcept {
  Format f;
  f.bits = c.bits;
  f.group_size = c.group_size;
  f.tile = c.tile;
  f.levels = c.rounding == Rounding::symmetric ? Levels::symmetric
             : c.rounding == Rounding::nf4     ? Levels::nf4
             : c.rounding == Rounding::nf3     ? Levels::nf3
             : c.rounding == Rounding::table   ? Levels::table
                                               : Levels::uniform;
  f.scale = c.scale;
  f.zero = c.rounding == Rounding::symmetric ? Aux::none : c.zero;
  f.col_scale = second_axis ? c.col_scale : Aux::none;
  // Uneven levels: the fit chooses which way round they lie.
  const bool turned = c.rounding == Rounding::symmetric || (c.refine == Refine::fit && c.rounding != Rounding::uniform);
  f.signed_scale = turned && is_integer(c.scale);
  f.coarse_groups = c.coarse_groups;
  return f;
}

[[nodiscard]] inline LevelTable table_of(const QuantizeConfig& c) {
  if (c.rounding != Rounding::table) return {};
  return c.table == LevelTable{} ? fitted_levels(c.bits, c.zero != Aux::none) : c.table;
}

/// A table of one's own rises from below 0 to above it: the fit starts from where its ends meet the group's. Of a
/// configuration whose bits are those of a table.
inline void validate_table(const QuantizeConfig& c) {
  using core::require;
  const bool own = c.table != LevelTable{};
  require(!own || c.rounding == Rounding::table, "table", int{c.table[0]}, "only rounding = table has one");
  if (!own) return;
  const auto last = (std::size_t{1} << c.bits) - 1;
  require(c.table[0] < 0, "table[0]", int{c.table[0]}, "must be below 0");
  require(c.table[last] > 0, "table's last level", int{c.table[last]}, "must be above 0");
  for (std::size_t k = 0; k + 1 < c.table.size(); ++k)
    require(k < last ? c.table[k] < c.table[k + 1] : c.table[k + 1] == 0, "table", int{c.table[k + 1]},
            "must rise, and be 0 beyond 2^bits levels");
}

inline void validate(const QuantizeConfig& c) {
  using core::require;
  const auto number = [](auto e) { return static_cast<int>(e); };
  require(c.rounding <= Rounding::table, "rounding", number(c.rounding),
          "allowed are uniform, symmetric, nf4, nf3 and table");
  require(c.refine <= Refine::fit, "refine", number(c.refine), "allowed are none, hqq and fit");
  require(c.balance <= Balancing::none, "balance", number(c.balance), "allowed are sinkhorn and none");
  require(c.calibration <= Calibration::gptq, "calibration", number(c.calibration),
          "allowed are none, awq, weighted and gptq");
  require(c.refine != Refine::hqq || c.rounding == Rounding::uniform, "refine", "hqq", "needs uniform rounding");
  require(c.calibration != Calibration::weighted || c.refine == Refine::fit, "calibration", "weighted",
          "needs refine = fit");
  const bool codebook = c.rounding >= Rounding::nf4;
  require(c.rounding == Rounding::symmetric || c.zero != Aux::none || (codebook && c.refine == Refine::fit), "zero",
          "none", "only symmetric rounding, and codebooks with refine = fit, have no zero");
  require(c.rounding != Rounding::table || c.refine == Refine::fit, "rounding", "table", "needs refine = fit");
  require(c.rounding != Rounding::table || (c.bits >= 2 && c.bits <= 4), "bits", c.bits,
          "a level table has 2, 3 or 4 bits");
  require(c.fit.starts >= 1 && c.fit.starts <= 64, "fit.starts", c.fit.starts, "allowed are 1 to 64");
  require(c.fit.rounds >= 0 && c.fit.rounds <= 16, "fit.rounds", c.fit.rounds, "allowed are 0 to 16");
  require(c.gptq.damping >= 1e-6 && c.gptq.damping <= 1e3, "gptq.damping", c.gptq.damping, "must be in [1e-6, 1e3]");
  require(c.gptq.passes >= 0 && c.gptq.passes <= 16, "gptq.passes", c.gptq.passes, "allowed are 0 to 16");
  validate_table(c);
  require(c.hqq.iterations >= 1 && c.hqq.iterations <= 1000, "hqq.iterations", c.hqq.iterations,
          "allowed are 1 to 1000");
  require(c.hqq.p > 0 && c.hqq.p <= 1, "hqq.p", c.hqq.p, "must be in (0, 1]");
  require(c.hqq.beta > 0 && c.hqq.beta <= 1e30, "hqq.beta", c.hqq.beta, "must be in (0, 1e30]");
  require(c.kurtosis_gate >= 0, "kurtosis_gate", c.kurtosis_gate, "must be at least 0");
  balance::validate(c.sinkhorn);
  const bool balanced = c.balance == Balancing::sinkhorn;
  const bool second_axis = balanced || c.calibration == Calibration::awq;
  require(!second_axis || is_float(c.col_scale), "col_scale", pack::text_of(c.col_scale),
          "allowed are f16, bf16 and f32");
  const bool narrow = balanced && c.col_scale == Aux::f16;  // AWQ passes over exponents whose scales do not fit
  require(!narrow || c.sinkhorn.max_factor <= 65504, "sinkhorn.max_factor", c.sinkhorn.max_factor,
          "a col_scale in f16 allows at most 65504");
  require(!narrow || c.sinkhorn.min_factor >= 0x1p-14, "sinkhorn.min_factor", c.sinkhorn.min_factor,
          "a col_scale in f16 allows at least 2^-14");
  pack::validate(format_of(c, second_axis));
}

/// Activations are those of a matrix with so many columns.
inline void validate(const Activations& activations, std::int64_t cols) {
  using core::require;
  require(activations.cols() == cols, "activations.cols()", activations.cols(), "must equal weights.cols, ", cols);
  require(activations.tokens() > 0, "activations.tokens()", activations.tokens(), "must be at least 1");
}

/// What a calibration needs is there.
inline void validate(const QuantizeConfig& c, const Activations* activations, std::int64_t cols) {
  using core::require;
  if (c.calibration == Calibration::none) return;
  require(activations != nullptr, "activations", "null", "this calibration needs them");
  validate(*activations, cols);
  require(c.calibration != Calibration::awq || activations->sample().rows > 0, "activations.sample().rows", 0,
          "calibration = awq needs tokens themselves");
  require(c.calibration != Calibration::gptq || activations->has_second_moments(), "activations.has_second_moments()",
          "false", "calibration = gptq needs them");
}

}  // namespace detail::quantize
}  // namespace sinq::inline SINQ_ABI
