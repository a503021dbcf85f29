// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sinq/version.hpp>
#include <string>

// The name of the inline namespace under flags other than this file's: its macros are looked at where it is used.

#define SINQ_TEXT_OF(x) #x
#define SINQ_TEXT(x) SINQ_TEXT_OF(x)

namespace {

#if defined(__x86_64__)

#pragma push_macro("__FMA__")
#undef __FMA__
const std::string kWithoutFma = SINQ_TEXT(SINQ_ABI);
#define __FMA__ 1
const std::string kWithFma = SINQ_TEXT(SINQ_ABI);
#pragma pop_macro("__FMA__")

#pragma push_macro("__AVX512FP16__")
#undef __AVX512FP16__
const std::string kWithoutFp16 = SINQ_TEXT(SINQ_ABI);
#define __AVX512FP16__ 1
const std::string kWithFp16 = SINQ_TEXT(SINQ_ABI);
#pragma pop_macro("__AVX512FP16__")

TEST(Version, FilesThatDifferInOneInstructionSetHaveDifferentNames) {
  EXPECT_NE(kWithFma, kWithoutFma);
  EXPECT_NE(kWithFma.find("_fma"), std::string::npos) << kWithFma;
  EXPECT_EQ(kWithoutFma.find("_fma"), std::string::npos) << kWithoutFma;
  EXPECT_EQ(kWithFp16, kWithoutFp16 + "_fp16");
}

#endif

TEST(Version, TheNameBeginsWithTheVersion) {
  const std::string version = "v" + std::to_string(SINQ_VERSION_MAJOR) + "_" + std::to_string(SINQ_VERSION_MINOR);
  EXPECT_TRUE(std::string(SINQ_TEXT(SINQ_ABI)).starts_with(version)) << SINQ_TEXT(SINQ_ABI);
}

}  // namespace
