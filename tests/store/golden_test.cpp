// SPDX-License-Identifier: Apache-2.0
#include "support.hpp"

// tests/golden/store-v1.safetensors is the stored form, byte for byte. It is written here again and compared, and read.
// If this test fails, files that users have would be read differently: do not renew the golden file; raise the version.
// (Its making: run this test with SINQ_WRITE_GOLDEN set to the path of the file to write.)

namespace {

using namespace sinq;

/// Matrices whose bytes follow from counting, not from the library: byte k of an array is 37 k + 11 (mod 256), with the
/// bits behind the end of a row cleared; floats are (k mod 13) / 8 - 0.5.
QuantizedMatrix counted(const Format& f, std::int64_t rows, std::int64_t cols) {
  QuantizedMatrix q = make_quantized_matrix(f, rows, cols);
  const Tiling t = q.tiling();
  const auto stream = [](std::vector<std::uint8_t>& array, std::int64_t n_rows, std::int64_t bits) {
    for (std::size_t k = 0; k < array.size(); ++k) array[k] = static_cast<std::uint8_t>(37 * k + 11);
    const std::size_t row = array.size() / static_cast<std::size_t>(n_rows);
    if (bits % 8 != 0)
      for (std::size_t k = row - 1; k < array.size(); k += row)
        array[k] = static_cast<std::uint8_t>(array[k] & ((1 << bits % 8) - 1));
  };
  const auto floats = [](std::vector<std::uint8_t>& array, Aux aux) {
    for (std::size_t k = 0; k < array.size() * 8 / static_cast<std::size_t>(bits_of(aux)); ++k) {
      const float value = static_cast<float>(k % 13) / 8 - 0.5f;
      const half h(value);
      const bfloat16 b(value);
      if (aux == Aux::f32) std::memcpy(array.data() + 4 * k, &value, 4);
      if (aux == Aux::f16) std::memcpy(array.data() + 2 * k, &h, 2);
      if (aux == Aux::bf16) std::memcpy(array.data() + 2 * k, &b, 2);
    }
  };
  stream(q.codes, rows, cols * f.bits);
  if (is_integer(f.scale)) {
    stream(q.scale, rows, t.groups() * bits_of(f.scale));
    floats(q.coarse_scale, Aux::f16);
  } else {
    floats(q.scale, f.scale);
  }
  if (is_integer(f.zero)) {
    stream(q.zero, rows, t.groups() * bits_of(f.zero));
  } else if (f.zero != Aux::none) {
    floats(q.zero, f.zero);
  }
  if (f.col_scale != Aux::none) floats(q.col_scale, f.col_scale);
  if (f.levels == Levels::table)
    for (int k = 0; k < 1 << f.bits; ++k) q.table[static_cast<std::size_t>(k)] = static_cast<std::int8_t>(16 * k - 60);
  return q;
}

/// Between them every name of format.hpp and every width.
std::vector<std::pair<std::string, QuantizedMatrix>> matrices() {
  using enum Levels;
  std::vector<std::pair<std::string, QuantizedMatrix>> out;
  out.emplace_back("uniform", counted({}, 3, 70));
  out.emplace_back("uniform.u8", counted({.bits = 5, .group_size = 16, .scale = Aux::u8, .zero = Aux::u8}, 2, 37));
  out.emplace_back("symmetric", counted({.bits = 6,
                                         .levels = symmetric,
                                         .group_size = kWholeRow,
                                         .scale = Aux::bf16,
                                         .zero = Aux::none,
                                         .col_scale = Aux::bf16},
                                        3, 21));
  out.emplace_back("nf4", counted({.levels = nf4, .tile = Tile::square, .scale = Aux::f32, .zero = Aux::bf16}, 65, 9));
  out.emplace_back("nf3", counted({.bits = 3,
                                   .levels = nf3,
                                   .group_size = 32,
                                   .scale = Aux::u6,
                                   .zero = Aux::f32,
                                   .col_scale = Aux::f32,
                                   .signed_scale = true},
                                  2, 75));
  out.emplace_back("table", counted({.bits = 3,
                                     .levels = table,
                                     .group_size = 16,
                                     .scale = Aux::u4,
                                     .zero = Aux::u5,
                                     .col_scale = Aux::none,
                                     .coarse_groups = 2},
                                    2, 75));
  out.emplace_back("bits.2", counted({.bits = 2, .scale = Aux::u5, .zero = Aux::u7}, 1, 5));
  out.emplace_back("bits.8", counted({.bits = 8, .scale = Aux::u7, .zero = Aux::u6}, 1, 5));
  out.emplace_back("stack.0", counted({.zero = Aux::u4}, 1, 1));
  return out;
}

TEST(Golden, TheStoredFormIsWrittenAndReadByteForByte) {
  support::Directory dir;
  const auto all = matrices();
  {
    store::Writer out(dir / "m");
    store::declare_stack(out, "stack", 1);
    for (const auto& [name, q] : all) store::write(out, name, q);
    out.finish();
  }
  const std::string written = support::read(dir / "m");
  const std::filesystem::path golden = std::filesystem::path(SINQ_GOLDEN_DIR) / "store-v1.safetensors";
  if (const char* path = std::getenv("SINQ_WRITE_GOLDEN")) support::write(path, written);
  const std::string kept = support::read(golden);
  ASSERT_FALSE(kept.empty()) << golden;
  EXPECT_EQ(written.size(), kept.size());
  EXPECT_EQ(std::mismatch(written.begin(), written.end(), kept.begin(), kept.end()).second - kept.begin(),
            static_cast<std::ptrdiff_t>(kept.size()))
      << "the first byte that differs";

  const store::Checkpoint model(golden);
  const auto contents = store::contents(model);
  ASSERT_EQ(contents.quantized.size(), all.size());
  EXPECT_TRUE(contents.plain.empty());
  EXPECT_EQ(contents.stacks.at(0).name, "stack");
  for (const auto& [name, q] : all) EXPECT_EQ(store::read_quantized(model, name) == q, true) << name;
  // What the bytes mean, independent of the arrays: two weights by hand. Code 0 of row 0 is the low half of byte 11,
  // code 69 of row 1 the high half of byte 69 (35 bytes to a row; 37 * 69 + 11 = 0x04 in its low byte).
  const auto w = dequantize(store::read_quantized(model, "uniform"));
  EXPECT_EQ(w(0, 0), (11.0f - -0.5f) * -0.5f * -0.5f);
  EXPECT_EQ(w(1, 69), (0.0f - (3.0f / 8 - 0.5f)) * (3.0f / 8 - 0.5f) * (4.0f / 8 - 0.5f));
}

}  // namespace
