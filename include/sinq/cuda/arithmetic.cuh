// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../quantize/rules.hpp"
#include "lane.cuh"

// The arithmetic of quantize/ that decides codes, as the CPU's, for one thread.

namespace sinq::inline SINQ_ABI::detail::cuda {

#define SINQ_SHARED SINQ_CUDA_DEVICE
#define SINQ_SHARED_UNROLL SINQ_CUDA_UNROLL
#define SINQ_SHARED_NO_UNROLL SINQ_CUDA_NO_UNROLL
#include "../quantize/elementary.inc"
#include "../quantize/fit_group.inc"
#include "../quantize/hqq_step.inc"
#include "../quantize/overlap.inc"
#undef SINQ_SHARED
#undef SINQ_SHARED_UNROLL
#undef SINQ_SHARED_NO_UNROLL

}  // namespace sinq::inline SINQ_ABI::detail::cuda
