// SPDX-License-Identifier: Apache-2.0
// A model's sizes are template arguments, so a program is compiled for a list of models and picks the one that a
// checkpoint asks for at run time. CMake writes such a list from XLSTM_MODELS and XLSTM_PRESETS (docs/building.md).
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "xlstm/core/fixed_string.hpp"
#include "xlstm/model/config.hpp"

namespace xlstm {

/// A configuration and the name by which a person knows it.
template <FixedString Name, ModelConfig Config>
struct NamedConfig {
  static constexpr std::string_view name = Name.view();
  static constexpr ModelConfig config = Config;
};

/// Models that a program is compiled for: a list of NamedConfig.
template <class... Models>
struct ModelList {
  static constexpr std::size_t size = sizeof...(Models);
  static constexpr std::array<std::string_view, size> names = {Models::name...};
  static constexpr std::array<ModelConfig, size> configs = {Models::config...};
};

/// True if both are the same model. chunk_size changes speed, never results, and is not compared; factors are compared
/// by the widths that they lead to.
constexpr bool same_model(ModelConfig a, const ModelConfig& b) {
  a.chunk_size = b.chunk_size;
  if (a.qk_dim() == b.qk_dim()) a.qk_dim_factor = b.qk_dim_factor;
  if (a.v_dim() == b.v_dim()) a.v_dim_factor = b.v_dim_factor;
  if (a.ffn_dim() == b.ffn_dim()) {
    a.ffn_proj_factor = b.ffn_proj_factor;
    a.ffn_round_up_to_multiple_of = b.ffn_round_up_to_multiple_of;
  }
  return a == b;
}

namespace detail {

template <class List>
struct Dispatch;

template <class... Models>
struct Dispatch<ModelList<Models...>> {
  using List = ModelList<Models...>;

  /// Where the first entry of the same model as entry i stands: only that one is compiled.
  static constexpr std::size_t first_equal(std::size_t i) {
    for (std::size_t j = 0; j < i; ++j)
      if (same_model(List::configs[j], List::configs[i])) return j;
    return i;
  }

  template <std::size_t I, class F>
  static constexpr bool callable = requires(F& f) {
    f.template operator()<List::configs[I]>();
  };

  template <std::size_t I, class F>
  static bool from(const ModelConfig& wanted, F& f) {
    if constexpr (I == List::size) {
      return false;
    } else if constexpr (first_equal(I) != I) {
      return from<I + 1>(wanted, f);
    } else {
      static_assert(callable<I, F>, "xlstm: the visitor of dispatch takes the configuration as its template argument");
      if (!same_model(wanted, List::configs[I])) return from<I + 1>(wanted, f);
      f.template operator()<List::configs[I]>();
      return true;
    }
  }
};

}  // namespace detail

/// Calls `f.template operator()<config>()` with the entry of List that is the same model as `wanted`, and returns
/// true; returns false, and calls nothing, where the list has no such model. `f` is instantiated once for each
/// different model of the list.
template <class List, class F>
bool dispatch(const ModelConfig& wanted, F&& f) {
  return detail::Dispatch<List>::template from<0>(wanted, f);
}

}  // namespace xlstm
