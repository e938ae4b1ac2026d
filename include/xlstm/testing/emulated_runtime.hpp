// SPDX-License-Identifier: Apache-2.0
// A device on the host, for tests of what is built from kernels: cuda::Backend<Element, testing::EmulatedRuntime> is
// the backend that a GPU would run. Its memory is the device's alone: with AddressSanitizer, the host that reads or
// writes it outside a kernel, a copy or a product is found, and so is a kernel that leaves its memory. New memory is
// NaN in every element type. Matrix products are loops over the column-major layouts that a BLAS library would be told,
// with sums in fp32.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "xlstm/cuda/device_runtime.hpp"
#include "xlstm/cuda/math.hpp"
#include "xlstm/testing/emulate.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define XLSTM_EMULATION_POISONS 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define XLSTM_EMULATION_POISONS 1
#endif
#if defined(XLSTM_EMULATION_POISONS)
#include <sanitizer/asan_interface.h>
#endif

namespace xlstm::testing {

class EmulatedRuntime {
 public:
  struct Options {
    int device = 0;                 ///< its number, for messages
    Index memory = Index{1} << 40;  ///< bytes that it has
    std::uint64_t seed = 0;         ///< of the order of blocks and threads
    int compute_capability = 80;    ///< 80 for 8.0: which tunings a backend takes
  };
  class Queue;

  EmulatedRuntime() : EmulatedRuntime(Options{}) {}
  explicit EmulatedRuntime(const Options& options) : options_(options) {}
  EmulatedRuntime(const EmulatedRuntime&) = delete;
  EmulatedRuntime& operator=(const EmulatedRuntime&) = delete;

  std::string name() const { return "device " + std::to_string(options_.device) + " (emulated)"; }
  const Options& options() const { return options_; }
  int compute_capability() const { return options_.compute_capability; }

  void* allocate(Index bytes) noexcept {
    if (recording()) return nullptr;  // as a GPU's stream that is captured has it
    const std::lock_guard lock(mutex_);
    ++allocations_;
    if (bytes > options_.memory - used_) return nullptr;
    void* const p = ::operator new(static_cast<std::size_t>(bytes), alignment, std::nothrow);
    if (p == nullptr) return nullptr;
    std::memset(p, 0xff, static_cast<std::size_t>(bytes));
    memory_.emplace(static_cast<const std::byte*>(p), bytes);
    used_ += bytes;
    if (accesses_ == 0) close(p, bytes);
    return p;
  }
  void free(void* p) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = memory_.find(static_cast<const std::byte*>(p));
    if (found == memory_.end()) return;
    open(found->first, found->second);
    used_ -= found->second;
    memory_.erase(found);
    ::operator delete(p, alignment);
  }
  Index free_bytes() const {
    const std::lock_guard lock(mutex_);
    return options_.memory - used_;
  }
  /// How often memory was asked for; constant once warm.
  Index allocations() const {
    const std::lock_guard lock(mutex_);
    return allocations_;
  }
  /// Whether all of it is in the device's memory.
  bool contains(const void* p, Index bytes) const {
    const std::lock_guard lock(mutex_);
    auto found = memory_.upper_bound(static_cast<const std::byte*>(p));
    if (found == memory_.begin()) return false;
    --found;
    return std::less_equal<>()(static_cast<const std::byte*>(p) + bytes, found->first + found->second);
  }

  void upload(void* to, const void* from, Index bytes) { move(to, true, from, false, bytes, "upload"); }
  void download(void* to, const void* from, Index bytes) { move(to, false, from, true, bytes, "download"); }
  void copy(void* to, const void* from, Index bytes) { move(to, true, from, true, bytes, "copy"); }
  void zero(void* to, Index bytes) {
    require(to, bytes, true, "zero");
    const Access access(*this);
    std::memset(to, 0, static_cast<std::size_t>(bytes));
  }

