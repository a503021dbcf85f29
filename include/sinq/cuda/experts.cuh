// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "matmul.cuh"

namespace sinq::inline SINQ_ABI::cuda {

/// The experts of a mixture: matrices of one format and shape, which must outlive this. Knows where they lie, in device
/// memory, so that a kernel finds the expert of a token by itself.
class DeviceExperts {
 public:
  /// InvalidArgument unless the matrices have one format and shape and lie on the current device; CudaError if the
  /// device refuses. What it knows is copied in the order of `stream`, for which it waits.
  explicit DeviceExperts(DeviceMatrices experts, cudaStream_t stream = nullptr)
      : problem_(detail::cuda::experts_of(experts)) {
    using namespace detail::cuda;
    const Here current = here();
    device_ = current.ordinal;
    std::vector<Member> members;
    for (const DeviceMatrix* e : experts) {
      require_here(*e, current);
      members.push_back(member_of(e->weights()));
    }
    const std::size_t bytes = members.size() * sizeof(Member);
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    memory_.reset(static_cast<std::uint8_t*>(memory));
    check(cudaMemcpyAsync(memory, members.data(), bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");  // as in DeviceMatrix
  }

  [[nodiscard]] std::int64_t size() const noexcept { return memory_ ? problem_.experts : 0; }  // 0: moved from
  [[nodiscard]] std::int64_t rows() const noexcept { return memory_ ? problem_.rows : 0; }
  [[nodiscard]] std::int64_t cols() const noexcept { return problem_.w.cols; }
  /// The device in whose memory all of it lies.
  [[nodiscard]] int device() const noexcept { return device_; }

  /// For the library.
  [[nodiscard]] const detail::cuda::Problem& problem() const noexcept { return problem_; }
  [[nodiscard]] const detail::cuda::Member* members() const noexcept {
    return reinterpret_cast<const detail::cuda::Member*>(memory_.get());
  }

 private:
  detail::cuda::Problem problem_;
  int device_ = 0;
  std::unique_ptr<std::uint8_t, detail::cuda::Free> memory_;
};

/// Which tokens an expert gets, in device memory: the host need not know. Rows [offsets[e], offsets[e + 1]) of y are
/// expert e's (offsets[0] is 0, none falls), and row r of y is the product with row tokens[r] of x, or row r if
/// `tokens` is null. Rows of y from offsets[size] on stay as they are. All of them are read on the device and nothing
/// checks them: offsets reach up to y.rows, and tokens are from 0 to x.rows - 1.
struct Routing {
  const std::int32_t* offsets = nullptr;  // size + 1
  const std::int32_t* tokens = nullptr;   // y.rows
};

/// How to multiply by experts `routed` rows in all, that is tokens times experts per token.
template <class X = __half>
[[nodiscard]] Plan plan(const DeviceExperts& w, std::int64_t routed, const Device& device,
                        const PlanOptions& options = {}) {
  return detail::cuda::make_plan(w.problem(), routed, detail::cuda::NumberOf<X>::value, device, options);
}

/// As matmul with one matrix, but with another expert for each run of rows of y. `bias` is size x rows, a row for each
/// expert, or null.
template <class X, class Y>
void matmul(const Plan& plan, const DeviceExperts& w, const Routing& routing, MatrixView<X> x, MatrixView<Y> y,
            std::span<std::byte> workspace, cudaStream_t stream, const std::type_identity_t<Y>* bias = nullptr) {
  using namespace detail::cuda;
  detail::core::require(routing.offsets != nullptr, "routing.offsets", "null", "must not be null");
  detail::core::require(routing.tokens != nullptr || x.rows >= y.rows, "x.rows", x.rows,
                        "must be at least y.rows where routing.tokens is null");
  const Here current = here();
  require_here(w, current);
  detail::cuda::Product p;
  p.experts = w.members();
  p.offsets = routing.offsets;
  p.token_list = routing.tokens;
  require_product(plan, w.problem(), constant(x), y, workspace, current);
  multiply(plan, w.problem(), p, constant(x), y, workspace, stream, bias, current);
}

}  // namespace sinq::inline SINQ_ABI::cuda
