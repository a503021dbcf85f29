// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

// Every way in which a safetensors file can be wrong, with what the error says and the byte that it blames.

namespace {

using support::safetensors;

struct Case {
  const char* name;
  std::string bytes;
  std::string message;
  std::uint64_t offset;
};

/// A header and `data` bytes; the blame falls on the first occurrence of `blamed` in the header.
Case in_header(const char* name, const std::string& header, std::size_t data, std::string message,
               const std::string& blamed) {
  const auto at = header.find(blamed);
  EXPECT_NE(at, header.npos) << name << ": " << blamed;
  return {name, safetensors(header, std::string(data, 'd')), std::move(message), 8 + at};
}

// What GoogleTest prints of a case.
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::string entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::string length_bytes(std::uint64_t length) {
  return {reinterpret_cast<const char*>(&length), 8};
}

std::vector<Case> cases() {
  const std::string good = "{" + entry("a", "U8", "[4]", "[0,4]") + "}";
  const auto one = [](const std::string& type, const std::string& shape, const std::string& offsets) {
    return "{" + entry("a", type, shape, offsets) + "}";
  };
  std::string deep = "{\"a\":";
  for (int k = 0; k < 100'000; ++k) deep += '[';
  std::string rank65 = "[1";
  for (int k = 1; k < 65; ++k) rank65 += ",1";
  rank65 += "]";
  const std::string nul(1, '\0');
  return {
      // The length
      {"empty_file", "", "at least 8 bytes, this one has 0", 0},
      {"seven_bytes", std::string(7, '\0'), "at least 8 bytes, this one has 7", 7},
      {"header_of_2_63", length_bytes(std::uint64_t{1} << 63) + "{}", "a header of 9223372036854775808 bytes", 0},
      {"header_of_2_64", length_bytes(~std::uint64_t{0}) + "{}", "a header of 18446744073709551615 bytes", 0},
      {"header_over_limit", length_bytes(100'000'001) + "{}", "a header of 100000001 bytes, allowed are 100000000", 0},
      {"header_beyond_file", length_bytes(3) + "{}", "a header of 3 bytes in a file of 10", 0},
      {"header_of_nothing", length_bytes(0), "does not begin with '{'", 8},
      {"header_of_nothing_with_data", length_bytes(0) + "{}", "does not begin with '{'", 8},
      {"header_begins_with_space", safetensors(" {}"), "does not begin with '{'", 8},
      {"header_with_byte_order_mark", safetensors("\xef\xbb\xbf{}"), "does not begin with '{'", 8},
      {"header_is_an_array", safetensors("[]"), "does not begin with '{'", 8},
      // Truncation and garbage
      {"data_truncated", safetensors(good, "ddd"), "reach beyond the 3 bytes of data", 8 + good.find("[0,4]")},
      {"data_missing", safetensors(good), "reach beyond the 0 bytes of data", 8 + good.find("[0,4]")},
      {"bytes_behind_the_data", safetensors(good, "dddd++"), "2 bytes at the end belong to no tensor",
       8 + good.size() + 4},
      {"bytes_behind_no_tensors", safetensors("{}", "x"), "1 bytes at the end belong to no tensor", 10},
      {"two_documents", safetensors("{}{}"), "not valid JSON", 8 + 2},
      {"nul_behind_the_header", safetensors("{}" + nul + "{\"a\":1}"), "something follows the end", 10},
      {"nul_in_the_header", safetensors("{" + nul + "}"), "not valid JSON", 9},
      {"json_truncated", safetensors(good.substr(0, good.size() - 1), "dddd"), "not valid JSON", 8 + good.size() - 1},
      {"json_truncated_in_a_name", safetensors("{\"abc"), "not valid JSON", 8 + 5},
      in_header("comment", "{/**/}", 0, "not valid JSON", "/**/"),
      {"trailing_comma", safetensors("{\"__metadata__\":{},}"), "not valid JSON", 8 + 19},
      // Text
      {"bad_utf8_in_a_name", safetensors("{\"a\xff\":1}"), "ill-formed UTF-8", 8 + 3},
      {"overlong_utf8", safetensors("{\"a\xc0\xaf\":1}"), "ill-formed UTF-8", 8 + 3},
      {"utf8_surrogate", safetensors("{\"a\xed\xa0\x80\":1}"), "ill-formed UTF-8", 8 + 4},
      {"utf8_cut_off", safetensors("{\"a\xe2\x82\":1}"), "ill-formed UTF-8", 8 + 5},
      {"lone_surrogate_escape", safetensors("{\"\\ud800\":1}"), "not valid JSON", 8 + 8},
      {"control_character", safetensors("{\"a\n\":1}"), "not valid JSON", 8 + 3},
      // Names
      in_header("duplicate_tensor", "{" + entry("a", "U8", "[0]", "[0,0]") + ", \"\\u0061\":{}}", 0,
                "the name \"a\" occurs twice", "\"\\u0061\""),
      in_header("duplicate_metadata", R"({"__metadata__":{},"__metadata__":{}})", 0, "\"__metadata__\" occurs twice",
                "\"__metadata__\":{}}"),
      in_header("duplicate_key_in_metadata", R"({"__metadata__":{"k":"1","l":"2","k" :"3"}})", 0,
                "\"k\" occurs twice in __metadata__", "\"k\" :"),
      in_header("duplicate_dtype", R"({"a":{"dtype":"U8","shape":[0],"dtype" :"I8","data_offsets":[0,0]}})", 0,
                "tensor \"a\": \"dtype\" occurs twice", "\"dtype\" :"),
      in_header("duplicate_shape", R"({"a":{"shape":[0],"shape" :[0]}})", 0, "\"shape\" occurs twice", "\"shape\" :"),
      in_header("duplicate_offsets", R"({"a":{"data_offsets":[0,0],"data_offsets" :[0,0]}})", 0,
                "\"data_offsets\" occurs twice", "\"data_offsets\" :"),
      in_header("unknown_member", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})", 0,
                "tensor \"a\": \"x\" is no part", "\"x\""),
      // Kinds
      {"deep_arrays", safetensors(deep), "expected an object as the value of \"a\", found an array", 8 + 5},
      in_header("tensor_is_null", R"({"a":null})", 0, "expected an object as the value of \"a\", found null", "null"),
      in_header("tensor_is_a_number", R"({"a": 12})", 0, "expected an object as the value of \"a\", found a number",
                "12"),
      in_header("tensor_is_a_string", R"({"a":"x"})", 0, "found a string", "\"x\""),
      in_header("tensor_is_true", R"({"a":true})", 0, "found true or false", "true"),
      in_header("metadata_is_a_string", R"({"__metadata__":"x"})", 0, "found a string", "\"x\""),
      in_header("metadata_value_is_a_number", R"({"__metadata__":{"k":5}})", 0,
                "expected a string as the value of \"k\" in __metadata__, found a number", "5"),
      in_header("metadata_value_is_an_object", R"({"__metadata__":{"k":{}}})", 0, "found an object", "{}"),
      in_header("metadata_value_is_null", R"({"__metadata__":{"k":null}})", 0, "found null", "null"),
      in_header("dtype_is_a_number", R"({"a":{"dtype":8}})", 0, "expected a string as the value of \"dtype\"", "8"),
      in_header("dtype_is_an_array", R"({"a":{"dtype":[]}})", 0, "found an array", "[]"),
      in_header("shape_is_a_number", R"({"a":{"shape":8}})", 0, "expected an array as the value of \"shape\"", "8"),
      in_header("shape_is_an_object", R"({"a":{"shape":{}}})", 0, "found an object", "{}}}"),
      in_header("shape_holds_an_array", R"({"a":{"shape":[[1]]}})", 0, "found an array", "[1]"),
      in_header("shape_holds_a_string", R"({"a":{"shape":["1"]}})", 0, "found a string", "\"1\""),
      in_header("offsets_hold_an_object", R"({"a":{"data_offsets":[{}]}})", 0, "found an object", "{}]"),
      // Missing
      in_header("no_dtype", R"({"a":{"shape":[0],"data_offsets":[0,0]}})", 0, "tensor \"a\": dtype is missing",
                "\"a\""),
      in_header("no_shape", R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", 0, "shape is missing", "\"a\""),
      in_header("no_offsets", R"({"a":{"dtype":"U8","shape":[0]}})", 0, "data_offsets is missing", "\"a\""),
      in_header("no_members", R"({"a":{}})", 0, "dtype is missing", "\"a\""),
      in_header("one_offset", R"({"a":{"data_offsets":[0]}})", 0, "fewer than two", "]"),
      in_header("three_offsets", R"({"a":{"data_offsets":[0,1,27]}})", 0, "more than two", "27"),
      // Types and shapes
      in_header("unknown_dtype", one("F7", "[1]", "[0,1]"), 1, "tensor \"a\": dtype \"F7\" is unknown", "\"F7\""),
      in_header("dtype_in_lower_case", one("f32", "[1]", "[0,4]"), 4, "dtype \"f32\" is unknown", "\"f32\""),
      in_header("negative_extent", one("U8", "[-1]", "[0,1]"), 1, "found a negative number", "-1"),
      in_header("fractional_extent", one("U8", "[1.5]", "[0,1]"), 1, "no 64-bit integer", "1.5"),
      in_header("extent_of_2_63", one("U8", "[9223372036854775808]", "[0,1]"), 1, "beyond 2^63 - 1", "9223"),
      in_header("extent_of_2_64", one("U8", "[18446744073709551616]", "[0,1]"), 1, "no 64-bit integer", "1844"),
      in_header("extent_of_infinity", one("U8", "[1e999]", "[0,1]"), 1, "not valid JSON", "9]"),
      in_header("shape_overflows", one("U8", "[4294967296,4294967296]", "[0,0]"), 0, "overflows", "[4294967296,"),
      in_header("shape_overflows_to_a_small_number", one("U8", "[6148914691236517206,3]", "[0,2]"), 2, "overflows",
                "[6148"),
      in_header("bytes_overflow", one("F64", "[2305843009213693952]", "[0,0]"), 0, "overflows", "[2305"),
      in_header("shape_overflows_before_a_zero", one("U8", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflows",
                "[4294967296,"),
      {"too_many_extents", safetensors(one("U8", rank65, "[0,1]"), "d"), "more than 64 extents",
       8 + one("U8", rank65, "[0,1]").find("],\"data") - 1},
      in_header("half_a_byte", one("F4", "[3]", "[0,2]"), 2, "does not end with a whole byte", "[3]"),
      in_header("six_bits_do_not_end", one("F6_E2M3", "[2]", "[0,2]"), 2, "does not end with a whole byte", "[2]"),
      // Offsets
      in_header("wrong_size_for_dtype", one("F32", "[1]", "[0,2]"), 2,
                "data_offsets [0, 2] hold 2 bytes, but F32 [1] takes 4", "[0,2]"),
      in_header("too_many_bytes_for_dtype", one("F16", "[1]", "[0,4]"), 4, "hold 4 bytes, but F16 [1] takes 2",
                "[0,4]"),
      in_header("scalar_of_no_bytes", one("F32", "[]", "[0,0]"), 0, "takes 4", "[0,0]"),
      in_header("offsets_run_backwards", one("U8", "[0]", "[4,0]"), 4, "run backwards", "[4,0]"),
      in_header("offsets_of_2_64", one("U8", "[1]", "[18446744073709551614,18446744073709551615]"), 1, "reach beyond",
                "[18446"),
      in_header("negative_offset", one("U8", "[1]", "[-1,0]"), 1, "found a negative number", "-1"),
      in_header("overlap", "{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[4]", "[2,6]") + "}", 6,
                "tensor \"b\": its data overlaps that of \"a\"", "[2,6]"),
      in_header("same_data_twice",
                "{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "I8", "[4]", "[0,4 ]") + "}", 4,
                "tensor \"b\": its data overlaps that of \"a\"", "[0,4 ]"),
      in_header("empty_inside_another",
                "{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[0]", "[2,2]") + "}", 4, "overlaps",
                "[2,2]"),
      {"hole_in_front", safetensors(one("U8", "[2]", "[2,4]"), "dddd"), "2 bytes before tensor \"a\" belong to no",
       8 + one("U8", "[2]", "[2,4]").size()},
      {"hole_between",
       safetensors("{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[3,5]") + "}", "ddddd"),
       "1 bytes before tensor \"b\"",
       8 + 2 + ("{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[3,5]") + "}").size()},
  };
}

