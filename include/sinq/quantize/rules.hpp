// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../version.hpp"

// What the arithmetic that the CPU and a device share (the .inc files of this folder) is told: plain numbers, which a
// kernel can be given.
//
// Those files are included in a namespace of each, because nvcc takes no vector types in functions of both: on the CPU
// with Float = core::Lanes, on a device with Float = cuda::Lane, one float with the same operations. SINQ_SHARED is how
// a function begins there; SINQ_SHARED_UNROLL and SINQ_SHARED_NO_UNROLL stand before loops and mean something on a
// device only.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// HQQ's shrinkage (hqq.hpp).
struct HqqShrinkage {
  float last_code = 0;
  float exponent = 0;  // p - 1
  float beta_inverse = 0;
};

/// Groups with a smaller scale (zeros, or so small that 1 / scale would overflow) are left out: the smallest normal.
inline constexpr float kHqqLeastScale = 0x1p-126f;

/// The smallest half: coarse scales are no smaller (encode.hpp).
inline constexpr float kLeastCoarse = 0x1p-24f;

/// Of the mean over the row. Columns without activations are fitted all the same: nobody knows what comes later.
inline constexpr double kLeastImportance = 1e-3;

/// What all groups of a fitted matrix have in common (fit.hpp).
struct FitRules {
  int starts = 0;
  int rounds = 0;
  float reach = 0;            // the narrowest start leaves out this share of the range
  bool both_signs = false;    // whether a group may be turned round (x -> -x)
  float most = 0;             // largest integer scale; 0: scales are floats
  bool integer_zero = false;  //
  float lowest_zero = 0;      // that can be stored
  float highest_zero = 0;     //
  float zero_step = 0;        // between integer zeros
  float last_zero = 0;        // largest integer zero
  int levels = 0;             // of a codebook; 0: even levels, one apart
  float low = 0, high = 0;    // lowest and highest level
  float level[32] = {};       // see Lanes::nearest_level
  float middle[32] = {};      // boundaries between neighbours
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
