// SPDX-License-Identifier: Apache-2.0
// dW_t += dy_tᵀ x for several dy of the same rows: sums over all rows of a batch, small beside what they are summed
// over. The rows are cut into parts; a part is the work of one thread, and the sums of all parts are added at the end.
//
// A tile's left operand is read by columns here, and AMX takes it by rows: it has to be transposed, its right operand
// does not. So the narrower of x and all dy is the left one, which is packed for a block of rows at once, and of the
// other a strip of columns at a time, while products of the strip before it are made. Where x is the left one, it is
// the transposes of dW that are summed up.
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/amx_tiles.hpp"
#include "xlstm/cpu/matrix_operands.hpp"
#include "xlstm/cpu/matrix_product.hpp"
#include "xlstm/cpu/narrow_layers.hpp"
#include "xlstm/cpu/precision.hpp"
#include "xlstm/cpu/prefetch.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"
#include "xlstm/cpu/vector_tiles.hpp"

namespace xlstm::cpu {

/// One of several gradients from the same x: dweight (out, in) += dyᵀ x, dy (rows, out).
struct WeightGradientTask {
  MatrixView<const float> dy;
  float* dweight;
};

namespace detail {

/// Whether there are rows enough to be cut into parts, and dW's small enough to have one for each. That does not depend
/// on the number of threads; results do depend on the parts.
inline constexpr Index gradient_part_rows = 1024;
inline bool sums_in_parts(MatrixView<const float> x, std::span<const WeightGradientTask> tasks) {
  constexpr Index largest = Index{1} << 19;  // elements of a dW
  return x.rows() >= 2 * gradient_part_rows && std::all_of(tasks.begin(), tasks.end(), [&](const auto& task) {
           return task.dy.cols() * x.cols() <= largest;
         });
}

/// The parts of all gradients. In turn: the constructor, add_part for each part, in any order and on any threads,
/// finish. Scratch comes from the arena and stays in use.
template <class Tiles, Executor Exec>
class WeightGradients {
 public:
  WeightGradients(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const WeightGradientTask> tasks)
      : exec_(exec),
        in_(x.cols()),
        rows_(x.rows()),
        parts_(std::max<Index>(1, x.rows() / gradient_part_rows)),
        tasks_(tasks) {
    Index out = 0;
    for (const WeightGradientTask& t : tasks) out += t.dy.cols();
    x_is_left_ = in_ < out;
    height_ = Tiles::height(Tiles::block_m);
    const Index of_x = x_is_left_ ? height_ : Tiles::tile_n, of_dy = x_is_left_ ? Tiles::tile_n : height_;
    (x_is_left_ ? left_ : right_) = cut_x(arena, x, of_x);
    (x_is_left_ ? right_ : left_) = cut_dy(arena, of_dy);

    // So many rows at once that the packed left strips stay near.
    const Index bytes = count(left_) * Tiles::a_size(height_, granule) * Index{sizeof(Element)};
    depth_ = std::clamp<Index>(most_left_bytes / std::max<Index>(1, bytes) * granule, granule,
                               Tiles::gradient_k / granule * granule);
    packed_left_size_ = count(left_) * Tiles::a_size(height_, depth_);
    packed_right_size_ = Tiles::b_size(depth_, b_parts);
    packed_left_ = arena.allocate<Element>(exec.size() * packed_left_size_);
    packed_right_ = arena.allocate<Element>(2 * exec.size() * packed_right_size_);
    sums_ = arena.allocate<float>(parts_ * sums_size());
  }

  Index parts() const { return parts_; }

  /// The sums over the rows of one part.
  void add_part(Index part, int thread) const {
    [[maybe_unused]] const typename Tiles::Session session;
    Element* const left = packed_left_ + thread * packed_left_size_;
    Element* right = packed_right_ + 2 * thread * packed_right_size_;
    Element* next_right = right + packed_right_size_;
    const Index first = part * gradient_part_rows, end = part + 1 < parts_ ? first + gradient_part_rows : rows_;
    const Index strips = count(right_);
    if (strips == 0 || left_.empty()) return;
    for (Index k = first; k < end; k += depth_) {
      const Index d = std::min(depth_, end - k);
      pack_left(k, d, left);
      if (!Tiles::packs_alongside || k == first) pack_right(0, k, d, right);
      for (Index j = 0; j < strips; ++j) {
        const Piece next = after({j, k}, end);
        const Index terms = count(left_) * Tiles::terms(d, b_parts);
        // What is packed meanwhile should be there already, and what is packed afterwards should be by then.
        Prefetcher ahead(memory_of(Tiles::packs_alongside ? after(next, end) : next, end), terms);
        if constexpr (Tiles::packs_alongside) {
          typename Tiles::Beside beside(ahead, packing(next, end, next_right), terms);
          multiply(part, j, d, left, right, k > first, beside);
          beside.finish();
          std::swap(right, next_right);
        } else {
          typename Tiles::Beside beside(ahead, {}, terms);
          multiply(part, j, d, left, right, k > first, beside);
          if (next.strip > 0) pack_right(next.strip, k, d, right);
        }
      }
    }
  }

