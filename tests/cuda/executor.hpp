// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <sinq/cuda/instructions.cuh>
#include <sinq/cuda/platform.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "warpgroup.hpp"

// Eigen defines __has_feature for compilers that have none.
#if defined(__SANITIZE_ADDRESS__)
#define SINQ_TEST_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SINQ_TEST_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(SINQ_TEST_ADDRESS_SANITIZER)
#include <sanitizer/common_interface_defs.h>
#endif

// Runs kernels without a GPU: the source that nvcc compiles, compiled as C++, block by block, every thread a fiber.
// What a GPU would let pass or get wrong now and then, this reports always, as sentences in `failures()`:
//
//   shared memory   an access out of bounds, misaligned, or of bytes nobody wrote; two accesses to one byte, one of
//                   them a write, by threads that no barrier orders; use of bytes that a copy still writes
//   global memory   the same, out of bounds being outside all buffers that the test named; a byte that one block writes
//                   and another one touches in the same launch
//   meeting points  lanes that meet at different instructions; threads that wait for ever
//   wgmma           whatever the code around a product forgets (warpgroup.hpp); an operand that no fence has shown to
//                   the asynchronous proxy before a barrier, or that is written while a product reads it
//
// Races are found from the order that barriers impose, not from the order in which the fibers happened to run. Shuffles
// and mma are meeting points, but order no memory, as on the device.
//
// `Faults` puts a bug into a kernel without touching its source, to see that it is found.

namespace sinq::test {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

struct Faults {
  int skip_barrier = -1;       // each thread runs through its n-th barrier
  int skip_warp_barrier = -1;  // the same for the barrier of the warp
  bool swap_operands = false;  // mma gets its two B registers in the wrong order, wgmma the second and third of A
  int wait_less = 0;           // wait for all but so many more groups of copies
  int skip_wgmma_fence = -1;   // each thread runs through its n-th fence of registers
  int skip_proxy_fence = -1;   // the same for the fence of the asynchronous proxy
  int finish_less = 0;         // wait for all but so many more groups of products
};

/// Where a fiber, or whoever runs the fibers, has its stack. Address sanitizer has to be told of every switch, right
/// before it and right behind it; without the sanitizer the calls do nothing.
struct Stack {
  const void* bottom = nullptr;
  std::size_t size = 0;
  void* saved = nullptr;  // what the sanitizer keeps of a stack that does not run

  static void leave(Stack* from, const Stack& to) {
#if defined(SINQ_TEST_ADDRESS_SANITIZER)
    __sanitizer_start_switch_fiber(from == nullptr ? nullptr : &from->saved, to.bottom, to.size);  // null: for good
#else
    (void)from, (void)to;
#endif
  }
  /// `from` learns where it has its stack.
  static void arrive(Stack& here, Stack& from) {
#if defined(SINQ_TEST_ADDRESS_SANITIZER)
    __sanitizer_finish_switch_fiber(here.saved, &from.bottom, &from.size);
#else
    (void)here, (void)from;
#endif
  }
};

class Executor final : public detail::cuda::Machine {
 public:
  Faults faults;
  bool backwards = false;  // threads are run last first: the result must not depend on it

  /// Names a buffer in global memory. Bytes of a constant one count as written.
  template <class T>
  void constant(const std::string& name, const T* data, std::size_t count) {
    auto* bytes = reinterpret_cast<std::byte*>(const_cast<std::remove_const_t<T>*>(data));
    buffers_.push_back({name, bytes, count * sizeof(T), {}});
  }
  template <class T>
  void writable(const std::string& name, T* data, std::size_t count) {
    buffers_.push_back(
        {name, reinterpret_cast<std::byte*>(data), count * sizeof(T), std::vector<Shadow>(count * sizeof(T))});
  }

  template <class T>
  void zeroed(const std::string& name, T* data, std::size_t count) {
    writable(name, data, count);
    zero(data, count * sizeof(T));
  }
  /// As a memset between two launches does it; bytes between buffers are nobody's.
  void zero(void* to, std::size_t bytes) {
    std::memset(to, 0, bytes);
    const auto* const first = static_cast<const std::byte*>(to);
    for (Buffer& b : buffers_)
      for (std::size_t k = 0; k < b.shadow.size(); ++k)
        if (b.data + k >= first && b.data + k < first + bytes) b.shadow[k] = {.writer = 0};
  }

