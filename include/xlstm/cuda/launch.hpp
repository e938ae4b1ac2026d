// SPDX-License-Identifier: Apache-2.0
// Running a kernel: cuda::Stream on a GPU, testing::EmulatedStream (testing/emulate.hpp) on the host. Operations take
// either, as a `Launcher`, so that the code around kernels is tested with them.
#pragma once

#include "xlstm/core/error.hpp"
#include "xlstm/cuda/gpu_thread.hpp"
#include "xlstm/cuda/kernel.hpp"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

namespace xlstm::cuda {

namespace detail {
struct NoKernel {
  static constexpr int threads = 32;
  template <class Thread>
  XLSTM_DEVICE void operator()(Thread&) const {}
};
}  // namespace detail

/// Runs kernels, one after another in the order of the launches. A grid without blocks is no launch at all.
template <class L>
concept Launcher = requires(L& launcher, GridSize grid, const detail::NoKernel& kernel) {
  launcher.launch(grid, kernel);
};

#if defined(__CUDACC__)

/// Throws xlstm::Error if a call of CUDA's failed: what was called, on which device, and what CUDA says.
inline void check(cudaError_t status, const std::string& call) {
  if (status == cudaSuccess) return;
  int device = 0;
  cudaDeviceProp properties{};
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    fail("cuda: ", call, ": there is no usable device: ", cudaGetErrorString(status));
  }
  fail("cuda: ", call, " on device ", device, " (", properties.name, "): ", cudaGetErrorString(status));
}

namespace detail {
template <class K>
constexpr int least_blocks() {
  if constexpr (requires { K::blocks_per_multiprocessor; }) return K::blocks_per_multiprocessor;
  return 1;
}
}  // namespace detail

/// The entry of every kernel on a GPU.
template <class K>
__global__ void __launch_bounds__(K::threads, detail::least_blocks<K>()) run_kernel(const __grid_constant__ K kernel) {
  GpuThread<K> thread;
  kernel(thread);
}

/// Launches into a CUDA stream, asynchronously: a fault inside a kernel is reported by a later call.
class Stream {
 public:
  explicit Stream(cudaStream_t stream = nullptr) : stream_(stream) {}
  cudaStream_t get() const { return stream_; }

  template <class K>
  void launch(GridSize grid, const K& kernel) const {
    check_kernel<K>();
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    constexpr Index shared_bytes = SharedOf<K>::bytes;
    if constexpr (shared_bytes > 48 * 1024) {
      check(cudaFuncSetAttribute(run_kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes)),
            type_name<K>() + ": " + std::to_string(shared_bytes) + " bytes of shared memory");
    }
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
    run_kernel<K><<<blocks, K::threads, shared_bytes, stream_>>>(kernel);
    check(cudaGetLastError(), "launch of " + type_name<K>() + " with " + std::to_string(grid.x) + " × " +
                                  std::to_string(grid.y) + " × " + std::to_string(grid.z) + " blocks");
  }
  /// Waits for all that was launched.
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_;
};
static_assert(Launcher<Stream>);

#endif

}  // namespace xlstm::cuda
