// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "header.hpp"
#include "temporary_file.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::store {

/// `text` as a JSON string. InvalidArgument unless it is UTF-8: nlohmann can replace what is not, or leave it out, but
/// tells nobody; the two agree where there is nothing to do.
inline std::string json_string(std::string_view text, const char* argument) {
  const Json value = text;
  std::string out = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (out != value.dump(-1, ' ', false, Json::error_handler_t::ignore))
    core::raise<InvalidArgument>(core::text("sinq: ", argument, " = ", in_quotes(text), ": must be UTF-8"));
  return out;
}

}  // namespace detail::store

namespace store {

struct WriterOptions {
  /// Bytes to keep free for the header. A header that grows beyond costs moving all data once at the end; one that
  /// stays below is filled with spaces.
  std::int64_t header_bytes = 64 << 10;
  /// Names that other files of the same model have; must outlive the writer.
  const std::unordered_set<std::string>* taken = nullptr;
};

/// Writes a safetensors file tensor by tensor, in memory of about one megabyte, and puts it in its place only when it
/// is complete.
///
///     Writer out("model.safetensors");
///     out.add("a", ElementType::f16, {128, 64}, bytes);             // at once
///     out.begin("b", ElementType::u8, {1000});                      // or piece by piece
///     while (...) out.append(piece);
///     out.finish();
///
/// Until `finish` returns, a file that was there before is untouched; without it nothing remains. The header comes
/// first in the file but is known last, so space is kept for it; a file whose data fit into the buffer needs none. The
/// bytes depend only on what was added, in which order, and on the options. The data begin at a multiple of 64 bytes;
/// tensors follow one another without gaps, as the format demands, so order them by falling alignment if a reader
/// cares.
///
/// InvalidArgument for a name that is not UTF-8, occurs twice, is taken or is "__metadata__", and for data that are not
/// as long as type and shape say: such a call leaves the file as it was, and the next one may do better. IoError, with
/// the path and the reason, where the system refuses.
///
/// One writer is used by one thread at a time; different ones may run at once, as long as nobody changes their `taken`.
class Writer {
 public:
  explicit Writer(const std::filesystem::path& target, const WriterOptions& options = {})
      : file_(target), taken_(options.taken) {
    detail::core::require(
        options.header_bytes >= 0 && options.header_bytes <= static_cast<std::int64_t>(detail::store::kMaxHeaderBytes),
        "header_bytes", options.header_bytes, "allowed are 0 to 100000000");
    reserved_ = aligned(static_cast<std::uint64_t>(options.header_bytes));
  }

  void add(std::string_view name, ElementType type, std::span<const std::int64_t> shape,
           std::span<const std::byte> data) {
    end();
    const std::uint64_t bytes = checked_bytes(name, type, shape);
    if (data.size() > bytes) fail_length(name, data.size() - bytes, "more");
    if (data.size() < bytes) fail_length(name, bytes - data.size(), "fewer");
    announce(name, type, shape, bytes);
    append(data);
  }
  void add(std::string_view name, ElementType type, std::initializer_list<std::int64_t> shape,
           std::span<const std::byte> data) {
    add(name, type, std::span(shape.begin(), shape.size()), data);
  }
  /// A tensor of another file as it is.
  void add(const Tensor& t) { add(t.name, t.type, t.shape, t.data); }

  void begin(std::string_view name, ElementType type, std::span<const std::int64_t> shape) {
    end();
    announce(name, type, shape, checked_bytes(name, type, shape));
  }
  void begin(std::string_view name, ElementType type, std::initializer_list<std::int64_t> shape) {
    begin(name, type, std::span(shape.begin(), shape.size()));
  }

  /// The next bytes of the tensor that `begin` announced.
  void append(std::span<const std::byte> bytes) {
    if (bytes.size() > missing_) fail_length(current_, bytes.size() - missing_, "more");
    missing_ -= bytes.size();
    size_ += bytes.size();
    if (buffer_.size() + bytes.size() > kBufferBytes) flush();
    if (bytes.size() > kBufferBytes) {
      file_.write(data_at(flushed_), bytes);
      flushed_ += bytes.size();
    } else {
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    }
  }
  template <class T>
  void append(const std::vector<T>& elements) {
    append(std::as_bytes(std::span(elements)));
  }

  /// Sets an entry of __metadata__. At any time before `finish`; the header has them in this order.
  void metadata(std::string_view key, std::string_view value) {
    detail::core::require(!has_metadata(key), "metadata key", key, "occurs twice");
    metadata_ += detail::core::text(metadata_.empty() ? "" : ",", detail::store::json_string(key, "metadata key"), ":",
                                    detail::store::json_string(value, "metadata value"));
    metadata_keys_.emplace(key);
  }

  /// Names of the tensors so far.
  [[nodiscard]] const std::unordered_set<std::string>& names() const noexcept { return names_; }
  /// Whether there is a tensor of that name so far, here or in another file, or an entry of __metadata__.
  [[nodiscard]] bool has(std::string_view name) const {
    const std::string key(name);
    return names_.contains(key) || (taken_ != nullptr && taken_->contains(key));
  }
  [[nodiscard]] bool has_metadata(std::string_view key) const { return metadata_keys_.contains(std::string(key)); }

