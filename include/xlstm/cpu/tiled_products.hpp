// SPDX-License-Identifier: Apache-2.0
// How the work of a blocked product (matrix_product.hpp) is divided, whatever its tiles: what is packed when, and what
// each thread does. By columns, where threads share the packed A; by rows, where each thread has all of B; or both are
// packed by each thread for itself, a block at a time, where rows are many.
#pragma once

#include <algorithm>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/matrix_operands.hpp"
#include "xlstm/cpu/prefetch.hpp"

namespace xlstm::cpu {

/// One right-hand side: c (m × n) = A·B, or c += A·B if `add`. `initial` (n values or null) is what every row of c
/// begins with if not `add`.
template <class B>
struct ProductTask {
  B b;
  Index n;
  const float* initial;
  MatrixView<float> c;
  bool add;
};

namespace detail {

/// Rows [k, k + depth) and columns [n, n + count) of B as panels; AnyWeightRows packs itself.
template <class Tiles, class B>
void pack_b(const B& b, Index k, Index depth, Index n, Index count, typename Tiles::Element* panels) {
  if constexpr (requires { b.template pack<Tiles>(k, depth, n, count, panels); }) {
    b.template pack<Tiles>(k, depth, n, count, panels);
  } else {
    Tiles::pack_b(b, k, depth, n, count, panels);
  }
}

template <class Tiles, class A, class B, Executor Exec>
class TiledProducts {
 public:
  TiledProducts(Exec& exec, Arena& arena, const A& a, Index m, Index depth, std::span<const ProductTask<B>> tasks)
      : exec_(exec), arena_(arena), a_(a), m_(m), depth_(depth), tasks_(tasks) {
    for (const auto& task : tasks) {
      columns_ += column_tiles(task);
      most_parts_ = std::max(most_parts_, Tiles::parts(task.b));
    }
  }

  void run() {
    if (columns_ == 0) return;
    const std::span<TiledProducts> alone(this, 1);
    if constexpr (Tiles::most_own_n > 0) {
      // Where all of B is near, more blocks of the summation are better made by rows (measured).
      const bool short_sums = depth_ <= 2 * Tiles::block_k;
      if (has_own_rows() && (short_sums || !divides_rows(alone))) return in_own_rows();
    }
    if (divides_rows(alone)) {
      if (tasks_.size() == 1 || packed_b_bytes(alone) <= near_b_bytes) return by_rows(alone);
      for (std::size_t i = 0; i < tasks_.size(); ++i) {
        TiledProducts(exec_, arena_, a_, m_, depth_, tasks_.subspan(i, 1)).run();
      }
      return;
    }
    by_columns(exec_.size());
  }

  /// Whether there are enough rows, and all B's fit: each thread has rows of its own then, which it finds in its
  /// caches, and leaves there. What one product alone may need, several together may not.
  static bool divides_rows(std::span<const TiledProducts> products) {
    const Index threads = products[0].exec_.size();
    if (threads == 1 || products[0].m_ < threads * Tiles::least_own_m) return false;
    return packed_b_bytes(products) <= (products.size() == 1 ? Tiles::most_own_b : near_b_bytes);
  }

  /// Threads divide the rows, and each packs all of B for itself: what another core has packed would have to come from
  /// that core's cache, which takes longer. Several products have the same number of rows; a thread makes all of them
  /// for some rows before it goes on. `meanwhile`: other tasks, done in the same go.
  static void by_rows(std::span<TiledProducts> products, const Tasks& meanwhile = {}) {
    TiledProducts& any = products[0];
    const ArenaScope scope(any.arena_);
    const bool near = packed_b_bytes(products) <= near_b_bytes;
    const Index rows = near ? Tiles::near_task_m : any.even_rows(Tiles::task_m);
    Index a_each = 0, b_each = 0;
    for (TiledProducts& p : products) {
      a_each = std::max(a_each, p.a_size(rows, p.depth_at_once()));
      p.slices_ = p.cut(1);
      p.first_of_b_ = b_each;
      b_each += p.steps() * p.slices_.count * p.slice_size();
    }
    PackedA* const packed_a = any.packed_a_of_threads(a_each);
    PackedB* const packed_b = any.arena_.template allocate<PackedB>(any.exec_.size());
    for (int thread = 0; thread < any.exec_.size(); ++thread) {
      new (&packed_b[thread]) PackedB{any.arena_.template allocate<Element>(b_each)};
    }
    const auto some_rows = [&](Index task, int thread) {
      [[maybe_unused]] const typename Tiles::Session session;
      PackedB& my_b = packed_b[thread];
      if (!std::exchange(my_b.packed, true)) {
        for (const TiledProducts& p : products) p.pack_all_of_b(my_b.panels + p.first_of_b_);
      }
      for (std::size_t i = 0; i < products.size(); ++i) {
        // A thread goes on with the next product of the same rows, and then, mostly, with the rows after these.
        const bool last = i + 1 == products.size();
        const TiledProducts& next = products[last ? 0 : i + 1];
        products[i].multiply_rows(task * rows, rows, packed_a[thread], my_b.panels + products[i].first_of_b_,
                                  next.stage((last ? task + 1 : task) * rows, rows, 0, next.depth_at_once()));
      }
    };
    parallel_for_both(any.exec_, meanwhile, Tasks(ceil_div(any.m_, rows), some_rows));
  }

