// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "support/objects.hpp"

// Of the quantizer what matmul/mixed_flags_test.cpp asks of products: an engine may compile some files for a newer
// processor than others. The objects are those of the programs that quantize under several flags (flags/bits.cpp),
// without flags with the kernels of all tests.

namespace {

#if defined(SINQ_PLAIN_OBJECT)

TEST(MixedFlags, WithoutFlagsNewInstructionsStayInTheirFunctions) {
  sinq::test::expect_avx_where_it_belongs(SINQ_PLAIN_OBJECT);
}

TEST(MixedFlags, FilesWithDifferentFlagsShareNoFunctionOfTheLibrary) {
  sinq::test::expect_nothing_shared(SINQ_PLAIN_OBJECT, SINQ_FLAGGED_OBJECT);
}

#else

TEST(MixedFlags, NeedAnotherProcessor) {
  GTEST_SKIP() << "flags are mixed on x86-64 only, and without sanitizers";
}

#endif

}  // namespace
