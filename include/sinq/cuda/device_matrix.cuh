// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <utility>

// Eigen 3.4.0 annotates defaulted functions and calls constexpr functions of the host, in templates nobody uses here.
#pragma nv_diagnostic push
#pragma nv_diag_suppress 20012, 20013, 20014, 20015
#include "order.hpp"
#pragma nv_diagnostic pop

#include "plan.hpp"
#include "wgmma.cuh"

namespace sinq::inline SINQ_ABI {
namespace cuda {

/// A call into the CUDA runtime failed. The message names the call and the reason.
class CudaError : public Error {
 public:
  using Error::Error;
};

}  // namespace cuda

namespace detail::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) [[unlikely]]
    core::raise<sinq::cuda::CudaError>(core::text("sinq: ", call, ": ", cudaGetErrorString(status)));
}

/// The element types of activations and results on a device.
template <class T>
struct NumberOf;  // no primary definition: only these three exist
template <>
struct NumberOf<__half> {
  static constexpr Number value = Number::f16;
};
template <>
struct NumberOf<__nv_bfloat16> {
  static constexpr Number value = Number::bf16;
};
template <>
struct NumberOf<float> {
  static constexpr Number value = Number::f32;
};
template <class T>
struct NumberOf<const T> : NumberOf<T> {};

/// What is deduced from a view of either kind is read as a view of constant elements.
template <class T>
[[nodiscard]] MatrixView<const T> constant(const MatrixView<T>& view) {
  return view;
}

/// Whether the code that a device runs has wgmma: it is a Hopper, and this was compiled for sm_90a.
inline bool has_wgmma(int ordinal) {
  int major = 0, current = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal), "cudaDeviceGetAttribute");
  if (major != 9) return false;
  check(cudaGetDevice(&current), "cudaGetDevice");
  check(cudaSetDevice(ordinal), "cudaSetDevice");
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&wgmma_probe_kernel<>));
  check(cudaSetDevice(current), "cudaSetDevice");
  check(status, "cudaFuncGetAttributes");
  return attributes.maxThreadsPerBlock == kProbeThreads;
}

/// The current device, and of its facts what decides whether it can run a plan.
struct Here {
  int ordinal = 0;
  sinq::cuda::Device device;
};
inline Here here() {
  static std::atomic<int> known[64];  // twice the bytes, plus one with wgmma; 0: not asked yet; beyond 64, each time
  Here h;
  check(cudaGetDevice(&h.ordinal), "cudaGetDevice");
  int facts = h.ordinal < 64 ? known[h.ordinal].load(std::memory_order_relaxed) : 0;
  if (facts == 0) {
    check(cudaDeviceGetAttribute(&facts, cudaDevAttrMaxSharedMemoryPerBlockOptin, h.ordinal), "cudaDeviceGetAttribute");
    facts = 2 * facts + static_cast<int>(has_wgmma(h.ordinal));
    if (h.ordinal < 64) known[h.ordinal].store(facts, std::memory_order_relaxed);
  }
  h.device.shared_per_block = facts / 2;
  h.device.wgmma = facts % 2 != 0;
  return h;
}

/// InvalidArgument unless there is a matrix, or experts, on the current device.
template <class Matrix>
void require_here(const Matrix& w, const Here& here) {
  core::require(w.rows() > 0, "w", "empty", "must hold a matrix");
  core::require(w.device() == here.ordinal, "w.device()", w.device(), "must be the current device (cudaSetDevice)");
}

struct Free {
  bool callers = false;  // who frees it
  void operator()(std::uint8_t* memory) const noexcept {
    if (!callers) (void)cudaFree(memory);
  }
};

}  // namespace detail::cuda

namespace cuda {

/// What a plan needs to know about a GPU, of the current one (-1) or of a given one.
[[nodiscard]] inline Device device_facts(int ordinal = -1) {
  using detail::cuda::check;
  if (ordinal < 0) check(cudaGetDevice(&ordinal), "cudaGetDevice");
  Device d;
  check(cudaDeviceGetAttribute(&d.multiprocessors, cudaDevAttrMultiProcessorCount, ordinal), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&d.shared_per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, ordinal),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&d.shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal),
        "cudaDeviceGetAttribute");
  d.wgmma = detail::cuda::has_wgmma(ordinal);
  return d;
}

/// Bytes of device memory that a matrix of the given format and size takes. InvalidArgument unless both are legal, or
/// beyond 2^26 rows or 2^19 columns.
[[nodiscard]] inline std::size_t device_bytes(const Format& format, std::int64_t rows, std::int64_t cols) {
  detail::pack::validate(format);
  return static_cast<std::size_t>(detail::cuda::kernel_order(format, {}, rows, cols).bytes);
}

