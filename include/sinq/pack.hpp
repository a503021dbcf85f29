// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stage `pack`: what a quantized matrix is. The narrow waist of the library: an engine that only loads and multiplies
// needs nothing to the right of it but `store` and `matmul` or `cuda`.
//
//   QuantizedMatrix   canonical bit order, what files hold            (quantized_matrix.hpp)
//   PackedMatrix      the kernels' order, made once at load by `pack`; `unpack` leads back   (packed_matrix.hpp,
//                     strip_order.hpp)
//   Format            bits, levels, grouping, how auxiliaries are stored
//   slice_rows, slice_cols   parts of a matrix, for tensor parallelism
//   dequantize        the scalar way back; dequantize_rows: some rows, as an embedding needs them
//
// Limits: 2, 3, 4, 5, 6 or 8 bits, always dense (3 bits take 3 bits); at most 16 levels in a table, each 8 bits, so
// that one byte shuffle can look sixteen of them up.

#include "pack/dequantize.hpp"
#include "pack/dequantize_rows.hpp"
#include "pack/format.hpp"
#include "pack/packed_matrix.hpp"
#include "pack/quantized_matrix.hpp"
#include "pack/slice.hpp"
#include "pack/strip_reader.hpp"
