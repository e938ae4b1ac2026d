// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/directory_lock.hpp"

#include <optional>

#include "catch.hpp"
#include "temporary_directory.hpp"

using xlstm::io::DirectoryLock;

TEST_CASE("a directory is held by one at a time, and free again afterwards") {
  const TemporaryDirectory directory;
  std::optional<DirectoryLock> first(directory.path());
  CHECK_THROWS_WITH(DirectoryLock(directory.path()), Catch::Matchers::Contains("another process is at work there"));
  first.reset();
  CHECK_NOTHROW(DirectoryLock(directory.path()));
}

TEST_CASE("what is no directory cannot be held") {
  const TemporaryDirectory directory;
  CHECK_THROWS_WITH(DirectoryLock(directory.path() / "missing"),
                    Catch::Matchers::Contains("missing: cannot be opened"));
}
