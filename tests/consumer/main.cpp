// SPDX-License-Identifier: Apache-2.0
#if __has_include(<sinq/sinq.hpp>)
#include <sinq/sinq.hpp>
#else
#include <sinq/core/error.hpp>
#endif

#include <cstdio>

bool works_in_another_file();

int main() {
  std::printf("sinq %d.%d.%d\n", SINQ_VERSION_MAJOR, SINQ_VERSION_MINOR, SINQ_VERSION_PATCH);
  return works_in_another_file() ? 0 : 1;
}
