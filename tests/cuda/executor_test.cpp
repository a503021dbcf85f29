// SPDX-License-Identifier: Apache-2.0
#include "executor.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <random>

// The executor itself: toy kernels with one bug each, and the models of the instructions against plain loops.

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;
using test::Executor;

// --- models ---------------------------------------------------------------------------------------------------------

TEST(Models, HalfIsEigensHalf) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto h = Eigen::numext::bit_cast<Eigen::half>(static_cast<std::uint16_t>(bits));
    const float value = model::half_to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(static_cast<float>(h))) {
      EXPECT_TRUE(std::isnan(value));
    } else {
      EXPECT_EQ(value, static_cast<float>(h)) << bits;
      EXPECT_EQ(model::float_to_half(value), bits);
    }
  }
  std::mt19937 random(1);
  for (int k = 0; k < 2'000'000; ++k) {
    // Every exponent, with mantissas close to a tie as well.
    std::uint32_t bits = static_cast<std::uint32_t>(random());
    if (k % 2 != 0) bits = (bits & 0xffff'e000u) + 0x1000u + static_cast<std::uint32_t>(k / 2 % 3) - 1;
    float value = 0;
    std::memcpy(&value, &bits, 4);
    if (std::isnan(value)) continue;
    ASSERT_EQ(model::float_to_half(value), Eigen::numext::bit_cast<std::uint16_t>(static_cast<Eigen::half>(value)))
        << value;
  }
}

TEST(Models, MmaIsTheProductOfTheMatrices) {
  std::mt19937 random(2);
  float a[16][16], b[16][8], c[16][8];
  const auto number = [&] { return static_cast<float>(static_cast<int>(random() % 17) - 8); };
  for (auto& row : a)
    for (float& v : row) v = number();
  for (auto& row : b)
    for (float& v : row) v = number();
  for (auto& row : c)
    for (float& v : row) v = number();
  model::MmaOperands all[32];
  const auto pair = [](float low, float high) {
    return model::float_to_half(low) | static_cast<std::uint32_t>(model::float_to_half(high)) << 16;
  };
  for (int lane = 0; lane < 32; ++lane) {
    // "Matrix Fragments for mma.m16n8k16 with floating point type", written as the ISA writes it.
    const int group = lane >> 2, t = lane % 4;
    for (int i = 0; i < 8; i += 2) {
      const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8;
      const int col = i < 4 ? t * 2 : t * 2 + 8;
      all[lane].a[i / 2] = pair(a[row][col], a[row][col + 1]);
    }
    for (int i = 0; i < 4; i += 2) {
      const int row = i < 2 ? t * 2 : t * 2 + 8;
      all[lane].b[i / 2] = pair(b[row][group], b[row + 1][group]);
    }
    for (int i = 0; i < 4; ++i) all[lane].c[i] = c[i < 2 ? group : group + 8][t * 2 + (i & 1)];
  }
  for (int lane = 0; lane < 32; ++lane) {
    float d[4];
    model::mma(all, lane, d);
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane / 4 : lane / 4 + 8, col = lane % 4 * 2 + (i & 1);
      float sum = c[row][col];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][col];
      EXPECT_EQ(d[i], sum) << lane << ' ' << i;
    }
  }
}

