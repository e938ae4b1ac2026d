// SPDX-License-Identifier: Apache-2.0
// What kernels may ask of a thread (cuda/thread.hpp), as the device answers it.
#include "xlstm/cuda/thread.hpp"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "every_function.hpp"
#include "xlstm/cuda/collective.hpp"

using xlstm::Index;
using xlstm::tests::DeviceVector;
using xlstm::tests::run_on_device;

namespace thread_tests {  // named: nvcc confuses a kernel's unnamed namespace with Catch2's inside it

namespace cuda = xlstm::cuda;

/// A kernel from a function of the thread: `F::run(thread, y)`.
template <int Threads, class F, class T, class S = cuda::SharedLayout<>>
struct Kernel {
  T* y;
  static constexpr int threads = Threads;
  using Shared = S;
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    F::run(thread, y);
  }
};

/// What the one block of the kernel writes to its `count` values, which start as −1.
template <int Threads, class F, class T = int, class S = cuda::SharedLayout<>>
DeviceVector<T> run(std::size_t count, std::uint64_t seed = 1) {
  DeviceVector<T> y(count, T(-1));
  run_on_device({}, Kernel<Threads, F, T, S>{y.data()}, seed);
  return y;
}

struct Numbers {
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, int* y) {
    y[thread.index()] = thread.warp() * 100 + thread.lane() + (Thread::block_threads == 96 ? 1000 : 0);
  }
};

struct Places {
  int* visits;
  static constexpr int threads = 32;
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const auto at = thread.block_index();
    const auto of = thread.block_count();
    thread.atomic_add(visits + (at.z * of.y + at.y) * of.x + at.x, 1);
  }
};

TEST_CASE("A thread knows its warp and lane", "[cuda]") {
  const auto y = run<96, Numbers>(96);
  REQUIRE(y[0] == 1000);
  REQUIRE(y[31] == 1031);
  REQUIRE(y[32] == 1100);
  REQUIRE(y[95] == 1231);
}

TEST_CASE("Every block of a grid runs once", "[cuda]") {
  DeviceVector<int> visits(2 * 3 * 5);
  run_on_device({2, 3, 5}, Places{visits.data()});
  REQUIRE(visits == DeviceVector<int>(30, 32));
  run_on_device({2, 0, 5}, Places{visits.data()});
  REQUIRE(visits == DeviceVector<int>(30, 32));
}

#if !defined(XLSTM_ON_DEVICE)

struct Order {
  int* order;
  int* next;
  static constexpr int threads = 64;
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    order[(*next)++] = thread.block_index().x * threads + thread.index();
  }
};

TEST_CASE("The seed decides the order of blocks and threads, and nothing else does", "[cuda]") {
  const auto order = [](std::uint64_t seed) {
    std::vector<int> all(256);
    int next = 0;
    run_on_device({4}, Order{all.data(), &next}, seed);
    return all;
  };
  std::set<std::vector<int>> different;
  std::set<int> first_blocks;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    auto all = order(seed);
    REQUIRE(all == order(seed));
    different.insert(all);
    first_blocks.insert(all[0] / 64);
    std::sort(all.begin(), all.end());
    for (int i = 0; i < 256; ++i) REQUIRE(all[static_cast<std::size_t>(i)] == i);
  }
  REQUIRE(different.size() == 16);
  REQUIRE(first_blocks.size() > 1);
}

#endif

struct Shuffles {
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, double* y) {
    struct Pair {
      int a;
      float b;
    };
    const int lane = thread.lane();
    y[lane] = thread.shuffle(lane * 1.5, (lane + 5) % 32);
    y[32 + lane] = thread.shuffle_xor(float(lane), 3);
    y[64 + lane] = thread.shuffle_up(lane, 2);
    y[96 + lane] = thread.shuffle_down(std::int64_t{1} << lane, 1) == std::int64_t{1} << std::min(lane + 1, 31);
    y[128 + lane] = thread.shuffle(Pair{lane, 0.5F}, 7).a;
  }
};

