// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <sinq/cuda.cuh>
#include <sinq/cuda/quantize.cuh>
#include <string>
#include <vector>
#if defined(SINQ_HAVE_CUBLAS)
#include <cublas_v2.h>

#include <sinq/cuda/blas.cuh>
#endif

// Products on the GPU beside a plain copy of the same bytes and cuBLAS on the same shapes, all in one run. Matrices
// rotate through more than the L2 cache holds, so that every product of few tokens reads its weights from memory. Times
// are the device's own, between events; products of up to 64 tokens, which take less time than the host needs to ask
// for them, run from a graph of many, as an engine would run them. Without a GPU every benchmark says so and measures
// nothing.
//
//   limit/   what the memory gives
//   goal/    the shapes that matter most, to be measured first
//   more/    everything else
//
// Nothing multiplies zeros: how fast arithmetic goes depends on the power it takes.

namespace {

using namespace sinq;
using sinq::detail::cuda::check;

constexpr auto kRate = benchmark::Counter::kIsIterationInvariantRate;

bool have_gpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

std::size_t sized(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

struct Buffer {
  explicit Buffer(std::size_t size) : bytes(size) {
    check(cudaMalloc(&data, std::max<std::size_t>(bytes, 16)), "cudaMalloc");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { (void)cudaFree(data); }
  template <class T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data);
  }
  [[nodiscard]] std::span<std::byte> memory() const { return {as<std::byte>(), bytes}; }
  std::size_t bytes;
  void* data = nullptr;
};

/// A few megabytes over and over: once from the host, then twice as many each time.
template <class T>
void repeat(const std::vector<T>& some, void* to, std::size_t bytes) {
  char* const begin = static_cast<char*>(to);
  std::size_t done = std::min(some.size() * sizeof(T), bytes);
  check(cudaMemcpy(begin, some.data(), done, cudaMemcpyHostToDevice), "cudaMemcpy");
  for (; done < bytes; done += std::min(done, bytes - done))
    check(cudaMemcpy(begin + done, begin, std::min(done, bytes - done), cudaMemcpyDeviceToDevice), "cudaMemcpy");
}

/// `count` numbers made by make(random bits). Drawn once for all that need them: a mixture has 128 matrices.
template <class T, class Make>
std::vector<T> drawn(std::size_t count, Make&& make) {
  std::mt19937 random(1);
  std::vector<T> some(count);
  for (T& number : some) number = static_cast<T>(make(static_cast<std::uint32_t>(random())));
  return some;
}

void fill_bits(void* to, std::size_t bytes) {
  static const auto some = drawn<std::uint32_t>(std::size_t{1} << 22, [](std::uint32_t r) { return r; });
  repeat(some, to, bytes);
}

/// Numbers of size 0.5 to 1 with random signs.
template <class X>
void fill(const Buffer& buffer) {
  constexpr bool kBfloat = std::is_same_v<X, __nv_bfloat16>;
  static const auto some = drawn<std::uint16_t>(std::size_t{1} << 20, [](std::uint32_t r) {
    return (r & 0x8000u) | (kBfloat ? 0x3f00u | (r & 0x7fu) : 0x3800u | (r & 0x3ffu));
  });
  repeat(some, buffer.data, buffer.bytes);
}

/// Activations and results.
template <class X>
struct Vectors {
  Vectors(std::int64_t x_rows, std::int64_t x_cols, std::int64_t y_rows, std::int64_t y_cols)
      : x_memory(sized(2 * x_rows * x_cols)),
        y_memory(sized(2 * y_rows * y_cols)),
        x(x_memory.as<const X>(), x_rows, x_cols),
        y(y_memory.as<X>(), y_rows, y_cols) {
    fill<X>(x_memory);
  }
  Buffer x_memory, y_memory;
  MatrixView<const X> x;
  MatrixView<X> y;
};

/// With random codes, made where it lies: putting 10^8 weights in order on the host takes longer than all its products.
/// Scales of 1/16, zeros of 7.5 and column scales of 1 where all are halves; else every 16 bits of the auxiliaries are
/// 0x2c6d: halves of 0.07, and integers that differ.
cuda::DeviceMatrix matrix(const Format& f, std::int64_t rows, std::int64_t cols) {
  const bool table = f.levels == Levels::table;
  cuda::DeviceMatrix d(f, table ? fitted_levels(f.bits, f.zero != Aux::none) : LevelTable{}, rows, cols, nullptr);
  const auto& order = d.order();
  fill_bits(d.memory(), sized(order.aux_at));
  if (f.scale != Aux::f16 || f.zero != Aux::f16 || f.col_scale != Aux::f16) {
    repeat(std::vector<std::uint16_t>(8, 0x2c6d), d.memory() + order.aux_at, sized(order.bytes - order.aux_at));
    return d;
  }
  std::vector<std::uint16_t> record(32, 0x2c00);
  std::fill(record.begin() + 16, record.end(), std::uint16_t{0x4780});
  repeat(record, d.memory() + order.aux_at, sized(order.col_scale_at - order.aux_at));
  repeat(std::vector<std::uint16_t>(8, 0x3c00), d.memory() + order.col_scale_at,
         sized(order.bytes - order.col_scale_at));
  return d;
}

/// As many as the L2 cache does not hold.
std::vector<cuda::DeviceMatrix> matrices(const Format& f, std::int64_t rows, std::int64_t cols) {
  std::vector<cuda::DeviceMatrix> all;
  do all.push_back(matrix(f, rows, cols));
  while (static_cast<std::int64_t>(all.size()) * all[0].bytes() < std::int64_t{200} << 20);
  return all;
}

/// For what a graph captures.
struct Stream {
  Stream() { check(cudaStreamCreate(&stream), "cudaStreamCreate"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { (void)cudaStreamDestroy(stream); }
  cudaStream_t stream = nullptr;
};

struct Timer {
  explicit Timer(cudaStream_t s = nullptr) : stream(s) {
    check(cudaEventCreate(&begin), "cudaEventCreate"), check(cudaEventCreate(&end), "cudaEventCreate");
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { (void)cudaEventDestroy(begin), (void)cudaEventDestroy(end); }
  template <class Work>
  double seconds(int rounds, Work&& work) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    for (int k = 0; k < rounds; ++k) work();
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }
  cudaStream_t stream;
  cudaEvent_t begin = nullptr, end = nullptr;
};

/// Launches between two events, so that the launch itself hides: for two milliseconds, up to 50. Each of them counts as
/// an iteration, so that the time asked for is the time that passes.
template <class Work>
void measure(benchmark::State& state, Work&& work) {
  Timer timer;
  work();
  const double once = timer.seconds(1, work);
  const int rounds = static_cast<int>(std::clamp(2e-3 / std::max(once, 1e-9), 1.0, 50.0));
  while (state.KeepRunningBatch(rounds)) state.SetIterationTime(timer.seconds(rounds, work));
}

/// The same from a graph of many calls, a multiple of `cycle` (how often it takes until all matrices have had their
/// turn), so that the host, which asks for the graph once, does not count: work(stream).
template <class Work>
void measure_captured(benchmark::State& state, std::size_t cycle, Work&& work) {
  const Stream s;
  Timer timer(s.stream);
  work(s.stream);
  const double once = timer.seconds(1, [&] { work(s.stream); });
  const auto wanted = static_cast<std::size_t>(std::clamp(2e-3 / std::max(once, 1e-9), 1.0, 200.0));
  const int calls = static_cast<int>((wanted + cycle - 1) / cycle * cycle);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t runnable = nullptr;
  check(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  for (int k = 0; k < calls; ++k) work(s.stream);
  check(cudaStreamEndCapture(s.stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&runnable, graph, 0), "cudaGraphInstantiate");
  const auto run = [&] { check(cudaGraphLaunch(runnable, s.stream), "cudaGraphLaunch"); };
  while (state.KeepRunningBatch(2 * calls)) {
    run();  // the device is busy with it until the others have been asked for
    state.SetIterationTime(timer.seconds(2, run));
  }
  check(cudaGraphExecDestroy(runnable), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

/// Products of `tokens` tokens: captured if they are few.
template <class Work>
void measure_products(benchmark::State& state, std::int64_t tokens, std::size_t cycle, Work&& work) {
  if (tokens <= 64)
    measure_captured(state, cycle, work);
  else
    measure(state, [&] { work(cudaStream_t{}); });
}

// --- what the memory gives -------------------------------------------------------------------------------------------

constexpr int kCopyThreads = 256, kCopyFlight = 4;  // 16 bytes each, four under way per thread

__global__ void copy_kernel(const uint4* from, uint4* to) {
  const std::size_t first = std::size_t{blockIdx.x} * kCopyFlight * kCopyThreads + threadIdx.x;
  uint4 v[kCopyFlight];
#pragma unroll
  for (int k = 0; k < kCopyFlight; ++k) v[k] = __ldcs(from + first + k * kCopyThreads);
#pragma unroll
  for (int k = 0; k < kCopyFlight; ++k) __stcs(to + first + k * kCopyThreads, v[k]);
}

/// Reading and writing 1 GB each: the yardstick of everything bound by memory.
struct Copy {
  static constexpr std::size_t kBytes = std::size_t{1} << 30;
  Copy() : from(kBytes), to(kBytes) { fill_bits(from.data, kBytes); }
  void operator()() const {
    copy_kernel<<<kBytes / 16 / kCopyFlight / kCopyThreads, kCopyThreads>>>(from.as<const uint4>(), to.as<uint4>());
    check(cudaGetLastError(), "copy_kernel");
  }
  Buffer from, to;
};

/// Bytes per second, read and written together.
double limit() {
  static const double measured = [] {
    const Copy copy;
    Timer timer;
    copy();
    double best = 1e9;
    for (int k = 0; k < 5; ++k) best = std::min(best, timer.seconds(4, copy) / 4);
    return 2 * static_cast<double>(Copy::kBytes) / best;
  }();
  return measured;
}

void count_bytes(benchmark::State& state, std::int64_t bytes) {
  state.counters["gigabytes_per_second"] = benchmark::Counter(1e-9 * static_cast<double>(bytes), kRate);
  state.counters["share_of_limit"] = benchmark::Counter(static_cast<double>(bytes) / limit(), kRate);
}
void count_weights(benchmark::State& state, std::int64_t weights) {
  state.counters["gigaweights_per_second"] = benchmark::Counter(1e-9 * static_cast<double>(weights), kRate);
}
void count_products(benchmark::State& state, std::int64_t rows, std::int64_t cols, std::int64_t tokens) {
  state.counters["teraflops"] = benchmark::Counter(2e-12 * static_cast<double>(rows * cols * tokens), kRate);
}

void copy_by_kernel(benchmark::State& state) {
  const Copy copy;
  measure(state, copy);
  count_bytes(state, 2 * Copy::kBytes);
}

void copy_by_runtime(benchmark::State& state) {
  const Copy c;
  measure(state, [&] {
    check(cudaMemcpyAsync(c.to.data, c.from.data, Copy::kBytes, cudaMemcpyDeviceToDevice), "cudaMemcpyAsync");
  });
  count_bytes(state, 2 * Copy::kBytes);
}

// --- products --------------------------------------------------------------------------------------------------------

struct Shape {
  std::int64_t rows, cols;
};

/// `called`: by the host each time, however few the tokens are.
template <class X>
void product(benchmark::State& state, const Format& format, Shape s, std::int64_t tokens,
             cuda::Kernel kernel = cuda::Kernel::automatic, bool called = false) {
  const std::vector<cuda::DeviceMatrix> copies = matrices(format, s.rows, s.cols);
  const cuda::Plan plan = cuda::plan<X>(copies[0], tokens, cuda::device_facts(), {.kernel = kernel});
  const Vectors<X> v(tokens, s.cols, tokens, s.rows);
  const Buffer workspace(sized(plan.workspace_bytes));
  std::size_t next = 0;
  const auto multiply = [&](cudaStream_t stream) {
    cuda::matmul(plan, copies[next++ % copies.size()], v.x, v.y, workspace.memory(), stream);
  };
  if (called)
    measure(state, [&] { multiply(nullptr); });
  else
    measure_products(state, tokens, copies.size(), multiply);
  if (tokens <= 64)
    count_bytes(state, copies[0].bytes());
  else
    count_products(state, s.rows, s.cols, tokens);
  count_weights(state, s.rows * s.cols);
  state.SetLabel(to_string(plan));
}

#if defined(SINQ_HAVE_CUBLAS)
/// Many tokens: weights restored, then cuBLASLt.
template <class X>
void restored(benchmark::State& state, Shape s, std::int64_t tokens) {
  const cuda::DeviceMatrix w = matrix({}, s.rows, s.cols);
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  const cuda::BlasPlan plan = cuda::plan_blas<X>(w, tokens, cuda::device_facts(), {.path = cuda::Path::restored});
  const Vectors<X> v(tokens, s.cols, tokens, s.rows);
  const Buffer workspace(sized(plan.workspace_bytes));
  measure(state, [&] { cuda::matmul(plan, w, v.x, v.y, workspace.memory(), handle, nullptr); });
  check(cublasLtDestroy(handle), "cublasLtDestroy");
  count_products(state, s.rows, s.cols, tokens);
  state.SetLabel(to_string(plan));
}

/// Weights in half or bfloat16.
template <class X>
void cublas(benchmark::State& state, Shape s, std::int64_t tokens) {
  const std::int64_t bytes = 2 * s.rows * s.cols, copies = (std::int64_t{200} << 20) / bytes + 1;
  const Buffer w(sized(copies * bytes));
  fill<X>(w);
  const Vectors<X> v(tokens, s.cols, tokens, s.rows);
  cublasHandle_t handle = nullptr;
  check(cublasCreate(&handle), "cublasCreate");
  const Buffer workspace(std::size_t{32} << 20);  // its own would become allocations inside the graph
  const float one = 1, zero = 0;
  constexpr cudaDataType kType = detail::cuda::kBlasType<X>;
  const auto n = [](std::int64_t value) { return static_cast<int>(value); };
  std::int64_t next = 0;
  measure_products(state, tokens, sized(copies), [&](cudaStream_t stream) {
    check(cublasSetStream(handle, stream), "cublasSetStream");
    check(cublasSetWorkspace(handle, workspace.data, workspace.bytes), "cublasSetWorkspace");
    check(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, n(s.rows), n(tokens), n(s.cols), &one,
                       w.as<const char>() + next++ % copies * bytes, kType, n(s.cols), v.x.data, kType, n(s.cols),
                       &zero, v.y.data, kType, n(s.rows), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  });
  check(cublasDestroy(handle), "cublasDestroy");
  if (tokens <= 64)
    count_bytes(state, bytes);
  else
    count_products(state, s.rows, s.cols, tokens);
  count_weights(state, s.rows * s.cols);
}
#endif

/// Query, key and value of a model with grouped queries, in one launch.
void side_by_side(benchmark::State& state, std::int64_t tokens) {
  constexpr std::int64_t kCols = 8192, kRows[] = {8192, 1024, 1024}, kAll = 10240;
  std::vector<cuda::DeviceMatrix> copies;
  std::int64_t bytes = 0;
  for (int k = 0; k < 5; ++k)
    for (std::int64_t rows : kRows) {
      copies.push_back(matrix({}, rows, kCols));
      bytes += copies.back().bytes();
    }
  const auto three = [&](std::size_t first) {
    return std::array<const cuda::DeviceMatrix*, 3>{&copies[first], &copies[first + 1], &copies[first + 2]};
  };
  const auto first = three(0);
  const cuda::SideBySidePlan plan = cuda::plan(first, tokens, cuda::device_facts());
  const Vectors<__half> v(tokens, kCols, tokens, kAll);
  const Buffer workspace(sized(plan.workspace_bytes));
  std::size_t next = 0;
  measure_products(state, tokens, copies.size() / 3, [&](cudaStream_t stream) {
    const auto qkv = three(next);
    next = (next + 3) % copies.size();
    cuda::matmul(plan, qkv, v.x, v.y, workspace.memory(), stream);
  });
  if (tokens <= 64) count_bytes(state, bytes / 5);
  state.SetLabel(to_string(plan));
}

/// 128 experts of 768 x 2048, 8 per token: the gate of a layer of a 30B mixture. Tokens are spread as evenly as
/// possible, and with one token others have their turn in every call.
void experts(benchmark::State& state, std::int64_t tokens) {
  constexpr std::int64_t kExperts = 128, kChosen = 8, kRows = 768, kCols = 2048;
  std::vector<cuda::DeviceMatrix> owned;
  std::vector<const cuda::DeviceMatrix*> pointers;
  for (std::int64_t e = 0; e < kExperts; ++e) owned.push_back(matrix({}, kRows, kCols));
  for (const cuda::DeviceMatrix& e : owned) pointers.push_back(&e);
  const cuda::DeviceExperts experts(pointers);
  const std::int64_t routed = kChosen * tokens, turns = kExperts / kChosen;
  std::vector<std::int32_t> offsets, list;
  for (std::int64_t turn = 0; turn < turns; ++turn)  // with one token: experts turn, turn + 16, ...
    for (std::int64_t e = 0; e <= kExperts; ++e)
      offsets.push_back(static_cast<std::int32_t>((routed * e + kChosen * (turns - 1 - turn)) / kExperts));
  for (std::int64_t r = 0; r < routed; ++r) list.push_back(static_cast<std::int32_t>(r % tokens));
  const Buffer offsets_device(4 * offsets.size()), list_device(4 * list.size());
  repeat(offsets, offsets_device.data, offsets_device.bytes);
  repeat(list, list_device.data, list_device.bytes);
  const Vectors<__half> v(tokens, kCols, routed, kRows);
  const cuda::Plan plan = cuda::plan(experts, routed, cuda::device_facts());
  const Buffer workspace(sized(plan.workspace_bytes));
  std::int64_t next = 0;
  measure_products(state, tokens, sized(turns), [&](cudaStream_t stream) {
    const cuda::Routing routing{offsets_device.as<const std::int32_t>() + next++ % turns * (kExperts + 1),
                                list_device.as<const std::int32_t>()};
    cuda::matmul(plan, experts, routing, v.x, v.y, workspace.memory(), stream);
  });
  state.counters["rows_per_second"] = benchmark::Counter(static_cast<double>(routed), kRate);
  state.SetLabel(to_string(plan));
}

// --- weights ---------------------------------------------------------------------------------------------------------

void restore(benchmark::State& state, const Format& format, Shape s) {
  const cuda::DeviceMatrix d = matrix(format, s.rows, s.cols);
  const Buffer out(sized(2 * s.rows * s.cols));
  measure(state, [&] { cuda::dequantize(d, MatrixView<__half>(out.as<__half>(), s.rows, s.cols)); });
  count_bytes(state, d.bytes() + 2 * s.rows * s.cols);
}

void quantize(benchmark::State& state, const QuantizeConfig& config, Shape s) {
  const Buffer weights(sized(2 * s.rows * s.cols));
  fill<__nv_bfloat16>(weights);
  const Buffer workspace(sized(cuda::quantize_workspace_bytes(s.rows, s.cols, config)));
  const MatrixView<const __nv_bfloat16> view(weights.as<const __nv_bfloat16>(), s.rows, s.cols);
  cuda::DeviceMatrix w = cuda::make_device_matrix(s.rows, s.cols, config);
  measure(state, [&] { cuda::quantize_into(w, view, config, workspace.memory(), nullptr); });
  (void)cuda::check_quantized(view, config, workspace.memory(), nullptr);
  count_weights(state, s.rows * s.cols);
}

// --- which of them ---------------------------------------------------------------------------------------------------

/// One that fails leaves the others alone.
void add(const std::string& name, std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), [run](benchmark::State& state) {
    if (!have_gpu()) return state.SkipWithError("no GPU");
    try {
      run(state);
    } catch (const std::exception& e) {
      state.SkipWithError(e.what());
    }
  })->UseManualTime();
}

std::string text_of(Shape s, std::int64_t tokens) {
  return "/tokens:" + std::to_string(tokens) + "/rows:" + std::to_string(s.rows) + "/cols:" + std::to_string(s.cols);
}

struct Kind {
  const char* name;
  Format format;
};
const Kind kFour{"4-bits", {.bits = 4}};
const Kind kWidths[] = {kFour,
                        {"2-bits", {.bits = 2}},
                        {"3-bits", {.bits = 3}},
                        {"5-bits", {.bits = 5}},
                        {"6-bits", {.bits = 6}},
                        {"8-bits", {.bits = 8}},
                        {"nf4", {.bits = 4, .levels = Levels::nf4}},
                        {"preset-4.5", detail::quantize::format_of(preset(4.5), true)},
                        {"preset-3", detail::quantize::format_of(preset(3, Role::down), true)}};
const Kind kOthers[] = {
    {"4-bits-aux8", {.bits = 4, .scale = Aux::u8, .zero = Aux::u8}},
    {"3-bits-aux6-group32", {.bits = 3, .group_size = 32, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 8}}};

constexpr Shape kSquare{8192, 8192}, kTall{28672, 8192};

/// What a caller without a graph gets.
void add_called(const std::string& family, const Kind& kind, Shape s, std::int64_t tokens) {
  add(family + "matmul-called/" + kind.name + "-f16" + text_of(s, tokens),
      [=](benchmark::State& state) { product<__half>(state, kind.format, s, tokens, cuda::Kernel::automatic, true); });
}
template <class X = __half>
void add_product(const std::string& family, const Kind& kind, Shape s, std::int64_t tokens,
                 cuda::Kernel kernel = cuda::Kernel::automatic) {
  const std::string type = std::is_same_v<X, __half> ? "-f16" : "-bf16";
  const std::string forced = kernel == cuda::Kernel::mma ? "-mma" : kernel == cuda::Kernel::wgmma ? "-wgmma" : "";
  add(family + "matmul/" + kind.name + type + forced + text_of(s, tokens),
      [=](benchmark::State& state) { product<X>(state, kind.format, s, tokens, kernel); });
}
#if defined(SINQ_HAVE_CUBLAS)
void add_cublas(const std::string& family, Shape s, std::int64_t tokens) {
  add(family + "cublas-bf16" + text_of(s, tokens),
      [=](benchmark::State& state) { cublas<__nv_bfloat16>(state, s, tokens); });
}
void add_restored(const std::string& family, Shape s, std::int64_t tokens) {
  add(family + "restored-bf16" + text_of(s, tokens),
      [=](benchmark::State& state) { restored<__nv_bfloat16>(state, s, tokens); });
}
#else
void add_cublas(const std::string&, Shape, std::int64_t) {}
void add_restored(const std::string&, Shape, std::int64_t) {}
#endif
/// Steps of 1 leave the imbalance what it is: no tile stops before the 16th iteration.
void add_quantize(const std::string& family, const std::string& name, QuantizeConfig config, Shape s) {
  if (config.refine != Refine::fit) config.sinkhorn.min_step = config.sinkhorn.max_step = 1;
  add(family + "quantize/" + name + text_of(s, 0), [=](benchmark::State& state) { quantize(state, config, s); });
}

void add_goals() {
  for (std::int64_t tokens : {4096, 512}) {
    add_product<__nv_bfloat16>("goal/", kFour, kSquare, tokens);
    add_cublas("goal/", kSquare, tokens);
    add_restored("goal/", kSquare, tokens);
  }
  add_product("goal/", kFour, kSquare, 1);
  for (const Kind& kind : kWidths)
    for (std::int64_t tokens : {1, 16}) add_product("goal/", kind, kTall, tokens);
  add_quantize("goal/", "sinq", {}, kSquare);
}

void add_more() {
  for (std::int64_t tokens : {1, 16, 512}) {
    const std::string name = "/tokens:" + std::to_string(tokens);
    add("more/query-key-value" + name, [=](benchmark::State& state) { side_by_side(state, tokens); });
    add("more/experts" + name, [=](benchmark::State& state) { experts(state, tokens); });
  }
  add_quantize("more/", "preset-4.5", preset(4.5), kSquare);
  add_quantize("more/", "preset-3.5", preset(3.5), kSquare);
  add_quantize("more/", "hqq", {.refine = Refine::hqq}, kSquare);
  for (const Kind& kind : kWidths)
    add("more/dequantize-f16/" + std::string(kind.name) + text_of(kSquare, 0),
        [=](benchmark::State& state) { restore(state, kind.format, kSquare); });
  for (const Kind& kind : kOthers)
    for (std::int64_t tokens : {1, 16}) add_product("more/", kind, kTall, tokens);
  add_called("more/", kFour, kSquare, 1);
  add_cublas("more/", kSquare, 1);
  for (std::int64_t tokens : {2, 4, 8, 16, 32, 64}) {
    add_product("more/", kFour, kSquare, tokens);
    add_cublas("more/", kSquare, tokens);
  }
  for (std::int64_t tokens : {65, 128, 256, 2048}) {
    add_product<__nv_bfloat16>("more/", kFour, kSquare, tokens);
    add_product<__nv_bfloat16>("more/", kFour, kSquare, tokens, cuda::Kernel::mma);
    add_cublas("more/", kSquare, tokens);
    add_restored("more/", kSquare, tokens);
  }
  for (std::int64_t tokens : {512, 4096}) {
    add_product("more/", kFour, kSquare, tokens);
    add_product<__nv_bfloat16>("more/", kFour, kSquare, tokens, cuda::Kernel::mma);
    for (const Kind& kind : kWidths)
      if (kind.format.bits != 4 || kind.format.levels != Levels::uniform)
        add_product<__nv_bfloat16>("more/", kind, kSquare, tokens);
  }
  add_product<__nv_bfloat16>("more/", kFour, kTall, 4096);
  add_cublas("more/", kTall, 4096);
}

const int kRegistered = [] {
  add("limit/copy_kernel", copy_by_kernel);
  add("limit/device_copy", copy_by_runtime);
  add_goals();
  add_more();
  return 0;
}();

}  // namespace
