#pragma once

#include "common/shutdown.h"
#include "worker/shard_config.h"

namespace longshelf::worker {

// One process of a worker, from loading the model to the exit code. The calling thread becomes the engine thread.
// 0: drained and ended. 78: the configuration or the model cannot work. 69: something needed is not there.
// 70: the engine or its group broke; start it again.
int RunShard(const ShardConfig& config, ShutdownSignals& signals);

}  // namespace longshelf::worker
