// SPDX-License-Identifier: Apache-2.0
#include "xlstm/io/file.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "catch.hpp"
#include "temporary_directory.hpp"

using namespace xlstm::io;

TEST_CASE("MappedFile holds the file and may be written to without changing it", "[io][file]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "a", "hello");
  MappedFile file(directory / "a", AccessPattern::soon);
  REQUIRE(file.size() == 5);
  CHECK(std::memcmp(file.data(), "hello", 5) == 0);
  CHECK(file.name() == (directory / "a").native());
  file.data()[0] = std::byte{'J'};
  CHECK(read_plainly(directory / "a") == "hello");

  const std::byte* address = file.data();
  MappedFile moved(std::move(file));
  CHECK(moved.data() == address);
  MappedFile assigned;
  CHECK(assigned.size() == 0);
  assigned = std::move(moved);
  CHECK(assigned.data() == address);
  CHECK(assigned.bytes().size() == 5);
}

TEST_CASE("MappedFile outlives the file's name", "[io][file]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "a", "hello");
  const MappedFile file(directory / "a");
  std::filesystem::remove(directory / "a");
  CHECK(std::memcmp(file.data(), "hello", 5) == 0);
}

TEST_CASE("what is not a readable regular file is refused at once", "[io][file]") {
  const TemporaryDirectory directory;
  const auto map = [](const std::filesystem::path& path) { return error_of([&] { MappedFile file(path); }); };
  const auto read = [](const std::filesystem::path& path) { return error_of([&] { read_text_file(path, 100); }); };
  const std::string prefix = (directory / "a").native() + ": ";

  CHECK(map(directory / "a") == prefix + "cannot be opened: No such file or directory");
  CHECK(read(directory / "a") == prefix + "cannot be opened: No such file or directory");
  CHECK_THAT(map(directory.path()), EndsWith(": is a directory, expected a file"));
  CHECK_THAT(read(directory.path()), EndsWith(": is a directory, expected a file"));
  CHECK_THAT(map("/dev/zero"), EndsWith(": is not a regular file"));
  CHECK_THAT(read("/dev/zero"), EndsWith(": is not a regular file"));

  REQUIRE(::mkfifo((directory / "fifo").c_str(), 0600) == 0);
  CHECK_THAT(map(directory / "fifo"), EndsWith(": is not a regular file"));
  CHECK_THAT(read(directory / "fifo"), EndsWith(": is not a regular file"));

  write_plainly(directory / "empty", "");
  CHECK_THAT(map(directory / "empty"), EndsWith(": is empty"));
  CHECK(read_text_file(directory / "empty").empty());

  if (::geteuid() != 0) {
    write_plainly(directory / "secret", "x");
    std::filesystem::permissions(directory / "secret", std::filesystem::perms::none);
    CHECK_THAT(map(directory / "secret"), EndsWith("Permission denied"));
    CHECK_THAT(read(directory / "secret"), EndsWith("Permission denied"));
  }
}

TEST_CASE("read_text_file returns everything up to its limit", "[io][file]") {
  const TemporaryDirectory directory;
  const std::string text = std::string(10000, 'x') + std::string("\n\0end", 5);
  write_plainly(directory / "a", text);
  CHECK(read_text_file(directory / "a") == text);
  CHECK(read_text_file(directory / "a", text.size()) == text);
  CHECK(error_of([&] { read_text_file(directory / "a", text.size() - 1); }) ==
        (directory / "a").native() + ": has " + std::to_string(text.size()) + " bytes, expected at most " +
            std::to_string(text.size() - 1));
}

