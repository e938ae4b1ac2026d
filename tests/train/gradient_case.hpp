// SPDX-License-Identifier: Apache-2.0
// What the tests of a whole model's gradient begin with, on every backend: a short text, and values of the parameters.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <vector>

#include "xlstm/core/random.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/weights.hpp"
#include "xlstm/train/trainer.hpp"

namespace xlstm::tests {

/// Two sequences of nine tokens, a document's start inside each, one target ignored.
struct ShortText {
  explicit ShortText(Index vocabulary) {
    Random random(4);
    for (int i = 0; i < 18; ++i) {
      tokens.push_back(static_cast<Token>(random.below(static_cast<std::uint64_t>(vocabulary))));
      targets.push_back(static_cast<Token>(random.below(static_cast<std::uint64_t>(vocabulary))));
    }
    targets[5] = ignored_target;
    starts[0] = starts[4] = starts[9] = starts[16] = 1;
  }
  Batch batch() const {
    Batch b;
    b.sequences = 2;
    b.length = 9;
    b.tokens = tokens;
    b.targets = targets;
    b.starts = starts.data();
    return b;
  }
  std::vector<Token> tokens, targets;
  std::vector<std::uint8_t> starts = std::vector<std::uint8_t>(18, 0);
};

/// Options that both of a comparison train with.
inline TrainerOptions gradient_options() {
  TrainerOptions options;
  options.loss.z_loss = 0.01;
  options.chunk_size = 4;
  return options;
}

/// Random values that are exact in T, whatever the block's elements are.
template <class Network, class T, class Block>
void randomize(Block& block) {
  Random random(11);
  for_each_parameter<Network>(block.parameters, [&](std::string_view, auto& handle, Initialization start) {
    using Element = typename std::remove_cvref_t<decltype(handle)>::Element;
    const bool norm = start.kind == Initialization::Kind::constant && start.first == 1;
    std::vector<Element> values;
    for (Index i = 0; i < handle.count; ++i) {
      values.push_back(Element(float{T(static_cast<float>((norm ? 1 : 0) + 0.4 * random.normal()))}));
    }
    block.write(handle, values.data());
  });
}

}  // namespace xlstm::tests
