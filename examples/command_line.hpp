// SPDX-License-Identifier: Apache-2.0
// Flags, standard streams and exit statuses of the programs in this folder:
//     --name value, --name=value, switches, repeated flags; "--" ends the flags; --help
//     status 0: done   1: an error, said in one line on standard error   2: wrong usage, with a usage line
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <concepts>
#include <csignal>
#include <cstddef>
#include <exception>
#include <initializer_list>
#include <limits>
#include <map>
#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/printable.hpp"

namespace command_line {

/// One flag of a program. Without a `value` it is a switch.
struct Flag {
  enum class Kind { optional, required, repeated };
  std::string_view name;   ///< "max-tokens"
  std::string_view value;  ///< what stands after it in the help: "N"
  std::string_view help;
  Kind kind = Kind::optional;
};

/// What a program says about itself.
struct Program {
  std::string_view name;
  std::string_view purpose;             ///< the help's first paragraph
  std::vector<std::string_view> words;  ///< arguments that are not flags, all required: "DIR"
  std::vector<Flag> flags;
  std::string_view notes = {};  ///< the help's last paragraph

  std::string usage() const {
    std::string line = "usage: " + std::string(name);
    for (const std::string_view word : words) line += " " + std::string(word);
    for (const Flag& flag : flags) {
      const std::string text =
          "--" + std::string(flag.name) + (flag.value.empty() ? "" : " ") + std::string(flag.value);
      if (flag.kind == Flag::Kind::required) line += " " + text;
      if (flag.kind == Flag::Kind::optional) line += " [" + text + "]";
      if (flag.kind == Flag::Kind::repeated) line += " [" + text + "]...";
    }
    return line;
  }

  std::string help() const {
    std::string text = usage() + "\n\n" + std::string(purpose) + "\n\n";
    for (const Flag& flag : flags) {
      std::string left = "  --" + std::string(flag.name) + (flag.value.empty() ? "" : " ") + std::string(flag.value);
      left.resize(std::max(left.size() + 2, std::size_t{32}), ' ');
      text += left + std::string(flag.help) + "\n";
    }
    text += "  --help                        says this\n";
    if (!notes.empty()) text += "\n" + std::string(notes) + "\n";
    return text;
  }
};

/// Flags that make no sense.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws UsageError with the arguments streamed one after another.
template <class... Parts>
[[noreturn]] void wrong_usage(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw UsageError(message.str());
}

/// Whoever reads standard output has closed it.
struct OutputClosed {};

/// Writes to standard output at once. Error if that is impossible.
inline void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EPIPE) throw OutputClosed();
    if (written < 0) xlstm::fail("standard output: cannot be written: ", std::generic_category().message(errno));
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

/// One line about the run on standard error, where a failure to write is nobody's concern.
template <class... Parts>
void say(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts) << '\n';
  const std::string line = message.str();
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
}

/// The largest text that a program takes at once.
inline constexpr std::size_t largest_input = std::size_t{1} << 31;

/// The next bytes of standard input, at most `most`; empty at its end.
inline std::string read_piece(std::size_t most) {
  std::string piece(most, '\0');
  while (true) {
    const ssize_t got = ::read(STDIN_FILENO, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) xlstm::fail("standard input: cannot be read: ", std::generic_category().message(errno));
    piece.resize(static_cast<std::size_t>(got));
    return piece;
  }
}

/// All of standard input. Error if it is larger than a program takes.
inline std::string read_all() {
  std::string text;
  for (std::string piece = read_piece(1 << 16); !piece.empty(); piece = read_piece(1 << 16)) {
    text += piece;
    if (text.size() > largest_input) xlstm::fail("standard input: more than ", largest_input, " bytes");
  }
  return text;
}

/// An error, before long work, if its result could not be written to `file` after it.
inline void require_writable(const std::string& file) { const xlstm::io::AtomicFile attempt(file); }

/// `text` as a whole as a number, if it is one of that type.
template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if constexpr (std::floating_point<T>) {
    if (!std::isfinite(value)) return std::nullopt;
  }
  return value;
}

