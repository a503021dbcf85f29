// SPDX-License-Identifier: Apache-2.0
#include <sinq/kernels.hpp>