  /// Adds the sums of all parts to the gradients.
  void finish() const {
    exec_.parallel_for(count(left_), [&](Index i, int) {
      for (Index j = 0; j < count(right_); ++j) add_tile(i, j);
    });
  }

 private:
  using Element = typename Tiles::Element;
  static constexpr Index most_left_bytes = Index{3} << 18;  ///< packed, of a block: some of a 2 MiB cache
  static constexpr Index granule = 64;                      ///< a block has a multiple of so many rows
  static constexpr Index b_parts = Tiles::parts(PlainB<PlainRows<float>>{});

  /// Columns [first, first + count) of a matrix: of x, or of dy of that task.
  struct Strip {
    const float* data;
    Index stride, first, count, task;
  };
  static Strip* cut(MatrixView<const float> matrix, Index width, Index task, Strip* to) {
    for (Index c = 0; c < matrix.cols(); c += width) {
      *to++ = {matrix.data(), matrix.stride(), c, std::min(width, matrix.cols() - c), task};
    }
    return to;
  }
  static std::span<const Strip> cut_x(Arena& arena, MatrixView<const float> x, Index width) {
    Strip* const strips = arena.allocate<Strip>(ceil_div(x.cols(), width));
    return {strips, cut(x, width, 0, strips)};
  }
  std::span<const Strip> cut_dy(Arena& arena, Index width) const {
    Index count = 0;
    for (const WeightGradientTask& t : tasks_) count += ceil_div(t.dy.cols(), width);
    Strip* const strips = arena.allocate<Strip>(count);
    Strip* end = strips;
    for (std::size_t t = 0; t < tasks_.size(); ++t) end = cut(tasks_[t].dy, width, static_cast<Index>(t), end);
    return {strips, end};
  }
  static Index count(std::span<const Strip> strips) { return static_cast<Index>(strips.size()); }

  /// A strip of the right operand from row k on, to the end of its block; none where `strip` is negative.
  struct Piece {
    Index strip, k;
  };
  Piece after(const Piece& piece, Index end) const {
    if (piece.strip < 0) return piece;
    if (piece.strip + 1 < count(right_)) return {piece.strip + 1, piece.k};
    return piece.k + depth_ < end ? Piece{0, piece.k + depth_} : Piece{-1, 0};
  }

  void pack_left(Index k, Index depth, Element* to) const {
    constexpr Index step = 32;  // rows at a time, which lie together in memory
    for (Index x = 0; x < depth; x += step) {
      for (Index i = 0; i < count(left_); ++i) {
        const Strip& s = left_[static_cast<std::size_t>(i)];
        Tiles::pack_a(ColumnsOfA{s.data, s.stride}, s.first, s.count, k + x, std::min(step, depth - x), height_,
                      to + i * Tiles::a_size(height_, depth) + Tiles::a_size(height_, x));
      }
    }
  }
  void pack_right(Index j, Index k, Index depth, Element* to) const {
    const Strip& s = right_[static_cast<std::size_t>(j)];
    Tiles::pack_b(PlainB<PlainRows<float>>{{s.data, s.stride}}, k, depth, s.first, s.count, to);
  }

  /// A strip as work alongside; or it is packed at once, where that is not possible.
  auto packing(const Piece& piece, Index end, Element* panel) const {
    if (piece.strip < 0) return typename Tiles::Packing();
    const Strip& s = right_[static_cast<std::size_t>(piece.strip)];
    const Index depth = std::min(depth_, end - piece.k);
    if (Tiles::in_steps(s.count, depth)) {
      return typename Tiles::Packing({{s.data, s.stride}}, piece.k, depth, s.first, panel);
    }
    pack_right(piece.strip, piece.k, depth, panel);
    return typename Tiles::Packing();
  }
  /// Where a strip's rows of a block lie.
  MemoryRows memory_of(const Piece& piece, Index end) const {
    if (piece.strip < 0) return {};
    const Strip& s = right_[static_cast<std::size_t>(piece.strip)];
    constexpr Index size = sizeof(float);
    return {s.data + piece.k * s.stride + s.first, s.count * size, s.stride * size, std::min(depth_, end - piece.k)};
  }

  Index tile_size() const { return height_ * Tiles::tile_n; }
  Index sums_size() const { return count(left_) * count(right_) * tile_size(); }
  /// Sums of strips i and j, height × tile_n.
  float* tile(Index part, Index i, Index j) const {
    return sums_ + part * sums_size() + (j * count(left_) + i) * tile_size();
  }

  /// All left strips with one right one, over a block of `depth` rows.
  void multiply(Index part, Index j, Index depth, const Element* left, const Element* right, bool add,
                typename Tiles::Beside& beside) const {
    const auto product = Tiles::product(height_, b_parts);
    for (Index i = 0; i < count(left_); ++i) {
      float* const sums = tile(part, i, j);
      // The tiles of all pairs lie one after another.
      const bool last = i + 1 == count(left_) && j + 1 == count(right_);
      if (!last) beside.ask_for_sums(sums + tile_size(), Tiles::tile_n, height_, Tiles::terms(depth, b_parts));
      product(left + i * Tiles::a_size(height_, depth), right, depth, sums, Tiles::tile_n, height_, Tiles::tile_n,
              nullptr, add, beside);
    }
  }