/// Sums by hand. 0x1p-24f is the half of a code of 1: its exponent counts as -14.
TEST(Models, SumsAreCutOffWhereATensorCoreDoesIt) {
  const auto sum = [](float c, std::initializer_list<float> a, std::initializer_list<float> b, int bits) {
    EXPECT_EQ(a.size(), b.size());
    return model::fused_sum(c, a.begin(), b.begin(), static_cast<int>(a.size()), -14, bits);
  };
  const float code = 0x1p-24f, small = 1 + 0x1p-10f;
  // 2^-24 (1 + 2^-10) beside a product of exponent -14 + 13: cut off at 2^-25 or 2^-26, though the sum would fit.
  for (int bits : {24, 25}) {
    EXPECT_EQ(sum(0, {code, code}, {0x1p13f, small}, bits), 0x1p-11f + 0x1p-24f);
    EXPECT_EQ(sum(0, {code, code}, {0x1p13f, -small}, bits), 0x1p-11f - 0x1p-24f);      // towards zero
    EXPECT_EQ(sum(0x1p-24f + 0x1p-34f, {code}, {0x1p13f}, bits), 0x1p-11f + 0x1p-24f);  // so is the sum so far
    // The same products of normal halves, exponent -11.
    EXPECT_EQ(sum(0, {0x1p-14f, 0x1p-14f}, {8, 0x1p-10f * small}, bits), 0x1p-11f + 0x1p-24f + 0x1p-34f);
    // Beside nothing larger; what is 0 has no exponent.
    EXPECT_EQ(sum(0, {code, 0, code}, {small, 0x1p13f, 0}, bits), 0x1p-24f + 0x1p-34f);
  }
  // One bit between the devices.
  EXPECT_EQ(sum(0, {code, code}, {0x1p13f, 0x1p-2f}, 24), 0x1p-11f);
  EXPECT_EQ(sum(0, {code, code}, {0x1p13f, 0x1p-2f}, 25), 0x1p-11f + 0x1p-26f);
  // A product keeps its exponent where its significand is 2 or more: 1.5 * 1.5, and 2^-24 is the last that counts.
  EXPECT_EQ(sum(-2.25f, {1.5f, 0x1p-12f}, {1.5f, 0x1p-12f}, 24), 0);  // the sum so far has exponent 1
  EXPECT_EQ(sum(-1.125f, {1.5f, 0x1p-12f, -0.5f, -0.5f}, {1.5f, 0x1p-12f, 1, 1.25f}, 24), 0x1p-24f);
  // Towards zero behind 24 bits.
  EXPECT_EQ(sum(0x1p24f, {3}, {1}, 24), 0x1p24f + 2);
  EXPECT_EQ(sum(-0x1p24f, {3}, {-1}, 25), -0x1p24f - 2);
  // bfloat16 has other subnormal numbers.
  const float tiny = 0x1p-24f, one = 1, both[] = {1, tiny};
  EXPECT_EQ(model::fused_sum(0, both, both, 2, -126, 25), one);
  EXPECT_EQ(model::fused_sum(0, &tiny, &tiny, 1, -126, 25), 0x1p-48f);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(sum(1, {infinity}, {1}, 24), infinity);
  EXPECT_TRUE(std::isnan(sum(1, {infinity, 1}, {1, -infinity}, 24)));
  EXPECT_EQ(sum(0, {0}, {5}, 24), 0);
}

/// 1 + 2^-25 - 1: eight products at once, or all sixteen.
TEST(Models, AnMmaAddsAsManyProductsAtOnceAsTheDevice) {
  model::MmaOperands all[32] = {};
  const std::uint32_t one = model::float_to_half(1);
  all[0].a[0] = one | model::float_to_half(0x1p-12f) << 16;  // row 0, columns 0 and 1
  all[0].a[2] = model::float_to_half(-1);                    // column 8
  all[0].b[0] = one | model::float_to_half(0x1p-13f) << 16;  // column 0, rows 0 and 1
  all[0].b[1] = one;                                         // row 8
  float d[4];
  model::mma(all, 0, d, model::kTuring);
  EXPECT_EQ(d[0], 0);
  model::mma(all, 0, d, model::kHopper);
  EXPECT_EQ(d[0], 0x1p-25f);
  model::mma(all, 0, d);
  EXPECT_EQ(d[0], 0);
}

TEST(Models, FunnelIsAShiftOf64Bits) {
  EXPECT_EQ(model::funnel(0x89abcdef, 0x01234567, 0), 0x89abcdefu);
  EXPECT_EQ(model::funnel(0x89abcdef, 0x01234567, 4), 0x789abcdeu);
  EXPECT_EQ(model::funnel(0x89abcdef, 0x01234567, 31), 0x02468acfu);
}

