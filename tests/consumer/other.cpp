// SPDX-License-Identifier: Apache-2.0
#if __has_include(<sinq/sinq.hpp>)
#include <sinq/sinq.hpp>
#else
#include <sinq/core/error.hpp>
#endif

bool works_in_another_file();

bool works_in_another_file() {
  try {
    sinq::detail::core::require(false, "bits", 7, "too odd");
  } catch (const sinq::Error&) {
    return true;
  }
  return false;
}
