// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "file.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::store {

inline constexpr const char* kModelName = "model.safetensors";
inline constexpr const char* kIndexName = "model.safetensors.index.json";
inline constexpr const char* kConfigName = "config.json";

/// A shard is named by a relative path that does not leave the directory. (By its text: a symbolic link may lead
/// anywhere, as in the Hugging Face cache, where every file is one.)
[[nodiscard]] inline bool stays_inside(const std::string& shard) {
  const std::filesystem::path path(shard);
  if (shard.empty() || shard.find('\0') != shard.npos || path.is_absolute() || !path.has_filename()) return false;
  return std::none_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
}

}  // namespace detail::store

namespace store {

/// A model: one safetensors file, or several that an index lists, looked up as if they were one.
class Checkpoint {
 public:
  /// `path` is a safetensors file, an index, or a directory that holds model.safetensors or else
  /// model.safetensors.index.json. IoError where a file cannot be opened, a missing shard excepted; FormatError where
  /// one is malformed, where a shard is missing or lies outside the directory, where a tensor is not in the shard that
  /// the index names, or where two shards hold the same name.
  explicit Checkpoint(const std::filesystem::path& path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
      const auto single = path / detail::store::kModelName;
      const auto index = path / detail::store::kIndexName;
      if (std::filesystem::exists(single, ignored)) {
        open(single);
      } else if (std::filesystem::exists(index, ignored)) {
        open_shards(index);
      } else {
        detail::core::raise<IoError>(detail::core::text("sinq: ", path.string(), " holds neither ",
                                                        detail::store::kModelName, " nor ", detail::store::kIndexName));
      }
    } else if (path.extension() == ".json") {
      open_shards(path);
    } else {
      open(path);
    }
    list_tensors();
  }

  /// A file that is already open, such as one in memory.
  explicit Checkpoint(File file) : name_(file.path()) {
    files_.push_back(std::move(file));
    list_tensors();
  }

  [[nodiscard]] std::span<const File> files() const noexcept { return files_; }

  /// File by file, each in the order of its data.
  [[nodiscard]] std::span<const Tensor* const> tensors() const noexcept { return tensors_; }

  [[nodiscard]] const Tensor* find(std::string_view name) const noexcept {
    for (const File& file : files_)
      if (const Tensor* t = file.find(name)) return t;
    return nullptr;
  }

  /// FormatError where there is no tensor of that name.
  [[nodiscard]] const Tensor& at(std::string_view name) const {
    const Tensor* t = find(name);
    if (t == nullptr) detail::store::fail(name_, "there is no tensor " + detail::store::in_quotes(name));
    return *t;
  }

  [[nodiscard]] const Metadata* find_metadata(std::string_view key) const noexcept {
    const File* file = file_with_metadata(key);
    return file == nullptr ? nullptr : file->find_metadata(key);
  }

  /// The first file whose metadata has `key`.
  [[nodiscard]] const File* file_with_metadata(std::string_view key) const noexcept {
    for (const File& file : files_)
      if (file.find_metadata(key) != nullptr) return &file;
    return nullptr;
  }

  /// See File::forget. (Any file will do: it is a matter of addresses.)
  void forget(const Tensor& t) const noexcept {
    if (!files_.empty()) files_.front().forget(t);
  }

  /// The file or index, for messages.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  /// Where config.json and the other files of the model are; empty for a model in memory.
  [[nodiscard]] const std::filesystem::path& directory() const noexcept { return directory_; }

 private:
  void open(const std::filesystem::path& path) {
    name_ = path.string();
    directory_ = path.has_parent_path() ? path.parent_path() : ".";
    files_.emplace_back(path);
  }

  void open_shards(const std::filesystem::path& index) {
    using detail::core::text;
    using detail::store::fail;
    using detail::store::in_quotes;
    name_ = index.string();
    directory_ = index.has_parent_path() ? index.parent_path() : ".";
    const Json document = read_json(index);
    const auto* root = document.get_ptr<const Json::object_t*>();
    const auto map = root == nullptr ? Json::object_t::const_iterator{} : root->find("weight_map");
    const Json::object_t* members =
        root == nullptr || map == root->end() ? nullptr : map->second.get_ptr<const Json::object_t*>();
    if (members == nullptr) fail(name_, "there is no object \"weight_map\"");

    // Shards in the order in which the index first names them.
    std::unordered_map<std::string, std::size_t> shards;
    std::vector<std::string> order;
    for (const auto& [tensor, value] : *members) {
      const auto* shard = value.get_ptr<const std::string*>();
      if (shard == nullptr) fail(name_, text("the shard of tensor ", in_quotes(tensor), " is not a string"));
      if (!detail::store::stays_inside(*shard))
        fail(name_, text("the shard ", in_quotes(*shard), " of tensor ", in_quotes(tensor),
                         " is not a relative path inside the directory"));
      if (shards.emplace(*shard, order.size()).second) order.push_back(*shard);
    }
    std::unordered_map<std::string_view, const File*> holder;
    files_.reserve(order.size());
    for (const std::string& shard : order) {
      const auto path = directory_ / shard;
      std::error_code ignored;
      if (!std::filesystem::exists(path, ignored)) fail(name_, text("the shard ", in_quotes(shard), " is missing"));
      files_.emplace_back(path);
      for (const Tensor& t : files_.back().tensors())
        if (const auto [other, is_new] = holder.emplace(t.name, &files_.back()); !is_new)
          fail(files_.back().path(), t.offset,
               text("tensor ", in_quotes(t.name), " is also in ", in_quotes(other->second->path())));
    }
    for (const auto& [tensor, value] : *members) {
      const auto& shard = *value.get_ptr<const std::string*>();
      if (files_[shards.at(shard)].find(tensor) == nullptr)
        fail(name_, text("tensor ", in_quotes(tensor), " is not in its shard ", in_quotes(shard)));
    }
  }

  void list_tensors() {
    for (const File& file : files_)
      for (const Tensor& t : file.tensors()) tensors_.push_back(&t);
  }

  std::string name_;
  std::filesystem::path directory_;
  std::vector<File> files_;
  std::vector<const Tensor*> tensors_;
};

}  // namespace store
}  // namespace sinq::inline SINQ_ABI
