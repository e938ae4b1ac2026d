// expect: xlstm: an arena holds plain values and views; this type owns something
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "xlstm/core/arena.hpp"

std::string* strings(xlstm::Arena& arena) { return arena.allocate<std::string>(3); }
