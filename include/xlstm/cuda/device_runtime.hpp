// SPDX-License-Identifier: Apache-2.0
// The machine as the backend sees it: memory, queues of work, matrix products. On a GPU that is cuda::Runtime
// (cuda/runtime.hpp), on the host testing::EmulatedRuntime (testing/emulated_runtime.hpp).
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/cuda/launch.hpp"
#include "xlstm/cuda/matrix_product.hpp"

namespace xlstm::cuda {

namespace detail {
struct NoWork {
  void operator()() const {}
};
}  // namespace detail

/// One device, which any number of threads may use, and its Queue: work that is done in the order in which it was asked
/// for, of one caller at a time. Errors are xlstm::Error.
template <class R>
concept DeviceRuntime = requires(R& runtime, const R& constant, typename R::Queue& queue, void* device, void* host,
                                 const void* from, Index bytes, const MatrixProduct& product, const bf16* a, float* d,
                                 const detail::NoWork& work, const float* keys, const std::uint32_t* values,
                                 std::uint32_t* sorted_values) {
  typename R::Options;
  requires std::constructible_from<R, const typename R::Options&>;
  requires std::constructible_from<typename R::Queue, R&>;

  { constant.name() } -> std::convertible_to<std::string>;  // for messages: "device 0 (its model)"
  { constant.compute_capability() } -> std::same_as<int>;   // 80 for 8.0

  // Memory, uninitialised and aligned to 256 bytes; null where there is not so much. free_bytes: about how much is
  // left.
  { runtime.allocate(bytes) }
  noexcept->std::same_as<void*>;
  { runtime.free(device) }
  noexcept;
  { runtime.free_bytes() } -> std::convertible_to<Index>;

  // Done when the function returns; what queues still do is not waited for.
  runtime.upload(device, from, bytes);
  runtime.download(host, from, bytes);
  runtime.copy(device, from, bytes);
  runtime.zero(device, bytes);

  // A queue launches kernels, and:
  requires Launcher<typename R::Queue>;
  queue.activate();                     // before anything else, on every thread that uses it
  queue.upload(device, from, bytes);    // the host's memory may change at once
  queue.download(host, from, bytes);    // waits until it is there
  queue.copy(device, from, bytes);      //
  queue.multiply(product, a, a, d, d);  // D (+)= A B + bias of one value a column, or null; sums in fp32
  // Pairs, the largest keys first, equal ones in the order in which they come; −0 and 0 are equal. Of fp32 keys and
  // 32-bit values; `device` is sort_bytes(count) bytes to work in.
  { queue.sort_bytes(bytes) } -> std::same_as<Index>;
  queue.sort_descending(device, bytes, keys, d, values, sorted_values, bytes);
  queue.synchronize();  // waits until all is done; throws what went wrong with any of it

  // What work() asks of the queue, kept instead of done, with all addresses and values as they are then: launches,
  // products and copies within the device. Nothing else may be asked meanwhile, of the runtime neither. replay: all of
  // it in its order, any number of times.
  requires std::movable<typename R::Queue::Recording>;
  { queue.record(work) } -> std::same_as<typename R::Queue::Recording>;
  queue.replay(std::declval<const typename R::Queue::Recording&>());
};

/// Throws the Error that says how much memory was needed, for what, and how much there is.
template <class R>
[[noreturn]] void refuse_memory(R& runtime, Index bytes, std::string_view what) {
  fail("cuda: ", runtime.name(), ": too little memory for ", what, ": ", bytes, " bytes, of which ",
       runtime.free_bytes(), " are free");
}

/// Memory of a device, zeroed at first. A value: copies are copied there.
template <class R>
class DeviceMemory {
 public:
  /// Error that says what it was for if there is not so much. `what` is kept, and not copied.
  DeviceMemory(std::shared_ptr<R> runtime, Index bytes, std::string_view what)
      : DeviceMemory(std::move(runtime), bytes, what, nullptr) {
    runtime_->zero(data_, bytes_);
  }
  DeviceMemory(const DeviceMemory& other) : DeviceMemory(other.runtime_, other.bytes_, other.what_, nullptr) {
    if (bytes_ > 0) runtime_->copy(data_, other.data_, bytes_);
  }
  DeviceMemory(DeviceMemory&& other) noexcept
      : runtime_(other.runtime_),
        what_(other.what_),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(what_, other.what_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ != nullptr) runtime_->free(data_);
  }

  void* data() const { return data_; }
  Index bytes() const { return bytes_; }
  void upload(Index offset, const void* from, Index bytes) {
    runtime_->upload(static_cast<std::byte*>(data_) + offset, from, bytes);
  }
  void download(Index offset, void* to, Index bytes) const {
    runtime_->download(to, static_cast<const std::byte*>(data_) + offset, bytes);
  }
  void zero() { runtime_->zero(data_, bytes_); }

 private:
  // Another constructor calls it and then fills the memory; where that fails, the destructor frees it.
  DeviceMemory(std::shared_ptr<R> runtime, Index bytes, std::string_view what, std::nullptr_t)
      : runtime_(std::move(runtime)), what_(what), data_(runtime_->allocate(bytes)), bytes_(bytes) {
    if (data_ == nullptr) refuse_memory(*runtime_, bytes, what);
  }

  std::shared_ptr<R> runtime_;
  std::string_view what_;
  void* data_ = nullptr;
  Index bytes_ = 0;
};

/// A device's memory for an arena.
template <class R>
class DeviceArenaMemory final : public ArenaMemory {
 public:
  DeviceArenaMemory(std::shared_ptr<R> runtime, std::string_view what) : runtime_(std::move(runtime)), what_(what) {}
  void* allocate(std::size_t bytes) noexcept override { return runtime_->allocate(static_cast<Index>(bytes)); }
  void free(void* memory) noexcept override { runtime_->free(memory); }
  void refuse(std::size_t bytes) override { refuse_memory(*runtime_, static_cast<Index>(bytes), what_); }

 private:
  std::shared_ptr<R> runtime_;
  std::string_view what_;
};

}  // namespace xlstm::cuda
