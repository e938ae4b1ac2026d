// SPDX-License-Identifier: Apache-2.0
// Measuring on a GPU: memory with random values, times by events, and the two ceilings that everything is compared
// with: a copy inside the device, and a large product.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/runtime.hpp"

namespace xlstm::bench {

/// x[i] = mean + deviation · u, with u uniform of variance 1; each a function of the seed and i.
template <class T>
struct RandomValuesKernel {
  T* x;
  Index count;
  float mean;
  float deviation;
  std::uint64_t seed;
  static constexpr int threads = 256;
  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index stride = Index{thread.block_count().x} * threads;
    for (Index i = Index{thread.block_index().x} * threads + thread.index(); i < count; i += stride) {
      std::uint64_t bits = seed + static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15U;
      bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9U;
      bits = (bits ^ bits >> 27) * 0x94d049bb133111ebU;
      const float u = static_cast<float>((bits ^ bits >> 31) >> 40) * 0x1p-24F;
      x[i] = cuda::to_element<T>(mean + deviation * 3.4641016F * (u - 0.5F));
    }
  }
};

/// Memory of the device, freed with the object. The values are random, so that no unit gets off lightly.
template <class T>
class DeviceValues {
 public:
  DeviceValues(Index count, float deviation = 1, float mean = 0) : count_(count) {
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, static_cast<std::size_t>(std::max<Index>(count, 1)) * sizeof(T)), "cudaMalloc");
    data_.reset(static_cast<T*>(memory));
    if constexpr (std::is_floating_point_v<T> || sizeof(T) == 2) {
      static std::uint64_t seed = 0;
      cuda::Stream().launch({1024}, RandomValuesKernel<T>{data_.get(), count, mean, deviation, ++seed << 40});
    } else {
      cuda::check(cudaMemset(memory, 0, static_cast<std::size_t>(count) * sizeof(T)), "cudaMemset");
    }
  }
  explicit DeviceValues(const std::vector<T>& host) : DeviceValues(static_cast<Index>(host.size())) {
    cuda::check(cudaMemcpy(data_.get(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  T* data() const { return data_.get(); }
  template <Index Cols>
  MatrixView<T, Cols> rows() const {
    return {data(), count_ / Cols};
  }
  MatrixView<T> rows(Index columns) const { return {data(), count_ / columns, columns}; }

 private:
  struct Free {
    void operator()(T* memory) const { static_cast<void>(cudaFree(memory)); }
  };
  std::unique_ptr<T, Free> data_;
  Index count_;
};

/// A launcher that measures each launch; its seconds come in the order of the launches.
class TimedStream {
 public:
  TimedStream() = default;
  TimedStream(const TimedStream&) = delete;
  TimedStream& operator=(const TimedStream&) = delete;
  ~TimedStream() { clear(); }

  template <class K>
  void launch(cuda::GridSize grid, const K& kernel) {
    mark();
    stream_.launch(grid, kernel);
    mark();
  }
  /// Of all launches since the last call.
  std::vector<double> seconds() {
    stream_.synchronize();
    std::vector<double> all;
    for (std::size_t i = 0; i + 1 < events_.size(); i += 2) {
      float milliseconds = 0;
      cuda::check(cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]), "cudaEventElapsedTime");
      all.push_back(1e-3 * static_cast<double>(milliseconds));
    }
    clear();
    return all;
  }

 private:
  void mark() {
    cudaEvent_t event = nullptr;
    cuda::check(cudaEventCreate(&event), "cudaEventCreate");
    events_.push_back(event);
    cuda::check(cudaEventRecord(event, stream_.get()), "cudaEventRecord");
  }
  void clear() {
    for (cudaEvent_t event : events_) static_cast<void>(cudaEventDestroy(event));
    events_.clear();
  }
  cuda::Stream stream_;
  std::vector<cudaEvent_t> events_;
};

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

/// Seconds of one run of work(stream): the median of five batches, each of about 20 ms.
template <class Work>
double seconds(Work&& work) {
  cuda::Stream stream;
  cudaEvent_t begin = nullptr, end = nullptr;
  cuda::check(cudaEventCreate(&begin), "cudaEventCreate");
  cuda::check(cudaEventCreate(&end), "cudaEventCreate");
  const auto batch = [&](int runs) {
    cuda::check(cudaEventRecord(begin, stream.get()), "cudaEventRecord");
    for (int i = 0; i < runs; ++i) work(stream);
    cuda::check(cudaEventRecord(end, stream.get()), "cudaEventRecord");
    stream.synchronize();
    float milliseconds = 0;
    cuda::check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds) / runs;
  };
  batch(1);  // loads the kernel
  const int runs = std::clamp(static_cast<int>(0.02 / std::max(batch(2), 1e-7)), 1, 1000);
  std::vector<double> all;
  for (int i = 0; i < 5; ++i) all.push_back(batch(runs));
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return median(all);
}

/// The same for work that a clock on the host must measure, as it ends with a wait for the device.
template <class Work>
double seconds_on_the_host(int runs, Work&& work) {
  std::vector<double> all;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    for (int j = 0; j < runs; ++j) work();
    all.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / runs);
  }
  return median(all);
}

struct Ceilings {
  std::string name;
  double bandwidth = 0;  ///< bytes a second that a copy reads and writes
  double products = 0;   ///< operations a second of a bf16 product of 8192 × 8192 matrices
};

inline Ceilings measure_ceilings() {
  Ceilings ceilings;
  cuda::Runtime runtime;
  ceilings.name = runtime.name();
  {
    constexpr Index bytes = Index{2} << 30;
    const DeviceValues<float> from(bytes / 4), to(bytes / 4);
    const double time = seconds([&](const cuda::Stream& stream) {
      cuda::check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream.get()),
                  "cudaMemcpyAsync");
    });
    ceilings.bandwidth = 2 * static_cast<double>(bytes) / time;
  }
  constexpr Index n = 8192;
  cuda::Runtime::Queue queue(runtime);
  const DeviceValues<bf16> a(n * n), b(n * n), c(n * n);
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const cuda::MatrixProduct product = cuda::linear_product(n, n, n, n, n);
  queue.multiply(product, a.data(), b.data(), c.data(), static_cast<const bf16*>(nullptr));
  queue.synchronize();
  const double time = seconds_on_the_host(1, [&] {
    for (int i = 0; i < 10; ++i) {
      queue.multiply(product, a.data(), b.data(), c.data(), static_cast<const bf16*>(nullptr));
    }
    queue.synchronize();
  });
  ceilings.products = 10 * 2.0 * n * n * n / time;
  return ceilings;
}

}  // namespace xlstm::bench
