// SPDX-License-Identifier: Apache-2.0
// Where the kernels' tests run: on the emulated device, or, with XLSTM_ON_DEVICE and compiled by nvcc, on a GPU. The
// tests are the same: they launch into a DeviceStream, or have a DeviceRuntime for a backend, and what a kernel is
// given by pointer lies in a DeviceVector.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#if defined(XLSTM_ON_DEVICE)
#include "xlstm/cuda/launch.hpp"
#include "xlstm/cuda/runtime.hpp"
#else
#include "xlstm/testing/emulate.hpp"
#include "xlstm/testing/emulated_runtime.hpp"
#endif

namespace xlstm::tests {

#if defined(XLSTM_ON_DEVICE)

using DeviceRuntime = cuda::Runtime;

/// The host's memory, page-locked, which the device reads and writes where it is (CUDA programming guide, "Mapped
/// Memory"): slow, and the same pointers on both sides.
template <class T>
struct SharedAllocator {
  using value_type = T;
  SharedAllocator() = default;
  template <class U>
  explicit SharedAllocator(const SharedAllocator<U>&) {}
  T* allocate(std::size_t count) {
    void* memory = nullptr;
    if (cudaMallocHost(&memory, (count > 0 ? count : 1) * sizeof(T)) != cudaSuccess) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) noexcept { static_cast<void>(cudaFreeHost(memory)); }
  friend bool operator==(const SharedAllocator&, const SharedAllocator&) { return true; }
};
template <class T>
using DeviceVector = std::vector<T, SharedAllocator<T>>;

/// Every launch is done when it returns. A GPU has one order of blocks and threads, its own: no seed changes it.
class DeviceStream {
 public:
  explicit DeviceStream(std::uint64_t /*seed*/ = 0) {}
  template <class K>
  void launch(cuda::GridSize grid, const K& kernel) {
    stream_.launch(grid, kernel);
    stream_.synchronize();
  }

 private:
  cuda::Stream stream_;
};

#else

using DeviceRuntime = testing::EmulatedRuntime;
using DeviceStream = testing::EmulatedStream;
template <class T>
using DeviceVector = std::vector<T>;

#endif

/// One launch of a kernel; `seed` is of the emulation's order of blocks and threads.
template <class K>
void run_on_device(cuda::GridSize grid, const K& kernel, std::uint64_t seed = 0) {
  DeviceStream stream(seed);
  stream.launch(grid, kernel);
}

}  // namespace xlstm::tests