  [[nodiscard]] const std::vector<std::string>& failures() const { return failures_; }
  [[nodiscard]] std::string first_failure() const { return failures_.empty() ? "" : failures_.front(); }
  void forget_failures() { failures_.clear(); }

  /// What each launch had of them, in the thread that met the most.
  struct Meetings {
    int barriers = 0, warp_barriers = 0;
  };
  [[nodiscard]] const std::vector<Meetings>& launches() const { return launches_; }

  /// Runs `kernel` for every block. `threads` is a multiple of 32.
  void launch(Dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
    Machine*& current = detail::cuda::machine();
    Machine* const before = current;
    current = this;
    kernel_ = &kernel;
    while (threads_.size() < threads) threads_.push_back(std::make_unique<Thread>());
    count_ = threads;
    first_of_launch_ = epoch_ + 1;
    launches_.emplace_back();
    for (unsigned z = 0; z < grid.z; ++z)
      for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
          block_ = {x, y, z};
          run_block(shared_bytes);
        }
    current = before;
    kernel_ = nullptr;
  }

  // --- Machine ---------------------------------------------------------------------------------------------------

  [[nodiscard]] unsigned thread() const override { return running_; }
  [[nodiscard]] unsigned threads() const override { return count_; }
  [[nodiscard]] detail::cuda::Index3 block() const override { return block_; }

  void barrier() override {
    if (me().barriers++ == faults.skip_barrier) return;
    if (++at_barrier_ == count_) {
      at_barrier_ = 0;
      ++epoch_;
      for (unsigned t = 0; t < count_; ++t) threads_[t]->waits = nullptr;
    } else {
      wait("a barrier");
    }
  }

  const std::byte* meet(const char* instruction, const void* mine, std::size_t bytes, bool orders_memory) override {
    Warp& warp = warps_[running_ / 32];
    if (orders_memory && me().warp_barriers++ == faults.skip_warp_barrier) return nullptr;
    std::vector<std::byte>& all = warp.values[me().meetings++ % 2];
    if (warp.here == 0) {
      warp.instruction = instruction;
      all.resize(std::max(all.size(), 32 * bytes));
    } else if (std::string(warp.instruction) != instruction) {
      fail("lanes of a warp meet at ", warp.instruction, " and at ", instruction);
      stop();
    }
    if (bytes != 0) std::memcpy(all.data() + running_ % 32 * bytes, mine, bytes);
    if (faults.swap_operands && bytes == sizeof(detail::cuda::model::MmaOperands)) {
      auto* operands = reinterpret_cast<detail::cuda::model::MmaOperands*>(all.data()) + running_ % 32;
      std::swap(operands->b[0], operands->b[1]);
    }
    if (++warp.here == 32) {
      warp.here = 0;
      if (orders_memory) ++warp.epoch;
      for (unsigned lane = 0; lane < 32; ++lane) threads_[running_ / 32 * 32 + lane]->waits = nullptr;
    } else {
      wait(instruction);
    }
    return all.data();
  }

  void shared_read(std::uint32_t offset, void* to, std::size_t bytes) override {
    std::memset(to, 0, bytes);
    if (!in_shared(offset, bytes, "reads")) return;
    for (std::size_t k = offset; k < offset + bytes; ++k) check_shared_read(k);
    std::memcpy(to, shared_.data() + offset, bytes);
  }

  void shared_write(std::uint32_t offset, const void* from, std::size_t bytes) override {
    if (!in_shared(offset, bytes, "writes")) return;
    for (std::size_t k = offset; k < offset + bytes; ++k) check_shared_write(k, mine());
    std::memcpy(shared_.data() + offset, from, bytes);
  }

  void shared_max(std::uint32_t offset, std::uint32_t value) override {
    if (!in_shared(offset, 4, "raises")) return;
    for (std::size_t k = offset; k < offset + 4; ++k) check_shared_write(k, kSeveral);
    std::uint32_t old = 0;
    std::memcpy(&old, shared_.data() + offset, 4);
    old = std::max(old, value);
    std::memcpy(shared_.data() + offset, &old, 4);
  }

