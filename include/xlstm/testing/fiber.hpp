// SPDX-License-Identifier: Apache-2.0
// Fibers for the emulation of devices: stacks that take turns on one thread (Boost.Context), with the announcements
// that AddressSanitizer needs to follow them (sanitizer/common_interface_defs.h). A fiber does one piece of work after
// another and keeps its stack in between.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstddef>
#include <functional>

#if defined(__SANITIZE_ADDRESS__)
#define XLSTM_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define XLSTM_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(XLSTM_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define XLSTM_NO_ADDRESS_SANITIZER __attribute__((no_sanitize_address, noinline))
#else
#define XLSTM_NO_ADDRESS_SANITIZER
#endif

namespace xlstm::testing::detail {

class Fiber {
 public:
  /// With a page behind the stack's end that cannot be touched.
  Fiber() : stack_(boost::context::protected_fixedsize_stack(stack_bytes).allocate()) {
    context_ = boost::context::detail::make_fcontext(stack_.sp, stack_.size, &Fiber::entry);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  /// Only between pieces of work.
  ~Fiber() {
    if (entered_) {
      leaving_ = true;
      enter();
    }
#if defined(XLSTM_ADDRESS_SANITIZER)
    __asan_unpoison_memory_region(bottom(), stack_.size);
#endif
    boost::context::protected_fixedsize_stack(stack_bytes).deallocate(stack_);
  }

  /// Work for the next resume(); it must not throw.
  void start(const std::function<void(int)>& work, int argument) {
    work_ = &work;
    argument_ = argument;
  }
  /// Whether there is work that has not ended.
  bool busy() const { return work_ != nullptr; }
  /// Goes on with the work until it ends or calls suspend().
  void resume() {
    entered_ = true;
    enter();
  }
  /// From inside the work: returns to resume(), and comes back with the next one.
  void suspend() {
#if defined(XLSTM_ADDRESS_SANITIZER)
    __sanitizer_start_switch_fiber(&fake_stack_, caller_bottom_, caller_size_);
#endif
    caller_ = boost::context::detail::jump_fcontext(caller_, nullptr).fctx;
#if defined(XLSTM_ADDRESS_SANITIZER)
    __sanitizer_finish_switch_fiber(fake_stack_, &caller_bottom_, &caller_size_);
#endif
  }

 private:
#if defined(XLSTM_ADDRESS_SANITIZER)
  static constexpr std::size_t stack_bytes = std::size_t{512} * 1024;
#else
  static constexpr std::size_t stack_bytes = std::size_t{128} * 1024;
#endif

  const void* bottom() const { return static_cast<const char*>(stack_.sp) - stack_.size; }

  void enter() {
#if defined(XLSTM_ADDRESS_SANITIZER)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, bottom(), stack_.size);
#endif
    context_ = boost::context::detail::jump_fcontext(context_, this).fctx;
#if defined(XLSTM_ADDRESS_SANITIZER)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }
  // Not instrumented: its frame is alive when the sanitizer is told that the fiber ends.
  XLSTM_NO_ADDRESS_SANITIZER static void entry(boost::context::detail::transfer_t from) {
    auto* self = static_cast<Fiber*>(from.data);
    self->caller_ = from.fctx;
#if defined(XLSTM_ADDRESS_SANITIZER)
    __sanitizer_finish_switch_fiber(nullptr, &self->caller_bottom_, &self->caller_size_);
#endif
    while (!self->leaving_) {
      self->work();
      self->suspend();
    }
#if defined(XLSTM_ADDRESS_SANITIZER)
    __sanitizer_start_switch_fiber(nullptr, self->caller_bottom_, self->caller_size_);
#endif
    boost::context::detail::jump_fcontext(self->caller_, nullptr);
  }
  void work() {
    (*work_)(argument_);
    work_ = nullptr;
  }

  boost::context::stack_context stack_;
  boost::context::detail::fcontext_t context_ = nullptr;
  boost::context::detail::fcontext_t caller_ = nullptr;
  const std::function<void(int)>* work_ = nullptr;
  int argument_ = 0;
  bool entered_ = false;
  bool leaving_ = false;
#if defined(XLSTM_ADDRESS_SANITIZER)
  void* fake_stack_ = nullptr;
  const void* caller_bottom_ = nullptr;
  std::size_t caller_size_ = 0;
#endif
};

}  // namespace xlstm::testing::detail
