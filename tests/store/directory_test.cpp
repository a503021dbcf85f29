// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <thread>

#include "support.hpp"

namespace {

using namespace sinq;
using store::Checkpoint;
using store::DirectoryWriter;
using store::Json;
using support::arbitrary;
using support::bytes_of;
using support::Directory;
using support::in_child;
using support::read;
using support::says;
using support::thrown_by;

constexpr const char* kConfig = R"({
  "model_type": "llama", "rms_norm_eps": 1e-05, "hidden_size": 64,
  "rope_scaling": {"factor": 8.0, "type": "linear"}, "z": [1, 2.5, null, true, "\u00e4"], "a": 18446744073709551615
})";

/// A small model with the files that come with one, and some that must not travel.
void make_model(const Directory& dir) {
  std::filesystem::create_directory(dir / "in");
  support::write(dir / "in/config.json", kConfig);
  support::write(dir / "in/tokenizer.json", "{\"t\": 1}");
  support::write(dir / "in/tokenizer.model", std::string("\0\1\2", 3));
  support::write(dir / "in/generation_config.json", "{}");
  support::write(dir / "in/merges.txt", "a b");
  support::write(dir / "in/LICENSE", "MIT");
  support::write(dir / "in/pytorch_model.bin", "weights");
  support::write(dir / "in/pytorch_model.bin.index.json", "{}");
  support::write(dir / "in/other.safetensors", "weights");
  support::write(dir / "in/.gitattributes", "hidden");
  std::filesystem::create_directory(dir / "in/original");
  support::write(dir / "in/original/x.txt", "deep");
  store::Writer out(dir / "in/model.safetensors");
  out.add("norm", store::ElementType::f32, {2}, bytes_of("abcdefgh"));
  out.add("embed", store::ElementType::bf16, {2, 2}, bytes_of("ABCDEFGH"));
  out.finish();
}

std::vector<std::string> expected(std::vector<std::string> models) {
  std::vector<std::string> out = {"LICENSE",    "config.json",    "generation_config.json",
                                  "merges.txt", "tokenizer.json", "tokenizer.model"};
  out.insert(out.end(), models.begin(), models.end());
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<std::string> names_in(const std::filesystem::path& path) {
  return detail::store::names_in(path);
}

/// Quantized matrices "layer.0" ... of about 2.3 kB each, and the two tensors as they are.
DirectoryWriter::Saved save(const Directory& dir, const std::string& target, int layers, std::int64_t shard_bytes,
                            unsigned seed = 0) {
  const Checkpoint model(dir / "in");
  DirectoryWriter out(model, dir / target, {.shard_bytes = shard_bytes});
  for (int k = 0; k < layers; ++k)
    out.write("layer." + std::to_string(k), arbitrary({}, 64, 64, seed + static_cast<unsigned>(k)));
  out.keep(model.at("norm"), "not a matrix");
  out.keep(model.at("embed"), "an embedding");
  return out.finish({{"bits", 4}, {"group_size", 64}});
}

void expect_model(const std::filesystem::path& path, int layers, unsigned seed = 0) {
  const Checkpoint model(path);
  const auto contents = store::contents(model);
  EXPECT_EQ(contents.quantized.size(), static_cast<std::size_t>(layers));
  for (int k = 0; k < layers; ++k)
    EXPECT_EQ(store::read_quantized(model, "layer." + std::to_string(k)) ==
                  arbitrary({}, 64, 64, seed + static_cast<unsigned>(k)),
              true);
  EXPECT_EQ(support::string_of(model.at("norm").data), "abcdefgh");
  EXPECT_EQ(model.at("embed").shape, (std::vector<std::int64_t>{2, 2}));
}

TEST(DirectoryWriter, OneFile) {
  Directory dir;
  make_model(dir);
  const auto saved = save(dir, "out", 3, 1'000'000);
  EXPECT_EQ(names_in(dir / "out"), expected({"model.safetensors"}));
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"in", "out"}));
  expect_model(dir / "out", 3);
  EXPECT_EQ(saved.model_bytes, static_cast<std::int64_t>(std::filesystem::file_size(dir / "out/model.safetensors")));
  EXPECT_EQ(saved.files.size(), 7u);
  for (const char* name : {"tokenizer.json", "tokenizer.model", "LICENSE", "merges.txt"})
    EXPECT_EQ(read((dir / "out") / name), read((dir / "in") / name));
}

TEST(DirectoryWriter, ConfigKeepsItsMeaningAndGainsOneMember) {
  Directory dir;
  make_model(dir);
  save(dir, "out", 1, 1'000'000);
  const std::string text = read(dir / "out/config.json");
  EXPECT_NE(text.find("\"rms_norm_eps\": 1e-05"), text.npos);
  Json config = store::read_json(dir / "out/config.json");
  const Json quantization = config["quantization_config"];
  config.erase("quantization_config");
  EXPECT_EQ(config.dump(), Json::parse(kConfig).dump());  // order included
  EXPECT_EQ(quantization, Json::parse(R"({"quant_method": "sinq-cpp", "format_version": 1, "bits": 4, "group_size": 64,
      "quantized_matrices": 1, "left_alone": {"norm": "not a matrix", "embed": "an embedding"}})"));
}

