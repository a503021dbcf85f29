// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config.hpp"
#include "quantized.hpp"

namespace sinq::inline SINQ_ABI {
namespace store {

/// `quant_method` in the config.json of a directory that DirectoryWriter wrote. (Not "sinq": transformers uses that
/// name for another layout.)
inline constexpr const char* kQuantMethod = "sinq-cpp";

struct DirectoryOptions {
  /// Data bytes after which a further file is begun. One matrix or tensor is never split.
  std::int64_t shard_bytes = 5'000'000'000;
};

}  // namespace store

namespace detail::store {

/// Weights of other forms, which a quantized copy has no use for, and everything that is not small.
[[nodiscard]] inline bool travels_along(const std::filesystem::path& file) {
  constexpr std::uintmax_t kMost = std::uintmax_t{64} << 20;  // the largest tokenizers have about 35 MB
  const std::string name = file.filename().string();
  const std::string extension = file.extension().string();
  for (const char* weights :
       {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".pkl", ".tmp"})
    if (extension == weights) return false;
  if (name == kConfigName || name.starts_with('.') || name.ends_with(".index.json")) return false;
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) return false;
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  return !error && size <= kMost;
}

/// model-00002-of-00007.safetensors
[[nodiscard]] inline std::string shard_name(std::size_t index, std::size_t count) {
  const auto digits = [](std::size_t n) {
    const std::string s = std::to_string(n);
    return std::string(5 - std::min<std::size_t>(s.size(), 5), '0') + s;
  };
  return "model-" + digits(index + 1) + "-of-" + digits(count) + ".safetensors";
}

[[nodiscard]] inline bool is_shard_name(const std::string& name) {
  const auto is_number = [&](std::size_t at) {
    return name.substr(at, 5).find_first_not_of("0123456789") == std::string::npos;
  };
  return name.size() == shard_name(0, 1).size() && name.starts_with("model-") && is_number(6) &&
         name.substr(11, 4) == "-of-" && is_number(15) && name.ends_with(".safetensors");
}

inline void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_io("replace", to, errno);
}

/// The names of what lies directly in a directory, sorted.
inline std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  if (error) fail_io("list", directory, error.value());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace detail::store

namespace store {

/// Writes a quantized copy of a model directory.
///
///     DirectoryWriter out(checkpoint, "model-4bit");
///     out.write("model.layers.0.mlp.up_proj.weight", q);          // a matrix, quantized
///     out.keep(checkpoint.at("model.norm.weight"), "not a matrix");  // as it is, and why
///     out.finish({{"bits", 4}, {"group_size", 64}});
///
/// The result holds model.safetensors, or model-00001-of-0000N.safetensors and model.safetensors.index.json;
/// config.json as it was plus `quantization_config` (quant_method, format_version, what `finish` was given,
/// quantized_matrices: how many, and left_alone: tensor -> reason); and the small files beside them (tokenizer,
/// generation settings, licence, ...; not: hidden files, subdirectories, weights of other forms, anything above 64
/// MiB). config.json is read and printed again, so its layout may change; order, names and values do not.
///
/// What a kill or an error leaves. All of it is first written to a temporary directory, which an error removes and a
/// kill leaves behind (its name ends in ".tmp"). If `target` does not exist, that directory is beside it and becomes it
/// in one rename: all or nothing. If it exists, the temporary directory is inside it and the files are moved one by
/// one, each whole: the small files, the shards and the index, config.json, and model.safetensors where there is one;
/// model files of an earlier save that are now stale go last. So a model in one file is replaced in one step; when
/// shards replace shards of the same names, a kill between two renames can leave a mixture, which Checkpoint refuses
/// where it does not fit together. Other files in `target` stay as they are.
///
/// One writer is used by one thread at a time; writers of different targets may run at once.
class DirectoryWriter {
 public:
  /// InvalidArgument where the model lies in `target` itself, FormatError where its config.json is malformed or says
  /// that it is already quantized. A model without config.json, such as one in memory, is fine.
  DirectoryWriter(const Checkpoint& source, std::filesystem::path target, const DirectoryOptions& options = {})
      : source_(source.directory()), target_(std::move(target)), options_(options) {
    namespace fs = std::filesystem;
    detail::core::require(options.shard_bytes > 0, "shard_bytes", options.shard_bytes, "must be above 0");
    detail::core::require(!target_.empty(), "target", "\"\"", "must name a directory");
    std::error_code error;
    if (!target_.has_filename()) target_ = target_.parent_path();  // "out/"
    is_new_ = !fs::exists(target_, error);
    if (!is_new_ && fs::equivalent(source_, target_, error))
      detail::core::raise<InvalidArgument>(
          detail::core::text("sinq: target = ", target_.string(), ": the model itself lies there"));
    header_bytes_ = header_estimate(source, options.shard_bytes);
    config_ = Json::object();
    if (!source_.empty() && fs::exists(source_ / detail::store::kConfigName, error))
      config_ = Config(source_ / detail::store::kConfigName).json();
    if (config_.contains("quantization_config"))
      detail::store::fail((source_ / detail::store::kConfigName).string(),
                          "the model is already quantized (there is a \"quantization_config\")");
    do {
      staging_ = is_new_ ? target_ : target_ / ".sinq";
      staging_ += detail::store::unique_suffix();
    } while (!fs::create_directories(staging_, error) && !error);
    if (error) detail::store::fail_io("create", staging_, error.value());
  }

