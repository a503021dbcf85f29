// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <sinq/cuda/device_matrix.cuh>
#include <vector>

// What tests on a real device share.

namespace sinq::test {

using detail::cuda::check;

/// Skips, and says so, where there is no GPU.
class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0)
      GTEST_SKIP() << "NO GPU: nothing was run on a device (" << cudaGetErrorString(status) << ")";
    check(cudaStreamCreate(&stream_), "cudaStreamCreate");
  }
  void TearDown() override {
    if (stream_ != nullptr) check(cudaStreamDestroy(stream_), "cudaStreamDestroy");
  }
  cudaStream_t stream_ = nullptr;
};

/// Work that is captured, to be run again.
class Graph {
 public:
  template <class Work>
  Graph(cudaStream_t stream, Work&& work) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    work();
    check(cudaStreamEndCapture(stream, &graph_), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&runnable_, graph_, 0), "cudaGraphInstantiate");
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    (void)cudaGraphExecDestroy(runnable_);
    (void)cudaGraphDestroy(graph_);
  }
  void run() { check(cudaGraphLaunch(runnable_, stream_), "cudaGraphLaunch"); }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t runnable_ = nullptr;
};

template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count) : count_(count) { check(cudaMalloc(&data_, bytes()), "cudaMalloc"); }
  explicit OnDevice(const std::vector<T>& from) : OnDevice(from.size()) { write(from); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { (void)cudaFree(data_); }
  T* data() { return data_; }
  [[nodiscard]] std::span<const T> elements() const { return {data_, count_}; }
  std::span<std::byte> memory() { return {reinterpret_cast<std::byte*>(data_), count_ * sizeof(T)}; }
  void write(const std::vector<T>& from) {
    check(cudaMemcpy(data_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  std::vector<T> read() {
    std::vector<T> to(count_);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    check(cudaMemcpy(to.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return to;
  }

 private:
  [[nodiscard]] std::size_t bytes() const { return std::max<std::size_t>(count_ * sizeof(T), 16); }
  std::size_t count_;
  T* data_ = nullptr;
};

}  // namespace sinq::test
