// SPDX-License-Identifier: Apache-2.0
// Catch2 as Debian 12 has it (v2) or as Ubuntu 24.04 has it (v3), under the names that v2 has for texts.
#pragma once

// Name by name: the matchers' namespace has an Approx too, for vectors, which would hide the one for numbers.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>

#include <string>
using Catch::Approx;
/// In v3, Catch::Matchers::Contains asks about the elements of a range.
inline auto Contains(const std::string& part) { return Catch::Matchers::ContainsSubstring(part); }
#else
#include <catch2/catch.hpp>
using Catch::Matchers::Contains;
#endif
using Catch::Matchers::EndsWith;
using Catch::Matchers::StartsWith;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;