  void global_read(const void* from, void* to, std::size_t bytes) override {
    std::memset(to, 0, bytes);
    Buffer* buffer = find(from, bytes, "reads");
    if (buffer != nullptr && check_global_read(*buffer, from, bytes)) std::memcpy(to, from, bytes);
  }

  void global_write(void* to, const void* from, std::size_t bytes) override {
    Buffer* buffer = find(to, bytes, "writes");
    if (buffer != nullptr && check_global_write(*buffer, to, bytes, mine())) std::memcpy(to, from, bytes);
  }

  void global_max(void* to, std::uint64_t value, std::size_t bytes) override {
    Buffer* buffer = find(to, bytes, "raises");
    if (buffer == nullptr || !check_global_write(*buffer, to, bytes, kBlocks)) return;
    std::uint64_t old = 0;
    std::memcpy(&old, to, bytes);
    old = std::max(old, value);
    std::memcpy(to, &old, bytes);
  }

  void copy_async(std::uint32_t offset, const void* from) override {
    Buffer* buffer = find(from, 16, "copies");
    if (buffer == nullptr || !in_shared(offset, 16, "copies to") || !check_global_read(*buffer, from, 16)) return;
    for (std::size_t k = offset; k < offset + 16; ++k) {
      check_shared_write(k, mine());
      shadow_[k].pending = true;
    }
    me().open.push_back({offset, from});
  }
  void copy_commit() override {
    me().groups.push_back(std::move(me().open));
    me().open.clear();
  }
  void copy_wait(int newest) override {
    auto& groups = me().groups;
    for (; static_cast<int>(groups.size()) > newest + faults.wait_less; groups.pop_front())
      for (const Copy& copy : groups.front()) {
        std::memcpy(shared_.data() + copy.to, copy.from, 16);
        for (std::size_t k = copy.to; k < copy.to + 16; ++k) {
          shadow_[k].pending = false;
          check_shared_write(k, mine());
        }
      }
  }

  void wgmma(const detail::cuda::model::Wgmma& mine) override {
    Warpgroup& group = warpgroups_[running_ / kWarpgroup];
    const unsigned thread = running_ % kWarpgroup;
    const std::string complaint = me().products.before(mine, group.c[thread]);
    if (!complaint.empty()) fail("thread ", running_, " ", complaint);
    group.bring[thread] = mine;
    if (++group.here == kWarpgroup) {
      group.here = 0;
      group.product = multiply(group);
      for (unsigned t = 0; t < kWarpgroup; ++t) threads_[running_ / kWarpgroup * kWarpgroup + t]->waits = nullptr;
    } else {
      wait("wgmma");
    }
    me().products.start(group.product, thread, mine);
  }
  void wgmma_fence() override {
    meet("wgmma.fence", nullptr, 0, false);
    if (me().wgmma_fences++ != faults.skip_wgmma_fence) me().products.fence();
  }
  void wgmma_commit() override {
    meet("wgmma.commit_group", nullptr, 0, false);
    me().products.commit();
  }
  void wgmma_wait(int newest) override {
    meet("wgmma.wait_group", nullptr, 0, false);
    const std::string complaint = me().products.wait(newest + faults.finish_less, [&](Started& product) {
      if (--product.waiting != 0) return;
      for (std::uint32_t address : product.reads)
        for (std::size_t k = address; k < address + 16; ++k) {
          SharedShadow& s = shadow_[k];
          --s.products;
          s.reader = s.reader_warp = kSeveral;
          s.read_epoch = epoch_;
        }
    });
    if (!complaint.empty()) fail("thread ", running_, " ", complaint);
  }
  void async_proxy_fence() override {
    if (me().all_proxy_fences++ != faults.skip_proxy_fence) me().proxy_fences.push_back(epoch_);
  }

 private:
  static constexpr std::int16_t kNobody = -1;
  static constexpr std::int16_t kSeveral = -2;  // several readers, or atomic writers
  static constexpr std::int16_t kBlocks = -3;   // atomic writers of any blocks

