// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>

#include "json.hpp"
#include "tensor.hpp"

// The header of a safetensors file, from bytes of unknown origin.
//
//   byte 0    N, 8 bytes, little-endian
//   byte 8    N bytes of JSON, from '{' on; white space may follow
//             {"__metadata__": {"key": "text", ...},
//              "name": {"dtype": "F16", "shape": [128, 64], "data_offsets": [begin, end]}, ...}
//   byte 8+N  the data; offsets count from here
//
// As in the reference implementation: the tensors cover the data without gaps and without overlap, nothing follows
// them, and N is at most 100 MB. Beyond it: no name occurs twice, a description holds its three members and nothing
// else, a shape has at most 64 extents, and the product of those that are not 0 must not overflow either.

namespace sinq::inline SINQ_ABI {
namespace store {

/// One entry of `__metadata__`.
struct Metadata {
  std::string key;
  std::string value;
  std::uint64_t offset = 0;  // of the value in the file
};

}  // namespace store

namespace detail::store {

using sinq::store::Metadata;

inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr std::size_t kMaxRank = 64;
inline constexpr std::string_view kMetadataName = "__metadata__";

/// Bytes of a tensor, or nothing where they overflow or do not end with a byte.
[[nodiscard]] inline std::optional<std::uint64_t> tensor_bytes(ElementType type, std::span<const std::int64_t> shape) {
  std::int64_t bound = 1;  // with every 0 taken as 1, so that consumers may multiply extents in any order
  std::int64_t elements = 1;
  for (std::int64_t extent : shape) {
    if (__builtin_mul_overflow(bound, std::max<std::int64_t>(extent, 1), &bound)) return std::nullopt;
    elements *= extent;
  }
  std::int64_t bits = 0;
  if (__builtin_mul_overflow(bound, bits_of(type), &bits)) return std::nullopt;
  bits = elements * bits_of(type);
  if (bits % 8 != 0) return std::nullopt;
  return static_cast<std::uint64_t>(bits) / 8;
}

/// Reads the header by following the parser's events:
///
///   before -{-> root -"name":{-> tensor  -"shape":[->        shape   -]-> tensor -}-> root -}-> after
///                                        -"data_offsets":[-> offsets -]->
///                    -"__metadata__":{-> metadata -}-> root
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> file, std::string_view path) : file_(file), path_(path), trace_(text()) {}

  void read() {
    Json::sax_parse(trace_.begin(), trace_.end(), this);
    if (trace_.rest() != trace_.size()) refuse(trace_.rest(), "something follows the end of the header's JSON");
    check_cover();
  }

  /// In the order of the data, which is the order in which to read them.
  std::vector<Tensor> tensors;
  std::vector<Metadata> metadata;

  bool null() { misplaced(trace_.token(), "null"); }
  bool boolean(bool) { misplaced(trace_.token(), "true or false"); }
  bool number_integer(std::int64_t) { misplaced(trace_.number(), "a negative number"); }
  bool number_float(double, const std::string&) { misplaced(trace_.number(), "a number that is no 64-bit integer"); }
  bool binary(Json::binary_t&) { return false; }  // not in JSON

  bool number_unsigned(std::uint64_t value) {
    const std::uint64_t at = trace_.number();
    if (place_ == Place::shape) {
      if (value > INT64_MAX) refuse(at, "an extent beyond 2^63 - 1");
      if (tensor_.shape.size() == kMaxRank) refuse(at, core::text("more than ", kMaxRank, " extents"));
      tensor_.shape.push_back(static_cast<std::int64_t>(value));
    } else if (place_ == Place::offsets) {
      if (entry_.offsets == 2) refuse(at, "more than two data_offsets");
      (entry_.offsets++ == 0 ? entry_.begin : entry_.end) = value;
    } else {
      misplaced(at, "a number");
    }
    return true;
  }