TEST(Models, BfloatIsEigensBfloat) {
  std::mt19937 random(3);
  for (int k = 0; k < 200'000; ++k) {
    const float value = as_float(static_cast<std::uint32_t>(random()));
    if (std::isnan(value)) continue;
    ASSERT_EQ(to_bfloat16(value), Eigen::numext::bit_cast<std::uint16_t>(static_cast<Eigen::bfloat16>(value)));
  }
}

// --- toy kernels ----------------------------------------------------------------------------------------------------

/// Thread t writes word t and reads its neighbour's; the distance decides which kind of barrier suffices.
struct Neighbour {
  unsigned distance = 1;
  bool whole_block = true;
  unsigned* out;

  void operator()() const {
    const unsigned t = thread_index();
    store_shared(4 * t, t);
    if (whole_block)
      barrier();
    else
      warp_barrier();
    const auto value = load_shared<unsigned>(4 * ((t + distance) % thread_count()));
    store_global(out + thread_count() * block_index().x + t, value);
  }
};

TEST(Executor, RunsBlocksOfFibers) {
  for (bool backwards : {false, true}) {
    std::vector<unsigned> out(2 * 96);
    Executor run;
    run.backwards = backwards;
    run.writable("out", out.data(), out.size());
    run.launch({2}, 96, 4 * 96, Neighbour{1, true, out.data()});
    EXPECT_EQ(run.first_failure(), "");
    for (unsigned k = 0; k < out.size(); ++k) EXPECT_EQ(out[k], (k % 96 + 1) % 96);
  }
}

std::string neighbour_failure(unsigned distance, bool whole_block, test::Faults faults = {}, unsigned bytes = 4 * 64) {
  std::vector<unsigned> out(64);
  Executor run;
  run.faults = faults;
  run.writable("out", out.data(), out.size());
  run.launch({1}, 64, bytes, Neighbour{distance, whole_block, out.data()});
  return run.first_failure();
}

TEST(Executor, FindsARemovedBarrier) {
  EXPECT_EQ(neighbour_failure(1, true), "");
  EXPECT_EQ(neighbour_failure(1, true, {.skip_barrier = 0}), "thread 0 reads shared byte 4, which nobody wrote");
  EXPECT_EQ(neighbour_failure(63, true, {.skip_barrier = 0}), "thread 0 reads shared byte 252, which nobody wrote");
}

TEST(Executor, AWarpBarrierOrdersOnlyItsWarp) {
  // Thread 31 reads what thread 32 wrote: in time or not is luck, that it is a race is not.
  EXPECT_NE(neighbour_failure(1, false), "");
  EXPECT_NE(neighbour_failure(32, false), "");
}

TEST(Executor, FindsARaceThatTheOrderOfExecutionHides) {
  Executor run;
  unsigned out[64];
  run.writable("out", out, 64);
  // Thread 0 has long written when the others read.
  run.launch({1}, 64, 4, [&] {
    if (thread_index() == 0) store_shared(0, 7u);
    store_global(out + thread_index(), load_shared<unsigned>(0));
  });
  EXPECT_EQ(run.first_failure(), "race: thread 1 reads shared byte 0, written by thread 0");
  run.forget_failures();
  run.launch({1}, 64, 4, [&] {
    if (thread_index() == 0) store_shared(0, 7u);
    barrier();
    (void)load_shared<unsigned>(0);
    warp_barrier();
    if (thread_index() == 1) store_shared(0, 8u);  // the other warp may not have read yet
  });
  EXPECT_NE(run.first_failure(), "");
}

TEST(Executor, MaximaMayMeet) {
  Executor run;
  unsigned out = 0;
  run.writable("out", &out, 1);
  const auto kernel = [&] {
    if (thread_index() == 0) store_shared(0, 0u);
    barrier();
    raise_shared(0, 3 * thread_index());
    barrier();
    if (thread_index() == 5) store_global(&out, load_shared<unsigned>(0));
  };
  run.launch({1}, 64, 4, kernel);
  EXPECT_EQ(run.first_failure(), "");
  EXPECT_EQ(out, 3u * 63);
  run.faults.skip_barrier = 1;
  run.launch({1}, 64, 4, kernel);
  EXPECT_NE(run.first_failure(), "");
}

