// SPDX-License-Identifier: Apache-2.0
// An array of shared memory that knows its bounds, and for every element who accessed it last and when. So an access
// that the program's barriers do not order is found in every schedule, not only in one where it does harm.
//
// Two accesses of different threads, one of them a write, are in order if a barrier of the block lies between them, or,
// within a warp, a barrier of the warp. Atomic accesses do not disturb each other. A block's time is counted in its
// barriers (epoch) and its warp's (warp_sync).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"

namespace xlstm::testing {

/// What the emulation found wrong; what() names the kernel, the block, the thread and the array or the line.
class EmulationError : public Error {
 public:
  using Error::Error;
};

namespace detail {

template <class... Parts>
[[noreturn]] void fault(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw EmulationError(message.str());
}

/// Which thread accesses, and when.
struct Position {
  int thread;
  std::uint32_t epoch;
  std::uint32_t warp_sync;
};

/// The accesses to an element since the block's last barrier, as far as a later one needs to know.
struct Accesses {
  static constexpr int many_warps = -1;

  std::uint32_t epoch = 0;
  std::uint32_t warp_sync = 0;  ///< of the warp, if it is one
  std::uint32_t lanes = 0;      ///< those that accessed since then
  int warp = 0;
  int last = 0;   ///< the latest, for the message
  int other = 0;  ///< the latest of another warp than its
  bool atomic = false;

  void add(const Position& by, bool is_atomic) {
    const int by_warp = by.thread / 32;
    const std::uint32_t bit = std::uint32_t{1} << (by.thread % 32);
    if (epoch != by.epoch) {
      *this = {by.epoch, by.warp_sync, bit, by_warp, by.thread, by.thread, is_atomic};
      return;
    }
    if (warp != by_warp) {
      warp = many_warps;
    } else if (warp_sync != by.warp_sync) {
      warp_sync = by.warp_sync;
      lanes = bit;
    } else {
      lanes |= bit;
    }
    if (last / 32 != by_warp) other = last;
    last = by.thread;
    atomic = is_atomic;
  }
  /// A thread that accessed and is not in order with `now`; −1 if there is none.
  int conflict(const Position& now) const {
    if (epoch != now.epoch) return -1;
    if (warp != now.thread / 32) return last / 32 != now.thread / 32 ? last : other;
    if (warp_sync != now.warp_sync) return -1;
    const std::uint32_t others = lanes & ~(std::uint32_t{1} << (now.thread % 32));
    return others == 0 ? -1 : warp * 32 + std::countr_zero(others);
  }
};

/// Memory that belongs to one of several alternatives at a time.
struct Overlay {
  int alternative = 0;      ///< whose it is
  std::uint32_t since = 0;  ///< the epoch in which it became so
  std::uint32_t last = 0;   ///< the latest in which it was used
  std::string user;         ///< the array that was used
  int copies = 0;           ///< elements that are being copied to
};

/// The array, for all blocks of a launch, one after another.
class EmulatedArray {
 public:
  EmulatedArray(std::string name, Index count, Index element_bytes)
      : name_(std::move(name)),
        count_(count),
        element_bytes_(element_bytes),
        memory_(static_cast<std::size_t>(ceil_div(count * element_bytes, 16))),
        elements_(static_cast<std::size_t>(count)) {}

  /// Makes the array's memory the overlay's, of one of its alternatives.
  void join(std::shared_ptr<Overlay> overlay, int alternative) {
    overlay_ = std::move(overlay);
    alternative_ = alternative;
  }

  const std::string& name() const { return name_; }
  Index element_bytes() const { return element_bytes_; }

  /// A new block has nothing in its memory: a signalling NaN as float, a NaN as bf16 and f16.
  void start_block(std::uint32_t epoch) {
    first_epoch_ = epoch;
    if (overlay_) *overlay_ = {};
    for (auto& chunk : memory_) {
      for (auto& word : chunk.words) word = poison;
    }
    for (auto& element : elements_) element.copy_of = nobody;
  }