 private:
  using Element = typename Tiles::Element;
  /// Columns of A are packed before their products: their transposes gained nothing alongside (measured).
  static constexpr bool packs_alongside = Tiles::packs_alongside && std::is_same_v<A, RowsOfA>;
  /// Tiles of B that meet all panels of A before others do.
  static constexpr Index strip_tiles = Tiles::strip_n / Tiles::tile_n;
  /// Columns of one task: tiles [first, first + count).
  struct Slice {
    Index task, first, count;
    /// Up to `most` of its tiles, from number j on.
    Slice strip(Index j, Index most) const { return {task, first + j, std::min(most, count - j)}; }
  };
  struct Slices {
    Slice* list;
    Index count;
    Index widest;
  };

  static Index column_tiles(const ProductTask<B>& task) { return ceil_div(std::max<Index>(task.n, 0), Tiles::tile_n); }

  static Index packed_b_bytes(std::span<const TiledProducts> products) {
    Index elements = 0;
    for (const TiledProducts& p : products) elements += p.columns_ * Tiles::b_size(p.depth_, p.most_parts_);
    return elements * static_cast<Index>(sizeof(Element));
  }

  /// Slices of about columns / wanted tiles, those of one product equally wide.
  Slices cut(Index wanted) {
    const Index widest = std::clamp<Index>(ceil_div(columns_, wanted), 1, Tiles::block_n / Tiles::tile_n);
    Index count = 0;
    for (const auto& task : tasks_) count += ceil_div(column_tiles(task), widest);
    Slices slices{arena_.allocate<Slice>(count), 0, widest};
    for (std::size_t t = 0; t < tasks_.size(); ++t) {
      const Index tiles = column_tiles(tasks_[t]);
      const Index parts = ceil_div(tiles, widest);
      for (Index part = 0; part < parts; ++part) {
        const Index first = tiles * part / parts;
        slices.list[slices.count++] = {static_cast<Index>(t), first, tiles * (part + 1) / parts - first};
      }
    }
    return slices;
  }

  /// Rows [first, first + rows) of C, of which A is packed at once, over the summation's [begin, end).
  struct Block {
    Index first = 0, rows = 0, begin = 0, end = 0, height = 1;
    bool operator==(const Block&) const = default;
    Index panels() const { return ceil_div(rows, height); }
  };
  Block block(Index m, Index rows, Index begin, Index end) const {
    return {m, std::min(rows, m_ - m), begin, end, height()};
  }

  /// A block of one of several products; of none where there is nothing more to do.
  struct Stage {
    const TiledProducts* product = nullptr;
    Block block{};
    bool operator==(const Stage&) const = default;
  };
  Stage stage(Index m, Index rows, Index begin, Index end) const {
    return m < m_ && begin < end ? Stage{this, block(m, rows, begin, end)} : Stage{};
  }

  /// A thread's panels of A.
  struct PackedA {
    Element* panels = nullptr;      ///< of a block; where they are packed alongside, all but the first
    Element* first = nullptr;       ///< of a block that is packed alongside
    Element* next_first = nullptr;  ///< the first one of `next`
    Stage next{};                   ///< whose first panel is packed

    /// Panel p of the summation's block from k on, of depth d. Block after block, in each the panels one after another.
    Element* panel(const Block& block, Index p, Index k, Index d) const {
      if constexpr (packs_alongside) return p == 0 ? first : panels + (p - 1) * Tiles::a_size(block.height, d);
      return panels + block.panels() * Tiles::a_size(block.height, k - block.begin) +
             p * Tiles::a_size(block.height, d);
    }
  };
  static_assert(!packs_alongside || Tiles::packed_k == Tiles::block_k, "a panel is one block of the summation");