/// What 64 threads with one buffer, zeros at first, do wrong.
std::string failure_on_global(const std::function<void(unsigned*)>& kernel, unsigned blocks = 1,
                              unsigned launches = 1) {
  alignas(16) unsigned buffer[64];
  Executor run;
  run.zeroed("buffer", buffer, 64);
  for (unsigned k = 0; k < launches; ++k) run.launch({blocks}, 64, 16, [&] { kernel(buffer); });
  return run.first_failure();
}

TEST(Executor, FindsRacesOnGlobalMemory) {
  const auto read = [](unsigned* at) { (void)load_global<unsigned>(at); };
  const auto write_by = [](unsigned thread, unsigned* at) {
    if (thread_index() == thread) store_global(at, 7u);
  };
  // A read behind a write, a write behind reads, two writes.
  EXPECT_EQ(failure_on_global([&](unsigned* at) { write_by(0, at), read(at); }),
            "race: thread 1 reads byte 0 of buffer, written by thread 0");
  EXPECT_EQ(failure_on_global([&](unsigned* at) { write_by(0, at), barrier(), read(at); }), "");
  EXPECT_EQ(failure_on_global([&](unsigned* at) { read(at), write_by(1, at); }),
            "race: thread 1 writes byte 0 of buffer, read by several threads");
  EXPECT_EQ(failure_on_global([&](unsigned* at) { read(at), barrier(), write_by(1, at); }), "");
  EXPECT_EQ(failure_on_global([&](unsigned* at) { write_by(2, at), write_by(3, at); }),
            "race: thread 2 and thread 3 write byte 0 of buffer");
  EXPECT_EQ(failure_on_global([&](unsigned* at) { write_by(2, at), barrier(), write_by(3, at); }), "");
  // What belongs to a thread, or is read by all, is no race; nor are two launches.
  EXPECT_EQ(failure_on_global([&](unsigned* at) {
              write_by(thread_index(), at + thread_index());
              read(at + thread_index());
            }),
            "");
  EXPECT_EQ(failure_on_global([&](unsigned* at) { read(at), read(at); }, 2), "");
  EXPECT_EQ(failure_on_global([&](unsigned* at) { write_by(0, at); }, 1, 2), "");
}

TEST(Executor, AWarpBarrierOrdersGlobalMemoryOfItsWarp) {
  const auto pass_on = [](unsigned distance) {
    return failure_on_global([=](unsigned* at) {
      const unsigned t = thread_index();
      store_global(at + t, t);
      warp_barrier();
      (void)load_global<unsigned>(at + (t ^ distance));
    });
  };
  EXPECT_EQ(pass_on(1), "");
  EXPECT_EQ(pass_on(31), "");
  EXPECT_NE(pass_on(32).find("race: "), std::string::npos);
  const auto overwrite = [](bool ordered, unsigned readers) {
    return failure_on_global([=](unsigned* at) {
      if (thread_index() < readers) (void)load_global<unsigned>(at);
      if (ordered) warp_barrier();
      if (thread_index() == 0) store_global(at, 7u);
    });
  };
  EXPECT_EQ(overwrite(true, 32), "");
  EXPECT_NE(overwrite(true, 33), "");
  EXPECT_EQ(overwrite(false, 1), "");
}

TEST(Executor, FindsBlocksThatShareMemory) {
  const auto in_block = [](unsigned block, const auto& what) {
    if (block_index().x == block && thread_index() == 0) what();
  };
  const auto touch = [&](unsigned reader, unsigned writer) {
    const auto kernel = [&](unsigned* at) {
      in_block(reader, [&] { (void)load_global<unsigned>(at); });
      in_block(writer, [&] { store_global(at, 7u); });
    };
    return failure_on_global(kernel, 3);
  };
  EXPECT_EQ(touch(1, 0), "thread 0 reads byte 0 of buffer, written by another block");
  EXPECT_EQ(touch(0, 1), "thread 0 writes byte 0 of buffer, read by another block");
  EXPECT_EQ(touch(0, 2), "thread 0 writes byte 0 of buffer, read by another block");
  EXPECT_EQ(touch(1, 1), "");
  // Two have read it, the second of which writes.
  const auto both_read = [&](unsigned* at) {
    (void)load_global<unsigned>(at);
    barrier();
    in_block(1, [&] { store_global(at, 7u); });
  };
  EXPECT_EQ(failure_on_global(both_read, 2), "thread 0 writes byte 0 of buffer, read by another block");
}

