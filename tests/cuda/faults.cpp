// SPDX-License-Identifier: Apache-2.0
// Mistakes in kernels, planted, and what the emulation says about each (the list is in testing/emulate.hpp). What is
// found with certainty is found under every seed that is tried.
#include <set>
#include <vector>

#include "catch.hpp"
#include "xlstm/testing/emulate.hpp"
#if defined(XLSTM_ADDRESS_SANITIZER)
#include <sys/wait.h>
#include <unistd.h>
#endif

using xlstm::bf16;
using xlstm::testing::emulate;
using xlstm::testing::EmulationError;

namespace {

namespace cuda = xlstm::cuda;

struct Floats : cuda::SharedArray<float, 256> {};
struct Matrix : cuda::SharedArray<bf16, 16 * 16> {};
struct Early : cuda::SharedArray<float, 64> {};
struct Late : cuda::SharedArray<int, 64> {};

/// The fault F::run(thread, memory), for 64 threads; `memory` is 256 floats in global memory.
template <class F>
struct Faulty {
  float* memory;
  static constexpr int threads = 64;
  using Shared = cuda::SharedLayout<Floats, Matrix, cuda::SharedOverlay<Early, Late>>;
  template <cuda::DeviceThread Thread>
  void operator()(Thread& thread) const {
    F::run(thread, memory);
  }
};

/// What is said about the fault under every seed.
template <class F>
std::set<std::string> messages() {
  std::set<std::string> all;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    std::vector<float> memory(256);
    try {
      emulate({}, Faulty<F>{memory.data()}, {.seed = seed});
      all.insert("nothing");
    } catch (const EmulationError& error) {
      all.insert(error.what());
    }
  }
  return all;
}

/// Every message says this, and names the kernel and the block.
template <class F>
void found(const std::string& text, const std::string& more = "") {
  for (const auto& message : messages<F>()) {
    CHECK_THAT(message,
               Contains(text) && Contains(more) && Contains("Faulty<") && Contains(", block (0, 0, 0): thread "));
  }
}

#define XLSTM_FAULT(Name)                                       \
  struct Name {                                                 \
    template <class Thread>                                     \
    static void run(Thread& thread, [[maybe_unused]] float* y); \
  };                                                            \
  template <class Thread>                                       \
  void Name::run(Thread& thread, [[maybe_unused]] float* y)

// ---- order ----

XLSTM_FAULT(NoBarrier) {
  auto x = thread.template shared<Floats>();
  x[thread.index()] = 1;
  y[thread.index()] = x[(thread.index() + 32) % 64];
}
XLSTM_FAULT(NoBarrierBeforeTheNextRound) {
  auto x = thread.template shared<Floats>();
  for (int round = 0; round < 2; ++round) {
    x[thread.index()] = 1;
    thread.sync_block();
    y[thread.index()] = x[(thread.index() + 32) % 64];
  }
}
XLSTM_FAULT(WarpBarrierBetweenWarps) {
  auto x = thread.template shared<Floats>();
  x[thread.index()] = 1;
  thread.sync_warp();
  y[thread.index()] = x[(thread.index() + 32) % 64];
}
XLSTM_FAULT(NoWarpBarrier) {
  auto x = thread.template shared<Floats>();
  x[thread.index()] = 1;
  thread.shuffle(1, 0);  // orders nothing
  y[thread.index()] = x[thread.index() ^ 1];
}
XLSTM_FAULT(TwoWriters) {
  auto x = thread.template shared<Floats>();
  x[thread.index() / 2] = 1;
}
XLSTM_FAULT(AtomicsAndAPlainRead) {
  auto x = thread.template shared<Floats>();
  if (thread.index() == 0) x[0] = 0;
  thread.sync_block();
  thread.atomic_add(x, 1.0F);
  if (thread.index() == 5) y[0] = x[0];
}

TEST_CASE("A missing barrier is found, whether it does harm or not", "[cuda]") {
  const std::string block = " without a barrier of the block in between";
  for (const auto& message : messages<NoBarrier>()) {
    CHECK_THAT(message, Contains("Floats[") && (Contains(block) || Contains("which nobody has written")));
  }
  found<NoBarrierBeforeTheNextRound>("Floats[", block);
  for (const auto& message : messages<WarpBarrierBetweenWarps>()) {
    CHECK_THAT(message, Contains("Floats[") && (Contains(block) || Contains("which nobody has written")));
  }
  for (const auto& message : messages<NoWarpBarrier>()) {
    CHECK_THAT(message, Contains(" without a barrier of the warp or block in between"));
  }
  found<TwoWriters>("writes", " wrote without a barrier of the warp or block");
  found<AtomicsAndAPlainRead>("Floats[0]", " without a barrier of the ");
}