  /// Of blocks of so many elements.
  PackedA allocate_packed_a(Index elements) const {
    PackedA packed;
    packed.panels = arena_.template allocate<Element>(elements);
    if constexpr (packs_alongside) {
      packed.first = arena_.template allocate<Element>(Tiles::a_size(height(), Tiles::packed_k));
      packed.next_first = arena_.template allocate<Element>(Tiles::a_size(height(), Tiles::packed_k));
    }
    return packed;
  }
  PackedA* packed_a_of_threads(Index elements) const {
    PackedA* const each = arena_.template allocate<PackedA>(exec_.size());
    for (int thread = 0; thread < exec_.size(); ++thread) new (&each[thread]) PackedA(allocate_packed_a(elements));
    return each;
  }

  /// A thread's panels of all B's (by_rows).
  struct PackedB {
    Element* panels;
    bool packed = false;
  };

  Index height() const { return Tiles::height(std::min(m_, Tiles::block_m)); }
  /// Rows of a task, about `most`: as many tasks for each thread, where they are few.
  Index even_rows(Index most) const {
    const Index threads = exec_.size(), tasks = ceil_div(m_, most);
    return tasks > 8 * threads ? most : round_up(ceil_div(m_, round_up(tasks, threads)), height());
  }
  Index depth_at_once() const { return std::clamp<Index>(depth_, 1, Tiles::packed_k); }
  /// A's panels for so many rows and so much of the summation.
  Index a_size(Index rows, Index depth) const {
    return ceil_div(std::min(m_, rows), height()) * Tiles::a_size(height(), std::min(depth, depth_at_once()));
  }
  Index strip_size(const Slices& slices) const {
    return std::min(slices.widest, strip_tiles) * Tiles::b_size(std::min(depth_, Tiles::block_k), most_parts_);
  }

  void pack_panel(const Block& block, Index p, const PackedA& packed) const {
    const Index first = p * block.height;
    for (Index k = block.begin; k < block.end; k += Tiles::block_k) {
      const Index d = std::min(Tiles::block_k, block.end - k);
      Tiles::pack_a(a_, block.first + first, std::min(block.height, block.rows - first), k, d, block.height,
                    packed.panel(block, p, k, d));
    }
  }

  /// Columns of A are packed a few rows of the summation at a time, which lie together in memory.
  static constexpr Index packed_rows = 32;
  static_assert(Tiles::block_k % packed_rows == 0, "such rows belong to one block of the summation");
  static Index row_groups(const Block& block) { return ceil_div(block.end - block.begin, packed_rows); }
  /// A group of rows for the panels [first_p, end_p).
  void pack_row_group(const Block& block, Index group, Index first_p, Index end_p, const PackedA& packed) const {
    const Index x = group * packed_rows, k = block.begin + x / Tiles::block_k * Tiles::block_k;
    const Index d = std::min(Tiles::block_k, block.end - k), within = block.begin + x - k;
    for (Index p = first_p; p < end_p; ++p) {
      const Index first = p * block.height;
      Tiles::pack_a(a_, block.first + first, std::min(block.height, block.rows - first), k + within,
                    std::min(packed_rows, d - within), block.height,
                    packed.panel(block, p, k, d) + Tiles::a_size(block.height, within));
    }
  }

  /// All panels, by all threads.
  void pack_together(const Block& block, const PackedA& packed) const {
    if constexpr (std::is_same_v<A, ColumnsOfA>) {
      constexpr Index at_once = 32;  // panels: about a page of a row
      const Index pieces = ceil_div(block.panels(), at_once);
      exec_.parallel_for(row_groups(block) * pieces, [&](Index task, int) {
        const Index first = task % pieces * at_once;
        pack_row_group(block, task / pieces, first, std::min(block.panels(), first + at_once), packed);
      });
    } else {
      exec_.parallel_for(block.panels(), [&](Index p, int) { pack_panel(block, p, packed); });
    }
  }

  /// Panel p of a block as work alongside; or it is packed at once, where that is not possible.
  auto packing(const Block& block, Index p, Element* panel) const {
    const Index first = p * block.height, count = std::min(block.height, block.rows - first),
                depth = block.end - block.begin;
    if (Tiles::in_steps(count, depth)) {
      return typename Tiles::Packing(a_, block.first + first, block.begin, depth, panel);
    }
    Tiles::pack_a(a_, block.first + first, count, block.begin, depth, block.height, panel);
    return typename Tiles::Packing();
  }