TEST(Executor, MaximaOfGlobalMemoryMayMeet) {
  const auto raise = [](unsigned* at) { raise_global(at, thread_index()); };
  EXPECT_EQ(failure_on_global(raise, 3, 2), "");
  // Whoever reads or writes it must wait for the next launch, since no barrier waits for other blocks.
  const auto with = [&](const auto& before, const auto& behind) {
    return failure_on_global([&](unsigned* at) {
      if (thread_index() == 5) before(at);
      barrier();
      raise(at);
      barrier();
      if (thread_index() == 5) behind(at);
    });
  };
  const auto nothing = [](unsigned*) {};
  const auto read = [](unsigned* at) { (void)load_global<unsigned>(at); };
  const auto write = [](unsigned* at) { store_global(at, 7u); };
  EXPECT_EQ(with(nothing, read), "thread 5 reads byte 0 of buffer, written by another block");
  EXPECT_EQ(with(nothing, write), "two blocks write byte 0 of buffer");
  EXPECT_EQ(with(write, nothing), "thread 63 raises byte 0 of buffer, written in the same launch");
  EXPECT_EQ(with(read, nothing), "");
  EXPECT_EQ(failure_on_global([&](unsigned* at) {
              if (thread_index() == 0) read(at);
              raise(at);
            }),
            "race: thread 1 writes byte 0 of buffer, read by thread 0");
}

TEST(Executor, ACopyReadsGlobalMemory) {
  const auto copy = [](unsigned* at) {
    if (thread_index() != 9) return;
    copy_async(0, at);
    copy_commit();
    copy_wait<0>();
  };
  EXPECT_EQ(failure_on_global(copy), "");
  EXPECT_EQ(failure_on_global([&](unsigned* at) {
              if (thread_index() == 0) store_global(at + 1, 7u);
              copy(at);
            }),
            "race: thread 9 reads byte 4 of buffer, written by thread 0");
  alignas(16) unsigned unwritten[4] = {};
  Executor run;
  run.writable("unwritten", unwritten, 4);
  run.launch({1}, 64, 16, [&] { copy(unwritten); });
  EXPECT_EQ(run.first_failure(), "thread 9 reads byte 0 of unwritten, which nobody wrote");
}

TEST(Executor, FindsAccessesOutOfBounds) {
  EXPECT_EQ(neighbour_failure(1, true, {}, 4 * 63), "thread 63 writes shared bytes 252 to 256 of 252");
  Executor run;
  std::vector<unsigned> in(32), out(32);
  run.constant("in", in.data(), 31);
  run.writable("out", out.data(), 32);
  run.launch({1}, 32, 0, [&] { (void)load_global<unsigned>(in.data() + thread_index()); });
  EXPECT_EQ(run.first_failure(), "thread 31 reads 4 bytes outside in (byte 124 of 124)");
  run.forget_failures();
  run.launch({1}, 32, 0, [&] { store_global(in.data(), 1u); });
  EXPECT_EQ(run.first_failure(), "thread 0 writes to in, which is constant");
  run.forget_failures();
  run.launch({1}, 32, 0, [&] { (void)load_global<unsigned>(out.data()); });
  EXPECT_EQ(run.first_failure(), "thread 0 reads byte 0 of out, which nobody wrote");
  run.forget_failures();
  run.launch({1}, 32, 0, [&] { (void)load_global<Words2>(reinterpret_cast<std::byte*>(in.data()) + 4); });
  EXPECT_NE(run.first_failure().find("misaligned"), std::string::npos);
  run.forget_failures();
  run.launch({2}, 32, 0, [&] { store_global(out.data() + thread_index(), 1u); });
  EXPECT_EQ(run.first_failure(), "two blocks write byte 0 of out");
}

