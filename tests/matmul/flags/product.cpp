// SPDX-License-Identifier: Apache-2.0
#include <sinq/matmul.hpp>

// Compiled twice, without flags and with those of a processor that has more, and linked into one program: what an
// engine does that brings kernels of its own. See mixed_flags_test.cpp.

void SINQ_TEST_NAME(const std::uint8_t* codes, std::int64_t rows, std::int64_t cols, const float* x, float* y) {
  sinq::QuantizedMatrix q = sinq::make_quantized_matrix({.zero = sinq::Aux::u8}, rows, cols);
  std::copy(codes, codes + q.codes.size(), q.codes.begin());
  for (std::int64_t k = 0; k < std::ssize(q.scale) / 2; ++k)
    sinq::detail::pack::write_float(sinq::Aux::f16, q.scale.data(), k, 0.25f);
  for (std::int64_t k = 0; k < std::ssize(q.col_scale) / 2; ++k)
    sinq::detail::pack::write_float(sinq::Aux::f16, q.col_scale.data(), k, 1);
  sinq::matmul(sinq::pack(q), sinq::MatrixView<const float>(x, 1, cols), sinq::MatrixView<float>(y, 1, rows));
}