  /// Before a block's first product: packs of A what products do not pack alongside.
  void begin(const Stage& stage, PackedA& packed) const {
    const Block& block = stage.block;
    if constexpr (packs_alongside) {
      std::swap(packed.first, packed.next_first);
      if (packed.next != stage) pack_panel(block, 0, packed);
      packed.next = {};
    } else if constexpr (std::is_same_v<A, ColumnsOfA>) {
      for (Index group = 0; group < row_groups(block); ++group) pack_row_group(block, group, 0, block.panels(), packed);
    } else {
      for (Index p = 0; p < block.panels(); ++p) pack_panel(block, p, packed);
    }
  }

  /// The slice's columns, or a strip's, of panel p, over one block of the summation, [k, k + d).
  static void multiply_panel(const ProductTask<B>& task, const Block& block, Index p, Index k, Index d,
                             const Slice& slice, const PackedA& packed_a, const Element* packed_b,
                             typename Tiles::Beside& beside) {
    const auto product = Tiles::product(block.height, Tiles::parts(task.b));
    const Index b_step = Tiles::b_size(d, Tiles::parts(task.b));
    const Index row = p * block.height;
    for (Index j = 0; j < slice.count; ++j) {
      const Index n = (slice.first + j) * Tiles::tile_n;
      float* const c = task.c.row(block.first + row) + n;
      if constexpr (Tiles::asks_ahead) {
        const Index terms = Tiles::terms(d, Tiles::parts(task.b));
        if (j + 1 < slice.count) {
          beside.ask_for_sums(c + Tiles::tile_n, task.c.stride(), block.height, terms);
        } else if (row + block.height < block.rows) {
          beside.ask_for_sums(task.c.row(block.first + row + block.height) + slice.first * Tiles::tile_n,
                              task.c.stride(), block.height, terms);
        }
      }
      product(packed_a.panel(block, p, k, d), packed_b + j * b_step, d, c, task.c.stride(), block.rows - row,
              task.n - n, task.initial != nullptr ? task.initial + n : nullptr, task.add || k > 0, beside);
    }
  }

  /// Tile j of a slice's B over the summation's [begin, end), block after block.
  void pack_tile(const Slice& slice, Index j, Index begin, Index end, Element* packed) const {
    const ProductTask<B>& task = tasks_[static_cast<std::size_t>(slice.task)];
    const Index parts = Tiles::parts(task.b);
    const Index n = (slice.first + j) * Tiles::tile_n;
    for (Index k = begin; k < end; k += Tiles::block_k) {
      const Index d = std::min(Tiles::block_k, end - k);
      pack_b<Tiles>(task.b, k, d, n, std::min(Tiles::tile_n, task.n - n),
                    packed + slice.count * Tiles::b_size(k - begin, parts) + j * Tiles::b_size(d, parts));
    }
  }
  /// All panels of the block with slice s of B as pack_tile has left it. Where A is packed alongside, each panel is
  /// while the one before it meets the first slice, and the first panel of `next` is at the very end.
  void multiply_packed(const ProductTask<B>& task, const Block& block, const Slices& slices, Index s, PackedA& packed_a,
                       const Element* packed_b, const Stage& next, Prefetcher& ahead) const {
    const Slice& slice = slices.list[s];
    for (Index k = block.begin; k == block.begin || k < block.end; k += Tiles::block_k) {
      const Index d = std::min(Tiles::block_k, block.end - k);
      const Element* const b = packed_b + slice.count * Tiles::b_size(k - block.begin, Tiles::parts(task.b));
      if constexpr (packs_alongside) {
        for (Index p = 0; p < block.panels(); ++p) {
          typename Tiles::Packing work;
          if (p + 1 < block.panels()) {
            if (s == 0) work = packing(block, p + 1, packed_a.panel(block, p + 1, k, d));
          } else if (s + 1 == slices.count && next.product != nullptr) {
            work = next.product->packing(next.block, 0, packed_a.next_first);
            packed_a.next = next;
          }
          typename Tiles::Beside beside(ahead, work, slice.count * Tiles::terms(d, Tiles::parts(task.b)));
          multiply_panel(task, block, p, k, d, slice, packed_a, b, beside);
          beside.finish();
        }
      } else {
        typename Tiles::Beside beside = asking(ahead);
        for (Index p = 0; p < block.panels(); ++p) {
          multiply_panel(task, block, p, k, d, slice, packed_a, b, beside);
        }
      }
    }
  }