// ---- what is in shared memory ----

XLSTM_FAULT(Unwritten) {
  auto x = thread.template shared<Floats>();
  if (thread.index() != 17) x[thread.index()] = 1;
  thread.sync_block();
  y[thread.index()] = x[thread.index()];
}
XLSTM_FAULT(PartlyWrittenVector) {
  auto x = thread.template shared<Floats>();
  if (thread.index() < 63) x[thread.index()] = 1;
  thread.sync_block();
  if (thread.index() < 16) thread.store(y + 4 * thread.index(), thread.template load<4>(x + 4 * thread.index()));
}
XLSTM_FAULT(UnwrittenSum) { thread.atomic_add(thread.template shared<Floats>(), 1.0F); }
struct FromTheBlockBefore {
  float* y;
  static constexpr int threads = 32;
  using Shared = cuda::SharedLayout<Floats>;
  template <cuda::DeviceThread Thread>
  void operator()(Thread& thread) const {
    auto x = thread.template shared<Floats>();
    if (*y == 0) x[thread.index()] = 1;
    thread.sync_block();
    *y = x[thread.index()];
  }
};

TEST_CASE("A read of shared memory that nobody has written is found", "[cuda]") {
  found<Unwritten>("thread 17 reads ", "Floats[17], which nobody has written");
  found<PartlyWrittenVector>("thread 15 reads ", "Floats[63], which nobody has written");
  found<UnwrittenSum>("Floats[0], which nobody has written");
  float y = 0;
  REQUIRE_THROWS_WITH(emulate({2}, FromTheBlockBefore{&y}), Contains("which nobody has written"));
}

XLSTM_FAULT(OverlayWithoutBarrier) {
  thread.template shared<Early>()[thread.index()] = 1;
  thread.template shared<Late>()[thread.index()] = 1;
}
XLSTM_FAULT(OverlayRemembered) {
  auto early = thread.template shared<Early>();
  early[thread.index()] = 1;
  thread.sync_block();
  thread.template shared<Late>()[thread.index()] = 1;
  thread.sync_block();
  y[thread.index()] = early[thread.index()];
}
XLSTM_FAULT(OverlayUnderACopy) {
  thread.template copy_async<1>(thread.template shared<Early>() + thread.index(), y + thread.index());
  thread.copy_async_commit();
  thread.sync_block();
  thread.template shared<Late>()[thread.index()] = 1;
}

TEST_CASE("Mistakes with memory that arrays share are found", "[cuda]") {
  found<OverlayWithoutBarrier>(", whose memory is that of ", ", without a barrier of the block in between");
  found<OverlayRemembered>("Early[", "which nobody has written");
  found<OverlayUnderACopy>("Late, whose memory is that of ", "copies asynchronously and has not waited");
}

// ---- bounds ----

XLSTM_FAULT(ReadsBeyond) {
  auto x = thread.template shared<Floats>();
  x[thread.index()] = 1;
  if (thread.index() == 3) y[0] = x[256];
}
XLSTM_FAULT(WritesBefore) {
  if (thread.index() == 40) thread.template shared<Floats>()[-1] = 1;
}
XLSTM_FAULT(VectorBeyond) {
  if (thread.index() == 3) thread.store(thread.template shared<Floats>() + 256, cuda::Vector<float, 4>{});
}
XLSTM_FAULT(CopyBeyond) {
  if (thread.index() == 3) thread.template copy_async<4>(thread.template shared<Floats>() + 256, y);
}
XLSTM_FAULT(UnalignedShared) {
  if (thread.index() == 3) thread.store(thread.template shared<Floats>() + 2, cuda::Vector<float, 4>{});
}
XLSTM_FAULT(UnalignedGlobal) { thread.store(y + 1, cuda::Vector<float, 4>{}); }
XLSTM_FAULT(UnalignedRow) {
  std::uint32_t registers[1];
  thread.load_matrices(registers, thread.template shared<Matrix>() + 12);
}

