// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <unordered_map>

#include "header.hpp"

namespace sinq::inline SINQ_ABI::store {

/// A safetensors file, mapped and completely checked: whatever a Tensor of it says is true of its bytes.
///
/// The bytes themselves stay in the file. A file that another process truncates while it is mapped ends this one with
/// SIGBUS, as with every mapped file; replacing it by rename, as `Writer` does, is safe.
class File {
 public:
  /// IoError where the file cannot be opened or mapped, FormatError where it is malformed.
  explicit File(const std::filesystem::path& path)
      : map_(path), path_(std::make_unique<const std::string>(path.string())) {
    read(map_.bytes());
  }

  /// The same from memory that the caller keeps for as long as the object lives; `name` stands for the path in
  /// messages.
  File(std::span<const std::byte> bytes, std::string name)
      : path_(std::make_unique<const std::string>(std::move(name))) {
    read(bytes);
  }

  [[nodiscard]] const std::string& path() const noexcept { return *path_; }

  /// In the order of their data.
  [[nodiscard]] std::span<const Tensor> tensors() const noexcept { return tensors_; }

  /// Null where there is no tensor of that name.
  [[nodiscard]] const Tensor* find(std::string_view name) const noexcept {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &tensors_[found->second];
  }

  /// FormatError where there is no tensor of that name.
  [[nodiscard]] const Tensor& at(std::string_view name) const {
    const Tensor* t = find(name);
    if (t == nullptr) detail::store::fail(*path_, "there is no tensor " + detail::store::in_quotes(name));
    return *t;
  }

  /// In the order of the header.
  [[nodiscard]] std::span<const Metadata> metadata() const noexcept { return metadata_; }

  [[nodiscard]] const Metadata* find_metadata(std::string_view key) const noexcept {
    const auto found = metadata_by_key_.find(key);
    return found == metadata_by_key_.end() ? nullptr : &metadata_[found->second];
  }

  /// Gives the memory that reading a tensor took back to the system (it stays readable). For whoever goes through a
  /// model once.
  void forget(const Tensor& t) const noexcept { map_.forget(t.data); }

 private:
  void read(std::span<const std::byte> bytes) {
    detail::store::HeaderReader header(bytes, *path_);
    header.read();
    tensors_ = std::move(header.tensors);
    metadata_ = std::move(header.metadata);
    for (std::size_t k = 0; k < tensors_.size(); ++k) by_name_.emplace(tensors_[k].name, k);
    for (std::size_t k = 0; k < metadata_.size(); ++k) metadata_by_key_.emplace(metadata_[k].key, k);
  }

  detail::store::MappedFile map_;
  std::unique_ptr<const std::string> path_;  // behind a pointer, so that Tensor::file survives a move
  std::vector<Tensor> tensors_;
  std::vector<Metadata> metadata_;
  std::unordered_map<std::string_view, std::size_t> by_name_;  // keys: the names in `tensors_`
  std::unordered_map<std::string_view, std::size_t> metadata_by_key_;
};

}  // namespace sinq::inline SINQ_ABI::store
