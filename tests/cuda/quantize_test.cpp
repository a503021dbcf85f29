// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <sinq/cuda/quantizing.cuh>
#include <vector>

#include "simulate.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

// Quantizing in the executor against the CPU: the same matrix, bit for bit.

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;
using test::random_float;
using test::random_normal;

/// Changes to the machine and to what a kernel is told, before it is launched.
using Kernel = void (*)(Quantization);
using Change = std::function<void(test::Executor&, Quantization&, Kernel)>;

/// What Quantizing asks of a stream.
struct SimulatedStream {
  test::Executor* run;
  const Change* change;
  int* waits;

  void launch(Kernel kernel, std::int64_t blocks, int threads, int shared_bytes, Quantization q) const {
    if (*change) (*change)(*run, q, kernel);
    run->launch({static_cast<unsigned>(blocks)}, static_cast<unsigned>(threads), static_cast<std::size_t>(shared_bytes),
                [&] { kernel(q); });
  }
  void zero(void* memory, std::int64_t bytes) const { run->zero(memory, static_cast<std::size_t>(bytes)); }
  template <class U>
  void read(const U* from, std::int64_t count, U* to) const {
    std::copy(from, from + count, to);
    ++*waits;
  }
};

/// A device with a workspace for weights of one shape and kind.
template <class T>
class Device {
 public:
  Device(std::int64_t rows, std::int64_t cols, const QuantizeConfig& config, Change change = nullptr)
      : config_(config), change_(std::move(change)) {
    Quantization q = quantization_of(config, rows, cols, test::kNumber<T>);
    bytes_ = static_cast<std::size_t>(place(q, nullptr));
    workspace_ = test::Aligned(bytes_);
    (void)place(q, workspace_.data());
    for_arrays(q, [&](const std::string& name, auto* array, std::int64_t count) {
      if (count != 0) run.writable(name, array, static_cast<std::size_t>(count));
    });
  }

  [[nodiscard]] Quantizing<T, SimulatedStream> quantizing(const MatrixView<const T>& weights) {
    for (std::int64_t i = 0; i < weights.rows; ++i)
      run.constant("weights", weights.row(i), static_cast<std::size_t>(weights.cols));
    return {weights,
            test::kNumber<T>,
            config_,
            {reinterpret_cast<std::byte*>(workspace_.data()), bytes_},
            SimulatedStream{&run, &change_, &waits}};
  }

  test::Executor run;
  int waits = 0;  // of the host for the stream

 private:
  QuantizeConfig config_;
  Change change_;
  std::size_t bytes_ = 0;
  test::Aligned workspace_{0};
};

/// A matrix on the simulated device.
struct Stored {
  Format format;
  LevelTable table;
  KernelOrder order;
  test::Aligned memory;

  template <class T>
  Stored(Device<T>& device, const Format& f, const LevelTable& t, std::int64_t rows, std::int64_t cols)
      : format(f), table(t), order(kernel_order(f, t, rows, cols)), memory(static_cast<std::size_t>(order.bytes)) {
    device.run.zeroed("matrix", memory.data(), static_cast<std::size_t>(order.bytes));
  }
  QuantizedMatrix read() {
    return from_kernel_order(format, table, order, {memory.data(), memory.data() + order.bytes});
  }
};

struct Outcome {
  QuantizedMatrix q;
  std::string failure;
  QuantizeReport report;
  std::vector<test::Executor::Meetings> launches;
};

/// What cuda::quantize does.
template <class T>
Outcome on_device(const MatrixView<const T>& weights, const QuantizeConfig& config, const Change& change = nullptr,
                  const std::vector<double>& mean_square = {}) {
  Device<T> device(weights.rows, weights.cols, config, change);
  device.run.constant("mean_square", mean_square.data(), mean_square.size());
  auto quantizing = device.quantizing(weights);
  quantizing.choose(mean_square);
  if (!device.run.failures().empty()) return {{}, device.run.first_failure(), {}, {}};
  quantizing.wait();
  quantizing.widen_scales();
  const QuantizeReport report = quantizing.report();
  Stored w(device, quantizing.format(), quantizing.table(), weights.rows, weights.cols);
  quantizing.store(w.order, w.memory.data());
  return {w.read(), device.run.first_failure(), report, device.run.launches()};
}

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Normal weights whose rows and columns differ in spread, with outliers.
template <class T>
RowMajor<T> random_weights(std::int64_t rows, std::int64_t cols, std::mt19937& random) {
  std::vector<float> row(static_cast<std::size_t>(rows)), col(static_cast<std::size_t>(cols));
  for (float& f : row) f = std::exp(random_float(random, -1, 1));
  for (float& f : col) f = std::exp(random_float(random, -1, 1));
  return RowMajor<T>::NullaryExpr(rows, cols, [&](Eigen::Index i, Eigen::Index j) {
    const float outlier = random() % 200 == 0 ? 8.0f : 1.0f;
    return static_cast<T>(0.02f * outlier * random_normal(random) * row[static_cast<std::size_t>(i)] *
                          col[static_cast<std::size_t>(j)]);
  });
}

