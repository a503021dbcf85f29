// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>

#include "checkpoint.hpp"
#include "format.hpp"
#include "writer.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::store {

using sinq::store::Checkpoint;
using sinq::store::File;

inline std::string key_of(std::string_view name) {
  return std::string(kDescriptionPrefix) + std::string(name);
}

/// Part `suffix` of matrix `name`, which must have that type and shape.
inline const Tensor& part_of(const File& file, std::uint64_t description_at, std::string_view name, const char* suffix,
                             ElementType type, std::initializer_list<std::int64_t> shape) {
  const std::string full = core::text(name, ".", suffix);
  const Tensor* t = file.find(full);
  if (t == nullptr)
    fail(file.path(), description_at,
         core::text("matrix ", in_quotes(name), " is described, but its tensor ", in_quotes(full), " is missing"));
  if (t->type != type || !std::equal(shape.begin(), shape.end(), t->shape.begin(), t->shape.end()))
    refuse(*t, core::text("its description asks for ",
                          sinq::store::describe(type, std::span(shape.begin(), shape.size()))));
  return *t;
}

inline Description read_description(const File& file, const sinq::store::Metadata& entry) {
  return DescriptionReader(entry.value, file.path(), entry.offset,
                           std::string_view(entry.key).substr(kDescriptionPrefix.size()))
      .read();
}

/// About what a matrix adds to the header of a file.
inline std::int64_t header_bytes(std::string_view name) {
  return 6 * static_cast<std::int64_t>(name.size()) + 740;
}

}  // namespace detail::store

