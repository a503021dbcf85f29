// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <locale>
#include <sinq/core/error.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace {

using sinq::detail::core::raise;
using sinq::detail::core::require;

template <class E>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Error, RequireNamesTheArgumentItsValueAndTheLimit) {
  EXPECT_EQ(message_of<sinq::InvalidArgument>([] { require(false, "bits", 7, "allowed are 2, 3, 4, 5, 6, 8"); }),
            "sinq: bits = 7: allowed are 2, 3, 4, 5, 6, 8");
}

// Messages are for logs, and what goes into files is made by the same function.
TEST(Error, TextDoesNotFollowTheGlobalLocale) {
  struct Grouped : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Grouped));
  const std::string text = sinq::detail::core::text("n = ", 1234567, ", ", 0.5);
  std::locale::global(before);
  EXPECT_EQ(text, "n = 1234567, 0.5");
}

TEST(Error, RequireLetsAGoodValuePass) {
  EXPECT_NO_THROW(require(true, "bits", 4, ""));
}

TEST(Error, FormatErrorCarriesTheByteOffset) {
  try {
    raise<sinq::FormatError>("truncated", std::uint64_t{1} << 40);
    FAIL() << "raise returned";
  } catch (const sinq::FormatError& error) {
    EXPECT_EQ(error.byte_offset(), std::uint64_t{1} << 40);
    EXPECT_STREQ(error.what(), "truncated");
  }
  EXPECT_EQ(sinq::FormatError("whole file").byte_offset(), 0U);
}

// An engine that catches sinq::Error, or only std::runtime_error, misses none of them.
TEST(Error, EverythingThrownIsAnError) {
  static_assert(std::is_base_of_v<std::runtime_error, sinq::Error>);
  static_assert(std::is_base_of_v<sinq::Error, sinq::InvalidArgument>);
  static_assert(std::is_base_of_v<sinq::Error, sinq::FormatError>);
  static_assert(std::is_base_of_v<sinq::Error, sinq::IoError>);
  static_assert(std::is_base_of_v<sinq::Error, sinq::Cancelled>);
  EXPECT_EQ(message_of<sinq::Error>([] { raise<sinq::Cancelled>("stop"); }), "stop");
}

TEST(Error, HookIsReturnedBySetAndIsNotCalledWhereExceptionsExist) {
  const sinq::ErrorHook hook = [](const char*) { ADD_FAILURE() << "the hook was called"; };
  EXPECT_EQ(sinq::set_error_hook(hook), nullptr);
  EXPECT_THROW(raise<sinq::IoError>("disk"), sinq::IoError);
  EXPECT_EQ(sinq::set_error_hook(nullptr), hook);
}

}  // namespace