  /// Where A's part of a stage lies.
  static MemoryRows memory_of_a(const Stage& stage) {
    constexpr Index size = sizeof(float);
    if (stage.product == nullptr) return {};
    const A& a = stage.product->a_;
    const Block& block = stage.block;
    const Index depth = block.end - block.begin;
    if constexpr (std::is_same_v<A, ColumnsOfA>) {
      return {a.data + block.begin * a.stride + block.first, block.rows * size, a.stride * size, depth};
    } else {
      return {a.data + block.first * a.stride + block.begin, depth * size, a.stride * size, block.rows};
    }
  }
  /// Where a slice of B lies, over the first block of the summation's [begin, end).
  MemoryRows memory_of_b(const Slice& slice, Index begin, Index end) const {
    const ProductTask<B>& task = tasks_[static_cast<std::size_t>(slice.task)];
    const Index first = slice.first * Tiles::tile_n;
    return task.b.memory(begin, std::min(Tiles::block_k, end - begin), first,
                         std::min(slice.count * Tiles::tile_n, task.n - first));
  }
  /// Asks for memory during so many products of that depth.
  Prefetcher asked_during(Index products, Index depth, const MemoryRows& memory) const {
    if constexpr (Tiles::asks_ahead) return {memory, products * Tiles::terms(depth, most_parts_)};
    return {};
  }
  static typename Tiles::Beside asking(Prefetcher& ahead) {
    if constexpr (Tiles::asks_ahead) return {ahead, {}, 1};
    return {};
  }

  // For by_rows: B lies slice after slice for one step of the summation, and so on.
  Index steps() const { return std::max<Index>(1, ceil_div(depth_, depth_at_once())); }
  Index slice_size() const { return slices_.widest * Tiles::b_size(depth_at_once(), most_parts_); }
  void pack_all_of_b(Element* packed) const {
    for (Index k = 0; k < depth_; k += depth_at_once()) {
      for (Index s = 0; s < slices_.count; ++s, packed += slice_size()) {
        const Slice& slice = slices_.list[s];
        for (Index j = 0; j < slice.count; ++j) pack_tile(slice, j, k, std::min(depth_, k + depth_at_once()), packed);
      }
    }
  }
  /// Up to `rows` rows from m on; `next` comes after them.
  void multiply_rows(Index m, Index rows, PackedA& packed_a, const Element* packed_b, const Stage& next) const {
    for (Index k = 0; k == 0 || k < depth_; k += depth_at_once()) {
      const Index end = std::min(depth_, k + depth_at_once());
      const Stage now{this, block(m, rows, k, end)},
          after = end < depth_ ? stage(m, rows, end, std::min(depth_, end + depth_at_once())) : next;
      Prefetcher ahead =
          asked_during(now.block.panels() * columns_, now.block.end - now.block.begin, memory_of_a(after));
      begin(now, packed_a);
      for (Index s = 0; s < slices_.count; ++s, packed_b += slice_size()) {
        const ProductTask<B>& task = tasks_[static_cast<std::size_t>(slices_.list[s].task)];
        multiply_packed(task, now.block, slices_, s, packed_a, packed_b, after, ahead);
      }
    }
  }

  /// Threads share the packed A and divide the columns.
  void by_columns(Index threads) {
    const ArenaScope scope(arena_);
    // Narrow enough that each thread gets several, so that the last one to finish is not waited for long; no narrower,
    // since each of them meets all of A.
    const Index wanted = threads == 1 ? 1 : 2 * threads;
    const Slices slices = cut(wanted);
    const PackedA packed_a = allocate_packed_a(a_size(Tiles::block_m, depth_at_once()));
    Element* const packed_b = arena_.allocate<Element>(threads * strip_size(slices));
    const Index rows = round_up(ceil_div(m_, ceil_div(m_, Tiles::block_m)), height());  // as many in each block
    for (Index m = 0; m < m_; m += rows) {
      for (Index first_k = 0; first_k == 0 || first_k < depth_; first_k += depth_at_once()) {
        const Block block = this->block(m, rows, first_k, std::min(depth_, first_k + depth_at_once()));
        pack_together(block, packed_a);
        // With fewer slices than threads the panels are divided too (and such a slice is packed more than once).
        const Index parts = std::min(block.panels(), ceil_div(wanted, slices.count));
        exec_.parallel_for(slices.count * parts, [&](Index index, int thread) {
          [[maybe_unused]] const typename Tiles::Session session;
          const Index part = index % parts;
          const Index first_p = block.panels() * part / parts, end_p = block.panels() * (part + 1) / parts;
          // What this thread packs after this slice, mostly: the next one.
          const Slice* const next = index + 1 < slices.count * parts ? &slices.list[(index + 1) / parts] : nullptr;
          multiply_slice(slices.list[index / parts], next, block, first_p, end_p, packed_a,
                         packed_b + thread * strip_size(slices));
        });
      }
    }
  }

