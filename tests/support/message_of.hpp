// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <sinq/core/error.hpp>
#include <string>

namespace sinq::test {

/// What `call` complains about.
inline std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace sinq::test