TEST_CASE("Shuffles move the lanes' values", "[cuda]") {
  const auto y = run<32, Shuffles, double>(160);
  for (std::size_t lane = 0; lane < 32; ++lane) {
    REQUIRE(y[lane] == 1.5 * static_cast<double>((lane + 5) % 32));
    REQUIRE(y[32 + lane] == static_cast<double>(lane ^ 3));
    REQUIRE(y[64 + lane] == static_cast<double>(lane < 2 ? lane : lane - 2));
    REQUIRE(y[96 + lane] == 1);
    REQUIRE(y[128 + lane] == 7);
  }
}

struct Votes {
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, int* y) {
    const bool odd = thread.lane() % 2 == 1;
    y[thread.index()] = (thread.any(odd) ? 1 : 0) + (thread.all(odd) ? 2 : 0) + (thread.all(true) ? 4 : 0) +
                        (thread.any(false) ? 8 : 0) + (thread.ballot(odd) == 0xaaaaaaaaU ? 16 : 0) +
                        (thread.ballot(thread.warp() == 1) == (thread.warp() == 1 ? 0xffffffffU : 0) ? 32 : 0);
  }
};

TEST_CASE("Votes count the lanes of one warp", "[cuda]") {
  REQUIRE(run<64, Votes>(64) == DeviceVector<int>(64, 1 + 4 + 16 + 32));
}

struct Reductions {
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, int* y) {
    const int i = thread.index();
    y[i] = cuda::warp_reduce(thread, i, cuda::Sum{});
    y[128 + i] = cuda::warp_inclusive_scan(thread, i, cuda::Sum{});
    y[256 + i] = cuda::block_reduce(thread, i, cuda::Sum{}) + cuda::block_reduce(thread, 1, cuda::Sum{});
  }
};

TEST_CASE("Warps and blocks reduce and scan", "[cuda]") {
  const auto y = run<128, Reductions, int, cuda::SharedLayout<cuda::BlockReduceStorage<int>>>(384);
  for (int i = 0; i < 128; ++i) {
    const int first = i / 32 * 32;
    const auto at = static_cast<std::size_t>(i);
    REQUIRE(y[at] == first * 32 + 31 * 16);
    REQUIRE(y[128 + at] == (first + i) * (i - first + 1) / 2);
    REQUIRE(y[256 + at] == 127 * 64 + 128);
  }
}

/// Every thread gives its value to the thread before it, through shared memory.
struct Neighbours {
  struct Values : cuda::SharedArray<int, 256> {};
  using Shared = cuda::SharedLayout<cuda::SharedArray<float, 3>, Values>;
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, int* y) {
    auto values = thread.template shared<Values>();
    const int i = thread.index();
    for (int round = 0; round < 3; ++round) {
      values[i] = 10 * i + round;
      thread.sync_block();
      const int next = values[(i + 1) % 256];
      y[i] = (y[i] + next) * (round + 1);
      thread.sync_block();
    }
    *(values + i) = y[i];
    values[i] += 1;
    values[i] *= 2;
    y[i] = values[i];
  }
};

TEST_CASE("Shared memory and the block's barrier", "[cuda]") {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const auto y = run<256, Neighbours, int, Neighbours::Shared>(256, seed);
    for (int i = 0; i < 256; ++i) {
      const int next = 10 * ((i + 1) % 256);
      REQUIRE(y[static_cast<std::size_t>(i)] == 2 * ((((-1 + next) + next + 1) * 2 + next + 2) * 3 + 1));
    }
  }
}

/// A warp turns its values around in shared memory, with the warp's barrier alone.
struct WarpNeighbours {
  struct Values : cuda::SharedArray<int, 64> {};
  using Shared = cuda::SharedLayout<Values>;
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, int* y) {
    auto values = thread.template shared<Values>() + 32 * thread.warp();
    values[thread.lane()] = thread.index();
    thread.sync_warp();
    y[thread.index()] = values[31 - thread.lane()];
  }
};

TEST_CASE("Shared memory and the warp's barrier", "[cuda]") {
  const auto y = run<64, WarpNeighbours, int, WarpNeighbours::Shared>(64);
  for (int i = 0; i < 64; ++i) REQUIRE(y[static_cast<std::size_t>(i)] == i / 32 * 32 + 31 - i % 32);
}

