// SPDX-License-Identifier: Apache-2.0
#pragma once

// Most of the time that a file of an engine takes to compile goes to the kernels: one for every instruction set, width
// and table. A program with many such files can compile them, and `quantize`, once: it defines SINQ_EXTERN_KERNELS for
// all of them and includes <sinq/kernels.hpp> in one.
#ifdef SINQ_EXTERN_KERNELS
#define SINQ_KERNEL
#else
#define SINQ_KERNEL inline
#endif
