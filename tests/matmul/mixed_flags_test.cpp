// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <sinq/core/cpu.hpp>
#include <string>
#include <vector>

#include "support/objects.hpp"

// An engine may compile some files for a newer processor than others. Two things must then hold, or a program dies of
// an illegal instruction on the older one:
//
//   - in a file without flags, instructions of a newer processor stand only in the functions of that instruction set
//     (a template defined in a target region would be a function like any other, with such instructions in it)
//   - files with different flags share no function of the library: the linker keeps one copy, whichever comes first
//     (of functions of std and Eigen it still does: version.hpp says what that means)
//
// The program linked from both must compute.

void plain_product(const std::uint8_t* codes, std::int64_t rows, std::int64_t cols, const float* x, float* y);
void flagged_product(const std::uint8_t* codes, std::int64_t rows, std::int64_t cols, const float* x, float* y);

namespace {

#if defined(SINQ_PLAIN_OBJECT)

TEST(MixedFlags, WithoutFlagsNewInstructionsStayInTheirNamespace) {
  sinq::test::expect_avx_where_it_belongs(SINQ_PLAIN_OBJECT);
}

TEST(MixedFlags, FilesWithDifferentFlagsShareNoFunctionOfTheLibrary) {
  sinq::test::expect_nothing_shared(SINQ_PLAIN_OBJECT, SINQ_FLAGGED_OBJECT);
}

TEST(MixedFlags, OneProgramComputesWithBoth) {
  if (!sinq::detail::core::supported(sinq::Isa::avx2)) GTEST_SKIP() << "this machine lacks AVX2";
  constexpr std::int64_t kRows = 40;
  constexpr std::int64_t kCols = 128;
  std::vector<std::uint8_t> codes(kRows * kCols / 2);
  for (std::size_t k = 0; k < codes.size(); ++k) codes[k] = static_cast<std::uint8_t>(k * 37);
  const std::vector<float> x(kCols, 0.5f);  // products and sums of these are exact in float
  std::vector<float> plain(kRows), flagged(kRows);
  plain_product(codes.data(), kRows, kCols, x.data(), plain.data());
  flagged_product(codes.data(), kRows, kCols, x.data(), flagged.data());
  for (std::int64_t i = 0; i < kRows; ++i) {
    float sum = 0;
    for (std::int64_t j = 0; j < kCols / 2; ++j) {
      const int pair = codes[static_cast<std::size_t>(i * kCols / 2 + j)];
      sum += static_cast<float>(pair % 16 + pair / 16) * 0.125f;
    }
    EXPECT_EQ(plain[static_cast<std::size_t>(i)], sum);
    EXPECT_EQ(flagged[static_cast<std::size_t>(i)], sum);
  }
}

#else

TEST(MixedFlags, NeedAnotherProcessor) {
  GTEST_SKIP() << "flags are mixed on x86-64 only";
}

#endif

}  // namespace
