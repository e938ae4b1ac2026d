// SPDX-License-Identifier: Apache-2.0
// Large memory on large pages. Passes over hundreds of megabytes, and over rows that are a page or more apart, as those
// of one head are, spend much of their time on looking pages of 4 KiB up.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace xlstm {

/// Asks Linux to back memory, before it is first written, by pages of 2 MiB as far as it covers whole ones; below 4 MiB
/// and on other systems nothing happens. A hint: where the system refuses, small pages do.
inline void advise_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t page = std::size_t{1} << 21;
  if (memory == nullptr || bytes < 2 * page) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::size_t before = (page - begin % page) % page;
  (void)::madvise(static_cast<std::byte*>(memory) + before, (bytes - before) / page * page, MADV_HUGEPAGE);
#endif
}

}  // namespace xlstm