template <class T>
void expect_the_cpus(const RowMajor<T>& w, const QuantizeConfig& config, const char* what = "",
                     const sinq::Activations* activations = nullptr) {
  const Outcome got = on_device<T>(MatrixView<const T>(w), config, nullptr,
                                   activations != nullptr ? activations->mean_square() : std::vector<double>());
  ASSERT_EQ(got.failure, "") << what;
  QuantizeReport report;
  const QuantizedMatrix expected = quantize(w, config, {.report = &report, .activations = activations});
  const std::string of = std::string(what) + " " + std::to_string(w.rows()) + 'x' + std::to_string(w.cols()) +
                         " bits " + std::to_string(config.bits) + " group " + std::to_string(config.group_size);
  ASSERT_EQ(got.q.format, expected.format) << of;
  ASSERT_EQ(got.report.imbalance_before, report.imbalance_before) << of;
  ASSERT_EQ(got.report.imbalance_after, report.imbalance_after) << of;
  ASSERT_EQ(got.report.balanced, report.balanced) << of;
  ASSERT_EQ(got.report.widened, report.widened) << of;
  ASSERT_EQ(got.report.tiny_rows, report.tiny_rows) << of;
  ASSERT_EQ(got.q.col_scale, expected.col_scale) << of;
  ASSERT_EQ(got.q.coarse_scale, expected.coarse_scale) << of;
  ASSERT_EQ(got.q.scale, expected.scale) << of;
  ASSERT_EQ(got.q.zero, expected.zero) << of;
  ASSERT_EQ(got.q.codes, expected.codes) << of;
  ASSERT_EQ(got.q, expected) << of;
}

struct Kind {
  Rounding rounding;
  int bits;
};
constexpr Kind kKinds[] = {{Rounding::uniform, 2},   {Rounding::uniform, 3},   {Rounding::uniform, 4},
                           {Rounding::uniform, 5},   {Rounding::uniform, 6},   {Rounding::uniform, 8},
                           {Rounding::symmetric, 2}, {Rounding::symmetric, 3}, {Rounding::symmetric, 4},
                           {Rounding::symmetric, 5}, {Rounding::symmetric, 6}, {Rounding::symmetric, 8},
                           {Rounding::nf4, 4},       {Rounding::nf3, 3}};