  bool string(std::string& value) {
    const std::uint64_t at = trace_.token();
    if (place_ == Place::metadata) {
      metadata.push_back({std::move(key_), std::move(value), 8 + at});
    } else if (place_ == Place::tensor && key_ == "dtype") {
      const auto type = sinq::store::element_type(value);
      if (!type) refuse(at, core::text("dtype ", in_quotes(value), " is unknown"));
      tensor_.type = *type;
    } else {
      misplaced(at, "a string");
    }
    return true;
  }

  bool key(std::string& name) {
    const std::uint64_t at = trace_.token();
    switch (place_) {
      case Place::root:
        if (!tensor_names_.insert(name).second) refuse(at, core::text("the name ", in_quotes(name), " occurs twice"));
        entry_ = {.name_at = at};
        tensor_ = {};
        tensor_.name = name;
        break;
      case Place::metadata:
        if (!metadata_names_.insert(name).second)
          refuse(at, core::text("the name ", in_quotes(name), " occurs twice in __metadata__"));
        break;
      default: {
        const unsigned bit = name == "dtype" ? 1u : name == "shape" ? 2u : name == "data_offsets" ? 4u : 0u;
        if (bit == 0) refuse(at, core::text(in_quotes(name), " is no part of a tensor's description"));
        if ((entry_.seen & bit) != 0) refuse(at, core::text(in_quotes(name), " occurs twice"));
        entry_.seen |= bit;
      }
    }
    key_ = std::move(name);
    return true;
  }

  bool start_object(std::size_t) {
    const std::uint64_t at = trace_.token();
    if (place_ == Place::before) {
      place_ = Place::root;
    } else if (place_ == Place::root) {
      place_ = key_ == kMetadataName ? Place::metadata : Place::tensor;
    } else {
      misplaced(at, "an object");
    }
    return true;
  }

  bool end_object() {
    trace_.token();
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::root ? Place::after : Place::root;
    return true;
  }

  bool start_array(std::size_t) {
    const std::uint64_t at = trace_.token();
    if (place_ == Place::tensor && key_ == "shape") {
      place_ = Place::shape;
      entry_.shape_at = at;
    } else if (place_ == Place::tensor && key_ == "data_offsets") {
      place_ = Place::offsets;
      entry_.offsets_at = at;
    } else {
      misplaced(at, "an array");
    }
    return true;
  }

