// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>

#include "dequantize.cuh"
#include "matmul.cuh"

// Products of many tokens with cuBLASLt: the weights are restored to half or bfloat16, some rows at a time, and
// multiplied by the library. Not part of cuda.cuh: whoever includes this links cuBLASLt (CMake: CUDA::cublasLt).
//
// Unlike the fused kernel this rounds every weight to the type of the activations, and neither scales them to fit it:
// right for weights that came in this type.

namespace sinq::inline SINQ_ABI {
namespace detail::cuda {

inline void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    core::raise<sinq::cuda::CudaError>(core::text("sinq: ", call, ": ", cublasLtGetStatusString(status)));
}

template <class T>
constexpr cudaDataType_t kBlasType = NumberOf<T>::value == Number::f16    ? CUDA_R_16F
                                     : NumberOf<T>::value == Number::bf16 ? CUDA_R_16BF
                                                                          : CUDA_R_32F;

/// Whether cuBLASLt multiplies X by X and gives Y.
template <class X, class Y>
constexpr bool kRestorable = NumberOf<X>::value != Number::f32 &&
                             (NumberOf<Y>::value == NumberOf<X>::value || NumberOf<Y>::value == Number::f32);

/// The largest power of two, up to 256, that divides an address.
inline std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

/// y = x W^T + bias, all row-major: to a library that counts columns first, y^T = W x^T with W transposed. False, and
/// nothing is done, where the library finds no way to multiply these shapes and addresses.
template <class X, class Y>
[[nodiscard]] bool multiply_restored(MatrixView<const X> w, MatrixView<const X> x, MatrixView<Y> y, const Y* bias,
                                     void* workspace, std::int64_t workspace_bytes, cublasLtHandle_t handle,
                                     cudaStream_t stream) {
  // Descriptors that live here: nothing is allocated.
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t layouts[3];
  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit");
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    check(cublasLtMatmulDescSetAttribute(&product, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (bias != nullptr) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  const auto u = [](std::int64_t n) { return static_cast<std::uint64_t>(n); };
  check(cublasLtMatrixLayoutInit(&layouts[0], kBlasType<X>, u(w.cols), u(w.rows), w.stride),
        "cublasLtMatrixLayoutInit");
  check(cublasLtMatrixLayoutInit(&layouts[1], kBlasType<X>, u(x.cols), u(x.rows), x.stride),
        "cublasLtMatrixLayoutInit");
  check(cublasLtMatrixLayoutInit(&layouts[2], kBlasType<Y>, u(y.cols), u(y.rows), y.stride),
        "cublasLtMatrixLayoutInit");
  check(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, u(workspace_bytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(w.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(x.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(y.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(y.data));
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, &product, &layouts[0], &layouts[1], &layouts[2],
                                                               &layouts[2], &preference, 1, &found, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return false;
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  if (count == 0) return false;
  const float one = 1, zero = 0;
  check(cublasLtMatmul(handle, &product, &one, w.data, &layouts[0], x.data, &layouts[1], &zero, y.data, &layouts[2],
                       y.data, &layouts[2], &found.algo, workspace, u(workspace_bytes), stream),
        "cublasLtMatmul");
  return true;
}

}  // namespace detail::cuda

namespace cuda {

/// How to multiply `tokens` activations of type X by `w`, results of type Y, where cuBLASLt may be used. By itself it
/// is from some 300 tokens on, some 2000 where there is wgmma.
template <class X = __half, class Y = X>
[[nodiscard]] BlasPlan plan_blas(const DeviceMatrix& w, std::int64_t tokens, const Device& device,
                                 const BlasOptions& options = {}) {
  using namespace detail::cuda;
  return make_blas_plan(w.weights(), tokens, NumberOf<X>::value, kRestorable<X, Y>, device, options);
}

/// As matmul without a handle. `workspace` holds `plan.workspace_bytes` bytes, aligned to 256. `handle` must belong to
/// the current device. Where cuBLASLt finds no way to multiply, a fused kernel does it; CudaError if cuBLASLt fails.
template <class X, class Y>
void matmul(const BlasPlan& plan, const DeviceMatrix& w, MatrixView<X> x, MatrixView<Y> y,
            std::span<std::byte> workspace, cublasLtHandle_t handle, cudaStream_t stream,
            const std::type_identity_t<Y>* bias = nullptr) {
  using namespace detail::cuda;
  using detail::core::require;
  if (plan.path == Path::fused) return matmul(plan.fused, w, x, y, workspace, stream, bias);
  require_here(w, here());
  BlasOptions same{Path::restored, plan.rows_at_once, {}};
  Device any;
  any.shared_per_block = any.shared_per_multiprocessor = 1 << 30;
  BlasPlan made = make_blas_plan(w.weights(), x.rows, NumberOf<X>::value, kRestorable<X, Y>, any, same);
  made.fused = plan.fused;
  if (made != plan || plan.fused.tokens != x.rows)
    require(false, "plan", to_string(plan), "was made for another product, or changed by hand (use BlasOptions)");
  require(x.cols == w.cols(), "x.cols", x.cols, "must equal the cols of the matrix, ", w.cols());
  require(y.cols == w.rows(), "y.cols", y.cols, "must equal the rows of the matrix, ", w.rows());
  require(x.rows == y.rows, "y.rows", y.rows, "must equal x.rows, the number of tokens, ", x.rows);
  detail::core::require_view(x, "x");
  detail::core::require_view(y, "y");
  require(handle != nullptr, "handle", "null", "must not be null");
  require_workspace(workspace, plan.workspace_bytes, 256);
  std::byte* const blas_workspace = workspace.data() + plan.workspace_bytes - plan.blas_bytes;
  if constexpr (kRestorable<X, Y>)
    for (std::int64_t first = 0; first < w.rows(); first += plan.rows_at_once) {
      const std::int64_t rows = std::min(plan.rows_at_once, w.rows() - first);
      using Weight = std::remove_const_t<X>;
      const MatrixView<Weight> restored(reinterpret_cast<Weight*>(workspace.data()), rows, w.cols(),
                                        plan.restored_cols);
      restore(w.weights(), first, restored, stream);
      const bool done = multiply_restored<Weight, Y>(restored, x, MatrixView<Y>(y.data + first, y.rows, rows, y.stride),
                                                     bias == nullptr ? nullptr : bias + first, blas_workspace,
                                                     plan.blas_bytes, handle, stream);
      if (done) continue;
      if (plan.fused.workspace_bytes <= plan.workspace_bytes)
        return matmul(plan.fused, w, x, y, workspace, stream, bias);
      const PlanOptions without_workspace{.kernel = plan.fused.kernel, .slices = 1};
      return matmul(cuda::plan<X>(w, x.rows, device_facts(), without_workspace), w, x, y, {}, stream, bias);
    }
}

}  // namespace cuda
}  // namespace sinq::inline SINQ_ABI
