#pragma once

#include <string>
#include <vector>

#include "common/config.h"
#include "common/log.h"
#include "host_keeper.h"
#include "host_service.h"
#include "net/admin_server.h"

namespace longshelf::worker {

enum class HostMode { kServe, kRun, kConnect };

struct HostConfig {
  HostMode mode = HostMode::kServe;
  std::vector<std::string> arguments;  // behind "connect"
  HostServerOptions server;
  net::TlsFiles tls;  // the server's, and of shards on this host
  HostKeeperOptions keeper;
  AdminOptions admin;
  LogConfig log;
};

// longshelf-host's command line.
ParseOutcome ParseHostConfig(int argc, const char* const* argv, HostConfig* config);

}  // namespace longshelf::worker