class Malformed : public ::testing::TestWithParam<Case> {};

TEST_P(Malformed, IsRefusedWithFileAndByte) {
  // A copy of exactly these bytes on the heap: a sanitizer sees a read of one byte more.
  const std::vector<char> exact(GetParam().bytes.begin(), GetParam().bytes.end());
  const auto thrown =
      support::thrown_by([&] { sinq::store::File(std::as_bytes(std::span(exact)), "some/file.safetensors"); });
  EXPECT_TRUE(support::says(thrown, "FormatError", GetParam().message));
  EXPECT_TRUE(support::says(thrown, "FormatError", "sinq: some/file.safetensors: "));
  EXPECT_TRUE(support::says(thrown, "FormatError", "(byte " + std::to_string(GetParam().offset) + ")"));
  EXPECT_EQ(thrown.offset, GetParam().offset);
}

INSTANTIATE_TEST_SUITE_P(Files, Malformed, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Malformed, EveryTruncationAndEveryFlippedByteIsAnErrorOrAFile) {
  const std::string whole = safetensors("{\"__metadata__\":{\"k\":\"v\"}," + entry("a", "F16", "[2,3]", "[0,12]") +
                                            "," + entry("b", "I64", "[]", "[12,20]") + "}",
                                        std::string(20, 'x'));
  const auto kind = [](const std::string& bytes) {
    const std::vector<char> exact(bytes.begin(), bytes.end());
    return support::thrown_by([&] { sinq::store::File(std::as_bytes(std::span(exact)), "f"); }).kind;
  };
  EXPECT_EQ(kind(whole), "nothing");
  for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_EQ(kind(whole.substr(0, n)), "FormatError") << n;
  for (std::size_t n = 0; n < whole.size(); ++n)
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[n] = static_cast<char>(flipped[n] ^ (1 << bit));
      const std::string k = kind(flipped);
      EXPECT_TRUE(k == "nothing" || k == "FormatError") << n << ": " << k;
    }
}

TEST(Malformed, MessagesStayShortAndPrintable) {
  const std::string name = std::string(100'000, 'n') + "\\u0007";
  const auto thrown = support::thrown_by([&] {
    const std::string bytes = safetensors("{\"" + name + "\":{}}");
    sinq::store::File(support::bytes_of(bytes), "f");
  });
  EXPECT_EQ(thrown.kind, "FormatError");
  EXPECT_LT(thrown.message.size(), 300u);
  const std::string bell = sinq::detail::store::in_quotes(
      "a\x07"
      "b");
  EXPECT_EQ(bell, "\"a?b\"");
  const std::string cut = sinq::detail::store::in_quotes(std::string(119, 'a') + "\xe2\x82\xac");
  EXPECT_EQ(cut, "\"" + std::string(119, 'a') + "...\"");
}

}  // namespace