  /// Bytes of tensors so far.
  [[nodiscard]] std::int64_t data_bytes() const noexcept { return static_cast<std::int64_t>(size_); }

  /// Completes the file, makes sure it is on the disk and puts it in its place. Once, as the last call.
  void finish() {
    end();
    std::string header = "{";
    if (!metadata_.empty()) header += "\"__metadata__\":{" + metadata_ + (entries_.empty() ? "}" : "},");
    header += entries_ + "}";
    const std::uint64_t needed = aligned(header.size());
    detail::core::require(needed <= detail::store::kMaxHeaderBytes, "header", needed, "at most 100000000 bytes");
    if (flushed_ == 0) {
      reserved_ = needed;
    } else if (needed > reserved_) {
      flush();
      move_data(needed);
    }
    flush();
    header.resize(static_cast<std::size_t>(reserved_), ' ');
    file_.write(0, std::as_bytes(std::span(&reserved_, 1)));
    file_.write(8, std::as_bytes(std::span(header)));
    file_.commit();
  }

 private:
  static constexpr std::size_t kBufferBytes = 1 << 20;

  /// The least header of at least `bytes` bytes behind whose end, 8 bytes further on, a multiple of 64 lies.
  static constexpr std::uint64_t aligned(std::uint64_t bytes) noexcept { return (bytes + 8 + 63) / 64 * 64 - 8; }

  [[nodiscard]] std::uint64_t data_at(std::uint64_t offset) const noexcept { return 8 + reserved_ + offset; }

  [[noreturn]] static void fail_length(std::string_view name, std::uint64_t bytes, const char* more_or_fewer) {
    detail::core::raise<InvalidArgument>(detail::core::text("sinq: tensor ", detail::store::in_quotes(name), ": ",
                                                            bytes, " bytes ", more_or_fewer, " than its shape says"));
  }

  /// Bytes of a tensor that may be added.
  [[nodiscard]] std::uint64_t checked_bytes(std::string_view name, ElementType type,
                                            std::span<const std::int64_t> shape) const {
    using detail::core::require;
    require(name != detail::store::kMetadataName, "name", name, "is not for a tensor");
    require(!has(name), "name", name, "occurs twice");
    for (std::int64_t extent : shape) require(extent >= 0, "shape", extent, "must not be negative");
    const auto bytes = detail::store::tensor_bytes(type, shape);
    if (!bytes || shape.size() > detail::store::kMaxRank)
      detail::core::raise<InvalidArgument>(
          detail::core::text("sinq: shape of ", detail::store::in_quotes(name), " = ", describe(type, shape),
                             ": overflows, has too many extents, or does not end with a whole byte"));
    return *bytes;
  }

  /// Enters a tensor of so many bytes, its name last: what is refused before leaves no trace.
  void announce(std::string_view name, ElementType type, std::span<const std::int64_t> shape, std::uint64_t bytes) {
    using detail::core::text;
    // The commas of the header stand in front, so that every entry is complete once it is here.
    std::string entry = text(entries_.empty() ? "" : ",", detail::store::json_string(name, "name"), ":{\"dtype\":\"",
                             name_of(type), "\",\"shape\":[");
    for (std::size_t k = 0; k < shape.size(); ++k) entry += text(k == 0 ? "" : ",", shape[k]);
    entries_ += text(entry, "],\"data_offsets\":[", size_, ",", size_ + bytes, "]}");
    names_.emplace(name);
    missing_ = bytes;
    current_ = name;
  }

  void end() {
    if (missing_ != 0) fail_length(current_, missing_, "fewer");
  }

  void flush() {
    file_.write(data_at(flushed_), buffer_);
    flushed_ += buffer_.size();
    buffer_.clear();
  }

  /// Moves all data towards the end to make room for a header of `needed` bytes: from the last piece to the first, so
  /// that nothing is overwritten before it has been read.
  void move_data(std::uint64_t needed) {
    std::vector<std::byte> piece(kBufferBytes);
    for (std::uint64_t left = flushed_; left > 0;) {
      const std::uint64_t n = std::min<std::uint64_t>(left, piece.size());
      left -= n;
      const std::span<std::byte> part(piece.data(), static_cast<std::size_t>(n));
      file_.read(data_at(left), part);
      file_.write(8 + needed + left, part);
    }
    reserved_ = needed;
  }

  detail::store::TemporaryFile file_;
  const std::unordered_set<std::string>* taken_;
  std::uint64_t reserved_ = 0;  // bytes of the header
  std::uint64_t size_ = 0;      // of all data so far
  std::uint64_t flushed_ = 0;   // of these, in the file
  std::uint64_t missing_ = 0;   // of the current tensor
  std::vector<std::byte> buffer_;
  std::string current_;
  std::string entries_;
  std::string metadata_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
};

}  // namespace store
}  // namespace sinq::inline SINQ_ABI
