// SPDX-License-Identifier: Apache-2.0
// Checkpoints of a run: parameters, moments, counters, position in the data. One is a safetensors file whose tensors
// are the parameters by name, and `first_moment.` and `second_moment.` in front of it; its metadata hold the counters
// and a CRC-64/XZ of everything. A file appears whole or not at all, and only then are older ones removed, so a run
// that is killed at any moment finds the newest whole one.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/io/checksum.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/safetensors.hpp"
#include "xlstm/io/safetensors_writer.hpp"
#include "xlstm/train/batches.hpp"
#include "xlstm/train/trainer.hpp"

namespace xlstm {

/// Everything of a run besides parameters and moments.
struct RunState {
  TrainerCounters counters;
  DataPosition position;
  std::uint64_t tokens = 0;   ///< targets learned from so far
  std::string configuration;  ///< what must be the same for a run to go on (the program's own words)
  friend bool operator==(const RunState&, const RunState&) = default;
};

namespace detail {

inline constexpr std::string_view training_format = "xlstm-training-1";

/// A checkpoint's tensors in order, parameters, then moments: f(name, shape, block, handle), the handle one of the
/// block's parameters.
template <class Trainer, class F>
void for_each_training_tensor(Trainer& trainer, F&& f) {
  const auto visit = [&](auto& block, std::string_view prefix) {
    for_each_parameter<typename Trainer::Network>(
        block.parameters, [&](std::string_view name, auto& handle, Initialization) {
          std::vector<Index> shape{handle.rows};
          if (handle.is_matrix) shape.push_back(handle.cols);
          f(std::string(prefix) + std::string(name), std::move(shape), block, handle);
        });
  };
  visit(trainer.masters(), "");
  visit(trainer.optimizer().first_moment(), "first_moment.");
  visit(trainer.optimizer().second_moment(), "second_moment.");
}

inline std::map<std::string, std::string> to_metadata(const RunState& s) {
  return {{"format", std::string(training_format)},
          {"step", std::to_string(s.counters.step)},
          {"updates", std::to_string(s.counters.updates)},
          {"skipped", std::to_string(s.counters.skipped)},
          {"consecutive_skips", std::to_string(s.counters.consecutive_skips)},
          {"epoch", std::to_string(s.position.epoch)},
          {"row", std::to_string(s.position.row)},
          {"tokens", std::to_string(s.tokens)},
          {"configuration", s.configuration}};
}

inline void update(io::Checksum& sum, std::string_view text) {
  const std::uint64_t size = text.size();
  sum.update(std::as_bytes(std::span(&size, 1)));
  sum.update(std::as_bytes(std::span(text.data(), text.size())));
}
template <class Metadata>
void update_metadata(io::Checksum& sum, const Metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key == "checksum") continue;
    update(sum, key);
    update(sum, value);
  }
}

/// The metadata's values, each checked.
inline RunState run_state_of(const io::SafetensorsFile& file) {
  const auto text = [&](std::string_view key) -> const std::string& {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) fail(file.name(), ": metadata \"", key, "\" is missing");
    return found->second;
  };
  const auto number = [&](std::string_view key) {
    const std::string& digits = text(key);
    Index value = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < 0) {
      fail(file.name(), ": metadata \"", key, "\" is \"", io::printable(digits), "\", expected a number from 0");
    }
    return value;
  };
  if (text("format") != training_format) fail(file.name(), ": is no training checkpoint");
  return {{number("step"), number("updates"), number("skipped"), number("consecutive_skips")},
          {number("epoch"), number("row")},
          static_cast<std::uint64_t>(number("tokens")),
          text("configuration")};
}

}  // namespace detail

