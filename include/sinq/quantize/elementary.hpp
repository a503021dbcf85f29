// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../core.hpp"

namespace sinq::inline SINQ_ABI::detail::quantize {

#define SINQ_SHARED [[gnu::always_inline]] inline
#include "elementary.inc"
#undef SINQ_SHARED

}  // namespace sinq::inline SINQ_ABI::detail::quantize
