// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>
#include <cublas_v2.h>

#include <memory>
#include <random>
#include <sinq/cuda.cuh>
#include <sinq/cuda/blas.cuh>
#include <sinq/cuda/quantize.cuh>
#include <string>
#include <vector>

// Products on the GPU beside a plain copy of the same bytes and cuBLAS on the same shapes, all in one run. Matrices
// rotate through more than the L2 cache holds, so that every product reads its weights from memory. Times are the
// device's own, between events. Without a GPU every benchmark says so and measures nothing.

namespace {

using namespace sinq;
using sinq::detail::cuda::check;

bool have_gpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

struct Buffer {
  explicit Buffer(std::size_t size) : bytes(size) {
    check(cudaMalloc(&data, std::max<std::size_t>(bytes, 16)), "cudaMalloc");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { (void)cudaFree(data); }
  std::span<std::byte> memory() const { return {static_cast<std::byte*>(data), bytes}; }
  std::size_t bytes;
  void* data = nullptr;
};

struct Timer {
  Timer() { check(cudaEventCreate(&begin), "cudaEventCreate"), check(cudaEventCreate(&end), "cudaEventCreate"); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { (void)cudaEventDestroy(begin), (void)cudaEventDestroy(end); }
  template <class Work>
  double seconds(Work&& work) {
    check(cudaEventRecord(begin), "cudaEventRecord");
    work();
    check(cudaEventRecord(end), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }
  cudaEvent_t begin = nullptr, end = nullptr;
};

constexpr int kRounds = 50;  // launches between two events, so that the launch itself hides

struct Kind {
  const char* name;
  Format format;
};
const Kind kKinds[] = {
    {"uniform-aux16", {.bits = 4}},
    {"uniform-aux8", {.bits = 4, .scale = Aux::u8, .zero = Aux::u8}},
    {"uniform-aux16", {.bits = 2}},
    {"uniform-aux16", {.bits = 3}},
    {"uniform-aux16", {.bits = 5}},
    {"uniform-aux16", {.bits = 6}},
    {"uniform-aux16", {.bits = 8}},
    {"uniform-aux6-group32", {.bits = 3, .group_size = 32, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 8}},
    {"nf4-aux16", {.bits = 4, .levels = Levels::nf4}},
};

/// A matrix with the bits of a random one: only the speed counts. Auxiliaries are zero, so products are.
QuantizedMatrix matrix(const Format& f, std::int64_t rows, std::int64_t cols) {
  QuantizedMatrix q = make_quantized_matrix(f, rows, cols);
  std::mt19937 random(1);
  for (auto& byte : q.codes) byte = static_cast<std::uint8_t>(random());
  return q;
}

void product(benchmark::State& state, const Kind& kind, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  const QuantizedMatrix q = matrix(kind.format, rows, cols);
  std::vector<std::unique_ptr<cuda::DeviceMatrix>> copies;
  do copies.push_back(std::make_unique<cuda::DeviceMatrix>(q));
  while (static_cast<std::int64_t>(copies.size()) * q.bytes() < std::int64_t{200} << 20);
  const cuda::Plan plan = cuda::plan(*copies[0], tokens, cuda::device_facts());
  Buffer x(static_cast<std::size_t>(2 * tokens * cols)), y(static_cast<std::size_t>(2 * tokens * rows));
  Buffer workspace(static_cast<std::size_t>(plan.workspace_bytes));
  check(cudaMemset(x.data, 0, static_cast<std::size_t>(2 * tokens * cols)), "cudaMemset");
  const MatrixView<const __half> xs(static_cast<const __half*>(x.data), tokens, cols);
  const MatrixView<__half> ys(static_cast<__half*>(y.data), tokens, rows);
  Timer timer;
  std::size_t next = 0;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      for (int k = 0; k < kRounds; ++k)
        cuda::matmul(plan, *copies[next++ % copies.size()], xs, ys, workspace.memory(), nullptr);
    }) / kRounds);
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["gigabytes_per_second"] = benchmark::Counter(1e-9 * static_cast<double>(q.bytes()), rate);
  state.counters["gigaweights_per_second"] = benchmark::Counter(1e-9 * static_cast<double>(rows * cols), rate);
  state.counters["bytes_per_weight"] = q.bits_per_weight() / 8;
  state.SetLabel(to_string(plan));
}

/// Many tokens: weights restored, then cuBLASLt.
void restored(benchmark::State& state, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  const cuda::DeviceMatrix w(matrix({}, rows, cols));
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  const cuda::BlasPlan plan = cuda::plan_blas(w, tokens, cuda::device_facts(), {.path = cuda::Path::restored});
  Buffer x(static_cast<std::size_t>(2 * tokens * cols)), y(static_cast<std::size_t>(2 * tokens * rows));
  Buffer workspace(static_cast<std::size_t>(plan.workspace_bytes));
  check(cudaMemset(x.data, 0, static_cast<std::size_t>(2 * tokens * cols)), "cudaMemset");
  Timer timer;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      for (int k = 0; k < kRounds; ++k)
        cuda::matmul(plan, w, MatrixView<const __half>(static_cast<const __half*>(x.data), tokens, cols),
                     MatrixView<__half>(static_cast<__half*>(y.data), tokens, rows), workspace.memory(), handle,
                     nullptr);
    }) / kRounds);
  check(cublasLtDestroy(handle), "cublasLtDestroy");
  state.counters["gigaweights_per_second"] =
      benchmark::Counter(1e-9 * static_cast<double>(rows * cols), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(to_string(plan));
}

