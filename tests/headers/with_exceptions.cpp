// SPDX-License-Identifier: Apache-2.0
// The other half of an engine that mixes flags: the linker must not hand this file the function that calls the hook.
#include <all_headers.hpp>

static_assert(SINQ_EXCEPTIONS == 1);

bool the_other_file_still_throws();  // NOLINT(readability-redundant-declaration): declared where it is called, too

bool the_other_file_still_throws() {
  try {
    sinq::detail::core::require(false, "bits", 7, "too odd");
  } catch (const sinq::InvalidArgument&) {
    return true;
  }
  return false;
}