  /// The address of `count` elements that `by` reads.
  const std::byte* read(const Position& by, Index first, Index count) {
    check_bounds(by, first, count, "reads");
    claim(by, "reads");
    for (Index i = first; i < first + count; ++i) {
      Element& element = elements_[static_cast<std::size_t>(i)];
      check_copy(by, element, i, "reads");
      if (!written(element)) {
        fault("thread ", by.thread, " reads ", name_, "[", i, "], which nobody has written");
      }
      check_order(by, element.writes, i, "reads", "wrote");
      element.reads.add(by, false);
    }
    return at(first);
  }
  /// The address of `count` elements that `by` writes.
  std::byte* write(const Position& by, Index first, Index count) {
    check_bounds(by, first, count, "writes");
    claim(by, "writes");
    for (Index i = first; i < first + count; ++i) {
      Element& element = elements_[static_cast<std::size_t>(i)];
      check_write(by, element, i);
      element.writes.add(by, false);
    }
    return at(first);
  }
  /// The address of an element that `by` changes atomically.
  std::byte* change_atomically(const Position& by, Index i) {
    check_bounds(by, i, 1, "adds to");
    claim(by, "adds to");
    Element& element = elements_[static_cast<std::size_t>(i)];
    check_copy(by, element, i, "adds to");
    if (!written(element)) {
      fault("thread ", by.thread, " adds to ", name_, "[", i, "], which nobody has written");
    }
    if (!element.writes.atomic) check_order(by, element.writes, i, "adds to", "wrote");
    check_order(by, element.reads, i, "adds to", "read");
    element.writes.add(by, true);
    return at(i);
  }

  /// An asynchronous copy by `by` to `count` elements is under way: nobody may touch them.
  void begin_copy(const Position& by, Index first, Index count) {
    check_bounds(by, first, count, "copies to");
    claim(by, "copies to");
    for (Index i = first; i < first + count; ++i) {
      Element& element = elements_[static_cast<std::size_t>(i)];
      check_write(by, element, i);
      element.copy_of = by.thread;
      if (overlay_) ++overlay_->copies;
    }
  }
  /// The thread waited for its copy: it has now written these elements.
  std::byte* end_copy(const Position& by, Index first, Index count) {
    claim(by, "copies to");
    for (Index i = first; i < first + count; ++i) {
      Element& element = elements_[static_cast<std::size_t>(i)];
      element.copy_of = nobody;
      if (overlay_) --overlay_->copies;
      element.writes.add(by, false);
    }
    return at(first);
  }

 private:
  static constexpr int nobody = -1;
  static constexpr std::uint32_t poison = 0x7fa07fa0U;
  struct alignas(16) Chunk {
    std::uint32_t words[4];
  };
  struct Element {
    Accesses writes;
    Accesses reads;
    int copy_of = nobody;
  };

  std::byte* at(Index i) { return reinterpret_cast<std::byte*>(memory_.data()) + i * element_bytes_; }

  bool written(const Element& element) const {
    return element.writes.epoch >= (overlay_ ? std::max(first_epoch_, overlay_->since) : first_epoch_);
  }
  /// Takes over the memory of another alternative, or fails where that may still be in use.
  void claim(const Position& by, const char* does) {
    if (!overlay_) return;
    if (overlay_->alternative != alternative_) {
      if (overlay_->last == by.epoch || overlay_->copies > 0) {
        fault("thread ", by.thread, " ", does, " ", name_, ", whose memory is that of ", overlay_->user,
              overlay_->copies > 0 ? ", to which a thread copies asynchronously and has not waited"
                                   : ", without a barrier of the block in between");
      }
      overlay_->alternative = alternative_;
      overlay_->since = by.epoch;
    }
    overlay_->last = by.epoch;
    if (overlay_->user != name_) overlay_->user = name_;
  }

  void check_bounds(const Position& by, Index first, Index count, const char* does) const {
    if (first < 0 || first > count_ - count) {
      fault("thread ", by.thread, " ", does, " ", name_, "[", first < 0 ? first : std::max(first, count_),
            "], beyond its ", count_, " elements");
    }
  }
  void check_copy(const Position& by, const Element& element, Index i, const char* does) const {
    if (element.copy_of != nobody) {
      fault("thread ", by.thread, " ", does, " ", name_, "[", i, "], to which thread ", element.copy_of,
            " copies asynchronously and has not waited");
    }
  }
  void check_order(const Position& by, const Accesses& before, Index i, const char* does, const char* did) const {
    if (const int other = before.conflict(by); other >= 0) {
      fault("thread ", by.thread, " ", does, " ", name_, "[", i, "], which thread ", other, " ", did,
            other / 32 == by.thread / 32 ? " without a barrier of the warp or block in between"
                                         : " without a barrier of the block in between");
    }
  }
  void check_write(const Position& by, const Element& element, Index i) const {
    check_copy(by, element, i, "writes");
    check_order(by, element.writes, i, "writes", "wrote");
    check_order(by, element.reads, i, "writes", "read");
  }

  std::string name_;
  Index count_;
  Index element_bytes_;
  std::vector<Chunk> memory_;
  std::vector<Element> elements_;
  std::uint32_t first_epoch_ = 1;
  std::shared_ptr<Overlay> overlay_;
  int alternative_ = 0;
};

}  // namespace detail
}  // namespace xlstm::testing
