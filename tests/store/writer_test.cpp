// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <locale>
#include <thread>

#include "support.hpp"

namespace {

using sinq::store::ElementType;
using sinq::store::File;
using sinq::store::Writer;
using support::bytes_of;
using support::Directory;
using support::in_child;
using support::says;
using support::thrown_by;

std::string pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string out(size, '\0');
  for (auto& c : out) c = static_cast<char>(random());
  return out;
}

TEST(Writer, SmallFileByteForByte) {
  Directory dir;
  Writer out(dir / "m");
  out.add("b", ElementType::i16, {1}, bytes_of("xy"));
  out.metadata("k", "v\"");
  out.add("a/\xc3\xa4\n", ElementType::u8, {2, 1}, bytes_of("cd"));
  out.add("s", ElementType::f8_e4m3, {}, bytes_of("e"));
  out.add("e", ElementType::f64, {0, 7}, {});
  out.finish();
  std::string header = R"({"__metadata__":{"k":"v\""},"b":{"dtype":"I16","shape":[1],"data_offsets":[0,2]},)"
                       "\"a/\xc3\xa4\\n\":{\"dtype\":\"U8\",\"shape\":[2,1],\"data_offsets\":[2,4]},"
                       R"("s":{"dtype":"F8_E4M3","shape":[],"data_offsets":[4,5]},)"
                       R"("e":{"dtype":"F64","shape":[0,7],"data_offsets":[5,5]}})";
  header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' ');
  EXPECT_EQ(support::read(dir / "m"), support::safetensors(header, "xycde"));
  EXPECT_EQ(dir.names(), std::vector<std::string>{"m"});
  const File file(dir / "m");
  EXPECT_EQ(support::string_of(file.at("a/\xc3\xa4\n").data), "cd");
}

// An engine may have set the language of its user.
TEST(Writer, TheGlobalLocaleGroupsNoDigits) {
  struct Grouped : std::numpunct<char> {
    char do_thousands_sep() const override { return ','; }
    std::string do_grouping() const override { return "\3"; }
  };
  const auto written = [](const std::filesystem::path& path) {
    Writer out(path);
    out.add("a", ElementType::u8, {1234}, bytes_of(pattern(1234, 1)));
    out.add("b", ElementType::u8, {50, 40}, bytes_of(pattern(2000, 2)));
    out.finish();
    return support::read(path);
  };
  Directory dir;
  const std::string expected = written(dir / "classic");
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Grouped));
  const std::string grouped = written(dir / "grouped");
  std::locale::global(before);
  EXPECT_TRUE(grouped == expected);
}

TEST(Writer, NoTensors) {
  Directory dir;
  Writer(dir / "m").finish();
  EXPECT_TRUE(File(dir / "m").tensors().empty());
  Writer with_metadata(dir / "n");
  with_metadata.metadata("k", "");
  with_metadata.finish();
  EXPECT_EQ(File(dir / "n").find_metadata("k")->value, "");
}

/// Several megabytes, so that the buffer is flushed, in tensors of very different sizes.
std::vector<std::string> tensors() {
  std::vector<std::string> out;
  unsigned seed = 0;
  for (std::size_t size : {3u, 700'000u, 0u, 500'000u, 1u << 20, (1u << 20) + 1, 5u, 2'500'000u, 17u})
    out.push_back(pattern(size, ++seed));
  return out;
}

void write_all(const std::filesystem::path& path, std::int64_t header_bytes, std::size_t piece) {
  Writer out(path, {.header_bytes = header_bytes});
  int k = 0;
  for (const std::string& t : tensors()) {
    out.begin("tensor " + std::to_string(k++), ElementType::u8, {static_cast<std::int64_t>(t.size())});
    for (std::size_t at = 0; at < t.size(); at += piece)
      out.append(bytes_of(t).subspan(at, std::min(piece, t.size() - at)));
  }
  out.metadata("last", "entry");
  out.finish();
}

