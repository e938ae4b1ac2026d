// SPDX-License-Identifier: Apache-2.0
#include "xlstm/core/huge_pages.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "catch.hpp"

using namespace xlstm;

TEST_CASE("huge pages lie inside the memory that they are asked for, and cover all but its ends") {
  std::vector<std::byte> memory(5 * huge_page_size);
  for (const std::size_t offset : {std::size_t{0}, std::size_t{1}, std::size_t{64}, huge_page_size - 1}) {
    for (const std::size_t bytes : {2 * huge_page_size, 3 * huge_page_size + 17, 4 * huge_page_size}) {
      const auto pages = huge_pages_of(memory.data() + offset, bytes);
      CAPTURE(offset, bytes);
      REQUIRE(!pages.empty());
      CHECK(reinterpret_cast<std::uintptr_t>(pages.data()) % huge_page_size == 0);
      CHECK(pages.size() % huge_page_size == 0);
      CHECK(pages.data() >= memory.data() + offset);
      CHECK(pages.data() + pages.size() <= memory.data() + offset + bytes);
      CHECK(bytes - pages.size() < 2 * huge_page_size);
    }
  }
}

TEST_CASE("huge pages are not asked for nothing, or for little") {
  std::vector<std::byte> memory(2 * huge_page_size - 1);
  CHECK(huge_pages_of(nullptr, 0).empty());
  CHECK(huge_pages_of(nullptr, 4 * huge_page_size).empty());
  CHECK(huge_pages_of(memory.data(), memory.size()).empty());
  advise_huge_pages(nullptr, 0);
  advise_huge_pages(memory.data(), memory.size());
}

TEST_CASE("memory on huge pages holds what is written") {
  std::vector<std::byte> memory(8 * huge_page_size);
  advise_huge_pages(memory.data(), memory.size());
  std::memset(memory.data(), 5, memory.size());
  CHECK(std::all_of(memory.begin(), memory.end(), [](std::byte x) { return x == std::byte{5}; }));
}
