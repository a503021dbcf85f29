// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `balance`: the second axis of scales (SINQ, arXiv 2509.22944, section 2).
//
// Given a tile W, find factors row[i] and col[j] such that all rows and columns of W / (row col) have nearly the same
// standard deviation, minimising the imbalance max(std) / min(std) over both axes. Rounding then loses less: an outlier
// is spread over its row's and its column's scale instead of stretching the range of a whole group.
//
//   imbalance   the measure
//   sinkhorn    the iteration: all factors at once move towards equal deviations, the best iterate is kept
//   shared      one column factor for matrices that share an input, to be folded into what makes that input
//   kurtosis    the gate of the Python reference: leave matrices with a few huge outliers unbalanced (off by default)
//
// Results have the same bits on every machine and instruction set (sweep.hpp says how).

#include "balance/imbalance.hpp"
#include "balance/kurtosis.hpp"
#include "balance/shared.hpp"
#include "balance/sinkhorn.hpp"
