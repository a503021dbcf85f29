// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "activations.hpp"
#include "config.hpp"
#include "preset.hpp"

namespace sinq::inline SINQ_ABI {

/// Quantizes a matrix.
///
/// Two passes: every tile is balanced and its groups get scale and zero (paper, Algorithm 1); then the auxiliaries are
/// rounded to their stored types and the codes chosen against the rounded ones. (With `Refine::fit` the second pass
/// chooses scale and zero too: fit.hpp.) Memory: the result, two floats per row, up to 16 more, and group (fit: 2
/// doubles per 128 rows and column), and one tile or 128 rows of floats per thread. Calibration::gptq needs 16 bytes
/// per pair of columns beside.
///
/// Without a configuration it uses preset(4.5). An empty one, `{}`, is not none: it is SINQ as published.
///
/// Where scales are integers below a coarse one, as in most presets, rows whose weights are all below some 1e-5 (dead
/// neurons, unused words of a vocabulary) are restored only to within 2^-19 (2e-6; preset(4.5): 5e-7) times the
/// column's scale: there is no smaller coarse scale (encode.hpp). QuantizeReport::tiny_rows tells; matrices of such
/// weights throughout need `scale` = f32.
///
/// Throws InvalidArgument if the configuration or the size is out of range, a weight, rounded to float, is not finite
/// or not below 2^120 (naming row and column), or outputs overflow on Calibration::awq's sample; Cancelled if the
/// progress callback says so. The result has the same bits whatever the thread count and the instruction set.
[[nodiscard]] SINQ_KERNEL QuantizedMatrix quantize(const WeightView& weights,
                                                   const QuantizeConfig& config = preset(4.5),
                                                   const QuantizeOptions& options = {});

/// The same for any Eigen matrix, map, block or expression of float, double, half or bfloat16.
template <class Derived>
[[nodiscard]] QuantizedMatrix quantize(const Eigen::DenseBase<Derived>& weights,
                                       const QuantizeConfig& config = preset(4.5),
                                       const QuantizeOptions& options = {}) {
  return quantize(WeightView(MatrixRef<typename Derived::Scalar>(weights.derived())), config, options);
}

}  // namespace sinq::inline SINQ_ABI