  struct Copy {
    std::uint32_t to;
    const void* from;
  };

  struct Thread {
    static constexpr std::size_t kStack = 64 << 10;
    std::unique_ptr<std::byte[]> memory{new std::byte[kStack]};
    Stack stack{memory.get(), kStack};
    ucontext_t start{};
    void* jump[5] = {};
    bool started = false, done = false;
    const char* waits = nullptr;  // what for
    int barriers = 0, warp_barriers = 0, meetings = 0;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
    ThreadProducts products;
    int wgmma_fences = 0, all_proxy_fences = 0;
    std::vector<std::uint32_t> proxy_fences;  // when: the epoch
  };

  struct Warp {
    // Two, because a lane may arrive at the next meeting before another has left this one.
    std::array<std::vector<std::byte>, 2> values;
    const char* instruction = "";
    unsigned here = 0;
    std::uint32_t epoch = 0;
  };

  /// Who touched a byte last, and when: the epoch, and the number of barriers of the warp before. Epochs begin with the
  /// blocks and with their barriers, and are counted from the first launch to the last, so that they tell which launch
  /// and which block it was, too, and nothing has to be forgotten between blocks.
  struct Shadow {
    std::int16_t writer = kNobody, reader = kNobody;
    std::int16_t reader_warp = kNobody;
    std::uint32_t write_epoch = 0, write_warp_epoch = 0;
    std::uint32_t read_epoch = 0, read_warp_epoch = 0;
    std::uint32_t read_before = 0;  // the last epoch of a read by an earlier block
  };
  struct SharedShadow : Shadow {
    bool pending = false;
    std::uint16_t products = 0;      // that read it at the moment
    std::uint32_t proxy_fences = 0;  // of the writer, before the write
  };

  struct Buffer {
    std::string name;
    std::byte* data;
    std::size_t bytes;
    std::vector<Shadow> shadow;  // none where nobody may write
  };

  /// A byte in a message.
  struct Place {
    std::size_t byte;
    const Buffer* buffer;  // null: in shared memory

    friend std::ostream& operator<<(std::ostream& to, const Place& p) {
      if (p.buffer == nullptr) return to << "shared byte " << p.byte;
      return to << "byte " << p.byte << " of " << p.buffer->name;
    }
  };
  /// Who has touched a byte, in a message.
  struct Who {
    int thread;

    friend std::ostream& operator<<(std::ostream& to, const Who& who) {
      return who.thread < 0 ? to << "several threads" : to << "thread " << who.thread;
    }
  };

  Thread& me() { return *threads_[running_]; }
  [[nodiscard]] std::int16_t mine() const { return static_cast<std::int16_t>(running_); }

  template <class... Pieces>
  void fail(const Pieces&... pieces) {
    if (failures_.size() >= 100) return;
    std::ostringstream text;
    (text << ... << pieces);
    failures_.push_back(text.str());
  }
  template <class... Pieces>
  bool wrong(const Pieces&... pieces) {
    fail(pieces...);
    return false;
  }

  // --- fibers -------------------------------------------------------------------------------------------------------
  // ucontext makes the stacks, the compiler's own jumps switch between them without a system call.

  static void enter() {
    auto& self = static_cast<Executor&>(*detail::cuda::machine());
    Stack::arrive(self.me().stack, self.stack_);
    (*self.kernel_)();
    self.me().done = true;
    self.leave();
  }

  [[gnu::noinline]] void resume(unsigned t) {
    running_ = t;
    if (__builtin_setjmp(scheduler_) != 0) return Stack::arrive(stack_, me().stack);
    go(*threads_[t]);
  }
  [[gnu::noinline]] void go(Thread& thread) {
    Stack::leave(&stack_, thread.stack);
    if (!thread.started) {
      thread.started = true;
      setcontext(&thread.start);
    }
    __builtin_longjmp(thread.jump, 1);
  }
  [[gnu::noinline]] void leave() {
    Stack::leave(me().done ? nullptr : &me().stack, stack_);
    __builtin_longjmp(scheduler_, 1);
  }
  [[gnu::noinline]] void wait(const char* what) {
    me().waits = what;
    if (__builtin_setjmp(me().jump) == 0) leave();
    Stack::arrive(me().stack, stack_);
  }
  /// Ends the block.
  void stop() {
    stopped_ = true;
    leave();
  }

