// SPDX-License-Identifier: Apache-2.0
#pragma once

// All kernels of the CPU, and `quantize`, for the one file of a program that compiles them. With SINQ_EXTERN_KERNELS
// defined for all files the others only declare them. One that quantizes, saves and multiplies then compiles in a fifth
// of the time, one that only multiplies in less than a tenth (g++ 12 -O2).
//
//   g++ -DSINQ_EXTERN_KERNELS -O2 -c one.cpp two.cpp    # include <sinq/sinq.hpp>
//   g++ -DSINQ_EXTERN_KERNELS -O2 -c kernels.cpp        # #include <sinq/kernels.hpp> and nothing else
//
// All files are compiled for the same instruction sets (version.hpp): others do not link. Without the macro this
// file is of no use, and does no harm.

#include "balance/sweep.hpp"
#include "matmul/kernels.hpp"
#include "quantize/fit_strip.hpp"
#include "quantize/hqq_round.hpp"
#include "quantize/passes.hpp"