TEST_CASE("path_exists and list_directory", "[io][file]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "a", "");
  std::filesystem::create_symlink("nowhere", directory / "dangling");
  CHECK(path_exists(directory.path()));
  CHECK(path_exists(directory / "a"));
  CHECK_FALSE(path_exists(directory / "b"));
  CHECK_FALSE(path_exists(directory / "a/b"));
  CHECK_FALSE(path_exists(directory / "dangling"));
  CHECK_THAT(error_of([&] { path_exists(directory / std::string(300, 'x')); }), EndsWith("File name too long"));
  auto names = list_directory(directory.path());
  std::sort(names.begin(), names.end());
  CHECK(names == std::vector<std::string>{"a", "dangling"});
  CHECK_THAT(error_of([&] { list_directory(directory / "b"); }), EndsWith("No such file or directory"));
}

TEST_CASE("AtomicFile replaces a file in one step", "[io][file]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "a", "old");
  {
    AtomicFile file(directory / "a");
    file.write("new ");
    CHECK(read_plainly(directory / "a") == "old");
    const std::string large(1000000, 'x');
    file.write(large);
    file.write("!");
    CHECK(read_plainly(directory / "a") == "old");
    file.commit();
    CHECK(read_plainly(directory / "a") == "new " + large + "!");
  }
  CHECK(count_files(directory.path()) == 1);
}

TEST_CASE("AtomicFile leaves nothing behind without commit", "[io][file]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "a", "old");
  for (const char* name : {"a", "b"}) {
    AtomicFile file(directory / name);
    file.write("new");
  }
  CHECK(read_plainly(directory / "a") == "old");
  CHECK(count_files(directory.path()) == 1);
}

TEST_CASE("AtomicFile gives the permissions of any new file", "[io][file]") {
  const TemporaryDirectory directory;
  const ::mode_t before = ::umask(0027);
  AtomicFile file(directory / "a");
  file.commit();
  ::umask(before);
  CHECK(static_cast<unsigned>(std::filesystem::status(directory / "a").permissions()) == 0640U);
}

TEST_CASE("AtomicFile writes through a symbolic link", "[io][file]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "a", "old");
  std::filesystem::create_symlink("a", directory / "link");
  AtomicFile file(directory / "link");
  file.write("new");
  file.commit();
  CHECK(std::filesystem::is_symlink(directory / "link"));
  CHECK(read_plainly(directory / "a") == "new");
}

TEST_CASE("AtomicFile refuses what it cannot write", "[io][file]") {
  const TemporaryDirectory directory;
  const auto create = [](const std::filesystem::path& path) { return error_of([&] { AtomicFile file(path); }); };
  CHECK_THAT(create(directory / "missing/a"), EndsWith("missing/a: cannot be created: No such file or directory"));
  CHECK_THAT(create(directory.path()), EndsWith(": is a directory, expected a file"));
  CHECK_THAT(create("/dev/null"), EndsWith(": is not a regular file and will not be replaced"));
  CHECK_THAT(create(""), EndsWith(": is not the name of a file"));
  std::filesystem::create_symlink("nowhere", directory / "dangling");
  CHECK_THAT(create(directory / "dangling"), Contains("dangling: symbolic link cannot be followed"));
  CHECK_THAT(create(directory / std::string(300, 'x')), Contains("File name too long"));
  if (::geteuid() != 0) {
    std::filesystem::permissions(directory.path(),
                                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
    CHECK_THAT(create(directory / "a"), EndsWith("Permission denied"));
    std::filesystem::permissions(directory.path(), std::filesystem::perms::owner_all);
  }
}

TEST_CASE("AtomicFile keeps the old file when the new one does not fit", "[io][file]") {
  const TemporaryDirectory directory;
  write_plainly(directory / "a", "old");
  const std::string message = error_of([&] {
    const FileSizeLimit limit(1 << 20);
    AtomicFile file(directory / "a");
    for (int i = 0; i < 20; ++i) file.write(std::string(100000, 'x'));
    file.commit();
  });
  CHECK(message == (directory / "a").native() + ": cannot be written: File too large");
  CHECK(read_plainly(directory / "a") == "old");
  CHECK(count_files(directory.path()) == 1);
}
