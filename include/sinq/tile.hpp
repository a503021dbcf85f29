// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `tile`: how a matrix is cut.
//
//              group 0     group 1    group 2 (short)
//            +-----------+-----------+-----+
//   panel 0  |           |           |     |   tile_height rows: all of them (stripe: one panel)
//            +-----------+-----------+-----+                     or group_size (square)
//   panel 1  |           |           |     |   the last panel may be lower
//            +-----------+-----------+-----+
//             group_size columns; every row has one scale and zero per group, every panel one col_scale per column
//
// An edge that does not divide is never an error: the last group is short, the last panel low. (The Python reference
// narrows all groups until they divide, which costs bits.)

#include "tile/tiling.hpp"
