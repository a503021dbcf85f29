// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "strip.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::matmul {

/// Where the pieces of the workspace lie, in floats. With one panel (stripe) all workers share the scaled activations;
/// with several (square) each strip scales them for itself.
struct Workspace {
  std::int64_t x;           // floats of one copy of the scaled activations
  std::int64_t x_copies;    //
  std::int64_t per_worker;  // floats of strip scratch
  std::int64_t floats;      // in total

  Workspace(const Tiling& t, std::int64_t tokens, int width)
      : x(std::min(tokens, kTokenBlock) * padded(t.cols)),
        x_copies(t.panels() == 1 ? 1 : width),
        per_worker(kStripRows * (2 * ((t.groups() + 15) / 16 * 16) + kChunk + kTokenBlock)),
        floats(x * x_copies + per_worker * width) {}
};

/// x' = col_scale * x for a block of tokens, padded with zeros.
template <Element X>
void scale_activations(const pack::StripReader& w, std::int64_t panel, const MatrixView<const X>& x, std::int64_t first,
                       std::int64_t tokens, float* out) noexcept {
  const std::int64_t cols = x.cols;
  const std::int64_t stride = padded(cols);
  float col_scale[256];
  for (std::int64_t j = 0; j < cols; j += 256) {
    const std::int64_t count = std::min<std::int64_t>(256, cols - j);
    w.col_scales(panel, j, count, col_scale);
    for (std::int64_t n = 0; n < tokens; ++n) {
      const X* from = x.row(first + n) + j;
      float* to = out + n * stride + j;
      for (std::int64_t k = 0; k < count; ++k) to[k] = static_cast<float>(from[k]) * col_scale[k];
    }
  }
  for (std::int64_t n = 0; n < tokens; ++n)
    for (std::int64_t j = cols; j < stride; ++j) out[n * stride + j] = 0;
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
  const StripKernel kernel = choose_strip();
  const std::int64_t strips_per_panel = (std::min(t.tile_height, t.rows) + kStripRows - 1) / kStripRows;
  for (std::int64_t first = 0; first < x.rows; first += kTokenBlock) {
    const std::int64_t tokens = std::min(kTokenBlock, x.rows - first);
    if (t.panels() == 1) scale_activations<X>(weights, 0, x, first, tokens, base);
    threads.run(t.panels() * strips_per_panel, [&](std::int64_t index, int worker) {
      const std::int64_t panel = index / strips_per_panel;
      const std::int64_t first_row = t.panel_begin(panel) + index % strips_per_panel * kStripRows;
      const std::int64_t rows = std::min(kStripRows, t.panel_begin(panel) + t.panel_rows(panel) - first_row);
      if (rows <= 0) return;
      float* scaled = base;
      if (t.panels() > 1) {
        scaled += worker * layout.x;
        scale_activations<X>(weights, panel, x, first, tokens, scaled);
      }
      float* scratch = base + layout.x * layout.x_copies + worker * layout.per_worker;
      Strip s{&weights, first_row, rows, scaled, tokens};
      s.panel = scratch;
      s.y = s.panel + kStripRows * kChunk;
      s.scales = s.y + kStripRows * kTokenBlock;
      s.zeros = s.scales + kStripRows * t.groups();
      kernel(s);
      for (std::int64_t n = 0; n < tokens; ++n)
        for (std::int64_t r = 0; r < rows; ++r)
          y.row(first + n)[first_row + r] = static_cast<Y>(s.y[n * kStripRows + r]);
    });
  }
}

/// The same for row-major Eigen matrices, maps, refs and blocks.
template <detail::core::RowMajorEigen X, detail::core::RowMajorEigen Y>
void matmul(const PackedMatrix& w, const X& x, Y&& y, const MatmulOptions& options = {}) {
  matmul<typename X::Scalar, typename std::remove_cvref_t<Y>::Scalar>(w, x, y, options);
}

}  // namespace sinq::inline SINQ_ABI
