// SPDX-License-Identifier: Apache-2.0
#include "xlstm/core/arena.hpp"

#include <cstdint>
#include <utility>

#include "catch.hpp"
#include "memory.hpp"

using xlstm::Arena;
using xlstm::ArenaScope;
using xlstm::Index;

TEST_CASE("allocations are aligned to 64 bytes and do not overlap") {
  Arena arena;
  float* a = arena.allocate<float>(3);
  double* b = arena.allocate<double>(1);
  CHECK(reinterpret_cast<std::uintptr_t>(a) % 64 == 0);
  CHECK(reinterpret_cast<std::uintptr_t>(b) % 64 == 0);
  CHECK(reinterpret_cast<std::byte*>(b) >= reinterpret_cast<std::byte*>(a + 3));
}

TEST_CASE("growing moves nothing") {
  Arena arena;
  int* first = arena.allocate<int>(1);
  *first = 42;
  for (int i = 0; i < 100; ++i) arena.allocate<std::byte>(100000)[99999] = std::byte{1};
  CHECK(*first == 42);
}

TEST_CASE("a repeated computation settles on one block and allocates no more") {
  Arena arena;
  const auto work = [&] {
    const ArenaScope scope(arena);
    arena.allocate<float>(50000);
    {
      const ArenaScope inner(arena);
      arena.allocate<float>(300000);
    }
    arena.matrix<float, 7>(40000);
  };
  work();
  work();
  const Index warm = arena.system_allocations();
  const std::size_t capacity = arena.capacity();
  for (int i = 0; i < 10; ++i) work();
  CHECK(arena.system_allocations() == warm);
  CHECK(arena.capacity() == capacity);
}

TEST_CASE("without memory for one block the blocks stay, and a later release tries again") {
  static_assert(noexcept(std::declval<Arena&>().release(Arena::Mark{})));
  Arena arena;
  const auto work = [&] {
    const ArenaScope scope(arena);
    for (int i = 0; i < 5; ++i) arena.allocate<float>(50000)[49999] = 1;
  };
  xlstm::tests::memory_is_short = true;
  work();
  const std::size_t capacity = arena.capacity();
  work();
  CHECK(arena.capacity() == capacity);
  xlstm::tests::memory_is_short = false;
  work();
  const Index settled = arena.system_allocations();
  work();
  CHECK(arena.system_allocations() == settled);
  CHECK(arena.capacity() == capacity);
}

TEST_CASE("release gives back what came after the mark, and only that") {
  Arena arena;
  int* kept = arena.allocate<int>(16);
  const Arena::Mark mark = arena.mark();
  int* dropped = arena.allocate<int>(16);
  arena.release(mark);
  CHECK(arena.allocate<int>(16) == dropped);
  CHECK(kept != dropped);
}
