// SPDX-License-Identifier: Apache-2.0
// What a stretch of sequence does to the mLSTM's state is a summary (g, m, C, n), and two neighbours combine into one,
// x the earlier, y the later (the inter-chunk recurrence of TFLA, arXiv 2503.14376, §2.2, as an associative operation):
//     g = g_x + g_y,   m = max(g_y + m_x, m_y),   C = exp(g_y + m_x − m) C_x + exp(m_y − m) C_y,   n likewise
// g is the stretch's sum of log f; exp(m)·C and exp(m)·n are what it adds to a state. The neutral summary is
// (0, −∞, 0, 0). Where a document starts in y, what came before is forgotten: the result is y. A state is itself
// such a summary: one before which nothing matters. So all states at chunk borders are one prefix scan (core/scan.hpp).
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <limits>

namespace xlstm {

/// A summary's scalars, themselves a monoid. As it is, the neutral one.
template <class T>
struct Stretch {
  T g = 0;                                    ///< sum of log f, of the part after the last document start
  T m = -std::numeric_limits<T>::infinity();  ///< the log scale of C and n
  bool starts = false;                        ///< a document starts in it: what came before is forgotten

  /// One token with these gates; its C is k vᵀ, its n is k. For a gate without stabiliser see unstabilized().
  static Stretch token(T log_f, T log_i) { return {log_f, log_i, false}; }
  /// A state with log scale m, before which nothing matters.
  static Stretch state(T m) { return {T{0}, m, true}; }
  /// What is there before a document's first token: C = 0, n = 0, and m = 0, which takes part in the maximum.
  static Stretch fresh() { return state(T{0}); }
  /// A stretch with log scale 0, as all are where the input gate is bounded and m stays 0.
  static Stretch unstabilized(T sum_log_f) { return {sum_log_f, T{0}, false}; }
};

/// Two stretches joined, and the factors with which their C and n are added.
template <class T>
struct JoinedStretch {
  Stretch<T> stretch;
  T earlier;
  T later;
};

/// x, then y.
template <class T>
JoinedStretch<T> join(const Stretch<T>& x, const Stretch<T>& y) {
  if (y.starts) return {y, T{0}, T{1}};
  const T nothing = -std::numeric_limits<T>::infinity();
  const T carried = x.m == nothing ? nothing : y.g + x.m;
  const T m = std::max(carried, y.m);
  const Stretch<T> both{x.g + y.g, m, x.starts};
  // −∞ − (−∞) is no number; what weighs exp(−∞) is nothing, whatever the scale.
  return {both, carried == nothing ? T{0} : std::exp(carried - m), y.m == nothing ? T{0} : std::exp(y.m - m)};
}

/// A summary of one head: the scalars, and all entries of C and n in any fixed order. `Values` owns them
/// (std::vector, std::array) or views memory elsewhere (std::span).
template <class T, class Values>
struct Summary {
  Stretch<T> stretch;
  Values values{};
};

/// The scan's operation: of Stretch, and of Summary (all of equal sizes).
struct StateMonoid {
  template <class T>
  void prepend(const Stretch<T>& earlier, Stretch<T>& later) const {
    later = join(earlier, later).stretch;
  }
  template <class T>
  void make_identity(Stretch<T>& stretch) const {
    stretch = {};
  }

  /// later ← earlier ∘ later.
  template <class T, class EarlierValues, class LaterValues>
  void prepend(const Summary<T, EarlierValues>& earlier, Summary<T, LaterValues>& later) const {
    assert(earlier.values.size() == later.values.size());
    if (later.stretch.starts) return;
    const JoinedStretch<T> joined = join(earlier.stretch, later.stretch);
    for (std::size_t i = 0; i < later.values.size(); ++i)
      later.values[i] = joined.earlier * earlier.values[i] + joined.later * later.values[i];
    later.stretch = joined.stretch;
  }
  template <class T, class Values>
  void make_identity(Summary<T, Values>& summary) const {
    summary.stretch = {};
    std::fill(summary.values.begin(), summary.values.end(), T{0});
  }
};

/// x ∘ y as a new value.
template <class Value>
Value combine(const Value& x, Value y) {
  StateMonoid{}.prepend(x, y);
  return y;
}

}  // namespace xlstm