/// One token through query, key and value of a model with grouped queries, in one launch.
void side_by_side(benchmark::State& state, std::int64_t tokens) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  constexpr std::int64_t kCols = 8192, kRows[] = {8192, 1024, 1024}, kAll = 10240;
  std::vector<std::unique_ptr<cuda::DeviceMatrix>> copies;
  std::int64_t bytes = 0;
  for (int k = 0; k < 5; ++k)
    for (std::int64_t rows : kRows) {
      copies.push_back(std::make_unique<cuda::DeviceMatrix>(matrix({}, rows, kCols)));
      bytes += copies.back()->bytes();
    }
  Buffer x(static_cast<std::size_t>(2 * tokens * kCols)), y(static_cast<std::size_t>(2 * tokens * kAll));
  check(cudaMemset(x.data, 0, static_cast<std::size_t>(2 * tokens * kCols)), "cudaMemset");
  const cuda::DeviceMatrix* const first[] = {copies[0].get(), copies[1].get(), copies[2].get()};
  const cuda::Plan plan = cuda::plan(first, tokens, cuda::device_facts());
  Buffer workspace(static_cast<std::size_t>(plan.workspace_bytes));
  Timer timer;
  std::size_t next = 0;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      for (int k = 0; k < kRounds; ++k, next = (next + 3) % copies.size()) {
        const cuda::DeviceMatrix* const qkv[] = {copies[next].get(), copies[next + 1].get(), copies[next + 2].get()};
        cuda::matmul(plan, qkv, MatrixView<const __half>(static_cast<const __half*>(x.data), tokens, kCols),
                     MatrixView<__half>(static_cast<__half*>(y.data), tokens, kAll), workspace.memory(), nullptr);
      }
    }) / kRounds);
  state.counters["gigabytes_per_second"] =
      benchmark::Counter(1e-9 * static_cast<double>(bytes) / 5, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(to_string(plan));
}

