// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sinq/cuda/order.hpp>
#include <sinq/cuda/plan.hpp>

#include "support/formats.hpp"
#include "support/message_of.hpp"

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;
using test::message_of;

Weights weights(std::int64_t rows, std::int64_t cols, const Format& format = {}) {
  return kernel_order(format, {}, rows, cols).weights;
}

TEST(Plan, NeedsAMatrix) {
  EXPECT_EQ(message_of([&] { (void)make_plan(Weights(), 1, Number::f16, {}, {}); }),
            "sinq: w = empty: must hold a matrix");
}

TEST(Plan, CoversTheProblemWithinTheDevice) {
  const cuda::Device devices[] = {
      {}, {.multiprocessors = 40, .shared_per_multiprocessor = 64 << 10, .shared_per_block = 64 << 10, .wgmma = false}};
  for (const cuda::Device& device : devices)
    for (int bits : kBitWidths)
      for (std::int64_t group : {16, 48, 64, 256, 0})
        for (Tile tile : {Tile::stripe, Tile::square})
          for (std::int64_t rows : {1, 17, 1000, 8192})
            for (std::int64_t cols : {1, 65, 288, 4096, 28672})
              for (std::int64_t tokens : {1, 4, 5, 16, 33, 100, 4096}) {
                const Weights w = weights(rows, cols, {.bits = bits, .group_size = group, .tile = tile});
                const cuda::Plan p = make_plan(w, tokens, Number::f16, device, {});
                EXPECT_GE(p.slices * p.slice_units, w.units);
                EXPECT_LT((p.slices - 1) * p.slice_units, w.units) << "an empty slice";
                EXPECT_GE(std::int64_t{p.grid_z} * (8 * p.tiles / p.pieces), tokens);
                EXPECT_GE(p.grid_x * (p.threads / 32) * p.strips, strips_of(w));
                EXPECT_LE(p.threads, 256);
                EXPECT_LE(p.shared_bytes, device.shared_per_block);
                EXPECT_GE(p.chunk_units, 1);
                EXPECT_LE(p.chunk_units, p.slice_units);
                EXPECT_NO_THROW(require_fitting(p, w, Number::f16));
              }
}

TEST(Plan, OneTokenOfALargeMatrixFillsTheDeviceOnce) {
  const cuda::Plan p = make_plan(weights(8192, 8192), 1, Number::f16, {}, {});
  EXPECT_EQ(p.pieces, 2);  // costs nothing
  EXPECT_EQ(p.tiles, 1);
  const int blocks = p.grid_x * p.grid_y * p.grid_z;
  EXPECT_LE(blocks, 2 * 132);
  EXPECT_GE(blocks, 132 * 3 / 2);
  EXPECT_EQ(p.workspace_bytes, std::int64_t{4} * p.slices * 8192);
  EXPECT_EQ(p.chunk_units, p.slice_units) << "all activations of a slice at once";
  EXPECT_EQ(to_string(p),
            "tokens 1: 64 x 4 x 1 blocks of 256 threads, 1 strip per warp, 8 operand columns, 2 per f16 activation, 4 "
            "slices of 2048 "
            "columns in chunks of 2048, " +
                std::to_string(p.shared_bytes) + " bytes shared, 131072 bytes workspace");
}

TEST(Plan, WarpsMultiplySeveralStripsWhereStagingActivationsCosts) {
  const Weights w = weights(8192, 8192);
  for (std::int64_t tokens : {1, 2, 16}) {
    const cuda::Plan p = make_plan(w, tokens, Number::f16, {}, {});
    EXPECT_EQ(p.strips > 1, tokens == 16) << to_string(p);
    EXPECT_EQ(p.chunk_units, p.slice_units) << "staged once";
  }
  EXPECT_EQ(make_plan(w, 16, Number::f16, {}, {.strips = 3}).grid_x, 22);
}