  /// Whether there are enough rows, and few enough columns that sums of a thread's rows are near when the next block of
  /// the summation adds to them.
  bool has_own_rows() const {
    return exec_.size() > 1 && m_ >= exec_.size() * Tiles::least_own_m && columns_ * Tiles::tile_n <= Tiles::most_own_n;
  }
  /// Threads divide the rows. Each packs A for itself, for one block of the summation, which stays in its cache while
  /// all columns come by. (What threads pack together has to go from one's cache to the other's, and its memory, when
  /// it is packed again, be taken back: a twentieth of the time of such a product.)
  void in_own_rows() {
    const ArenaScope scope(arena_);
    const Slices slices = cut(1);
    const Index rows = even_rows(Tiles::block_m);
    PackedA* const packed_a = packed_a_of_threads(a_size(rows, Tiles::block_k));
    Element* const packed_b = arena_.allocate<Element>(exec_.size() * strip_size(slices));
    exec_.parallel_for(ceil_div(m_, rows), [&](Index task, int thread) {
      for (Index k = 0; k == 0 || k < depth_; k += Tiles::block_k) {
        const Block block = this->block(task * rows, rows, k, std::min(depth_, k + Tiles::block_k));
        begin({this, block}, packed_a[thread]);
        for (Index s = 0; s < slices.count; ++s) {
          const Slice* const next = s + 1 < slices.count ? &slices.list[s + 1] : nullptr;
          multiply_slice(slices.list[s], next, block, 0, block.panels(), packed_a[thread],
                         packed_b + thread * strip_size(slices));
        }
      }
    });
  }

  /// Panels [first_p, end_p) of the block with one slice of B, packed strip after strip, of which each meets all of
  /// these panels.
  void multiply_slice(const Slice& slice, const Slice* next_slice, const Block& block, Index first_p, Index end_p,
                      const PackedA& packed_a, Element* packed_b) const {
    const ProductTask<B>& task = tasks_[static_cast<std::size_t>(slice.task)];
    for (Index k = block.begin; k == block.begin || k < block.end; k += Tiles::block_k) {
      const Index d = std::min(Tiles::block_k, block.end - k);
      for (Index j = 0; j < slice.count; j += strip_tiles) {
        const Slice strip = slice.strip(j, strip_tiles);
        const Index first = strip.first * Tiles::tile_n;
        pack_b<Tiles>(task.b, k, d, first, std::min(strip.count * Tiles::tile_n, task.n - first), packed_b);
        MemoryRows next{};
        if (j + strip_tiles < slice.count) {
          next = memory_of_b(slice.strip(j + strip_tiles, strip_tiles), k, block.end);
        } else if (k + d < block.end) {
          next = memory_of_b(slice.strip(0, strip_tiles), k + d, block.end);
        } else if (next_slice != nullptr) {
          next = memory_of_b(next_slice->strip(0, strip_tiles), block.begin, block.end);
        }
        Prefetcher ahead = asked_during((end_p - first_p) * strip.count, d, next);
        typename Tiles::Beside beside = asking(ahead);
        for (Index p = first_p; p < end_p; ++p) {
          multiply_panel(task, block, p, k, d, strip, packed_a, packed_b, beside);
        }
      }
    }
  }

  Exec& exec_;
  Arena& arena_;
  const A& a_;
  Index m_, depth_;
  std::span<const ProductTask<B>> tasks_;
  Index columns_ = 0;
  Index most_parts_ = 1;
  Slices slices_{};       ///< (by_rows)
  Index first_of_b_ = 0;  ///< where a thread's panels of this B begin (by_rows)
};

/// C_t (+)= A·B_t for all tasks t with the tiles named.
template <class Tiles, class A, class B, Executor Exec>
void tiled_products(Exec& exec, Arena& arena, const A& a, Index m, Index depth, std::span<const ProductTask<B>> tasks) {
  TiledProducts<Tiles, A, B, Exec>(exec, arena, a, m, depth, tasks).run();
}

}  // namespace detail

}  // namespace xlstm::cpu
