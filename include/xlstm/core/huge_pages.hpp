// SPDX-License-Identifier: Apache-2.0
// Large memory on large pages: passes over hundreds of megabytes, and over rows that are a page of 4 KiB or more apart,
// as those of one head are, have fewer pages to look up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace xlstm {

inline constexpr std::size_t huge_page_size = std::size_t{1} << 21;

/// The whole pages of 2 MiB inside memory; empty where it has less than 4 MiB, which may hold hardly one.
inline std::span<std::byte> huge_pages_of(void* memory, std::size_t bytes) noexcept {
  if (memory == nullptr || bytes < 2 * huge_page_size) return {};
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::size_t before = (huge_page_size - begin % huge_page_size) % huge_page_size;
  return {static_cast<std::byte*>(memory) + before, (bytes - before) / huge_page_size * huge_page_size};
}

/// Asks Linux to back memory by large pages, as far as it covers whole ones; to be called before it is first written. A
/// hint: where the system refuses, and on other systems, small pages do.
inline void advise_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const std::span<std::byte> pages = huge_pages_of(memory, bytes);
  if (!pages.empty()) (void)::madvise(pages.data(), pages.size(), MADV_HUGEPAGE);
#endif
}

}  // namespace xlstm
