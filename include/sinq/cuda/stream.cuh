// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "block.cuh"
#include "decode.cuh"

// How a warp brings its strip into shared memory and makes operands of it: units, records, tables of levels.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Brings the units of a strip and their records into shared memory, up to kStages rounds ahead.
template <int kBits, int kStages>
class Stream {
 public:
  static constexpr int kRoundUnits = round_units(kBits);

  SINQ_CUDA_DEVICE Stream(const Product& p, const Block& b, std::uint32_t ring)
      : weights_(p.w),
        lane_(static_cast<int>(thread_index()) % kLanes),
        ring_(ring),
        mask_(static_cast<std::uint32_t>(p.aux_ring) - 1),
        rate_(p.w.aux_rate),
        end_(p.w.aux_stride) {
    const RecordCursor first = RecordCursor::at(p.w, b.first_unit * kUnitCols);
    codes_ = b.codes + std::int64_t{b.first_unit} * unit_bytes(kBits) + 16 * lane_;
    aux_ = b.aux;
    issued_ = (first.offset & ~15) + 16 * lane_;
    needed_ = 256 * (first.offset + aux_lead(p.w));
  }

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
    SINQ_CUDA_UNROLL
    for (int piece = 0; piece < kRoundUnits * kPieces; piece += kLanes)
      if (piece + lane_ < units * kPieces)
        copy_async(slot(stage) + 16 * static_cast<std::uint32_t>(piece + lane_), codes_ + 16 * piece);
    codes_ += kRoundUnits * unit_bytes(kBits);
    needed_ += rate_ * units;
    const int needed = needed_ >> 8;
    const int end = needed < end_ ? needed : end_;
    SINQ_CUDA_NO_UNROLL
    for (int at = issued_; at < end; at += 16 * kLanes)
      copy_async(records() + (static_cast<std::uint32_t>(at) & mask_), aux_ + at);
    const int next = ((end + 15) & ~15) + 16 * lane_;
    issued_ = issued_ < next ? next : issued_;
  }

  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t slot(int stage) const {
    return ring_ + static_cast<std::uint32_t>(stage * kRoundUnits * unit_bytes(kBits));
  }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t records() const { return slot(kStages); }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t mask() const { return mask_; }
  [[nodiscard]] SINQ_CUDA_DEVICE const std::uint8_t* aux() const { return aux_; }

 private:
  const Weights& weights_;
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

