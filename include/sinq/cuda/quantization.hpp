// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../quantize/rules.hpp"
#include "layout.hpp"

// What quantizing a matrix is to the kernels, and the memory that they share.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// How a group becomes scale and zero.
enum class Choice : std::uint8_t { min_max, symmetric, mean_shift };

/// As SinkhornOptions.
struct SinkhornLimits {
  int iterations = 0;
  float min_step = 0, max_step = 0;
  float min_deviation = 0, max_deviation = 0;
  float min_factor = 0, max_factor = 0;
  double least_target = 0, largest_target = 0;  // the bounds of deviations before they became float
};

/// Rows that a group of 16 threads sums up in float, in order, before sums go on in double; columns that it takes at a
/// time are multiples of 16. Both are the CPU's (balance/sweep.hpp): the order of additions decides their bits.
inline constexpr int kSweepRows = 128;
inline constexpr int kSweepLanes = 16;

/// Weights (rows x cols) on their way into a matrix `w` in kernel order.
///
/// The order of what lies per row and group is group by group, since neighbouring threads take neighbouring rows.
struct Quantization {
  Weights w;
  std::uint8_t* codes = nullptr;      // where w points to
  std::uint8_t* aux = nullptr;        //
  std::uint8_t* col_scale = nullptr;  //
  std::int64_t strips = 0;

  const void* weights = nullptr;
  std::int64_t stride = 0;  // elements from row to row
  Number number = Number::f32;
  bool aligned = false;  // every row begins at a multiple of four elements' size

  int blocks = 0;  // of kSweepRows, per panel
  int padded = 0;  // columns of a group, up to a multiple of kSweepLanes
  bool balanced = false;
  double kurtosis_gate = 0;  // above it the matrix is not balanced; 0: no gate
  Choice choice = Choice::min_max;
  SinkhornLimits sinkhorn;
  float largest_zero = 0;               // of a float zero; 0: zeros are integers
  float far_zero = 0;                   // beyond it, zeros follow their scales (quantize::follow_scales)
  float first_level = 0;                // of code 0, on an even grid
  float middles[16] = {};               // boundaries between the levels of a table
  int hqq_rounds = 0;                   // of refinement; 0: none
  quantize::HqqShrinkage shrinkage;     //
  bool fitted = false;                  // Refine::fit
  quantize::FitRules fit;               //
  bool weighted = false;                // columns count by their importance in the fit
  const double* mean_square = nullptr;  // per column, of the activations
  int iteration = 0;                    // of the balancing or the refinement at hand
  int first_group = 0, end_group = 0;   // of the launch at hand

  // In the workspace. Raised from 0:
  std::uint64_t* findings = nullptr;  // kFindings of them
  std::uint32_t* largest = nullptr;   // per tile: bits of its largest magnitude
  // kMoments per row, and the sum of all:
  double* moments = nullptr;
  // Per tile:
  double* target = nullptr;
  double* imbalance = nullptr;        // of the best iterate
  double* first_imbalance = nullptr;  //
  std::uint32_t* stopped = nullptr;   // 1: its iteration has ended
  double* hqq_error = nullptr;        // of the best round
  float* group_importance = nullptr;
  // Per row and group:
  float* row_factor = nullptr;
  float* row_deviation = nullptr;
  float* scale = nullptr;
  float* zero = nullptr;
  float* best_row = nullptr;    // row factors of the best iterate
  float* round_zero = nullptr;  // of the round of HQQ at hand, and the error of the round before
  float* round_error = nullptr;
  float* level_squares = nullptr;  // what an error of the group's scale costs, in the choice of the coarse one
  // Per row and block of coarse_groups:
  float* coarse = nullptr;         // while a fit is made, the largest scale
  float* fitted_coarse = nullptr;  // without the row's gain
  // Per row:
  float* gain = nullptr;
  float* row_share = nullptr;  // by which its weights count in the sums of columns
  // Per panel and padded column:
  float* col_factor = nullptr;
  float* col_deviation = nullptr;
  float* col_inverse = nullptr;  // of col_factor; after the balancing of best_col
  float* best_col = nullptr;     // as it will be stored
  float* importance = nullptr;   // in the fit, with mean 1 over each group
  // Per panel, block of rows and group; and sums, then sums of squares, per panel, block and padded column:
  float* extremes = nullptr;
  std::uint32_t* inexact = nullptr;
  float* sums = nullptr;
  // Per panel, block of rows and padded column:
  double* overlap_xx = nullptr;
  double* overlap_xy = nullptr;

