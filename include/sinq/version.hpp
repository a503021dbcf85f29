// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one place that knows the version; CMake reads it from here.
#define SINQ_VERSION_MAJOR 0
#define SINQ_VERSION_MINOR 1
#define SINQ_VERSION_PATCH 0

// Inline namespace of everything in `sinq`, so that two engines built against incompatible versions can share a
// process. It changes with every incompatible version, and with what else makes an inline function another one under
// the same name, of which the linker would keep either:
//
//   without exceptions, errors take another way out (core/error.hpp)
//   with -mavx and the like, the compiler uses such instructions everywhere: an engine whose other files must run on
//   an older processor would crash there. Objects of sinq do not pass between files of different flags: that does not
//   link. (The kernels need no flags.)
#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define SINQ_EXCEPTIONS 1
#define SINQ_ABI_EXCEPTIONS
#else
#define SINQ_EXCEPTIONS 0
#define SINQ_ABI_EXCEPTIONS _noexcept
#endif
#if defined(__AVX512F__)
#define SINQ_ABI_FLAGS _avx512
#elif defined(__AVX2__)
#define SINQ_ABI_FLAGS _avx2
#elif defined(__AVX__)
#define SINQ_ABI_FLAGS _avx
#elif defined(__SSE4_1__)
#define SINQ_ABI_FLAGS _sse4
#else
#define SINQ_ABI_FLAGS
#endif
#define SINQ_ABI_JOIN(version, exceptions, flags) version##exceptions##flags
#define SINQ_ABI_NAME(version, exceptions, flags) SINQ_ABI_JOIN(version, exceptions, flags)
#define SINQ_ABI SINQ_ABI_NAME(v0_1, SINQ_ABI_EXCEPTIONS, SINQ_ABI_FLAGS)
