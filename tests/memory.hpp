// SPDX-License-Identifier: Apache-2.0
// Counts what a program allocates, and can let memory run short. Replaces operator new and delete in all their forms
// (only together do they agree with a sanitizer's own), so one source file of a program may include it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace xlstm::tests {

/// How often memory was asked for.
inline std::atomic<long> allocations{0};

/// While it is true, every operator new that may return null does.
inline std::atomic<bool> memory_is_short{false};

inline void* allocate(std::size_t size, std::size_t alignment) noexcept {
  ++allocations;
  const std::size_t whole = (size + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, whole > 0 ? whole : alignment);
}

inline void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  if (void* p = allocate(size, alignment)) return p;
  throw std::bad_alloc();
}

inline void* allocate_unless_short(std::size_t size, std::size_t alignment) noexcept {
  return memory_is_short ? nullptr : allocate(size, alignment);
}

inline constexpr std::size_t default_alignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

}  // namespace xlstm::tests

// Never inline, or g++ sees std::free given what operator new made, and warns.
#define XLSTM_TESTS_REPLACED [[gnu::noinline]]

XLSTM_TESTS_REPLACED void* operator new(std::size_t size) {
  return xlstm::tests::allocate_or_throw(size, xlstm::tests::default_alignment);
}
XLSTM_TESTS_REPLACED void* operator new[](std::size_t size) {
  return xlstm::tests::allocate_or_throw(size, xlstm::tests::default_alignment);
}
XLSTM_TESTS_REPLACED void* operator new(std::size_t size, std::align_val_t alignment) {
  return xlstm::tests::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
XLSTM_TESTS_REPLACED void* operator new[](std::size_t size, std::align_val_t alignment) {
  return xlstm::tests::allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
XLSTM_TESTS_REPLACED void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return xlstm::tests::allocate_unless_short(size, xlstm::tests::default_alignment);
}
XLSTM_TESTS_REPLACED void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return xlstm::tests::allocate_unless_short(size, xlstm::tests::default_alignment);
}
XLSTM_TESTS_REPLACED void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return xlstm::tests::allocate_unless_short(size, static_cast<std::size_t>(alignment));
}
XLSTM_TESTS_REPLACED void* operator new[](std::size_t size, std::align_val_t alignment,
                                          const std::nothrow_t&) noexcept {
  return xlstm::tests::allocate_unless_short(size, static_cast<std::size_t>(alignment));
}
XLSTM_TESTS_REPLACED void operator delete(void* p) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete[](void* p) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete(void* p, std::size_t) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete[](void* p, const std::nothrow_t&) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }
XLSTM_TESTS_REPLACED void operator delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }

#undef XLSTM_TESTS_REPLACED
