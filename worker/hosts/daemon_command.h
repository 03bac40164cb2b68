#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::worker {

// What mpirun wants run on another host, as it gives it to the program that stands in for ssh: a command line for a
// shell, in one argument or several, that starts Open MPI's daemon. Returns the daemon's arguments. INVALID_ARGUMENT:
// anything else, for nothing but the daemon is ever started.
absl::StatusOr<std::vector<std::string>> ParseDaemonCommand(const std::vector<std::string>& words);

// OK when these are nothing but settings ("-mca", NAME, VALUE) of the daemon, and bounded.
absl::Status CheckDaemonArgs(const std::vector<std::string>& args);

}  // namespace longshelf::worker
