// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything that needs nothing but Eigen. `sinq/store.hpp` (files; needs nlohmann-json), `sinq/core/thread_pool.hpp`
// (an executor on Eigen's thread pool) and `sinq/cuda.cuh` are included by those who want them.

#include "matmul.hpp"
#include "quantize.hpp"