  /// While it lives, the device is at work: its memory may be used.
  class Access {
   public:
    explicit Access(EmulatedRuntime& runtime) : runtime_(runtime) {
      const std::lock_guard lock(runtime_.mutex_);
      if (runtime_.accesses_++ > 0) return;
      for (const auto& [p, bytes] : runtime_.memory_) open(p, bytes);
    }
    ~Access() {
      const std::lock_guard lock(runtime_.mutex_);
      if (--runtime_.accesses_ > 0) return;
      for (const auto& [p, bytes] : runtime_.memory_) close(p, bytes);
    }
    Access(const Access&) = delete;

   private:
    EmulatedRuntime& runtime_;
  };

  /// Error unless the memory is the device's, or, if not `wanted`, the host's.
  void require(const void* p, Index bytes, bool wanted, const char* what) const {
    if (bytes == 0 || contains(p, bytes) == wanted) return;
    detail::fault(what, " of ", bytes, " bytes: an address is not in the memory of the ", wanted ? "device" : "host");
  }

 private:
  static constexpr std::align_val_t alignment{256};
  /// Whether this thread records what a queue is asked.
  static bool& recording() {
    thread_local bool active = false;
    return active;
  }

  static void open([[maybe_unused]] const void* p, [[maybe_unused]] Index bytes) noexcept {
#if defined(XLSTM_EMULATION_POISONS)
    __asan_unpoison_memory_region(p, static_cast<std::size_t>(bytes));
#endif
  }
  static void close([[maybe_unused]] const void* p, [[maybe_unused]] Index bytes) noexcept {
#if defined(XLSTM_EMULATION_POISONS)
    __asan_poison_memory_region(p, static_cast<std::size_t>(bytes));
#endif
  }
  void move(void* to, bool to_device, const void* from, bool from_device, Index bytes, const char* what) {
    require(to, bytes, to_device, what);
    require(from, bytes, from_device, what);
    const Access access(*this);
    if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }

  Options options_;
  mutable std::mutex mutex_;
  std::map<const std::byte*, Index> memory_;
  Index used_ = 0;
  Index allocations_ = 0;
  int accesses_ = 0;
};

/// Does at once what it is asked for.
class EmulatedRuntime::Queue {
 public:
  explicit Queue(EmulatedRuntime& runtime) : runtime_(runtime), stream_(runtime.options().seed) {}

  void activate() const {}
  template <class K>
  void launch(cuda::GridSize grid, const K& kernel) {
    if (keeps([this, grid, kernel] { launch(grid, kernel); })) return;
    const Access access(runtime_);
    stream_.launch(grid, kernel);
  }
  void upload(void* to, const void* from, Index bytes) {
    refuse_recording("upload");
    runtime_.upload(to, from, bytes);
  }
  void download(void* to, const void* from, Index bytes) {
    refuse_recording("download");
    ++downloads_;
    runtime_.download(to, from, bytes);
  }
  void copy(void* to, const void* from, Index bytes) {
    if (!keeps([this, to, from, bytes] { copy(to, from, bytes); })) runtime_.copy(to, from, bytes);
  }
  void synchronize() const { refuse_recording("synchronize"); }

  Index sort_bytes(Index count) const { return count * static_cast<Index>(sizeof(Index)); }
  template <class Key, class Value>
  void sort_descending(void* memory, Index bytes, const Key* keys, Key* sorted_keys, const Value* values,
                       Value* sorted_values, Index count) {
    if (keeps([=, this] { sort_descending(memory, bytes, keys, sorted_keys, values, sorted_values, count); })) return;
    const auto require = [&](const auto* p, Index elements) {
      runtime_.require(p, elements * static_cast<Index>(sizeof(*p)), true, "sort");
    };
    auto* const places = static_cast<Index*>(memory);
    if (bytes < sort_bytes(count)) detail::fault("sort: ", bytes, " bytes to work in, expected ", sort_bytes(count));
    require(places, count);
    require(keys, count);
    require(sorted_keys, count);
    require(values, count);
    require(sorted_values, count);
    const Access access(runtime_);
    std::iota(places, places + count, Index{0});
    const auto rank = [&](Index i) {  // what is no number has a place, too
      return keys[i] == keys[i] ? keys[i] : std::numeric_limits<Key>::infinity();
    };
    std::sort(places, places + count, [&](Index a, Index b) {
      const Key x = rank(a), y = rank(b);
      return x != y ? x > y : a < b;
    });
    for (Index i = 0; i < count; ++i) {
      sorted_keys[i] = keys[places[i]];
      sorted_values[i] = values[places[i]];
    }
  }

