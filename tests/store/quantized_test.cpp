// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

namespace {

using namespace sinq;
using store::Json;
using support::arbitrary;
using support::Directory;
using support::says;
using support::thrown_by;

const std::vector<Aux> kAllAux = {Aux::none, Aux::u4,  Aux::u5,   Aux::u6, Aux::u7,
                                  Aux::u8,   Aux::f16, Aux::bf16, Aux::f32};

/// Every combination of the members of a format, legal or not.
template <class Visit>
void for_each_format(const Visit& visit) {
  for (int bits : {1, 2, 3, 4, 5, 6, 7, 8, 9})
    for (Levels levels : {Levels::uniform, Levels::symmetric, Levels::nf4, Levels::nf3, Levels::table})
      for (Tile tile : {Tile::stripe, Tile::square})
        for (Aux scale : kAllAux)
          for (Aux zero : kAllAux)
            for (Aux col_scale : kAllAux)
              for (bool signed_scale : {false, true})
                for (std::int64_t coarse_groups : {0, 2})
                  visit(Format{.bits = bits,
                               .levels = levels,
                               .group_size = 32,
                               .tile = tile,
                               .scale = scale,
                               .zero = zero,
                               .col_scale = col_scale,
                               .signed_scale = signed_scale,
                               .coarse_groups = coarse_groups});
}

TEST(Quantized, TheReaderRefusesWhatValidateRefusesInTheSameWords) {
  int legal = 0;
  int refused = 0;
  for_each_format([&](const Format& f) {
    const auto fault = detail::pack::fault_of(f);
    legal += !fault;
    if (!fault || ++refused % 31 != 0) return;  // all of them take half a minute
    const std::string text = detail::store::description_of(f, 1, 1);
    const auto read = thrown_by([&] { (void)detail::store::DescriptionReader(text, "file", 17, "m").read(); });
    ASSERT_EQ(read.kind, "FormatError") << text;
    ASSERT_EQ(read.offset, 17u) << text;
    ASSERT_TRUE(read.message.ends_with(*fault + " (byte 17)")) << read.message;
    ASSERT_EQ(thrown_by([&] { detail::pack::validate(f); }).message, "sinq: " + *fault);
  });
  // 99 ways of levels with bits and zero, 23 of the scale, 4 of col_scale, 2 tiles.
  EXPECT_EQ(legal, 99 * 23 * 4 * 2);
  for (std::int64_t group : {-16, -1, 0, 1, 8, 16, 24, 64, 100, 240, 256, 272, 1 << 20}) {
    const bool valid = thrown_by([&] { (void)tiling(1, 1, group, Tile::stripe); }).kind == "nothing";
    EXPECT_EQ(valid, !detail::pack::fault_of(Format{.group_size = group})) << group;
  }
}

TEST(Quantized, EveryFormatComesBack) {
  Directory dir;
  std::vector<QuantizedMatrix> all;
  std::vector<std::string> names;
  unsigned seed = 0;
  for_each_format([&](const Format& f) {
    // Every seventh or so, so that each value of each member meets many others; all of them take a minute.
    if (detail::pack::fault_of(f) || ++seed % 7 != 0) return;
    all.push_back(arbitrary(f, 35, 77, seed));  // neither is a multiple of the group
    names.push_back("layer." + std::to_string(seed) + ".weight");
  });
  std::vector<store::NamedMatrix> named;
  for (std::size_t k = 0; k < all.size(); ++k) named.push_back({names[k], all[k]});
  store::save(dir / "m", named);
  const auto loaded = store::load(dir / "m");
  ASSERT_EQ(loaded.size(), all.size());
  for (std::size_t k = 0; k < all.size(); ++k) {
    ASSERT_EQ(loaded.at(names[k]) == all[k], true) << detail::store::description_of(all[k].format, 35, 77);
    validate(loaded.at(names[k]));
  }
}

TEST(Quantized, SizesAndGroups) {
  Directory dir;
  for (std::int64_t rows : {1, 2, 64, 65})
    for (std::int64_t cols : {1, 7, 8, 63, 64, 65, 300})
      for (std::int64_t group : {0, 16, 64, 256})
        for (Tile tile : {Tile::stripe, Tile::square}) {
          const Format f{.bits = 3, .group_size = group, .tile = tile, .scale = Aux::u5, .coarse_groups = 3};
          const QuantizedMatrix q = arbitrary(f, rows, cols);
          store::save(dir / "m", {{"q", q}});
          EXPECT_EQ(store::load(dir / "m").at("q") == q, true) << rows << " " << cols << " " << group;
        }
}

TEST(Quantized, BesideOtherTensors) {
  Directory dir;
  const QuantizedMatrix q = arbitrary({.bits = 2, .levels = Levels::table, .zero = Aux::none}, 5, 70);
  const QuantizedMatrix r = arbitrary({.bits = 8, .tile = Tile::square}, 70, 65);
  {
    store::Writer out(dir / "m");
    out.metadata("format", "pt");
    out.add("norm", store::ElementType::f32, {1}, support::bytes_of("abcd"));
    store::write(out, "q", q);
    out.add("q.bias", store::ElementType::u8, {2}, support::bytes_of("ef"));
    store::declare_stack(out, "experts", 2);
    store::write(out, store::name_in_stack("experts", 0), r);
    store::write(out, store::name_in_stack("experts", 1), q);
    store::declare_stack(out, "nobody", 0);
    out.finish();
  }
  const store::Checkpoint model(dir / "m");
  const store::Contents contents = store::contents(model);
  ASSERT_EQ(contents.quantized.size(), 3u);
  EXPECT_EQ(contents.quantized[0].name, "q");
  EXPECT_EQ(contents.quantized[0].bytes, q.bytes());
  EXPECT_EQ(contents.quantized[1].name, "experts.0");
  EXPECT_EQ(contents.quantized[1].rows, 70);
  EXPECT_EQ(contents.quantized[1].cols, 65);
  EXPECT_EQ(contents.quantized[1].format, r.format);
  ASSERT_EQ(contents.stacks.size(), 2u);
  EXPECT_EQ(contents.stacks[0].name, "experts");
  EXPECT_EQ(contents.stacks[0].count, 2);
  ASSERT_EQ(contents.plain.size(), 2u);
  EXPECT_EQ(contents.plain[0]->name, "norm");
  EXPECT_EQ(contents.plain[1]->name, "q.bias");
  EXPECT_EQ(store::read_quantized(model, "experts.0") == r, true);
  EXPECT_TRUE(store::is_quantized(model, "q"));
  EXPECT_TRUE(store::is_quantized(model, "experts"));
  EXPECT_FALSE(store::is_quantized(model, "norm"));
  EXPECT_TRUE(says(thrown_by([&] { (void)store::read_quantized(model, "norm"); }), "FormatError",
                   "no quantized matrix \"norm\""));
  EXPECT_TRUE(
      says(thrown_by([&] { (void)store::read_quantized(model, "experts"); }), "FormatError", "\"experts\" is a stack"));
}

TEST(Quantized, WhatIsNotWritten) {
  Directory dir;
  store::Writer out(dir / "m");
  const Format f{.bits = 3};
  const auto refused = [&](const QuantizedMatrix& q, const char* message) {
    return says(thrown_by([&] { store::write(out, "q", q); }), "InvalidArgument", message);
  };
  QuantizedMatrix q = arbitrary(f, 3, 65);
  q.codes.pop_back();
  EXPECT_TRUE(refused(q, "codes has"));
  q = arbitrary(f, 3, 65);  // 195 bits in 25 bytes
  q.codes[49] |= 0x08;
  EXPECT_TRUE(refused(q, "codes has bits set behind the end of row 1"));
  q = arbitrary({.bits = 2, .levels = Levels::table}, 3, 65);
  q.table = {-5, -6, 0, 1};
  EXPECT_TRUE(refused(q, "table[1] = -6: levels never fall"));
  q = arbitrary(f, 3, 65);
  detail::pack::write_float(Aux::f16, q.scale.data(), 2, INFINITY);
  EXPECT_TRUE(refused(q, "scale[2] is not finite"));
}

/// A matrix of which something is refused has left nothing, neither parts nor a description without them.
TEST(Quantized, ARefusalLeavesNothing) {
  Directory dir;
  const QuantizedMatrix q = arbitrary({.bits = 2, .levels = Levels::table}, 3, 65);
  for (const char* taken : {"q.codes", "q.zero", "q.levels"}) {
    store::Writer out(dir / "m");
    out.add(taken, store::ElementType::u8, {1}, support::bytes_of("x"));
    EXPECT_TRUE(says(thrown_by([&] { store::write(out, "q", q); }), "InvalidArgument",
                     "name = " + std::string(taken) + ": occurs twice"));
    store::declare_stack(out, "s", 0);
    EXPECT_TRUE(
        says(thrown_by([&] { store::write(out, "s", q); }), "InvalidArgument", "metadata key = sinq:s: occurs twice"));
    EXPECT_TRUE(says(thrown_by([&] { store::write(out, "\xff", q); }), "InvalidArgument", "must be UTF-8"));
    store::write(out, "r", q);
    out.finish();
    const store::Checkpoint model(dir / "m");
    const store::Contents contents = store::contents(model);
    EXPECT_EQ(contents.quantized.size(), 1u);
    EXPECT_EQ(contents.plain.size(), 1u);
    EXPECT_EQ(store::read_quantized(model, "r") == q, true);
  }
}

// What an attacker or an accident can do to a stored matrix. The file itself stays a legal safetensors file.

struct Stored {
  std::string description;
  std::vector<std::pair<std::string, std::string>> replaced;  // tensor -> its new entry in the header; "": removed
};

/// A matrix of integer scales and a level table, which has every part, as the pieces of a file.
class Forged : public ::testing::Test {
 protected:
  Format format_{.bits = 3,
                 .levels = Levels::table,
                 .group_size = 16,
                 .tile = Tile::square,
                 .scale = Aux::u6,
                 .zero = Aux::u4,
                 .col_scale = Aux::bf16,
                 .signed_scale = true,
                 .coarse_groups = 2};
  QuantizedMatrix q_ = arbitrary(format_, 21, 35);