  void run_block(std::size_t shared_bytes) {
    shared_.assign(shared_bytes, std::byte{0xcd});
    shadow_.assign(shared_bytes, SharedShadow{});
    warps_.assign(count_ / 32, Warp{});
    warpgroups_.assign(count_ / kWarpgroup, Warpgroup{});
    first_of_block_ = ++epoch_;
    at_barrier_ = 0;
    stopped_ = false;
    for (unsigned t = 0; t < count_; ++t) {
      Thread& thread = *threads_[t];
      thread.started = thread.done = false;
      thread.waits = nullptr;
      thread.barriers = thread.warp_barriers = thread.meetings = 0;
      thread.open.clear();
      thread.groups.clear();
      thread.products = {};
      thread.wgmma_fences = thread.all_proxy_fences = 0;
      thread.proxy_fences.clear();
      getcontext(&thread.start);
      thread.stack.saved = nullptr;
      thread.start.uc_stack = {thread.memory.get(), 0, Thread::kStack};
      thread.start.uc_link = nullptr;
      makecontext(&thread.start, &enter, 0);
    }
    for (bool progress = true; progress && !stopped_;) {
      progress = false;
      for (unsigned k = 0; k < count_ && !stopped_; ++k) {
        const unsigned t = backwards ? count_ - 1 - k : k;
        if (threads_[t]->done || threads_[t]->waits != nullptr) continue;
        progress = true;
        resume(t);
      }
    }
    for (unsigned t = 0; t < count_; ++t) {
      Meetings& most = launches_.back();
      most.barriers = std::max(most.barriers, threads_[t]->barriers);
      most.warp_barriers = std::max(most.warp_barriers, threads_[t]->warp_barriers);
    }
    for (unsigned t = 0; t < count_ && !stopped_; ++t)
      if (!threads_[t]->done) {
        fail("thread ", t, " waits for ever at ", threads_[t]->waits);
        return;
      }
    for (unsigned t = 0; t < count_ && !stopped_; ++t)
      if (!threads_[t]->products.idle()) return fail("thread ", t, " ends while a product runs");
  }

  // --- checks ------------------------------------------------------------------------------------------------------

  bool in_shared(std::uint32_t offset, std::size_t bytes, const char* does) {
    if (offset + bytes > shared_.size()) {
      fail("thread ", running_, " ", does, " shared bytes ", offset, " to ", offset + bytes, " of ", shared_.size());
      return false;
    }
    if (offset % bytes != 0) {
      fail("thread ", running_, " ", does, " ", bytes, " shared bytes at ", offset, ": misaligned");
      return false;
    }
    return true;
  }

  /// Whether a write of the shadow stands before now by order of a barrier.
  bool write_ordered(const Shadow& s) {
    if (s.write_epoch < epoch_ || s.writer == mine()) return true;
    return s.writer >= 0 && s.writer / 32 == mine() / 32 && s.write_warp_epoch < warps_[running_ / 32].epoch;
  }
  bool in_launch(std::uint32_t epoch) const { return epoch >= first_of_launch_; }
  bool in_block(std::uint32_t epoch) const { return epoch >= first_of_block_; }
  /// Whether the last write may be another block's, in this launch.
  bool written_elsewhere(const Shadow& s) const {
    return in_launch(s.write_epoch) && (s.writer == kBlocks || !in_block(s.write_epoch));
  }