  /// dW += the sums of all parts, part after part.
  void add_tile(Index i, Index j) const {
    const Strip &left = left_[static_cast<std::size_t>(i)], &right = right_[static_cast<std::size_t>(j)];
    float* const sums = tile(0, i, j);
    for (Index part = 1; part < parts_; ++part) {
      const float* const more = tile(part, i, j);
      for (Index e = 0; e < tile_size(); ++e) sums[e] += more[e];
    }
    const Strip& of_dy = x_is_left_ ? right : left;
    const Strip& of_x = x_is_left_ ? left : right;
    float* const to = tasks_[static_cast<std::size_t>(of_dy.task)].dweight + of_dy.first * in_ + of_x.first;
    if (x_is_left_) {
      add_transposed(sums, left.count, right.count, to);
    } else {
      for (Index r = 0; r < left.count; ++r) {
        for (Index c = 0; c < right.count; ++c) to[r * in_ + c] += sums[r * Tiles::tile_n + c];
      }
    }
  }
  /// to(c, r) += sums(r, c) for r < rows, c < columns.
  void add_transposed(const float* sums, Index rows, Index columns, float* to) const {
    constexpr Index width = simd::width;
    for (Index r = 0; r < rows; r += width) {
      for (Index c = 0; c < columns; c += width) {
        if (rows - r >= width && columns - c >= width) {
          simd::Floats v[width];
          for (Index i = 0; i < width; ++i) v[i] = simd::load(sums + (r + i) * Tiles::tile_n + c);
          simd::transpose(v);
          for (Index i = 0; i < width; ++i) {
            float* const at = to + (c + i) * in_ + r;
            simd::store(at, simd::load(at) + v[i]);
          }
        } else {
          for (Index i = c; i < std::min(columns, c + width); ++i) {
            for (Index k = r; k < std::min(rows, r + width); ++k) to[i * in_ + k] += sums[k * Tiles::tile_n + i];
          }
        }
      }
    }
  }

  Exec& exec_;
  Index in_, rows_, parts_;
  std::span<const WeightGradientTask> tasks_;
  bool x_is_left_ = false;
  std::span<const Strip> left_, right_;
  Index height_ = 0;  ///< of a left panel
  Index depth_ = 0;   ///< rows of a block
  Index packed_left_size_ = 0, packed_right_size_ = 0;
  Element *packed_left_ = nullptr, *packed_right_ = nullptr;  ///< of each thread; two strips of the right operand
  float* sums_ = nullptr;                                     ///< of part after part
};

}  // namespace detail

/// dW_t += dy_tᵀ x for all tasks: x (rows, in). `run(tasks)` is called once, and has to run them, beside whatever else
/// does not touch x, dy and dW.
template <class Precision = HighestPrecision, Executor Exec, class Run>
void weight_gradients(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const WeightGradientTask> all,
                      Run&& run) {
  const ArenaScope scope(arena);
  WeightGradientTask* const wide = arena.allocate<WeightGradientTask>(static_cast<Index>(all.size()));
  WeightGradientTask* const narrow = arena.allocate<WeightGradientTask>(static_cast<Index>(all.size()));
  const auto ends = std::partition_copy(all.begin(), all.end(), narrow, wide,
                                        [](const WeightGradientTask& t) { return t.dy.cols() <= few_outputs; });
  if (ends.first != narrow) {
    detail::narrow_weight_gradients(exec, arena, x, std::span<const WeightGradientTask>(narrow, ends.first));
  }
  const std::span<const WeightGradientTask> tasks(wide, ends.second);
  if (!detail::sums_in_parts(x, tasks)) {
    for (const WeightGradientTask& t : tasks) {
      using Task = ProductTask<PlainB<PlainRows<float>>>;
      const Index in = x.cols(), out = t.dy.cols();
      const Task task{{{x.data(), x.stride()}}, in, nullptr, {t.dweight, out, in}, true};
      matrix_products<Precision>(exec, arena, ColumnsOfA{t.dy.data(), t.dy.stride()}, out, x.rows(),
                                 std::span<const Task>(&task, 1));
    }
    run(Tasks());
    return;
  }
  const auto in_parts = [&](auto tiles) {
    const detail::WeightGradients<decltype(tiles), Exec> gradients(exec, arena, x, tasks);
    const auto part = [&](Index p, int thread) { gradients.add_part(p, thread); };
    run(Tasks(gradients.parts(), part));
    gradients.finish();
  };
#if defined(XLSTM_SIMD_AMX)
  const bool rows_enough = std::any_of(tasks.begin(), tasks.end(), [](const WeightGradientTask& t) {
    return t.dy.cols() >= AmxTiles<Precision>::least_rows;
  });
  if (rows_enough && amx::permitted()) return in_parts(AmxTiles<Precision>());
#endif
  in_parts(VectorTiles());
}

}  // namespace xlstm::cpu
