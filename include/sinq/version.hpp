// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one place that knows the version; CMake reads it from here.
#define SINQ_VERSION_MAJOR 0
#define SINQ_VERSION_MINOR 1
#define SINQ_VERSION_PATCH 0

// Inline namespace of everything in `sinq`, so that two engines built against incompatible versions can share a
// process. It changes with every incompatible version. Without exceptions errors take another way out (core/error.hpp),
// so such a translation unit gets names of its own: an inline function must not have two definitions under one name.
#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define SINQ_EXCEPTIONS 1
#define SINQ_ABI v0_1
#else
#define SINQ_EXCEPTIONS 0
#define SINQ_ABI v0_1_noexcept
#endif