  struct Part {
    std::string name;
    std::string type;
    std::string shape;
    std::string data;
  };
  Json description_ = Json::parse(detail::store::description_of(format_, 21, 35));
  std::string text_;  // instead of description_, where it is not empty
  std::vector<Part> parts_ = [this] {
    const auto data = [](const auto& bytes) { return support::string_of(std::as_bytes(std::span(bytes))); };
    return std::vector<Part>{{"codes", "U8", "[21,14]", data(q_.codes)},
                             {"scale", "U8", "[21,3]", data(q_.scale)},
                             {"zero", "U8", "[21,2]", data(q_.zero)},
                             {"coarse_scale", "F16", "[21,2]", data(q_.coarse_scale)},
                             {"col_scale", "BF16", "[2,35]", data(q_.col_scale)},
                             {"levels", "I8", "[8]", data(q_.table).substr(0, 8)}};
  }();

  Part& part(const std::string& name) {
    return *std::find_if(parts_.begin(), parts_.end(), [&](const Part& p) { return p.name == name; });
  }

  std::string bytes() const {
    const std::string text = text_.empty() ? description_.dump() : text_;
    std::string header = "{\"__metadata__\":{\"sinq:w\":" + Json(text).dump() + "}";
    std::string data;
    for (const Part& p : parts_) {
      header += ",\"w." + p.name + "\":{\"dtype\":\"" + p.type + "\",\"shape\":" + p.shape + ",\"data_offsets\":[" +
                std::to_string(data.size()) + "," + std::to_string(data.size() + p.data.size()) + "]}";
      data += p.data;
    }
    return support::safetensors(header + "}", data);
  }

