// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <sinq/core.hpp>
#include <sinq/core/thread_pool.hpp>
#include <string>
#include <thread>
#include <vector>

#include "support/isas.hpp"
#include "support/message_of.hpp"

namespace {

using namespace sinq;
using test::message_of;
namespace core = sinq::detail::core;
using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// --- bits and levels ----------------------------------------------------------------------------------------------

TEST(Bits, RunTimeWidthBecomesTheSameConstant) {
  for (int bits = 2; bits <= 8; ++bits) EXPECT_EQ(core::with_bits(bits, [](auto b) { return b(); }), bits);
  for (int bits : kBitWidths) EXPECT_EQ(core::with_code_bits(bits, [](auto b) { return b(); }), bits);
}

TEST(Levels, CodebooksAscendFromMinusOneToOneAndHoldZero) {
  const auto check = [](const auto& book) {
    EXPECT_EQ(book.front(), -1.0f);
    EXPECT_EQ(book.back(), 1.0f);
    EXPECT_TRUE(std::is_sorted(book.begin(), book.end(), std::less_equal<>{}));  // strictly
    EXPECT_EQ(std::count(book.begin(), book.end(), 0.0f), 1);
  };
  check(kNf4);
  check(kNf3);
}

TEST(Levels, OneFormula) {
  LevelTable table{};
  for (int k = 0; k < 16; ++k) table[static_cast<std::size_t>(k)] = static_cast<std::int8_t>(-128 + 17 * k);
  for (int bits : kBitWidths)
    for (int code = 0; code < 1 << bits; ++code) {
      EXPECT_EQ(core::level(Levels::uniform, bits, table, code), static_cast<float>(code));
      EXPECT_EQ(core::level(Levels::symmetric, bits, table, code), static_cast<float>(code - (1 << (bits - 1))));
    }
  for (int code = 0; code < 16; ++code) {
    EXPECT_EQ(core::level(Levels::nf4, 4, table, code), kNf4[static_cast<std::size_t>(code)]);
    EXPECT_EQ(core::level(Levels::table, 4, table, code), static_cast<float>(-128 + 17 * code));
  }
  for (int code = 0; code < 8; ++code)
    EXPECT_EQ(core::level(Levels::nf3, 3, table, code), kNf3[static_cast<std::size_t>(code)]);
  static_assert(core::level(Levels::symmetric, 4, {}, 0) == -8.0f);  // usable on a device
}

// --- views --------------------------------------------------------------------------------------------------------

/// All weights of a view, one by one and in rows, which must agree.
std::vector<float> read(const WeightView& w) {
  std::vector<float> all(static_cast<std::size_t>(w.rows * w.cols));
  for (std::int64_t i = 0; i < w.rows; ++i) {
    w.load(i, 0, w.cols, all.data() + i * w.cols);
    for (std::int64_t j = 0; j < w.cols; ++j) {
      float one = NAN;
      w.load(i, j, 1, &one);
      EXPECT_EQ(one, all[static_cast<std::size_t>(i * w.cols + j)]);
    }
  }
  return all;
}

template <class T>
class ElementTest : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(ElementTest, Elements);

TYPED_TEST(ElementTest, SizesAndNames) {
  const DType type = DTypeOf<TypeParam>::value;
  EXPECT_EQ(size_of(type), sizeof(TypeParam));
  EXPECT_TRUE((core::with_dtype(type, [](auto x) { return std::is_same_v<decltype(x), TypeParam>; })));
  EXPECT_STREQ(name_of(DType::f32), "f32");
  EXPECT_STREQ(name_of(DType::f64), "f64");
  EXPECT_STREQ(name_of(DType::f16), "f16");
  EXPECT_STREQ(name_of(DType::bf16), "bf16");
}

TYPED_TEST(ElementTest, StridedViewAtEveryAlignment) {
  const std::int64_t rows = 3, cols = 5, stride = 7;
  for (std::size_t shift = 0; shift < 8; ++shift) {  // a memory-mapped file aligns nothing
    std::vector<std::byte> bytes(shift + sizeof(TypeParam) * ((rows - 1) * stride + cols));  // ends with the last one
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j) {
        const auto value = static_cast<TypeParam>(static_cast<float>(i) - 0.25f * static_cast<float>(j));
        std::memcpy(bytes.data() + shift + sizeof value * static_cast<std::size_t>(i * stride + j), &value,
                    sizeof value);
      }
    const auto got = read(WeightView(bytes.data() + shift, DTypeOf<TypeParam>::value, rows, cols, stride));
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j)
        EXPECT_EQ(got[static_cast<std::size_t>(i * cols + j)], static_cast<float>(i) - 0.25f * static_cast<float>(j));
  }
}

