// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace xlstm {

/// Every size, count and offset: signed, so that differences and reverse loops mean what they say.
using Index = std::ptrdiff_t;

/// A token's number in the vocabulary.
using Token = std::int32_t;

/// ceil(a / b) for a >= 0, b > 0.
constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

/// The smallest multiple of b that is at least a.
constexpr Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

}  // namespace xlstm