/// Writes a checkpoint; `path` is what it was before if anything fails. Error while batches are accumulated: their
/// gradients are in no checkpoint. Nor are states from which a batch would continue.
template <class Trainer>
void save_training(const std::filesystem::path& path, Trainer& trainer, const RunState& state) {
  using T = typename Trainer::T;
  if (trainer.accumulated() > 0) {
    fail(io::printable(path.native()), ": ", trainer.accumulated(),
         " accumulated batches, which a checkpoint does not hold; expected an update after them");
  }
  std::vector<io::TensorDeclaration> declarations;
  io::Checksum sum;
  std::map<std::string, std::string> metadata = detail::to_metadata(state);
  detail::update_metadata(sum, metadata);
  detail::for_each_training_tensor(trainer, [&](std::string name, std::vector<Index> shape, auto& block, auto& handle) {
    detail::update(sum, name);
    sum.update(std::as_bytes(block.read(handle)));
    declarations.push_back(
        {std::move(name), sizeof(T) == 8 ? io::SafetensorsType::f64 : io::SafetensorsType::f32, std::move(shape)});
  });
  metadata["checksum"] = std::to_string(sum.value());
  io::SafetensorsWriter writer(path, std::move(declarations), metadata);
  detail::for_each_training_tensor(trainer,
                                   [&](const std::string& name, const std::vector<Index>&, auto& block, auto& handle) {
                                     writer.write(name, std::as_bytes(block.read(handle)));
                                   });
  writer.finish();
}

/// What a checkpoint says about its run, before anything else of it is read. Throws Error if it is no checkpoint.
inline RunState read_run_state(const std::filesystem::path& path) {
  return detail::run_state_of(io::SafetensorsFile(path, io::AccessPattern::sequential));
}

/// Reads a checkpoint into a trainer, which forgets what it has accumulated. Throws Error, and has changed nothing, if
/// the file is damaged or of another network.
template <class Trainer>
RunState load_training(const std::filesystem::path& path, Trainer& trainer) {
  using T = typename Trainer::T;
  const io::SafetensorsFile file(path, io::AccessPattern::sequential);
  const RunState state = detail::run_state_of(file);
  io::Checksum sum;
  detail::update_metadata(sum, file.metadata());
  std::size_t tensors = 0;
  detail::for_each_training_tensor(
      trainer, [&](const std::string& name, const std::vector<Index>& shape, auto&, auto& handle) {
        const io::SafetensorsTensor& tensor = file.at(name);
        if (tensor.shape != shape || tensor.bytes.size() != static_cast<std::size_t>(handle.bytes)) {
          fail(file.name(), ": tensor \"", name, "\" is ", io::name_of(tensor.type), ' ', io::shape_text(tensor.shape),
               ", expected ", io::shape_text(shape), " of ", sizeof(T), " bytes each");
        }
        detail::update(sum, name);
        sum.update(tensor.bytes);
        ++tensors;
      });
  if (tensors != file.tensors().size()) fail(file.name(), ": has tensors that this network does not know");
  const auto checksum = file.metadata().find("checksum");
  if (checksum == file.metadata().end() || checksum->second != std::to_string(sum.value())) {
    fail(file.name(), ": is damaged (checksum)");
  }
  detail::for_each_training_tensor(trainer, [&](const std::string& name, const std::vector<Index>&, auto& block,
                                                auto& handle) { block.write(handle, file.at(name).bytes.data()); });
  trainer.forget();
  trainer.masters_changed();
  trainer.set_counters(state.counters);
  return state;
}

/// The checkpoints of one run: `step-000001000.safetensors`, …, of which the newest `keep` stay.
class TrainingCheckpoints {
 public:
  TrainingCheckpoints(std::filesystem::path directory, Index keep) : directory_(std::move(directory)), keep_(keep) {
    if (keep < 1) fail("checkpoints: ", keep, " to keep, expected at least 1");
  }

  std::filesystem::path path_of(Index step) const {
    std::string number = std::to_string(step);
    number.insert(0, 9 - std::min<std::size_t>(9, number.size()), '0');
    return directory_ / ("step-" + number + ".safetensors");
  }

  /// All that are there, the newest first; none where there is no directory. Error if it cannot be read.
  std::vector<std::filesystem::path> list() const {
    std::vector<std::filesystem::path> paths;
    for (auto& [step, path] : find()) paths.push_back(std::move(path));
    return paths;
  }