struct Vectors {
  struct Values : cuda::SharedArray<float, 128> {};
  using Shared = cuda::SharedLayout<Values>;
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, float* y) {
    auto values = thread.template shared<Values>();
    const int at = 4 * thread.index();
    thread.store(values + at, thread.template load<4>(y + at));
    cuda::Vector<float, 4> x = thread.template load<4>(values + at);
    for (int i = 0; i < 4; ++i) x[i] *= 2;
    thread.store(y + at, x);
    thread.store(y + 128 + at, thread.template load_streaming<4>(static_cast<const float*>(y + 256 + at)));
  }
};

TEST_CASE("Vectors move between global and shared memory", "[cuda]") {
  const auto y = run<32, Vectors, float, Vectors::Shared>(384);
  REQUIRE(std::vector<float>(y.begin(), y.begin() + 128) == std::vector<float>(128, -2));
  REQUIRE(std::vector<float>(y.begin() + 128, y.end()) == std::vector<float>(256, -1));
}

struct Atomics {
  struct Sum : cuda::SharedArray<float, 1> {};
  using Shared = cuda::SharedLayout<Sum>;
  float* total;
  unsigned* tickets;
  static constexpr int threads = 64;
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    auto sum = thread.template shared<Sum>();
    if (thread.index() == 0) sum[0] = 0;
    thread.sync_block();
    thread.atomic_add(sum, 2.0F);
    thread.atomic_add(sum, 1.0F);
    thread.sync_block();
    if (thread.index() == 63) thread.atomic_add(total, sum[0]);
    const unsigned ticket = thread.atomic_add(tickets + 1, 1U);
    tickets[2 + ticket] = 1;
  }
};

TEST_CASE("Atomic additions need no barrier among themselves, and return what was there", "[cuda]") {
  DeviceVector<float> total(1);
  DeviceVector<unsigned> tickets(2 + 3 * 64);
  run_on_device({3}, Atomics{total.data(), tickets.data()});
  REQUIRE(total[0] == 3 * 64 * 3);
  REQUIRE(tickets[1] == 192);
  REQUIRE(std::count(tickets.begin() + 2, tickets.end(), 1U) == 192);
}

/// A pipeline of two stages: while a tile is summed, the next one is under way.
struct Pipeline {
  struct Tiles : cuda::SharedArray<float, 2 * 128> {};
  using Shared = cuda::SharedLayout<Tiles>;
  const float* x;
  float* y;
  int count;
  static constexpr int threads = 32;

  template <class Thread>
  XLSTM_DEVICE void copy(Thread& thread, int tile) const {
    const int first = tile * 128 + 4 * thread.index();
    const int valid = std::clamp(count - first, 0, 4);
    thread.template copy_async<4>(thread.template shared<Tiles>() + tile % 2 * 128 + 4 * thread.index(),
                                  valid > 0 ? x + first : x, valid);
    thread.copy_async_commit();
  }
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    auto tiles = thread.template shared<Tiles>();
    const int last = (count + 127) / 128;
    float sum = 0;
    copy(thread, 0);
    for (int tile = 0; tile < last; ++tile) {
      copy(thread, tile + 1);
      thread.template copy_async_wait<1>();
      thread.sync_block();
      for (int i = 0; i < 4; ++i) sum += tiles[tile % 2 * 128 + (4 * thread.index() + 37 + i) % 128];
      thread.sync_block();
    }
    thread.template copy_async_wait<0>();
    sum = cuda::warp_reduce(thread, sum, cuda::Sum{});
    if (thread.index() == 0) *y = sum;
  }
};

TEST_CASE("Asynchronous copies arrive with their wait, zeros after what is valid", "[cuda]") {
  for (const int count : {1, 127, 128, 130, 1001}) {
    DeviceVector<float> x(static_cast<std::size_t>((count + 3) / 4 * 4), 0.0F);
    for (int i = 0; i < count; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>(i + 1);
    DeviceVector<float> y(1, -1.0F);
    run_on_device({}, Pipeline{x.data(), y.data(), count}, static_cast<std::uint64_t>(count));
    REQUIRE(y[0] == static_cast<float>(count * (count + 1) / 2));
  }
}

#if !defined(XLSTM_ON_DEVICE)

struct Throws {
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, int*) {
    if (thread.index() == 40) throw std::domain_error("thread 40");
    const std::vector<int> freed(100);
    thread.sync_block();
  }
};

