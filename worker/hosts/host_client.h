#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace longshelf::worker {

// What mpirun runs in place of ssh, once for each other host of a group: has the daemon of `command` started on `host`
// and stays until it has ended. Words of shards that died there are left in the leader's run directory.
// `request_file`: a LaunchRequest. Not OK: the host cannot be reached or refuses, or the daemon was ended there.
absl::Status ConnectHost(const std::filesystem::path& request_file, const std::string& host,
                         const std::vector<std::string>& command);

}  // namespace longshelf::worker
