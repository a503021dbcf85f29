// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sinq/version.hpp>
#include <string>

// The name of the inline namespace under flags other than this file's: its macros are looked at where it is used.

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

namespace {

#if defined(__x86_64__)

#pragma push_macro("__FMA__")
#undef __FMA__
const std::string without_fma = TEXT(SINQ_ABI);
#define __FMA__ 1
const std::string with_fma = TEXT(SINQ_ABI);
#pragma pop_macro("__FMA__")

#pragma push_macro("__AVX512FP16__")
#undef __AVX512FP16__
const std::string without_fp16 = TEXT(SINQ_ABI);
#define __AVX512FP16__ 1
const std::string with_fp16 = TEXT(SINQ_ABI);
#pragma pop_macro("__AVX512FP16__")

TEST(Version, FilesThatDifferInOneInstructionSetHaveDifferentNames) {
  EXPECT_NE(with_fma, without_fma);
  EXPECT_NE(with_fma.find("_fma"), std::string::npos) << with_fma;
  EXPECT_EQ(without_fma.find("_fma"), std::string::npos) << without_fma;
  EXPECT_EQ(with_fp16, without_fp16 + "_fp16");
}

#endif

TEST(Version, TheNameBeginsWithTheVersion) {
  const std::string version = "v" + std::to_string(SINQ_VERSION_MAJOR) + "_" + std::to_string(SINQ_VERSION_MINOR);
  EXPECT_TRUE(std::string(TEXT(SINQ_ABI)).starts_with(version)) << TEXT(SINQ_ABI);
}

}  // namespace
