// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "squares.hpp"

// What the inputs of a linear layer look like: statistics that an engine fills while it runs some text, and that
// `quantize` uses where `QuantizeConfig::calibration` asks for it.
//
//   engine: layer input, tokens x cols --> add --> sums per column, a sample of tokens, perhaps cols x cols moments
//
// Sums are kept in double, in which squares of floats are exact, and added token by token: the same bits on every
// machine, whatever the number of threads and however the tokens are cut into calls.

namespace sinq::inline SINQ_ABI {

struct ActivationsOptions {
  /// Whether E[x_i x_j] is kept for all pairs of columns, as Calibration::gptq needs: 8 cols^2 bytes. Double, since
  /// the factorisation would lose what little a float has left where columns are nearly alike.
  bool second_moments = false;
  /// Tokens kept as they are, as Calibration::awq needs; 2 to 2^20.
  std::int64_t sample = 256;
};

class Activations {
 public:
  explicit Activations(std::int64_t cols, const ActivationsOptions& options = {}) : cols_(cols), options_(options) {
    using detail::core::require;
    require(cols >= 1 && cols <= 0x7fff'ffff, "cols", cols, "allowed are 1 to 2^31 - 1");
    require(options.sample >= 2 && options.sample <= std::int64_t{1} << 20, "sample", options.sample,
            "allowed are 2 to 2^20");
    magnitudes_.resize(static_cast<std::size_t>(cols));
    squares_.resize(static_cast<std::size_t>(cols));
    if (options.second_moments) products_.resize(static_cast<std::size_t>(cols * detail::core::padded(cols)));
  }

  /// What is known of `tokens` tokens already, such as an importance matrix that came with the model: E[x_j^2], of
  /// every column. Enough for Calibration::weighted; awq asks for tokens themselves, too (add). InvalidArgument unless
  /// all are finite, at least 0 and below 2^240.
  [[nodiscard]] static Activations of_mean_square(std::span<const double> mean_square, std::int64_t tokens) {
    Activations a(std::ssize(mean_square));
    a.set_tokens(tokens);
    for (std::int64_t j = 0; j < a.cols_; ++j)
      a.squares_[static_cast<std::size_t>(j)] = sum_of(mean_square[static_cast<std::size_t>(j)], j, j, tokens);
    return a;
  }
  /// E[x_i x_j], cols x cols, of which the diagonal and what lies above it are read, such as the Hessian that an engine
  /// has computed elsewhere: for Calibration::gptq. InvalidArgument unless all are finite and below 2^240 in magnitude,
  /// those of the diagonal at least 0, and others 0 where one of theirs is.
  [[nodiscard]] static Activations of_second_moments(std::span<const double> second_moments, std::int64_t cols,
                                                     std::int64_t tokens) {
    using detail::core::require;
    require(cols >= 1 && cols <= 0x7fff'ffff, "cols", cols, "allowed are 1 to 2^31 - 1");
    require(std::ssize(second_moments) == cols * cols, "second_moments.size()", second_moments.size(), "must be ",
            cols * cols, ", cols x cols");
    Activations a(cols, {.second_moments = true});
    a.set_tokens(tokens);
    const auto at = [&](std::int64_t i, std::int64_t j) {
      return second_moments[static_cast<std::size_t>(i * cols + j)];
    };
    for (std::int64_t i = 0; i < cols; ++i) a.squares_[static_cast<std::size_t>(i)] = sum_of(at(i, i), i, i, tokens);
    for (std::int64_t i = 0; i < cols; ++i)
      for (std::int64_t j = i; j < cols; ++j) {
        if (at(i, j) != 0 && (at(i, i) == 0 || at(j, j) == 0)) [[unlikely]]
          detail::core::raise<InvalidArgument>(detail::core::text("sinq: E[x_", i, " x_", j, "] = ", at(i, j),
                                                                  ": must be 0, as the square of one of them is"));
        a.products_[static_cast<std::size_t>(i * detail::core::padded(cols) + j)] = sum_of(at(i, j), i, j, tokens);
      }
    return a;
  }

  /// Adds tokens x cols inputs of the layer, of any element type. InvalidArgument if there are other columns, or a
  /// value is not finite or not below 2^120; nothing is added then. `executor`: threads for the second moments.
  void add(const WeightView& tokens, Executor* executor = nullptr) {
    using detail::core::require;
    require(tokens.cols == cols_, "tokens.cols", tokens.cols, "must equal the columns of the statistics, ", cols_);
    require(tokens.rows >= 0, "tokens.rows", tokens.rows, "must not be negative");
    if (tokens.rows == 0) return;
    detail::core::require_view(tokens, "tokens");
    std::vector<float> converted;
    for_blocks(tokens, converted, [&](MatrixView<const float> block, std::int64_t first) {
      for (std::int64_t t = 0; t < block.rows; ++t) require_finite(block.row(t), first + t);
    });
    make_room(tokens.rows);
    for_blocks(tokens, converted, [&](MatrixView<const float> block, std::int64_t) { add_floats(block, executor); });
  }

  /// Adds the statistics of other tokens on the same columns, as if they came after these. The sums are those of adding
  /// all tokens here (but for the rounding of double); of the sample, both halves are thinned alike.
  void merge(const Activations& other) {
    using detail::core::require;
    require(other.cols_ == cols_, "other.cols()", other.cols_, "must equal the columns of the statistics, ", cols_);
    require(other.products_.empty() == products_.empty(), "other.has_second_moments()", !other.products_.empty(),
            "must be the same on both sides");
    if (&other == this) return merge(Activations(other));
    for (std::size_t j = 0; j < squares_.size(); ++j) {
      magnitudes_[j] += other.magnitudes_[j];
      squares_[j] += other.squares_[j];
    }
    for (std::size_t k = 0; k < products_.size(); ++k) products_[k] += other.products_[k];
    std::int64_t stride = std::max(stride_, other.stride_);
    while (kept_at(stride) + other.kept_at(stride) > options_.sample) stride *= 2;
    while (stride_ < stride) thin();
    for (std::int64_t k = 0; k < std::ssize(other.sample_); k += stride / other.stride_ * cols_)
      sample_.insert(sample_.end(), other.sample_.begin() + k, other.sample_.begin() + k + cols_);
    tokens_ += other.tokens_;
    added_ += other.added_;
  }

  [[nodiscard]] std::int64_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::int64_t tokens() const noexcept { return tokens_; }

  /// E|x_j| of the tokens that were added, 0 before the first.
  [[nodiscard]] std::vector<double> mean_magnitude() const { return mean(magnitudes_, added_); }
  /// E[x_j^2], as `measure` takes them.
  [[nodiscard]] std::vector<double> mean_square() const { return mean(squares_, tokens_); }

  [[nodiscard]] bool has_second_moments() const noexcept { return !products_.empty(); }
  /// E[x_i x_j]; only where has_second_moments().
  [[nodiscard]] double second_moment(std::int64_t i, std::int64_t j) const noexcept {
    const auto [low, high] = std::minmax(i, j);
    return products_[static_cast<std::size_t>(low * detail::core::padded(cols_) + high)] /
           static_cast<double>(std::max<std::int64_t>(tokens_, 1));
  }

  /// Of the tokens that were added every 2^n-th, for the least n with which they number at most
  /// `ActivationsOptions::sample`; after `merge`, every 2^n-th of either side.
  [[nodiscard]] MatrixView<const float> sample() const noexcept {
    return {sample_.data(), std::ssize(sample_) / cols_, cols_};
  }

 private:
  /// The sum over `tokens` tokens whose mean is `mean`.
  [[nodiscard]] static double sum_of(double mean, std::int64_t i, std::int64_t j, std::int64_t tokens) {
    if (!(std::abs(mean) < 0x1p240) || (i == j && mean < 0)) [[unlikely]]
      detail::core::raise<InvalidArgument>(
          detail::core::text("sinq: E[x_", i, " x_", j, "] = ", mean,
                             ": must be finite and below 2^240 in magnitude, a square at least 0"));
    return mean * static_cast<double>(tokens);
  }
  void set_tokens(std::int64_t tokens) {
    detail::core::require(tokens >= 1, "tokens", tokens, "must be at least 1");
    tokens_ = tokens;
  }

  /// Calls visit(floats, first token): all tokens at once where they are floats, otherwise some after the others.
  template <class Visit>
  void for_blocks(const WeightView& tokens, std::vector<float>& converted, Visit&& visit) const {
    const auto* floats = static_cast<const float*>(tokens.data);
    if (tokens.dtype == DType::f32 && reinterpret_cast<std::uintptr_t>(floats) % alignof(float) == 0)
      return visit(MatrixView<const float>(floats, tokens.rows, cols_, tokens.stride), 0);
    constexpr std::int64_t kBlock = 256;
    converted.resize(static_cast<std::size_t>(std::min(kBlock, tokens.rows) * cols_));
    for (std::int64_t first = 0; first < tokens.rows; first += kBlock) {
      const std::int64_t count = std::min(kBlock, tokens.rows - first);
      tokens.load(first, count, 0, cols_, converted.data(), cols_);
      visit(MatrixView<const float>(converted.data(), count, cols_), first);
    }
  }
  /// Values that are finite, for which there is room.
  void add_floats(MatrixView<const float> tokens, Executor* executor) {
    for (std::int64_t t = 0; t < tokens.rows; ++t) {
      const float* x = tokens.row(t);
      for (std::int64_t j = 0; j < cols_; ++j) {
        const double v = double{x[j]};
        magnitudes_[static_cast<std::size_t>(j)] += std::abs(v);
        squares_[static_cast<std::size_t>(j)] += v * v;
      }
      if ((added_ + t) % stride_ == 0) keep(x);
    }
    tokens_ += tokens.rows;
    added_ += tokens.rows;
    if (products_.empty()) return;
    SerialExecutor serial;
    detail::quantize::add_squares(products_.data(), cols_, 0, tokens.data, tokens.stride, tokens.rows, 1.0,
                                  executor ? *executor : serial);
  }
  void require_finite(const float* x, std::int64_t token) const {
    namespace core = detail::core;
    if (core::magnitude_bits(core::largest_magnitude(x, cols_)) < core::magnitude_bits(core::kWeightLimit)) return;
    for (std::int64_t j = 0; j < cols_; ++j)
      if (core::magnitude_bits(x[j]) >= core::magnitude_bits(core::kWeightLimit))
        core::raise<InvalidArgument>(
            core::text("sinq: tokens(", token, ", ", j, ") = ", x[j], ": must be finite and below 2^120 in magnitude"));
  }

  /// For as many more tokens as will be kept. Memory grows with those there are, since the largest sample of wide
  /// layers would take more than there is; and here, since nothing is added if there is not enough.
  void make_room(std::int64_t tokens) {
    const std::int64_t kept = std::ssize(sample_) / cols_;
    const std::int64_t needed = std::min(kept + std::min(tokens, options_.sample), options_.sample);
    if (static_cast<std::int64_t>(sample_.capacity()) < needed * cols_)
      sample_.reserve(static_cast<std::size_t>(std::max(needed, std::min(2 * kept, options_.sample)) * cols_));
  }

  /// Keeps a token; when there is no room, first lets go of every other one, and of this one if it is such a one.
  void keep(const float* x) {
    if (std::ssize(sample_) == options_.sample * cols_) {
      const bool odd = options_.sample % 2 == 1;
      thin();
      if (odd) return;
    }
    sample_.insert(sample_.end(), x, x + cols_);
  }

  /// How many tokens of the sample a larger stride leaves.
  [[nodiscard]] std::int64_t kept_at(std::int64_t stride) const noexcept {
    const std::int64_t step = stride / stride_;
    return (std::ssize(sample_) / cols_ + step - 1) / step;
  }

  void thin() {
    const std::int64_t count = std::ssize(sample_) / cols_;
    for (std::int64_t k = 2; k < count; k += 2)
      std::copy_n(sample_.begin() + k * cols_, cols_, sample_.begin() + k / 2 * cols_);
    sample_.resize(static_cast<std::size_t>((count + 1) / 2 * cols_));
    stride_ *= 2;
  }

  [[nodiscard]] static std::vector<double> mean(std::vector<double> sums, std::int64_t tokens) {
    for (double& v : sums) v /= static_cast<double>(std::max<std::int64_t>(tokens, 1));
    return sums;
  }

  std::int64_t cols_;
  ActivationsOptions options_;
  std::int64_t tokens_ = 0;
  std::int64_t added_ = 0;  // of these: the others are known by their means
  std::vector<double> magnitudes_;
  std::vector<double> squares_;
  std::vector<double> products_;  // cols x padded(cols), upper triangle; empty: not asked for
  std::vector<float> sample_;     // of those added: tokens 0, stride_, 2 stride_, ...
  std::int64_t stride_ = 1;
};

}  // namespace sinq::inline SINQ_ABI
