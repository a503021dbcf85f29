// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../quantize/rules.hpp"
#include "lane.cuh"

// The arithmetic of quantize/ that decides codes, as the CPU's, for one thread.

namespace sinq::inline SINQ_ABI::detail::cuda {

#define SINQ_SHARED SINQ_CUDA_DEVICE
#include "../quantize/elementary.inc"
#include "../quantize/hqq_step.inc"
#undef SINQ_SHARED

}  // namespace sinq::inline SINQ_ABI::detail::cuda
