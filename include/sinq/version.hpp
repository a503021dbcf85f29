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
//   an older processor would crash there. Objects of sinq do not pass between files that differ in an instruction set
//   named below: that does not link. (The kernels need no flags.) Those are the ones that compilers use unasked; files
//   that differ in others only, or in -mtune and -O, do share functions. So do all files those of std and Eigen that
//   are not inlined (std::vector<double>::_M_fill_insert), as with any header: their names know nothing of flags, and
//   the linker may keep a copy with -mavx's instructions. They move and compare numbers, or round once, so results
//   stay; a program that must start on an older processor has to keep files with such flags apart, as in a shared
//   library that hides its symbols.
//
//   v0_1   v0_1_noexcept   v0_1_avx2_bmi2_f16c_fma   ...
#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define SINQ_EXCEPTIONS 1
#define SINQ_ABI_EXCEPTIONS
#else
#define SINQ_EXCEPTIONS 0
#define SINQ_ABI_EXCEPTIONS _noexcept
#endif

// Each of these has those before it.
#if defined(__AVX512F__)
#define SINQ_ABI_VECTORS _avx512
#elif defined(__AVX2__)
#define SINQ_ABI_VECTORS _avx2
#elif defined(__AVX__)
#define SINQ_ABI_VECTORS _avx
#elif defined(__SSE4_2__)
#define SINQ_ABI_VECTORS _sse4_2
#elif defined(__SSE4_1__)
#define SINQ_ABI_VECTORS _sse4_1
#elif defined(__SSSE3__)
#define SINQ_ABI_VECTORS _ssse3
#elif defined(__SSE3__)
#define SINQ_ABI_VECTORS _sse3
#else
#define SINQ_ABI_VECTORS
#endif

// SINQ_ABI_IF(__FMA__, _fma) is _fma where the compiler defines __FMA__ as 1, and nothing where it does not.
#define SINQ_ABI_OF_1 ,
#define SINQ_ABI_SECOND(first, second, ...) second
#define SINQ_ABI_PICK(...) SINQ_ABI_SECOND(__VA_ARGS__)
#define SINQ_ABI_TEST(value, word) SINQ_ABI_PICK(SINQ_ABI_OF_##value word, , )
#define SINQ_ABI_IF(macro, word) SINQ_ABI_TEST(macro, word)

#define SINQ_ABI_PASTE(a, b, c, d, e, f, g, h) a##b##c##d##e##f##g##h
#define SINQ_ABI_JOIN(...) SINQ_ABI_PASTE(__VA_ARGS__)
#if defined(__x86_64__)
#define SINQ_ABI_FLAGS                                                                                        \
  SINQ_ABI_JOIN(SINQ_ABI_IF(__POPCNT__, _popcnt), SINQ_ABI_IF(__LZCNT__, _lzcnt), SINQ_ABI_IF(__BMI__, _bmi), \
                SINQ_ABI_IF(__BMI2__, _bmi2), SINQ_ABI_IF(__MOVBE__, _movbe), SINQ_ABI_IF(__F16C__, _f16c),   \
                SINQ_ABI_IF(__FMA__, _fma), SINQ_ABI_IF(__AVXVNNI__, _vnni256))
#define SINQ_ABI_AVX512                                                                                         \
  SINQ_ABI_JOIN(SINQ_ABI_IF(__AVX512BW__, _bw), SINQ_ABI_IF(__AVX512DQ__, _dq), SINQ_ABI_IF(__AVX512VL__, _vl), \
                SINQ_ABI_IF(__AVX512VNNI__, _vnni), SINQ_ABI_IF(__AVX512VBMI__, _vbmi),                         \
                SINQ_ABI_IF(__AVX512VPOPCNTDQ__, _popcntdq), SINQ_ABI_IF(__AVX512BF16__, _bf16),                \
                SINQ_ABI_IF(__AVX512FP16__, _fp16))
#else
#define SINQ_ABI_FLAGS                                                                                       \
  SINQ_ABI_JOIN(SINQ_ABI_IF(__ARM_FEATURE_DOTPROD, _dotprod), SINQ_ABI_IF(__ARM_FEATURE_MATMUL_INT8, _i8mm), \
                SINQ_ABI_IF(__ARM_FEATURE_SVE, _sve), , , , , )
#define SINQ_ABI_AVX512
#endif
#define SINQ_ABI_VERSION SINQ_ABI_JOIN(v, SINQ_VERSION_MAJOR, _, SINQ_VERSION_MINOR, , , , )
#define SINQ_ABI \
  SINQ_ABI_JOIN(SINQ_ABI_VERSION, SINQ_ABI_EXCEPTIONS, SINQ_ABI_VECTORS, SINQ_ABI_FLAGS, SINQ_ABI_AVX512, , , )
