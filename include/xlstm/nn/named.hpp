// SPDX-License-Identifier: Apache-2.0
// Named<"mlstm_layer", M> is M, its parameters called "mlstm_layer.…". Containers number the children that have no
// name, and all of them where two have the same: no two parameters of a network have one name.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "xlstm/core/fixed_string.hpp"
#include "xlstm/nn/module.hpp"

namespace xlstm {

template <FixedString Name, class M>
struct Named : M {
  static_assert(Name.view().empty() || Name.view().find_first_not_of("0123456789") != std::string_view::npos,
                "xlstm: a module's name must not be a number: those are for modules without a name");
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

/// The names with which a module's parameters begin, where a container need not number it: it is Named, or made of
/// Named parts only. None: the container numbers it.
template <class M>
inline constexpr auto own_names = std::array<std::string_view, 0>{};
template <FixedString Name, class M>
inline constexpr auto own_names<Named<Name, M>> = std::array{Named<Name, M>::name};

namespace detail {

template <class... Ms>
inline constexpr auto all_own_names = [] {
  std::array<std::string_view, (own_names<Ms>.size() + ...)> all{};
  auto next = all.begin();
  ((next = std::copy(own_names<Ms>.begin(), own_names<Ms>.end(), next)), ...);
  return all;
}();

/// Whether no two of a container's children have a name in common. If some do, all of them are numbered.
template <class... Ms>
inline constexpr bool own_names_differ = [] {
  auto sorted = all_own_names<Ms...>;
  std::sort(sorted.begin(), sorted.end());
  return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
}();

/// A container's own names: those of its children, if it numbers none of them.
template <class... Ms>
constexpr auto names_of_children() {
  if constexpr (own_names_differ<Ms...> && (!own_names<Ms>.empty() && ...)) {
    return all_own_names<Ms...>;
  } else {
    return std::array<std::string_view, 0>{};
  }
}

/// The children of one container: each goes by its own name, or by its number.
template <class... Ms>
struct Children {
  template <class M>
  static constexpr bool numbered = own_names<M>.empty() || !own_names_differ<Ms...>;

  template <class M, class P, class V>
  static constexpr void visit(Index number, P& p, V&& visit) {
    if constexpr (numbered<M>) {
      M::for_each_parameter(p, visit.child(number));
    } else {
      M::for_each_parameter(p, visit);
    }
  }
  template <class M, class V>
  static void visit_state(Index number, const V& visit, const std::string& prefix, Index base) {
    xlstm::for_each_state<M>(visit, numbered<M> ? join(prefix, std::to_string(number)) : prefix, base);
  }
};

}  // namespace detail

}  // namespace xlstm
