// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <sinq/pack/bitstream.hpp>
#include <vector>

#include "support/naive.hpp"

namespace {

namespace packing = sinq::detail::pack;

constexpr std::uint8_t kGuard = 0xa5;

/// Bytes in a block of their own (the address sanitizer sees an over-read) with guards (everybody sees an over-write).
struct Guarded {
  explicit Guarded(std::int64_t n) : size(n), bytes(static_cast<std::size_t>(n + 16), kGuard) {}
  [[nodiscard]] std::uint8_t* data() { return bytes.data() + 8; }
  [[nodiscard]] bool intact() const {
    const auto guard = [](std::uint8_t b) { return b == kGuard; };
    return std::all_of(bytes.begin(), bytes.begin() + 8, guard) && std::all_of(bytes.end() - 8, bytes.end(), guard);
  }
  std::int64_t size;
  std::vector<std::uint8_t> bytes;
};

class BitstreamTest : public testing::TestWithParam<int> {};

TEST_P(BitstreamTest, RoundTripOfEveryLength) {
  const int bits = GetParam();
  std::mt19937 random(static_cast<std::uint32_t>(bits));
  for (std::int64_t count = 1; count <= 70; ++count) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
    for (auto& c : codes) c = static_cast<std::uint8_t>(sinq::test::random_bits(random) & ((1u << bits) - 1));
    const std::int64_t size = (count * bits + 7) / 8;
    ASSERT_EQ(packing::stream_bytes(count, bits), size);
    Guarded stream(size);
    packing::write_codes(bits, stream.data(), 0, count, codes.data());
    ASSERT_TRUE(stream.intact());
    for (std::int64_t k = 0; k < count; ++k)
      ASSERT_EQ(sinq::test::bits_at(stream.data(), k, bits), codes[static_cast<std::size_t>(k)])
          << k << " of " << count;
    if (count * bits % 8 != 0) {
      ASSERT_EQ(stream.data()[size - 1] >> (count * bits % 8), 0) << "padding, " << count;
    }
    const std::vector<std::uint8_t> exact(stream.data(), stream.data() + size);  // nothing behind the last byte
    for (std::int64_t first = 0; first < count; first += 8) {
      Guarded back(count - first);
      packing::read_codes(bits, exact.data(), first, count - first, back.data());
      ASSERT_TRUE(back.intact());
      ASSERT_TRUE(std::equal(codes.begin() + first, codes.end(), back.data())) << first << " of " << count;
    }
  }
}

// A part written into the middle of a stream leaves the rest alone; so does a part that is read short.
TEST_P(BitstreamTest, PartsOfAStream) {
  const int bits = GetParam();
  std::vector<std::uint8_t> stream(static_cast<std::size_t>(packing::stream_bytes(40, bits)), 0xff);
  const std::vector<std::uint8_t> codes = {1, 0, 3, 2, 1, 1, 0, 3, 2, 0, 1, 2, 3, 3, 2, 1};
  packing::write_codes(bits, stream.data(), 16, 16, codes.data());
  for (std::int64_t k = 0; k < 40; ++k)
    EXPECT_EQ(sinq::test::bits_at(stream.data(), k, bits),
              k >= 16 && k < 32 ? codes[static_cast<std::size_t>(k - 16)] : (1 << bits) - 1);
  Guarded some(3);
  packing::read_codes(bits, stream.data(), 24, 3, some.data());
  EXPECT_TRUE(some.intact());
  EXPECT_EQ(std::vector<std::uint8_t>(some.data(), some.data() + 3), (std::vector<std::uint8_t>{2, 0, 1}));
}

INSTANTIATE_TEST_SUITE_P(Bits, BitstreamTest, testing::Range(2, 9));  // 7 is the width of an auxiliary

// The picture at the top of the header, byte for byte: code 0 in bits 0 to 2, code 2 across bytes 0 and 1, and so on.
TEST(Bitstream, DocumentedPictureOfThreeBits) {
  const std::uint8_t codes[8] = {1, 2, 3, 4, 5, 6, 7, 0};
  std::uint8_t bytes[3];
  packing::write_codes<3>(bytes, 0, 8, codes);
  EXPECT_EQ(bytes[0], 0b11'010'001);   // 2 2 1 1 1 0 0 0: low bits of 3, 2, 1
  EXPECT_EQ(bytes[1], 0b0'101'100'0);  // 5 4 4 4 3 3 3 2
  EXPECT_EQ(bytes[2], 0b000'111'11);   // 7 7 7 6 6 6 5 5
}

TEST(Bitstream, RowOfFourBitsHasItsFirstCodeInTheLowNibble) {
  const std::uint8_t codes[3] = {0xa, 0xb, 0xc};
  std::uint8_t bytes[2];
  packing::write_codes(4, bytes, 0, 3, codes);
  EXPECT_EQ(bytes[0], 0xba);
  EXPECT_EQ(bytes[1], 0x0c);
}

TEST(Bitstream, ConstantEvaluation) {
  static_assert(packing::spread<3>(0b000'111'110'101'100'011'010'001) == 0x00'07'06'05'04'03'02'01);
  static_assert(packing::gather<3>(0x00'07'06'05'04'03'02'01) == 0b000'111'110'101'100'011'010'001);
  static_assert(packing::stream_bytes(0x7fff'ffff, 8) == 0x7fff'ffff);
}

}  // namespace
