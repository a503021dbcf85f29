// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <sinq/quantize.hpp>
#include <string>

#include "support/naive.hpp"

// Built several times with different flags, see tests/CMakeLists.txt.
//
//   bits   prints what was balanced and quantized as hashes: whatever the flags, the same lines come out
//   nan    1 unless every NaN and infinity was found: -ffast-math optimises comparisons such as x != x away

namespace {

using namespace sinq;

struct Hash {
  std::uint64_t value = 14695981039346656037u;  // FNV-1a
  void add(const void* data, std::size_t size) {
    for (std::size_t k = 0; k < size; ++k) value = (value ^ static_cast<const std::uint8_t*>(data)[k]) * 1099511628211u;
  }
  template <class T>
  void add(const std::vector<T>& v) {
    add(v.data(), v.size() * sizeof(T));
  }
};

std::vector<float> weights(std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(17);
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  for (std::int64_t k = 0; k < rows * cols; ++k)
    w[static_cast<std::size_t>(k)] = test::random_normal(random) * (1.0f + static_cast<float>(k % cols % 7)) /
                                     (1.0f + static_cast<float>(k / cols % 5)) * 0.02f;
  return w;
}

void print_bits() {
  const auto w = weights(76, 150);
  const WeightView view(w.data(), DType::f32, 76, 150);
  {
    const Balance b = sinkhorn(view);
    Hash h;
    h.add(b.row);
    h.add(b.col);
    h.add(&b.imbalance_after, 8);
    std::printf("balance %016llx\n", static_cast<unsigned long long>(h.value));
  }
  const auto print = [](const QuantizedMatrix& q) {
    const auto restored = dequantize(q);
    Hash h;
    h.add(q.codes);
    h.add(q.scale);
    h.add(q.zero);
    h.add(q.coarse_scale);
    h.add(q.col_scale);
    h.add(restored.data(), static_cast<std::size_t>(restored.size()) * 4);
    std::printf("%016llx\n", static_cast<unsigned long long>(h.value));
  };
  const auto x = weights(200, 150);
  Activations activations(150, {.second_moments = true});
  activations.add(MatrixView<const float>(x.data(), 200, 150));
  for (Isa isa : supported_isas())
    for (Calibration calibration : {Calibration::awq, Calibration::weighted, Calibration::gptq})
      for (Balancing balance : {Balancing::sinkhorn, Balancing::none})
        for (Refine refine : {Refine::none, Refine::fit}) {
          if (calibration == Calibration::weighted && refine != Refine::fit) continue;
          force_isa(isa);
          std::printf("%d %d %d ", static_cast<int>(calibration), static_cast<int>(balance), static_cast<int>(refine));
          print(quantize(view, {.bits = 3, .refine = refine, .balance = balance, .calibration = calibration},
                         {.activations = &activations}));
        }
  for (Isa isa : supported_isas())
    for (int bits : kBitWidths)
      for (Rounding rounding : {Rounding::uniform, Rounding::symmetric, Rounding::nf4, Rounding::nf3, Rounding::table})
        for (Refine refine : {Refine::none, Refine::hqq, Refine::fit})
          for (Balancing balance : {Balancing::sinkhorn, Balancing::none})
            for (Aux aux : {Aux::f16, Aux::u8}) {
              if ((rounding == Rounding::nf4 && bits != 4) || (rounding == Rounding::nf3 && bits != 3)) continue;
              if (refine == Refine::hqq && rounding != Rounding::uniform) continue;
              if (rounding == Rounding::table && (refine != Refine::fit || bits > 4)) continue;
              force_isa(isa);
              const QuantizedMatrix q = quantize(view, {.bits = bits,
                                                        .tile = bits % 2 ? Tile::square : Tile::stripe,
                                                        .rounding = rounding,
                                                        .refine = refine,
                                                        .balance = balance,
                                                        .scale = aux,
                                                        .zero = aux});
              std::printf("%d %d %d %d %d ", bits, static_cast<int>(rounding), static_cast<int>(refine),
                          static_cast<int>(balance), static_cast<int>(aux));
              print(q);
            }
}

bool every_nan_is_found() {
  const std::uint32_t bad[] = {0x7f80'0000u, 0xff80'0000u, 0x7fc0'0000u, 0x7f80'0001u, 0xffff'ffffu};
  for (std::uint32_t bits : bad)
    for (int where : {0, 5, 63, 64, 199}) {
      auto w = weights(4, 50);
      std::memcpy(&w[static_cast<std::size_t>(where)], &bits, 4);
      try {
        (void)quantize(WeightView(w.data(), DType::f32, 4, 50));
        return false;
      } catch (const InvalidArgument& error) {
        const std::string at = "weights(" + std::to_string(where / 50) + ", " + std::to_string(where % 50) + ")";
        if (std::string(error.what()).find(at) == std::string::npos) return false;
      }
    }
  return true;
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): then its test fails
int main(int, char** arguments) {
  if (std::string(arguments[1]) == "bits") print_bits();
  if (std::string(arguments[1]) == "nan") return every_nan_is_found() ? 0 : 1;
}