TYPED_TEST(ElementTest, EigenBecomesAView) {
  using Matrix = Eigen::Matrix<TypeParam, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix m(4, 6);
  for (int k = 0; k < 24; ++k) m(k / 6, k % 6) = static_cast<TypeParam>(static_cast<float>(k));
  const MatrixView<const TypeParam> whole(m);
  EXPECT_EQ(whole.data, m.data());
  EXPECT_EQ(whole.stride, 6);
  auto block = m.block(1, 2, 3, 2);
  const MatrixView<TypeParam> part(block);
  EXPECT_EQ(part.rows, 3);
  EXPECT_EQ(part.cols, 2);
  EXPECT_EQ(part.stride, 6);
  EXPECT_EQ(static_cast<float>(part.row(2)[1]), 21.0f);
  part.row(2)[1] = static_cast<TypeParam>(-1.0f);
  EXPECT_EQ(static_cast<float>(m(3, 3)), -1.0f);
  const MatrixView<const TypeParam> constant(part);
  EXPECT_EQ(read(constant), (std::vector<float>{8, 9, 14, 15, 20, -1}));

  const MatrixRef<TypeParam> ref(block);  // nothing to evaluate: the same memory
  EXPECT_EQ(ref.data(), block.data());
  EXPECT_EQ(read(WeightView(ref)), read(constant));
  const MatrixRef<TypeParam> transposed(m.transpose());  // evaluated
  EXPECT_EQ(read(WeightView(transposed)),
            (std::vector<float>{0, 6, 12, 18, 1, 7, 13, 19, 2, 8, 14, 20, 3, 9, 15, -1, 4, 10, 16, 22, 5, 11, 17, 23}));
}

TEST(View, VectorsAndMapsKeepTheirShape) {
  std::vector<float> data(40);
  for (std::size_t k = 0; k < data.size(); ++k) data[k] = static_cast<float>(k);
  using Strided = Eigen::Map<const RowMajor, 0, Eigen::OuterStride<>>;
  const Strided map(data.data() + 1, 3, 4, Eigen::OuterStride<>(10));
  const MatrixView<const float> view(map);
  EXPECT_EQ(view.stride, 10);
  EXPECT_EQ(view.row(2)[3], 24.0f);
  EXPECT_EQ(MatrixRef<float>(map).data(), map.data());
  const Eigen::Map<const Eigen::RowVectorXf> row(data.data(), 7);
  EXPECT_EQ(read(WeightView(MatrixRef<float>(row))), (std::vector<float>{0, 1, 2, 3, 4, 5, 6}));
  const Eigen::Map<const Eigen::VectorXf> column(data.data(), 3);
  const MatrixRef<float> evaluated(column);
  const WeightView column_view(evaluated);
  EXPECT_EQ(column_view.rows, 3);
  EXPECT_EQ(read(column_view), (std::vector<float>{0, 1, 2}));
  const Eigen::Map<const RowMajor, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> spread(
      data.data(), 2, 2, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(10, 3));
  EXPECT_EQ(read(WeightView(MatrixRef<float>(spread))), (std::vector<float>{0, 3, 10, 13}));
}

TEST(View, FirstWeightThatIsNotFiniteIsNamed) {
  std::vector<float> w(70, 1.0f);
  EXPECT_EQ(core::require_finite(w.data(), 70, 0, 0), 1.0f);
  w[3] = -0x1.fffffep119f;  // the largest that is allowed
  EXPECT_EQ(core::require_finite(w.data(), 70, 0, 0), 0x1.fffffep119f);
  w[68] = NAN;
  w[69] = INFINITY;
  EXPECT_EQ(message_of([&] { core::require_finite(w.data(), 70, 5, 1000); }),
            "sinq: weights(5, 1068) = nan: must be finite (as float)");
  w[41] = -INFINITY;
  EXPECT_EQ(message_of([&] { core::require_finite(w.data(), 70, 5, 1000); }),
            "sinq: weights(5, 1041) = -inf: must be finite (as float)");
  w[40] = 0x1p120f;
  EXPECT_EQ(message_of([&] { core::require_finite(w.data(), 70, 5, 1000); }),
            "sinq: weights(5, 1040) = 1.32923e+36: must be below 2^120 in magnitude");
  for (std::uint32_t bits : {0x7f80'0001u, 0xffc0'0000u, 0xffff'ffffu, 0x7fff'ffffu})  // NaNs of all kinds
    EXPECT_FALSE(core::is_finite(std::bit_cast<float>(bits)));
  for (float x : {0.0f, -0.0f, 1e-45f, -3.4028235e38f}) EXPECT_TRUE(core::is_finite(x));
}

