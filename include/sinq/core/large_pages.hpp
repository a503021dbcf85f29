// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <new>

#include "../version.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sinq::inline SINQ_ABI::detail::core {

/// Memory for what is streamed: where it spans pages of 2 MB, it begins with one and asks the kernel for them (Linux;
/// a hint, and the last page only if it is whole, so that no memory is lost). With pages of 4 KB a stream of weights
/// waits for address translation.
template <class T>
struct LargePages {
  using value_type = T;

  LargePages() = default;
  template <class U>
  LargePages(const LargePages<U>&) noexcept {}  // NOLINT(google-explicit-constructor): allocators convert

  [[nodiscard]] T* allocate(std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
    void* memory = ::operator new(bytes, alignment(bytes));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= kPage) (void)madvise(memory, bytes / kPage * kPage, MADV_HUGEPAGE);
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t count) noexcept {
    ::operator delete(memory, alignment(count * sizeof(T)));
  }
  /// Memory that is written anyway is not filled with zeros first: `resize` leaves the new elements as they are.
  template <class U>
  void construct(U* at) noexcept {
    ::new (static_cast<void*>(at)) U;
  }

  friend bool operator==(const LargePages&, const LargePages&) = default;

 private:
  static constexpr std::size_t kPage = std::size_t{2} << 20;
  static constexpr std::align_val_t alignment(std::size_t bytes) noexcept {
    return std::align_val_t{bytes >= kPage ? kPage : alignof(T)};
  }
};

}  // namespace sinq::inline SINQ_ABI::detail::core