/// A program's arguments, checked against its description. Getters throw UsageError for values that can't be.
class Arguments {
 public:
  Arguments(const Program& program, int argc, char** argv) {
    bool flags_end = false;
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (flags_end || !argument.starts_with("-") || argument == "-") {
        words_.emplace_back(argument);
      } else if (argument == "--") {
        flags_end = true;
      } else {
        const bool takes_next = take(program, argument, i + 1 < argc ? argv[i + 1] : nullptr);
        i += takes_next ? 1 : 0;
      }
    }
    if (words_.size() > program.words.size()) {
      wrong_usage("unexpected argument \"", xlstm::io::printable(words_[program.words.size()]), '"');
    }
    if (words_.size() < program.words.size()) wrong_usage(program.words[words_.size()], " is missing");
    for (const Flag& flag : program.flags) {
      if (flag.kind == Flag::Kind::required && !has(flag.name)) wrong_usage("--", flag.name, " is missing");
    }
  }

  bool has(std::string_view flag) const { return values_.find(flag) != values_.end(); }

  /// The arguments that are not flags.
  const std::string& word(std::size_t i) const { return words_.at(i); }

  /// The flag's value, or `otherwise`.
  std::string text(std::string_view flag, std::string_view otherwise = {}) const {
    const auto found = values_.find(flag);
    return found == values_.end() ? std::string(otherwise) : found->second.back();
  }

  /// All values of a repeated flag.
  std::vector<std::string> all(std::string_view flag) const {
    const auto found = values_.find(flag);
    return found == values_.end() ? std::vector<std::string>() : found->second;
  }

  /// The flag's value as a number in [least, most], or `otherwise`.
  template <class T>
  T number(std::string_view flag, T otherwise, T least = std::numeric_limits<T>::lowest(),
           T most = std::numeric_limits<T>::max()) const {
    if (!has(flag)) return otherwise;
    const std::string given = text(flag);
    const auto value = parse_number<T>(given);
    if (value && *value >= least && *value <= most) return *value;
    std::ostringstream range;
    if (std::unsigned_integral<T> || least != std::numeric_limits<T>::lowest()) range << " from " << least;
    if (most != std::numeric_limits<T>::max()) range << (range.str().empty() ? " up to " : " to ") << most;
    if (range.str() == " from " + std::to_string(least)) range << " on";
    wrong_usage("--", flag, " is \"", xlstm::io::printable(given, 60), "\", expected ",
                std::integral<T> ? "an integer" : "a number", range.str());
  }

  /// The flag's value as a number above 0 and at most `most`, or `otherwise`.
  double positive(std::string_view flag, double otherwise, double most = std::numeric_limits<double>::max()) const {
    const double value = number<double>(flag, otherwise, 0.0, most);
    if (value == 0) wrong_usage("--", flag, " is 0, expected a number above 0");
    return value;
  }

  /// The flag's value, which must be one of `choices`; without the flag the first of them.
  std::string choice(std::string_view flag, std::initializer_list<std::string_view> choices) const {
    const std::string given = text(flag, *choices.begin());
    std::string list;
    for (const std::string_view choice : choices) {
      if (given == choice) return given;
      list += (list.empty() ? "" : ", ") + std::string(choice);
    }
    wrong_usage("--", flag, " is \"", xlstm::io::printable(given, 60), "\", expected one of ", list);
  }

  /// --threads, 0 without it: every core.
  int threads() const { return number<int>("threads", 0, 1, 4096); }

  /// UsageError if two flags are given that exclude each other.
  void exclude(std::string_view a, std::string_view b) const {
    if (has(a) && has(b)) wrong_usage("--", a, " and --", b, " exclude each other");
  }

 private:
  // Takes the flag in `argument`; true if `next` is its value.
  bool take(const Program& program, std::string_view argument, const char* next) {
    const std::size_t equal = argument.find('=');
    const std::string_view name = argument.substr(0, equal);
    const Flag* flag = nullptr;
    for (const Flag& f : program.flags) {
      if (name.starts_with("--") && name.substr(2) == f.name) flag = &f;
    }
    if (flag == nullptr) wrong_usage("unknown flag ", xlstm::io::printable(name, 60));
    auto& values = values_[std::string(flag->name)];
    if (!values.empty() && flag->kind != Flag::Kind::repeated) wrong_usage(name, " is given twice");
    if (flag->value.empty()) {
      if (equal != argument.npos) wrong_usage(name, " takes no value");
      values.emplace_back();
      return false;
    }
    if (equal != argument.npos) {
      values.emplace_back(argument.substr(equal + 1));
      return false;
    }
    if (next == nullptr || std::string_view(next).starts_with("--")) {
      wrong_usage(name, " needs a value, ", flag->value, " (one that begins with -- is written ", name, "=VALUE)");
    }
    values.emplace_back(next);
    return true;
  }

  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::vector<std::string> words_;
};

namespace detail {

// A file must not become standard output because that was closed.
inline void occupy_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) != -1) continue;
    const int opened = ::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    if (opened >= 0 && opened != stream) {
      ::dup2(opened, stream);
      ::close(opened);
    }
  }
}

inline bool wants_help(int argc, char** argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    if (std::string_view(argv[i]) == "--help") return true;
  }
  return false;
}

}  // namespace detail

/// main(): reads the arguments and calls `body(const Arguments&)`, which returns the exit status; turns whatever is
/// thrown into one line on standard error. Standard output that its reader has closed ends the program quietly, with
/// status 1.
template <class Body>
int run_program(const Program& program, int argc, char** argv, Body&& body) {
  const auto error = [&](std::string_view message) {
    say(program.name, ": ", xlstm::io::printable(message, 4000));
    return 1;
  };
  detail::occupy_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);
  try {
    if (detail::wants_help(argc, argv)) {
      print(program.help());
      return 0;
    }
    return body(Arguments(program, argc, argv));
  } catch (const OutputClosed&) {
    return 1;
  } catch (const UsageError& e) {
    error(std::string(e.what()) + "; " + program.usage());
    return 2;
  } catch (const std::bad_alloc&) {
    return error("not enough memory");
  } catch (const std::exception& e) {
    return error(e.what());
  }
}

}  // namespace command_line
