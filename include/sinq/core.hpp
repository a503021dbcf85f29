// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `core`: what every other stage stands on.
//
//   error        the exceptions, and the hook that replaces them under -fno-exceptions
//   types, view  element types; matrices that somebody else owns
//   bits         the widths of a code, and the step from a run-time width to a compile-time one
//   levels       what a code means
//   cpu          instruction sets: detect, name, list, force
//   kernel       where vector code is compiled
//   lanes        vector code, written once and compiled for every instruction set
//   large_pages  an allocator for what is streamed
//   executor     the caller's threads (thread_pool.hpp, not included here, adapts an Eigen::ThreadPool)

#include "core/bits.hpp"
#include "core/cpu.hpp"
#include "core/error.hpp"
#include "core/executor.hpp"
#include "core/kernel.hpp"
#include "core/lanes.hpp"
#include "core/large_pages.hpp"
#include "core/levels.hpp"
#include "core/types.hpp"
#include "core/view.hpp"