TEST(Quantize, EveryFormat) {
  std::mt19937 random(1);
  const Aux scales[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};
  const Aux columns[] = {Aux::f16, Aux::bf16, Aux::f32};
  const std::int64_t groups[] = {16, 32, 48, 64, 80, 128, kWholeRow};
  unsigned k = 0;
  for (const Kind& kind : kKinds)
    for (Aux scale : scales) {
      QuantizeConfig c;
      c.bits = kind.bits;
      c.rounding = kind.rounding;
      c.scale = scale;
      c.zero = scales[++k * 3 % 8];
      c.col_scale = columns[k % 3];
      c.group_size = groups[k % 7];
      c.tile = k / 7 % 2 ? Tile::square : Tile::stripe;
      c.balance = k % 5 == 0 ? Balancing::none : Balancing::sinkhorn;
      c.coarse_groups = is_integer(scale) ? k / 2 % 4 : 0;
      c.sinkhorn.iterations = 4;
      const std::int64_t rows = 2 + k * 7 % 40, cols = 2 + k * 31 % 150;
      if (k % 3 == 0) expect_the_cpus(random_weights<half>(rows, cols, random), c);
      if (k % 3 == 1) expect_the_cpus(random_weights<bfloat16>(rows, cols, random), c);
      if (k % 3 == 2) expect_the_cpus(random_weights<float>(rows, cols, random), c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, EveryShape) {
  std::mt19937 random(2);
  const std::int64_t groups[] = {16, 64, 96, kWholeRow};
  unsigned k = 0;
  for (std::int64_t rows : {1, 2, 8, 9, 127, 128, 129, 300})
    for (std::int64_t cols : {1, 15, 16, 17, 64, 65, 81}) {
      QuantizeConfig c;
      c.group_size = groups[++k % 4];
      c.tile = k / 4 % 2 ? Tile::square : Tile::stripe;
      c.sinkhorn.iterations = 3;
      expect_the_cpus(random_weights<float>(rows, cols, random), c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, Hqq) {
  std::mt19937 random(9);
  const Aux scales[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u8};
  const std::int64_t groups[] = {16, 64, 80, kWholeRow};
  unsigned k = 0;
  for (int bits : kBitWidths)
    for (Aux zero : {Aux::f16, Aux::f32, Aux::u6}) {
      QuantizeConfig c;
      c.bits = bits;
      c.refine = Refine::hqq;
      c.zero = zero;
      c.scale = scales[++k % 5];
      c.group_size = groups[k % 4];
      c.tile = k % 3 == 0 ? Tile::square : Tile::stripe;
      c.balance = k % 4 == 0 ? Balancing::none : Balancing::sinkhorn;
      c.sinkhorn.iterations = 4;
      c.hqq.iterations = k % 7 == 0 ? 20 : 4;
      RowMajor<float> w = random_weights<float>(2 + k * 13 % 60, 1 + k * 37 % 170, random);
      w.row(w.rows() / 2).setZero();
      if (is_float(c.scale)) w.row(w.rows() - 1) *= 0x1p-130f;  // left out: its scales are subnormal
      if (k % 3 == 0) expect_the_cpus<half>(w.cast<half>(), c);
      if (k % 3 == 1) expect_the_cpus<bfloat16>(w.cast<bfloat16>(), c);
      if (k % 3 == 2) expect_the_cpus(w, c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, HqqHearsEveryRow) {
  std::mt19937 random(10);
  const RowMajor<float> all = random_weights<float>(70, 64, random);
  for (Eigen::Index row : {0, 31, 32, 69}) {
    RowMajor<float> w = RowMajor<float>::Zero(70, 64);
    w.row(row) = all.row(row);
    expect_the_cpus(w, {.bits = 2, .refine = Refine::hqq, .balance = Balancing::none});
  }
}

TEST(Quantize, EveryPreset) {
  std::mt19937 random(11);
  unsigned k = 0;
  for (double size : kPresets)
    for (Role role : {Role::other, Role::query, Role::value, Role::down}) {
      QuantizeConfig c = preset(size, role);
      c.sinkhorn.iterations = 3;
      c.tile = ++k % 3 == 0 ? Tile::square : Tile::stripe;
      expect_the_cpus(random_weights<bfloat16>(k % 4 == 0 ? 140 : 37, 150, random), c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, EveryFit) {
  std::mt19937 random(12);
  std::vector<Kind> kinds(std::begin(kKinds), std::end(kKinds));
  for (int bits : {2, 3, 4}) kinds.push_back({Rounding::table, bits});
  const Aux scales[] = {Aux::f16, Aux::u5, Aux::bf16, Aux::u8, Aux::f32, Aux::u4, Aux::u6};
  const Aux zeros[] = {Aux::none, Aux::f16, Aux::u4, Aux::f32, Aux::u8};
  const std::int64_t groups[] = {16, 32, 16, 80, kWholeRow, 16, 64};
  unsigned k = 0;
  for (const Kind& kind : kinds)
    for (Aux zero : zeros) {
      if (zero == Aux::none && kind.rounding == Rounding::uniform) continue;
      if (zero != Aux::none && kind.rounding == Rounding::symmetric) continue;
      QuantizeConfig c;
      c.bits = kind.bits;
      c.rounding = kind.rounding;
      c.refine = Refine::fit;
      c.scale = scales[++k % 7];
      c.zero = zero;
      c.col_scale = k % 4 == 0 ? Aux::f32 : Aux::f16;
      c.group_size = groups[k % 7];
      c.tile = k % 5 == 0 ? Tile::square : Tile::stripe;
      c.balance = k % 6 == 0 ? Balancing::none : Balancing::sinkhorn;
      c.coarse_groups = is_integer(c.scale) ? k % 3 : 0;
      c.fit.starts = 1 + static_cast<int>(k % 4);
      c.fit.rounds = static_cast<int>(k % 3);
      c.sinkhorn.iterations = 3;
      // Whole groups of 16 and a short one at the end; rows of zeros, constant rows, and a group of zeros.
      RowMajor<float> w = random_weights<float>(3 + k * 11 % 140, 1 + k * 29 % 120, random);
      w.row(0).setZero();
      w.row(1).setConstant(0.125f);
      w.row(2).head(std::min<Eigen::Index>(16, w.cols())).setZero();
      if (k % 3 == 0) expect_the_cpus<half>(w.cast<half>(), c);
      if (k % 3 == 1) expect_the_cpus<bfloat16>(w.cast<bfloat16>(), c);
      if (k % 3 == 2) expect_the_cpus(w, c);
      if (HasFatalFailure()) return;
    }
}

TEST(Quantize, FitsOfHardMatrices) {
  std::mt19937 random(13);
  const RowMajor<float> plain = random_weights<float>(150, 40, random);
  QuantizeConfig c = preset(4.5);
  for (const QuantizeConfig& integers : {preset(4.5), preset(4)}) {
    expect_the_cpus<float>(RowMajor<float>::Zero(20, 70), integers, "zeros");
    expect_the_cpus<float>(RowMajor<float>::Constant(20, 70, -3.0f), integers, "constant");
    expect_the_cpus<float>(RowMajor<float>::Constant(1, 1, -3.0f), integers, "a single weight");
    expect_the_cpus<float>((plain.array() + 5.0f).matrix(), integers, "far from 0");
    QuantizeConfig other = integers;
    other.scale = other.col_scale = Aux::f32;
    expect_the_cpus<float>(plain * 0x1p100f, other, "huge");
    expect_the_cpus<float>(plain * 0x1p-120f, other, "tiny");
    expect_the_cpus<float>(plain * 0x1p-140f, other, "subnormal, scales of 0");
    other.scale = Aux::f16;
    expect_the_cpus<float>(plain * 1e-8f, other, "widened: a scale is lost");
    expect_the_cpus<float>(plain * 5e-3f, other, "widened: a scale loses precision");
    expect_the_cpus<float>(plain * 1e9f, other, "widened: too large");
  }
  // The last of the coarse scales that are tried is the best where one group is wider than all others.
  RowMajor<float> wide = random_weights<float>(2, 6400, random);
  wide.leftCols(16) *= 18;
  QuantizeConfig coarse = preset(3.5, Role::query);
  coarse.balance = Balancing::none;
  expect_the_cpus(wide, coarse, "one wide group");
  c.table = {-100, -20, 1, 2, 3, 50, 100, 127};
  c.bits = 3;
  expect_the_cpus(plain, c, "a table of one's own");
}

// Beside a fit its first choice competes there.
TEST(Quantize, FitsOfNearlyConstantGroups) {
  std::mt19937 random(20);
  const float noise[] = {1e-6f, 1e-4f, 1e-2f};
  unsigned k = 0;
  for (const Kind& kind :
       {Kind{Rounding::uniform, 4}, {Rounding::uniform, 8}, {Rounding::nf4, 4}, {Rounding::table, 3}})
    for (Aux zero : {Aux::f16, Aux::bf16, Aux::f32, Aux::u6})
      for (Aux scale : {Aux::f16, Aux::u6}) {
        QuantizeConfig c;
        c.bits = kind.bits;
        c.rounding = kind.rounding;
        c.refine = Refine::fit;
        c.scale = scale;
        c.zero = zero;
        c.group_size = ++k % 2 == 0 ? 16 : 48;
        c.balance = k % 4 < 2 ? Balancing::none : Balancing::sinkhorn;
        RowMajor<float> w = random_weights<float>(9, 70, random);
        for (Eigen::Index i : {2, 5, 6})  // beside rows that are not
          for (float& v : w.row(i)) v = (i == 5 ? -0.7f : 1.1f) * (1 + noise[(i + k) % 3] * random_normal(random));
        expect_the_cpus(w, c, "nearly constant");
        if (HasFatalFailure()) return;
      }
}

TEST(Quantize, EveryWeightedFit) {
  std::mt19937 random(19);
  unsigned k = 0;
  std::vector<QuantizeConfig> configs = {{.bits = 3, .rounding = Rounding::nf3},
                                         {.group_size = 48, .tile = Tile::square, .rounding = Rounding::symmetric},
                                         {.bits = 3, .group_size = kWholeRow, .balance = Balancing::none},
                                         {.zero = Aux::u5, .kurtosis_gate = 1}};
  for (double size : kPresets) configs.push_back(preset(size, Role::down));
  for (QuantizeConfig c : configs) {
    c.refine = Refine::fit;
    c.calibration = Calibration::weighted;
    c.sinkhorn.iterations = 3;
    c.tile = ++k % 3 == 0 ? Tile::square : c.tile;
    const std::int64_t rows = k % 2 == 0 ? 140 : 37, cols = 150;
    sinq::Activations activations(cols);
    RowMajor<float> x = random_weights<float>(20, cols, random);
    x.col(3).setZero();  // which counts all the same
    x.middleCols(16, 16) *= 30;
    if (k == 5) x.setZero();
    activations.add(MatrixView<const float>(x.data(), x.rows(), x.cols()));
    expect_the_cpus(random_weights<float>(rows, cols, random), c, "weighted", &activations);
    expect_the_cpus<float>(random_weights<float>(rows, cols, random) * 1e-3f, c, "weighted, perhaps widened",
                           &activations);
    if (HasFatalFailure()) return;
  }
}

// The same bits of the kurtosis: the gate is open at just that value and closed at the one below.
TEST(Quantize, KurtosisGate) {
  std::mt19937 random(14);
  for (const auto& [rows, cols] : {std::pair{1, 40}, {33, 7}, {70, 150}, {140, 17}}) {
    const RowMajor<float> w = random_weights<float>(rows, cols, random);
    const double k = kurtosis(WeightView(MatrixRef<float>(w)));
    for (double gate : {k, std::nextafter(k, 0.0)}) {
      QuantizeConfig c{.kurtosis_gate = gate};
      c.sinkhorn.iterations = 3;
      expect_the_cpus(w, c, gate == k ? "open" : "closed");
      c.refine = Refine::hqq;
      expect_the_cpus(w, c, gate == k ? "open" : "closed");
      c.refine = Refine::fit;
      expect_the_cpus(w, c, gate == k ? "open" : "closed");
    }
  }
}

TEST(Quantize, SixteenIterations) {
  std::mt19937 random(3);
  for (std::int64_t group : {16, 64, 256})
    expect_the_cpus(random_weights<bfloat16>(400, 260, random), {.group_size = group});
}

TEST(Quantize, HardMatrices) {
  std::mt19937 random(4);
  const RowMajor<float> plain = random_weights<float>(150, 130, random);
  const QuantizeConfig c{.scale = Aux::f32, .zero = Aux::f32, .col_scale = Aux::f32};
  for (int iterations : {0, 1, 2, 40}) {
    QuantizeConfig other = c;
    other.sinkhorn.iterations = iterations;
    expect_the_cpus(plain, other, "iterations");
  }
  expect_the_cpus<float>(RowMajor<float>::Zero(20, 70), c, "zeros");
  expect_the_cpus<float>(RowMajor<float>::Constant(20, 70, -3.0f), c, "constant");
  // Means far beyond the deviations: the sums of the sweep lose their digits.
  expect_the_cpus<float>((plain.array() + 5.0f).matrix(), c, "far from 0");
  RowMajor<float> column = plain;
  column.col(70).array() += 100.0f;
  column.row(3).setZero();
  expect_the_cpus(column, c, "one column far from 0");
  // Squares that overflow or vanish.
  expect_the_cpus<float>(plain * 0x1p100f, c, "huge");
  expect_the_cpus<float>(plain * 0x1p-100f, c, "tiny");
  expect_the_cpus<float>(plain * 0x1p-140f, c, "subnormal");
  // Scales beyond f16: stored as f32.
  QuantizeConfig narrow;
  expect_the_cpus<float>(plain * 1e-6f, narrow, "widened");
}

// Smaller than a coarse scale can say.
TEST(Quantize, TinyRows) {
  std::mt19937 random(21);
  std::vector<QuantizeConfig> configs = {{.scale = Aux::u8},
                                         {.group_size = 16, .scale = Aux::u4, .zero = Aux::f32, .coarse_groups = 2},
                                         {.refine = Refine::hqq, .scale = Aux::u6},
                                         {.rounding = Rounding::nf4, .scale = Aux::u6},
                                         {.rounding = Rounding::symmetric, .scale = Aux::u5},
                                         {.refine = Refine::fit, .scale = Aux::u6},
                                         {.refine = Refine::fit, .scale = Aux::u4, .zero = Aux::f32},
                                         {.rounding = Rounding::nf4, .refine = Refine::fit, .scale = Aux::u8}};
  for (double size : {2.5, 3.0, 4.0, 4.5, 6.0}) configs.push_back(preset(size));
  unsigned k = 0;
  for (QuantizeConfig c : configs) {
    c.sinkhorn.iterations = 3;
    if (c.refine == Refine::fit && c.coarse_groups == 0) c.coarse_groups = k % 2 * 2;
    c.balance = ++k % 3 == 0 ? Balancing::none : Balancing::sinkhorn;
    RowMajor<float> w = random_weights<float>(20, 70, random);
    expect_the_cpus<float>(w * 1e-12f, c, "all tiny");
    w.row(2) *= 1e-4f;
    w.row(4) *= 1e-6f;
    w.row(5) *= 1e-9f;
    w.row(6) *= 1e-36f;
    w.row(7).tail(20) *= 1e-9f;
    for (float& v : w.row(11)) v = 1e-6f * (1 + 1e-5f * random_normal(random));
    for (float& v : w.row(12)) v = -1e-9f * (1 + 1e-3f * random_normal(random));
    for (float& v : w.row(13)) v = 0.5f * (1 + 1e-5f * random_normal(random));  // its zero follows its scale
    expect_the_cpus(w, c, "tiny rows");
    if (HasFatalFailure()) return;
  }
}

TEST(Quantize, StridesAndAlignment) {
  std::mt19937 random(5);
  const RowMajor<bfloat16> all = random_weights<bfloat16>(70, 150, random);
  const MatrixView<const bfloat16> part(all.data() + 3, 60, 101, 150);
  const RowMajor<bfloat16> copy = all.block(0, 3, 60, 101);
  const Outcome got = on_device<bfloat16>(part, {.group_size = 32});
  ASSERT_EQ(got.failure, "");
  EXPECT_EQ(got.q, quantize(copy, {.group_size = 32}));
}

TEST(Quantize, WaitsOnceAndOnceMoreForABalancedReport) {
  std::mt19937 random(18);
  const RowMajor<float> w = random_weights<float>(37, 150, random);
  for (Balancing balance : {Balancing::none, Balancing::sinkhorn}) {
    Device<float> device(37, 150, {.balance = balance});
    auto quantizing = device.quantizing(MatrixView<const float>(w));
    quantizing.choose({});
    EXPECT_EQ(device.waits, 0);
    quantizing.wait();
    quantizing.widen_scales();
    EXPECT_EQ(device.waits, 1);
    (void)quantizing.report();
    EXPECT_EQ(device.waits, balance == Balancing::none ? 1 : 2);
  }
}

TEST(Quantize, ThreadsInAnyOrder) {
  std::mt19937 random(6);
  const RowMajor<float> w = random_weights<float>(140, 70, random);
  const Outcome got = on_device<float>(MatrixView<const float>(w), {},
                                       [](test::Executor& e, Quantization&, Kernel) { e.backwards = true; });
  ASSERT_EQ(got.failure, "");
  EXPECT_EQ(got.q, quantize(w, QuantizeConfig{}));
}

TEST(Quantize, NamesWhatIsWrongWithItsArguments) {
  const RowMajor<float> w = RowMajor<float>::Ones(8, 32);
  test::Aligned memory(1 << 16);
  auto* const at = reinterpret_cast<std::byte*>(memory.data());
  const auto message = [&](const MatrixView<const float>& weights, std::span<std::byte> workspace) {
    return test::message_of([&] {
      (void)Quantizing<float, SimulatedStream>(weights, Number::f32, {}, workspace, {nullptr, nullptr, nullptr});
    });
  };
  Quantization q = quantization_of({}, 8, 32, Number::f32);
  const auto bytes = static_cast<std::size_t>(place(q, nullptr));
  EXPECT_EQ(message(w, {at, bytes}), "nothing was thrown");
  EXPECT_EQ(message(w, {at, bytes - 1}),
            "sinq: workspace.size() = " + std::to_string(bytes - 1) + ": must be at least " + std::to_string(bytes));
  EXPECT_NE(message(w, {at + 16, bytes}).find("must be aligned to 256 bytes"), std::string::npos);
  EXPECT_EQ(message({nullptr, 8, 32}, {at, bytes}), "sinq: weights.data = null: must not be null");
  EXPECT_EQ(message({w.data(), 8, 32, 31}, {at, bytes}), "sinq: weights.stride = 31: must be at least weights.cols");
}

TEST(Quantize, ErrorsAreTheCpus) {
  const auto same_message = [](const RowMajor<float>& w, const QuantizeConfig& c) {
    const std::string expected = test::message_of([&] { (void)quantize(w, c); });
    EXPECT_NE(expected, "nothing was thrown");
    EXPECT_EQ(test::message_of([&] { (void)on_device<float>(MatrixView<const float>(w), c); }), expected);
  };
  std::mt19937 random(7);
  RowMajor<float> w = random_weights<float>(40, 100, random);
  same_message(w, {.bits = 7});
  same_message(w, {.group_size = 24});
  same_message(w * 1e12f, {.balance = Balancing::none, .scale = Aux::u8, .coarse_groups = 1});
  QuantizeConfig fit = preset(4.5);
  same_message(w * 1e9f, fit);
  same_message(w * 0x1p115f, fit);
  fit.coarse_groups = 2;
  fit.balance = Balancing::none;
  RowMajor<float> late = w;
  late.row(7).tail(20) *= 1e9f;
  late.row(9) *= 1e9f;
  same_message(late, fit);
  same_message(late, {.balance = Balancing::none, .scale = Aux::u6, .coarse_groups = 1});
  w(20, 70) = NAN;
  same_message(w, {});
  w(20, 70) = -INFINITY;
  same_message(w, {});
  w(20, 70) = 0x1p120f;
  same_message(w, {});
  same_message(w, {.kurtosis_gate = 5});
  EXPECT_EQ(
      test::message_of([&] { (void)on_device<float>(MatrixView<const float>(w), {.calibration = Calibration::awq}); }),
      "sinq: calibration = 1: the device quantizes with calibration = none or weighted");
  EXPECT_EQ(test::message_of([&] {
              QuantizeConfig weighted = preset(4.5);
              weighted.calibration = Calibration::weighted;
              (void)on_device<float>(MatrixView<const float>(w), weighted, nullptr, std::vector<double>(99));
            }),
            "sinq: mean_square.size() = 99: must equal weights.cols, 100: this calibration needs it");
}

// --- into a matrix that exists --------------------------------------------------------------------------------------

/// What cuda::quantize_into and cuda::check_quantized do, any number of times with one workspace and one matrix.
template <class T>
class Into {
 public:
  Into(std::int64_t rows, std::int64_t cols, const QuantizeConfig& config)
      : device_(rows, cols, config),
        w_(device_, detail::quantize::format_of(config, config.balance == Balancing::sinkhorn),
           detail::quantize::table_of(config), rows, cols) {}

  QuantizedMatrix quantize(const RowMajor<T>& weights) {
    auto quantizing = device_.quantizing(MatrixView<const T>(weights));
    quantizing.choose({});
    quantizing.store(w_.order, w_.memory.data());
    EXPECT_EQ(device_.run.first_failure(), "");
    return w_.read();
  }
  QuantizeReport check(const RowMajor<T>& weights) {
    auto quantizing = device_.quantizing(MatrixView<const T>(weights));
    quantizing.wait();
    quantizing.require_scales();
    return quantizing.report();
  }

 private:
  Device<T> device_;
  Stored w_;
};

const QuantizeConfig kSeveral[] = {
    {},
    preset(4.5),
    preset(3, Role::down),
    {.bits = 3, .tile = Tile::square, .refine = Refine::hqq, .scale = Aux::u5, .zero = Aux::u6},
    {.group_size = 48, .rounding = Rounding::nf4, .refine = Refine::fit, .balance = Balancing::none},
    {.bits = 5, .group_size = kWholeRow, .rounding = Rounding::symmetric, .kurtosis_gate = 1e9}};

TEST(QuantizeInto, NothingOfAnEarlierMatrixIsLeft) {
  std::mt19937 random(15);
  for (const QuantizeConfig& c : kSeveral) {
    Into<float> into(37, 150, c);
    const RowMajor<float> w = random_weights<float>(37, 150, random), zeros = RowMajor<float>::Zero(37, 150);
    (void)into.quantize(w * 0x1p100f);  // other units, and scales that are beyond most types
    for (const RowMajor<float>& next : {w, zeros, w}) {
      QuantizeReport report;
      ASSERT_EQ(into.quantize(next), quantize(next, c, {.report = &report})) << &c - kSeveral;
      const QuantizeReport got = into.check(next);
      EXPECT_EQ(got.imbalance_before, report.imbalance_before);
      EXPECT_EQ(got.imbalance_after, report.imbalance_after);
      EXPECT_EQ(got.balanced, report.balanced);
      EXPECT_FALSE(got.widened);
    }
  }
}

TEST(QuantizeInto, AClosedGateLeavesColumnScalesOfOne) {
  std::mt19937 random(16);
  const RowMajor<float> w = random_weights<float>(70, 150, random);
  for (Refine refine : {Refine::none, Refine::hqq, Refine::fit}) {
    const QuantizeConfig c{.refine = refine, .col_scale = Aux::f32, .kurtosis_gate = 1};
    Into<float> into(70, 150, c);
    QuantizedMatrix expected = quantize(w, c);
    ASSERT_EQ(expected.format.col_scale, Aux::none);
    expected.format.col_scale = Aux::f32;
    expected.col_scale.resize(4 * 150);
    for (std::int64_t j = 0; j < 150; ++j) detail::pack::write_float(Aux::f32, expected.col_scale.data(), j, 1);
    EXPECT_EQ(into.quantize(w), expected);
    const QuantizeReport report = into.check(w);
    EXPECT_FALSE(report.balanced);
    EXPECT_EQ(report.imbalance_before, 1);
    EXPECT_EQ(report.imbalance_after, 1);
  }
}

TEST(QuantizeInto, ScalesBeyondTheirTypeAreReported) {
  std::mt19937 random(17);
  const RowMajor<float> good = random_weights<float>(40, 100, random);
  RowMajor<float> w = good;
  w.row(7).tail(36) *= 1e-7f;
  w.row(9) *= 1e-7f;
  QuantizeConfig c{.balance = Balancing::none};
  const QuantizedMatrix wide = quantize(w, c);  // which has f32
  float scale = 0;
  std::memcpy(&scale, wide.scale.data() + sizeof scale * 2 * 9, sizeof scale);
  // The first is that of row 9: groups come before rows. A fit's own is not far.
  for (Refine refine : {Refine::none, Refine::fit}) {
    c.refine = refine;
    Into<float> into(40, 100, c);
    (void)into.quantize(w);
    const std::string message = test::message_of([&] { (void)into.check(w); });
    const std::string before = "sinq: row 9 has a scale of ";
    const std::string behind = " in the group from column 0: f16 holds 2^-14 to 65504 (quantize with scale = f32)";
    ASSERT_EQ(message.substr(0, before.size()), before);
    ASSERT_EQ(message.substr(message.size() - behind.size()), behind);
    const float told = std::stof(message.substr(before.size()));
    EXPECT_NEAR(told, scale, (refine == Refine::none ? 1e-5f : 0.3f) * scale) << message;
    EXPECT_EQ(into.quantize(good), quantize(good, c));
    (void)into.check(good);
  }
}

TEST(QuantizeInto, WeightsThatAreNoneHarmNothing) {
  std::mt19937 random(18);
  const RowMajor<float> good = random_weights<float>(37, 150, random);
  for (const QuantizeConfig& c : kSeveral) {
    Into<float> into(37, 150, c);
    for (float none : {NAN, INFINITY, 0x1p120f}) {
      RowMajor<float> w = good;
      w(20, 140) = none;
      (void)into.quantize(w);
      EXPECT_EQ(test::message_of([&] { (void)into.check(w); }), test::message_of([&] { (void)quantize(w, c); }));
    }
    EXPECT_EQ(into.quantize(good), quantize(good, c));
  }
}

// --- bugs put in ----------------------------------------------------------------------------------------------------

std::string failure_with(const Change& bug, const QuantizeConfig& config = {.scale = Aux::u8}) {
  std::mt19937 random(8);
  const RowMajor<float> w = random_weights<float>(140, 100, random);
  return on_device<float>(MatrixView<const float>(w), config, bug).failure;
}

/// Each kernel that quantizes `w`, without each of its barriers. Returns how many these were.
int expect_every_barrier_needed(const RowMajor<float>& w, const QuantizeConfig& config,
                                const std::vector<double>& mean_square = {}) {
  const auto failure = [&](const Change& change) {
    return on_device<float>(MatrixView<const float>(w), config, change, mean_square).failure;
  };
  std::vector<Kernel> kernels;
  const Outcome sound = on_device<float>(
      MatrixView<const float>(w), config,
      [&](test::Executor&, Quantization&, Kernel kernel) { kernels.push_back(kernel); }, mean_square);
  EXPECT_EQ(sound.failure, "");
  if (sound.launches.size() != kernels.size()) return -1;
  int barriers = 0;
  for (std::size_t k = 0; k < kernels.size(); ++k) {
    const auto before = kernels.begin() + static_cast<std::ptrdiff_t>(k);
    if (std::find(kernels.begin(), before, kernels[k]) != before) continue;
    test::Executor::Meetings most;
    for (std::size_t other = k; other < kernels.size(); ++other) {
      if (kernels[other] != kernels[k]) continue;
      most.barriers = std::max(most.barriers, sound.launches[other].barriers);
      most.warp_barriers = std::max(most.warp_barriers, sound.launches[other].warp_barriers);
    }
    const auto expect_needed = [&](const char* what, int n, test::Faults faults) {
      ++barriers;
      EXPECT_NE(failure([&](test::Executor& e, Quantization&, Kernel kernel) {
                  e.faults = kernel == kernels[k] ? faults : test::Faults{};
                }),
                "")
          << what << ' ' << n << " of launch " << k;
    };
    // The judge's first barrier waits until an earlier result has been read, and then there is none; the same line is
    // its third where it measures again.
    for (int n = kernels[k] == Kernel{judge_kernel<>} ? 1 : 0; n < most.barriers; ++n)
      expect_needed("barrier", n, {.skip_barrier = n});
    for (int n = 0; n < most.warp_barriers; ++n) expect_needed("warp barrier", n, {.skip_warp_barrier = n});
  }
  return barriers;
}

TEST(QuantizeBugs, EveryRemovedBarrierIsFound) {
  std::mt19937 random(8);
  RowMajor<float> w = random_weights<float>(40, 85, random);
  const auto expect = [&](int barriers, QuantizeConfig c, const std::vector<double>& mean_square = {}) {
    c.sinkhorn.iterations = 3;
    EXPECT_EQ(expect_every_barrier_needed(w, c, mean_square), barriers);
  };
  // Two of each width of the sweep, and two of the judge. The kurtosis has none, nor has what a thread does alone.
  for (std::int64_t group : {std::int64_t{16}, std::int64_t{32}, std::int64_t{64}, kWholeRow})
    expect(4, {.group_size = group, .kurtosis_gate = 1e9});
  expect(4, {.tile = Tile::square, .scale = Aux::u8});
  expect(6, {.refine = Refine::hqq});  // one of a round, one of choosing the better
  // One where a kernel has a table: fits of groups of 16 and of the last one, what is stored of both, rows, columns.
  for (double size : {2.5, 3.0, 3.5, 4.0, 4.5, 5.0}) expect(4 + 6, preset(size));
  QuantizeConfig weighted = preset(4.5);
  weighted.calibration = Calibration::weighted;
  expect(4 + 4, weighted, std::vector<double>(85, 1.0));
  w.col(70).array() += 100;
  expect(6, {});  // the judge measures again, and keeps what it finds
}

TEST(QuantizeBugs, OneColumnTooManyIsFound) {
  EXPECT_NE(failure_with([](test::Executor&, Quantization& q, Kernel) { ++q.w.cols; }).find("outside weights"),
            std::string::npos);
  EXPECT_NE(
      failure_with([](test::Executor&, Quantization& q, Kernel) { ++q.w.cols; }, preset(4.5)).find("outside weights"),
      std::string::npos);
}

TEST(QuantizeBugs, OneRowTooManyIsFound) {
  EXPECT_NE(failure_with([](test::Executor&, Quantization& q, Kernel) { ++q.w.rows, ++q.w.tile_height; }), "");
}

}  // namespace
