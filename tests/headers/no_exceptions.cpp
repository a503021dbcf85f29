// SPDX-License-Identifier: Apache-2.0
// Compiled with -fno-exceptions -fno-rtti: everything compiles, and an error reaches the hook instead of a catch.
#include <all_headers.hpp>
#include <csetjmp>
#include <cstdio>
#include <cstring>

static_assert(SINQ_EXCEPTIONS == 0);

bool the_other_file_still_throws();

namespace {

std::jmp_buf way_out;
char received[256];

void hook(const char* message) {
  std::strncpy(received, message, sizeof received - 1);
  std::longjmp(way_out, 1);
}

}  // namespace

int main() {
  if (sinq::set_error_hook(hook) != nullptr) return 1;
  if (setjmp(way_out) == 0) {
    sinq::detail::core::require(false, "bits", 7, "too odd");
    return 2;  // an error must not return
  }
  if (std::strcmp(received, "sinq: bits = 7: too odd") != 0) {
    std::printf("the hook received \"%s\"\n", received);
    return 3;
  }
  sinq::set_error_hook(nullptr);  // were the other file to end up here, it would abort
  return the_other_file_still_throws() ? 0 : 4;
}