  bool end_array() {
    const std::uint64_t at = trace_.token();
    if (place_ == Place::offsets && entry_.offsets != 2) refuse(at, "fewer than two data_offsets");
    place_ = Place::tensor;
    return true;
  }

  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception& error) {
    refuse(at == 0 ? 0 : at - 1, reason(error));
  }

 private:
  enum class Place : std::uint8_t { before, root, metadata, tensor, shape, offsets, after };

  struct Entry {
    std::uint64_t name_at = 0;
    std::uint64_t shape_at = 0;
    std::uint64_t offsets_at = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    int offsets = 0;
    unsigned seen = 0;  // bits of the members that occurred
  };

  /// The JSON text, once the length in front of it has been found to be possible.
  std::string_view text() const {
    if (file_.size() < 8)
      fail(path_, file_.size(), core::text("a safetensors file has at least 8 bytes, this one has ", file_.size()));
    std::uint64_t length = 0;
    std::memcpy(&length, file_.data(), 8);
    if (length > kMaxHeaderBytes)
      fail(path_, 0, core::text("a header of ", length, " bytes, allowed are ", kMaxHeaderBytes));
    if (length > file_.size() - 8)
      fail(path_, 0, core::text("a header of ", length, " bytes in a file of ", file_.size(), ": truncated?"));
    const std::string_view header(reinterpret_cast<const char*>(file_.data()) + 8, static_cast<std::size_t>(length));
    if (!header.starts_with('{')) fail(path_, 8, "the header does not begin with '{'");
    return header;
  }

  /// `at` counts from the beginning of the header's text.
  [[noreturn]] void refuse(std::uint64_t at, const std::string& what) const {
    const bool in_tensor = place_ == Place::tensor || place_ == Place::shape || place_ == Place::offsets;
    fail(path_, 8 + at, in_tensor ? core::text("tensor ", in_quotes(tensor_.name), ": ", what) : what);
  }

  [[noreturn]] void misplaced(std::uint64_t at, const char* found) const {
    const auto expected = [&] {
      switch (place_) {
        case Place::before:
        case Place::after:
          return std::string("one object");
        case Place::root:
          return core::text("an object as the value of ", in_quotes(key_));
        case Place::metadata:
          return core::text("a string as the value of ", in_quotes(key_), " in __metadata__");
        case Place::tensor:
          return core::text(key_ == "dtype" ? "a string" : "an array", " as the value of ", in_quotes(key_));
        default:
          return core::text("a number from 0 to 2^63 - 1 in ", in_quotes(key_));
      }
    };
    refuse(at, core::text("expected ", expected(), ", found ", found));
  }

  void finish_tensor() {
    if (entry_.seen != 7)
      refuse(entry_.name_at, core::text((entry_.seen & 1) == 0   ? "dtype"
                                        : (entry_.seen & 2) == 0 ? "shape"
                                                                 : "data_offsets",
                                        " is missing"));
    const auto bytes = tensor_bytes(tensor_.type, tensor_.shape);
    if (!bytes) refuse(entry_.shape_at, core::text(describe(tensor_), " overflows, or does not end with a whole byte"));
    const std::uint64_t data_at = 8 + trace_.size();
    const std::uint64_t size = file_.size() - data_at;
    const auto offsets = [&] { return core::text("data_offsets [", entry_.begin, ", ", entry_.end, "]"); };
    if (entry_.begin > entry_.end) refuse(entry_.offsets_at, core::text(offsets(), " run backwards"));
    if (entry_.end > size)
      refuse(entry_.offsets_at, core::text(offsets(), " reach beyond the ", size, " bytes of data: truncated?"));
    if (entry_.end - entry_.begin != *bytes)
      refuse(entry_.offsets_at, core::text(offsets(), " hold ", entry_.end - entry_.begin, " bytes, but ",
                                           describe(tensor_), " takes ", *bytes));
    tensor_.offset = data_at + entry_.begin;
    tensor_.data = file_.subspan(static_cast<std::size_t>(tensor_.offset), static_cast<std::size_t>(*bytes));
    tensor_.file = path_;
    entries_.push_back({tensors.size(), entry_.offsets_at});
    tensors.push_back(std::move(tensor_));
  }

  /// The data is covered from the first to the last byte, each once.
  void check_cover() {
    // Empty tensors before the one that begins at the same byte; otherwise as the header has them.
    std::stable_sort(entries_.begin(), entries_.end(), [&](const Placed& a, const Placed& b) {
      const Tensor& s = tensors[a.index];
      const Tensor& t = tensors[b.index];
      return s.offset != t.offset ? s.offset < t.offset : s.data.size() < t.data.size();
    });
    std::vector<Tensor> sorted;
    sorted.reserve(tensors.size());
    std::uint64_t covered = 8 + trace_.size();
    for (const Placed& entry : entries_) {
      Tensor& t = tensors[entry.index];
      if (t.offset < covered)
        fail(path_, 8 + entry.offsets_at,
             core::text("tensor ", in_quotes(t.name), ": its data overlaps that of ", in_quotes(sorted.back().name)));
      if (t.offset > covered)
        fail(path_, covered,
             core::text(t.offset - covered, " bytes before tensor ", in_quotes(t.name), " belong to no tensor"));
      covered += t.data.size();
      sorted.push_back(std::move(t));
    }
    if (covered != file_.size())
      fail(path_, covered, core::text(file_.size() - covered, " bytes at the end belong to no tensor"));
    tensors = std::move(sorted);
  }

  struct Placed {
    std::size_t index;
    std::uint64_t offsets_at;
  };

  std::span<const std::byte> file_;
  std::string_view path_;
  Trace trace_;
  Place place_ = Place::before;
  std::string key_;
  Tensor tensor_;
  Entry entry_;
  std::vector<Placed> entries_;
  std::unordered_set<std::string> tensor_names_;
  std::unordered_set<std::string> metadata_names_;
};

}  // namespace detail::store
}  // namespace sinq::inline SINQ_ABI
