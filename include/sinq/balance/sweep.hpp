// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../core.hpp"

// One pass over a tile that yields the sums from which the standard deviations of all rows and all columns of
// w[i,j] * row_inverse[i] * col_inverse[j] follow:
//
//   row i:  sum and sum of squares over j of  w[i,j] col_inverse[j]     (row_inverse[i] is a factor of the whole row)
//   col j:  sum and sum of squares over i of  w[i,j] row_inverse[i]
//
// The order of every addition is part of the definition, so that each instruction set gives the same bits: a row is
// summed in 16 lanes (lane = j mod 16) that are then folded in halves; a column is summed in float over blocks of
// kSweepRows rows, and the blocks in double (by the caller).
//
// One pass costs digits where the mean of a row or column is large beside its deviation, as weights never have it: the
// meter then takes two passes in double (imbalance.hpp).

namespace sinq::inline SINQ_ABI::detail::balance {

inline constexpr std::int64_t kSweepRows = 128;

struct SweepSums {
  float* row_sum;     // per row of the block, with room for a multiple of core::kLanes
  float* row_square;  //
  float* col_sum;     // per padded column, added to
  float* col_square;  //
};

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
  template <int kWidth>
  struct Sums {
    core::Lanes<kWidth> sum, square;

    [[gnu::always_inline]] void add(const core::Lanes<kWidth>& v, const core::Lanes<kWidth>& factor) noexcept {
      const core::Lanes<kWidth> t = product(v, factor);
      sum = sum + t;
      square = mul_add(t, t, square);
    }
  };
  template <int kWidth>
  struct RowSums {
    core::SixteenLanes<kWidth> sum, square;

    /// Instead of adding to 0, which could only turn a sum of -0 into one of 0: no deviation knows the difference.
    [[gnu::always_inline]] void begin(std::size_t part, const core::Lanes<kWidth>& v,
                                      const core::Lanes<kWidth>& factor) noexcept {
      sum[part] = product(v, factor);
      square[part] = product(sum[part], sum[part]);
    }
    [[gnu::always_inline]] void add(std::size_t part, const core::Lanes<kWidth>& v,
                                    const core::Lanes<kWidth>& factor) noexcept {
      Sums<kWidth> s{sum[part], square[part]};
      s.add(v, factor);
      sum[part] = s.sum;
      square[part] = s.square;
    }
  };

  /// Rows are taken kWidth at a time, so that their 16 lanes are folded side by side: lane = row.
  template <int kWidth>
  struct RowBlock {
    float sum[kWidth * kWidth];  // not set to zero: that would take as long as a row or two
    float square[kWidth * kWidth];

    [[gnu::always_inline]] void put(std::int64_t row, RowSums<kWidth>& s) noexcept {
      for (std::size_t half = s.sum.size() / 2; half > 0; half /= 2) {
        for (std::size_t l = 0; l < half; ++l) {
          s.sum[l] = s.sum[l] + s.sum[l + half];
          s.square[l] = s.square[l] + s.square[l + half];
        }
      }
      s.sum[0].store(sum + row * kWidth);
      s.square[0].store(square + row * kWidth);
    }
    /// Sums of rows that are not there are zero.
    [[gnu::always_inline]] void store(const SweepSums& to, std::int64_t first, std::int64_t rows) noexcept {
      for (std::int64_t k = rows * kWidth; k < kWidth * kWidth; ++k) sum[k] = square[k] = 0;
      core::Lanes<kWidth>::fold_each(sum, core::Plus{}).store(to.row_sum + first);
      core::Lanes<kWidth>::fold_each(square, core::Plus{}).store(to.row_square + first);
    }
  };

  /// The sums of all columns, in registers as far as there are enough: every index is a constant, or else g++ leaves
  /// them in memory when it pleases.
  template <int kWidth, int... kPart>
  struct ColSums {
    Sums<kWidth> of[sizeof...(kPart)];

    [[gnu::always_inline]] explicit ColSums(const SweepSums& from) noexcept
        : of{Sums<kWidth>{core::Lanes<kWidth>::load(from.col_sum + kPart * kWidth),
                          core::Lanes<kWidth>::load(from.col_square + kPart * kWidth)}...} {}
    [[gnu::always_inline]] void store(const SweepSums& to) const noexcept {
      (of[kPart].sum.store(to.col_sum + kPart * kWidth), ...);
      (of[kPart].square.store(to.col_square + kPart * kWidth), ...);
    }
    [[gnu::always_inline]] void add_row(const float* w, const float* col_inverse, const core::Lanes<kWidth>& r,
                                        RowSums<kWidth>& row) noexcept {
      (add_part<kPart>(w, col_inverse, r, row), ...);
    }

   private:
    template <int kAt>
    [[gnu::always_inline]] void add_part(const float* w, const float* col_inverse, const core::Lanes<kWidth>& r,
                                         RowSums<kWidth>& row) noexcept {
      constexpr int kParts = core::kLanes / kWidth;
      const auto v = core::Lanes<kWidth>::load(w + kAt * kWidth);
      const auto c = core::Lanes<kWidth>::load(col_inverse + kAt * kWidth);
      if constexpr (kAt < kParts)
        row.begin(kAt, v, c);
      else
        row.add(kAt % kParts, v, c);
      of[kAt].add(v, r);
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
    ColSums<kWidth, kPart...> col(sums);
    for (std::int64_t first = 0; first < rows; first += kWidth) {
      RowBlock<kWidth> block;
      const std::int64_t count = std::min<std::int64_t>(kWidth, rows - first);
      for (std::int64_t i = 0; i < count; ++i) {
        RowSums<kWidth> row;
        col.add_row(w, col_inverse, row_inverse[first + i], row);
        block.put(i, row);
        w += sizeof...(kPart) * kWidth;
      }
      block.store(sums, first, count);
    }
    col.store(sums);
  }

  template <int kWidth>
  [[gnu::always_inline]] static void wide(const float* w, std::int64_t rows, std::int64_t stride,
                                          const float* row_inverse, const float* col_inverse,
                                          const SweepSums& sums) noexcept {
    using Float = core::Lanes<kWidth>;
    for (std::int64_t first = 0; first < rows; first += kWidth) {
      RowBlock<kWidth> block;
      const std::int64_t count = std::min<std::int64_t>(kWidth, rows - first);
      for (std::int64_t i = 0; i < count; ++i, w += stride) {
        const Float r = row_inverse[first + i];
        RowSums<kWidth> row;
        for (std::int64_t j = 0; j < stride; j += core::kLanes) {
          for (std::size_t k = 0; k < row.sum.size(); ++k) {
            const auto at = j + static_cast<std::int64_t>(k) * kWidth;
            const Float v = Float::load(w + at);
            row.add(k, v, Float::load(col_inverse + at));
            Sums<kWidth> col{Float::load(sums.col_sum + at), Float::load(sums.col_square + at)};
            col.add(v, r);
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

}  // namespace sinq::inline SINQ_ABI::detail::balance