  /// A list of what was asked.
  using Recording = std::vector<std::function<void()>>;
  template <class Work>
  Recording record(Work&& work) {
    Recording list;
    const Recorder recorder(*this, list);
    work();
    return list;
  }
  void replay(const Recording& recording) {
    refuse_recording("replay");
    for (const auto& asked : recording) asked();
    ++replays_;
  }
  /// How often replay was called.
  Index replays() const { return replays_; }
  /// How often the host waited for values.
  Index downloads() const { return downloads_; }

  template <class T, class D>
  void multiply(const cuda::MatrixProduct& product, const T* a, const T* b, D* d, const D* bias) {
    if (keeps([this, product, a, b, d, bias] { multiply(product, a, b, d, bias); })) return;
    const auto [first, second, result] = cuda::column_major(product);
    const auto require = [&](const auto* p, const cuda::ColumnMajorMatrix& matrix) {
      if (matrix.rows > matrix.stride) detail::fault("multiply: a column is longer than the stride");
      if (matrix.rows == 0 || matrix.cols == 0) return;
      const Index count = (matrix.cols - 1) * matrix.stride + matrix.rows;
      runtime_.require(p, count * static_cast<Index>(sizeof(*p)), true, "multiply");
    };
    require(b, first);
    require(a, second);
    require(d, result);
    if (bias != nullptr) runtime_.require(bias, result.rows * static_cast<Index>(sizeof(D)), true, "multiply");
    const Access access(runtime_);
    for (Index j = 0; j < result.cols; ++j) {
      for (Index i = 0; i < result.rows; ++i) {
        float sum = 0;
        for (Index l = 0; l < product.k; ++l) sum += entry(b, first, i, l) * entry(a, second, l, j);
        D& to = d[j * result.stride + i];
        if (bias != nullptr) sum += cuda::to_float(bias[i]);
        if (product.add) sum += cuda::to_float(to);
        to = cuda::to_element<D>(sum);
      }
    }
  }

 private:
  struct Recorder {
    Recorder(Queue& q, Recording& list) : queue(q) {
      queue.refuse_recording("record");
      queue.kept_ = &list;
      recording() = true;
    }
    Recorder(const Recorder&) = delete;
    ~Recorder() {
      queue.kept_ = nullptr;
      recording() = false;
    }
    Queue& queue;
  };
  bool keeps(std::function<void()> asked) {
    if (kept_ == nullptr) return false;
    kept_->push_back(std::move(asked));
    return true;
  }
  void refuse_recording(const char* what) const {
    if (kept_ != nullptr) detail::fault(what, ": not while a step is recorded");
  }

  /// Entry (i, j) of the matrix, or of its transpose where that takes part.
  template <class T>
  static float entry(const T* data, const cuda::ColumnMajorMatrix& matrix, Index i, Index j) {
    return cuda::to_float(matrix.transposed ? data[i * matrix.stride + j] : data[j * matrix.stride + i]);
  }

  EmulatedRuntime& runtime_;
  EmulatedStream stream_;
  Recording* kept_ = nullptr;
  Index replays_ = 0;
  Index downloads_ = 0;
};
static_assert(cuda::DeviceRuntime<EmulatedRuntime>);

}  // namespace xlstm::testing