TEST(Plan, OptionsOverride) {
  const Weights w = weights(4096, 4096);
  const cuda::Plan p =
      make_plan(w, 3, Number::f16, {}, {.pieces = 1, .tiles = 4, .warps = 3, .slices = 7, .chunk_units = 3});
  EXPECT_EQ(p.pieces, 1);
  EXPECT_EQ(p.tiles, 4);
  EXPECT_EQ(p.slices, 7);  // 64 units in slices of 10
  EXPECT_EQ(p.slice_units, 10);
  EXPECT_EQ(p.chunk_units, 4);  // a whole round
  EXPECT_EQ(p.threads, 96);
  EXPECT_EQ(make_plan(w, 3, Number::f32, {}, {}).pieces, 2);
  EXPECT_EQ(make_plan(w, 0, Number::f32, {}, {}).grid_z, 0);
}

TEST(Plan, ManyTokensGoToWgmmaWhereItIs) {
  const Weights w = weights(8192, 8192);
  const auto kernel = [&](std::int64_t tokens, Number x, bool wgmma, const cuda::PlanOptions& options = {}) {
    return make_plan(w, tokens, x, {.wgmma = wgmma}, options).kernel;
  };
  EXPECT_EQ(kernel(64, Number::f16, true), cuda::Kernel::mma);
  EXPECT_EQ(kernel(65, Number::f16, true), cuda::Kernel::wgmma);
  EXPECT_EQ(kernel(65, Number::bf16, true), cuda::Kernel::wgmma);
  EXPECT_EQ(kernel(4096, Number::f32, true), cuda::Kernel::mma);
  EXPECT_EQ(kernel(4096, Number::f16, false), cuda::Kernel::mma);
  EXPECT_EQ(kernel(4096, Number::f16, true, {.kernel = cuda::Kernel::mma}), cuda::Kernel::mma);
  EXPECT_EQ(kernel(4096, Number::f16, true, {.tiles = 8}), cuda::Kernel::mma);
  EXPECT_EQ(kernel(1, Number::f16, true, {.kernel = cuda::Kernel::wgmma}), cuda::Kernel::wgmma);
  EXPECT_EQ(kernel(1, Number::f16, true, {.tiles = 16}), cuda::Kernel::wgmma);
  EXPECT_EQ(make_plan(w, 128, Number::f16, {}, {}).tiles, 16);
  EXPECT_EQ(make_plan(w, 129, Number::f16, {}, {}).tiles, 32);
  const cuda::Plan p = make_plan(w, 512, Number::bf16, {}, {});
  EXPECT_EQ(p.grid_x * p.grid_y * p.grid_z, 128) << "one wave";
  EXPECT_EQ(p.workspace_bytes, 0);
  EXPECT_EQ(to_string(p),
            "tokens 512: wgmma, 64 x 1 x 2 blocks of 256 threads, 1 strip per warp, 256 operand columns, 1 per bf16 "
            "activation, 1 slices "
            "of 8192 columns in chunks of 64, " +
                std::to_string(p.shared_bytes) + " bytes shared, 0 bytes workspace");
  EXPECT_NO_THROW(require_fitting(p, w, Number::bf16));
  EXPECT_EQ(message_of([&] { require_fitting(p, w, Number::f16); }),
            "sinq: plan.x_type = bf16: x has another one (plan<X> takes it)");
}

TEST(Plan, WeightsOfALargeRangeAreNotRoundedToHalves) {
  for (Aux scale : {Aux::f16, Aux::bf16, Aux::f32, Aux::u8}) {
    const Weights w = weights(8192, 8192, {.scale = scale});
    const bool large = scale == Aux::bf16 || scale == Aux::f32;
    EXPECT_EQ(make_plan(w, 4096, Number::f16, {}, {}).kernel, large ? cuda::Kernel::mma : cuda::Kernel::wgmma);
    EXPECT_EQ(make_plan(w, 4096, Number::bf16, {}, {}).kernel, cuda::Kernel::wgmma);
    EXPECT_EQ(make_blas_plan(w, 4096, Number::f16, true, {}, {}).path,
              large ? cuda::Path::fused : cuda::Path::restored);
    EXPECT_EQ(make_plan(w, 1, Number::f16, {}, {.kernel = cuda::Kernel::wgmma}).kernel, cuda::Kernel::wgmma);
  }
}

