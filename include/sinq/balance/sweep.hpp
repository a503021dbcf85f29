// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>

#include "sweep_sums.hpp"

// One pass over a tile that yields the sums from which the standard deviations of all rows and all columns of
//
//   v[i,j] = (w[i,j] * col_inverse[j]) * row_inverse[i]
//
// follow: the sums of v and of v^2 over each row and each column, seven operations per weight. The order of every
// addition is part of the definition, so that each instruction set gives the same bits: a row is summed in 16 lanes
// (lane = j mod 16) that are then folded in halves; a column is summed in float over blocks of kSweepRows rows, and the
// blocks in double (by the caller).
//
// One pass costs digits where the mean of a row or column is large beside its deviation, as weights never have it: the
// meter then takes two passes in double (imbalance.hpp).

namespace sinq::inline SINQ_ABI::detail::balance {

struct Sweep {
  /// A block of `rows` rows, `stride` (a multiple of core::kLanes) floats each. Tiles of up to 128 columns keep their
  /// column sums in registers, as far as there are enough.
  template <int kWidth>
  [[gnu::always_inline]] static void run(const float* w, std::int64_t rows, std::int64_t stride,
                                         const float* row_inverse, const float* col_inverse, SweepSums sums) noexcept {
    switch (stride) {
      case 16:
        return narrow<kWidth, 16>(w, rows, row_inverse, col_inverse, sums);
      case 32:
        return narrow<kWidth, 32>(w, rows, row_inverse, col_inverse, sums);
      case 64:
        return narrow<kWidth, 64>(w, rows, row_inverse, col_inverse, sums);
      case 128:
        return narrow<kWidth, 128>(w, rows, row_inverse, col_inverse, sums);
      default:
        return wide<kWidth>(w, rows, stride, row_inverse, col_inverse, sums);
    }
  }

 private:
  /// Sums of numbers and of their squares.
  template <int kWidth>
  struct Sums {
    core::Lanes<kWidth> sum, square;

    [[gnu::always_inline]] void add(const Sums& other) noexcept {
      sum = sum + other.sum;
      square = square + other.square;
    }
    [[gnu::always_inline]] void keep_order() noexcept {
      sum.keep_order();
      square.keep_order();
    }
  };
  /// Scaled weights and their squares.
  template <int kWidth>
  [[gnu::always_inline]] static Sums<kWidth> scaled(const float* w, const core::Lanes<kWidth>& col_inverse,
                                                    const core::Lanes<kWidth>& row_inverse) noexcept {
    const auto v = product(product(core::Lanes<kWidth>::load(w), col_inverse), row_inverse);
    return {v, product(v, v)};
  }
  template <int kWidth>
  using RowSums = std::array<Sums<kWidth>, static_cast<std::size_t>(core::kLanes / kWidth)>;

  /// kFolded rows, whose 16 lanes are folded side by side: lane = row. A fold is a chain of six operations that wait
  /// for each other; those of 16 rows wait together.
  static constexpr std::int64_t kFolded = core::kLanes;
  template <int kWidth>
  struct RowBlock {
    float sum[kFolded * kWidth];  // not set to zero: that would take as long as a row or two
    float square[kFolded * kWidth];

    [[gnu::always_inline]] void put(std::int64_t row, RowSums<kWidth>& s) noexcept {
      for (std::size_t half = s.size() / 2; half > 0; half /= 2)
        for (std::size_t l = 0; l < half; ++l) s[l].add(s[l + half]);
      s[0].sum.store(sum + row * kWidth);
      s[0].square.store(square + row * kWidth);
    }
    /// Sums of rows that are not there are zero.
    [[gnu::always_inline]] void store(const SweepSums& to, std::int64_t first, std::int64_t rows) noexcept {
      for (std::int64_t k = rows * kWidth; k < kFolded * kWidth; ++k) sum[k] = square[k] = 0;
      for (std::int64_t k = 0; k < kFolded; k += kWidth) {
        core::Lanes<kWidth>::sum_each(sum + k * kWidth).store(to.row_sum + first + k);
        core::Lanes<kWidth>::sum_each(square + k * kWidth).store(to.row_square + first + k);
      }
    }
  };

  /// How many rows are taken at a time, so that what columns have in common is fetched once for them: two where that
  /// leaves registers for their sums (of 16; with 16 lanes, 32 registers hold all column sums of 64 columns instead).
  template <int kWidth>
  static constexpr int kRowsAtOnce = kWidth == 8 ? 2 : 1;

  /// The sums of all columns, in registers as far as there are enough: every index is a constant, or else g++ leaves
  /// them in memory when it pleases.
  template <int kWidth, int... kPart>
  struct ColSums {
    Sums<kWidth> of[sizeof...(kPart)] = {(static_cast<void>(kPart), Sums<kWidth>())...};

