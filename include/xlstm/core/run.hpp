// SPDX-License-Identifier: Apache-2.0
// What one pass through a model is about: how many sequences of which length, where documents start, which form of
// the cell computes it, and where the recurrent states are.
#pragma once

#include <cstdint>

#include "xlstm/core/index.hpp"

namespace xlstm {

/// The three forms of the mLSTM; they give the same result (xLSTM 7B, §2; spec of each form in cell/mlstm.hpp).
enum class Form { chunkwise, recurrent, parallel };

/// A pass over `sequences` × `length` tokens. Row b·length + t of every activation is token t of sequence b.
struct Run {
  Index sequences = 1;  ///< B
  Index length = 1;     ///< S, from 1
  const std::uint8_t* starts =
      nullptr;  ///< (B, S): non-zero where a document starts and the state is forgotten; or null
  Form form = Form::chunkwise;
  Index chunk_size = 0;   ///< 0: what the cell's policy says
  bool training = false;  ///< keep what backward needs

  constexpr Index rows() const { return sequences * length; }
  bool starts_document(Index sequence, Index t) const {
    return starts != nullptr && starts[sequence * length + t] != 0;
  }
};

/// The recurrent states of a batch: sequence b's whole state is a contiguous array slots[b] of the model's state_size
/// values, of which a module owns those from `offset` on. Sessions anywhere in memory make one batch.
/// A state of zeros is the state before the first token, for every module.
template <class S>
struct StateSlots {
  S* const* slots = nullptr;
  Index offset = 0;

  constexpr S* operator[](Index sequence) const { return slots[sequence] + offset; }
  constexpr StateSlots at(Index more) const { return {slots, offset + more}; }
  explicit constexpr operator bool() const { return slots != nullptr; }
};

}  // namespace xlstm