void expect_all(const std::filesystem::path& path) {
  const File file(path);
  int k = 0;
  for (const std::string& t : tensors())
    EXPECT_EQ(support::string_of(file.at("tensor " + std::to_string(k++)).data) == t, true) << k;
  EXPECT_EQ(file.tensors().size(), tensors().size());
  EXPECT_EQ(file.find_metadata("last")->value, "entry");
  EXPECT_EQ(file.tensors()[0].offset % 64, 0u);
}

TEST(Writer, HeaderThatFitsAndHeaderThatDoesNot) {
  Directory dir;
  write_all(dir / "roomy", 10'000, std::size_t{1} << 30);
  expect_all(dir / "roomy");
  write_all(dir / "none", 0, std::size_t{1} << 30);  // all data move, by less than one of the pieces they move in
  expect_all(dir / "none");
  EXPECT_LT(std::filesystem::file_size(dir / "none"), std::filesystem::file_size(dir / "roomy"));
  // A header of two megabytes moves data by more than one piece.
  Writer out(dir / "large", {.header_bytes = 64});
  const std::string data = pattern(3'000'000, 9);
  out.add("t", ElementType::u8, {3'000'000}, bytes_of(data));
  out.metadata("k", std::string(2'000'000, 'm'));
  out.finish();
  EXPECT_EQ(support::string_of(File(dir / "large").at("t").data) == data, true);
}

TEST(Writer, TheSameBytesHoweverTheDataArrive) {
  Directory dir;
  write_all(dir / "whole", 500, std::size_t{1} << 30);
  const std::string whole = support::read(dir / "whole");
  for (std::size_t piece : {1000u, 65'536u, (1u << 20) - 1, 1u << 20, (1u << 20) + 1}) {
    write_all(dir / "pieces", 500, piece);
    EXPECT_EQ(support::read(dir / "pieces") == whole, true) << piece;
  }
}

TEST(Writer, WhatIsNotWritten) {
  Directory dir;
  Writer out(dir / "m");
  out.add("a", ElementType::u8, {1}, bytes_of("x"));
  const auto refused = [](auto action, const char* message) {
    return says(thrown_by(action), "InvalidArgument", message);
  };
  EXPECT_TRUE(refused([&] { out.add("a", ElementType::u8, {1}, bytes_of("x")); }, "name = a: occurs twice"));
  EXPECT_TRUE(refused([&] { out.add("__metadata__", ElementType::u8, {1}, bytes_of("x")); }, "is not for a tensor"));
  EXPECT_TRUE(refused([&] { out.add("b\xff", ElementType::u8, {1}, bytes_of("x")); }, "must be UTF-8"));
  EXPECT_TRUE(refused([&] { out.add("c", ElementType::u8, {-1}, {}); }, "shape = -1"));
  EXPECT_TRUE(refused([&] { out.add("d", ElementType::f4, {1}, bytes_of("x")); }, "whole byte"));
  EXPECT_TRUE(refused([&] { out.add("e", ElementType::u8, {INT64_MAX, 4}, {}); }, "overflows"));
  EXPECT_TRUE(refused([&] { out.metadata("k", "\xc0\xaf"); }, "must be UTF-8"));
  out.metadata("l", "1");
  EXPECT_TRUE(refused([&] { out.metadata("l", "2"); }, "metadata key = l: occurs twice"));
  EXPECT_TRUE(refused([&] { Writer(dir / "n", {.header_bytes = -1}); }, "header_bytes = -1"));
  // A replacement character in the text itself is a character like any other.
  out.metadata("replacement \xef\xbf\xbd", "\xef\xbf\xbd");
  out.finish();
  EXPECT_EQ(File(dir / "m").find_metadata("replacement \xef\xbf\xbd")->value, "\xef\xbf\xbd");

  Writer longer(dir / "n");
  EXPECT_TRUE(refused([&] { longer.add("a", ElementType::u16, {1}, bytes_of("xyz")); }, "1 bytes more"));
  Writer shorter(dir / "o");
  EXPECT_TRUE(refused([&] { shorter.add("a", ElementType::u16, {1}, bytes_of("x")); }, "1 bytes fewer"));
  Writer begun(dir / "p");
  begun.begin("a", ElementType::u16, {1});
  EXPECT_TRUE(refused([&] { begun.finish(); }, "2 bytes fewer"));
}

/// What was refused has left nothing: the same name may be tried again, and the file is as if only that had happened.
TEST(Writer, ARefusalLeavesNothing) {
  Directory dir;
  const auto write = [&](const std::filesystem::path& path, bool with_errors) {
    Writer out(path);
    const auto refused = [&](auto action) {
      if (with_errors) {
        EXPECT_EQ(thrown_by(action).kind, "InvalidArgument");
      }
    };
    refused([&] { out.add("a", ElementType::u8, {-1}, {}); });
    refused([&] { out.add("a", ElementType::f4, {1}, bytes_of("x")); });
    refused([&] { out.add("a", ElementType::u8, {1}, bytes_of("xy")); });
    refused([&] { out.add("a", ElementType::u8, {1}, {}); });
    refused([&] { out.begin("a", ElementType::u8, {INT64_MAX, 4}); });
    out.add("a", ElementType::u8, {1}, bytes_of("x"));
    refused([&] { out.metadata("k", "\xc0\xaf"); });
    out.metadata("k", "v");
    out.finish();
    return support::read(path);
  };
  EXPECT_EQ(write(dir / "m", true), write(dir / "n", false));
}

TEST(Writer, WithoutFinishTheOldFileStaysAndNothingElse) {
  Directory dir;
  support::write(dir / "m", "old");
  {
    Writer out(dir / "m");
    const std::string data = pattern(2'000'000, 1);
    out.add("a", ElementType::u8, {2'000'000}, bytes_of(data));
    EXPECT_EQ(dir.names().size(), 2u);
    EXPECT_EQ(support::read(dir / "m"), "old");
  }
  EXPECT_EQ(dir.names(), std::vector<std::string>{"m"});
  EXPECT_EQ(support::read(dir / "m"), "old");
}

TEST(Writer, TwoAtOnceDoNotMeet) {
  Directory dir;
  Writer first(dir / "m");
  Writer second(dir / "m");
  first.add("first", ElementType::u8, {1}, bytes_of("1"));
  second.add("second", ElementType::u8, {1}, bytes_of("2"));
  second.finish();
  EXPECT_NE(File(dir / "m").find("second"), nullptr);
  first.finish();
  EXPECT_NE(File(dir / "m").find("first"), nullptr);
  EXPECT_EQ(dir.names(), std::vector<std::string>{"m"});
}

TEST(Writer, AMappedFileOutlivesItsReplacement) {
  Directory dir;
  const auto save = [&](const char* content) {
    Writer out(dir / "m");
    out.add("a", ElementType::u8, {1}, bytes_of(content));
    out.finish();
  };
  save("1");
  const File old(dir / "m");
  save("2");
  EXPECT_EQ(support::string_of(old.at("a").data), "1");
  EXPECT_EQ(support::string_of(File(dir / "m").at("a").data), "2");
}

TEST(Writer, WhatTheSystemRefuses) {
  Directory dir;
  EXPECT_TRUE(says(thrown_by([&] { Writer out(dir / "none/m"); }), "IoError",
                   "cannot create " + (dir / "none/m").string() + ": No such file or directory"));
  std::filesystem::create_directory(dir / "taken");
  support::write(dir / "taken/x", "");
  Writer over_directory(dir / "taken");
  EXPECT_TRUE(says(thrown_by([&] { over_directory.finish(); }), "IoError", "cannot replace"));
  EXPECT_EQ(dir.names(), std::vector<std::string>{"taken"});
  // A limit on the size of files stands for a full disk.
  const int status = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {3'000'000, 3'000'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    support::Thrown thrown;
    Writer out(dir / "m");
    const std::string data = pattern(1'500'000, 1);
    for (int k = 0; k < 4 && thrown.kind == "nothing"; ++k)
      thrown = thrown_by([&] { out.add(std::to_string(k), ElementType::u8, {1'500'000}, bytes_of(data)); });
    return thrown.kind == "IoError" &&
                   thrown.message == "sinq: cannot write " + (dir / "m").string() + ": File too large" &&
                   dir.names().size() == 1
               ? 0
               : 1;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(dir.names(), std::vector<std::string>{"taken"});
}

/// Whatever the moment of its death, a save leaves the complete old file or the complete new one.
TEST(Writer, KilledAtAnyMoment) {
  Directory dir;
  const std::string data = pattern(1'100'000, 3);
  const auto save = [&](const char* which, int die_after) {
    Writer out(dir / "m", {.header_bytes = 0});  // the header outgrows this, so that data move at the end as well
    for (int k = 0; k < 6; ++k) {
      if (k == die_after) ::raise(SIGKILL);
      out.add(which + std::to_string(k), ElementType::u8, {1'100'000}, bytes_of(data));
    }
    if (die_after == 6) ::raise(SIGKILL);
    out.finish();
    return 0;
  };
  const auto check = [&](bool may_be_absent) {
    if (may_be_absent && !std::filesystem::exists(dir / "m")) return std::string("none");
    const File file(dir / "m");
    EXPECT_EQ(file.tensors().size(), 6u);
    for (const auto& t : file.tensors()) EXPECT_EQ(support::string_of(t.data) == data, true);
    return file.tensors()[0].name;
  };
  for (int k = 0; k <= 6; ++k) {
    const int status = in_child([&] { return save("new", k); });
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ(check(true), "none");
  }
  save("old", -1);
  for (int k = 0; k <= 6; ++k) {
    const int status = in_child([&] { return save("new", k); });
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ(check(false), "old0");
  }
  // At moments that the save does not choose, among them inside `finish`.
  int killed = 0;
  for (int k = 0; k < 40; ++k) {
    const int status = in_child([&] { return save("new", -1); },
                                [&](pid_t child) {
                                  std::this_thread::sleep_for(std::chrono::microseconds(500 * k));
                                  ::kill(child, SIGKILL);
                                });
    killed += WIFSIGNALED(status);
    const std::string found = check(false);
    EXPECT_TRUE(found == "old0" || found == "new0") << found;
    if (!WIFSIGNALED(status)) {
      EXPECT_EQ(found, "new0");
    }
  }
  EXPECT_GT(killed, 0);
}

/// Growth of the peak resident size in kilobytes while `action` runs in a process of its own.
template <class Action>
long peak_growth(Action&& action) {
  int pipe_ends[2];
  EXPECT_EQ(::pipe(pipe_ends), 0);
  in_child([&] {
    struct rusage before {};
    struct rusage after {};
    ::getrusage(RUSAGE_SELF, &before);
    action();
    ::getrusage(RUSAGE_SELF, &after);
    const long growth = after.ru_maxrss - before.ru_maxrss;
    return ::write(pipe_ends[1], &growth, sizeof growth) == sizeof growth ? 0 : 1;
  });
  long growth = -1;
  EXPECT_EQ(::read(pipe_ends[0], &growth, sizeof growth), static_cast<ssize_t>(sizeof growth));
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
  return growth;
}

TEST(Writer, MemoryIsThatOfOneTensor) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "thread sanitizer keeps four bytes for every byte that is read";
#endif
  Directory dir;
  constexpr std::int64_t kTensor = 4 << 20;
  const auto make = [&] {
    Writer out(dir / "m");
    std::vector<std::uint8_t> data(kTensor);
    for (int k = 0; k < 24; ++k) {  // 96 MB
      std::fill(data.begin(), data.end(), static_cast<std::uint8_t>(k));
      out.begin(std::to_string(k), ElementType::u8, {kTensor});
      out.append(data);
    }
    out.finish();
  };
  EXPECT_LT(peak_growth(make), 24 << 10);
  make();
  // A copy, with the pages of every tensor given back once it has been written.
  EXPECT_LT(peak_growth([&] {
              const File file(dir / "m");
              Writer out(dir / "copy");
              for (const auto& t : file.tensors()) {
                out.add(t);
                file.forget(t);
              }
              out.finish();
            }),
            24 << 10);
  EXPECT_EQ(support::read(dir / "m") == support::read(dir / "copy"), true);
}

}  // namespace