/// 128 experts of 768 x 2048, 8 per token: the gate of a layer of a 30B mixture.
void experts(benchmark::State& state, std::int64_t tokens) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  constexpr std::int64_t kExperts = 128, kChosen = 8, kRows = 768, kCols = 2048;
  std::vector<std::unique_ptr<cuda::DeviceMatrix>> owned;
  std::vector<const cuda::DeviceMatrix*> pointers;
  for (std::int64_t e = 0; e < kExperts; ++e) {
    owned.push_back(std::make_unique<cuda::DeviceMatrix>(matrix({}, kRows, kCols)));
    pointers.push_back(owned.back().get());
  }
  const cuda::DeviceExperts experts(pointers);
  const std::int64_t routed = kChosen * tokens;
  std::vector<std::int32_t> offsets, list;
  for (std::int64_t e = 0; e <= kExperts; ++e)  // as evenly as possible, over all experts
    offsets.push_back(static_cast<std::int32_t>(routed * e / kExperts));
  for (std::int64_t r = 0; r < routed; ++r) list.push_back(static_cast<std::int32_t>(r % tokens));
  Buffer offsets_device(4 * offsets.size()), list_device(4 * list.size());
  check(cudaMemcpy(offsets_device.data, offsets.data(), 4 * offsets.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  check(cudaMemcpy(list_device.data, list.data(), 4 * list.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  Buffer x(static_cast<std::size_t>(2 * tokens * kCols)), y(static_cast<std::size_t>(2 * routed * kRows));
  check(cudaMemset(x.data, 0, static_cast<std::size_t>(2 * tokens * kCols)), "cudaMemset");
  const cuda::Plan plan = cuda::plan(experts, routed, cuda::device_facts());
  Buffer workspace(static_cast<std::size_t>(plan.workspace_bytes));
  const cuda::Routing routing{static_cast<const std::int32_t*>(offsets_device.data),
                              static_cast<const std::int32_t*>(list_device.data)};
  Timer timer;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      for (int k = 0; k < kRounds; ++k)
        cuda::matmul(plan, experts, routing,
                     MatrixView<const __half>(static_cast<const __half*>(x.data), tokens, kCols),
                     MatrixView<__half>(static_cast<__half*>(y.data), routed, kRows), workspace.memory(), nullptr);
    }) / kRounds);
  state.counters["rows_per_second"] =
      benchmark::Counter(static_cast<double>(routed), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(to_string(plan));
}

void cublas(benchmark::State& state, cudaDataType type, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  const std::int64_t bytes = 2 * rows * cols, copies = (std::int64_t{200} << 20) / bytes + 1;
  Buffer w(static_cast<std::size_t>(copies * bytes)), x(static_cast<std::size_t>(2 * tokens * cols));
  Buffer y(static_cast<std::size_t>(2 * tokens * rows));
  check(cudaMemset(w.data, 0, static_cast<std::size_t>(copies * bytes)), "cudaMemset");
  check(cudaMemset(x.data, 0, static_cast<std::size_t>(2 * tokens * cols)), "cudaMemset");
  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return state.SkipWithError("cublasCreate");
  const float one = 1, zero = 0;
  const auto n = [](std::int64_t v) { return static_cast<int>(v); };
  Timer timer;
  std::int64_t next = 0;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      for (int k = 0; k < kRounds; ++k)
        (void)cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, n(rows), n(tokens), n(cols), &one,
                           static_cast<char*>(w.data) + next++ % copies * bytes, type, n(cols), x.data, type, n(cols),
                           &zero, y.data, type, n(rows), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    }) / kRounds);
  (void)cublasDestroy(handle);
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["gigabytes_per_second"] = benchmark::Counter(1e-9 * static_cast<double>(bytes), rate);
  state.counters["gigaweights_per_second"] = benchmark::Counter(1e-9 * static_cast<double>(rows * cols), rate);
}

// Many tokens are bound by arithmetic, and how fast that goes depends on the power it takes: these multiply numbers
// that differ, not zeros.

/// Halves (or bfloat16) of size 0.5 to 1 with random signs.
void fill(const Buffer& buffer, std::size_t count, bool bfloat) {
  std::vector<std::uint16_t> some(std::min<std::size_t>(count, 1 << 20));
  std::mt19937 random(1);
  for (auto& bits : some) {
    const auto r = static_cast<std::uint32_t>(random());
    bits = static_cast<std::uint16_t>((r & 0x8000u) | (bfloat ? 0x3f00u | (r & 0x7fu) : 0x3800u | (r & 0x3ffu)));
  }
  for (std::size_t at = 0; at < count; at += some.size())
    check(cudaMemcpy(static_cast<std::uint16_t*>(buffer.data) + at, some.data(), 2 * std::min(some.size(), count - at),
                     cudaMemcpyHostToDevice),
          "cudaMemcpy");
}

void count_products(benchmark::State& state, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
  state.counters["teraflops"] = benchmark::Counter(2e-12 * static_cast<double>(rows * cols * tokens),
                                                   benchmark::Counter::kIsIterationInvariantRate);
}

