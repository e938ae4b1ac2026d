// SPDX-License-Identifier: Apache-2.0
// Named<"mlstm_layer", M> is M, its parameters called "mlstm_layer.…". Containers number the children that have no
// name.
#pragma once

#include "xlstm/core/fixed_string.hpp"
#include "xlstm/nn/module.hpp"

namespace xlstm {

template <FixedString Name, class M>
struct Named : M {
  using Module = M;
  static constexpr std::string_view name = Name.view();

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    M::for_each_parameter(p, visit.child(name));
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    xlstm::for_each_state<M>(visit, detail::join(prefix, name), base);
  }
};

/// Whether a container need not number this child: it is Named, or made of Named parts only.
template <class M>
inline constexpr bool has_own_name = false;
template <FixedString Name, class M>
inline constexpr bool has_own_name<Named<Name, M>> = true;

namespace detail {
/// A container's child under its own name, or under its number.
template <class M, class P, class V>
constexpr void visit_child(Index number, P& p, V&& visit) {
  if constexpr (has_own_name<M>) {
    M::for_each_parameter(p, visit);
  } else {
    M::for_each_parameter(p, visit.child(number));
  }
}
template <class M, class V>
void visit_child_state(Index number, const V& visit, const std::string& prefix, Index base) {
  xlstm::for_each_state<M>(visit, has_own_name<M> ? prefix : join(prefix, std::to_string(number)), base);
}
}  // namespace detail

}  // namespace xlstm
