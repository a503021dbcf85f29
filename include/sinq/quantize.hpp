// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `quantize`: weights in, QuantizedMatrix out.
//
//   W[i,j]  ~=  (level(code[i,j]) - zero[i,g]) * scale[i,g] * col_scale[p,j]
//
//          tile by tile                                   row by row
//   W --> balance --> x = W / (row col) --> scale, zero --> round them to their stored types --> codes --> bits
//                          per group: min/max, symmetric or mean shift, then HQQ if asked for; or a fit
//
// Every published calibration-free method is one configuration (config.hpp): RTN, HQQ, NF4, NF3, and each of them on
// the balanced matrix (SINQ: `QuantizeConfig{}`). What loses least at a given size is a preset (preset.hpp), and the
// one of 4.5 bits is what `quantize(weights)` uses: balanced groups of 16, levels fitted to such groups, scale and zero
// of least error in few bits, an unbiased gain at last (fit.hpp, unbias.hpp). `measure` compares a result with its
// original. For a budget between the presets, or tensors of very different importance: budget.hpp.
//
// With knowledge of the activations (activations.hpp: statistics that an engine fills; QuantizeOptions::activations)
// the error of the outputs counts instead of that of the weights: `QuantizeConfig::calibration` = awq (AWQ, and A-SINQ
// with balancing), weighted (a fit whose columns count by their activations) or gptq (error feedback, with a weighted
// fit where there is a fit). What loses least is gptq with a preset. Column scales, codes and auxiliaries change, the
// stored form does not.
//
// Auxiliaries of 8 bits: a scale is an 8-bit share of one fp16 scale per row; a zero is a point on an even grid of 256
// over the levels. Linear rather than logarithmic, because kernels can then multiply integers; per row rather than per
// column or block, because balancing makes the scales of a row alike (a group is off by 1/2 of 255 steps at most), so
// that 16 / cols bits per weight buy what a second level can give. A group that lies wholly on one side of 0 is widened
// to contain it, since its zero must be a code; balanced groups practically always do.
//
// The result has the same bits on every machine and with any number of threads, calibrated or not. Two flags of the
// file that compiles `quantize` (kernels.hpp) void that: -ffast-math, and clang's -ffp-contract=fast or
// fast-honor-pragmas, which fuse products and sums that the code keeps apart. (g++'s default of that name does not:
// there the code hides its products.)
//
// Why the codes come last: a coarse auxiliary is an error that every weight of the group shares, and choosing the codes
// against the stored value removes most of it for free.

#include "quantize/activations.hpp"
#include "quantize/budget.hpp"
#include "quantize/config.hpp"
#include "quantize/metrics.hpp"
#include "quantize/preset.hpp"
#include "quantize/quantize_matrix.hpp"
#ifndef SINQ_EXTERN_KERNELS
#include "quantize/passes.hpp"
#endif