/// Turing has 64 KB for a block, an Ada 99.
TEST(Plan, EveryFormatFitsSmallDevices) {
  std::vector<Format> all = test::formats();
  for (const test::NamedFormat& f : test::preset_formats()) all.push_back(f.format);
  for (int kilobytes : {64, 99}) {
    const cuda::Device device{.multiprocessors = 40,
                              .shared_per_multiprocessor = kilobytes << 10,
                              .shared_per_block = kilobytes << 10,
                              .wgmma = false};
    for (const Format& f : all)
      for (std::int64_t tokens : {1, 16, 33, 64, 4096})
        for (Number x : {Number::f16, Number::f32}) {
          const Weights w = weights(4096, 4096, f);
          ASSERT_NO_THROW(require_fitting(make_plan(w, tokens, x, device, {}), w, x))
              << f.bits << " bits, groups of " << f.group_size << ", tokens " << tokens;
        }
  }
}

TEST(Plan, WgmmaHasTwoWarpgroupsWhereTheyFit) {
  const auto warps = [](std::int64_t rows, const Format& format) {
    return make_plan(weights(rows, 8192, format), 512, Number::bf16, {}, {}).threads / 32;
  };
  EXPECT_EQ(warps(64, {}), 4);
  EXPECT_EQ(warps(65, {}), 8);
  EXPECT_EQ(warps(8192, {.bits = 4, .levels = Levels::nf4}), 8) << "a table of levels";
  for (int bits : kBitWidths) EXPECT_EQ(warps(8192, {.bits = bits}), 8) << bits;
  EXPECT_EQ(warps(8192, {.group_size = 16, .scale = Aux::f32, .zero = Aux::f32}), 4) << "long records";
}

TEST(Plan, WrongValuesAreNamed) {
  const Weights w = weights(64, 128);
  const auto message = [&](std::int64_t tokens, const cuda::PlanOptions& options, const cuda::Device& device = {}) {
    return message_of([&] { (void)make_plan(w, tokens, Number::f16, device, options); });
  };
  EXPECT_EQ(message(-1, {}), "sinq: tokens = -1: allowed are 0 to 2^31 - 1");
  EXPECT_EQ(message(1, {.pieces = 3}), "sinq: pieces = 3: allowed are 1, 2, and 0 to choose");
  EXPECT_EQ(message(1, {.tiles = 3}), "sinq: tiles = 3: allowed are 1, 2, 4, 8, with wgmma 16, 32, and 0 to choose");
  EXPECT_EQ(message(1, {.strips = 9}), "sinq: strips = 9: allowed are 1 to 8, and 0 to choose");
  EXPECT_EQ(message(1, {.tiles = 4, .strips = 2}), "sinq: strips = 2: is 1 with 4 tiles");
  EXPECT_EQ(message(1, {.warps = 9}), "sinq: warps = 9: allowed are 1 to 8, and 0 to choose");
  EXPECT_EQ(message(65, {.warps = 2}), "sinq: warps = 2: allowed with wgmma are 4, 8, and 0 to choose");
  EXPECT_EQ(message(1, {.kernel = cuda::Kernel::wgmma, .tiles = 8}),
            "sinq: kernel = wgmma: has 16 or 32 tiles, and no pieces, strips and chunk_units to choose");
  EXPECT_EQ(message(1, {.kernel = cuda::Kernel::mma, .tiles = 16}), "sinq: tiles = 16: mma has up to 8");
  EXPECT_EQ(message(1, {.kernel = cuda::Kernel::wgmma}, {.wgmma = false}),
            "sinq: kernel = wgmma: needs activations in half or bfloat16, a Hopper, and code for sm_90a");
  EXPECT_EQ(message(1, {.slices = 3}), "sinq: slices = 3: allowed are 1 to the number of 64 columns, and 0 to choose");
  EXPECT_EQ(message(1, {.chunk_units = 3}),
            "sinq: chunk_units = 3: allowed are 1 to the number of 64 columns, and 0 to choose");
  const std::string too_small = message(1, {}, {.shared_per_multiprocessor = 4096, .shared_per_block = 4096});
  EXPECT_TRUE(too_small.starts_with("sinq: device.shared_per_block = 4096: the plan takes ")) << too_small;
  EXPECT_EQ(message(4'000'000, {.kernel = cuda::Kernel::mma, .tiles = 1}),
            "sinq: tokens = 4000000: with these options up to 524280");
}

