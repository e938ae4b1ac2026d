// SPDX-License-Identifier: Apache-2.0
// A run's numbers as JSON lines, one object a step, each with a "step". A run that goes on from a checkpoint first cuts
// the file behind that step, so that no step is there twice, even if the run before was killed in the middle of a line.
#pragma once

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/json.hpp"

namespace xlstm {

/// One line of metrics as it was read.
struct MetricsLine {
  Index step = 0;
  nlohmann::json values;
};

/// The lines of a metrics file up to the first that is not whole; none where there is no file. `bytes`: their length.
inline std::vector<MetricsLine> read_metrics(const std::filesystem::path& path, Index last_step,
                                             std::size_t* bytes = nullptr) {
  std::vector<MetricsLine> lines;
  std::error_code ignored;
  std::size_t good = 0;
  if (std::filesystem::exists(path, ignored)) {
    const std::string text = io::read_text_file(path);
    while (good < text.size()) {
      const std::size_t end = text.find('\n', good);
      if (end == std::string::npos) break;
      try {
        nlohmann::json values = io::parse_json(std::string_view(text).substr(good, end - good), path.native());
        const nlohmann::json* step = values.is_object() ? io::find_key(values, "step") : nullptr;
        if (step == nullptr || !step->is_number_integer() || step->get<Index>() > last_step) break;
        lines.push_back({step->get<Index>(), std::move(values)});
      } catch (const Error&) {
        break;  // written while the machine went down
      }
      good = end + 1;
    }
  }
  if (bytes != nullptr) *bytes = good;
  return lines;
}

/// Appends lines to a metrics file.
class MetricsWriter {
 public:
  /// Cuts the file behind the last line whose step is at most `last_step` (0: begins anew) and appends there.
  MetricsWriter(std::filesystem::path path, Index last_step) : path_(std::move(path)) {
    std::size_t bytes = 0;
    read_metrics(path_, last_step, &bytes);
    file_ = io::open_descriptor(path_, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (file_.get() < 0) io::fail_with_errno(path_, "cannot be written", errno);
    if (::ftruncate(file_.get(), static_cast<off_t>(bytes)) != 0) io::fail_with_errno(path_, "cannot be cut", errno);
  }

  /// One object; what is not finite becomes null, and bytes that are not UTF-8 the replacement character.
  void write(const nlohmann::json& values) {
    const std::string line = values.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    for (std::string_view rest = line; !rest.empty();) {
      const ssize_t written = ::write(file_.get(), rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) io::fail_with_errno(path_, "cannot be written", errno);
      rest.remove_prefix(static_cast<std::size_t>(written));
    }
  }

 private:
  std::filesystem::path path_;
  io::FileDescriptor file_;
};

}  // namespace xlstm
