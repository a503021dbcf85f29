// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "order.hpp"
#include "product.hpp"
#include "wgmma_layout.hpp"

// Problem and device -> configuration of the kernel. Plain C++: works, prints and is tested without a GPU.

namespace sinq::inline SINQ_ABI {
namespace cuda {

/// What a plan needs to know about a GPU; `device_facts` asks one. The defaults are an H200's (and an H100's): a plan
/// made with them is refused where a device lacks what it takes.
struct Device {
  int multiprocessors = 132;
  int shared_per_multiprocessor = 228 << 10;  // bytes
  int shared_per_block = 227 << 10;           // bytes, the most that a kernel may ask for
  bool wgmma = true;                          // it is a Hopper, and the kernels are compiled for sm_90a

  friend bool operator==(const Device&, const Device&) = default;
};

/// `mma` (multiply.cuh): any device, any type of activations; multiplies by the codes as they are, for any number of
/// tokens. `wgmma` (multiply_wgmma.cuh): Hopper, activations in half or bfloat16, to whose type weights are rounded;
/// for more than 64 tokens. Halves end at 65504 and have fewer digits below 6e-5, so `automatic` never rounds weights
/// to them whose scales are stored in a type with a larger range.
enum class Kernel : std::uint8_t { automatic, mma, wgmma };

/// What the caller wants to decide; 0 and `automatic`: the plan decides.
struct PlanOptions {
  Kernel kernel = Kernel::automatic;
  int pieces = 0;       // halves per activation: 1 (11 bits) or 2 (22 bits, multiply.cuh); mma only
  int tiles = 0;        // of 8 operand columns per block: 1, 2, 4 or 8; wgmma: 16 or 32
  int warps = 0;        // per block, strips of 16 rows each: 1 to 8; wgmma: 4 or 8
  int strips = 0;       // that a warp multiplies, one after the other: 1 to 8; mma only
  int slices = 0;       // the columns of the matrix are cut into
  int chunk_units = 0;  // times 64 columns whose activations lie in shared memory at once; mma only
};

/// How a product will be run. Made by `plan`; may be kept as long as matrix format and shape, tokens, element types and
/// device stay the same.
struct Plan {
  Kernel kernel = Kernel::mma;
  DType x_type = DType::f16;  // of the activations
  int tokens = 0;
  int pieces = 0;
  int tiles = 0;
  int strips = 0;
  int slices = 0;
  int slice_units = 0;
  int chunk_units = 0;
  int aux_ring = 0;                        // bytes of records in flight per warp
  int grid_x = 0, grid_y = 0, grid_z = 0;  // rows, slices, tokens
  int threads = 0;                         // per block
  int shared_bytes = 0;                    // per block
  std::int64_t workspace_bytes = 0;        // in device memory, aligned to 16; its content does not matter

  friend bool operator==(const Plan&, const Plan&) = default;
};

/// One line, for logs.
[[nodiscard]] inline std::string to_string(const Plan& p) {
  return detail::core::text(
      "tokens ", p.tokens, p.kernel == Kernel::wgmma ? ": wgmma, " : ": ", p.grid_x, " x ", p.grid_y, " x ", p.grid_z,
      " blocks of ", p.threads, " threads, ", p.strips, p.strips == 1 ? " strip" : " strips", " per warp, ",
      8 * p.tiles, " operand columns, ", p.pieces, " per ", name_of(p.x_type), " activation, ", p.slices, " slices of ",
      p.slice_units * detail::cuda::kUnitCols, " columns in chunks of ", p.chunk_units * detail::cuda::kUnitCols, ", ",
      p.shared_bytes, " bytes shared, ", p.workspace_bytes, " bytes workspace");
}

/// How several matrices with one input will be run.
struct SideBySidePlan {
  std::vector<Plan> launches;        // one after the other, each for neighbours of one format (up to 8)
  std::int64_t workspace_bytes = 0;  // of the launch that needs most