/// A quantized matrix in the memory of the device that is current when it is made, in the order in which the kernels
/// read it (layout.hpp). Constant once made: any number of streams may multiply by it at once. It is empty (0 x 0)
/// before, and after it has been moved from.
class DeviceMatrix {
 public:
  DeviceMatrix() = default;
  DeviceMatrix(DeviceMatrix&& other) noexcept { swap(other); }
  DeviceMatrix& operator=(DeviceMatrix other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceMatrix() = default;

  /// Checks `q` (InvalidArgument), reorders it on the host (on the executor's threads, if there is one), allocates,
  /// copies in `stream`'s order and waits for it: any stream may use the matrix at once. CudaError if the device
  /// refuses.
  explicit DeviceMatrix(const QuantizedMatrix& q, cudaStream_t stream = nullptr, Executor* executor = nullptr)
      : DeviceMatrix(q, std::nullopt, stream, executor) {}
  /// The same in memory of the current device that the caller owns, and keeps as it is while the matrix is in use:
  /// `device_bytes` at an alignment of 256, which is cudaMalloc's.
  DeviceMatrix(const QuantizedMatrix& q, std::optional<std::span<std::byte>> memory, cudaStream_t stream = nullptr,
               Executor* executor = nullptr)
      : format_(q.format), table_(q.table) {
    using namespace detail::cuda;
    validate(q);
    order_ = kernel_order(q.format, q.table, q.rows, q.cols);
    hold(memory);
    const std::vector<std::uint8_t> bytes = to_kernel_order(q, order_, executor);
    check(cudaMemcpyAsync(memory_.get(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream),
          "cudaMemcpyAsync");
    // Whether pageable memory has been read when the copy returns is the driver's business.
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

  /// All zeros, of a valid format. For the library, which fills it.
  DeviceMatrix(const Format& format, const LevelTable& table, std::int64_t rows, std::int64_t cols,
               std::optional<std::span<std::byte>> memory, cudaStream_t stream)
      : format_(format), table_(table), order_(detail::cuda::kernel_order(format, table, rows, cols)) {
    hold(memory);
    detail::cuda::check(cudaMemsetAsync(memory_.get(), 0, static_cast<std::size_t>(bytes()), stream),
                        "cudaMemsetAsync");
  }

  [[nodiscard]] std::int64_t rows() const noexcept { return order_.weights.rows; }
  [[nodiscard]] std::int64_t cols() const noexcept { return order_.weights.cols; }
  [[nodiscard]] const Format& format() const noexcept { return format_; }
  [[nodiscard]] const LevelTable& table() const noexcept { return table_; }
  /// The device in whose memory it lies.
  [[nodiscard]] int device() const noexcept { return device_; }
  /// Bytes of device memory.
  [[nodiscard]] std::int64_t bytes() const noexcept { return order_.bytes; }

  /// The canonical form, bit for bit as it was. Waits for `stream`.
  [[nodiscard]] QuantizedMatrix download(cudaStream_t stream = nullptr, Executor* executor = nullptr) const {
    using namespace detail::cuda;
    detail::core::require(rows() > 0, "w", "empty", "must hold a matrix");
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(order_.bytes));
    check(cudaMemcpyAsync(bytes.data(), memory_.get(), bytes.size(), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    return from_kernel_order(format_, table_, order_, bytes, executor);
  }

  /// What the kernels see. For the library.
  [[nodiscard]] detail::cuda::Weights weights() const noexcept { return order_.place(memory_.get()); }
  [[nodiscard]] std::int64_t strips() const noexcept { return order_.strips; }
  [[nodiscard]] const detail::cuda::KernelOrder& order() const noexcept { return order_; }
  [[nodiscard]] std::uint8_t* memory() noexcept { return memory_.get(); }

 private:
  void hold(const std::optional<std::span<std::byte>>& memory) {
    using detail::core::require;
    detail::cuda::check(cudaGetDevice(&device_), "cudaGetDevice");
    void* own = nullptr;
    if (memory) {
      require(memory->data() != nullptr, "memory.data()", "null", "must not be null");
      require(std::ssize(*memory) >= bytes(), "memory.size()", memory->size(), "must be at least ", bytes(),
              ", see device_bytes");
      require(reinterpret_cast<std::uintptr_t>(memory->data()) % 256 == 0, "memory.data()",
              static_cast<const void*>(memory->data()), "must be a multiple of 256");
    } else {
      detail::cuda::check(cudaMalloc(&own, static_cast<std::size_t>(bytes())), "cudaMalloc");
    }
    memory_ = {reinterpret_cast<std::uint8_t*>(memory ? memory->data() : static_cast<std::byte*>(own)),
               detail::cuda::Free{memory.has_value()}};
  }
  void swap(DeviceMatrix& other) noexcept {
    std::swap(format_, other.format_);
    std::swap(table_, other.table_);
    std::swap(order_, other.order_);
    std::swap(device_, other.device_);
    std::swap(memory_, other.memory_);
  }

  Format format_;
  LevelTable table_{};
  detail::cuda::KernelOrder order_;
  int device_ = 0;
  std::unique_ptr<std::uint8_t, detail::cuda::Free> memory_;
};

}  // namespace cuda
}  // namespace sinq::inline SINQ_ABI
