// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

namespace {

using sinq::store::Config;
using sinq::store::Json;
using sinq::store::parse_json;
using support::says;
using support::thrown_by;

TEST(Json, KeepsOrderAndValues) {
  const char* text =
      R"({"z":1e-05,"a":[1,-2,18446744073709551615,1.0,10000.0],"s":"\u00e4\"","n":null,"t":true,"o":{}})";
  EXPECT_EQ(parse_json(text, "f").dump(),
            "{\"z\":1e-05,\"a\":[1,-2,18446744073709551615,1.0,10000.0],\"s\":\"\xc3\xa4\\\"\",\"n\":null,\"t\":true,"
            "\"o\":{}}");
  EXPECT_EQ(parse_json(" 3 ", "f"), Json(3));
  EXPECT_EQ(parse_json("-12.5e1", "f"), Json(-125.0));
  EXPECT_EQ(parse_json("12", "f"), Json(12));
  EXPECT_EQ(parse_json("\xef\xbb\xbf{\"a\":1}", "f")["a"], 1);  // a byte order mark
}

struct Refused {
  std::string text;
  const char* message;
  std::uint64_t offset;
};

TEST(Json, WhatIsRefused) {
  const std::string nul(1, '\0');
  std::string deep;
  for (int k = 0; k < 65; ++k) deep += "[";
  for (int k = 0; k < 65; ++k) deep += "]";
  for (const Refused& c :
       {Refused{"", "not valid JSON", 0}, Refused{"{\"a\":1,\"b\":{\"a\":1, \"a\":2}}", "\"a\" occurs twice", 19},
        Refused{"{\"a\":1,\"b\":2,\"\\u0061\":3}", "\"a\" occurs twice", 13},
        Refused{deep, "nested deeper than 64", 64}, Refused{"[1] x", "not valid JSON", 4},
        Refused{"[1]" + nul + "2", "something follows the end", 3}, Refused{"12" + nul, "something follows", 2},
        Refused{"[NaN]", "not valid JSON", 1}, Refused{"[1e400]", "not valid JSON", 5},
        Refused{"{\"a\":\"\xff\"}", "ill-formed UTF-8", 6}}) {
    const auto thrown = thrown_by([&] { (void)parse_json(c.text, "dir/config.json"); });
    EXPECT_TRUE(says(thrown, "FormatError", c.message)) << c.text;
    EXPECT_TRUE(says(thrown, "FormatError", "dir/config.json: "));
    EXPECT_EQ(thrown.offset, c.offset) << c.text;
  }
  EXPECT_EQ(thrown_by([&] { (void)parse_json(deep.substr(1, 128), "f"); }).kind, "nothing");  // 64 deep
  const std::string long_text(sinq::detail::store::kMaxJsonBytes + 1, ' ');
  EXPECT_TRUE(says(thrown_by([&] { (void)parse_json(long_text, "f"); }), "FormatError", "longer than 32 MiB"));
}

TEST(Json, DeepNestingCostsNoStack) {
  EXPECT_TRUE(says(thrown_by([] { (void)parse_json(std::string(8'000'000, '['), "f"); }), "FormatError", "deeper"));
}

TEST(Json, ManyMembersTakeLinearTime) {
  std::string text = "{";
  for (int k = 0; k < 300'000; ++k) text += (k == 0 ? "\"" : ",\"") + std::to_string(k) + "\":0";
  EXPECT_EQ(parse_json(text + "}", "f").size(), 300'000u);
}

TEST(Config, Answers) {
  const Config c(parse_json(R"({"i":32,"f":1e-5,"t":true,"s":"llama","n":null,"l":[1,2],"e":7,"neg":-3,
                               "rope":{"factor":8.0,"m":[1,2.5]},"a":["x","y"]})",
                            "f"),
                 "dir/config.json");
  EXPECT_EQ(c.integer("i"), 32);
  EXPECT_EQ(c.integer("neg"), -3);
  EXPECT_EQ(c.number("i"), 32.0);
  EXPECT_EQ(c.number("neg"), -3.0);
  EXPECT_EQ(c.number("f"), 1e-5);
  EXPECT_TRUE(c.flag("t"));
  EXPECT_EQ(c.text("s"), "llama");
  EXPECT_FALSE(c.has("n"));
  EXPECT_EQ(c.integer_or("n", 5), 5);
  EXPECT_EQ(c.number_or("none", 2.5), 2.5);
  EXPECT_FALSE(c.flag_or("none", false));
  EXPECT_EQ(c.text_or("n", "x"), "x");
  EXPECT_EQ(c.integers("l"), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(c.integers("e"), std::vector<std::int64_t>{7});
  EXPECT_EQ(c.object("rope").number("factor"), 8.0);
  EXPECT_EQ(c.object("rope").numbers("m"), (std::vector<double>{1, 2.5}));
  EXPECT_EQ(c.texts("a"), (std::vector<std::string>{"x", "y"}));
}

TEST(Config, RefusesByName) {
  const Config c(
      parse_json(R"({"i":32,"f":1.5,"s":"llama","big":18446744073709551615,"o":{"x":[true]},"n":null})", "f"),
      "dir/config.json");
  const auto refused = [](auto action, const char* message) {
    return says(thrown_by(action), "FormatError", std::string("sinq: dir/config.json: ") + message);
  };
  EXPECT_TRUE(refused([&] { (void)c.integer("none"); }, "\"none\" is missing"));
  EXPECT_TRUE(refused([&] { (void)c.integer("n"); }, "\"n\" is missing"));
  EXPECT_TRUE(refused([&] { (void)c.integer("f"); }, "\"f\" is not an integer"));
  EXPECT_TRUE(refused([&] { (void)c.integer("big"); }, "\"big\" is beyond"));
  EXPECT_TRUE(refused([&] { (void)c.integer("i", 1, 31); }, "\"i\" is 32, allowed are 1 to 31"));
  EXPECT_TRUE(refused([&] { (void)c.number("s"); }, "\"s\" is not a number"));
  EXPECT_TRUE(refused([&] { (void)c.flag("i"); }, "\"i\" is neither"));
  EXPECT_TRUE(refused([&] { (void)c.text("i"); }, "\"i\" is not a string"));
  EXPECT_TRUE(refused([&] { (void)c.object("i"); }, "\"i\" is not an object"));
  EXPECT_TRUE(refused([&] { (void)c.integers("s"); }, "\"s\" is not an integer"));
  EXPECT_TRUE(refused([&] { (void)c.object("o").integers("x"); }, "\"o.x\" is not an integer"));
  EXPECT_TRUE(refused([&] { (void)c.object("o").numbers("x"); }, "\"o.x\" holds something"));
  EXPECT_TRUE(refused([&] { (void)c.object("o").texts("x"); }, "\"o.x\" holds something"));
  EXPECT_TRUE(refused([&] { (void)c.numbers("i"); }, "\"i\" is not a list"));
  EXPECT_TRUE(says(thrown_by([] { Config(parse_json("[1]", "f"), "f"); }), "FormatError", "an object is needed"));
}

}  // namespace
