// SPDX-License-Identifier: Apache-2.0
// Files (POSIX): whole files mapped into memory, small ones as text, and new ones that appear complete or not at all.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/io/printable.hpp"

namespace xlstm::io {

/// Throws Error "path: what: reason" with the system's word for `code` (an errno).
[[noreturn]] inline void fail_with_errno(const std::filesystem::path& path, std::string_view what, int code) {
  fail(printable(path.native()), ": ", what, ": ", std::generic_category().message(code));
}

/// An open file descriptor, closed on destruction.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

/// open(2), tried again where a signal interrupted it.
inline FileDescriptor open_descriptor(const std::filesystem::path& path, int flags, mode_t mode = 0) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return FileDescriptor(fd);
}

struct OpenedFile {
  FileDescriptor descriptor;
  std::size_t size = 0;
};

/// Opens a regular file for reading; everything else (a directory, a FIFO, a device) is an Error, and never waits.
inline OpenedFile open_regular_file(const std::filesystem::path& path) {
  OpenedFile file{open_descriptor(path, O_RDONLY | O_NONBLOCK | O_NOCTTY), 0};
  if (file.descriptor.get() < 0) fail_with_errno(path, "cannot be opened", errno);
  struct ::stat status {};
  if (::fstat(file.descriptor.get(), &status) != 0) fail_with_errno(path, "cannot be examined", errno);
  if (S_ISDIR(status.st_mode)) fail(printable(path.native()), ": is a directory, expected a file");
  if (!S_ISREG(status.st_mode)) fail(printable(path.native()), ": is not a regular file");
  file.size = static_cast<std::size_t>(status.st_size);
  return file;
}

/// True if there is something of that name (symbolic links are followed); an Error where that cannot be found out.
inline bool path_exists(const std::filesystem::path& path) {
  struct ::stat status {};
  if (::stat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) fail_with_errno(path, "cannot be examined", errno);
  return false;
}

/// The names in a directory, in no order.
inline std::vector<std::string> list_directory(const std::filesystem::path& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().native());
  }
  if (error) fail_with_errno(path, "cannot be listed", error.value());
  return names;
}

/// Returns when all that was done to the names in a directory is on the disk; a renaming may otherwise be undone by a
/// power cut, and a later one not. Error if the disk fails.
inline void sync_directory(const std::filesystem::path& path) {
  const FileDescriptor directory = open_descriptor(path, O_RDONLY | O_DIRECTORY);
  if (directory.get() < 0) return;  // a directory may be writable but not readable; what was written is in place
  if (::fsync(directory.get()) != 0 && errno != EINVAL && errno != EROFS) {
    fail_with_errno(path, "is changed, but cannot be flushed to the disk", errno);
  }
}

/// How a mapped file will be read; the system reads ahead accordingly.
enum class AccessPattern { normal, sequential, random, soon };

/// A whole regular file in memory. The pages are private and writable: whoever is handed this memory may change it
/// without changing the file. Pages are read from disk when they are first touched. A file that another process cuts
/// shorter while it is mapped kills the reader (SIGBUS), as with every mapping: replace files by renaming.
class MappedFile {
 public:
  MappedFile() = default;

