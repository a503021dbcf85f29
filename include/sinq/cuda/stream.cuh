// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "block.cuh"
#include "decode.cuh"

// How a warp brings its strip into shared memory and makes operands of it: units, records, tables of levels.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Brings the units of a strip and their records into shared memory, as many rounds ahead as there are stages.
/// kOnce: other blocks hardly read these units, which then need not push anything else out of the L2 cache.
template <int kBits, Rounds kRounds, bool kOnce = false>
class Stream {
 public:
  SINQ_CUDA_DEVICE Stream(const Weights& w, int aux_ring, const Block& b, std::uint32_t ring)
      : lane_(static_cast<int>(thread_index()) % kLanes),
        ring_(ring),
        mask_(static_cast<std::uint32_t>(aux_ring) - 1),
        rate_(w.aux_rate),
        end_(w.aux_stride) {
    const RecordCursor first = RecordCursor::at(w, b.first_unit * kUnitCols);
    codes_ = b.codes + std::int64_t{b.first_unit} * unit_bytes(kBits) + 16 * lane_;
    aux_ = b.aux;
    issued_ = (first.offset & ~15) + 16 * lane_;
    needed_ = 256 * (first.offset + aux_lead(w));
  }

  /// Starts to bring what the first rounds of [first_unit, end_unit) need. Groups of copies are counted, so each round
  /// makes one, if an empty one.
  SINQ_CUDA_DEVICE void fill(const Block& b) {
    start();
    for (int k = 0; k < kRounds.stages; ++k) {
      const int left = b.end_unit - b.first_unit - k * kRounds.units;
      if (left > 0) issue(k, left < kRounds.units ? left : kRounds.units);
      copy_commit();
    }
  }
  /// The round at `stage` has been used, before which `left` units were left: starts to bring the one that follows
  /// those under way.
  SINQ_CUDA_DEVICE void next(int stage, int left) {
    const int ahead = left - kRounds.stages * kRounds.units;
    if (ahead > 0) issue(stage, ahead < kRounds.units ? ahead : kRounds.units);
    copy_commit();
  }

  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t slot(int stage) const {
    return ring_ + static_cast<std::uint32_t>(stage * kRounds.units * unit_bytes(kBits));
  }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t records() const { return slot(kRounds.stages); }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t mask() const { return mask_; }
  [[nodiscard]] SINQ_CUDA_DEVICE const std::uint8_t* aux() const { return aux_; }

  /// Starts to bring the records that the average does not account for.
  SINQ_CUDA_DEVICE void start() {
    const int needed = needed_ >> 8, end = needed < end_ ? needed : end_;
    for (; issued_ < end; issued_ += 16 * kLanes)
      copy_async(records() + (static_cast<std::uint32_t>(issued_) & mask_), aux_ + issued_);
    issued_ = ((end + 15) & ~15) + 16 * lane_;
  }

  /// Starts to bring the next round of `units` units to stage `stage`, and the records that it may need: as many
  /// bytes as the average asks for, which is simpler than to follow the groups.
  SINQ_CUDA_DEVICE void issue(int stage, int units) {
    constexpr int kPieces = unit_bytes(kBits) / 16;
    static_assert(kRounds.units * kPieces % kLanes == 0, "all lanes bring as much of a round");
    const std::uint32_t to = slot(stage) + 16 * static_cast<std::uint32_t>(lane_);
    if (units == kRounds.units) {
      SINQ_CUDA_UNROLL
      for (int piece = 0; piece < kRounds.units * kPieces; piece += kLanes)
        copy_codes(to + 16 * static_cast<std::uint32_t>(piece), codes_ + 16 * piece);
    } else {
      SINQ_CUDA_NO_UNROLL
      for (int piece = 0; piece + lane_ < units * kPieces; piece += kLanes)
        copy_codes(to + 16 * static_cast<std::uint32_t>(piece), codes_ + 16 * piece);
    }
    codes_ += kRounds.units * unit_bytes(kBits);
    needed_ += rate_ * units;
    const int needed = needed_ >> 8;
    const int end = needed < end_ ? needed : end_;
    SINQ_CUDA_NO_UNROLL
    for (int at = issued_; at < end; at += 16 * kLanes)
      copy_async(records() + (static_cast<std::uint32_t>(at) & mask_), aux_ + at);
    const int next = ((end + 15) & ~15) + 16 * lane_;
    issued_ = issued_ < next ? next : issued_;
  }

