// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "json.hpp"

namespace sinq::inline SINQ_ABI::store {

/// A config.json, or an object inside one. Every question has a checked answer: a member that is missing, of another
/// kind or out of range is a FormatError that names file and member. A member that is null counts as missing, as
/// Hugging Face writes them.
///
/// Not read: NaN and Infinity, which Python writes into JSON and JSON does not have.
class Config {
 public:
  explicit Config(const std::filesystem::path& path) : Config(read_json(path), path.string()) {}

  /// `file` is for messages.
  Config(Json object, std::string file, std::string prefix = "")
      : json_(std::move(object)), file_(std::move(file)), prefix_(std::move(prefix)) {
    if (!json_.is_object()) detail::store::fail(file_, prefix_ + "an object is needed");
  }

  [[nodiscard]] const Json& json() const noexcept { return json_; }
  [[nodiscard]] const std::string& file() const noexcept { return file_; }
  [[nodiscard]] bool has(std::string_view name) const noexcept { return find(name) != nullptr; }

  [[nodiscard]] std::int64_t integer(std::string_view name, std::int64_t least = INT64_MIN,
                                     std::int64_t most = INT64_MAX) const {
    const std::int64_t value = to_integer(name, at(name));
    if (value < least || value > most)
      refuse(name, detail::core::text("is ", value, ", allowed are ", least, " to ", most));
    return value;
  }
  [[nodiscard]] std::int64_t integer_or(std::string_view name, std::int64_t fallback, std::int64_t least = INT64_MIN,
                                        std::int64_t most = INT64_MAX) const {
    return has(name) ? integer(name, least, most) : fallback;
  }

  [[nodiscard]] double number(std::string_view name) const {
    const Json& value = at(name);
    if (const auto* f = value.get_ptr<const Json::number_float_t*>()) return *f;
    if (const auto* u = value.get_ptr<const Json::number_unsigned_t*>()) return static_cast<double>(*u);
    if (const auto* i = value.get_ptr<const Json::number_integer_t*>()) return static_cast<double>(*i);
    refuse(name, "is not a number");
  }
  [[nodiscard]] double number_or(std::string_view name, double fallback) const {
    return has(name) ? number(name) : fallback;
  }

  [[nodiscard]] bool flag(std::string_view name) const {
    const auto* value = at(name).get_ptr<const bool*>();
    if (value == nullptr) refuse(name, "is neither true nor false");
    return *value;
  }
  [[nodiscard]] bool flag_or(std::string_view name, bool fallback) const { return has(name) ? flag(name) : fallback; }

  [[nodiscard]] const std::string& text(std::string_view name) const {
    const auto* value = at(name).get_ptr<const std::string*>();
    if (value == nullptr) refuse(name, "is not a string");
    return *value;
  }
  [[nodiscard]] std::string text_or(std::string_view name, std::string_view fallback) const {
    return has(name) ? text(name) : std::string(fallback);
  }

  /// A list of integers, or one integer as a list of one (eos_token_id comes both ways).
  [[nodiscard]] std::vector<std::int64_t> integers(std::string_view name) const {
    const Json& value = at(name);
    const auto* list = value.get_ptr<const Json::array_t*>();
    if (list == nullptr) return {to_integer(name, value)};
    std::vector<std::int64_t> out;
    for (const Json& element : *list) out.push_back(to_integer(name, element));
    return out;
  }

  /// A list of numbers.
  [[nodiscard]] std::vector<double> numbers(std::string_view name) const {
    const auto* list = at(name).get_ptr<const Json::array_t*>();
    if (list == nullptr) refuse(name, "is not a list");
    std::vector<double> out;
    for (const Json& element : *list) {
      if (!element.is_number()) refuse(name, "holds something that is not a number");
      out.push_back(element.get<double>());
    }
    return out;
  }

  /// A list of strings.
  [[nodiscard]] std::vector<std::string> texts(std::string_view name) const {
    const auto* list = at(name).get_ptr<const Json::array_t*>();
    if (list == nullptr) refuse(name, "is not a list");
    std::vector<std::string> out;
    for (const Json& element : *list) {
      const auto* value = element.get_ptr<const std::string*>();
      if (value == nullptr) refuse(name, "holds something that is not a string");
      out.push_back(*value);
    }
    return out;
  }

  [[nodiscard]] Config object(std::string_view name) const {
    const Json& value = at(name);
    if (!value.is_object()) refuse(name, "is not an object");
    return {value, file_, prefix_ + std::string(name) + "."};
  }

  /// For what only the caller can know to be wrong.
  [[noreturn]] void refuse(std::string_view name, const std::string& what) const {
    detail::store::fail(file_, detail::store::in_quotes(prefix_ + std::string(name)) + " " + what);
  }

 private:
  [[nodiscard]] const Json* find(std::string_view name) const noexcept {
    for (const auto& [key, value] : *json_.get_ptr<const Json::object_t*>())
      if (key == name) return value.is_null() ? nullptr : &value;
    return nullptr;
  }
  [[nodiscard]] const Json& at(std::string_view name) const {
    const Json* value = find(name);
    if (value == nullptr) refuse(name, "is missing");
    return *value;
  }
  [[nodiscard]] std::int64_t to_integer(std::string_view name, const Json& value) const {
    if (const auto* u = value.get_ptr<const Json::number_unsigned_t*>(); u != nullptr && *u > INT64_MAX)
      refuse(name, "is beyond 2^63 - 1");
    if (const auto* i = value.get_ptr<const Json::number_integer_t*>()) return *i;
    refuse(name, "is not an integer");
  }

  Json json_;
  std::string file_;
  std::string prefix_;  // "rope_scaling." in an object inside
};

}  // namespace sinq::inline SINQ_ABI::store
