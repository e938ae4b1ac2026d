// SPDX-License-Identifier: Apache-2.0
// A model with random weights in any format, for measurements: quantised matrices get random codes and equal scales.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include "xlstm/core/random.hpp"
#include "xlstm/model/model.hpp"

namespace xlstm::bench {

template <class Model>
Model random_model(int threads) {
  using Network = typename Model::Network;
  using B = typename Model::BackendType;
  Weights<Network, B> weights = allocate_weights<Network, B>();
  Random random(1);
  for_each_parameter<Network>(weights.parameters, [&](std::string_view name, auto& handle, Initialization start) {
    using Handle = std::remove_cvref_t<decltype(handle)>;
    if constexpr (QuantizedHandle<Handle>) {
      for (Index i = 0; i < Handle::code_bytes; ++i) handle.codes()[i] = static_cast<std::uint8_t>(random.below(256));
      const float scale = Handle::Format::bits == 8 ? 0.0003F : 0.005F;
      for (Index i = 0; i < Handle::rows * Handle::row_scales; ++i) handle.scales()[i] = bf16(scale);
    } else {
      using Element = typename Handle::Element;
      Element* next = handle.data();
      const InitialValues values(name, start, handle.count, Network::embedding_dim, Network::num_blocks, 1);
      for (Index i = 0; i < values.pieces(); ++i) {
        values.make_piece(i, [&](double value) { *next++ = static_cast<Element>(static_cast<float>(value)); });
      }
    }
  });
  return Model(std::move(weights), {threads});
}

}  // namespace xlstm::bench
