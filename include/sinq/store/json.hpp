// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iterator>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "mapped_file.hpp"

// JSON of unknown origin. nlohmann's event (SAX) parser does the grammar, iteratively, and checks UTF-8; what it leaves
// to others is done here: names that occur twice (its own document builder keeps the last one silently), depth, size,
// bytes behind the end (it stops at a NUL byte as if the text ended there), and where in the file an error lies.

namespace sinq::inline SINQ_ABI {
namespace store {

/// A JSON document that keeps the order of its names.
using Json = nlohmann::ordered_json;

}  // namespace store

namespace detail::store {

using sinq::store::Json;

/// Deeper documents are refused: whoever copies, prints or destroys one may do so by recursion.
inline constexpr std::size_t kMaxJsonDepth = 64;

/// Longer documents are refused: a hostile one costs some 20 times its size in memory. (The index of a model of 671 G
/// weights has 9 MB.)
inline constexpr std::size_t kMaxJsonBytes = std::size_t{32} << 20;

/// Hands a text to nlohmann's parser and follows it, so that every token's place is known.
///
///   {"name" : [1, 20] }
///            ^  ^
///            |  token(): where the token that was just read begins: the first byte behind the previous token that
///            |           is neither white space nor punctuation
///            the end of the previous token: how far the parser has read, less one behind a number, which ends only
///            where something else begins (or where the text ends)
class Trace {
 public:
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;

    Iterator(const char* at, const char** read) : at_(at), read_(read) {}
    reference operator*() const noexcept { return *at_; }
    Iterator& operator++() noexcept {
      *read_ = ++at_;
      return *this;
    }
    Iterator operator++(int) noexcept {
      const Iterator before = *this;
      ++*this;
      return before;
    }
    bool operator==(const Iterator& other) const noexcept { return at_ == other.at_; }
    bool operator!=(const Iterator& other) const noexcept { return at_ != other.at_; }

   private:
    const char* at_;
    const char** read_;
  };

  explicit Trace(std::string_view text) : text_(text), read_(text.data()), end_of_token_(text.data()) {}
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  [[nodiscard]] Iterator begin() noexcept { return {text_.data(), &read_}; }
  [[nodiscard]] Iterator end() noexcept { return {text_.data() + text_.size(), &read_}; }

  [[nodiscard]] std::uint64_t size() const noexcept { return text_.size(); }

  /// Called once in each event of the parser: the offset of the token that it has just read.
  std::uint64_t token() noexcept {
    const std::uint64_t at = offset_of_next(" \t\n\r,:");
    end_of_token_ = read_;
    return at;
  }
  std::uint64_t number() noexcept {
    const std::uint64_t at = token();
    if (read_[-1] < '0' || read_[-1] > '9') --end_of_token_;
    return at;
  }

  /// The offset of the first byte behind the last token that is not white space; the size of the text if there is none.
  [[nodiscard]] std::uint64_t rest() const noexcept { return offset_of_next(" \t\n\r"); }

 private:
  [[nodiscard]] std::uint64_t offset_of_next(const char* skipped) const noexcept {
    const auto from = static_cast<std::size_t>(end_of_token_ - text_.data());
    return std::min(text_.find_first_not_of(skipped, from), text_.size());
  }

  std::string_view text_;
  const char* read_;
  const char* end_of_token_;
};

/// What nlohmann has to say, without its error number and without the text it has read (which may be long, or no text).
inline std::string reason(const nlohmann::detail::exception& error) {
  std::string_view what = error.what();
  if (const auto at = what.find("] "); at != what.npos) what.remove_prefix(at + 2);
  what = what.substr(0, what.find("; last read"));
  if (const auto at = what.find(": syntax error"); at != what.npos) what.remove_prefix(at + 2);
  return "not valid JSON: " + std::string(what.substr(0, 200));
}

/// Where a JSON text lies: a file, or (`embedded`) a string in one that begins at byte `offset`.
struct JsonOrigin {
  std::string_view file;
  std::uint64_t offset = 0;
  bool embedded = false;
  std::string part = {};  // what it is there, for messages
};

/// Builds a document from the parser's events.
class DocumentBuilder {
 public:
  DocumentBuilder(std::string_view text, const JsonOrigin& origin) : trace_(text), origin_(origin) {}

  Json build() {
    Json::sax_parse(trace_.begin(), trace_.end(), this);
    if (trace_.rest() != trace_.size()) refuse(trace_.rest(), "something follows the end of the document");
    return std::move(root_);
  }

  bool null() { return trace_.token(), add(nullptr); }
  bool boolean(bool value) { return trace_.token(), add(value); }
  bool number_integer(std::int64_t value) { return trace_.number(), add(value); }
  bool number_unsigned(std::uint64_t value) { return trace_.number(), add(value); }
  bool number_float(double value, const std::string&) { return trace_.number(), add(value); }
  bool string(std::string& value) { return trace_.token(), add(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // not in JSON
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    const std::uint64_t at = trace_.token();
    if (!open_.back().names.insert(name).second) refuse(at, core::text("the name ", in_quotes(name), " occurs twice"));
    open_.back().name = std::move(name);
    return true;
  }

  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception& error) {
    refuse(at == 0 ? 0 : at - 1, reason(error));
  }

 private:
  struct Open {
    Json* value;
    std::string name;  // of the member that comes next
    std::unordered_set<std::string> names;
  };

  [[noreturn]] void refuse(std::uint64_t at, const std::string& what) {
    fail(origin_.file, origin_.embedded ? origin_.offset : origin_.offset + at, origin_.part + what);
  }

  bool add(Json value) { return place(std::move(value)) != nullptr; }

  bool open(Json value) {
    const std::uint64_t at = trace_.token();
    if (open_.size() == kMaxJsonDepth) refuse(at, core::text("nested deeper than ", kMaxJsonDepth, " levels"));
    open_.push_back({place(std::move(value)), {}, {}});
    return true;
  }

  bool close() {
    trace_.token();
    open_.pop_back();
    return true;
  }

  /// Members go straight to the end of the list: looking for their name first, as operator[] does, takes time
  /// quadratic in their number.
  Json* place(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    Open& parent = open_.back();
    if (auto* array = parent.value->get_ptr<Json::array_t*>()) return &array->emplace_back(std::move(value));
    Json::object_t::Container& members = *parent.value->get_ptr<Json::object_t*>();
    return &members.emplace_back(std::move(parent.name), std::move(value)).second;
  }

  Trace trace_;
  JsonOrigin origin_;
  Json root_;
  std::vector<Open> open_;
};

}  // namespace detail::store

namespace store {

/// Parses a JSON document of unknown origin. FormatError, naming `file` and the byte, unless it is valid and complete,
/// is nested at most 64 deep, has at most 32 MiB, and no object in it has the same name twice.
[[nodiscard]] inline Json parse_json(std::string_view text, std::string_view file) {
  if (text.size() > detail::store::kMaxJsonBytes)
    detail::store::fail(file, detail::store::kMaxJsonBytes, "a JSON document longer than 32 MiB");
  return detail::store::DocumentBuilder(text, {file}).build();
}

/// The same from a file. IoError where it cannot be read.
[[nodiscard]] inline Json read_json(const std::filesystem::path& path) {
  const detail::store::MappedFile file(path);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

}  // namespace store
}  // namespace sinq::inline SINQ_ABI