  bool check_read(Shadow& s, const Place& at) {
    if (s.writer == kNobody) return wrong("thread ", running_, " reads ", at, ", which nobody wrote");
    if (written_elsewhere(s)) return wrong("thread ", running_, " reads ", at, ", written by another block");
    if (!write_ordered(s)) return wrong("race: thread ", running_, " reads ", at, ", written by ", Who{s.writer});
    const auto warp = static_cast<std::int16_t>(running_ / 32);
    const bool fresh = s.reader == kNobody || s.read_epoch != epoch_;
    if (!in_block(s.read_epoch)) s.read_before = s.read_epoch;
    if (fresh || (s.reader_warp == warp && s.read_warp_epoch != warps_[running_ / 32].epoch)) {
      s.reader = mine();
      s.reader_warp = warp;
    } else {
      if (s.reader != mine()) s.reader = kSeveral;
      if (s.reader_warp != warp) s.reader_warp = kSeveral;
    }
    s.read_epoch = epoch_;
    s.read_warp_epoch = warps_[running_ / 32].epoch;
    return true;
  }

  /// `writer`: the thread, or for a maximum kSeveral (in shared memory) or kBlocks.
  bool check_write(Shadow& s, const Place& at, std::int16_t writer) {
    const auto warp_epoch = warps_[running_ / 32].epoch;
    if (writer < 0 && s.writer == kNobody) return wrong("thread ", running_, " raises ", at, ", which nobody wrote");
    const bool maxima_meet = writer < 0 && s.writer == writer;
    if (!maxima_meet) {
      if (written_elsewhere(s)) return wrong("two blocks write ", at);
      if (writer == kBlocks && in_launch(s.write_epoch))
        return wrong("thread ", running_, " raises ", at, ", written in the same launch");
      if (s.writer != kNobody && !write_ordered(s))
        return wrong("race: ", Who{s.writer}, " and thread ", running_, " write ", at);
    }
    if (in_launch(in_block(s.read_epoch) ? s.read_before : s.read_epoch))
      return wrong("thread ", running_, " writes ", at, ", read by another block");
    const bool own = s.reader == mine();
    const bool ordered = s.reader_warp == mine() / 32 && s.read_warp_epoch < warp_epoch;
    if (s.reader != kNobody && s.read_epoch == epoch_ && !own && !ordered)
      return wrong("race: thread ", running_, " writes ", at, ", read by ", Who{s.reader});
    s.writer = writer;
    s.write_epoch = epoch_;
    s.write_warp_epoch = warp_epoch;
    return true;
  }

  void check_shared_read(std::size_t k) {
    if (shadow_[k].pending) return fail("thread ", running_, " reads shared byte ", k, " while a copy writes it");
    check_read(shadow_[k], {k, nullptr});
  }
  void check_shared_write(std::size_t k, std::int16_t writer) {
    SharedShadow& s = shadow_[k];
    if (s.pending) return fail("thread ", running_, " writes shared byte ", k, " while a copy writes it");
    if (s.products != 0) return fail("thread ", running_, " writes shared byte ", k, " while a product reads it");
    if (check_write(s, {k, nullptr}, writer)) s.proxy_fences = static_cast<std::uint32_t>(me().proxy_fences.size());
  }

  bool check_global_read(Buffer& buffer, const void* from, std::size_t bytes) {
    if (buffer.shadow.empty()) return true;
    const auto first = static_cast<std::size_t>(static_cast<const std::byte*>(from) - buffer.data);
    for (std::size_t k = first; k < first + bytes; ++k)
      if (!check_read(buffer.shadow[k], {k, &buffer})) return false;
    return true;
  }
  bool check_global_write(Buffer& buffer, const void* to, std::size_t bytes, std::int16_t writer) {
    if (buffer.shadow.empty()) return wrong("thread ", running_, " writes to ", buffer.name, ", which is constant");
    const auto first = static_cast<std::size_t>(static_cast<const std::byte*>(to) - buffer.data);
    for (std::size_t k = first; k < first + bytes; ++k)
      if (!check_write(buffer.shadow[k], {k, &buffer}, writer)) return false;
    return true;
  }

  /// A byte of an operand of wgmma: every thread's barrier lies behind its writing and the writer's fence.
  void check_operand(std::size_t k) {
    const SharedShadow& s = shadow_[k];
    if (s.pending) return fail("a product reads shared byte ", k, " while a copy writes it");
    if (s.writer == kNobody) return fail("a product reads shared byte ", k, ", which nobody wrote");
    if (s.write_epoch == epoch_) return fail("race: a product reads shared byte ", k, ", written by ", Who{s.writer});
    const auto& fences = threads_[static_cast<std::size_t>(std::max<int>(s.writer, 0))]->proxy_fences;
    if (s.writer == kSeveral || fences.size() <= s.proxy_fences || fences[s.proxy_fences] == epoch_)
      fail("a product reads shared byte ", k, ", whose writing no fence has shown to it");
  }

