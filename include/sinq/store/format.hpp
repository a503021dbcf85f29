// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../pack.hpp"
#include "json.hpp"
#include "tensor.hpp"

// The stored form of a quantized matrix, version 1. This comment and the tables below are its only definition;
// tests/golden holds a file of it, byte for byte.
//
// A matrix NAME in a safetensors file is a description and up to six tensors. `cols`, `groups` and `panels` follow
// from rows, cols, group_size and tile as in tile.hpp; bits of rows of codes and of integer auxiliaries are dense
// streams (pack/bitstream.hpp), each row filled up with zero bits to a whole byte.
//
//   tensor              element type       shape                      where
//   NAME.codes          U8                 [rows, bytes of a row]     always
//   NAME.scale          F16, BF16, F32     [rows, groups]             scale is f16, bf16, f32
//                       U8                 [rows, bytes of a row]     scale is u4 to u8
//   NAME.zero           as for the scale                              unless zero is none
//   NAME.coarse_scale   F16                [rows, coarse groups]      scale is u4 to u8
//   NAME.col_scale      F16, BF16, F32     [panels, cols]             unless col_scale is none
//   NAME.levels         I8                 [2^bits], never falling    levels is table
//
// The description is the JSON text, of at most 4096 bytes, under the key "sinq:NAME" of __metadata__: an object with
// exactly these members.
//
//   version         1
//   rows, cols      1 to 2^31 - 1
//   bits            2, 3, 4, 5, 6, 8
//   levels          "uniform", "symmetric", "nf4", "nf3", "table"
//   group_size      multiple of 16 from 16 to 256, or 0: the whole row
//   tile            "stripe", "square"
//   scale           "u4" to "u8", "f16", "bf16", "f32"
//   zero            "none" or as for the scale
//   col_scale       "none", "f16", "bf16", "f32"
//   signed_scale    true, false
//   coarse_groups   0 to 2^31 - 1; 0: one coarse scale for the whole row
//
// A stack NAME of matrices (the fused experts of a mixture model, [experts, rows, cols]) is the matrices NAME.0,
// NAME.1, ... in the same file or other files of the model, and under "sinq:NAME" an object with exactly the members
// version and stack (their number, 0 to 2^31 - 1).
//
// A reader refuses other versions, members and names, tensors that are missing or of another type or shape, bits set
// in the filling, and auxiliaries that are not finite: what it accepts passes `sinq::validate`, and equal matrices have
// equal bytes. Codes need no check: every value of their bits is one.