  /// `bytes()` is refused by reading the matrix; the blame falls on byte `in_part` of that part, or on the description.
  ::testing::AssertionResult refused(const std::string& message, const std::string& blamed_part = "",
                                     std::uint64_t in_part = 0) {
    const std::string all = bytes();
    const store::File file(support::bytes_of(all), "f");
    const auto thrown = thrown_by([&] { (void)store::read_quantized(file, "w"); });
    const std::uint64_t at =
        blamed_part.empty() ? file.find_metadata("sinq:w")->offset : file.at("w." + blamed_part).offset + in_part;
    if (thrown.offset != at)
      return ::testing::AssertionFailure()
             << "byte " << thrown.offset << " instead of " << at << ": " << thrown.message;
    return says(thrown, "FormatError", message);
  }
};

TEST_F(Forged, UnchangedItIsRead) {
  const std::string all = bytes();
  EXPECT_EQ(store::read_quantized(store::File(support::bytes_of(all), "f"), "w") == q_, true);
}

TEST_F(Forged, Descriptions) {
  const Json good = description_;
  for (const auto& [name, value] : good.items()) {
    description_ = good;
    description_.erase(name);
    EXPECT_TRUE(refused("description of \"w\": \"" + name + "\" is missing"));
    for (const Json& wrong :
         {Json(), Json(-1), Json(1.5), Json("x"), Json::array(), Json::object(), Json(1ull << 63)}) {
      description_ = good;
      description_[name] = wrong;
      EXPECT_TRUE(refused("description of \"w\": ")) << name << " = " << wrong;
    }
  }
  description_ = good;
  description_["future"] = 1;
  EXPECT_TRUE(refused("unknown member \"future\""));
  for (int version : {0, 2, 1000}) {
    description_ = good;
    description_["version"] = version;
    EXPECT_TRUE(refused("version " + std::to_string(version) + " of the stored form; this library reads version 1"));
  }
  description_ = good;
  description_["levels"] = "ternary";
  EXPECT_TRUE(refused("\"levels\" = \"ternary\": known are uniform, symmetric, nf4, nf3, table"));
  description_ = good;
  description_["bits"] = 5;
  EXPECT_TRUE(refused("a level table has 2, 3 or 4 bits"));
  description_ = good;
  description_["rows"] = 0;
  EXPECT_TRUE(refused("\"rows\" must be an integer from 1 to 2147483647"));
  description_["rows"] = 1ull << 31;
  EXPECT_TRUE(refused("\"rows\" must be an integer from 1 to 2147483647"));
  for (const char* text : {"", "{", "[]", "1", "{\"version\":1,\"version\":1}", "{} {}", "\xef\xbb\xbf"}) {
    text_ = *text == 0 ? " " : text;
    EXPECT_TRUE(refused("description of \"w\": ")) << text;
  }
  text_ = std::string(1000, '[');
  EXPECT_TRUE(refused("nested deeper"));
}

/// Parsed, a text takes some twenty times its size; no description needs more than a few hundred bytes.
TEST_F(Forged, LongDescriptions) {
  text_ = description_.dump();
  text_.resize(4096, ' ');
  const std::string all = bytes();
  EXPECT_EQ(store::read_quantized(store::File(support::bytes_of(all), "f"), "w") == q_, true);
  text_ += ' ';
  EXPECT_TRUE(refused("description of \"w\": longer than 4096 bytes"));
}

TEST_F(Forged, AClaimOfGiganticSizeCostsNothing) {
  description_["rows"] = INT32_MAX;
  description_["cols"] = INT32_MAX;
  description_["group_size"] = 0;
  EXPECT_TRUE(
      refused("tensor \"w.codes\" is U8 [21, 14]: its description asks for U8 [2147483647, 805306368]", "codes"));
}

TEST_F(Forged, PartsOfAnotherTypeOrShape) {
  const auto good = parts_;
  for (std::size_t k = 0; k < good.size(); ++k) {
    const std::string name = good[k].name;
    parts_ = good;
    parts_.erase(parts_.begin() + static_cast<std::ptrdiff_t>(k));
    EXPECT_TRUE(refused("its tensor \"w." + name + "\" is missing"));
    for (const char* type : {"U8", "I8", "F16", "BF16", "F8_E4M3", "BOOL"}) {
      if (type == good[k].type || (std::string(type).ends_with("16")) != (good[k].type.ends_with("16"))) continue;
      parts_ = good;
      parts_[k].type = type;
      EXPECT_TRUE(refused("its description asks for " + good[k].type, name)) << type;
    }
    parts_ = good;
    parts_[k].shape = "[1," + parts_[k].shape.substr(1);
    EXPECT_TRUE(refused("its description asks for", name));
    parts_ = good;
    parts_[k].shape = "[" + std::to_string(good[k].data.size() / (good[k].type.ends_with("16") ? 2 : 1)) + "]";
    if (name != "levels") {
      EXPECT_TRUE(refused("its description asks for", name));
    }
    parts_ = good;
    parts_[k].shape = "[0]";
    parts_[k].data = "";
    EXPECT_TRUE(refused("its description asks for", name));
  }
}

TEST_F(Forged, Bytes) {
  part("codes").data[13 + 14 * 4] |= 0x02;  // 105 bits in 14 bytes: the last has one
  EXPECT_TRUE(refused("tensor \"w.codes\": codes has bits set behind the end of row 4", "codes", 13 + 14 * 4));
  part("codes").data[13 + 14 * 4] &= 0x01;
  part("scale").data[2] |= 0x04;  // 18 bits in 3 bytes
  EXPECT_TRUE(refused("scale has bits set behind the end of row 0", "scale", 2));
  part("scale").data[2] &= 0x03;
  part("zero").data[41] = 0x10;  // 12 bits in 2 bytes
  EXPECT_TRUE(refused("zero has bits set behind the end of row 20", "zero", 41));
  part("zero").data[41] = 0x0f;
  part("coarse_scale").data[5] = '\x7c';  // half: exponent all ones, an infinity or NaN
  EXPECT_TRUE(refused("tensor \"w.coarse_scale\": coarse_scale[2] is not finite", "coarse_scale", 4));
  part("coarse_scale").data[5] = 0;
  part("col_scale").data[139] = '\xff';
  part("col_scale").data[138] = '\x80';
  EXPECT_TRUE(refused("col_scale[69] is not finite", "col_scale", 138));
  part("col_scale").data[138] = 0;
  part("col_scale").data[139] = 0;
  std::swap(part("levels").data[3], part("levels").data[4]);
  EXPECT_TRUE(refused(": levels never fall", "levels", 4));
}

TEST_F(Forged, ContentsRefusesTheSame) {
  const auto contents_of = [&](const std::string& all) {
    return thrown_by([&] { (void)store::contents(store::Checkpoint(store::File(support::bytes_of(all), "f"))); });
  };
  EXPECT_EQ(contents_of(bytes()).kind, "nothing");
  part("zero").type = "I8";
  EXPECT_TRUE(says(contents_of(bytes()), "FormatError", "tensor \"w.zero\" is I8 [21, 2]"));
  parts_.pop_back();
  text_ = R"({"version":1,"stack":2})";
  EXPECT_TRUE(says(contents_of(bytes()), "FormatError", "matrix 0 of the stack \"w\" is missing"));
  text_ = R"({"version":1,"stack":0})";
  EXPECT_EQ(contents_of(bytes()).kind, "nothing");
  text_ = R"({"version":1,"stack":2147483648})";
  EXPECT_TRUE(says(contents_of(bytes()), "FormatError", "\"stack\" must be"));
  text_ = R"({"version":1,"stack":2,"rows":1})";
  EXPECT_TRUE(says(contents_of(bytes()), "FormatError", "unknown member \"rows\""));
}

}  // namespace