TEST(DirectoryWriter, Shards) {
  Directory dir;
  make_model(dir);
  save(dir, "out", 5, 5'000);
  const std::vector<std::string> models = {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                           "model-00003-of-00003.safetensors", "model.safetensors.index.json"};
  EXPECT_EQ(names_in(dir / "out"), expected(models));
  expect_model(dir / "out", 5);
  const Json index = store::read_json(dir / "out/model.safetensors.index.json");
  EXPECT_EQ(index["weight_map"]["layer.0.codes"], models[0]);
  EXPECT_EQ(index["weight_map"]["layer.2.scale"], models[1]);
  EXPECT_EQ(index["weight_map"]["norm"], models[2]);
  std::int64_t bytes = 0;
  const Checkpoint model(dir / "out");
  for (const auto* t : model.tensors()) bytes += static_cast<std::int64_t>(t->data.size());
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  // A matrix larger than a shard gets one to itself.
  save(dir, "tiny", 2, 1);
  EXPECT_EQ(Checkpoint(dir / "tiny").files().size(), 4u);
}

TEST(DirectoryWriter, TheSameBytesEveryTime) {
  Directory dir;
  make_model(dir);
  save(dir, "one", 5, 5'000);
  save(dir, "two", 5, 5'000);
  for (const std::string& name : names_in(dir / "one"))
    EXPECT_EQ(read((dir / "one") / name) == read((dir / "two") / name), true) << name;
}

TEST(DirectoryWriter, ReplacesAnEarlierSaveAndNothingElse) {
  Directory dir;
  make_model(dir);
  save(dir, "out", 3, 1'000'000);
  support::write(dir / "out/notes.md", "mine");
  support::write(dir / "out/model-a-of-b.safetensors", "mine too");
  save(dir, "out", 5, 5'000, 100);
  expect_model(dir / "out", 5, 100);
  const auto with_mine = [](std::vector<std::string> models) {
    models.insert(models.end(), {"notes.md", "model-a-of-b.safetensors"});
    return expected(models);
  };
  EXPECT_EQ(names_in(dir / "out"), with_mine({"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                              "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  save(dir, "out", 7, 12'000, 200);
  expect_model(dir / "out", 7, 200);
  EXPECT_EQ(names_in(dir / "out"), with_mine({"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                              "model.safetensors.index.json"}));
  save(dir, "out/", 2, 1'000'000, 300);
  expect_model(dir / "out", 2, 300);
  EXPECT_EQ(names_in(dir / "out"), with_mine({"model.safetensors"}));
  EXPECT_EQ(read(dir / "out/notes.md"), "mine");
}

TEST(DirectoryWriter, Stacks) {
  Directory dir;
  make_model(dir);
  const Checkpoint model(dir / "in");
  DirectoryWriter out(model, dir / "out", {.shard_bytes = 5'000});
  out.declare_stack("experts", 3);
  for (std::int64_t k = 0; k < 3; ++k)
    out.write(store::name_in_stack("experts", k), arbitrary({}, 64, 64, static_cast<unsigned>(k)));
  out.finish();
  const Checkpoint copy(dir / "out");
  EXPECT_EQ(copy.files().size(), 2u);
  EXPECT_EQ(store::contents(copy).stacks.at(0).count, 3);
}

/// Files know their own names only.
TEST(DirectoryWriter, OneNameInTwoFilesIsRefused) {
  Directory dir;
  make_model(dir);
  const Checkpoint model(dir / "in");
  DirectoryWriter out(model, dir / "out", {.shard_bytes = 1});
  const QuantizedMatrix q = arbitrary({}, 16, 64);
  for (const char* name : {"a", "b"}) out.write(name, q);
  EXPECT_TRUE(says(thrown_by([&] { out.write("a", q); }), "InvalidArgument", "name = a.codes: occurs twice"));
  const std::byte some{};
  const store::Tensor other{"a.codes", store::ElementType::u8, {1}, {&some, 1}, "", 0};
  EXPECT_TRUE(says(thrown_by([&] { out.keep(other, "none"); }), "InvalidArgument", "name = a.codes: occurs twice"));
  out.write("c", q);
  out.finish();
  const auto contents = store::contents(Checkpoint(dir / "out"));
  EXPECT_EQ(contents.quantized.size(), 3u);
}

TEST(DirectoryWriter, WithoutFinishNothingRemains) {
  Directory dir;
  make_model(dir);
  const Checkpoint model(dir / "in");
  for (const bool exists : {false, true}) {
    if (exists) save(dir, "out", 1, 1'000'000);
    {
      DirectoryWriter out(model, dir / "out");
      out.write("layer", arbitrary({}, 2, 2));
    }
    EXPECT_EQ(std::filesystem::exists(dir / "out"), exists);
  }
  expect_model(dir / "out", 1);
  EXPECT_EQ(names_in(dir / "out"), expected({"model.safetensors"}));
}

TEST(DirectoryWriter, WithoutConfigOrDirectory) {
  Directory dir;
  const std::string bytes = support::safetensors("{}");
  const Checkpoint model(store::File(bytes_of(bytes), "memory"));
  DirectoryWriter(model, dir / "out").finish();
  EXPECT_EQ(names_in(dir / "out"), (std::vector<std::string>{"config.json", "model.safetensors"}));
  EXPECT_TRUE(store::Config(dir / "out/config.json").object("quantization_config").object("left_alone").json().empty());
}

/// A model in memory has no directory: what lies in that of the process is none of its business.
TEST(DirectoryWriter, AModelInMemoryHasNoConfig) {
  Directory dir;
  make_model(dir);
  const std::string bytes = support::safetensors("{}");
  const Checkpoint model(store::File(bytes_of(bytes), "memory"));
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(dir / "in");
  DirectoryWriter(model, dir / "out").finish();
  support::write(dir / "in/config.json", "{");
  const auto thrown = thrown_by([&] { DirectoryWriter(model, dir / "other").finish(); });
  std::filesystem::current_path(before);
  EXPECT_EQ(store::read_json(dir / "out/config.json").size(), 1u);  // the quantization_config
  EXPECT_EQ(thrown.kind, "nothing") << thrown.message;
}

TEST(DirectoryWriter, WhatIsRefused) {
  Directory dir;
  make_model(dir);
  const Checkpoint model(dir / "in");
  EXPECT_TRUE(says(thrown_by([&] { DirectoryWriter(model, dir / "in"); }), "InvalidArgument", "the model itself lies"));
  EXPECT_TRUE(
      says(thrown_by([&] { DirectoryWriter(model, dir / "in/../in/"); }), "InvalidArgument", "the model itself"));
  EXPECT_TRUE(says(thrown_by([&] { DirectoryWriter(model, dir / "out", {.shard_bytes = 0}); }), "InvalidArgument",
                   "shard_bytes = 0"));
  EXPECT_TRUE(says(thrown_by([&] { DirectoryWriter(model, ""); }), "InvalidArgument", "target = \"\""));
  EXPECT_TRUE(says(thrown_by([&] { DirectoryWriter(model, dir / "in/LICENSE/out"); }), "IoError", "cannot create"));
  EXPECT_TRUE(says(thrown_by([&] {
                     DirectoryWriter(model, dir / "out").finish({{"quant_method", "x"}});
                   }),
                   "InvalidArgument", "quant_method"));
  EXPECT_TRUE(says(thrown_by([&] { DirectoryWriter(model, dir / "out").finish(Json::array()); }), "InvalidArgument",
                   "must be a JSON object"));
  support::write(dir / "in/config.json", R"({"quantization_config": {"quant_method": "fp8"}})");
  EXPECT_TRUE(says(thrown_by([&] { DirectoryWriter(model, dir / "out"); }), "FormatError", "already quantized"));
  support::write(dir / "in/config.json", R"({"a": 1, "a": 2})");
  EXPECT_TRUE(says(thrown_by([&] { DirectoryWriter(model, dir / "out"); }), "FormatError", "\"a\" occurs twice"));
  EXPECT_EQ(dir.names(), std::vector<std::string>{"in"});
}

TEST(DirectoryWriter, KilledAtAnyMoment) {
  Directory dir;
  make_model(dir);
  // A target that does not exist appears complete or not at all.
  int killed = 0;
  for (int k = 0; k < 25; ++k) {
    const int status = in_child(
        [&] {
          save(dir, "new", 3, 5'000);
          return 0;
        },
        [&](pid_t child) {
          std::this_thread::sleep_for(std::chrono::milliseconds(k));
          ::kill(child, SIGKILL);
        });
    killed += WIFSIGNALED(status);
    if (!std::filesystem::exists(dir / "new")) continue;
    expect_model(dir / "new", 3);
    std::filesystem::remove_all(dir / "new");
  }
  EXPECT_GT(killed, 0);
  // A model in one file is the old or the new one.
  save(dir, "out", 3, 1'000'000, 0);
  for (int k = 0; k < 25; ++k) {
    in_child(
        [&] {
          save(dir, "out", 3, 1'000'000, 500);
          return 0;
        },
        [&](pid_t child) {
          std::this_thread::sleep_for(std::chrono::milliseconds(k));
          ::kill(child, SIGKILL);
        });
    const Checkpoint model(dir / "out");
    const bool is_old = store::read_quantized(model, "layer.0") == arbitrary({}, 64, 64, 0);
    expect_model(dir / "out", 3, is_old ? 0 : 500);
    (void)store::read_json(dir / "out/config.json");
  }
}

}  // namespace
