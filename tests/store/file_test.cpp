// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

// What is legal, however odd, is read.

namespace {

using sinq::store::ElementType;
using sinq::store::File;
using support::safetensors;

TEST(File, NamesShapesAndBytes) {
  const std::string bytes = safetensors(
      R"({"__metadata__":{"format":"pt","x":"\u00e4"},"a":{"dtype":"U8","shape":[2,3],"data_offsets":[0,6]},)"
      R"("b.c":{"dtype":"I16","shape":[1],"data_offsets":[6,8]}})",
      "abcdefgh");
  const File file(support::bytes_of(bytes), "f");
  ASSERT_EQ(file.tensors().size(), 2u);
  const auto& a = file.at("a");
  EXPECT_EQ(a.type, ElementType::u8);
  EXPECT_EQ(a.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(a.elements(), 6);
  EXPECT_EQ(support::string_of(a.data), "abcdef");
  EXPECT_EQ(a.offset, bytes.size() - 8);
  EXPECT_EQ(a.file, "f");
  EXPECT_EQ(describe(a), "U8 [2, 3]");
  EXPECT_EQ(support::string_of(file.at("b.c").data), "gh");
  EXPECT_EQ(file.find("b"), nullptr);
  EXPECT_TRUE(support::says(support::thrown_by([&] { (void)file.at("b"); }), "FormatError", "no tensor \"b\""));
  ASSERT_EQ(file.metadata().size(), 2u);
  EXPECT_EQ(file.find_metadata("x")->value, "\xc3\xa4");
  EXPECT_EQ(bytes.substr(file.find_metadata("x")->offset, 8), "\"\\u00e4\"");
  EXPECT_EQ(file.find_metadata("y"), nullptr);
}

TEST(File, SurvivesAMove) {
  support::Directory dir;
  support::write(dir / "m", safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  File first(dir / "m");
  const File second = std::move(first);
  EXPECT_EQ(support::string_of(second.at("a").data), "x");
  EXPECT_EQ(second.at("a").file, (dir / "m").string());
  second.forget(second.at("a"));
  EXPECT_EQ(support::string_of(second.at("a").data), "x");
}

TEST(File, NoTensors) {
  for (const char* header : {"{}", "{ }", "{}        ", R"({"__metadata__":{}})", "{\n\t}\r\n"}) {
    const std::string bytes = safetensors(header);
    EXPECT_TRUE(File(support::bytes_of(bytes), "f").tensors().empty()) << header;
  }
}

TEST(File, Scalars) {
  const std::string bytes =
      safetensors(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )", std::string("\x00\x00\xc0\x3f", 4));
  const File file(support::bytes_of(bytes), "f");
  EXPECT_EQ(file.at("s").elements(), 1);
  EXPECT_EQ(sinq::store::to_floats(file.at("s")), std::vector<float>{1.5f});
}

TEST(File, EmptyTensorsAnywhere) {
  const std::string bytes = safetensors(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"e1":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},)"
      R"("e2":{"dtype":"F64","shape":[7,0],"data_offsets":[1,1]},"e3":{"dtype":"F64","shape":[0],"data_offsets":[1,1]},)"
      R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"e4":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
      "ab");
  const File file(support::bytes_of(bytes), "f");
  std::string order;
  for (const auto& t : file.tensors()) order += t.name + " ";
  EXPECT_EQ(order, "e1 a e2 e3 b e4 ");
  EXPECT_EQ(file.at("e2").elements(), 0);
  EXPECT_TRUE(file.at("e2").data.empty());
  EXPECT_TRUE(sinq::store::to_floats(file.at("e1")).empty());
}

TEST(File, HeaderInAnyOrderAndSpacing) {
  const std::string bytes = safetensors(
      "{ \"b\" :\n{ \"data_offsets\" : [ 1 , 2 ] , \"shape\":[ 1 ],\t\"dtype\": \"U8\" } , "
      "\"a\":{\"shape\":[1],\"data_offsets\":[0,1],\"dtype\":\"I8\"}, \"__metadata__\": { \"k\" : \"v\" } }  \n ",
      "ab");
  const File file(support::bytes_of(bytes), "f");
  EXPECT_EQ(file.tensors()[0].name, "a");  // in the order of the data
  EXPECT_EQ(support::string_of(file.at("b").data), "b");
  EXPECT_EQ(file.find_metadata("k")->value, "v");
}

TEST(File, OddNames) {
  const std::string bytes =
      safetensors(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0000\n\"":{"dtype":"U8","shape":[1],)"
                  R"("data_offsets":[1,2]},"dtype":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                  "abc");
  const File file(support::bytes_of(bytes), "f");
  EXPECT_EQ(support::string_of(file.at("").data), "a");
  EXPECT_EQ(support::string_of(file.at(std::string("\0\n\"", 3)).data), "b");
  EXPECT_EQ(support::string_of(file.at("dtype").data), "c");
}

TEST(File, UnalignedData) {
  // The header has 61 bytes, so the data begin at byte 69; behind one byte stand floats.
  std::string data(1, 'x');
  for (const double v : {1.0, -2.5}) data.append(reinterpret_cast<const char*>(&v), 8);
  for (const float v : {3.0f, 4.25f}) data.append(reinterpret_cast<const char*>(&v), 4);
  for (const sinq::half v : {sinq::half(0.5f), sinq::half(-8.0f)}) data.append(reinterpret_cast<const char*>(&v), 2);
  for (const sinq::bfloat16 v : {sinq::bfloat16(2.0f), sinq::bfloat16(96.0f)})
    data.append(reinterpret_cast<const char*>(&v), 2);
  const std::string bytes = safetensors(
      R"({"pad":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},"d":{"dtype":"F64","shape":[1,2],"data_offsets":[1,17]},)"
      R"("f":{"dtype":"F32","shape":[2,1],"data_offsets":[17,25]},"h":{"dtype":"F16","shape":[2],"data_offsets":[25,29]},)"
      R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[29,33]}})",
      data);
  for (std::size_t shift = 0; shift < 8; ++shift) {
    std::vector<std::byte> moved(bytes.size() + shift);
    std::memcpy(moved.data() + shift, bytes.data(), bytes.size());
    const File file(std::span<const std::byte>(moved).subspan(shift), "f");
    using sinq::store::to_floats;
    EXPECT_EQ(to_floats(file.at("d")), (std::vector<float>{1.0f, -2.5f}));
    EXPECT_EQ(to_floats(file.at("f")), (std::vector<float>{3.0f, 4.25f}));
    EXPECT_EQ(to_floats(file.at("h")), (std::vector<float>{0.5f, -8.0f}));
    EXPECT_EQ(to_floats(file.at("b")), (std::vector<float>{2.0f, 96.0f}));
    float value = 0;
    const sinq::WeightView w = sinq::store::weights(file.at("f"));
    w.load(1, 0, 1, &value);
    EXPECT_EQ(value, 4.25f);
    EXPECT_EQ(w.rows, 2);
    EXPECT_EQ(w.cols, 1);
  }
}