TEST(Plan, OneOfAnotherMatrixDoesNotFit) {
  const cuda::Plan p = make_plan(weights(64, 1280), 3, Number::f16, {}, {});
  EXPECT_NO_THROW(require_fitting(p, weights(64, 1280), Number::f16));
  EXPECT_NE(message_of([&] { require_fitting(p, weights(64, 128), Number::f16); }), "nothing was thrown");
  EXPECT_NE(message_of([&] { require_fitting(p, weights(640, 1280), Number::f16); }), "nothing was thrown");
  EXPECT_NE(message_of([&] { require_fitting(p, weights(64, 1280, {.bits = 8}), Number::f16); }), "nothing was thrown");
  cuda::Plan changed = p;
  ++changed.grid_x;
  EXPECT_NE(message_of([&] { require_fitting(changed, weights(64, 1280), Number::f16); }), "nothing was thrown");
}

TEST(Plan, OneOfAnotherDeviceIsRefused) {
  const Weights w = weights(8192, 8192);
  const auto message = [&](const cuda::Device& planned, const cuda::Device& here) {
    return message_of([&] { require_possible(make_plan(w, 512, Number::f16, planned, {}), here); });
  };
  const cuda::Device hopper{}, ampere{.shared_per_block = 99 << 10, .wgmma = false};
  EXPECT_EQ(message(hopper, hopper), "nothing was thrown");
  EXPECT_EQ(message(ampere, ampere), "nothing was thrown");
  EXPECT_EQ(message(ampere, hopper), "nothing was thrown");
  EXPECT_EQ(message(hopper, ampere),
            "sinq: plan.kernel = wgmma: the current device is no Hopper, or this is not compiled for sm_90a (plan with "
            "its device_facts)");
  const cuda::Device large{.wgmma = false};
  const std::string bytes = std::to_string(make_plan(w, 512, Number::f16, large, {}).shared_bytes);
  EXPECT_EQ(message(large, {.shared_per_block = 64 << 10, .wgmma = false}),
            "sinq: plan.shared_bytes = " + bytes +
                ": a block of the current device has up to 65536 (plan with its device_facts)");
}

TEST(Plan, AWorkspaceThatDoesNotServeIsNamed) {
  alignas(256) std::byte memory[512];
  const auto message = [&](std::byte* first, std::size_t size, std::int64_t bytes) {
    return message_of([&] { require_workspace({first, size}, bytes, 16); });
  };
  EXPECT_EQ(message(memory, 300, 300), "nothing was thrown");
  EXPECT_EQ(message(memory + 16, 301, 300), "nothing was thrown");
  EXPECT_EQ(message(nullptr, 0, 0), "nothing was thrown");
  EXPECT_EQ(message(memory + 1, 3, 0), "nothing was thrown") << "nobody uses it";
  EXPECT_EQ(message(memory, 299, 300), "sinq: workspace.size() = 299: must be at least 300");
  EXPECT_EQ(message(nullptr, 300, 300), "sinq: workspace.data() = null: must not be null");
  const std::string odd = message(memory + 8, 300, 300);
  EXPECT_EQ(odd.substr(odd.rfind(": ")), ": must be aligned to 16 bytes") << odd;
}

// --- with cuBLASLt ---------------------------------------------------------------------------------------------------

