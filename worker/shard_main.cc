#include "common/config.h"
#include "common/memory.h"
#include "common/shutdown.h"
#include "process/run_main.h"
#include "shard.h"
#include "worker/shard_config.h"

int main(int argc, char** argv) {
  return longshelf::RunMain(
      [&] {
        longshelf::worker::ShardConfig config;
        longshelf::ConfigSpec spec("longshelf-shard",
                                   "One process of a worker: loads a model and runs sequences on it.");
        longshelf::worker::AddShardOptions(spec, &config);
        if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
        longshelf::KeepFreedMemory();
        longshelf::ShutdownSignals signals;
        return longshelf::worker::RunShard(config, signals);
      },
      longshelf::kServerFiles);
}