TEST_CASE("An exception in a kernel reaches the caller, and the other threads are unwound", "[cuda]") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    REQUIRE_THROWS_AS((run<64, Throws>(1, seed)), std::domain_error);
    REQUIRE(run<64, Votes>(64, seed) == DeviceVector<int>(64, 53));
  }
}

#endif

TEST_CASE("All of them, in one kernel", "[cuda]") {
  using xlstm::tests::EveryFunction;
  DeviceVector<cuda::Vector<float, 4>> x(64);
  for (int i = 0; i < 256; ++i) x[static_cast<std::size_t>(i / 4)][i % 4] = static_cast<float>(i);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    DeviceVector<int> passed(1);
    run_on_device({2}, EveryFunction{x.data()->values, passed.data()}, seed);
    REQUIRE(passed[0] == 2 * EveryFunction::threads * EveryFunction::checks);
  }
}

#if !defined(XLSTM_ON_DEVICE)

TEST_CASE("A grid that CUDA would not take is refused", "[cuda]") {
  REQUIRE_THROWS_WITH((run_on_device({1, 65536}, Places{nullptr})),
                      Contains("Places with 1 × 65536 × 1 blocks; expected none negative, and at most 65535"));
  REQUIRE_THROWS_AS((run_on_device({-1}, Places{nullptr})), xlstm::Error);
}

#endif

struct Layouts {
  struct A : cuda::SharedArray<xlstm::bf16, 3> {};
  struct B : cuda::SharedArray<float, 2, 128> {};
  struct C : cuda::SharedArray<char, 1> {};
  struct D : cuda::SharedArray<double, 3> {};
};

TEST_CASE("Shared arrays lie one after another, aligned; those of an overlay in the same place", "[cuda]") {
  using S = cuda::SharedLayout<Layouts::A, Layouts::B, Layouts::C>;
  STATIC_REQUIRE(S::offset<Layouts::A>() == 0);
  STATIC_REQUIRE(S::offset<Layouts::B>() == 128);
  STATIC_REQUIRE(S::offset<Layouts::C>() == 144);
  STATIC_REQUIRE(S::bytes == 145);
  STATIC_REQUIRE(S::index<Layouts::C>() == 2);
  STATIC_REQUIRE(!S::contains<Layouts::D>);
  using O = cuda::SharedLayout<Layouts::C, cuda::SharedOverlay<Layouts::D, cuda::SharedLayout<Layouts::A, Layouts::B>>>;
  STATIC_REQUIRE(O::offset<Layouts::D>() == 128);
  STATIC_REQUIRE(O::offset<Layouts::A>() == 128);
  STATIC_REQUIRE(O::offset<Layouts::B>() == 256);
  STATIC_REQUIRE(O::index<Layouts::B>() == 3);
  STATIC_REQUIRE(O::bytes == 264);
  STATIC_REQUIRE(cuda::SharedLayout<>::bytes == 0);
  STATIC_REQUIRE(cuda::SharedOf<Places>::bytes == 0);
}

/// Two phases that use the same memory, twice.
struct Phases {
  struct First : cuda::SharedArray<int, 64> {};
  struct Second : cuda::SharedArray<float, 32> {};
  struct Third : cuda::SharedArray<int, 32> {};
  using Shared = cuda::SharedLayout<cuda::SharedOverlay<First, cuda::SharedLayout<Second, Third>>>;
  template <class Thread>
  XLSTM_DEVICE static void run(Thread& thread, int* y) {
    auto first = thread.template shared<First>();
    auto third = thread.template shared<Third>();
    const int i = thread.index();
    for (int round = 0; round < 2; ++round) {
      first[i] = i + round;
      thread.sync_block();
      const int x = first[63 - i];
      thread.sync_block();
      if (i < 32) thread.template shared<Second>()[i] = 1;
      if (i < 32) third[i] = x;
      thread.sync_block();
      y[i] = third[i % 32];
      thread.sync_block();
    }
  }
};

TEST_CASE("Phases of a kernel share memory", "[cuda]") {
  const auto y = run<64, Phases, int, Phases::Shared>(64);
  for (int i = 0; i < 64; ++i) REQUIRE(y[static_cast<std::size_t>(i)] == 64 - i % 32);
}

}  // namespace thread_tests