TEST(Executor, FindsLanesThatDoNotMeet) {
  Executor run;
  run.launch({1}, 32, 0, [] {
    if (thread_index() < 16)
      (void)shuffle(1, 0);
    else
      warp_barrier();
  });
  EXPECT_EQ(run.first_failure(), "lanes of a warp meet at shfl.idx and at bar.warp");
  run.forget_failures();
  run.launch({1}, 64, 0, [] {
    if (thread_index() < 40) barrier();
  });
  EXPECT_EQ(run.first_failure(), "thread 0 waits for ever at a barrier");
}

TEST(Executor, FindsACopyThatIsUsedTooEarly) {
  alignas(16) unsigned in[128];
  for (unsigned k = 0; k < 128; ++k) in[k] = k;
  std::vector<unsigned> out(32);
  const auto kernel = [&] {
    const unsigned t = thread_index();
    copy_async(16 * t, in + 4 * t);
    copy_commit();
    copy_commit();
    copy_wait<1>();
    warp_barrier();
    store_global(out.data() + t, load_shared<unsigned>(16 * (31 - t)));
  };
  const auto failure = [&](test::Faults faults) {
    Executor run;
    run.faults = faults;
    run.constant("in", in, 128);
    run.writable("out", out.data(), 32);
    run.launch({1}, 32, 512, kernel);
    return run.first_failure();
  };
  EXPECT_EQ(failure({}), "");
  for (unsigned t = 0; t < 32; ++t) EXPECT_EQ(out[t], 4 * (31 - t));
  EXPECT_EQ(failure({.wait_less = 1}), "thread 31 reads shared byte 0 while a copy writes it");
  EXPECT_EQ(failure({.skip_warp_barrier = 0}), "thread 0 reads shared byte 496, which nobody wrote");
}

// --- products of a warpgroup -----------------------------------------------------------------------------------------

enum class Bug { none, fence, proxy_fence, barrier, wait, commit, early_read, writes_a, writes_b, touches_d, odd_warp };

/// D = A B + D, 64 x 16 by 16 x kColumns, twice, with matrices of small integers. Operand B lies behind `step` other
/// steps of 16 rows.
template <Number kNumber, int kColumns>
struct Toy {
  float a[64][16], b[16][kColumns], d[64][kColumns];
  unsigned step = 0;
  Bug bug = Bug::none;

  explicit Toy(unsigned seed) {
    std::mt19937 random(seed);
    for (auto* matrix : {&a[0][0], &b[0][0], &d[0][0]})
      for (int k = 0; k < (matrix == &a[0][0] ? 64 * 16 : matrix == &b[0][0] ? 16 * kColumns : 64 * kColumns); ++k)
        matrix[k] = static_cast<float>(static_cast<int>(random() % 17) - 8);
  }
  static std::uint32_t pair(float low, float high) {
    return kNumber == Number::f16 ? to_halves(low, high) : to_bfloats(low, high);
  }