TEST_CASE("Accesses beyond a shared array, or not aligned, are found", "[cuda]") {
  found<ReadsBeyond>("thread 3 reads ", "Floats[256], beyond its 256 elements");
  found<WritesBefore>("thread 40 writes ", "Floats[-1], beyond its 256 elements");
  found<VectorBeyond>("thread 3 writes ", "Floats[256], beyond its 256 elements");
  found<CopyBeyond>("thread 3 copies to ", "Floats[256], beyond its 256 elements");
  found<UnalignedShared>("thread 3 stores ", "Floats[2], which is not at a multiple of 16 bytes");
  found<UnalignedGlobal>("stores 16 bytes at an address that is not a multiple of them");
  found<UnalignedRow>("Matrix[12], which is not at a multiple of 16 bytes");
}

#if defined(XLSTM_ADDRESS_SANITIZER)
XLSTM_FAULT(GlobalBeyond) { y[thread.index() + 193] = 1; }

/// What a process of its own says before it ends with an error.
template <class F>
std::string last_words(F&& f) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(ends[1], 2);
    f();
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  REQUIRE(status != 0);
  return text;
}

TEST_CASE("AddressSanitizer finds an access beyond global memory, on the fibers too", "[cuda]") {
  const auto text = last_words([] {
    std::vector<float> memory(256);
    emulate({}, Faulty<GlobalBeyond>{memory.data()});
  });
  // Not by the kernel's name: only a machine that has a symbolizer's program can tell it.
  REQUIRE_THAT(text, Contains("heap-buffer-overflow") && Contains("WRITE of size 4") &&
                         Contains("0 bytes after 1024-byte region"));
}
#endif

// ---- asynchronous copies ----

XLSTM_FAULT(NoWait) {
  auto x = thread.template shared<Floats>() + 4 * thread.index();
  thread.template copy_async<4>(x, y + 4 * thread.index());
  thread.copy_async_commit();
  y[thread.index()] = x[0];
}
XLSTM_FAULT(NoCommit) {
  auto x = thread.template shared<Floats>() + 4 * thread.index();
  thread.template copy_async<4>(x, y + 4 * thread.index());
  thread.template copy_async_wait<0>();
  y[thread.index()] = x[0];
}
XLSTM_FAULT(WaitsForTheGroupBefore) {
  auto x = thread.template shared<Floats>() + 4 * thread.index();
  thread.template copy_async<2>(x, y + 4 * thread.index());
  thread.copy_async_commit();
  thread.template copy_async<2>(x + 2, y + 4 * thread.index() + 2);
  thread.copy_async_commit();
  thread.template copy_async_wait<1>();
  y[thread.index()] = x[0] + x[2];
}
XLSTM_FAULT(WaitWithoutBarrier) {
  auto x = thread.template shared<Floats>();
  thread.template copy_async<1>(x + thread.index(), y + thread.index());
  thread.copy_async_commit();
  thread.template copy_async_wait<0>();
  y[64 + thread.index()] = x[thread.index() ^ 1];
}
XLSTM_FAULT(NeverWaits) {
  thread.template copy_async<4>(thread.template shared<Floats>() + 4 * thread.index(), y + 4 * thread.index());
  thread.copy_async_commit();
}
XLSTM_FAULT(SourceChanges) {
  thread.template copy_async<1>(thread.template shared<Floats>() + thread.index(), y + thread.index());
  thread.copy_async_commit();
  y[thread.index()] = 3;
  thread.template copy_async_wait<0>();
}
XLSTM_FAULT(CopyOverWhatIsRead) {
  auto x = thread.template shared<Floats>();
  x[thread.index()] = 1;
  thread.sync_block();
  y[thread.index()] = x[thread.index() ^ 1];
  thread.template copy_async<1>(x + thread.index(), y + 64 + thread.index());
  thread.copy_async_commit();
  thread.template copy_async_wait<0>();
}

TEST_CASE("Mistakes with asynchronous copies are found", "[cuda]") {
  const std::string waiting = " copies asynchronously and has not waited";
  found<NoWait>(" reads ", waiting);
  found<NoCommit>(" reads ", waiting);
  found<WaitsForTheGroupBefore>(" reads ", waiting);
  for (const auto& message : messages<WaitWithoutBarrier>()) {
    CHECK_THAT(message, Contains("Floats[") && (Contains(waiting) || Contains("which nobody has written") ||
                                                Contains("without a barrier of the warp or block")));
  }
  found<NeverWaits>("without having waited for its asynchronous copy to ", "Floats[");
  found<SourceChanges>("from memory that changed before the wait");
  for (const auto& message : messages<CopyOverWhatIsRead>()) {
    CHECK_THAT(message, Contains("Floats[") && (Contains(waiting) || Contains("without a barrier of the ")));
  }
}

