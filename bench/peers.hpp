// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/core/types.hpp>

#include "machine.hpp"

#ifdef SINQ_BENCH_OPENBLAS
#include <cblas.h>
#endif
#ifdef SINQ_BENCH_ONEDNN
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#endif

// Dense products of other libraries, y = x W^T with W as rows x cols: what an engine without quantization would run.
// Each chooses its own instruction set (OpenBLAS: environment variable OPENBLAS_CORETYPE=Haswell, SkylakeX; oneDNN:
// ONEDNN_MAX_CPU_ISA=AVX2, AVX512_CORE, AVX512_CORE_AMX).

namespace sinq_bench {

/// Eigen, compiled for the baseline of the processor's family as this program is.
struct EigenProduct {
  static constexpr const char* kName = "eigen/float";
  static constexpr bool kThreads = false;
  static constexpr int kBytes = 4;  // of a weight
  RowMajor w, x, y;
  EigenProduct(const RowMajor& weights, const RowMajor& tokens, int)
      : w(weights), x(tokens), y(tokens.rows(), weights.rows()) {}
  void run() { y.noalias() = x * w.transpose(); }
};

#ifdef SINQ_BENCH_OPENBLAS
struct OpenBlasProduct {
  static constexpr const char* kName = "openblas/float";
  static constexpr bool kThreads = true;
  static constexpr int kBytes = 4;
  RowMajor w, x, y;
  OpenBlasProduct(const RowMajor& weights, const RowMajor& tokens, int width)
      : w(weights), x(tokens), y(tokens.rows(), weights.rows()) {
    openblas_set_num_threads(width);
  }
  void run() {
    const auto rows = static_cast<blasint>(w.rows()), cols = static_cast<blasint>(w.cols());
    if (x.rows() == 1)
      cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, cols, 1, w.data(), cols, x.data(), 1, 0, y.data(), 1);
    else
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(x.rows()), rows, cols, 1, x.data(),
                  cols, w.data(), cols, 0, y.data(), rows);
  }
};
#endif

#ifdef SINQ_BENCH_ONEDNN
/// Weights in the order that oneDNN likes best; activations and results plain.
template <class T>
struct OneDnnProduct {
  static constexpr const char* kName = std::is_same_v<T, float> ? "onednn/float" : "onednn/bfloat16";
  static constexpr bool kThreads = true;
  static constexpr int kBytes = sizeof(T);
  using Memory = dnnl::memory;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> x;
  RowMajor y;
  dnnl::matmul product;
  Memory source, weights, result;

  OneDnnProduct(const RowMajor& w, const RowMajor& tokens, int width)
      : x(tokens.cast<T>()), y(tokens.rows(), w.rows()) {
    omp_set_num_threads(width);
    constexpr auto kType = std::is_same_v<T, float> ? Memory::data_type::f32 : Memory::data_type::bf16;
    using Tag = Memory::format_tag;
    const Memory::desc x_desc({x.rows(), x.cols()}, kType, Tag::ab);
    const Memory::desc any({w.cols(), w.rows()}, kType, Tag::any);
    const Memory::desc y_desc({x.rows(), w.rows()}, Memory::data_type::f32, Tag::ab);
    const dnnl::matmul::primitive_desc description({x_desc, any, y_desc}, engine);
    product = dnnl::matmul(description);
    source = Memory(x_desc, engine, x.data());
    weights = Memory(description.weights_desc(), engine);
    result = Memory(y_desc, engine, y.data());
    const Memory plain({{w.cols(), w.rows()}, Memory::data_type::f32, Tag::ba}, engine, const_cast<float*>(w.data()));
    dnnl::reorder(plain, weights).execute(stream, const_cast<Memory&>(plain), weights);
    stream.wait();
  }
  void run() {
    product.execute(stream, {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, result}});
    stream.wait();
  }
};
#endif

}  // namespace sinq_bench