// --- lanes --------------------------------------------------------------------------------------------------------

struct StoreAsBytes {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const float* from, std::int64_t count, std::uint8_t* to) noexcept {
    for (std::int64_t k = 0; k < count; k += kWidth) core::Lanes<kWidth>::load(from + k).store(to + k);
  }
};

TEST(Lanes, WholeNumbersBecomeBytes) {
  std::vector<float> from(256);
  std::iota(from.begin(), from.end(), 0.0f);
  test::on_every_isa([&](Isa isa) {
    std::vector<std::uint8_t> to(from.size() + 1, 77);
    core::on_isa<StoreAsBytes>(from.data(), std::int64_t{256}, to.data());
    for (std::size_t k = 0; k < from.size(); ++k) EXPECT_EQ(to[k], from[k]) << name_of(isa);
    EXPECT_EQ(to.back(), 77) << name_of(isa);
  });
}

// --- instruction sets ---------------------------------------------------------------------------------------------

TEST(Cpu, ForcedInstructionSetIsInUse) {
  const Isa before = current_isa();
  const auto all = supported_isas();
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all.front(), Isa::portable);
  const auto stood_in = [](Isa isa) {  // can be forced, but is never chosen
    return (isa == Isa::amx && !core::has_tiles()) || (isa == Isa::avxvnni && !core::has_avx_vnni());
  };
  EXPECT_EQ(*std::find_if_not(all.rbegin(), all.rend(), stood_in), core::best_isa());
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  for (Isa isa : all) {
    force_isa(isa);
    EXPECT_EQ(current_isa(), isa);
  }
  for (Isa isa : {Isa::portable, Isa::neon, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::avx512vbmi, Isa::amx})
    if (!core::supported(isa)) {
      EXPECT_EQ(message_of([&] { force_isa(isa); }),
                std::string("sinq: isa = ") + name_of(isa) + ": this machine does not have it");
    }
  EXPECT_THROW(force_isa(static_cast<Isa>(77)), InvalidArgument);
  EXPECT_EQ(current_isa(), all.back());
  force_isa(before);
  EXPECT_STREQ(name_of(Isa::portable), "portable");
  EXPECT_STREQ(name_of(Isa::avx2), "avx2");
  EXPECT_STREQ(name_of(Isa::avxvnni), "avxvnni");
  EXPECT_STREQ(name_of(Isa::avx512), "avx512");
  EXPECT_STREQ(name_of(Isa::neon), "neon");
  EXPECT_STREQ(name_of(Isa::avx512vbmi), "avx512vbmi");
  EXPECT_STREQ(name_of(Isa::amx), "amx");
}

/// Readings of a processor that has everything, on a system that lets it be used.
constexpr core::X86 kEverything{.leaf1_ecx = ~0u,
                                .leaf7_ebx = ~0u,
                                .leaf7_ecx = ~0u,
                                .leaf7_edx = ~0u,
                                .leaf7_1_eax = ~0u,
                                .saved = ~0u,
                                .tiles_granted = true};

/// What has_...() says, one letter each: AVX2, AVX-VNNI (v), AVX-512 (5), VNNI (n), VBMI (b), tiles (t).
std::string features(const core::X86& x) {
  std::string all;
  if (core::has_avx2(x)) all += '2';
  if (core::has_avx_vnni(x)) all += 'v';
  if (core::has_avx512(x)) all += '5';
  if (core::has_avx512_vnni(x)) all += 'n';
  if (core::has_avx512_vbmi(x)) all += 'b';
  if (core::has_tiles(x)) all += 't';
  return all;
}