template <class X>
void many(benchmark::State& state, cuda::Kernel kernel, const Format& format, std::int64_t rows, std::int64_t cols,
          std::int64_t tokens) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  if (kernel == cuda::Kernel::wgmma && !cuda::device_facts().wgmma) return state.SkipWithError("no wgmma");
  QuantizedMatrix q = matrix(format, rows, cols);
  const auto set = [](std::vector<std::uint8_t>& array, std::uint16_t half) {
    for (std::size_t k = 0; k < array.size(); k += 2) std::memcpy(array.data() + k, &half, 2);
  };
  set(q.scale, 0x2c00);      // 1/16
  set(q.zero, 0x4780);       // 7.5
  set(q.col_scale, 0x3c00);  // 1
  const cuda::DeviceMatrix w(q);
  const cuda::Plan plan = cuda::plan<X>(w, tokens, cuda::device_facts(), {.kernel = kernel});
  Buffer x(static_cast<std::size_t>(2 * tokens * cols)), y(static_cast<std::size_t>(2 * tokens * rows));
  Buffer workspace(static_cast<std::size_t>(plan.workspace_bytes));
  fill(x, static_cast<std::size_t>(tokens * cols), std::is_same_v<X, __nv_bfloat16>);
  Timer timer;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      for (int k = 0; k < kRounds; ++k)
        cuda::matmul(plan, w, MatrixView<const X>(static_cast<const X*>(x.data), tokens, cols),
                     MatrixView<X>(static_cast<X*>(y.data), tokens, rows), workspace.memory(), nullptr);
    }) / kRounds);
  count_products(state, rows, cols, tokens);
  state.SetLabel(to_string(plan));
}

void many_cublas(benchmark::State& state, bool bfloat, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  Buffer w(static_cast<std::size_t>(2 * rows * cols)), x(static_cast<std::size_t>(2 * tokens * cols));
  Buffer y(static_cast<std::size_t>(2 * tokens * rows));
  fill(w, static_cast<std::size_t>(rows * cols), bfloat);
  fill(x, static_cast<std::size_t>(tokens * cols), bfloat);
  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return state.SkipWithError("cublasCreate");
  const float one = 1, zero = 0;
  const cudaDataType type = bfloat ? CUDA_R_16BF : CUDA_R_16F;
  const auto n = [](std::int64_t v) { return static_cast<int>(v); };
  Timer timer;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] {
      for (int k = 0; k < kRounds; ++k)
        (void)cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, n(rows), n(tokens), n(cols), &one, w.data, type, n(cols),
                           x.data, type, n(cols), &zero, y.data, type, n(rows), CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT);
    }) / kRounds);
  (void)cublasDestroy(handle);
  count_products(state, rows, cols, tokens);
}

/// Reading and writing 1 GB each: the yardstick of everything bound by memory.
void copy(benchmark::State& state) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  Buffer from(kBytes), to(kBytes);
  Timer timer;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds(
        [&] { check(cudaMemcpyAsync(to.data, from.data, kBytes, cudaMemcpyDeviceToDevice), "cudaMemcpyAsync"); }));
  state.counters["gigabytes_per_second"] =
      benchmark::Counter(2e-9 * static_cast<double>(kBytes), benchmark::Counter::kIsIterationInvariantRate);
}

void restore(benchmark::State& state, std::int64_t rows, std::int64_t cols) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  const QuantizedMatrix q = matrix({.bits = 4}, rows, cols);
  const cuda::DeviceMatrix d(q);
  Buffer out(static_cast<std::size_t>(2 * rows * cols));
  Timer timer;
  for (auto _ : state)
    state.SetIterationTime(
        timer.seconds([&] { cuda::dequantize(d, MatrixView<__half>(static_cast<__half*>(out.data), rows, cols)); }));
  state.counters["gigabytes_per_second"] = benchmark::Counter(1e-9 * static_cast<double>(q.bytes() + 2 * rows * cols),
                                                              benchmark::Counter::kIsIterationInvariantRate);
}

