#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/config.h"
#include "common/log.h"
#include "common/shutdown.h"
#include "kvstore/disk_options.h"
#include "kvstore/peers.h"
#include "kvstore/server.h"
#include "kvstore/store.h"
#include "net/admin_server.h"
#include "process/service_manager.h"

namespace longshelf::kvstore {

// Everything `longshelf-kvstore` can be told.
struct NodeConfig {
  ServerOptions server;
  net::TlsFiles tls;
  StoreOptions store;
  DiskOptions disk;
  std::string disk_key_file = {};       // empty: what is on disk is not encrypted
  std::vector<std::string> peers = {};  // of which this node is one; empty: it is alone
  PeerOptions peer;
  absl::Duration handoff_timeout = absl::ZeroDuration();
  AdminOptions admin;
  LogConfig log;
  absl::Duration drain_timeout = absl::Seconds(2);
};

void AddNodeOptions(ConfigSpec& spec, NodeConfig* config);

// One node from start to the first SIGTERM or SIGINT; returns the exit code: 0, or one of common/config.h.
int RunNode(const NodeConfig& config, ShutdownSignals& signals, ServiceManager& manager);

}  // namespace longshelf::kvstore
