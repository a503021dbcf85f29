// SPDX-License-Identifier: Apache-2.0
#include <random>
#include <sinq/cuda/quantize.cuh>
#include <vector>

#include "device.cuh"
#include "support/message_of.hpp"
#include "support/naive.hpp"

// Quantizing on a device gives the CPU's matrix, bit for bit: what only a GPU can show is that its divisions, square
// roots and conversions round as the executor's do.

namespace {

using namespace sinq;
using test::check;
using test::Gpu;
using test::Graph;
using test::OnDevice;
using test::random_float;
using test::random_normal;

using Quantizing = Gpu;

std::vector<float> random_weights(std::int64_t rows, std::int64_t cols, std::mt19937& random) {
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  std::vector<float> col(static_cast<std::size_t>(cols));
  for (float& f : col) f = std::exp(random_float(random, -1, 1));
  for (std::int64_t i = 0; i < rows; ++i) {
    const float row = 0.02f * std::exp(random_float(random, -1, 1));
    for (std::int64_t j = 0; j < cols; ++j)
      w[static_cast<std::size_t>(i * cols + j)] = row * col[static_cast<std::size_t>(j)] * random_normal(random);
  }
  return w;
}

/// Both ways of the device, which calls the type of the weights T, and by the CPU, which calls it Host.
template <class T = float, class Host = float>
void expect_the_cpus(const std::vector<float>& numbers, std::int64_t rows, const QuantizeConfig& config,
                     cudaStream_t stream, const Activations* activations = nullptr) {
  const auto cols = static_cast<std::int64_t>(numbers.size()) / rows;
  std::vector<Host> w;
  for (float v : numbers) w.push_back(static_cast<Host>(v));
  OnDevice<T> weights(numbers.size());
  check(cudaMemcpy(weights.data(), w.data(), weights.memory().size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(cuda::quantize_workspace_bytes(rows, cols, config)));
  QuantizeReport got, expected;
  const MatrixView<const T> view(weights.data(), rows, cols);
  const OnDevice<double> mean_square(activations != nullptr ? activations->mean_square() : std::vector<double>());
  const cuda::DeviceMatrix d = cuda::quantize(view, config, workspace.memory(), stream, &got, mean_square.elements());
  const QuantizedMatrix q =
      quantize(MatrixView<const Host>(w.data(), rows, cols), config, {.report = &expected, .activations = activations});
  EXPECT_EQ(d.download(stream), q) << rows << 'x' << cols << " bits " << config.bits;
  EXPECT_EQ(got.imbalance_before, expected.imbalance_before);
  EXPECT_EQ(got.imbalance_after, expected.imbalance_after);
  EXPECT_EQ(got.widened, expected.widened);
  OnDevice<std::uint8_t> memory(cuda::device_bytes(config, rows, cols));
  cuda::DeviceMatrix again = cuda::make_device_matrix(rows, cols, config, memory.memory(), stream);
  if (again.format() != q.format) return;
  cuda::quantize_into(again, view, config, workspace.memory(), stream, mean_square.elements());
  EXPECT_EQ(cuda::check_quantized(view, config, workspace.memory(), stream).imbalance_after, got.imbalance_after);
  EXPECT_EQ(again.download(stream), q) << rows << 'x' << cols << " bits " << config.bits;
}

TEST_F(Quantizing, GivesTheBitsOfTheCpu) {
  std::mt19937 random(1);
  for (Rounding rounding : {Rounding::uniform, Rounding::symmetric, Rounding::nf4})
    for (std::int64_t group : {16, 64, 128, 0})
      for (Aux aux : {Aux::f16, Aux::u8})
        expect_the_cpus(random_weights(300, 333, random), 300,
                        {.group_size = group, .rounding = rounding, .scale = aux, .zero = aux}, stream_);
  for (std::int64_t group : {16, 64, 80, 0})
    expect_the_cpus(random_weights(300, 333, random), 300, {.bits = 3, .group_size = group, .rounding = Rounding::nf3},
                    stream_);
  for (int bits : kBitWidths)
    expect_the_cpus(random_weights(200, 200, random), 200, {.bits = bits, .tile = Tile::square}, stream_);
  std::vector<float> hard = random_weights(150, 130, random);
  for (float scale : {1e-6f, 0x1p-140f, 0x1p100f}) {
    for (float& v : hard) v *= scale;
    expect_the_cpus(hard, 150, {}, stream_);
    for (float& v : hard) v /= scale;
  }
  for (float& v : hard) v += 5;
  expect_the_cpus(hard, 150, {}, stream_);
}

TEST_F(Quantizing, HalvesToo) {
  std::mt19937 random(5);
  for (const QuantizeConfig& config : {QuantizeConfig{}, preset(4.5), QuantizeConfig{.refine = Refine::hqq}})
    for (std::int64_t cols : {256, 333}) {  // rows that are read four weights at a time, and others
      const std::vector<float> w = random_weights(300, cols, random);
      expect_the_cpus<__half, sinq::half>(w, 300, config, stream_);
      expect_the_cpus<__nv_bfloat16, bfloat16>(w, 300, config, stream_);
    }
}

TEST_F(Quantizing, RefinesAsTheCpu) {
  std::mt19937 random(2);
  for (int bits : kBitWidths)
    for (std::int64_t group : {64, 80, 0})
      for (Balancing balance : {Balancing::sinkhorn, Balancing::none})
        expect_the_cpus(random_weights(300, 333, random), 300,
                        {.bits = bits, .group_size = group, .refine = Refine::hqq, .balance = balance}, stream_);
}

TEST_F(Quantizing, FitsAsTheCpu) {
  std::mt19937 random(3);
  for (double size : kPresets)
    for (Role role : {Role::other, Role::value}) {
      QuantizeConfig c = preset(size, role);
      expect_the_cpus(random_weights(300, 333, random), 300, c, stream_);
      c.tile = Tile::square;
      c.scale = Aux::f16;
      c.group_size = 32;
      expect_the_cpus(random_weights(300, 333, random), 300, c, stream_);
    }
  for (Rounding rounding : {Rounding::uniform, Rounding::symmetric, Rounding::nf4})
    for (Balancing balance : {Balancing::sinkhorn, Balancing::none})
      expect_the_cpus(random_weights(150, 130, random), 150,
                      {.rounding = rounding, .refine = Refine::fit, .balance = balance}, stream_);
  std::vector<float> hard = random_weights(150, 130, random);
  for (float& v : hard) v *= 1e-4f;  // scales that f16 has not: the fit is done again with f32
  expect_the_cpus(hard, 150, {.refine = Refine::fit}, stream_);
}

TEST_F(Quantizing, WeighsColumnsAsTheCpu) {
  std::mt19937 random(7);
  Activations activations(333);
  activations.add(MatrixView<const float>(random_weights(20, 333, random).data(), 20, 333));
  for (double size : kPresets) {
    QuantizeConfig c = preset(size);
    c.refine = Refine::fit;
    c.calibration = Calibration::weighted;
    expect_the_cpus(random_weights(300, 333, random), 300, c, stream_, &activations);
    c.tile = Tile::square;
    c.zero = Aux::f16;
    expect_the_cpus(random_weights(300, 333, random), 300, c, stream_, &activations);
  }
}

TEST_F(Quantizing, HasTheKurtosisOfTheCpu) {
  std::mt19937 random(4);
  const std::vector<float> w = random_weights(300, 333, random);
  const double k = kurtosis(WeightView(w.data(), DType::f32, 300, 333));
  for (double gate : {k, std::nextafter(k, 0.0)}) expect_the_cpus(w, 300, {.kurtosis_gate = gate}, stream_);
}

/// A few rows of every kind of step, for tools that watch every access and take a hundred times as long: stripes and
/// tiles, integers and floats as scales, HQQ, fits with and without weights, the kurtosis gate open and closed.
TEST_F(Quantizing, SmallOnesOfEveryKind) {
  std::mt19937 random(8);
  constexpr std::int64_t kRows = 24, kCols = 70;
  QuantizeConfig weighted = preset(3);
  weighted.calibration = Calibration::weighted;
  const QuantizeConfig some[] = {{},
                                 {.bits = 3, .group_size = 16, .tile = Tile::square, .scale = Aux::u6, .zero = Aux::u6},
                                 {.rounding = Rounding::symmetric, .balance = Balancing::none},
                                 {.rounding = Rounding::nf4, .kurtosis_gate = 1e9},
                                 {.kurtosis_gate = 1e-9},
                                 {.bits = 2, .group_size = 32, .refine = Refine::hqq},
                                 {.bits = 5, .tile = Tile::square, .refine = Refine::fit},
                                 preset(4.5),
                                 weighted};
  Activations activations(kCols);
  activations.add(MatrixView<const float>(random_weights(20, kCols, random).data(), 20, kCols));
  for (const QuantizeConfig& config : some) {
    const std::vector<float> w = random_weights(kRows, kCols, random);
    expect_the_cpus<__nv_bfloat16, bfloat16>(w, kRows, config, stream_,
                                             config.calibration == Calibration::none ? nullptr : &activations);
  }
}

/// Two matrices, each run with other weights.
TEST_F(Quantizing, InAGraph) {
  std::mt19937 random(6);
  constexpr std::int64_t kRows = 300, kCols = 333;
  for (const QuantizeConfig& config :
       {QuantizeConfig{.kurtosis_gate = 1e9}, preset(4.5), QuantizeConfig{.refine = Refine::hqq}}) {
    const auto bytes = static_cast<std::size_t>(cuda::quantize_workspace_bytes(kRows, kCols, config));
    struct One {
      cuda::DeviceMatrix w;
      OnDevice<float> weights;
      OnDevice<std::uint8_t> workspace;
      MatrixView<const float> view{weights.data(), kRows, kCols};
    };
    One both[] = {{cuda::make_device_matrix(kRows, kCols, config, stream_), OnDevice<float>(kRows * kCols),
                   OnDevice<std::uint8_t>(bytes)},
                  {cuda::make_device_matrix(kRows, kCols, config, stream_), OnDevice<float>(kRows * kCols),
                   OnDevice<std::uint8_t>(bytes)}};
    Graph graph(stream_, [&] {
      for (One& one : both) cuda::quantize_into(one.w, one.view, config, one.workspace.memory(), stream_);
    });
    for (int run = 0; run < 3; ++run) {
      std::vector<float> numbers[2];
      for (int k = 0; k < 2; ++k) {
        numbers[k] = random_weights(kRows, kCols, random);
        both[k].weights.write(numbers[k]);
      }
      graph.run();
      for (int k = 0; k < 2; ++k) {
        (void)cuda::check_quantized(both[k].view, config, both[k].workspace.memory(), stream_);
        EXPECT_EQ(both[k].w.download(stream_),
                  quantize(MatrixView<const float>(numbers[k].data(), kRows, kCols), config));
      }
    }
  }
}

TEST_F(Quantizing, NamesTheWeightThatIsNone) {
  std::vector<float> numbers(64 * 64, 1.0f);
  numbers[5 * 64 + 7] = NAN;
  OnDevice<float> weights(numbers);
  const MatrixView<const float> view(weights.data(), 64, 64);
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(cuda::quantize_workspace_bytes(64, 64, {})));
  const char* const expected = "sinq: weights(5, 7) = nan: must be finite (as float)";
  EXPECT_EQ(test::message_of([&] { (void)cuda::quantize(view, {}, workspace.memory(), stream_); }), expected);
  cuda::DeviceMatrix w = cuda::make_device_matrix(64, 64, {}, stream_);
  cuda::quantize_into(w, view, {}, workspace.memory(), stream_);
  EXPECT_EQ(test::message_of([&] { (void)cuda::check_quantized(view, {}, workspace.memory(), stream_); }), expected);
}

TEST_F(Quantizing, NamesAMatrixOfAnotherKind) {
  OnDevice<float> weights(std::vector<float>(64 * 64, 1.0f));
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(cuda::quantize_workspace_bytes(64, 64, {})));
  const auto message = [&](std::int64_t rows, std::int64_t cols, const QuantizeConfig& config) {
    cuda::DeviceMatrix w = cuda::make_device_matrix(rows, cols, config, stream_);
    return test::message_of([&] {
      cuda::quantize_into(w, MatrixView<const float>(weights.data(), 64, 64), {}, workspace.memory(), stream_);
    });
  };
  EXPECT_EQ(message(64, 64, {}), "nothing was thrown");
  EXPECT_EQ(message(32, 64, {}), "sinq: w.rows() = 32: must equal weights.rows, 64");
  EXPECT_EQ(message(64, 32, {}), "sinq: w.cols() = 32: must equal weights.cols, 64");
  EXPECT_EQ(message(64, 64, {.bits = 3}),
            "sinq: w.format() = another: must be the configuration's (make_device_matrix)");
}

TEST_F(Quantizing, NamesAWorkspaceThatIsTooSmall) {
  OnDevice<float> weights(std::vector<float>(64 * 64, 1.0f));
  const std::int64_t bytes = cuda::quantize_workspace_bytes(64, 64, {});
  OnDevice<std::uint8_t> workspace(static_cast<std::size_t>(bytes - 1));
  EXPECT_EQ(test::message_of([&] {
              (void)cuda::quantize(MatrixView<const float>(weights.data(), 64, 64), {}, workspace.memory(), stream_);
            }),
            "sinq: workspace.size() = " + std::to_string(bytes - 1) + ": must be at least " + std::to_string(bytes));
}

}  // namespace
