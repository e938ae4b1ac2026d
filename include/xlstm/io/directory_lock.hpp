// SPDX-License-Identifier: Apache-2.0
// A directory that one process at a time works in (POSIX).
#pragma once

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "xlstm/core/error.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/printable.hpp"

namespace xlstm::io {

/// Holds a directory until destruction or the end of the process, however it ends. Binds those alone who ask for it,
/// too. Error if somebody else has it for longer than the two seconds that a process which was killed may take to end,
/// or if it cannot be opened; on a file system without locks everybody may have it.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::filesystem::path& directory)
      : descriptor_(open_descriptor(directory, O_RDONLY | O_DIRECTORY)) {
    if (descriptor_.get() < 0) fail_with_errno(directory, "cannot be opened", errno);
    for (int tries = 100; ::flock(descriptor_.get(), LOCK_EX | LOCK_NB) != 0; --tries) {
      if (errno != EWOULDBLOCK && errno != EINTR) break;
      if (tries == 0) fail(printable(directory.native()), ": another process is at work there; wait for its end");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

 private:
  FileDescriptor descriptor_;
};

}  // namespace xlstm::io