  DirectoryWriter(const DirectoryWriter&) = delete;
  DirectoryWriter& operator=(const DirectoryWriter&) = delete;
  ~DirectoryWriter() {
    shard_.reset();
    std::error_code ignored;
    if (!staging_.empty()) std::filesystem::remove_all(staging_, ignored);
  }

  void write(std::string_view name, const QuantizedMatrix& q) {
    store::write(shard_for(q.bytes()), name, q);
    ++quantized_;
  }

  /// See store::declare_stack. The matrices may end up in different files.
  void declare_stack(std::string_view name, std::int64_t count) { store::declare_stack(shard_for(0), name, count); }

  /// A tensor as it is, and the reason why it is not quantized.
  void keep(const Tensor& t, std::string_view reason) {
    shard_for(static_cast<std::int64_t>(t.data.size())).add(t);
    left_alone_.emplace_back(t.name, reason);
  }

  /// A tensor of a copy that is not quantized (see finish_unquantized).
  void add(std::string_view name, ElementType type, std::span<const std::int64_t> shape,
           std::span<const std::byte> data) {
    shard_for(static_cast<std::int64_t>(data.size())).add(name, type, shape, data);
  }

  struct Saved {
    std::vector<std::string> files;
    std::int64_t model_bytes = 0;  // of the safetensors files, headers included
  };

  /// Completes the directory. `settings`, an object without the four members above, goes into the
  /// `quantization_config`. Once, as the last call.
  Saved finish(const Json& settings = Json::object()) {
    detail::core::require(settings.is_object(), "settings", settings.type_name(), "must be a JSON object");
    return complete(config_with(settings));
  }

  /// Completes a directory of full-precision weights: config.json is as it was but for `changes`, an object. Instead of
  /// `finish`, where neither `write` nor `keep` was called.
  Saved finish_unquantized(const Json& changes = Json::object()) {
    detail::core::require(changes.is_object(), "changes", changes.type_name(), "must be a JSON object");
    detail::core::require(quantized_ == 0 && left_alone_.empty(), "tensors written or kept",
                          quantized_ + static_cast<std::int64_t>(left_alone_.size()), "must be 0 in such a copy");
    config_.update(changes);
    return complete(config_);
  }

 private:
  Saved complete(const Json& config) {
    shard_for(0);  // a model without tensors is a file without tensors
    close_shard();
    Saved saved;
    std::vector<std::string> models = name_shards(saved.model_bytes);
    std::vector<std::string> others = copy_small_files();
    replace(detail::store::kConfigName, printed(config));
    put_in_place(models, others);
    saved.files = std::move(others);
    saved.files.emplace_back(detail::store::kConfigName);
    saved.files.insert(saved.files.end(), models.begin(), models.end());
    return saved;
  }

  /// Room for the header of one file if every matrix is quantized. A quantized file holds some four times as many
  /// tensors as one of the same size that is not.
  static std::int64_t header_estimate(const Checkpoint& source, std::int64_t shard_bytes) {
    double header = 0;
    double data = 1;
    for (const Tensor* t : source.tensors()) {
      const auto count = is_matrix_stack(*t) ? static_cast<double>(t->shape[0]) : 1.0;
      header += count * static_cast<double>(is_matrix(*t) || is_matrix_stack(*t)
                                                ? detail::store::header_bytes(t->name)
                                                : static_cast<std::int64_t>(t->name.size()) + 100);
      data += static_cast<double>(t->data.size());
    }
    header *= std::min(1.0, 4.0 * static_cast<double>(shard_bytes) / data);
    return static_cast<std::int64_t>(std::min(header, 16e6));
  }

  static std::string printed(const Json& json) {
    return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }

  void replace(const std::string& name, std::string_view text) { detail::store::replace_file(staging_ / name, text); }

