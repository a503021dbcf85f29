// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

namespace {

using sinq::store::Checkpoint;
using support::Directory;
using support::says;
using support::thrown_by;

std::string one_tensor(const std::string& name, char content) {
  return support::safetensors("{\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                              std::string(1, content));
}

std::string index(const std::string& map) {
  return "{\"metadata\":{\"total_size\":2},\"weight_map\":" + map + "}";
}

TEST(Checkpoint, OneFile) {
  Directory dir;
  support::write(dir / "model.safetensors", one_tensor("a", '1'));
  for (const auto& path : {dir.path(), dir / "model.safetensors"}) {
    const Checkpoint model(path);
    EXPECT_EQ(support::string_of(model.at("a").data), "1");
    EXPECT_EQ(model.directory(), dir.path());
    EXPECT_EQ(model.tensors().size(), 1u);
    EXPECT_EQ(model.find("b"), nullptr);
    EXPECT_TRUE(says(thrown_by([&] { (void)model.at("b"); }), "FormatError", "model.safetensors: there is no tensor"));
  }
  // As in transformers, a single file goes before an index.
  support::write(dir / "model.safetensors.index.json", "garbage");
  EXPECT_EQ(Checkpoint(dir.path()).tensors().size(), 1u);
}

TEST(Checkpoint, InMemory) {
  const std::string bytes = one_tensor("a", '1');
  Checkpoint first(sinq::store::File(support::bytes_of(bytes), "memory"));
  const Checkpoint model = std::move(first);
  EXPECT_EQ(support::string_of(model.at("a").data), "1");
  EXPECT_EQ(model.tensors()[0]->name, "a");
  EXPECT_TRUE(model.directory().empty());
}

TEST(Checkpoint, Shards) {
  Directory dir;
  std::filesystem::create_directory(dir / "sub");
  std::filesystem::create_directory(dir / "elsewhere");
  support::write(dir / "x.safetensors", one_tensor("a", '1'));
  support::write(dir / "sub/y.safetensors", one_tensor("b", '2'));
  support::write(dir / "elsewhere/blob", one_tensor("c", '3'));
  // The cache of Hugging Face consists of such links.
  std::filesystem::create_symlink("elsewhere/blob", dir / "z.safetensors");
  support::write(dir / "model.safetensors.index.json",
                 index(R"({"b":"sub/y.safetensors","a":"x.safetensors","c":"./z.safetensors"})"));
  for (const auto& path : {dir.path(), dir / "model.safetensors.index.json"}) {
    const Checkpoint model(path);
    EXPECT_EQ(support::string_of(model.at("a").data), "1");
    EXPECT_EQ(support::string_of(model.at("b").data), "2");
    EXPECT_EQ(support::string_of(model.at("c").data), "3");
    EXPECT_EQ(model.files().size(), 3u);
    EXPECT_EQ(model.tensors()[0]->name, "b");
    model.forget(model.at("a"));
    EXPECT_EQ(support::string_of(model.at("a").data), "1");
  }
}

TEST(Checkpoint, AShardMayHoldMoreThanTheIndexSays) {
  Directory dir;
  support::write(dir / "x.safetensors",
                 support::safetensors(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                                      R"("b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"));
  support::write(dir / "model.safetensors.index.json", index(R"({"a":"x.safetensors"})"));
  EXPECT_EQ(Checkpoint(dir.path()).tensors().size(), 2u);
}

TEST(Checkpoint, WhatIsRefused) {
  Directory dir;
  support::write(dir / "x.safetensors", one_tensor("a", '1'));
  support::write(dir / "y.safetensors", one_tensor("a", '1'));
  support::write(dir / "z.safetensors", "short");
  std::filesystem::create_directory(dir / "inside");
  const auto model = dir / "inside/model.safetensors.index.json";
  support::write(dir / "inside/x.safetensors", one_tensor("a", '1'));
  support::write(dir / "inside/y.safetensors", one_tensor("a", '2'));
  support::write(dir / "inside/z.safetensors", "short");
  std::filesystem::create_directory(dir / "inside/folder");
  const auto refused = [&](const std::string& text, const std::string& message) {
    support::write(model, text);
    return says(thrown_by([&] { Checkpoint c(model); }), "FormatError", message);
  };
  for (const char* outside : {"../x.safetensors", "folder/../../x.safetensors", "/etc/passwd", "..", "", "folder/",
                              "x.safetensors\\u0000", "folder/.."})
    EXPECT_TRUE(refused(index("{\"a\":\"" + std::string(outside) + "\"}"), "is not a relative path inside")) << outside;
  EXPECT_TRUE(refused(index(R"({"a":"none.safetensors"})"), "the shard \"none.safetensors\" is missing"));
  EXPECT_TRUE(refused(index(R"({"b":"x.safetensors"})"), "tensor \"b\" is not in its shard \"x.safetensors\""));
  EXPECT_TRUE(refused(index(R"({"a":"x.safetensors","b":"y.safetensors"})"), "tensor \"a\" is also in"));
  EXPECT_TRUE(refused(index(R"({"a":"x.safetensors","a":"y.safetensors"})"), "the name \"a\" occurs twice"));
  EXPECT_TRUE(refused(index(R"({"a":"z.safetensors"})"), "z.safetensors: a safetensors file has at least 8 bytes"));
  EXPECT_TRUE(refused(index(R"({"a":5})"), "the shard of tensor \"a\" is not a string"));
  EXPECT_TRUE(refused(index("[]"), "there is no object \"weight_map\""));
  EXPECT_TRUE(refused("{}", "there is no object \"weight_map\""));
  EXPECT_TRUE(refused("[]", "there is no object \"weight_map\""));
  EXPECT_TRUE(refused("{", "not valid JSON"));
  std::filesystem::remove(model);
  EXPECT_TRUE(says(thrown_by([&] { Checkpoint c(dir / "inside"); }), "IoError", "holds neither model.safetensors nor"));
  EXPECT_TRUE(says(thrown_by([&] { Checkpoint c(dir / "none"); }), "IoError", "No such file"));
  support::write(model, index(R"({"a":"folder"})"));
  EXPECT_TRUE(says(thrown_by([&] { Checkpoint c(model); }), "IoError", "Is a directory"));
}

}  // namespace