TEST(BlasPlan, RestoresFromManyTokensOn) {
  const Weights w = weights(8192, 8192);
  const auto path = [&](std::int64_t tokens, bool restorable, const cuda::BlasOptions& options = {}) {
    return make_blas_plan(w, tokens, Number::f16, restorable, {}, options).path;
  };
  const auto path_without_wgmma = [&](std::int64_t tokens) {
    return make_blas_plan(w, tokens, Number::f16, true, {.wgmma = false}, {}).path;
  };
  EXPECT_EQ(path_without_wgmma(299), cuda::Path::fused);
  EXPECT_EQ(path_without_wgmma(300), cuda::Path::restored);
  EXPECT_EQ(path(1999, true), cuda::Path::fused);
  EXPECT_EQ(path(2000, true), cuda::Path::restored);
  EXPECT_EQ(path(2000, false), cuda::Path::fused);
  EXPECT_EQ(path(1, true, {.path = cuda::Path::restored}), cuda::Path::restored);
  EXPECT_EQ(path(4096, true, {.path = cuda::Path::fused}), cuda::Path::fused);
  EXPECT_EQ(path(0, true, {.path = cuda::Path::restored}), cuda::Path::fused) << "nothing to do";
  const cuda::BlasPlan p = make_blas_plan(w, 4096, Number::f16, true, {}, {});
  EXPECT_EQ(to_string(p), "tokens 4096: 8192 rows at a time restored, then cuBLASLt, 167772160 bytes workspace");
  const cuda::BlasPlan fused = make_blas_plan(w, 3, Number::f16, true, {}, {});
  EXPECT_EQ(to_string(fused), to_string(fused.fused));
  EXPECT_EQ(fused.workspace_bytes, fused.fused.workspace_bytes);
}

TEST(BlasPlan, PiecesCoverTheRowsWithinTheWorkspace) {
  for (std::int64_t rows : {1, 17, 8192, 28672, 100'000})
    for (std::int64_t cols : {1, 99, 8192, 28672})
      for (std::int64_t group : {64, 0})
        for (Tile tile : {Tile::stripe, Tile::square}) {
          if (tile == Tile::square && group == 0 && cols == 1 && rows > 8192) continue;
          const Weights w = weights(rows, cols, {.group_size = group, .tile = tile});
          const cuda::BlasPlan p = make_blas_plan(w, 4096, Number::f16, true, {}, {});
          ASSERT_EQ(p.path, cuda::Path::restored);
          EXPECT_TRUE(p.rows_at_once == rows || p.rows_at_once % kStripRows == 0);
          EXPECT_GE(p.restored_cols, cols);
          EXPECT_GE(p.workspace_bytes, 2 * p.rows_at_once * p.restored_cols + p.blas_bytes);
          const bool whole = w.panels > 1 && w.tile_height % kStripRows != 0;
          const std::int64_t most = (std::int64_t{161} << 20) + 32 * p.restored_cols;
          EXPECT_TRUE(whole || p.workspace_bytes <= most) << p.workspace_bytes;
        }
}

TEST(BlasPlan, WrongValuesAreNamed) {
  const auto message = [](bool restorable, const cuda::BlasOptions& options) {
    return message_of([&] { (void)make_blas_plan(weights(100, 128), 5, Number::f16, restorable, {}, options); });
  };
  EXPECT_EQ(message(false, {.path = cuda::Path::restored}),
            "sinq: path = restored: needs activations in half or bfloat16, and results of the same type or float");
  const std::string limit = ": allowed are multiples of 16 (unless panels are none), all rows, and 0 to choose";
  EXPECT_EQ(message(true, {.rows_at_once = 17}), "sinq: rows_at_once = 17" + limit);
  EXPECT_EQ(message(true, {.rows_at_once = 112}), "sinq: rows_at_once = 112" + limit);
  EXPECT_EQ(message(true, {.rows_at_once = 48}), "nothing was thrown");
  EXPECT_EQ(message(true, {.rows_at_once = 100}), "nothing was thrown");
  EXPECT_EQ(message(true, {.fused = {.tiles = 3}}),
            "sinq: tiles = 3: allowed are 1, 2, 4, 8, with wgmma 16, 32, and 0 to choose");
}

}  // namespace
