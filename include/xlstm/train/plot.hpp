// SPDX-License-Identifier: Apache-2.0
// A run's loss and gradient norm over its steps as an SVG, drawn by gnuplot where that is installed.
#pragma once

#include <spawn.h>
#include <sys/wait.h>

#include <array>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "xlstm/io/file.hpp"
#include "xlstm/train/metrics.hpp"

extern char** environ;

namespace xlstm {

namespace detail {

/// In gnuplot's single quotes, where a quote is written twice.
inline std::string gnuplot_quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("''") : std::string(1, c);
  return quoted + "'";
}

/// A block "$name << end" of two columns; long runs are thinned to about 2000 points, each the mean of its neighbours.
inline void gnuplot_data(std::ostream& out, std::string_view name, const std::vector<MetricsLine>& lines,
                         const char* key) {
  out << '$' << name << " << end_of_data\n";
  std::vector<std::pair<Index, double>> points;
  for (const MetricsLine& line : lines) {
    const nlohmann::json* value = io::find_key(line.values, key);
    if (value != nullptr && value->is_number()) points.emplace_back(line.step, value->get<double>());
  }
  const std::size_t group = points.size() / 2000 + 1;
  for (std::size_t i = 0; i < points.size(); i += group) {
    const std::size_t end = std::min(points.size(), i + group);
    double sum = 0;
    for (std::size_t j = i; j < end; ++j) sum += points[j].second;
    out << points[end - 1].first << ' ' << sum / static_cast<double>(end - i) << '\n';
  }
  out << "end_of_data\n";
}

}  // namespace detail

/// The gnuplot program that draws `lines` ("loss", "validation_loss", "gradient_norm") as an SVG to standard output.
inline std::string plot_script(const std::vector<MetricsLine>& lines, std::string_view title) {
  std::ostringstream out;
  out << "set terminal svg size 900,700 background rgb 'white'\n";
  detail::gnuplot_data(out, "loss", lines, "loss");
  detail::gnuplot_data(out, "validation", lines, "validation_loss");
  detail::gnuplot_data(out, "norm", lines, "gradient_norm");
  bool validated = false;
  for (const MetricsLine& line : lines) validated |= io::find_key(line.values, "validation_loss") != nullptr;
  out << "set multiplot layout 2,1 title " << detail::gnuplot_quoted(title)
      << " noenhanced\nset xlabel 'step'\nset grid\nset ylabel 'loss (nats a token)'\n"
      << "plot $loss with lines title 'training'"
      << (validated ? ", $validation with linespoints pointtype 7 pointsize 0.5 title 'validation'" : "")
      << "\nset ylabel 'gradient norm'\nset logscale y\nplot $norm with lines notitle\nunset multiplot\n";
  return out.str();
}

/// Lets gnuplot run the program `text`; what that writes to standard output becomes `svg`, when gnuplot has ended well.
/// The program stays beside it as SVG's name with .gnuplot. Empty if that worked, otherwise a warning that says why
/// not: a missing gnuplot is no reason to end a run.
inline std::string run_gnuplot(const std::string& text, const std::filesystem::path& svg) {
  std::filesystem::path script = svg;
  script.replace_extension(".gnuplot");
  io::AtomicFile file(script);
  file.write(text);
  file.commit();

  std::filesystem::path drawing = svg;
  drawing.replace_filename("." + svg.filename().native() + ".tmp");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, drawing.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::string program = "gnuplot";
  std::string argument = script.native();
  std::array<char*, 3> arguments = {program.data(), argument.data(), nullptr};
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  while (error == 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const bool drawn = error == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (drawn && ::rename(drawing.c_str(), svg.c_str()) == 0) return {};
  ::unlink(drawing.c_str());
  return (error != 0 ? "no plot: gnuplot cannot be started; its program is " : "no plot: gnuplot failed on ") +
         io::printable(script.native());
}

/// Draws the metrics to `svg`. Empty if that worked, otherwise a warning.
inline std::string draw_plot(const std::vector<MetricsLine>& lines, const std::filesystem::path& svg,
                             std::string_view title) {
  if (lines.empty()) return "no plot: there are no metrics yet";
  return run_gnuplot(plot_script(lines, title), svg);
}

}  // namespace xlstm
