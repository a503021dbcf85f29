// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <sinq/cuda/wgmma.cuh>
#include <string>
#include <vector>

// The products that a warpgroup has started and not waited for, for the executor. Nothing is in the accumulators before
// the wait but numbers that spoil every result, and what a product needs is looked at when it starts and when it ends:
// whoever reads, writes or forgets a fence in between is found.

namespace sinq::test {

inline constexpr unsigned kWarpgroup = detail::cuda::kWarpgroup;
using Accumulators = std::vector<float>;  // of a thread: half as many as operand B has columns

/// D = A B + C of a warpgroup: `all` holds what its threads bring, `b` operand B, [column][row]. "Register Fragments
/// for wgmma.mma_async.m64nNk16", written as the ISA writes it. Adds as Hopper does, which alone has it.
inline void multiply_warpgroup(const std::array<std::array<float, 8>, kWarpgroup>& a,
                               const std::vector<std::array<float, 16>>& b, std::vector<Accumulators>& d, bool bfloat) {
  using namespace detail::cuda::model;
  for (unsigned row = 0; row < 64; ++row) {
    float line[16];
    for (unsigned k = 0; k < 16; ++k) {
      // Element i of thread t: row 16 (t / 32) + t % 32 / 4, eight more for i = 2, 3, 6, 7; column t % 4 * 2 + (i & 1),
      // eight more from i = 4 on.
      const unsigned thread = row / 16 * 32 + row % 8 * 4 + k % 8 / 2;
      line[k] = a[thread][k % 2 + row % 16 / 8 * 2 + k / 8 * 4];
    }
    for (unsigned col = 0; col < b.size(); ++col) {
      float& to = d[row / 16 * 32 + row % 8 * 4 + col % 8 / 2][col / 8 * 4 + row % 16 / 8 * 2 + col % 2];
      to = fused_sum(to, line, b[col].data(), kHopper.together, bfloat ? -126 : -14, kHopper.bits);
    }
  }
}

/// A started product.
struct Started {
  std::vector<Accumulators> d;       // what it will leave in the accumulators
  std::vector<std::uint32_t> reads;  // the bytes of operand B, 16 at each address
  unsigned waiting = kWarpgroup;     // threads that have not seen its end
};

/// A thread's part.
class ThreadProducts {
 public:
  /// Before a product starts. Returns a complaint, or nothing; `c` is what the accumulators really hold.
  std::string before(const detail::cuda::model::Wgmma& mine, Accumulators& c) {
    const auto count = static_cast<std::size_t>(mine.columns / 2);
    const Mine* running = newest(mine.d);
    if (running != nullptr)
      c = running->product->d[running->thread];
    else
      c.assign(mine.d, mine.d + count);
    if (!fenced_) return "starts a product without a fence";
    if (differs(mine.a, 4) || (running == nullptr && differs(mine.d, count)))
      return "starts a product without a fence behind the writing of its registers";
    if (running != nullptr && !poisoned(mine.d, count)) return "touches the accumulators of a running product";
    return "";
  }

  /// Once it has started.
  void start(const std::shared_ptr<Started>& product, unsigned thread, const detail::cuda::model::Wgmma& mine) {
    Mine m{product, thread, mine, {}};
    std::memcpy(m.a.data(), mine.a, sizeof m.a);
    open_.push_back(m);
    for (int k = 0; k < mine.columns / 2; ++k) std::memcpy(mine.d + k, &kPoison, 4);
    at_fence_.try_emplace(mine.a);
    at_fence_.try_emplace(mine.d);
    note(mine.a, 4);
  }

  /// What is in registers now is what products see.
  void fence() {
    fenced_ = true;
    for (auto& [registers, content] : at_fence_) note(registers, content.size());
  }

  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }

  /// Ends all groups but the newest. Calls ended(product) for each product; returns a complaint, or nothing.
  template <class Ended>
  std::string wait(int newest_groups, Ended&& ended) {
    std::string complaint;
    for (; static_cast<int>(groups_.size()) > newest_groups; groups_.pop_front()) {
      const std::vector<Mine> group = groups_.front();
      for (std::size_t k = 0; k < group.size(); ++k) {
        const Mine& m = group[k];
        if (std::memcmp(m.a.data(), m.registers.a, sizeof m.a) != 0)
          complaint = "writes operand A of a running product";
        if (newest(m.registers.d)->product == m.product) {  // nothing started later adds to them
          const Accumulators& d = m.product->d[m.thread];
          if (!poisoned(m.registers.d, d.size())) complaint = "touches the accumulators of a running product";
          std::copy(d.begin(), d.end(), m.registers.d);
          note(m.registers.d, d.size());
        }
        ended(*m.product);
      }
    }
    return complaint;
  }

  [[nodiscard]] bool idle() const { return open_.empty() && groups_.empty(); }

 private:
  static constexpr std::uint32_t kPoison = 0x7fde'adbe;  // not a number

  struct Mine {
    std::shared_ptr<Started> product;
    unsigned thread;
    detail::cuda::model::Wgmma registers;
    std::array<std::uint32_t, 4> a;
  };

  [[nodiscard]] const Mine* newest(const float* d) const {
    for (auto m = open_.rbegin(); m != open_.rend(); ++m)
      if (m->registers.d == d) return &*m;
    for (auto group = groups_.rbegin(); group != groups_.rend(); ++group)
      for (auto m = group->rbegin(); m != group->rend(); ++m)
        if (m->registers.d == d) return &*m;
    return nullptr;
  }
  void note(const void* registers, std::size_t count) {
    std::vector<std::uint32_t>& content = at_fence_[registers];
    content.resize(count);
    if (count != 0) std::memcpy(content.data(), registers, 4 * count);
  }
  /// Whether registers that products have named before hold something else than at the last fence.
  [[nodiscard]] bool differs(const void* registers, std::size_t count) const {
    const auto found = at_fence_.find(registers);
    return found != at_fence_.end() && count != 0 && std::memcmp(found->second.data(), registers, 4 * count) != 0;
  }
  [[nodiscard]] static bool poisoned(const float* d, std::size_t count) {
    for (std::size_t k = 0; k < count; ++k)
      if (std::bit_cast<std::uint32_t>(d[k]) != kPoison) return false;
    return true;
  }

  bool fenced_ = false;
  std::map<const void*, std::vector<std::uint32_t>> at_fence_;
  std::vector<Mine> open_;
  std::deque<std::vector<Mine>> groups_;
};

/// The 128 threads on their way into a product.
struct Warpgroup {
  std::array<detail::cuda::model::Wgmma, kWarpgroup> bring;
  std::vector<Accumulators> c{kWarpgroup};
  std::shared_ptr<Started> product;  // the last one
  unsigned here = 0;
};

}  // namespace sinq::test
