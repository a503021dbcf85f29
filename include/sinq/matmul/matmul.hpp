// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pass.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::matmul {

/// Room for workers, for prepared tokens, and to align.
[[nodiscard]] inline std::size_t workspace_bytes(std::int64_t prepared, int width) noexcept {
  return static_cast<std::size_t>(prepared + width * floats_per_worker()) * sizeof(float) + 64;
}

}  // namespace detail::matmul

/// Bytes of workspace that `matmul` needs for up to `tokens` tokens on an executor of the given width.
[[nodiscard]] inline std::size_t matmul_workspace(const PackedMatrix& w, std::int64_t tokens, int width = 1) {
  using detail::core::require;
  detail::pack::require_packed(w, "w");
  require(tokens >= 0 && tokens <= 0x7fff'ffff, "tokens", tokens, "allowed are 0 to 2^31 - 1");
  require(width >= 1 && width <= 65536, "width", width, "allowed are 1 to 65536");
  const Tiling& t = detail::pack::StripAccess::order(w).tiling;
  return detail::matmul::workspace_bytes(detail::matmul::prepared_floats(t, tokens, width), width);
}

/// The same for several products in one call. Looks at shapes only: x and y need no memory yet. (What the products need
/// one by one is enough for all of them in sum.)
[[nodiscard]] inline std::size_t matmul_workspace(std::span<const Product> products, int width = 1) {
  detail::core::require(width >= 1 && width <= 65536, "width", width, "allowed are 1 to 65536");
  std::int64_t prepared = 0;
  for (std::size_t k = 0; k < products.size(); ++k) {
    detail::matmul::ProductCheck(products, k).shapes();
    const Product& p = products[k];
    prepared += detail::matmul::prepared_floats(detail::pack::StripAccess::order(*p.w).tiling, p.y.rows, width);
  }
  return detail::matmul::workspace_bytes(prepared, width);
}

/// Several products at once: matrices that share an input (query, key and value; gate and up), or the experts of a
/// mixture, each with its tokens. All of their work goes to the executor together, so that small products do not wait
/// for each other. No y may overlap another one, an x, a bias or the workspace; columns of one matrix, with one stride,
/// do not overlap.
///
/// The results have the same bits whatever the executor, and as if every product were computed alone. Throws
/// InvalidArgument if the shapes do not fit, memory overlaps as above, or the workspace is too small or overlaps an x
/// or a bias; allocates nothing if a workspace is given. Calls that run at the same time need a workspace each, and
/// executors that allow it.
inline void matmul(std::span<const Product> products, const MatmulOptions& options = {}) {
  using detail::core::require;
  using detail::matmul::ProductCheck;
  detail::matmul::validate(options);
  SerialExecutor serial;
  Executor& threads = options.executor ? *options.executor : serial;
  const int width = detail::core::width_of(threads);
  const std::size_t needed = matmul_workspace(products, width);
  for (std::size_t k = 0; k < products.size(); ++k) ProductCheck(products, k).memory();
  std::vector<std::byte> own;
  std::span<std::byte> workspace = options.workspace;
  if (workspace.empty()) {
    own.resize(needed);
    workspace = own;
  } else {
    require(workspace.data() != nullptr, "workspace.data()", "null", "must not be null");
    require(workspace.size() >= needed, "workspace.size()", workspace.size(), "must be at least ", needed,
            ", see matmul_workspace");
    for (std::size_t k = 0; k < products.size(); ++k) ProductCheck(products, k).workspace(workspace.data(), needed);
  }
  void* aligned = workspace.data();
  std::size_t space = workspace.size();
  std::align(64, needed - 64, aligned, space);
  std::int64_t tokens = 0;
  for (const Product& p : products) tokens = std::max(tokens, p.y.rows);
  for (std::int64_t first = 0; first < tokens; first += detail::matmul::token_block(options.numerics))
    detail::matmul::run_pass(products, {first, options.numerics, width}, threads, static_cast<float*>(aligned));
}

/// y = x W^T + bias: x is tokens x cols, y tokens x rows, bias 1 x rows or absent; all row-major and of any element
/// type: MatrixView or Eigen's matrices, maps, refs and blocks. y may not overlap x (InvalidArgument), as above:
/// nothing is multiplied in place.
inline void matmul(const PackedMatrix& w, const ActivationView<const void>& x, const ActivationView<void>& y,
                   const MatmulOptions& options = {}, const ActivationView<const void>& bias = {}) {
  const Product product{&w, x, y, {}, bias};
  matmul(std::span(&product, 1), options);
}

}  // namespace sinq::inline SINQ_ABI
