// SPDX-License-Identifier: Apache-2.0
// Where activations live: a stack of bytes that grows while it warms up and never allocates again afterwards.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "xlstm/core/huge_pages.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"

namespace xlstm {

/// Where an arena's memory comes from, if not from operator new: a device, whose memory the host cannot read.
class ArenaMemory {
 public:
  virtual ~ArenaMemory() = default;
  /// Null where there is not so much.
  virtual void* allocate(std::size_t bytes) noexcept = 0;
  virtual void free(void* memory) noexcept = 0;
  /// Throws an Error that says how much was needed, and why there is not so much.
  virtual void refuse(std::size_t bytes) = 0;
};

/// A stack allocator. Allocation is 64-byte aligned and uninitialised; release() gives back all since mark(). Memory is
/// kept in blocks, of the host's on large pages, so that growing moves nothing; when everything is released and more
/// than one block is in use, they are replaced by one block of their summed size, so that a repeated computation
/// settles on a single block. Where there is no memory for that block they stay, and the next such release tries again.
class Arena {
 public:
  struct Mark {
    std::size_t block = 0;
    std::size_t used = 0;
    std::size_t record_block = 0;
    std::size_t record_used = 0;
  };

  Arena() = default;
  /// An arena of a device's memory, which outlives it; aligned to 256 bytes. Its records are the host's.
  explicit Arena(ArenaMemory& memory) : memory_(&memory), records_(std::make_unique<Arena>()) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  Arena(Arena&&) noexcept = default;
  Arena& operator=(Arena&&) noexcept = default;

  /// `count` uninitialised values of a trivial type.
  template <class T>
  T* allocate(Index count) {
    static_assert(std::is_trivially_copy_constructible_v<T> && std::is_trivially_destructible_v<T>,
                  "xlstm: an arena holds plain values and views; this type owns something");
    assert(count >= 0);
    return reinterpret_cast<T*>(bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }

  /// `count` uninitialised values for the host to read and write, wherever the arena's memory is: views, pointers.
  template <class T>
  T* records(Index count) {
    return records_ != nullptr ? records_->allocate<T>(count) : allocate<T>(count);
  }

  /// A rows × Cols matrix, uninitialised.
  template <class T, Index Cols>
  MatrixView<T, Cols> matrix(Index rows) {
    return MatrixView<T, Cols>(allocate<T>(rows * Cols), rows);
  }

  Mark mark() const {
    Mark m{current_, blocks_.empty() ? 0 : blocks_[current_].used, 0, 0};
    if (records_ != nullptr) {
      const Mark records = records_->mark();
      m.record_block = records.block;
      m.record_used = records.used;
    }
    return m;
  }

  /// Gives back everything allocated after `m`.
  void release(Mark m) noexcept {
    if (records_ != nullptr) records_->release({m.record_block, m.record_used, 0, 0});
    if (blocks_.empty()) return;
    for (std::size_t b = m.block + 1; b <= current_; ++b) blocks_[b].used = 0;
    current_ = m.block;
    blocks_[current_].used = m.used;
    if (m.block == 0 && m.used == 0 && blocks_.size() > 1) merge();
  }

  /// Bytes held, in use or not.
  std::size_t capacity() const noexcept {
    std::size_t total = 0;
    for (const Block& b : blocks_) total += b.size;
    return total;
  }

  /// How often memory was asked of the system; constant once warm.
  Index system_allocations() const {
    return system_allocations_ + (records_ != nullptr ? records_->system_allocations_ : 0);
  }

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t smallest_block = std::size_t{1} << 16;
  static constexpr std::size_t device_alignment = 256;
  struct Free {
    ArenaMemory* memory = nullptr;
    void operator()(std::byte* p) const {
      if (memory != nullptr) return memory->free(p);
      ::operator delete[](p, std::align_val_t{alignment});
    }
  };
  using Memory = std::unique_ptr<std::byte[], Free>;
  struct Block {
    Memory data;
    std::size_t size = 0;
    std::size_t used = 0;
  };

  /// Null where there is not so much memory.
  Memory try_memory(std::size_t size) noexcept {
    ++system_allocations_;
    void* const p = memory_ != nullptr ? memory_->allocate(size)
                                       : ::operator new[](size, std::align_val_t{alignment}, std::nothrow);
    if (memory_ == nullptr) advise_huge_pages(p, size);
    return {static_cast<std::byte*>(p), Free{memory_}};
  }
  /// `wanted` bytes, or at least `needed`.
  Block new_block(std::size_t wanted, std::size_t needed) {
    if (memory_ == nullptr) {
      ++system_allocations_;
      auto* p = static_cast<std::byte*>(::operator new[](wanted, std::align_val_t{alignment}));
      advise_huge_pages(p, wanted);
      return {Memory(p, Free{}), wanted, 0};
    }
    if (Memory p = try_memory(wanted)) return {std::move(p), wanted, 0};
    if (Memory p = try_memory(needed)) return {std::move(p), needed, 0};
    memory_->refuse(needed);
    throw std::bad_alloc();
  }

  std::byte* bytes(std::size_t count) {
    const std::size_t step = memory_ != nullptr ? device_alignment : alignment;
    count = (count + step - 1) / step * step;
    while (current_ < blocks_.size() && blocks_[current_].size - blocks_[current_].used < count) {
      if (current_ + 1 == blocks_.size()) break;
      ++current_;
    }
    if (blocks_.empty() || blocks_[current_].size - blocks_[current_].used < count) {
      const std::size_t doubled = blocks_.empty() ? smallest_block : blocks_.back().size * 2;
      blocks_.push_back(new_block(std::max(count, std::min(doubled, std::size_t{1} << 28)), count));
      current_ = blocks_.size() - 1;
    }
    Block& block = blocks_[current_];
    std::byte* p = block.data.get() + block.used;
    block.used += count;
    return p;
  }

  // Scopes release in destructors, also while an exception is on its way, so this must not throw.
  void merge() noexcept {
    const std::size_t total = capacity();
    Memory p = try_memory(total);
    if (p == nullptr) return;
    blocks_.front() = {std::move(p), total, 0};
    blocks_.erase(blocks_.begin() + 1, blocks_.end());
  }

  ArenaMemory* memory_ = nullptr;
  std::unique_ptr<Arena> records_;  ///< the host's memory, where memory_ is not
  std::vector<Block> blocks_;
  std::size_t current_ = 0;
  Index system_allocations_ = 0;
};

/// Gives back on destruction what was allocated in its scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(&arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_->release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena* arena_;
  Arena::Mark mark_;
};

}  // namespace xlstm