  /// The product that a warpgroup has brought together.
  std::shared_ptr<Started> multiply(Warpgroup& group) {
    auto product = std::make_shared<Started>();
    product->d = group.c;
    const detail::cuda::model::Wgmma& first = group.bring[0];
    const auto value = [&](std::uint32_t bits) {
      return first.bfloat ? detail::cuda::as_float(bits << 16)
                          : detail::cuda::model::half_to_float(static_cast<std::uint16_t>(bits));
    };
    std::array<std::array<float, 8>, kWarpgroup> a{};
    for (unsigned t = 0; t < kWarpgroup; ++t) {
      const detail::cuda::model::Wgmma& mine = group.bring[t];
      if (mine.b != first.b || mine.bfloat != first.bfloat) fail("a warpgroup starts two products at once");
      for (unsigned i = 0; i < 8; ++i) {
        const unsigned from = faults.swap_operands && (i / 2 == 1 || i / 2 == 2) ? 3 - i / 2 : i / 2;
        a[t][i] = value(mine.a[from] >> (16 * (i % 2)) & 0xffff);
      }
    }
    std::vector<std::array<float, 16>> b(static_cast<std::size_t>(first.columns));
    if (first.b >> 62 != 1) fail("only operands swizzled by 128 bytes are modelled");
    for (int col = 0; col < first.columns; ++col)
      for (int row = 0; row < 16; ++row) {
        const std::uint32_t at = detail::cuda::model::operand_address(first.b, col, row);
        if (!in_shared(at, 2, "multiplies")) return product;
        if (row % 8 == 0) {
          product->reads.push_back(at);
          for (std::size_t k = at; k < at + 16; ++k) {
            check_operand(k);
            ++shadow_[k].products;
          }
        }
        std::uint16_t bits = 0;
        std::memcpy(&bits, shared_.data() + at, 2);
        b[static_cast<std::size_t>(col)][static_cast<std::size_t>(row)] = value(bits);
      }
    multiply_warpgroup(a, b, product->d, first.bfloat);
    return product;
  }

  Buffer* find(const void* address, std::size_t bytes, const char* does) {
    const auto* at = static_cast<const std::byte*>(address);
    for (Buffer& b : buffers_)
      if (at >= b.data && at + bytes <= b.data + b.bytes) {
        if (reinterpret_cast<std::uintptr_t>(at) % bytes == 0) return &b;
        fail("thread ", running_, " ", does, " ", bytes, " bytes of ", b.name, " at ", at - b.data, ": misaligned");
        return nullptr;
      }
    std::string near = "any buffer";
    for (std::ptrdiff_t closest = 256; const Buffer& b : buffers_) {
      const std::ptrdiff_t distance = at < b.data ? b.data - at : at - (b.data + b.bytes);
      if (b.bytes == 0 || distance >= closest) continue;
      closest = distance;
      near = b.name + " (byte " + std::to_string(at - b.data) + " of " + std::to_string(b.bytes) + ")";
    }
    fail("thread ", running_, " ", does, " ", bytes, " bytes outside ", near);
    return nullptr;
  }

  const std::function<void()>* kernel_ = nullptr;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::vector<Warpgroup> warpgroups_;
  std::vector<std::byte> shared_;
  std::vector<SharedShadow> shadow_;
  std::vector<Buffer> buffers_;
  std::vector<std::string> failures_;
  std::vector<Meetings> launches_;
  void* scheduler_[5] = {};
  Stack stack_;  // of `launch`
  unsigned running_ = 0, count_ = 0, at_barrier_ = 0;
  std::uint32_t epoch_ = 0, first_of_launch_ = 0, first_of_block_ = 0;
  detail::cuda::Index3 block_{};
  bool stopped_ = false;
};

}  // namespace sinq::test