  /// The writer of the file into which the next `bytes` go.
  Writer& shard_for(std::int64_t bytes) {
    if (shard_ && shard_->data_bytes() > 0 && shard_->data_bytes() + bytes > options_.shard_bytes) close_shard();
    if (!shard_) {
      shards_.push_back(staging_ / ("shard-" + std::to_string(shards_.size())));
      shard_.emplace(shards_.back(), WriterOptions{.header_bytes = header_bytes_, .taken = &names_});
    }
    return *shard_;
  }

  void close_shard() {
    shard_->finish();
    names_.insert(shard_->names().begin(), shard_->names().end());
    shard_.reset();
  }

  /// Gives the files their names, now that their number is known, and writes the index. Reads the headers back.
  std::vector<std::string> name_shards(std::int64_t& bytes) {
    std::vector<std::string> names;
    Json::object_t map;
    std::int64_t data = 0;
    for (std::size_t k = 0; k < shards_.size(); ++k) {
      names.push_back(shards_.size() == 1 ? detail::store::kModelName : detail::store::shard_name(k, shards_.size()));
      std::error_code error;
      bytes += static_cast<std::int64_t>(std::filesystem::file_size(shards_[k], error));
      const File file(shards_[k]);
      for (const Tensor& t : file.tensors()) {
        static_cast<Json::object_t::Container&>(map).emplace_back(t.name, names[k]);
        data += static_cast<std::int64_t>(t.data.size());
      }
      detail::store::rename_file(shards_[k], staging_ / names[k]);
    }
    if (names.size() > 1) {
      const Json index = {{"metadata", {{"total_size", data}}}, {"weight_map", std::move(map)}};
      names.emplace_back(detail::store::kIndexName);
      replace(names.back(), printed(index));
    }
    return names;
  }

  std::vector<std::string> copy_small_files() {
    std::vector<std::string> copied;
    if (source_.empty()) return copied;
    for (const std::string& name : detail::store::names_in(source_)) {
      if (!detail::store::travels_along(source_ / name)) continue;
      const detail::store::MappedFile file(source_ / name);
      replace(name, {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
      copied.push_back(name);
    }
    return copied;
  }

  Json config_with(const Json& settings) {
    for (const char* name : {"quant_method", "format_version", "quantized_matrices", "left_alone"})
      detail::core::require(!settings.contains(name), "settings", name, "is not for the caller to set");
    Json quantization = {{"quant_method", kQuantMethod}, {"format_version", kFormatVersion}};
    quantization.update(settings);
    quantization["quantized_matrices"] = quantized_;
    Json left_alone = Json::object();
    for (auto& [name, reason] : left_alone_)
      static_cast<Json::object_t::Container&>(*left_alone.get_ptr<Json::object_t*>())
          .emplace_back(std::move(name), std::move(reason));
    quantization["left_alone"] = std::move(left_alone);
    config_["quantization_config"] = std::move(quantization);
    return config_;
  }

  void put_in_place(const std::vector<std::string>& models, const std::vector<std::string>& others) {
    namespace fs = std::filesystem;
    if (is_new_) {
      detail::store::sync_directory(staging_);
      detail::store::rename_file(staging_, target_);
      staging_.clear();
      detail::store::sync_directory(target_.parent_path());
      return;
    }
    const auto move = [&](const std::string& name) { detail::store::rename_file(staging_ / name, target_ / name); };
    const bool is_single = models.size() == 1;
    for (const std::string& name : others) move(name);
    if (!is_single)
      for (const std::string& name : models) move(name);
    move(detail::store::kConfigName);
    if (is_single) move(models.front());
    detail::store::sync_directory(target_);
    // From here on only what is stale is left to remove; the first of these is what readers prefer to an index.
    std::error_code ignored;
    const auto is_new = [&](const std::string& name) {
      return std::find(models.begin(), models.end(), name) != models.end();
    };
    for (const char* name : {detail::store::kModelName, detail::store::kIndexName})
      if (!is_new(name)) fs::remove(target_ / name, ignored);
    for (const std::string& name : detail::store::names_in(target_))
      if (detail::store::is_shard_name(name) && !is_new(name)) fs::remove(target_ / name, ignored);
    detail::store::sync_directory(target_);
  }

  std::filesystem::path source_;
  std::filesystem::path target_;
  std::filesystem::path staging_;  // empty once it has become the target
  DirectoryOptions options_;
  std::int64_t header_bytes_ = 0;
  bool is_new_ = true;
  Json config_;
  std::vector<std::filesystem::path> shards_;
  std::unordered_set<std::string> names_;  // of the tensors in files that are complete
  std::optional<Writer> shard_;
  std::int64_t quantized_ = 0;
  std::vector<std::pair<std::string, std::string>> left_alone_;
};

}  // namespace store
}  // namespace sinq::inline SINQ_ABI