    [[gnu::always_inline]] void store(const SweepSums& to) const noexcept {
      (of[kPart].sum.store(to.col_sum + kPart * kWidth), ...);
      (of[kPart].square.store(to.col_square + kPart * kWidth), ...);
    }
    /// Rows first, first + 1, ... of a block, which lie at `w`; kRow = 0, 1, ...
    template <int... kRow>
    [[gnu::always_inline]] void add_rows(const float* w, const float* col_inverse, const float* row_inverse,
                                         std::int64_t first, RowBlock<kWidth>& block,
                                         std::integer_sequence<int, kRow...> all) noexcept {
      // 1 KB ahead: registers of 16 lanes outrun what the hardware asks for by itself.
      if constexpr (kWidth == 16) (__builtin_prefetch(w + kPart * kWidth + 256), ...);
      const core::Lanes<kWidth> r[] = {core::Lanes<kWidth>::broadcast(row_inverse + kRow)...};
      RowSums<kWidth> rows[sizeof...(kRow)];
      (add_part<kPart>(w, core::Lanes<kWidth>::load(col_inverse + kPart * kWidth), r, rows, all), ...);
      (block.put(first + kRow, rows[kRow]), ...);
    }

   private:
    template <int kAt, int... kRow>
    [[gnu::always_inline]] void add_part(const float* w, const core::Lanes<kWidth>& col_inverse,
                                         const core::Lanes<kWidth>* r, RowSums<kWidth>* rows,
                                         std::integer_sequence<int, kRow...> /*all*/) noexcept {
      constexpr int kCols = static_cast<int>(sizeof...(kPart)) * kWidth;
      (add_weights<kAt>(scaled(w + kRow * kCols + kAt * kWidth, col_inverse, r[kRow]), rows[kRow]), ...);
      // or else all products of a row are kept in memory until the end of the row
      if constexpr (sizeof...(kRow) > 1) (rows[kRow][kAt % rows[kRow].size()].keep_order(), ...);
    }
    template <int kAt>
    [[gnu::always_inline]] void add_weights(const Sums<kWidth>& v, RowSums<kWidth>& row) noexcept {
      constexpr int kParts = core::kLanes / kWidth;
      // Instead of adding to 0, which could only turn a sum of -0 into one of 0: no deviation knows the difference.
      if constexpr (kAt < kParts)
        row[kAt] = v;
      else
        row[kAt % kParts].add(v);
      of[kAt].add(v);
    }
  };

  template <int kWidth, int kCols>
  [[gnu::always_inline]] static void narrow(const float* w, std::int64_t rows, const float* row_inverse,
                                            const float* col_inverse, const SweepSums& sums) noexcept {
    narrow<kWidth>(w, rows, row_inverse, col_inverse, sums, std::make_integer_sequence<int, kCols / kWidth>{});
  }
  template <int kWidth, int... kPart>
  [[gnu::always_inline]] static void narrow(const float* w, std::int64_t rows, const float* row_inverse,
                                            const float* col_inverse, const SweepSums& sums,
                                            std::integer_sequence<int, kPart...> /*all*/) noexcept {
    constexpr std::int64_t kCols = sizeof...(kPart) * kWidth;
    ColSums<kWidth, kPart...> col;
    for (std::int64_t first = 0; first < rows; first += kFolded) {
      RowBlock<kWidth> block;
      const std::int64_t count = std::min<std::int64_t>(kFolded, rows - first);
      std::int64_t i = 0;
      for (; i + kRowsAtOnce<kWidth> <= count; i += kRowsAtOnce<kWidth>)
        col.add_rows(w + i * kCols, col_inverse, row_inverse + first + i, i, block,
                     std::make_integer_sequence<int, kRowsAtOnce<kWidth>>{});
      for (; i < count; ++i)
        col.add_rows(w + i * kCols, col_inverse, row_inverse + first + i, i, block, std::integer_sequence<int, 0>{});
      block.store(sums, first, count);
      w += kFolded * kCols;
    }
    col.store(sums);
  }

  template <int kWidth>
  [[gnu::always_inline]] static void wide(const float* w, std::int64_t rows, std::int64_t stride,
                                          const float* row_inverse, const float* col_inverse,
                                          const SweepSums& sums) noexcept {
    using Float = core::Lanes<kWidth>;
    std::fill_n(sums.col_sum, stride, 0.0f);
    std::fill_n(sums.col_square, stride, 0.0f);
    for (std::int64_t first = 0; first < rows; first += kFolded) {
      RowBlock<kWidth> block;
      const std::int64_t count = std::min<std::int64_t>(kFolded, rows - first);
      for (std::int64_t i = 0; i < count; ++i, w += stride) {
        const Float r = Float::broadcast(row_inverse + first + i);
        RowSums<kWidth> row{};
        for (std::int64_t j = 0; j < stride; j += core::kLanes) {
          for (std::size_t k = 0; k < row.size(); ++k) {
            const auto at = j + static_cast<std::int64_t>(k) * kWidth;
            const Sums<kWidth> v = scaled(w + at, Float::load(col_inverse + at), r);
            row[k].add(v);
            Sums<kWidth> col{Float::load(sums.col_sum + at), Float::load(sums.col_square + at)};
            col.add(v);
            col.sum.store(sums.col_sum + at);
            col.square.store(sums.col_square + at);
          }
        }
        block.put(i, row);
      }
      block.store(sums, first, count);
    }
  }
};

SINQ_KERNEL void sweep(const float* w, std::int64_t rows, std::int64_t stride, const float* row_inverse,
                       const float* col_inverse, const SweepSums& sums) noexcept {
  core::on_isa<Sweep>(w, rows, stride, row_inverse, col_inverse, sums);
}

}  // namespace sinq::inline SINQ_ABI::detail::balance