  void operator()(float (*out)[kColumns]) {
    const int t = static_cast<int>(thread_index());
    // "Matrix Descriptor Format" and "Swizzling Modes" for 128 bytes: eight columns of 128 bytes, whose pieces of 16
    // bytes are exchanged by the column's number.
    for (int n = t; n < kColumns; n += 128)
      for (unsigned k = 0; k < 16; k += 2) {
        const unsigned piece = (2 * step + k / 8) ^ static_cast<unsigned>(n % 8);
        store_shared(static_cast<std::uint32_t>(n / 8 * 1024 + n % 8 * 128) + 16 * piece + 2 * (k % 8),
                     pair(b[k][n], b[k + 1][n]));
      }
    // "Register Fragments for wgmma.mma_async.m64nNk16".
    const int group = t % 32 >> 2, in_group = t % 4;
    std::uint32_t registers[4];
    for (int i = 0; i < 8; i += 2) {
      const int row = 16 * (t / 32) + group + (i % 4 < 2 ? 0 : 8), col = in_group * 2 + (i < 4 ? 0 : 8);
      registers[i / 2] = pair(a[row][col], a[row][col + 1]);
    }
    float sum[kColumns / 2];
    const auto row_of = [&](int i) { return 16 * (t / 32) + group + (i % 4 < 2 ? 0 : 8); };
    const auto col_of = [&](int i) { return i / 4 * 8 + in_group * 2 + (i & 1); };
    for (int i = 0; i < kColumns / 2; ++i) sum[i] = d[row_of(i)][col_of(i)];

    if (bug != Bug::proxy_fence) async_proxy_fence();
    if (bug != Bug::barrier) barrier();
    const std::uint64_t operand = describe_swizzled(0) + 2 * step;
    if (bug != Bug::fence) wgmma_fence();
    wgmma<kNumber>(sum, registers, operand);
    if (bug == Bug::touches_d) sum[3] = 0;
    wgmma<kNumber>(sum, registers, bug == Bug::odd_warp && t >= 96 ? operand + 2 : operand);
    if (bug != Bug::commit) wgmma_commit();
    if (bug == Bug::writes_a) registers[1] = 0;
    if (bug == Bug::writes_b && t == 0) store_shared(32 * step, 0u);
    const float early = sum[5];
    if (bug != Bug::wait) wgmma_finish(sum);
    if (bug == Bug::early_read) sum[5] = early;
    for (int i = 0; i < kColumns / 2; ++i) out[row_of(i)][col_of(i)] = sum[i];
  }

  /// The first failure, or whether the result is wrong.
  std::string run() {
    auto out = std::make_unique<float[][kColumns]>(64);
    Executor executor;
    executor.launch({1}, 128, 128 * kColumns, [&] { (*this)(out.get()); });
    if (!executor.first_failure().empty()) return executor.first_failure();
    for (int row = 0; row < 64; ++row)
      for (int col = 0; col < kColumns; ++col) {
        float exact = d[row][col];
        for (int k = 0; k < 16; ++k) exact += 2 * a[row][k] * b[k][col];
        if (out[row][col] != exact) return "a wrong result";
      }
    return "";
  }
};

TEST(Models, WgmmaIsTheProductOfTheMatrices) {
  for (unsigned step = 0; step < 4; ++step) {
    Toy<Number::f16, 128> half_128(step);
    Toy<Number::bf16, 128> bfloat_128(step);
    Toy<Number::f16, 256> half_256(step);
    Toy<Number::bf16, 256> bfloat_256(step);
    half_128.step = bfloat_128.step = half_256.step = bfloat_256.step = step;
    EXPECT_EQ(half_128.run(), "");
    EXPECT_EQ(bfloat_128.run(), "");
    EXPECT_EQ(half_256.run(), "");
    EXPECT_EQ(bfloat_256.run(), "");
  }
}

TEST(Models, PiecesLieWhereOperandsAreRead) {
  for (std::uint32_t column = 0; column < 256; ++column)
    for (std::uint32_t row = 0; row < 64; ++row)
      EXPECT_EQ(model::operand_address(describe_swizzled(4096) + 2 * (row / 16), static_cast<int>(column),
                                       static_cast<int>(row % 16)),
                4096 + swizzled(column, row / 8) + 2 * (row % 8));
}

TEST(Executor, FindsEveryBugAroundAProduct) {
  const auto expect = [](Bug bug, const char* what) {
    Toy<Number::f16, 128> toy(1);
    toy.bug = bug;
    const std::string failure = toy.run();
    EXPECT_NE(failure.find(what), std::string::npos) << failure << ", not " << what;
  };
  expect(Bug::fence, "starts a product without a fence");
  expect(Bug::proxy_fence, "a product reads shared byte 0, whose writing no fence has shown to it");
  expect(Bug::barrier, "race: a product reads shared byte 0, written by thread 0");
  expect(Bug::wait, "ends while a product runs");
  expect(Bug::commit, "ends while a product runs");
  expect(Bug::early_read, "a wrong result");
  expect(Bug::writes_a, "writes operand A of a running product");
  expect(Bug::writes_b, "thread 0 writes shared byte 0 while a product reads it");
  expect(Bug::touches_d, "touches the accumulators of a running product");
  expect(Bug::odd_warp, "a warpgroup starts two products at once");
}

}  // namespace
