#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/shutdown.h"
#include "host_keeper.h"

namespace longshelf::worker {

// `longshelf-host run`, started by ssh or srun: one HostRunRequest from standard input, its HostRunReply to standard
// output, each with its length before it. The run ends when standard input does, or has brought nothing for `silence`:
// what follows the request means only that the first host is there. On the program's main thread.
absl::Status ServePipe(HostKeeper& keeper, ShutdownSignals& signals, absl::Duration silence);

}  // namespace longshelf::worker
