// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../version.hpp"

// What the arithmetic that the CPU and a device share (the .inc files of this folder) is told: plain numbers, which a
// kernel can be given.
//
// Those files are included in a namespace of each, because nvcc takes no vector types in functions of both: on the CPU
// with Float = core::Lanes, on a device with Float = cuda::Lane, one float with the same operations. SINQ_SHARED is how
// a function begins there, SINQ_SHARED_UNROLL stands before loops that have to be unrolled on a device.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// HQQ's shrinkage (hqq.hpp).
struct HqqShrinkage {
  float last_code = 0;
  float exponent = 0;  // p - 1
  float beta_inverse = 0;
};

/// Groups with a smaller scale (zeros, or so small that 1 / scale would overflow) are left out: the smallest normal.
inline constexpr float kHqqLeastScale = 0x1p-126f;

}  // namespace sinq::inline SINQ_ABI::detail::quantize
