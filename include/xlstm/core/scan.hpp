// SPDX-License-Identifier: Apache-2.0
// Prefix scans over any associative operation, in place: one after another, or as a tree over an executor
// (Brent, Kung 1982: at most 2n operations in 2 log₂ n steps). The tree's shape depends on the number of values alone,
// so the result has the same bits for any number of threads; it differs from the sequential one by rounding.
//
// The operation is given as what is done in place, `operation.prepend(earlier, later)`: later ← earlier ∘ later.
// A value may therefore be anything that can be written to: a number, an owner of arrays, a view of memory elsewhere.
#pragma once

#include <algorithm>
#include <span>

#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"

namespace xlstm {

/// An associative operation with a neutral value: `prepend(earlier, later)` makes later = earlier ∘ later,
/// `make_identity(value)` makes value neutral.
template <class O, class Value>
concept MonoidOn = requires(const O& operation, const Value& earlier, Value& later) {
  operation.prepend(earlier, later);
  operation.make_identity(later);
};

/// values[i] ← values[0] ∘ … ∘ values[i], from left to right.
template <class Value, MonoidOn<Value> Operation>
void inclusive_scan(std::span<Value> values, const Operation& operation) {
  for (std::size_t i = 1; i < values.size(); ++i) operation.prepend(values[i - 1], values[i]);
}

/// values[i] ← values[0] ∘ … ∘ values[i], as a tree; the same bits whatever the executor.
template <class Value, MonoidOn<Value> Operation, class E>
requires Executor<E>
void inclusive_scan(std::span<Value> values, const Operation& operation, E& executor) {
  const Index n = static_cast<Index>(values.size());
  Value* value = values.data();
  Index distance = 1;
  for (; distance < n; distance *= 2) {
    executor.parallel_for(n / (2 * distance), [=, &operation](Index task, int) {
      Value* later = value + (task + 1) * 2 * distance - 1;
      operation.prepend(*(later - distance), *later);
    });
  }
  for (distance /= 2; distance >= 1; distance /= 2) {
    const Index count = n < distance ? 0 : (n - distance) / (2 * distance);
    executor.parallel_for(count, [=, &operation](Index task, int) {
      Value* later = value + (task + 1) * 2 * distance - 1 + distance;
      operation.prepend(*(later - distance), *later);
    });
  }
}

/// Moves an inclusive scan one place on, so that values[i] holds what is before i; the first becomes neutral.
/// The value of the whole, which has no place in an exclusive scan, is lost.
template <class Value, MonoidOn<Value> Operation>
void inclusive_to_exclusive(std::span<Value> values, const Operation& operation) {
  if (values.empty()) return;
  std::rotate(values.begin(), values.end() - 1, values.end());
  operation.make_identity(values.front());
}

/// values[i] ← values[0] ∘ … ∘ values[i−1], from left to right; the first becomes neutral.
template <class Value, MonoidOn<Value> Operation>
void exclusive_scan(std::span<Value> values, const Operation& operation) {
  inclusive_scan(values, operation);
  inclusive_to_exclusive(values, operation);
}

/// values[i] ← values[0] ∘ … ∘ values[i−1], as a tree; the same bits whatever the executor.
template <class Value, MonoidOn<Value> Operation, class E>
requires Executor<E>
void exclusive_scan(std::span<Value> values, const Operation& operation, E& executor) {
  inclusive_scan(values, operation, executor);
  inclusive_to_exclusive(values, operation);
}

}  // namespace xlstm