/// Decodes records, four periods at a time: lane 8 q + g decodes scale and zero of rows g and g + 8 in the group of
/// period q and leaves these four floats in shared memory as they are used, 16 bytes that the four lanes of a row read
/// at once: scale and zero, or (kFolded) what makes weights of codes, scale (times 2^24 for direct codes, which are
/// numbers times 2^-24) and -zero scale.
template <int kBits, bool kFolded>
class RecordReader {
 public:
  /// `cursor` says where this lane is and moves on as it decodes; the reader may be made anew for each round.
  SINQ_CUDA_DEVICE RecordReader(const Weights& w, RecordCursor& cursor, std::uint32_t records, std::uint32_t mask,
                                const std::uint8_t* aux)
      : weights_(w),
        records_(records),
        mask_(mask),
        cursor_(cursor),
        first_bit_(static_cast<int>(thread_index()) % 8 * w.scale.bits),
        first_zero_bit_(kStripRows * w.scale.bits + static_cast<int>(thread_index()) % 8 * w.zero.bits),
        all_halves_(w.scale.number == Number::f16 && w.zero.number == Number::f16) {
    const int periods = periods_at_once(w);
    stride_ = periods * w.period;
    groups_per_stride_ = w.group_size == w.period ? periods : 0;
    ahead_ = columns_ahead(w);
    if (ahead_ >= stride_) ahead_ = kRoundCols;  // not needed
    // The coarse scales of the first block may lie before what the stream brings.
    if (w.header != 0) {
      header_at_ = cursor_.header_offset(w);
      const std::uint8_t* const header = aux + header_at_ + 2 * row();
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
    std::uint32_t to = factors() + 16 * (thread_index() % kLanes);
    SINQ_CUDA_NO_UNROLL
    for (; col < end; col += stride_, to += 4 * 4 * kLanes) {
      const int mine = col + ahead_;
      if (mine >= end) continue;
      store_shared(to, mine < weights_.cols ? fold(decode(mine)) : Words4{});
    }
  }

 private:
  static constexpr int kRoundCols = round_units(kBits) * kUnitCols;

  [[nodiscard]] SINQ_CUDA_DEVICE static int periods_at_once(const Weights& w) {
    return kRoundCols / w.period < 4 ? kRoundCols / w.period : 4;
  }
  [[nodiscard]] SINQ_CUDA_DEVICE static int columns_ahead(const Weights& w) {
    return static_cast<int>(thread_index()) % kLanes / 8 * w.period;
  }
  [[nodiscard]] SINQ_CUDA_DEVICE static int row() { return static_cast<int>(thread_index()) % 8; }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t ring(int byte) const {
    return records_ + (static_cast<std::uint32_t>(byte) & mask_);
  }
  [[nodiscard]] SINQ_CUDA_DEVICE std::uint32_t word(int bit) const {
    return load_shared<std::uint32_t>(ring(bit >> 3 & ~3));
  }
  [[nodiscard]] SINQ_CUDA_DEVICE static std::uint32_t half(std::uint32_t at) {
    return as_bits(from_half(load_shared<std::uint16_t>(at)));
  }

  SINQ_CUDA_DEVICE void set_coarse(std::uint16_t upper, std::uint16_t lower) {
    factor_[0] = multiply(from_half(upper), weights_.scale.factor);
    factor_[1] = multiply(from_half(lower), weights_.scale.factor);
  }

  [[nodiscard]] SINQ_CUDA_DEVICE Words4 fold(const Words4& f) const {
    if constexpr (!kFolded) return f;
    const float unit = weights_.paired ? 1.0f : 0x1p24f, upper = as_float(f.w[0]), lower = as_float(f.w[2]);
    return {{as_bits(upper * unit), as_bits(-as_float(f.w[1]) * upper), as_bits(lower * unit),
             as_bits(-as_float(f.w[3]) * lower)}};
  }

  SINQ_CUDA_DEVICE Words4 decode(int col) {
    if (col >= cursor_.end_col) {
      if (groups_per_stride_ != 0)
        cursor_.advance(weights_, groups_per_stride_);
      else
        do cursor_.advance(weights_);
        while (col >= cursor_.end_col);
    }
    if (all_halves_) {  // the common case, without the arithmetic of all others
      const std::uint32_t at = ring(cursor_.offset + (first_bit_ >> 3));  // 64 bytes, of which a ring is a multiple
      return {{half(at), half(at + 32), half(at + 16), half(at + 48)}};
    }
    if (weights_.header != 0 && cursor_.header_offset(weights_) != header_at_) {
      header_at_ = cursor_.header_offset(weights_);
      const int header = header_at_ + 2 * row();
      set_coarse(load_shared<std::uint16_t>(ring(header)), load_shared<std::uint16_t>(ring(header + 16)));
    }
    const int bit = 8 * cursor_.offset + first_bit_, zero_bit = 8 * cursor_.offset + first_zero_bit_;
    const Field &scale = weights_.scale, &zero = weights_.zero;
    Words4 r{{0, as_bits(zero.offset), 0, as_bits(zero.offset)}};
    r.w[0] = as_bits(decode(scale, bit, factor_[0], 0));
    r.w[2] = as_bits(decode(scale, bit + 8 * scale.bits, factor_[1], 0));
    if (zero.bits != 0) {
      r.w[1] = as_bits(decode(zero, zero_bit, zero.factor, zero.offset));
      r.w[3] = as_bits(decode(zero, zero_bit + 8 * zero.bits, zero.factor, zero.offset));
    }
    return r;
  }

  SINQ_CUDA_DEVICE float decode(const Field& field, int bit, float factor, float offset) const {
    // The word of the last bit: never one behind the record, whose bytes may still be on their way.
    const std::uint32_t raw =
        funnel(word(bit), word(bit + field.bits - 1), static_cast<unsigned>(bit & 31)) & low_bits(field.bits);
    if (field.number > Number::signed_integer) return number_value(field.number, field.bits, raw) * factor + offset;
    // Flipping the sign bit and taking it off makes a signed number of it, without a branch.
    const std::uint32_t sign = field.number == Number::signed_integer ? 1u << (field.bits - 1) : 0;
    return static_cast<float>(static_cast<std::int32_t>((raw ^ sign) - sign)) * factor + offset;
  }

  const Weights& weights_;
  std::uint32_t records_;
  std::uint32_t mask_;
  RecordCursor& cursor_;
  int first_bit_;       // of this lane's scale, from the start of a record
  int first_zero_bit_;  // of its zero
  bool all_halves_;
  int ahead_ = 0;              // columns from the first period of four to this lane's
  int stride_ = 0;             // columns from one decoding to the next
  int groups_per_stride_ = 0;  // where every period is a group, else 0
  int header_at_ = 0;
  float factor_[2] = {1, 1};  // of the scales of rows g and g + 8
};

/// Pairs of levels as pairs of halves, one copy per bank, so that the look-ups of a warp never collide.
template <int kBits>
SINQ_CUDA_DEVICE void fill_table(const Product& p, const Block& b, std::uint32_t table) {
  const auto level = [&](unsigned code) {
    return p.experts != nullptr ? load_global<float>(p.experts[b.expert].levels + code)
                                : p.members[b.member].levels[code];
  };
  for (unsigned k = thread_index(); k < static_cast<unsigned>(kLanes) << (2 * kBits); k += thread_count()) {
    const unsigned index = k / kLanes, mask = (1u << kBits) - 1;
    const std::uint32_t low = to_half(level(index & mask)), high = to_half(level(index >> kBits));
    store_shared(table + 4 * k, low | high << 16);
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
