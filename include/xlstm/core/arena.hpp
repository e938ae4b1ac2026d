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

#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"

namespace xlstm {

/// A stack allocator. Allocation is 64-byte aligned and uninitialised; release() gives back all since mark().
/// Memory is kept in blocks so that growing moves nothing; when everything is released and more than one block is in
/// use, they are replaced by one block of their summed size, so that a repeated computation settles on a single block.
/// Where there is no memory for that block they stay, and the next such release tries again.
class Arena {
 public:
  struct Mark {
    std::size_t block = 0;
    std::size_t used = 0;
  };

  Arena() = default;
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

  /// A rows × Cols matrix, uninitialised.
  template <class T, Index Cols>
  MatrixView<T, Cols> matrix(Index rows) {
    return MatrixView<T, Cols>(allocate<T>(rows * Cols), rows);
  }

  Mark mark() const { return {current_, blocks_.empty() ? 0 : blocks_[current_].used}; }

  /// Gives back everything allocated after `m`.
  void release(Mark m) noexcept {
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
  Index system_allocations() const { return system_allocations_; }

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t smallest_block = std::size_t{1} << 16;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{alignment}); }
  };
  struct Block {
    std::unique_ptr<std::byte[], Free> data;
    std::size_t size = 0;
    std::size_t used = 0;
  };

  Block new_block(std::size_t size) {
    ++system_allocations_;
    auto* p = static_cast<std::byte*>(::operator new[](size, std::align_val_t{alignment}));
    return {std::unique_ptr<std::byte[], Free>(p), size, 0};
  }

  std::byte* bytes(std::size_t count) {
    count = (count + alignment - 1) / alignment * alignment;
    while (current_ < blocks_.size() && blocks_[current_].size - blocks_[current_].used < count) {
      if (current_ + 1 == blocks_.size()) break;
      ++current_;
    }
    if (blocks_.empty() || blocks_[current_].size - blocks_[current_].used < count) {
      const std::size_t doubled = blocks_.empty() ? smallest_block : blocks_.back().size * 2;
      blocks_.push_back(new_block(std::max(count, std::min(doubled, std::size_t{1} << 28))));
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
    ++system_allocations_;
    auto* p = static_cast<std::byte*>(::operator new[](total, std::align_val_t{alignment}, std::nothrow));
    if (p == nullptr) return;
    blocks_.front() = {std::unique_ptr<std::byte[], Free>(p), total, 0};
    blocks_.erase(blocks_.begin() + 1, blocks_.end());
  }

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