/// Weights in bfloat16 -> SINQ. Steps of 1 leave the imbalance what it is: no tile stops before the 16th iteration.
void quantize(benchmark::State& state, std::int64_t rows, std::int64_t cols, const QuantizeConfig& config) {
  if (!have_gpu()) return state.SkipWithError("no GPU");
  std::mt19937 random(1);
  std::vector<__nv_bfloat16> w(static_cast<std::size_t>(rows * cols));
  for (auto& v : w) v = __float2bfloat16(static_cast<float>(random() % 4096) - 2048.0f);
  Buffer weights(2 * w.size());
  check(cudaMemcpy(weights.data, w.data(), 2 * w.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  Buffer workspace(static_cast<std::size_t>(cuda::quantize_workspace_bytes(rows, cols, config)));
  const MatrixView<const __nv_bfloat16> view(static_cast<const __nv_bfloat16*>(weights.data), rows, cols);
  Timer timer;
  for (auto _ : state)
    state.SetIterationTime(timer.seconds([&] { (void)cuda::quantize(view, config, workspace.memory()); }));
  state.counters["gigaweights_per_second"] =
      benchmark::Counter(1e-9 * static_cast<double>(rows * cols), benchmark::Counter::kIsIterationInvariantRate);
}

const int kRegistered = [] {
  const auto shape = [](std::int64_t tokens, std::int64_t rows, std::int64_t cols) {
    return "/tokens:" + std::to_string(tokens) + "/rows:" + std::to_string(rows) + "/cols:" + std::to_string(cols);
  };
  benchmark::RegisterBenchmark("limit/device_copy", copy)->UseManualTime();
  for (std::int64_t tokens : {1, 16, 512}) {
    const std::string name = "/tokens:" + std::to_string(tokens);
    benchmark::RegisterBenchmark(("cuda/query-key-value" + name).c_str(), side_by_side, tokens)->UseManualTime();
    benchmark::RegisterBenchmark(("cuda/experts" + name).c_str(), experts, tokens)->UseManualTime();
  }
  for (std::int64_t tokens : {65, 128, 256, 512, 2048, 4096}) {
    const std::string name = shape(tokens, 8192, 8192);
    const auto add = [&](const std::string& what, auto&&... run) {
      benchmark::RegisterBenchmark(("many/" + what + name).c_str(), run..., std::int64_t{8192}, std::int64_t{8192},
                                   tokens)
          ->UseManualTime();
    };
    for (const Format& f : {Format{.bits = 4}, Format{.bits = 8}, Format{.bits = 4, .levels = Levels::nf4}}) {
      const std::string kind = (f.levels == Levels::nf4 ? "/nf4" : "/bits:" + std::to_string(f.bits));
      add("wgmma-f16" + kind, many<__half>, cuda::Kernel::wgmma, f);
      add("wgmma-bf16" + kind, many<__nv_bfloat16>, cuda::Kernel::wgmma, f);
      add("mma-bf16" + kind, many<__nv_bfloat16>, cuda::Kernel::mma, f);
    }
    add("cublas-f16", many_cublas, false);
    add("cublas-bf16", many_cublas, true);
  }
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{8192, 8192}, {28672, 8192}}) {
    for (std::int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096}) {
      for (const Kind& kind : kKinds) {
        if (tokens > 1 && tokens != 16 && (kind.format.bits != 4 || kind.format.scale != Aux::f16)) continue;
        const std::string name = "cuda/" + std::string(kind.name) + "/bits:" + std::to_string(kind.format.bits) +
                                 "/group:" + std::to_string(kind.format.group_size) + shape(tokens, rows, cols);
        benchmark::RegisterBenchmark(name.c_str(), product, kind, rows, cols, tokens)->UseManualTime();
      }
      if (tokens >= 64)
        benchmark::RegisterBenchmark(("cuda/restored" + shape(tokens, rows, cols)).c_str(), restored, rows, cols,
                                     tokens)
            ->UseManualTime();
      benchmark::RegisterBenchmark(("cublas/f16" + shape(tokens, rows, cols)).c_str(), cublas, CUDA_R_16F, rows, cols,
                                   tokens)
          ->UseManualTime();
      benchmark::RegisterBenchmark(("cublas/bf16" + shape(tokens, rows, cols)).c_str(), cublas, CUDA_R_16BF, rows, cols,
                                   tokens)
          ->UseManualTime();
    }
    benchmark::RegisterBenchmark(("quantize/sinq" + shape(0, rows, cols)).c_str(), quantize, rows, cols,
                                 QuantizeConfig{.sinkhorn = {.min_step = 1, .max_step = 1}})
        ->UseManualTime();
    benchmark::RegisterBenchmark(("quantize/preset-3.5" + shape(0, rows, cols)).c_str(), quantize, rows, cols,
                                 preset(3.5))
        ->UseManualTime();
    benchmark::RegisterBenchmark(("quantize/preset-4.5" + shape(0, rows, cols)).c_str(), quantize, rows, cols,
                                 preset(4.5))
        ->UseManualTime();
    benchmark::RegisterBenchmark(("quantize/hqq" + shape(0, rows, cols)).c_str(), quantize, rows, cols,
                                 QuantizeConfig{.refine = Refine::hqq, .sinkhorn = {.min_step = 1, .max_step = 1}})
        ->UseManualTime();
    benchmark::RegisterBenchmark(("dequantize/f16" + shape(0, rows, cols)).c_str(), restore, rows, cols)
        ->UseManualTime();
  }
  return 0;
}();

}  // namespace