  friend bool operator==(const SideBySidePlan&, const SideBySidePlan&) = default;
};

/// One line per launch, for logs.
[[nodiscard]] inline std::string to_string(const SideBySidePlan& p) {
  std::string lines;
  for (const Plan& launch : p.launches) (lines += lines.empty() ? "" : "\n") += to_string(launch);
  return lines;
}

/// With cuBLASLt at hand (blas.cuh) a product of many tokens may restore the weights and leave the rest to it.
enum class Path : std::uint8_t { automatic, fused, restored };

struct BlasOptions {
  Path path = Path::automatic;
  std::int64_t rows_at_once = 0;  // restored: a multiple of 16, or all; 0: the plan decides
  PlanOptions fused{};
};

struct BlasPlan {
  Path path = Path::fused;
  Plan fused;                        // how the fused kernel would do it, or does
  std::int64_t rows_at_once = 0;     // restored: of the matrix
  std::int64_t restored_cols = 0;    // and the distance between them
  std::int64_t blas_bytes = 0;       // and what is left to cuBLASLt
  std::int64_t workspace_bytes = 0;  // in device memory, aligned to 256; its content does not matter

  friend bool operator==(const BlasPlan&, const BlasPlan&) = default;
};

/// One line, for logs.
[[nodiscard]] inline std::string to_string(const BlasPlan& p) {
  if (p.path == Path::fused) return to_string(p.fused);
  return detail::core::text("tokens ", p.fused.tokens, ": ", p.rows_at_once,
                            " rows at a time restored, then cuBLASLt, ", p.workspace_bytes, " bytes workspace");
}

}  // namespace cuda

namespace detail::cuda {

[[nodiscard]] constexpr DType dtype_of(Number number) noexcept {
  return number == Number::f32 ? DType::f32 : number == Number::f16 ? DType::f16 : DType::bf16;
}

/// Blocks that should run on a multiprocessor at once, so that one computes while another stages its activations. With
/// 64 columns the accumulators take half of the registers.
[[nodiscard]] constexpr int blocks_per_multiprocessor(int tiles) noexcept {
  return tiles <= 4 ? 2 : 1;
}

/// Columns of operand B that hold activations in a block with as many tokens as it may have.
[[nodiscard]] inline int columns_of_full_block(const sinq::cuda::Plan& p) noexcept {
  return static_cast<int>(std::min(std::int64_t{p.tokens} * p.pieces, std::int64_t{8} * p.tiles));
}

/// What a plan needs to know of a product.
struct Problem {
  Weights w;                     // what the matrices have in common
  Member members[kMostMembers];  // below each other; or one, of the shape of all experts
  int member_count = 0;
  int rows = 0;  // of all members
  int experts = 0;

  Problem(const Weights& alone) : w(alone) { add(alone); }