namespace store {

/// Adds a quantized matrix to a file, as store/format.hpp describes it. InvalidArgument unless `validate` accepts it
/// and the names are free; the file is then as it was.
inline void write(Writer& out, std::string_view name, const QuantizedMatrix& q) {
  using detail::core::require;
  using detail::core::text;
  validate(q);
  const auto each_part = [&](auto&& visit) {
    const auto parts = detail::store::parts(q.format, q.tiling());
    const auto arrays = detail::store::arrays(q);
    for (std::size_t k = 0; k < parts.size(); ++k)
      if (parts[k].rows != 0)
        visit(text(name, ".", parts[k].suffix), parts[k].type, std::array{parts[k].rows, parts[k].cols},
              std::as_bytes(std::span(*arrays[k])));
    if (const std::int64_t count = detail::pack::table_bytes(q.format); count != 0)
      visit(text(name, ".levels"), ElementType::i8, std::array{count},
            std::as_bytes(std::span(q.table).first(static_cast<std::size_t>(count))));
  };
  // Parts without a description are tensors like others; a description without its parts makes a file unreadable.
  const std::string key = detail::store::key_of(name);
  require(!out.has_metadata(key), "metadata key", key, "occurs twice");
  each_part([&](const std::string& part, auto&&...) { require(!out.has(part), "name", part, "occurs twice"); });
  each_part([&](const std::string& part, ElementType type, const auto& shape, std::span<const std::byte> bytes) {
    out.add(part, type, shape, bytes);
  });
  out.metadata(key, detail::store::description_of(q.format, q.rows, q.cols));
}

/// The name of matrix `index` of stack `name`.
[[nodiscard]] inline std::string name_in_stack(std::string_view name, std::int64_t index) {
  return detail::core::text(name, ".", index);
}

/// Says that `name` is a stack of `count` matrices, each of which `write` adds under its `name_in_stack`, to the
/// same file or another of the same model.
inline void declare_stack(Writer& out, std::string_view name, std::int64_t count) {
  detail::core::require(count >= 0 && count <= INT32_MAX, "count", count, "allowed are 0 to 2^31 - 1");
  out.metadata(detail::store::key_of(name), Json({{"version", kFormatVersion}, {"stack", count}}).dump());
}

/// Whether the file describes `name` as a quantized matrix or a stack of them.
[[nodiscard]] inline bool is_quantized(const File& file, std::string_view name) {
  return file.find_metadata(detail::store::key_of(name)) != nullptr;
}
[[nodiscard]] inline bool is_quantized(const Checkpoint& checkpoint, std::string_view name) {
  return checkpoint.find_metadata(detail::store::key_of(name)) != nullptr;
}

/// Reads matrix `name`: FormatError unless it is there and everything about it is as store/format.hpp demands. What
/// comes back passes `validate`.
[[nodiscard]] inline QuantizedMatrix read_quantized(const File& file, std::string_view name) {
  using namespace detail::store;
  const Metadata* entry = file.find_metadata(key_of(name));
  if (entry == nullptr) fail(file.path(), "there is no quantized matrix " + in_quotes(name));
  const Description description = read_description(file, *entry);
  if (description.stack >= 0)
    fail(file.path(), entry->offset, in_quotes(name) + " is a stack of matrices: read them one by one");
  QuantizedMatrix q;
  q.format = description.format;
  q.rows = description.rows;
  q.cols = description.cols;
  const auto all = parts(q.format, q.tiling());
  const auto bytes = arrays(q);
  for (std::size_t k = 0; k < all.size(); ++k) {
    if (all[k].rows == 0) continue;
    const Tensor& t = part_of(file, entry->offset, name, all[k].suffix, all[k].type, {all[k].rows, all[k].cols});
    const auto* first = reinterpret_cast<const std::uint8_t*>(t.data.data());
    bytes[k]->assign(first, first + t.data.size());
  }
  if (const std::int64_t count = detail::pack::table_bytes(q.format); count != 0) {
    const Tensor& t = part_of(file, entry->offset, name, "levels", ElementType::i8, {count});
    std::memcpy(q.table.data(), t.data.data(), t.data.size());
  }
  if (const auto fault = detail::pack::fault_of(q)) {
    const Tensor& t = file.at(detail::core::text(name, ".", fault->part));
    fail(file.path(), t.offset + static_cast<std::uint64_t>(fault->byte),
         detail::core::text("tensor ", in_quotes(t.name), ": ", fault->what));
  }
  return q;
}
[[nodiscard]] inline QuantizedMatrix read_quantized(const Checkpoint& checkpoint, std::string_view name) {
  const File* file = checkpoint.file_with_metadata(detail::store::key_of(name));
  if (file == nullptr)
    detail::store::fail(checkpoint.name(), "there is no quantized matrix " + detail::store::in_quotes(name));
  return read_quantized(*file, name);
}

/// What a checkpoint holds, in the order of its files.
struct Contents {
  struct Matrix {
    std::string name;
    Format format;
    std::int64_t rows;
    std::int64_t cols;
    std::int64_t bytes;  // as QuantizedMatrix::bytes()
  };
  struct Stack {
    std::string name;
    std::int64_t count;
  };
  std::vector<Matrix> quantized;  // those of a stack under their own names
  std::vector<Stack> stacks;
  std::vector<const Tensor*> plain;  // tensors that are no part of a quantized matrix
};

/// Reads all descriptions; the bytes of the matrices stay unread. FormatError where a description is malformed, a
/// tensor that it asks for is missing or of another type or shape, or a stack lacks a matrix.
[[nodiscard]] inline Contents contents(const Checkpoint& checkpoint) {
  using namespace detail::store;
  Contents out;
  std::unordered_set<const Tensor*> taken;
  for (const File& file : checkpoint.files()) {
    for (const Metadata& entry : file.metadata()) {
      if (!entry.key.starts_with(kDescriptionPrefix)) continue;
      const std::string name = entry.key.substr(kDescriptionPrefix.size());
      const Description d = read_description(file, entry);
      if (d.stack >= 0) {
        for (std::int64_t k = 0; k < d.stack; ++k)
          if (!is_quantized(checkpoint, name_in_stack(name, k)))
            fail(file.path(), entry.offset,
                 detail::core::text("matrix ", k, " of the stack ", in_quotes(name), " is missing"));
        out.stacks.push_back({name, d.stack});
        continue;
      }
      std::int64_t bytes = 0;
      const auto take = [&](const Tensor& t) {
        taken.insert(&t);
        bytes += static_cast<std::int64_t>(t.data.size());
      };
      for (const Part& part : parts(d.format, tiling(d.rows, d.cols, d.format.group_size, d.format.tile)))
        if (part.rows != 0) take(part_of(file, entry.offset, name, part.suffix, part.type, {part.rows, part.cols}));
      if (const std::int64_t count = detail::pack::table_bytes(d.format); count != 0)
        take(part_of(file, entry.offset, name, "levels", ElementType::i8, {count}));
      out.quantized.push_back({name, d.format, d.rows, d.cols, bytes});
    }
  }
  for (const Tensor* t : checkpoint.tensors())
    if (!taken.contains(t)) out.plain.push_back(t);
  return out;
}

/// A matrix and what to call it.
struct NamedMatrix {
  std::string_view name;
  const QuantizedMatrix& matrix;
};

/// Saves matrices as one file, which replaces `path` once it is complete.
///
///     store::save("layer.safetensors", {{"q_proj", q}, {"k_proj", k}});
inline void save(const std::filesystem::path& path, std::span<const NamedMatrix> matrices) {
  std::int64_t header = 2;
  for (const NamedMatrix& m : matrices) header += detail::store::header_bytes(m.name);
  Writer out(path, {.header_bytes = header});
  for (const NamedMatrix& m : matrices) write(out, m.name, m.matrix);
  out.finish();
}
inline void save(const std::filesystem::path& path, std::initializer_list<NamedMatrix> matrices) {
  save(path, std::span(matrices.begin(), matrices.size()));
}

/// All quantized matrices of a file or checkpoint by name. To read one at a time: `read_quantized`.
[[nodiscard]] inline std::map<std::string, QuantizedMatrix, std::less<>> load(const std::filesystem::path& path) {
  const Checkpoint checkpoint(path);
  std::map<std::string, QuantizedMatrix, std::less<>> out;
  for (const auto& matrix : contents(checkpoint).quantized)
    out.emplace(matrix.name, read_quantized(checkpoint, matrix.name));
  return out;
}

}  // namespace store
}  // namespace sinq::inline SINQ_ABI