TEST(File, EveryElementTypeIsCarried) {
  for (const auto& facts : sinq::detail::store::kElementTypes) {
    // Eight elements end with a whole byte at every width.
    const std::string n = std::to_string(facts.bits);
    const std::string data = std::string("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
                                 .substr(0, static_cast<std::size_t>(facts.bits));
    const std::string bytes = safetensors(
        "{\"t\":{\"dtype\":\"" + std::string(facts.name) + "\",\"shape\":[2,4],\"data_offsets\":[0," + n + "]}}", data);
    const File file(support::bytes_of(bytes), "f");
    EXPECT_EQ(file.at("t").type, facts.type);
    EXPECT_EQ(support::string_of(file.at("t").data), data);
    EXPECT_EQ(is_matrix(file.at("t")),
              facts.name == "F16" || facts.name == "BF16" || facts.name == "F32" || facts.name == "F64");
  }
}

TEST(File, TensorsThatAreNotWhatIsNeeded) {
  const std::string bytes = safetensors(
      R"({"v":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"i":{"dtype":"U64","shape":[1,1],"data_offsets":[4,12]},)"
      R"("s":{"dtype":"F16","shape":[2,1,1],"data_offsets":[12,16]}})",
      std::string(16, '\xff'));
  const File file(support::bytes_of(bytes), "f");
  using support::says;
  using support::thrown_by;
  EXPECT_TRUE(
      says(thrown_by([&] { (void)weights(file.at("v")); }), "FormatError", "f: tensor \"v\" is F16 [2]: a matrix of"));
  EXPECT_TRUE(says(thrown_by([&] { (void)weights(file.at("i")); }), "FormatError", "tensor \"i\" is U64 [1, 1]"));
  EXPECT_TRUE(says(thrown_by([&] { (void)to_floats(file.at("i")); }), "FormatError", "F32, F64, F16 or BF16"));
  EXPECT_TRUE(says(thrown_by([&] { (void)to_integers(file.at("i")); }), "FormatError", "element 0 is beyond"));
  EXPECT_TRUE(says(thrown_by([&] { (void)to_integers(file.at("v")); }), "FormatError", "an integer type"));
  EXPECT_TRUE(says(thrown_by([&] { (void)weights(file.at("s"), 2); }), "InvalidArgument", "index = 2"));
  EXPECT_TRUE(says(thrown_by([&] { (void)weights(file.at("v"), 0); }), "FormatError", "a stack of matrices"));
  EXPECT_EQ(weights(file.at("s"), 1).data, file.at("s").data.data() + 2);
}

TEST(File, Integers) {
  const std::string bytes = safetensors(
      R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U16","shape":[1],"data_offsets":[2,4]},)"
      R"("c":{"dtype":"I32","shape":[],"data_offsets":[4,8]},"d":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},)"
      R"("e":{"dtype":"U32","shape":[1],"data_offsets":[16,20]}})",
      std::string("\xff\x05\xff\xff\xfe\xff\xff\xff\xfd\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 20));
  const File file(support::bytes_of(bytes), "f");
  using V = std::vector<std::int64_t>;
  EXPECT_EQ(to_integers(file.at("a")), (V{-1, 5}));
  EXPECT_EQ(to_integers(file.at("b")), V{65535});
  EXPECT_EQ(to_integers(file.at("c")), V{-2});
  EXPECT_EQ(to_integers(file.at("d")), V{-3});
  EXPECT_EQ(to_integers(file.at("e")), V{4294967295});
}

TEST(File, WhatCannotBeOpenedIsAnIoError) {
  support::Directory dir;
  using support::says;
  using support::thrown_by;
  EXPECT_TRUE(says(thrown_by([&] { File f(dir / "none"); }), "IoError", (dir / "none").string() + ": No such file"));
  EXPECT_TRUE(says(thrown_by([&] { File f(dir.path()); }), "IoError", "Is a directory"));
  EXPECT_TRUE(says(thrown_by([&] { File f("/dev/null"); }), "IoError", "cannot map /dev/null"));
  support::write(dir / "empty", "");
  EXPECT_TRUE(says(thrown_by([&] { File f(dir / "empty"); }), "FormatError", "this one has 0"));
}

}  // namespace
