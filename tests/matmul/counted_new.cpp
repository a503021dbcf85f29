// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <cstdlib>
#include <new>

// Counts what goes through the heap in this program. A file of its own: inlined into a test, g++ takes new and free for
// a mismatched pair. (Under the address sanitizer its checks of new and delete are lost, those of malloc and free
// remain.)

std::atomic<long> allocations{0};

namespace {

void* counted(void* p) {
  ++allocations;
  if (p) return p;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) {
  return counted(std::malloc(size ? size : 1));
}
void* operator new(std::size_t size, std::align_val_t align) {
  const auto a = static_cast<std::size_t>(align);
  return counted(std::aligned_alloc(a, (size / a + 1) * a));
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}
