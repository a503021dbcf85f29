// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "row_reader.hpp"

namespace sinq::inline SINQ_ABI {

/// A quantized matrix in the order in which a kernel reads it. Made once, at load, by `pack`; constant from then on, so
/// any number of threads may multiply by it at once.
///
/// The portable kernel reads the canonical order itself, so this is a checked QuantizedMatrix and no more.
class PackedMatrix {
 public:
  [[nodiscard]] std::int64_t rows() const noexcept { return q_.rows; }
  [[nodiscard]] std::int64_t cols() const noexcept { return q_.cols; }
  [[nodiscard]] const Format& format() const noexcept { return q_.format; }
  /// Bytes held in memory.
  [[nodiscard]] std::int64_t bytes() const noexcept { return q_.bytes(); }
  /// The canonical form, bit for bit as it was packed.
  [[nodiscard]] const QuantizedMatrix& canonical() const noexcept { return q_; }

 private:
  explicit PackedMatrix(QuantizedMatrix q) : q_(std::move(q)) {}
  friend PackedMatrix pack(QuantizedMatrix q);

  QuantizedMatrix q_;
};

/// Checks `q` (InvalidArgument, see `validate`) and brings it into kernel order. Pass it with std::move where it is not
/// needed any more.
[[nodiscard]] inline PackedMatrix pack(QuantizedMatrix q) {
  validate(q);
  return PackedMatrix(std::move(q));
}

}  // namespace sinq::inline SINQ_ABI