  /// Writes the checkpoint of state.counters.step, then removes what killed writers left and all but `keep`
  /// checkpoints: this one stays and the newest before it. Those of later steps, which a run that resumed could not
  /// use, go first.
  template <class Trainer>
  void save(Trainer& trainer, const RunState& state) {
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    if (error) io::fail_with_errno(directory_, "cannot be created", error.value());
    remove_leftovers();
    save_training(path_of(state.counters.step), trainer, state);
    auto files = find();
    const auto mine =
        std::find_if(files.begin(), files.end(), [&](const auto& file) { return file.first <= state.counters.step; });
    std::rotate(files.begin(), mine, files.end());
    for (std::size_t i = static_cast<std::size_t>(keep_); i < files.size(); ++i) {
      std::filesystem::remove(files[i].second, error);
    }
  }

  /// Removes what killed writers left. Then Error if the disk has no room for the checkpoints of a run that saves
  /// `saves` times, before it starts: those that stay and, beside them, the one that is being written.
  template <class Trainer>
  void require_space(Trainer& trainer, Index saves) const {
    std::uintmax_t bytes = 0;
    detail::for_each_training_tensor(trainer, [&](const std::string&, const auto&, auto&, auto& handle) {
      bytes += static_cast<std::uintmax_t>(handle.bytes);
    });
    if (io::path_exists(directory_)) remove_leftovers();
    std::error_code error;
    std::filesystem::path there = std::filesystem::absolute(directory_, error);  // or what it will be made in
    while (!io::path_exists(there) && there.has_relative_path()) there = there.parent_path();
    const auto space = std::filesystem::space(there, error);
    if (!error) require_space(bytes, saves, space.available);
  }
  /// The same for checkpoints of `bytes` bytes where `available` bytes are free.
  void require_space(std::uintmax_t bytes, Index saves, std::uintmax_t available) const {
    if (saves < 1) return;
    const Index room = std::max<Index>(keep_ - std::ssize(find()), 0);
    const auto more = std::min(static_cast<std::uintmax_t>(room) + 1, static_cast<std::uintmax_t>(saves));
    if (bytes <= available / more) return;
    constexpr std::uintmax_t megabyte = 1000000;
    fail(io::printable(directory_.native()), ": no room for ", more, " more checkpoints of ",
         (bytes + megabyte - 1) / megabyte, " MB each: ", available / megabyte,
         " MB are free; make room or keep fewer checkpoints");
  }

  /// Reads the newest whole one; each damaged one before it is told to `warn`. Nothing where there are none at all.
  /// Throws Error if there are some, and all are damaged.
  template <class Trainer>
  std::optional<RunState> resume(Trainer& trainer, const std::function<void(const std::string&)>& warn) const {
    const auto files = list();
    for (const auto& file : files) {
      try {
        return load_training(file, trainer);
      } catch (const Error& error) {
        if (warn) warn(error.what());
      }
    }
    if (!files.empty()) {
      fail(io::printable(directory_.native()), ": none of ", files.size(), " checkpoints can be used");
    }
    return std::nullopt;
  }

 private:
  /// Steps and paths, the newest first.
  std::vector<std::pair<Index, std::filesystem::path>> find() const {
    std::vector<std::pair<Index, std::filesystem::path>> found;
    if (!io::path_exists(directory_)) return found;
    for (const std::string& name : io::list_directory(directory_)) {
      if (const auto step = step_of(name)) found.emplace_back(*step, directory_ / name);
    }
    std::sort(found.begin(), found.end(), std::greater<>());
    return found;
  }

  static std::optional<Index> step_of(std::string_view name) {
    constexpr std::string_view prefix = "step-", suffix = ".safetensors";
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
    const std::string_view digits = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    Index step = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
    if (digits.empty() || error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    return step;
  }

  void remove_leftovers() const {
    std::error_code ignored;  // they are in nobody's way
    for (const std::string& name : io::list_directory(directory_)) {
      if (name.starts_with(".step-") && name.ends_with(".tmp")) std::filesystem::remove(directory_ / name, ignored);
    }
  }

  std::filesystem::path directory_;
  Index keep_;
};

}  // namespace xlstm