  [[nodiscard]] SINQ_CUDA_BOTH std::int64_t tiles() const { return std::int64_t{w.panels} * w.groups; }
  [[nodiscard]] SINQ_CUDA_BOTH std::int64_t items() const { return tiles() * blocks; }
  [[nodiscard]] SINQ_CUDA_BOTH std::int64_t padded_cols() const { return std::int64_t{w.groups} * padded; }
  /// Of a column in arrays per padded column.
  [[nodiscard]] SINQ_CUDA_BOTH std::int64_t padded_col(int col) const {
    const int group = col / w.group_size;
    return std::int64_t{group} * padded + (col - group * w.group_size);
  }
  [[nodiscard]] SINQ_CUDA_BOTH int coarse_blocks() const { return (w.groups + w.coarse_groups - 1) / w.coarse_groups; }
  [[nodiscard]] SINQ_CUDA_BOTH std::int64_t at_row(int row, int group) const {
    return std::int64_t{group} * w.rows + row;
  }
  [[nodiscard]] SINQ_CUDA_BOTH std::int64_t row_groups() const { return std::int64_t{w.groups} * w.rows; }
  [[nodiscard]] SINQ_CUDA_BOTH int group_cols(int group) const {
    const int left = w.cols - group * w.group_size;
    return left < w.group_size ? left : w.group_size;
  }
};

/// What the kernels tell the host, 0 where there is nothing to tell. Of what is wrong the complement of the index of
/// the first culprit: a weight counts row by row, a scale group by group, a coarse one row by row. Of the kurtosis gate
/// 1: it is closed; of tiny rows 1: there are some.
inline constexpr int kBadWeight = 0, kBadScale = 1, kBeyondAux = 2, kBadCoarse = 3, kGateClosed = 4, kTinyRows = 5;
inline constexpr int kFindings = 6;

inline constexpr int kMoments = 3;

/// Calls visit(name, pointer, count) for every array in the workspace; the first two have to be zero at the start.
template <class Visitor>
void for_arrays(Quantization& q, Visitor&& visit) {
  const std::int64_t balanced = q.balanced ? 1 : 0;
  const std::int64_t tiles = q.tiles(), rows = q.row_groups();
  const std::int64_t all_cols = q.w.panels * q.padded_cols(), cols = all_cols * balanced;
  const std::int64_t hqq = q.hqq_rounds != 0 ? 1 : 0;
  const std::int64_t fitted = q.fitted ? 1 : 0, weighted = q.weighted ? 1 : 0;
  const std::int64_t coarse = q.w.header != 0 ? std::int64_t{q.w.rows} * q.coarse_blocks() : 0;
  visit("findings", q.findings, std::int64_t{kFindings});
  visit("largest", q.largest, tiles);
  visit("moments", q.moments, q.kurtosis_gate != 0 ? std::int64_t{kMoments} * q.w.rows + 1 : 0);
  visit("target", q.target, tiles * balanced);
  visit("imbalance", q.imbalance, tiles * balanced);
  visit("first_imbalance", q.first_imbalance, tiles * balanced);
  visit("stopped", q.stopped, tiles * balanced);
  visit("hqq_error", q.hqq_error, tiles * hqq);
  visit("group_importance", q.group_importance, tiles * weighted);
  visit("row_factor", q.row_factor, rows * balanced);
  visit("row_deviation", q.row_deviation, rows * balanced);
  visit("scale", q.scale, rows);
  visit("zero", q.zero, rows);
  visit("best_row", q.best_row, rows * balanced * hqq);
  visit("round_zero", q.round_zero, rows * hqq);
  visit("round_error", q.round_error, rows * hqq);
  visit("level_squares", q.level_squares, rows * fitted);
  visit("coarse", q.coarse, coarse);
  visit("fitted_coarse", q.fitted_coarse, coarse * fitted);
  visit("gain", q.gain, q.w.rows * fitted);
  visit("row_share", q.row_share, q.w.rows * fitted);
  visit("col_factor", q.col_factor, cols);
  visit("col_deviation", q.col_deviation, cols);
  visit("col_inverse", q.col_inverse, cols);
  visit("best_col", q.best_col, cols);
  visit("importance", q.importance, all_cols * weighted);
  visit("extremes", q.extremes, 2 * q.items() * balanced);
  visit("inexact", q.inexact, q.items() * balanced);
  visit("sums", q.sums, 2 * q.blocks * cols);
  visit("overlap_xx", q.overlap_xx, q.blocks * cols * fitted);
  visit("overlap_xy", q.overlap_xy, q.blocks * cols * fitted);
}

/// Bytes of the workspace; points the arrays into `memory` (aligned to 256) if there is any, empty ones to nothing.
inline std::int64_t place(Quantization& q, std::uint8_t* memory) {
  std::int64_t bytes = 0;
  for_arrays(q, [&]<class T>(const char*, T*& array, std::int64_t count) {
    if (memory != nullptr) array = count != 0 ? reinterpret_cast<T*>(memory + bytes) : nullptr;
    bytes += (count * static_cast<std::int64_t>(sizeof(T)) + 255) / 256 * 256;
  });
  return bytes;
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
