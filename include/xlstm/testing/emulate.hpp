// SPDX-License-Identifier: Apache-2.0
// Kernels on the host: testing::emulate(grid, kernel, {.seed = …}) runs the function object that a GPU would run, block
// after block, a fiber for each thread, in an order of blocks and threads that the seed decides; and it checks.
// Needs Boost.Context (xlstm::device_emulation in CMake). What a mistake in a kernel comes to:
//
// found in every run that reaches it, whatever the seed, as an EmulationError that names block, thread and place:
//   - a read of shared memory that the block has not written;
//   - an access beyond a shared array; a vector, copy or matrix row that is not aligned;
//   - a barrier of the block or warp that is missing between accesses to shared memory, of which one writes: who
//     accessed what is followed, so it need not do harm in the run (testing/emulated_array.hpp); the barrier, too, that
//     is missing between the uses of memory by different arrays;
//   - a barrier that some threads of the block miss, or that they wait at in another place, and a shuffle, vote,
//     matrix load or product that some lanes of the warp miss or do in another place;
//   - asynchronous copies: memory used before the wait, a source that changes before it, a wait that is missing at all.
// found by AddressSanitizer, if compiled with it: an access beyond global memory.
// found only if the values come out wrong under a seed that is tried: threads or blocks that depend on each other
//   through global memory without an order; atomic additions whose order matters.
// not found: what the hardware alone does wrong, such as too much shared memory for the device, or registers spilt.
// A kernel that spins until another thread writes does not end here.
#pragma once

#include <map>
#include <numeric>

#include "xlstm/cuda/launch.hpp"
#include "xlstm/testing/emulated_thread.hpp"

namespace xlstm::testing {

struct EmulationOptions {
  std::uint64_t seed = 0;  ///< of the order of blocks and threads
};

/// Runs the kernel for every block of the grid. Throws EmulationError for what is wrong with the kernel, xlstm::Error
/// for a grid that CUDA would not take, and whatever the kernel throws.
template <class K>
void emulate(cuda::GridSize grid, const K& kernel, const EmulationOptions& options = {}) {
  cuda::check_kernel<K>();
  constexpr int most = 65535;
  if (grid.x < 0 || grid.y < 0 || grid.z < 0 || grid.y > most || grid.z > most) {
    fail("cuda: launch of ", cuda::type_name<K>(), " with ", grid.x, " × ", grid.y, " × ", grid.z,
         " blocks; expected none negative, and at most ", most, " in the second and third dimension");
  }
  std::vector<detail::EmulatedArray> arrays;
  std::map<int, std::shared_ptr<detail::Overlay>> overlays;
  cuda::SharedOf<K>::for_each([&]<class Array>(int overlay, int alternative) {
    arrays.emplace_back(cuda::type_name<Array>(), Array::count, static_cast<Index>(sizeof(typename Array::value_type)));
    if (overlay < 0) return;
    auto& shared = overlays[overlay];
    if (!shared) shared = std::make_shared<detail::Overlay>();
    arrays.back().join(shared, alternative);
  });
  detail::EmulatedBlock block(cuda::type_name<K>(), K::threads, grid, std::move(arrays));
  const std::function<void(int)> run_thread = [&](int index) {
    EmulatedThread<K> thread(block, index);
    kernel(thread);
  };

  std::vector<Index> order(static_cast<std::size_t>(Index{grid.x} * grid.y * grid.z));
  std::iota(order.begin(), order.end(), Index{0});
  Random random(options.seed);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  for (const Index at : order) {
    const cuda::BlockIndex index{static_cast<int>(at % grid.x), static_cast<int>(at / grid.x % grid.y),
                                 static_cast<int>(at / grid.x / grid.y)};
    block.run(index, random(), run_thread);
  }
}

/// A cuda::Launcher on the host. Every launch has a schedule of its own; `seed` decides them all.
class EmulatedStream {
 public:
  explicit EmulatedStream(std::uint64_t seed = 0) : seeds_(seed) {}
  template <class K>
  void launch(cuda::GridSize grid, const K& kernel) {
    emulate(grid, kernel, {.seed = seeds_()});
  }
  void synchronize() const {}

 private:
  Random seeds_;
};
static_assert(cuda::Launcher<EmulatedStream>);

}  // namespace xlstm::testing
