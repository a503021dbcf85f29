// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>

int main() {
  std::printf("sinq %d.%d.%d\n", SINQ_VERSION_MAJOR, SINQ_VERSION_MINOR, SINQ_VERSION_PATCH);
}
