// SPDX-License-Identifier: Apache-2.0
// What goes wrong outside the program (files, prompts, flags, devices) is an xlstm::Error;
// what the compiler can know is a static_assert; a broken invariant is an assert.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace xlstm {

/// Thrown for everything that comes from outside and cannot be used.
/// what() is one line: what was wrong, where (file, tensor, flag), and what was expected.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws Error with the arguments streamed one after another: `fail("model.json: size ", 3, ", expected ", 4)`.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace xlstm
