// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <iostream>
#include <sinq/core/cpu.hpp>
#include <string>
#include <vector>

// Tests for every instruction set. What a machine lacks is named in the output, so that nobody takes a run without it
// for a run with it.

namespace sinq::test {

/// All instruction sets of this kind of processor, whether this one has them or not.
inline std::vector<Isa> named_isas() {
#if defined(__x86_64__)
  return {Isa::portable, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::avx512vbmi, Isa::amx};
#elif defined(__aarch64__)
  return {Isa::portable, Isa::neon};
#else
  return {Isa::portable};
#endif
}

/// A test for each of named_isas(), with that one in force; skipped where the machine lacks it.
class IsaTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!detail::core::supported(GetParam())) GTEST_SKIP() << "this machine does not have " << name_of(GetParam());
    force_isa(GetParam());
  }
  void TearDown() override { force_isa(before_); }

 private:
  Isa before_ = current_isa();
};

/// How cases of such a test are called.
inline std::string isa_name(const testing::TestParamInfo<Isa>& isa) {
  return name_of(isa.param);
}

/// Calls `body(isa)` with every instruction set of this machine in force.
template <class Body>
void on_every_isa(Body&& body) {
  const Isa before = current_isa();
  for (Isa isa : named_isas()) {
    if (!detail::core::supported(isa)) {
      // Not in the words for a test that is skipped, for which ctest would take the whole test, even a failed one.
      std::cout << "this machine does not have " << name_of(isa) << '\n';
      continue;
    }
    force_isa(isa);
    body(isa);
  }
  force_isa(before);
}

}  // namespace sinq::test
