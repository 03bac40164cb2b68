#pragma once

#include <iosfwd>
#include <vector>

namespace longshelf::cli {

// One subcommand of `longshelf`. `run` gets the arguments after the name, with argv[0] = "longshelf NAME", parses them
// with its own ConfigSpec, and returns the exit code: 0, 1 (it ran and the answer is no), or one of common/config.h.
struct Command {
  const char* name;     // one word, or two: "model info"
  const char* summary;  // one line for `longshelf help`
  int (*run)(int argc, const char* const* argv);
};

// Runs the command that argv[1] (and argv[2], for two-word names) names. `help`, --help, --version and mistakes are
// answered here: text to `out`, mistakes to `err`.
int Dispatch(const std::vector<Command>& commands, int argc, const char* const* argv, std::ostream& out,
             std::ostream& err);

}  // namespace longshelf::cli
