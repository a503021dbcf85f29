// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::matmul {

/// Where the pieces of the workspace lie, in floats (whole lines each). With one panel (stripe) all workers share the
/// scaled activations; with several (square) each strip scales them for itself.
struct Workspace {
  std::int64_t x;           // scaled activations
  std::int64_t sums;        // over groups
  std::int64_t rounded;     // bytes, as floats
  std::int64_t steps;       // of the rounded activations, and as many sums of them
  std::int64_t activation;  // all of these
  std::int64_t copies;      // of them
  std::int64_t per_worker;  // scratch and results of a strip
  std::int64_t floats;      // in total

  Workspace(const Tiling& t, std::int64_t tokens, int width)
      : x(std::min(tokens, kTokenBlock) * padded(t.cols)),
        sums((std::min(tokens, kTokenBlock) * t.groups() + 15) / 16 * 16),
        rounded((x / 4 + 15) / 16 * 16),
        steps((std::min(tokens, kTokenBlock) * segments(t) + 15) / 16 * 16),
        activation(x + sums + rounded + 2 * steps),
        copies(t.panels() == 1 ? 1 : width),
        per_worker(kScratch + kStripRows * kTokenBlock),
        floats(activation * copies + per_worker * width) {}
};

/// x' = col_scale * x for a block of tokens, padded with zeros, and its sum over every group.
template <Element X>
void scale_activations(const pack::StripReader& w, std::int64_t panel, const MatrixView<const X>& x, std::int64_t first,
                       std::int64_t tokens, float* out, float* sums) noexcept {
  const Tiling& t = w.tiling();
  const std::int64_t stride = padded(t.cols);
  float col_scale[256];
  for (std::int64_t j = 0; j < t.cols; j += 256) {
    const std::int64_t count = std::min<std::int64_t>(256, t.cols - j);
    w.col_scales(panel, j, count, col_scale);
    for (std::int64_t n = 0; n < tokens; ++n) {
      const X* from = x.row(first + n) + j;
      float* to = out + n * stride + j;
      for (std::int64_t k = 0; k < count; ++k) to[k] = static_cast<float>(from[k]) * col_scale[k];
    }
  }
  for (std::int64_t n = 0; n < tokens; ++n) {
    float* const row = out + n * stride;
    for (std::int64_t j = t.cols; j < stride; ++j) row[j] = 0;
    for (std::int64_t g = 0; g < t.groups(); ++g) {
      float sum = 0;
      for (std::int64_t k = 0; k < t.group_cols(g); ++k) sum += row[t.group_begin(g) + k];
      sums[n * t.groups() + g] = sum;
    }
  }
}

}  // namespace detail::matmul

/// Bytes of workspace that `matmul` needs for up to `tokens` tokens on an executor of the given width.
[[nodiscard]] inline std::size_t matmul_workspace(const PackedMatrix& w, std::int64_t tokens, int width = 1) {
  detail::core::require(tokens >= 0 && tokens <= 0x7fff'ffff, "tokens", tokens, "allowed are 0 to 2^31 - 1");
  detail::core::require(width >= 1 && width <= 65536, "width", width, "allowed are 1 to 65536");
  const detail::matmul::Workspace layout(detail::pack::StripAccess::order(w).tiling, tokens, width);
  return static_cast<std::size_t>(layout.floats) * sizeof(float) + 64;  // room to align
}

/// y = x W^T: x is tokens x cols, y tokens x rows, both row-major and of any element type; products and sums in float,
/// as accurate as a float matmul with the dequantized weights. y must not overlap x or the workspace.
///
/// The result has the same bits whatever the executor. Throws InvalidArgument if the shapes do not fit or the workspace
/// is too small; allocates nothing if a workspace is given.
template <Element X, Element Y>
void matmul(const PackedMatrix& w, MatrixView<const X> x, MatrixView<Y> y, const MatmulOptions& options = {}) {
  using namespace detail::matmul;
  validate<X, Y>(w, x, y);
  SerialExecutor serial;
  Executor& threads = options.executor ? *options.executor : serial;
  const int width = threads.width();
  const std::size_t needed = matmul_workspace(w, x.rows, width);
  std::vector<std::byte> own;
  std::span<std::byte> workspace = options.workspace;
  if (workspace.empty()) {
    own.resize(needed);
    workspace = own;
  }
  detail::core::require(workspace.size() >= needed, "workspace.size()", workspace.size(),
                        "must be at least matmul_workspace(...)");
  void* aligned = workspace.data();
  std::size_t space = workspace.size();
  std::align(64, needed - 64, aligned, space);
  auto* const base = static_cast<float*>(aligned);

  const detail::pack::StripReader weights(w);
  const Tiling& t = weights.tiling();
  const Workspace layout(t, x.rows, width);
  const detail::pack::StripOrder& o = weights.order();
  const Fast fast = options.numerics == Numerics::fast ? choose_fast(w.format()) : Fast{};
  const ByteLevels byte_levels(weights);
  for (std::int64_t first = 0; first < x.rows; first += kTokenBlock) {
    const std::int64_t tokens = std::min(kTokenBlock, x.rows - first);
    const Kernel kernel = fast.kernel ? fast.kernel : choose_kernel(w.format(), tokens);
    const auto rounded = [&](float* scaled) -> Rounded {
      float* const bytes = scaled + layout.x + layout.sums;
      return {reinterpret_cast<std::int8_t*>(bytes), bytes + layout.rounded, bytes + layout.rounded + layout.steps};
    };
    const auto prepare = [&](std::int64_t panel, float* scaled) {
      scale_activations<X>(weights, panel, x, first, tokens, scaled, scaled + layout.x);
      if (fast.kernel) fast.round(scaled, tokens, t, rounded(scaled));
    };
    if (t.panels() == 1) prepare(0, base);
    threads.run(o.strips, [&](std::int64_t strip, int worker) {
      float* scaled = base;
      if (t.panels() > 1) {
        scaled += worker * layout.activation;
        prepare(o.panel_of(strip), scaled);
      }
      float* scratch = base + layout.activation * layout.copies + worker * layout.per_worker;
      float* result = scratch + kScratch;
      kernel({&weights, strip, scaled, scaled + layout.x, rounded(scaled), &byte_levels, tokens, scratch, result});
      for (std::int64_t n = 0; n < tokens; ++n)
        for (std::int64_t r = 0; r < o.rows(strip); ++r)
          y.row(first + n)[o.first_row(strip) + r] = static_cast<Y>(result[n * kStripRows + r]);
    });
  }
}

/// The same for row-major Eigen matrices, maps, refs and blocks.
template <detail::core::RowMajorEigen X, detail::core::RowMajorEigen Y>
void matmul(const PackedMatrix& w, const X& x, Y&& y, const MatmulOptions& options = {}) {
  matmul<typename X::Scalar, typename std::remove_cvref_t<Y>::Scalar>(w, x, y, options);
}

}  // namespace sinq::inline SINQ_ABI
