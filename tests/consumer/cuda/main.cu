// SPDX-License-Identifier: Apache-2.0
#if __has_include(<sinq/sinq.hpp>)
#include <sinq/sinq.hpp>
#else
#include <sinq/core/error.hpp>
#endif
#if __has_include(<sinq/cuda.cuh>)
#include <sinq/cuda.cuh>
#endif

#include <cstdio>

static_assert(__cplusplus >= 202002L, "sinq::cuda asks nvcc for C++20");

bool works_in_another_file();

__global__ void nothing() {}

// Compiled and linked with nvcc; needs no GPU to run.
int main() {
  std::printf("sinq %d.%d.%d\n", SINQ_VERSION_MAJOR, SINQ_VERSION_MINOR, SINQ_VERSION_PATCH);
  return works_in_another_file() ? 0 : 1;
}
