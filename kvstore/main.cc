#include "common/config.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/shutdown.h"
#include "kvstore/node.h"
#include "process/run_main.h"
#include "process/service_manager.h"

namespace {

int Run(int argc, char** argv) {
  longshelf::KeepFreedMemory();
  longshelf::ServiceManager manager = longshelf::ServiceManager::FromEnvironment();
  longshelf::ShutdownSignals signals;
  longshelf::kvstore::NodeConfig config;
  longshelf::ConfigSpec spec("longshelf-kvstore", "One node of the KV store: keeps what workers computed.");
  longshelf::kvstore::AddNodeOptions(spec, &config);
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const longshelf::Logging logging(config.log, "longshelf-kvstore");
  return longshelf::kvstore::RunNode(config, signals, manager);
}

}  // namespace

int main(int argc, char** argv) {
  return longshelf::RunMain([&] { return Run(argc, argv); }, longshelf::kServerFiles);
}