/// Every bit that an instruction set asks for, taken away alone, takes it and what builds on it away; no other bit of
/// any word does. Positions are those of Intel's manual, volume 2 (CPUID) and volume 1, 13.3 (XCR0).
TEST(Cpu, EveryBitThatIsNeededIsLookedAt) {
  struct Word {
    const char* name;
    std::uint32_t core::X86::*word;
    std::vector<std::pair<std::vector<int>, const char*>> left;  // where one of these bits is missing
  };
  const Word words[] = {
      {"CPUID.1:ECX", &core::X86::leaf1_ecx, {{{12, 27, 28, 29}, ""}}},
      {"CPUID.7:EBX", &core::X86::leaf7_ebx, {{{5}, ""}, {{16, 17, 30, 31}, "2v"}}},
      {"CPUID.7:ECX", &core::X86::leaf7_ecx, {{{1}, "2v5n"}, {{11}, "2v5"}}},
      {"CPUID.7:EDX", &core::X86::leaf7_edx, {{{22, 24, 25}, "2v5nb"}}},
      {"CPUID.7.1:EAX", &core::X86::leaf7_1_eax, {{{4}, "25nbt"}}},
      {"XCR0", &core::X86::saved, {{{1, 2}, ""}, {{5, 6, 7}, "2v"}, {{17, 18}, "2v5nb"}}},
  };
  EXPECT_EQ(features(kEverything), "2v5nbt");
  EXPECT_EQ(features({}), "");
  for (const Word& w : words)
    for (int bit = 0; bit < 32; ++bit) {
      std::string expected = "2v5nbt";
      for (const auto& [needed, left] : w.left)
        if (std::find(needed.begin(), needed.end(), bit) != needed.end()) expected = left;
      core::X86 x = kEverything;
      x.*w.word &= ~(1u << bit);
      EXPECT_EQ(features(x), expected) << "without bit " << bit << " of " << w.name;
    }
}

/// A system may save tiles and yet not let this process use them; it is asked only where there are some.
TEST(Cpu, TilesNeedTheSystemsPermission) {
  core::X86 x = kEverything;
  EXPECT_TRUE(core::could_have_tiles(x));
  x.tiles_granted = false;
  EXPECT_TRUE(core::could_have_tiles(x));
  EXPECT_FALSE(core::has_tiles(x));
  x.saved = 0xe7;  // a system that knows AVX-512 but no tiles
  EXPECT_FALSE(core::could_have_tiles(x));
  x.tiles_granted = true;
  EXPECT_FALSE(core::has_tiles(x));
  EXPECT_TRUE(core::has_avx512_vbmi(x));
}

/// An old system saves 128 bits of a new processor's registers; one without OSXSAVE says nothing about XCR0.
TEST(Cpu, RegistersThatTheSystemDoesNotSaveAreNotUsed) {
  core::X86 x = kEverything;
  x.saved = 3;
  EXPECT_EQ(features(x), "");
  x.saved = 7;
  EXPECT_EQ(features(x), "2v");
  x = kEverything;
  x.leaf1_ecx &= ~(1u << 27);
  EXPECT_EQ(features(x), "");
}

