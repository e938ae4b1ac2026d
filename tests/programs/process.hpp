// SPDX-License-Identifier: Apache-2.0
// Runs the real programs as a user would: arguments and standard input in, both streams and the exit status out.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "io/temporary_directory.hpp"

extern char** environ;

namespace programs {

struct Result {
  int status = -1;  ///< what the program returned, or 1000 and the signal that killed it
  std::string out;
  std::string err;
};

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void write_file(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// Runs a program of examples/ and waits for it. `signal`, if given, waits until it is time for a signal and returns
/// it.
inline Result run(const std::string& program, const std::vector<std::string>& arguments, std::string_view input = {},
                  const char* standard_output = nullptr, const std::function<int()>& signal = {}) {
  const TemporaryDirectory directory;
  const std::string in = directory / "in", out = directory / "out", err = directory / "err";
  write_file(in, input);
  std::string path = std::string(XLSTM_TEST_PROGRAMS) + "/" + program;
  std::vector<std::string> words = arguments;
  std::vector<char*> argv = {path.data()};
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t streams;
  posix_spawn_file_actions_init(&streams);
  posix_spawn_file_actions_addopen(&streams, STDIN_FILENO, in.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&streams, STDOUT_FILENO, standard_output != nullptr ? standard_output : out.c_str(),
                                   O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&streams, STDERR_FILENO, err.c_str(), O_WRONLY | O_CREAT, 0600);
  pid_t child = 0;
  const int error = posix_spawn(&child, path.c_str(), &streams, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&streams);
  if (error != 0) throw std::runtime_error(path + " cannot be started");
  if (signal) ::kill(child, signal());
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), read_file(out), read_file(err)};
}

inline bool one_line(const std::string& text) {
  return text.size() > 1 && std::count(text.begin(), text.end(), '\n') == 1 && text.back() == '\n';
}

/// Asserts that a program refuses its arguments or input: the exit status, nothing on standard output, and one line on
/// standard error that says `reason`.
inline void check_refused(const Result& result, int status, const std::string& reason) {
  INFO(result.err);
  CHECK(result.status == status);
  CHECK(result.out.empty());
  CHECK(one_line(result.err));
  CHECK(result.err.find(reason) != std::string::npos);
  if (status == 2) CHECK(result.err.find("usage: ") != std::string::npos);
}

/// Decimal numbers with blanks between.
template <class Numbers>
std::string words(const Numbers& numbers) {
  std::ostringstream text;
  for (const auto& number : numbers) text << (text.tellp() > 0 ? " " : "") << number;
  return text.str();
}

inline std::string model_directory(const std::string& name) { return std::string(XLSTM_TEST_DATA) + "/models/" + name; }

/// The models that the programs were compiled for: all of tests/data/models, or tiny-f32, sharded-bf16 and what else
/// the build asked for (XLSTM_TEST_MODELS).
inline const std::vector<std::string> reference_models = [] {
  std::istringstream names(XLSTM_TEST_MODELS);
  return std::vector<std::string>(std::istream_iterator<std::string>(names), {});
}();

}  // namespace programs
