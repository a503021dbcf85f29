// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `matmul` (CPU): y = x W^T with a packed matrix.
//
//   y[t,i] = sum_j x[t,j] W[i,j] = sum_j (level(code[i,j]) - zero[i,g]) scale[i,g] x'[t,j]
//   with x'[t,j] = col_scale[p,j] x[t,j]
//
// The second axis costs one multiplication per activation, not per weight.
//
// One call takes one product, or several that share an input or have tokens of their own.
//
//   problem       what may be asked for, and its one validation
//   reference     double precision, the yardstick
//   activations   tokens as a kernel wants them
//   job, strip    one strip times a block of tokens, and the portable kernel
//   avx2, avx512, neon   the operations of an instruction set
//   tiles, amx_bytes, amx_bfloat16   products of some and of many tokens in tiles
//   reading, floats, integers, fours, bytes, groups (.inc)   the kernels made of them, compiled once for each
//   method        how a block of tokens is multiplied; kernels: the choice
//   pass, matmul  products, threads, workspace

#include "matmul/matmul.hpp"
#include "matmul/reference.hpp"
