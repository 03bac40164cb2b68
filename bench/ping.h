#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/comm/mpi_session.h"

namespace longshelf::bench {

// Seconds until shard 1 knows what shard 0 told it, half of there and back: the median of many. Collective, two shards;
// both get it. They yield while they wait where they take turns on a processor.

// By a flag in a file in shared memory, in a new file in `dir`.
absl::StatusOr<double> PingByFlag(engine::MpiSession& session, const std::string& dir);
// By a message of MPI, as small as messages are.
struct MessagePing {
  double seconds = 0;
  double look_s = 0;  // to see that it is not there yet
};
absl::StatusOr<MessagePing> PingByMessage(engine::MpiSession& session);

}  // namespace longshelf::bench
