// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `cuda`: quantized matrices on an NVIDIA GPU, sm_75 and later (made for sm_80 and later).
//
//   DeviceMatrix   a QuantizedMatrix in device memory, and back bit for bit         (device_matrix.cuh, order.hpp)
//   plan           problem + device facts -> grid, shared memory, workspace; plain C++, printable   (plan.hpp)
//   matmul         y = x W^T + bias for any number of tokens: one kernel on the tensor cores        (multiply.cuh),
//                  and on Hopper another for more than 64 tokens                              (multiply_wgmma.cuh),
//                  if it is compiled for sm_90a: code for sm_90 has no wgmma and takes the first for all;
//                  several matrices with one input; the experts of a mixture                          (experts.cuh);
//                  many tokens with cuBLASLt, which whoever includes it links: sinq/cuda/blas.cuh
//   dequantize     the weights as half, bfloat16 or float                            (dequantize_kernel.cuh)
//   quantize       weights on the device -> DeviceMatrix, the CPU's bits. Not included here, since an engine that only
//                  loads and multiplies never needs the stage quantize: sinq/cuda/quantize.cuh      (balance.cuh,
//                  round.cuh)
//
// Everything runs on the caller's stream and in the caller's memory; only DeviceMatrix allocates. Arguments are checked
// once, at the host door, with the messages of the CPU path.
//
// The order of the bits is explained in layout.hpp; what a hardware instruction does, in instructions.cuh, with a model
// that lets the tests run the kernels without a GPU.

#include "cuda/dequantize.cuh"
#include "cuda/experts.cuh"
#include "cuda/matmul.cuh"