 private:
  SINQ_CUDA_DEVICE static void copy_codes(std::uint32_t to, const std::uint8_t* from) {
    if constexpr (kOnce)
      copy_async_once(to, from);
    else
      copy_async(to, from);
  }

  int lane_;
  const std::uint8_t* codes_;  // of the next unit, this lane's first piece
  const std::uint8_t* aux_;
  std::uint32_t ring_;
  std::uint32_t mask_;
  int rate_;
  int end_;
  int needed_;  // bytes of records times 256, from the start of the strip's stream
  int issued_;  // where the lane's next piece of them begins, if it is needed
};

/// Decodes records, four at a time: lane 8 q + g decodes scales and zeros of rows g and g + 8 in record q (where groups
/// are longer than a period, in the group of period q) and leaves per period four floats in shared memory as they are
/// used, 16 bytes that the four lanes of a row read at once: scale and zero, or (kFolded) what makes weights of codes,
/// scale (times 2^24 for direct codes, which are numbers times 2^-24) and -zero scale.
template <int kRoundUnits, bool kFolded>
class RecordReader {
 public:
  /// `cursor` says where this lane is and moves on as it decodes; the reader may be made anew for each round.
  SINQ_CUDA_DEVICE RecordReader(const Weights& w, RecordCursor& cursor, std::uint32_t records, std::uint32_t mask,
                                const std::uint8_t* aux)
      : weights_(w), records_(records), mask_(mask), cursor_(cursor) {
    if (w.scale.number == Number::f16 && w.zero.number == Number::f16) kind_ = kHalves;
    if (w.scale.number <= Number::signed_integer && w.zero.number <= Number::signed_integer) kind_ = kIntegers;
    const int at_once = kRoundCols / columns_of_lane(w) < 4 ? kRoundCols / columns_of_lane(w) : 4;
    stride_ = at_once * columns_of_lane(w);
    if (w.group_size == w.period) records_per_advance_ = at_once;
    ahead_ = columns_ahead(w);
    if (ahead_ >= stride_) ahead_ = kRoundCols;  // not needed
    // The coarse scales of the first block may lie before what the stream brings.
    if (w.header != 0) {
      const std::uint8_t* const header = aux + cursor_.header_offset(w) + 2 * row();
      set_coarse(load_global<std::uint16_t>(header), load_global<std::uint16_t>(header + 16));
    }
  }

  /// Where a lane begins in a stream whose first column is `first_col`.
  SINQ_CUDA_DEVICE static RecordCursor start(const Weights& w, int first_col) {
    const int col = first_col + columns_ahead(w);
    return RecordCursor::at(w, col < w.cols ? col : w.cols - 1);
  }

  /// Where the factors of the periods of a round lie: 32 floats each.
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t factors() const { return records_ + mask_ + 1; }

  /// The factors for every period of the columns [col, end) of a round; 0 for periods without a group.
  SINQ_CUDA_DEVICE void decode_round(int col, int end) {
    const std::uint32_t lane_bytes = kFactorBytes * static_cast<std::uint32_t>(weights_.record_groups);
    std::uint32_t to = factors() + thread_index() % kLanes / 8 * lane_bytes + 16 * static_cast<std::uint32_t>(row());
    SINQ_CUDA_NO_UNROLL
    for (; col < end; col += stride_, to += 4 * lane_bytes) {
      const int mine = col + ahead_;
      if (mine >= end) continue;
      if (mine < weights_.cols)
        decode(mine, to);
      else
        store_shared(to, Words4{});
    }
  }