namespace sinq::inline SINQ_ABI {
namespace store {

/// Version of the stored form. It rises whenever an older reader would misunderstand a newer file.
inline constexpr int kFormatVersion = 1;

}  // namespace store

namespace detail::store {

inline constexpr std::string_view kDescriptionPrefix = "sinq:";

/// Longer descriptions are refused before they are parsed. (The longest that is written has some 250 bytes.)
inline constexpr std::size_t kMaxDescriptionBytes = 4096;

// The values that a description may have, in the order in which a message names them.
inline constexpr std::array kLevels = {Levels::uniform, Levels::symmetric, Levels::nf4, Levels::nf3, Levels::table};
inline constexpr std::array kTiles = {Tile::stripe, Tile::square};
inline constexpr std::array kAuxiliaries = {Aux::none, Aux::u4,  Aux::u5,   Aux::u6, Aux::u7,
                                            Aux::u8,   Aux::f16, Aux::bf16, Aux::f32};

// What the bytes of version 1 rest on elsewhere in the library. Whoever has to change one of these lines changes the
// stored form, and raises its version.
static_assert(sizeof(half) == 2 && sizeof(bfloat16) == 2 && sizeof(LevelTable) == 16);
static_assert(pack::stream_bytes(9, 3) == 4 && pack::stream_bytes(8, 5) == 5);
static_assert(pack::gather<3>(0x0706'0504'0302'0100) == 0b111'110'101'100'011'010'001'000);
static_assert(bits_of(Aux::u4) == 4 && bits_of(Aux::u8) == 8 && bits_of(Aux::none) == 0);
static_assert(bits_of(Aux::f16) == 16 && bits_of(Aux::bf16) == 16 && bits_of(Aux::f32) == 32);
static_assert(core::level(Levels::uniform, 3, {}, 5) == 5.0f && core::level(Levels::symmetric, 3, {}, 5) == 1.0f);
static_assert(kNf4[1] == -0.6961928009986877f && kNf3[1] == -0.5350227355957031f);
static_assert(kWholeRow == 0);

/// "none, u4, u5" for a message.
template <class Values>
std::string names_of(const Values& values) {
  std::string out;
  for (const auto value : values) out += (out.empty() ? "" : ", ") + std::string(name_of(value));
  return out;
}

/// A tensor that a matrix consists of, as the table above has it.
struct Part {
  const char* suffix;
  ElementType type;
  std::int64_t rows;  // 0: the part does not exist
  std::int64_t cols;  // elements of a row
};

/// The parts of a matrix in the order in which they are stored: by falling alignment, where f32 does not occur. Level
/// tables come last and are not in here.
inline std::array<Part, 5> parts(const Format& f, const Tiling& t) {
  const pack::Extents e = pack::extents(f, t);
  const auto element = [](Aux aux) {
    return aux == Aux::f16    ? ElementType::f16
           : aux == Aux::bf16 ? ElementType::bf16
           : aux == Aux::f32  ? ElementType::f32
                              : ElementType::u8;
  };
  const auto auxiliary = [&](const char* suffix, Aux aux, std::int64_t rows, std::int64_t entries,
                             std::int64_t row_bytes) {
    return Part{suffix, element(aux), row_bytes == 0 ? 0 : rows, is_integer(aux) ? row_bytes : entries};
  };
  return {Part{"codes", ElementType::u8, t.rows, e.code_row},
          auxiliary("scale", f.scale, t.rows, t.groups(), e.scale_row),
          auxiliary("zero", f.zero, t.rows, t.groups(), e.zero_row),
          auxiliary("coarse_scale", Aux::f16, t.rows, e.coarse_row / 2, e.coarse_row),
          auxiliary("col_scale", f.col_scale, t.panels(), t.cols, e.col_row)};
}

/// The arrays of a matrix in the order of its parts.
template <class Matrix>
auto arrays(Matrix& q) {
  return std::array{&q.codes, &q.scale, &q.zero, &q.coarse_scale, &q.col_scale};
}

/// The description of a matrix, as text.
inline std::string description_of(const Format& f, std::int64_t rows, std::int64_t cols) {
  const Json json = {{"version", sinq::store::kFormatVersion},
                     {"rows", rows},
                     {"cols", cols},
                     {"bits", f.bits},
                     {"levels", name_of(f.levels)},
                     {"group_size", f.group_size},
                     {"tile", name_of(f.tile)},
                     {"scale", name_of(f.scale)},
                     {"zero", name_of(f.zero)},
                     {"col_scale", name_of(f.col_scale)},
                     {"signed_scale", f.signed_scale},
                     {"coarse_groups", f.coarse_groups}};
  return json.dump();
}

/// What a description says: one matrix, or a stack of them.
struct Description {
  Format format;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stack = -1;  // matrices in the stack; -1: it is one matrix
};

/// Reads a description; everything in it is checked, so that `tiling` and `extents` may be called with what comes back.
class DescriptionReader {
 public:
  /// `text` is the value at byte `offset` of `file` that describes `name`.
  DescriptionReader(std::string_view text, std::string_view file, std::uint64_t offset, std::string_view name)
      : origin_{file, offset, true, core::text("description of ", in_quotes(name), ": ")} {
    if (text.size() > kMaxDescriptionBytes) refuse(core::text("longer than ", kMaxDescriptionBytes, " bytes"));
    json_ = DocumentBuilder(text, origin_).build();
  }

  Description read() {
    if (!json_.is_object()) refuse("it is not an object");
    const std::int64_t version = integer("version", 0, INT64_MAX);
    if (version != sinq::store::kFormatVersion)
      refuse(core::text("version ", version, " of the stored form; this library reads version ",
                        sinq::store::kFormatVersion));
    Description d;
    if (find("stack") != nullptr) {
      d.stack = integer("stack", 0, INT32_MAX);
    } else {
      d.rows = integer("rows", 1, INT32_MAX);
      d.cols = integer("cols", 1, INT32_MAX);
      d.format.bits = static_cast<int>(integer("bits", 0, INT32_MAX));
      d.format.levels = named("levels", kLevels);
      d.format.group_size = integer("group_size", 0, INT32_MAX);
      d.format.tile = named("tile", kTiles);
      d.format.scale = named("scale", kAuxiliaries);
      d.format.zero = named("zero", kAuxiliaries);
      d.format.col_scale = named("col_scale", kAuxiliaries);
      d.format.signed_scale = flag("signed_scale");
      d.format.coarse_groups = integer("coarse_groups", 0, INT32_MAX);
      if (const auto fault = pack::fault_of(d.format)) refuse(*fault);
    }
    for (const auto& [name, value] : *json_.get_ptr<const Json::object_t*>())
      if (std::find(known_.begin(), known_.end(), name) == known_.end())
        refuse(core::text("unknown member ", in_quotes(name)));
    return d;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const { fail(origin_.file, origin_.offset, origin_.part + what); }

  [[nodiscard]] const Json* find(std::string_view name) const {
    for (const auto& [key, value] : *json_.get_ptr<const Json::object_t*>())
      if (key == name) return &value;
    return nullptr;
  }

  const Json& at(std::string_view name) {
    const Json* value = find(name);
    if (value == nullptr) refuse(core::text(in_quotes(name), " is missing"));
    known_.push_back(name);
    return *value;
  }

  std::int64_t integer(std::string_view name, std::int64_t least, std::int64_t most) {
    const Json& json = at(name);
    const auto* value = json.get_ptr<const Json::number_unsigned_t*>();
    if (value == nullptr || *value > static_cast<std::uint64_t>(most) || static_cast<std::int64_t>(*value) < least)
      refuse(core::text(in_quotes(name), " must be an integer from ", least, " to ", most));
    return static_cast<std::int64_t>(*value);
  }

  bool flag(std::string_view name) {
    const auto* value = at(name).get_ptr<const bool*>();
    if (value == nullptr) refuse(core::text(in_quotes(name), " must be true or false"));
    return *value;
  }

  template <class E, std::size_t kCount>
  E named(std::string_view name, const std::array<E, kCount>& known) {
    const auto* value = at(name).get_ptr<const std::string*>();
    if (value != nullptr)
      for (const E one : known)
        if (name_of(one) == *value) return one;
    refuse(core::text(in_quotes(name), value == nullptr ? std::string() : " = " + in_quotes(*value), ": known are ",
                      names_of(known)));
  }

  JsonOrigin origin_;
  Json json_;
  std::vector<std::string_view> known_;
};

}  // namespace detail::store
}  // namespace sinq::inline SINQ_ABI
