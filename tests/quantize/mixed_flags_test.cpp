// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "support/objects.hpp"

// Of the quantizer what matmul/mixed_flags_test.cpp asks of products: an engine may compile some files for a newer
// processor than others. The objects are those of the programs that quantize under several flags (flags/bits.cpp).

namespace {

#if defined(SINQ_PLAIN_OBJECT)

using sinq::test::functions_with_avx;
using sinq::test::has_tool;
using sinq::test::shared_by_name;

bool of_an_instruction_set(const std::string& function) {
  return function.find("4core8run_avx2") != std::string::npos ||
         function.find("4core10run_avx512") != std::string::npos;
}

TEST(MixedFlags, WithoutFlagsNewInstructionsStayInTheirFunctions) {
  if (!has_tool("objdump")) GTEST_SKIP() << "objdump is not installed";
  const auto functions = functions_with_avx(SINQ_PLAIN_OBJECT);
  ASSERT_FALSE(functions.empty()) << SINQ_PLAIN_OBJECT;
  for (const std::string& f : functions) EXPECT_TRUE(of_an_instruction_set(f)) << f;
}

TEST(MixedFlags, FilesWithDifferentFlagsShareNoFunction) {
  if (!has_tool("nm")) GTEST_SKIP() << "nm is not installed";
  const auto plain = shared_by_name(SINQ_PLAIN_OBJECT);
  const auto flagged = shared_by_name(SINQ_FLAGGED_OBJECT);
  ASSERT_FALSE(plain.empty() || flagged.empty()) << SINQ_PLAIN_OBJECT;
  for (const std::string& f : plain) EXPECT_FALSE(flagged.contains(f)) << f;
}

#else

TEST(MixedFlags, NeedAnotherProcessor) {
  GTEST_SKIP() << "flags are mixed on x86-64 only, and without sanitizers";
}

#endif

}  // namespace