 private:
  static constexpr int kRoundCols = kRoundUnits * kUnitCols;
  static constexpr std::uint32_t kFactorBytes = 4 * kLanes;  // of a period

  /// What a lane decodes at a time: a period, or a record's.
  [[nodiscard]] SINQ_CUDA_DEVICE static int columns_of_lane(const Weights& w) { return w.record_groups * w.period; }
  [[nodiscard]] SINQ_CUDA_DEVICE static int columns_ahead(const Weights& w) {
    return static_cast<int>(thread_index()) % kLanes / 8 * columns_of_lane(w);
  }
  [[nodiscard]] SINQ_CUDA_DEVICE static int row() { return static_cast<int>(thread_index()) % 8; }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t ring(int byte) const {
    return records_ + (static_cast<std::uint32_t>(byte) & mask_);
  }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t word(int bit) const {
    return load_shared<std::uint32_t>(ring(bit >> 3 & ~3));
  }

  SINQ_CUDA_DEVICE void set_coarse(std::uint16_t upper, std::uint16_t lower) {
    factor_[0] = multiply(from_half(upper), weights_.scale.factor);
    factor_[1] = multiply(from_half(lower), weights_.scale.factor);
  }

  /// Scales and zeros of rows g and g + 8 in a period.
  SINQ_CUDA_DEVICE void store(std::uint32_t to, const float (&scale)[2], const float (&zero)[2]) const {
    const float unit = weights_.paired ? 1.0f : 0x1p24f;
    Words4 words;
    SINQ_CUDA_UNROLL
    for (int k = 0; k < 2; ++k) {
      words.w[2 * k] = as_bits(kFolded ? scale[k] * unit : scale[k]);
      words.w[2 * k + 1] = as_bits(kFolded ? -zero[k] * scale[k] : zero[k]);
    }
    store_shared(to, words);
  }

  /// The fields of one kind that a lane decodes at a time, up to 64 bits: rows g and g + 8 in turn.
  struct Fields {
    std::uint32_t low = 0, high = 0;
  };
  /// `bits` bits from bit `bit` of the stream on.
  [[nodiscard]] SINQ_CUDA_DEVICE Fields load_fields(int bit, int bits) const {
    // The word of the last bit: never one behind the record, whose bytes may still be on their way.
    const int last = bit + bits - 1, next = bit + 32 < last ? bit + 32 : last;
    const std::uint32_t middle = word(next);
    const auto shift = static_cast<unsigned>(bit & 31);
    return {funnel(word(bit), middle, shift), funnel(middle, word(last), shift)};
  }
  /// Takes off two integers. Flipping their sign bits leaves numbers that are too large by `sign`, without a branch.
  SINQ_CUDA_DEVICE static void take(Fields& fields, int bits, std::uint32_t mask, std::uint32_t sign,
                                    float (&pair)[2]) {
    pair[0] = static_cast<float>((fields.low & mask) ^ sign);
    pair[1] = static_cast<float>((fields.low >> bits & mask) ^ sign);
    fields.low = funnel(fields.low, fields.high, static_cast<unsigned>(2 * bits));
    fields.high >>= 2 * bits;
  }
  /// Number `k` of two, of any kind.
  [[nodiscard]] SINQ_CUDA_DEVICE static float number_at(const Field& field, const Fields& fields, int k) {
    const std::uint32_t raw = field.bits == 32 ? (k == 0 ? fields.low : fields.high) : fields.low >> (k * field.bits);
    return number_value(field.number, field.bits, raw & low_bits(field.bits));
  }