  [[nodiscard]] bool takes(const Weights& below) const {
    return member_count < kMostMembers && below.cols == w.cols && rows <= kMostRows - below.rows;
  }
  void add(const Weights& below) {
    members[member_count++] = member_of(below, rows);
    rows += below.rows;
  }
  [[nodiscard]] std::span<const Member> all() const { return {members, static_cast<std::size_t>(member_count)}; }
  [[nodiscard]] int blocks(int at_once, bool across) const {
    int sum = 0;
    for (const Member& m : all()) sum += m.blocks(at_once, across);
    return sum;
  }
};

/// InvalidArgument that names the first of some pointers without a matrix.
template <class Matrices>
void require_matrices(const Matrices& matrices, const char* name) {
  for (std::size_t k = 0; k < matrices.size(); ++k)
    if (const bool null = matrices[k] == nullptr; null || matrices[k]->weights().rows == 0)
      core::require(false, core::text(name, "[", k, "]").c_str(), null ? "null" : "empty",
                    null ? "must point to a matrix" : "must hold a matrix");
}

/// Several matrices with one input, their rows below each other in y: calls visit(problem, its first row in y) for each
/// launch, that is for neighbours of one format, as many as its argument takes. InvalidArgument unless all have the
/// same columns. `Matrices` is an array of pointers to something with weights() and format().
template <class Matrices, class Visitor>
void for_launches(const Matrices& matrices, Visitor&& visit) {
  using core::require;
  require(!matrices.empty(), "matrices.size()", 0, "must be positive");
  require_matrices(matrices, "matrices");
  const int cols = matrices[0]->weights().cols;
  std::int64_t first_row = 0;
  for (std::size_t first = 0, end = 0; first < matrices.size(); first = end) {
    Problem problem(matrices[first]->weights());
    for (end = first + 1; end < matrices.size() && problem.takes(matrices[end]->weights()) &&
                          matrices[end]->format() == matrices[first]->format();
         ++end)
      problem.add(matrices[end]->weights());
    require(problem.w.cols == cols, "cols", problem.w.cols, "matrices of one product have the same columns");
    visit(std::as_const(problem), first_row);
    first_row += problem.rows;
  }
}

/// Experts of one shape and format.
template <class Matrices>
[[nodiscard]] Problem experts_of(const Matrices& matrices) {
  using core::require;
  require(!matrices.empty() && matrices.size() <= 65535, "experts", matrices.size(), "allowed are 1 to 65535");
  require_matrices(matrices, "experts");
  const Weights first = matrices[0]->weights();
  Problem problem(first);
  problem.experts = static_cast<int>(matrices.size());
  for (std::size_t k = 1; k < matrices.size(); ++k) {
    const Weights w = matrices[k]->weights();
    require(w.cols == first.cols, "cols", w.cols, "experts have the same columns");
    require(w.rows == first.rows, "rows", w.rows, "experts have the same rows");
    require(matrices[k]->format() == matrices[0]->format(), "experts", k, "this one has another format than the first");
  }
  return problem;
}

/// From how many tokens on wgmma pays: the other kernel passes over the weights for every 64.
inline constexpr std::int64_t kWgmmaFrom = 65;

/// Whether weights in the type of the activations are as good as the matrix, but for their last digits.
[[nodiscard]] constexpr bool in_range(const Weights& w, Number x_number) noexcept {
  return x_number != Number::f16 || (w.scale.number != Number::f32 && w.scale.number != Number::bf16);
}

/// Which kernel, for `together` tokens that meet the same weights. InvalidArgument if the one asked for cannot.
[[nodiscard]] inline sinq::cuda::Kernel choose_kernel(const Weights& w, std::int64_t together, Number x_number,
                                                      const sinq::cuda::Device& device,
                                                      const sinq::cuda::PlanOptions& options) {
  using core::require;
  using sinq::cuda::Kernel;
  const bool possible = device.wgmma && x_number != Number::f32;
  // Whoever decides about the blocks of a kernel means that kernel.
  const bool of_mma = options.pieces != 0 || options.strips != 0 || options.chunk_units != 0 ||
                      (options.tiles != 0 && options.tiles <= 8);
  const bool of_wgmma = options.tiles > 8 || options.kernel == Kernel::wgmma;
  require(options.kernel <= Kernel::wgmma, "kernel", static_cast<int>(options.kernel),
          "allowed are automatic, mma and wgmma");
  require(!of_wgmma || possible, "kernel", "wgmma",
          "needs activations in half or bfloat16, a Hopper, and code for sm_90a");
  require(!of_wgmma || !of_mma, "kernel", "wgmma",
          "has 16 or 32 tiles, and no pieces, strips and chunk_units to choose");
  require(options.tiles <= 8 || options.kernel != Kernel::mma, "tiles", options.tiles, "mma has up to 8");
  if (options.kernel != Kernel::automatic) return options.kernel;
  const bool pays = possible && in_range(w, x_number) && together >= kWgmmaFrom;
  return of_wgmma || (pays && !of_mma) ? Kernel::wgmma : Kernel::mma;
}

/// Tokens and warps per block, shared memory.
inline void plan_wgmma_block(const Problem& problem, std::int64_t together, const sinq::cuda::Device& device,
                             const sinq::cuda::PlanOptions& options, sinq::cuda::Plan& p) {
  core::require(options.warps == 0 || options.warps == 4 || options.warps == 8, "warps", options.warps,
                "allowed with wgmma are 4, 8, and 0 to choose");
  p.pieces = 1;
  p.tiles = options.tiles != 0 ? options.tiles : (together > kWgmmaTokens / 2 ? kWgmmaTokens : kWgmmaTokens / 2) / 8;
  p.chunk_units = 1;
  const Rounds rounds = wgmma_rounds_of(problem.w.bits);
  p.aux_ring = aux_ring_bytes(problem.w, rounds.stages * rounds.units);
  const auto shared = [&](int warps) {
    return static_cast<int>(wgmma_shared(problem.w, 8 * p.tiles, p.aux_ring, warps).total);
  };
  int strips = 1;
  for (const Member& m : problem.all()) strips = std::max(strips, m.strips());
  const int warps = options.warps != 0 ? options.warps : strips > 4 && shared(8) <= device.shared_per_block ? 8 : 4;
  p.threads = kLanes * warps;
  p.shared_bytes = shared(warps);
}

/// Columns of operand B, warps per block.
inline void plan_mma_block(const Problem& problem, std::int64_t together, Number x_number,
                           const sinq::cuda::Device& device, const sinq::cuda::PlanOptions& options,
                           sinq::cuda::Plan& p) {
  const Weights& w = problem.w;
  core::require(options.warps <= 8, "warps", options.warps, "allowed are 1 to 8, and 0 to choose");
  // A second half is free as long as it fits into the columns that a tile has anyway.
  p.pieces = options.pieces != 0 ? options.pieces : x_number == Number::f32 || together <= 4 ? 2 : 1;
  const std::int64_t columns = together * p.pieces;
  int strips = 1;
  for (const Member& m : problem.all()) strips = std::max(strips, m.panel_strips);
  // Eight warps share the activations; fewer where the panels have fewer strips, or the device too little shared
  // memory; and fewer columns of operand B, if that is too little for one warp.
  int warps = options.warps;
  const auto fits = [&](int tiles) {
    const Rounds rounds = rounds_of(w.bits, w.paired, 8 * tiles);
    p.tiles = tiles;
    p.aux_ring = aux_ring_bytes(w, (rounds.stages + 1) * rounds.units);
    const auto enough = [&] {
      return shared_plan(w, columns_of_full_block(p), 8 * tiles, rounds.units, p.aux_ring, warps).total <=
             static_cast<unsigned>(device.shared_per_block);
    };
    if (options.warps != 0) return enough();
    for (int most = 8; most >= 1; most /= 2) {
      const int panel_blocks = (strips + most - 1) / most;
      warps = (strips + panel_blocks - 1) / panel_blocks;
      if (enough()) return true;
    }
    return false;
  };
  int tiles = options.tiles != 0 ? options.tiles : columns <= 8 ? 1 : columns <= 16 ? 2 : columns <= 32 ? 4 : 8;
  while (!fits(tiles) && tiles > 1 && options.tiles == 0) tiles /= 2;
  p.threads = kLanes * warps;
  core::require(options.strips <= 1 || takes_turns(p.tiles), "strips", options.strips, "is 1 with 4 tiles");
}

/// Bytes of shared memory that a block may take: as much as leaves room for those that should share a multiprocessor
/// (each with 1 KB of the system's).
[[nodiscard]] inline std::int64_t room_of_block(const sinq::cuda::Device& device, int tiles) noexcept {
  return std::min<std::int64_t>(device.shared_per_block,
                                device.shared_per_multiprocessor / blocks_per_multiprocessor(tiles) - 1024);
}

/// With the activations of `units` units at once.
[[nodiscard]] inline std::int64_t shared_bytes(const Weights& w, const sinq::cuda::Plan& p, int units) noexcept {
  return shared_plan(w, columns_of_full_block(p), 8 * p.tiles, units, p.aux_ring, p.threads / kLanes).total;
}

/// Strips per warp and slices of the columns. In units of one strip, a block's time is the length of its slice for each
/// strip and about six more (filling the pipeline, writing results); for each token a tenth of it to stage activations
/// (13 instructions of some 130, bench/results/cuda-sass.md), which all strips share if they fit; and for each token
/// and strip two tenths of a unit to write and read the sum of a slice (128 bytes, where a unit has some 550). The
/// model knows no more than that; the options override it.
inline void plan_split(const Problem& problem, const sinq::cuda::Device& device, const sinq::cuda::PlanOptions& options,
                       sinq::cuda::Plan& p) {
  constexpr int kOverhead = 6;
  const int all_units = problem.w.units;
  const bool wgmma = p.kernel == sinq::cuda::Kernel::wgmma;
  const std::int64_t slots = std::int64_t{device.multiprocessors} * blocks_per_multiprocessor(p.tiles);
  const std::int64_t tokens = wgmma ? 0 : columns_of_full_block(p) / p.pieces;
  const auto grid_x = [&](int strips) { return problem.blocks(p.threads / kLanes * strips, wgmma); };
  const auto cost = [&](int strips, int slices) {
    const int units = (all_units + slices - 1) / slices;
    const std::int64_t blocks = std::int64_t{grid_x(strips)} * p.grid_z * slices;
    const std::int64_t waves = (blocks + slots - 1) / slots;
    const std::int64_t strip = 10 * (units + kOverhead) + (slices > 1 ? 2 * tokens : 0);
    return waves * (strips * strip + tokens * units) + (slices > 1 ? 10 * kOverhead : 0);
  };
  p.strips = options.strips != 0 ? options.strips : 1;
  p.slices = options.slices != 0 ? options.slices : 1;
  for (int strips = 1; strips <= 8; strips *= 2)
    for (int slices = 1; slices <= std::min(all_units, 64); ++slices) {
      const bool allowed = (options.strips == 0 || strips == p.strips) && (options.slices == 0 || slices == p.slices);
      if (!allowed || cost(strips, slices) >= cost(p.strips, p.slices)) continue;
      const bool fits = strips == 1 || (!wgmma && takes_turns(p.tiles) &&
                                        shared_bytes(problem.w, p, (all_units + slices - 1) / slices) <=
                                            room_of_block(device, p.tiles));
      if (fits) p.strips = strips, p.slices = slices;
    }
  p.grid_x = grid_x(p.strips);
  p.slice_units = (all_units + p.slices - 1) / p.slices;
  p.slices = (all_units + p.slice_units - 1) / p.slice_units;  // none is empty
  p.grid_y = p.slices;
}

/// As many activations at once as there is room for.
inline void plan_mma_chunks(const Weights& w, const sinq::cuda::Device& device, const sinq::cuda::PlanOptions& options,
                            sinq::cuda::Plan& p) {
  const int round = rounds_of(w.bits, w.paired, 8 * p.tiles).units;
  const auto rounds = [&](int units) {  // up to whole rounds
    return std::min((units + round - 1) / round * round, p.slice_units);
  };
  p.chunk_units = rounds(options.chunk_units != 0 ? options.chunk_units : p.slice_units);
  for (int parts = 2; options.chunk_units == 0 && p.chunk_units > round &&
                      shared_bytes(w, p, p.chunk_units) > room_of_block(device, p.tiles);
       ++parts)
    p.chunk_units = rounds((p.slice_units + parts - 1) / parts);
  p.shared_bytes = static_cast<int>(shared_bytes(w, p, p.chunk_units));
}

/// The plan for `tokens` tokens.
[[nodiscard]] inline sinq::cuda::Plan make_plan(const Problem& problem, std::int64_t tokens, Number x_number,
                                                const sinq::cuda::Device& device,
                                                const sinq::cuda::PlanOptions& options) {
  using core::require;
  const Weights& w = problem.w;
  require(w.rows > 0, "w", "empty", "must hold a matrix");
  require(tokens >= 0 && tokens <= 0x7fff'ffff, "tokens", tokens, "allowed are 0 to 2^31 - 1");
  require(device.multiprocessors >= 1, "device.multiprocessors", device.multiprocessors, "must be positive");
  require(options.pieces >= 0 && options.pieces <= 2, "pieces", options.pieces, "allowed are 1, 2, and 0 to choose");
  require(options.tiles >= 0 && options.tiles <= 32 && (options.tiles & (options.tiles - 1)) == 0, "tiles",
          options.tiles, "allowed are 1, 2, 4, 8, with wgmma 16, 32, and 0 to choose");
  require(options.strips >= 0 && options.strips <= 8, "strips", options.strips, "allowed are 1 to 8, and 0 to choose");
  require(options.warps >= 0, "warps", options.warps, "allowed are 1 to 8, and 0 to choose");
  require(options.slices >= 0 && options.slices <= w.units && options.slices <= 65535, "slices", options.slices,
          "allowed are 1 to the number of 64 columns, and 0 to choose");
  require(options.chunk_units >= 0 && options.chunk_units <= w.units, "chunk_units", options.chunk_units,
          "allowed are 1 to the number of 64 columns, and 0 to choose");

  sinq::cuda::Plan p;
  p.tokens = static_cast<int>(tokens);
  // Experts share the tokens, some more popular than others: blocks for twice the average.
  const std::int64_t together =
      problem.experts == 0 ? tokens : std::min(tokens, (2 * tokens + problem.experts - 1) / problem.experts);
  p.kernel = choose_kernel(w, together, x_number, device, options);
  p.x_type = dtype_of(x_number);
  if (tokens == 0) return p;  // nothing is launched
  const bool wgmma = p.kernel == sinq::cuda::Kernel::wgmma;
  if (wgmma)
    plan_wgmma_block(problem, together, device, options, p);
  else
    plan_mma_block(problem, together, x_number, device, options, p);
  // Only the device knows how many tokens an expert has: each that has any may leave one block unfilled.
  const std::int64_t block_tokens = 8 * p.tiles / p.pieces;
  const std::int64_t token_blocks = problem.experts == 0
                                        ? (tokens + block_tokens - 1) / block_tokens
                                        : tokens / block_tokens + std::min<std::int64_t>(tokens, problem.experts);
  require(token_blocks <= 65535, "tokens", tokens, "with these options up to ", 65535 * block_tokens);
  p.grid_z = static_cast<int>(token_blocks);

  plan_split(problem, device, options, p);
  if (!wgmma) plan_mma_chunks(w, device, options, p);
  require(p.shared_bytes <= device.shared_per_block, "device.shared_per_block", device.shared_per_block,
          "the plan takes ", p.shared_bytes);
  p.workspace_bytes = p.slices == 1 ? 0 : std::int64_t{4} * p.slices * tokens * problem.rows;
  return p;
}

template <class Matrices>
[[nodiscard]] sinq::cuda::SideBySidePlan make_side_by_side_plan(const Matrices& matrices, std::int64_t tokens,
                                                                Number x_number, const sinq::cuda::Device& device,
                                                                const sinq::cuda::PlanOptions& options) {
  sinq::cuda::SideBySidePlan p;
  for_launches(matrices, [&](const Problem& problem, std::int64_t) {
    p.launches.push_back(make_plan(problem, tokens, x_number, device, options));
    p.workspace_bytes = std::max(p.workspace_bytes, p.launches.back().workspace_bytes);
  });
  return p;
}

/// InvalidArgument unless the plan is one that `make_plan` could have made for this matrix: its free choices determine
/// the rest.
inline void require_fitting(const sinq::cuda::Plan& plan, const Problem& problem, Number x_number) {
  const Weights& w = problem.w;
  core::require(plan.x_type == dtype_of(x_number), "plan.x_type", name_of(plan.x_type),
                "x has another one (plan<X> takes it)");
  sinq::cuda::Device any;
  any.shared_per_block = any.shared_per_multiprocessor = 1 << 30;
  const int warps = plan.threads / kLanes;
  const bool wgmma = plan.kernel == sinq::cuda::Kernel::wgmma;
  sinq::cuda::PlanOptions same{.kernel = plan.kernel, .tiles = plan.tiles, .warps = warps, .slices = plan.slices};
  if (!wgmma) same.pieces = plan.pieces, same.strips = plan.strips, same.chunk_units = plan.chunk_units;
  const bool chosen = plan.tokens == 0 || (plan.pieces > 0 && plan.tiles > 0 && plan.strips > 0 && warps > 0 &&
                                           plan.slices > 0 && plan.chunk_units > 0);
  const bool possible = plan.tokens >= 0 && warps <= 8 && plan.slices <= w.units && plan.chunk_units <= w.units &&
                        plan.kernel != sinq::cuda::Kernel::automatic && !(wgmma && x_number == Number::f32);
  const bool fits = chosen && possible && plan == make_plan(problem, plan.tokens, x_number, any, same);
  if (!fits)  // the text of a plan is not for every call
    core::require(false, "plan", to_string(plan), "was made for another matrix, or changed by hand (use PlanOptions)");
}

/// InvalidArgument if the device at hand cannot run the plan: it was made for another one.
inline void require_possible(const sinq::cuda::Plan& plan, const sinq::cuda::Device& here) {
  core::require(plan.kernel != sinq::cuda::Kernel::wgmma || here.wgmma, "plan.kernel", "wgmma",
                "the current device is no Hopper, or this is not compiled for sm_90a (plan with its device_facts)");
  core::require(plan.shared_bytes <= here.shared_per_block, "plan.shared_bytes", plan.shared_bytes,
                "a block of the current device has up to ", here.shared_per_block, " (plan with its device_facts)");
}

/// InvalidArgument unless a workspace has `bytes` bytes from a multiple of `alignment` on. If none are used, any will
/// do.
inline void require_workspace(std::span<std::byte> workspace, std::int64_t bytes, std::uintptr_t alignment) {
  using core::require;
  require(static_cast<std::int64_t>(workspace.size()) >= bytes, "workspace.size()", workspace.size(),
          "must be at least ", bytes);
  if (bytes == 0) return;
  require(workspace.data() != nullptr, "workspace.data()", "null", "must not be null");
  require(reinterpret_cast<std::uintptr_t>(workspace.data()) % alignment == 0, "workspace.data()",
          static_cast<const void*>(workspace.data()), "must be aligned to ", alignment, " bytes");
}

inline void apply(const sinq::cuda::Plan& plan, const Problem& problem, Product& product) noexcept {
  product.w = problem.w;
  std::copy(problem.members, problem.members + problem.member_count, product.members);
  product.rows = problem.rows;
  product.expert_count = problem.experts;
  product.tokens = plan.tokens;
  product.pieces = plan.pieces;
  product.strips = plan.strips;
  product.slices = plan.slices;
  product.slice_units = plan.slice_units;
  product.chunk_units = plan.chunk_units;
  product.aux_ring = plan.aux_ring;
}

/// From how many tokens on restoring the weights pays. Not measured; read from the machine code (bench/results): the
/// mma kernel does some 200e12 multiply-adds per second on an H200, a library 350e12, and restoring a weight to 16 bits
/// moves 2.6 bytes at 4e12 per second: 2.6 / 4 = t (1 / 200 - 1 / 350), t = 300. The wgmma kernel leaves a quarter of
/// its issue slots free when the tensor cores are full; if it does nine tenths of what a library does, t = 2000.
[[nodiscard]] constexpr std::int64_t many_tokens(sinq::cuda::Kernel fused) noexcept {
  return fused == sinq::cuda::Kernel::wgmma ? 2000 : 300;
}

/// `restorable`: cuBLASLt has a product for the element types at hand.
[[nodiscard]] inline sinq::cuda::BlasPlan make_blas_plan(const Weights& w, std::int64_t tokens, Number x_number,
                                                         bool restorable, const sinq::cuda::Device& device,
                                                         const sinq::cuda::BlasOptions& options) {
  using core::require;
  using sinq::cuda::Path;
  constexpr std::int64_t kMostBytes = std::int64_t{128} << 20, kBlasBytes = std::int64_t{32} << 20;
  require(options.path <= Path::restored, "path", static_cast<int>(options.path),
          "allowed are automatic, fused and restored");
  require(restorable || options.path != Path::restored, "path", "restored",
          "needs activations in half or bfloat16, and results of the same type or float");
  // Panels that do not end with a strip cannot be cut.
  const bool whole = w.panels > 1 && w.tile_height % kStripRows != 0;
  const std::int64_t given = options.rows_at_once;
  require(given == 0 || given == w.rows || (given > 0 && given < w.rows && given % kStripRows == 0 && !whole),
          "rows_at_once", given, "allowed are multiples of 16 (unless panels are none), all rows, and 0 to choose");
  sinq::cuda::BlasPlan p;
  p.fused = make_plan(w, tokens, x_number, device, options.fused);
  p.workspace_bytes = p.fused.workspace_bytes;
  const bool many = restorable && in_range(w, x_number) && tokens >= many_tokens(p.fused.kernel);
  if (options.path == Path::fused || (options.path == Path::automatic && !many) || tokens == 0) return p;
  p.path = Path::restored;
  p.restored_cols = (std::int64_t{w.cols} + 7) / 8 * 8;  // rows begin at multiples of 16 bytes
  const std::int64_t parts = (2 * p.restored_cols * w.rows + kMostBytes - 1) / kMostBytes;
  const std::int64_t even = ((w.rows + parts - 1) / parts + kStripRows - 1) / kStripRows * kStripRows;
  p.rows_at_once = given != 0 ? given : whole || even > w.rows ? w.rows : even;
  p.blas_bytes = kBlasBytes;
  p.workspace_bytes = (2 * p.restored_cols * p.rows_at_once + 255) / 256 * 256 + p.blas_bytes;
  return p;
}

/// Calls visit(tokens) with a compile-time constant, for the wgmma kernel.
template <class Visitor>
void with_wgmma_tokens(int tiles, Visitor&& visit) {
  if (8 * tiles == kWgmmaTokens)
    visit(std::integral_constant<int, kWgmmaTokens>{});
  else
    visit(std::integral_constant<int, kWgmmaTokens / 2>{});
}

/// Calls visit(tiles) with a compile-time constant.
template <class Visitor>
void with_tiles(int tiles, Visitor&& visit) {
  switch (tiles) {
    case 1:
      return visit(std::integral_constant<int, 1>{});
    case 2:
      return visit(std::integral_constant<int, 2>{});
    case 4:
      return visit(std::integral_constant<int, 4>{});
    default:
      return visit(std::integral_constant<int, 8>{});
  }
}

}  // namespace detail::cuda
}  // namespace sinq::inline SINQ_ABI
