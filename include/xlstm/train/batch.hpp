// SPDX-License-Identifier: Apache-2.0
// What a training step reads: rows of tokens, what follows each of them, and where documents start.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "xlstm/core/index.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm {

/// A view of (sequences, length) tokens.
struct Batch {
  Index sequences = 0;
  Index length = 0;
  std::span<const Token> tokens;         ///< (B, S)
  std::span<const Token> targets;        ///< (B, S), each a token or ignored_target
  const std::uint8_t* starts = nullptr;  ///< (B, S): non-zero where a document starts; or null
  bool continues = false;  ///< every row goes on where the batch before ended: truncated backpropagation through time

  Index rows() const { return sequences * length; }
};

/// Memory for a batch, allocated once.
class BatchBuffer {
 public:
  BatchBuffer(Index sequences, Index length)
      : sequences_(sequences),
        length_(length),
        tokens_(static_cast<std::size_t>(sequences * length)),
        targets_(tokens_.size(), ignored_target),
        starts_(tokens_.size()) {}

  Index sequences() const { return sequences_; }
  Index length() const { return length_; }
  std::span<Token> tokens(Index row) { return piece(tokens_, row); }
  std::span<Token> targets(Index row) { return piece(targets_, row); }
  std::span<std::uint8_t> starts(Index row) { return piece(starts_, row); }
  Batch view() const { return {sequences_, length_, tokens_, targets_, starts_.data(), false}; }

 private:
  template <class T>
  std::span<T> piece(std::vector<T>& all, Index row) {
    return std::span<T>(all).subspan(static_cast<std::size_t>(row * length_), static_cast<std::size_t>(length_));
  }

  Index sequences_;
  Index length_;
  std::vector<Token> tokens_;
  std::vector<Token> targets_;
  std::vector<std::uint8_t> starts_;
};

}  // namespace xlstm