// ---- divergence ----

XLSTM_FAULT(LeavesBeforeTheBarrier) {
  if (thread.index() == 37) return;
  thread.sync_block();
}
XLSTM_FAULT(TwoBarriers) {
  if (thread.index() < 32) {
    thread.sync_block();
  } else {
    thread.sync_block();
  }
}
XLSTM_FAULT(OneBarrierTooMany) {
  thread.sync_block();
  if (thread.warp() == 1) thread.sync_block();
}
XLSTM_FAULT(ShuffleOfHalfAWarp) {
  if (thread.lane() < 16) y[thread.index()] = thread.shuffle_xor(1.0F, 1);
}
XLSTM_FAULT(ShuffleBesideABarrier) {
  if (thread.lane() < 16) y[thread.index()] = thread.shuffle_xor(1.0F, 1);
  thread.sync_block();
}
XLSTM_FAULT(TwoShuffles) {
  if (thread.lane() % 2 == 0) {
    y[thread.index()] = thread.shuffle(1.0F, 1);
  } else {
    y[thread.index()] = thread.shuffle(1.0F, 1);
  }
}
XLSTM_FAULT(ShuffleAndVote) {
  if (thread.lane() % 2 == 0) {
    thread.any(true);
  } else {
    thread.sync_warp();
  }
}
XLSTM_FAULT(ProductOfPartOfAWarp) {
  cuda::FragmentC c;
  cuda::FragmentA<bf16> a{};
  cuda::FragmentB<bf16> b{};
  if (thread.lane() != 9) thread.mma(c, a, b);
}
XLSTM_FAULT(NoSuchLane) { thread.shuffle(1, thread.lane() + 1); }

TEST_CASE("Barriers that not all threads reach are found; nothing hangs", "[cuda]") {
  found<LeavesBeforeTheBarrier>("thread 37", "the barrier in ");
  found<TwoBarriers>("waits at the barrier in ", "faults.cpp:");
  found<OneBarrierTooMany>("waits at the barrier in ", "the kernel");
}

TEST_CASE("Warp functions that not all lanes call are found; nothing hangs", "[cuda]") {
  found<ShuffleOfHalfAWarp>("shuffle_xor in ", " the kernel");
  found<ShuffleBesideABarrier>("shuffle_xor in ", "waits at the barrier in ");
  found<TwoShuffles>("calls shuffle in ", " of its warp calls shuffle in ");
  found<ShuffleAndVote>("any in ", "sync_warp in ");
  found<ProductOfPartOfAWarp>("mma in ", "thread ");
  found<NoSuchLane>("shuffles from lane 32");
}

// ---- global memory ----

/// Every block adds to what the blocks before it left: right only in one order.
struct BlocksThatDepend {
  float* y;
  static constexpr int threads = 32;
  template <cuda::DeviceThread Thread>
  void operator()(Thread& thread) const {
    const int block = thread.block_index().x;
    if (thread.index() == 0) y[block] = block == 0 ? 1 : y[block - 1] + 1;
  }
};
/// Threads of a block that hand something on through global memory without a barrier.
XLSTM_FAULT(ThreadsThatDepend) {
  y[thread.index()] = 1;
  y[64 + thread.index()] = y[(thread.index() + 32) % 64];
}

TEST_CASE("What depends on an order that nobody gave comes out wrong under some seeds", "[cuda]") {
  int wrong = 0;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    std::vector<float> y(4);
    emulate({4}, BlocksThatDepend{y.data()}, {.seed = seed});
    wrong += y[3] != 4;
  }
  REQUIRE(wrong > 8);
  wrong = 0;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    std::vector<float> y(256);
    emulate({}, Faulty<ThreadsThatDepend>{y.data()}, {.seed = seed});
    wrong += std::vector<float>(y.begin() + 64, y.begin() + 128) != std::vector<float>(64, 1.0F);
  }
  REQUIRE(wrong == 16);
}

}  // namespace
