// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/core/cpu.hpp>

namespace sinq::test {

/// Calls `body(isa)` with every instruction set of this machine in force.
template <class Body>
void on_every_isa(Body&& body) {
  const Isa before = current_isa();
  for (Isa isa : supported_isas()) {
    force_isa(isa);
    body(isa);
  }
  force_isa(before);
}

}  // namespace sinq::test