  /// The factors of the lane's record, or of the group of its period, to `to`.
  SINQ_CUDA_DEVICE void decode(int col, std::uint32_t to) {
    const Weights& w = weights_;
    const Field &scale = w.scale, &zero = w.zero;
    if (col >= cursor_.end_col) {
      do {
        if (!cursor_.advance(w, records_per_advance_)) continue;
        const int header = cursor_.header_offset(w) + 2 * row();
        set_coarse(load_shared<std::uint16_t>(ring(header)), load_shared<std::uint16_t>(ring(header + 16)));
      } while (col >= cursor_.end_col);
    }
    float scales[2], zeros[2] = {zero.offset, zero.offset};
    if (kind_ == kHalves) {  // the common case, without the arithmetic of all others
      const std::uint32_t at = ring(cursor_.offset + 4 * row());  // 64 bytes, of which a ring is a multiple
      const auto scale_pair = load_shared<std::uint32_t>(at), zero_pair = load_shared<std::uint32_t>(at + 32);
      SINQ_CUDA_UNROLL
      for (int k = 0; k < 2; ++k) {
        scales[k] = from_half(static_cast<std::uint16_t>(scale_pair >> (16 * k)));
        zeros[k] = from_half(static_cast<std::uint16_t>(zero_pair >> (16 * k)));
      }
      return store(to, scales, zeros);
    }
    const int fields = 2 * w.record_groups, bit = 8 * cursor_.offset, zero_bit = bit + w.zeros_bit();
    Fields scale_fields = load_fields(bit + row() * fields * scale.bits, fields * scale.bits), zero_fields;
    if (zero.bits != 0) zero_fields = load_fields(zero_bit + row() * fields * zero.bits, fields * zero.bits);
    if (kind_ == kMixed) {  // one group per record
      SINQ_CUDA_UNROLL
      for (int k = 0; k < 2; ++k) {
        scales[k] = number_at(scale, scale_fields, k) * factor_[k];
        zeros[k] = number_at(zero, zero_fields, k) * zero.factor + zero.offset;
      }
      return store(to, scales, zeros);
    }
    const std::uint32_t sign = scale.number == Number::signed_integer ? 1u << (scale.bits - 1) : 0;
    const std::uint32_t mask = low_bits(scale.bits), zero_mask = low_bits(zero.bits);
    const float excess[2] = {static_cast<float>(sign) * factor_[0], static_cast<float>(sign) * factor_[1]};
    SINQ_CUDA_UNROLL
    for (int group = 0; group < 4; ++group) {
      if (group >= w.record_groups) return;
      take(scale_fields, scale.bits, mask, sign, scales);
      SINQ_CUDA_UNROLL
      for (int k = 0; k < 2; ++k) scales[k] = scales[k] * factor_[k] - excess[k];
      if (zero.bits != 0) {
        take(zero_fields, zero.bits, zero_mask, 0, zeros);
        SINQ_CUDA_UNROLL
        for (int k = 0; k < 2; ++k) zeros[k] = zeros[k] * zero.factor + zero.offset;
      }
      store(to + static_cast<std::uint32_t>(group) * kFactorBytes, scales, zeros);
    }
  }

  const Weights& weights_;
  std::uint32_t records_;
  std::uint32_t mask_;
  RecordCursor& cursor_;
  int ahead_ = 0;   // columns from the first of those that are decoded at a time to this lane's
  int stride_ = 0;  // columns from one decoding to the next
  int records_per_advance_ = 1;
  float factor_[2] = {1, 1};  // of the scales of rows g and g + 8
  // What scales and zeros are.
  enum : int { kHalves, kIntegers, kMixed } kind_ = kMixed;
};

/// The table that load_levels reads: in every copy pairs of levels as pairs of halves, or with 2 bits two of them.
template <int kBits>
SINQ_CUDA_DEVICE void fill_table(const Product& p, const Block& b, std::uint32_t table) {
  const auto level = [&](unsigned code) {
    return p.experts != nullptr ? load_global<float>(p.experts[b.expert].levels + code)
                                : p.members[b.member].levels[code];
  };
  for (unsigned k = thread_index(); k < static_cast<unsigned>(kLanes) << index_bits(kBits); k += thread_count()) {
    const unsigned row = k / kLanes, mask = (1u << kBits) - 1;
    const unsigned pair = kBits == 2 && k % 2 != 0 ? row >> 4 : row;
    const std::uint32_t low = to_half(level(pair & mask)), high = to_half(level(pair >> kBits & mask));
    store_shared(table + 4 * k, low | high << 16);
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