#if defined(__x86_64__)
/// The compiler's own detection, which knows no permission for tiles, has the same opinion of this machine.
TEST(Cpu, ThisMachineIsWhatTheCompilerTakesItFor) {
  const core::X86& x = core::this_x86();
  EXPECT_EQ(core::has_avx2(x), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
  EXPECT_EQ(core::has_avx512(x), __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"));
  EXPECT_EQ(core::has_avx512_vbmi(x),
            core::has_avx512(x) && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"));
}
#endif

// --- executors ----------------------------------------------------------------------------------------------------

/// An executor and the pool behind it; 0 threads: the serial one.
struct Threads {
  explicit Threads(int helpers) {
    if (helpers > 0) {
      pool = std::make_unique<Eigen::ThreadPool>(helpers);
      executor = std::make_unique<ThreadPoolExecutor>(*pool);
    } else {
      executor = std::make_unique<SerialExecutor>();
    }
  }
  std::unique_ptr<Eigen::ThreadPool> pool;
  std::unique_ptr<Executor> executor;
};

class ExecutorTest : public testing::TestWithParam<int> {
 protected:
  Threads threads_{GetParam()};
  Executor& executor_ = *threads_.executor;
};

TEST_P(ExecutorTest, EveryIndexOnceAndNoWorkerTwiceAtATime) {
  EXPECT_EQ(executor_.width(), GetParam() + 1);
  for (std::int64_t count : {0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
    std::vector<std::atomic<int>> busy(static_cast<std::size_t>(executor_.width()));
    std::atomic<int> wrong{0};
    executor_.run(count, [&](std::int64_t index, int worker) {
      if (index < 0 || index >= count || worker < 0 || worker >= executor_.width()) {
        ++wrong;
        return;
      }
      auto& mine = busy[static_cast<std::size_t>(worker)];
      if (mine.fetch_add(1) != 0) ++wrong;
      ++seen[static_cast<std::size_t>(index)];
      if (index % 100 == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));  // let the others overtake
      --mine;
    });
    EXPECT_EQ(wrong, 0);
    for (const auto& times : seen) EXPECT_EQ(times, 1);
  }
}

TEST_P(ExecutorTest, ResultsAreVisibleWhenRunReturns) {
  for (int round = 0; round < 200; ++round) {
    std::vector<int> plain(64);  // not atomic: thread sanitizer looks
    executor_.run(64, [&](std::int64_t index, int) { plain[static_cast<std::size_t>(index)] = round; });
    for (int value : plain) ASSERT_EQ(value, round);
  }
}

TEST_P(ExecutorTest, ExceptionOfTheLowestIndexComesOut) {
  using namespace std::chrono_literals;
  for (std::int64_t late : {37, 38}) {  // two that fail, at the same time where there are threads, in either order
    std::atomic<int> ran{0};
    std::atomic<int> failing{0};
    try {
      core::run_throwing(executor_, 100, [&](std::int64_t index, int) {
        if (index < 37) ++ran;
        if (index != 37 && index != 38) return;
        ++failing;
        for (int waits = 0; executor_.width() > 1 && failing < 2 && waits < 1000; ++waits)
          std::this_thread::sleep_for(1ms);
        if (index == late) std::this_thread::sleep_for(10ms);
        core::raise<InvalidArgument>(std::to_string(index));
      });
      FAIL() << "nothing was thrown";
    } catch (const InvalidArgument& error) {
      EXPECT_STREQ(error.what(), "37");
    }
    EXPECT_EQ(ran, 37);
  }
  EXPECT_NO_THROW(core::run_throwing(executor_, 100, [](std::int64_t, int) {}));
}

// Once one has failed, what lies behind it is left out.
TEST_P(ExecutorTest, NothingIsStartedBehindAFailure) {
  std::atomic<int> ran{0};
  EXPECT_THROW(core::run_throwing(executor_, 100000,
                                  [&](std::int64_t, int) {
                                    ++ran;
                                    core::raise<InvalidArgument>("stop");
                                  }),
               InvalidArgument);
  EXPECT_LT(ran, 1000);
}

// Where several calls share one pool, each has workers of its own.
TEST_P(ExecutorTest, MayBeUsedFromSeveralThreadsAtOnce) {
  const auto call = [&] {
    std::vector<std::atomic<int>> busy(static_cast<std::size_t>(executor_.width()));
    std::atomic<std::int64_t> sum{0};
    for (int round = 0; round < 50; ++round)
      executor_.run(40, [&](std::int64_t index, int worker) {
        EXPECT_EQ(busy[static_cast<std::size_t>(worker)]++, 0);
        sum += index;
        --busy[static_cast<std::size_t>(worker)];
      });
    EXPECT_EQ(sum, 50 * 780);
  };
  std::thread other(call);
  call();
  other.join();
}

/// Tasks in falling order: a legal executor, if an odd one.
class BackwardExecutor final : public Executor {
 public:
  [[nodiscard]] int width() const noexcept override { return 1; }
  void run(std::int64_t count, TaskRef task) override {
    for (std::int64_t i = count; i-- > 0;) task(i, 0);
  }
};

TEST(Executor, ExceptionOfTheLowestIndexComesOutInAnyOrder) {
  BackwardExecutor backward;
  int below = 0;
  try {
    core::run_throwing(backward, 100, [&](std::int64_t index, int) {
      below += index < 37;
      if (index == 37 || index == 60 || index == 61) core::raise<InvalidArgument>(std::to_string(index));
    });
    FAIL() << "nothing was thrown";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "37");
  }
  EXPECT_EQ(below, 37);
}

TEST(Executor, WithoutWorkersIsNamed) {
  struct NoWorkers final : Executor {
    [[nodiscard]] int width() const noexcept override { return 0; }
    void run(std::int64_t, TaskRef) override {}
  } none;
  EXPECT_EQ(message_of([&] { (void)core::width_of(none); }), "sinq: executor.width() = 0: must be positive");
  EXPECT_EQ(core::width_of(SerialExecutor()), 1);
}

INSTANTIATE_TEST_SUITE_P(Widths, ExecutorTest, testing::Values(0, 1, 3));

}  // namespace