  /// Throws Error if `path` is missing, not readable, empty, or not a regular file.
  explicit MappedFile(const std::filesystem::path& path, AccessPattern pattern = AccessPattern::normal)
      : name_(printable(path.native())) {
    const OpenedFile file = open_regular_file(path);
    if (file.size == 0) fail(name_, ": is empty");
    // Without MAP_NORESERVE a writable mapping larger than memory and swap is refused, although nothing is written.
    void* address =
        ::mmap(nullptr, file.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.descriptor.get(), 0);
    if (address == MAP_FAILED) fail_with_errno(path, "cannot be mapped into memory", errno);
    data_ = static_cast<std::byte*>(address);
    size_ = file.size;
    advise(pattern);
  }
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        name_(std::move(other.name_)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(name_, other.name_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  /// A hint, which may be ignored.
  void advise(AccessPattern pattern) const {
    if (data_ == nullptr) return;
    const int advice = pattern == AccessPattern::sequential ? MADV_SEQUENTIAL
                       : pattern == AccessPattern::random   ? MADV_RANDOM
                       : pattern == AccessPattern::soon     ? MADV_WILLNEED
                                                            : MADV_NORMAL;
    (void)::madvise(data_, size_, advice);
  }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// The path, fit for messages.
  const std::string& name() const { return name_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string name_;
};

/// The whole content of a regular file; an Error if it holds more than `max_bytes`.
inline std::string read_text_file(const std::filesystem::path& path,
                                  std::size_t max_bytes = std::numeric_limits<std::size_t>::max()) {
  const OpenedFile file = open_regular_file(path);
  const auto too_large = [&](std::size_t size) {
    fail(printable(path.native()), ": has ", size, " bytes, expected at most ", max_bytes);
  };
  if (file.size > max_bytes) too_large(file.size);
  std::string text(file.size, '\0');
  std::size_t used = 0;
  while (true) {
    if (used == text.size()) text.resize(used + 4096);  // files of /proc have size 0, others may have grown
    const ssize_t got = ::read(file.descriptor.get(), text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_with_errno(path, "cannot be read", errno);
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
    if (used > max_bytes) too_large(used);
  }
  text.resize(used);
  return text;
}

/// A file that comes into being whole: what is written goes to a temporary file beside it, and commit() puts that in
/// the place of `path` in one step. Without commit() (an exception, for instance) the temporary file is removed and
/// `path` stays as it was. A process that is killed leaves at most `.NAME.PID.N.tmp`. Follows symbolic links; a path
/// that exists and is no regular file is refused. Every failure is an Error with path and reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    if (path_.filename().empty()) fail(printable(path_.native()), ": is not the name of a file");
    std::error_code error;
    if (std::filesystem::is_symlink(path_, error)) {
      std::filesystem::path target = std::filesystem::canonical(path_, error);
      if (error) fail_with_errno(path_, "symbolic link cannot be followed", error.value());
      path_ = std::move(target);
    }
    const auto status = std::filesystem::status(path_, error);
    if (std::filesystem::is_directory(status)) fail(printable(path_.native()), ": is a directory, expected a file");
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
      fail(printable(path_.native()), ": is not a regular file and will not be replaced");
    }
    create_temporary();
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  const std::filesystem::path& path() const { return path_; }

  void write(std::span<const std::byte> bytes) {
    if (buffer_.size() + bytes.size() > buffer_capacity) {
      flush();
      if (bytes.size() >= buffer_capacity) return write_through(bytes);
    }
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Puts the file in its place. It is on the disk, under its name, when this returns.
  void commit() {
    flush();
    if (::fsync(descriptor_.get()) != 0) fail_with_errno(path_, "cannot be written", errno);
    if (::close(descriptor_.release()) != 0) fail_with_errno(path_, "cannot be written", errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_with_errno(path_, "cannot be replaced", errno);
    temporary_.clear();
    const std::filesystem::path parent = path_.parent_path();
    sync_directory(parent.empty() ? "." : parent);
  }

 private:
  static constexpr std::size_t buffer_capacity = std::size_t{1} << 18;

  void create_temporary() {
    static std::atomic<unsigned> counter{0};
    for (int attempt = 0; attempt < 1000; ++attempt) {
      std::filesystem::path candidate = path_;
      candidate.replace_filename("." + path_.filename().native() + "." + std::to_string(::getpid()) + "." +
                                 std::to_string(counter++) + ".tmp");
      descriptor_ = open_descriptor(candidate, O_WRONLY | O_CREAT | O_EXCL, 0666);
      if (descriptor_.get() >= 0) {
        temporary_ = std::move(candidate);
        return;
      }
      if (errno != EEXIST) fail_with_errno(path_, "cannot be created", errno);
    }
    fail_with_errno(path_, "cannot be created", EEXIST);
  }

  void flush() {
    write_through(buffer_);
    buffer_.clear();
  }

  void write_through(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t piece = std::min(bytes.size(), std::size_t{1} << 30);
      const ssize_t written = ::write(descriptor_.get(), bytes.data(), piece);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_with_errno(path_, "cannot be written", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  FileDescriptor descriptor_;
  std::vector<std::byte> buffer_;
};

}  // namespace xlstm::io
