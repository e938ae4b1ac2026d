// SPDX-License-Identifier: Apache-2.0
// The second translation unit: every header a second time, without run-time type information.
#if __has_include(<xlstm/xlstm.hpp>)
#include <xlstm/xlstm.hpp>
#else
#include <xlstm/core/error.hpp>
#include <xlstm/model/model_list.hpp>
#include <xlstm/model/presets.hpp>
#endif

xlstm::Index heads_without_rtti() { return xlstm::presets::xlstm_7b.num_heads; }

bool throws_without_rtti() { xlstm::fail("a message from ", 2, " translation units"); }
