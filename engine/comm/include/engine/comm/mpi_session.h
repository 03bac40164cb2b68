#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/comm/communicator.h"
#include "engine/comm/doorbell.h"
#include "engine/comm/group_watch.h"
#include "engine/comm/host_links.h"
#include "engine/comm/host_map.h"

namespace longshelf::engine {

// Where this process stands in a group, as its launcher says; nullopt when it was not started by mpirun.
struct LaunchPosition {
  int rank = 0;
  int size = 1;
};
std::optional<LaunchPosition> ReadLaunchPosition();

struct MpiSessionOptions {
  std::string run_dir;                             // this host's private directory of the generation; must exist
  std::string shm_dir;                             // where MPI's shared segments go on this host; empty: MPI decides
  std::string link_listen;                         // shard 0's ADDRESS:PORT for the other hosts, when there are any
  absl::Duration host_silence = absl::Seconds(5);  // a host that says nothing for so long is gone
  uint64_t generation = 0;                         // fences messages and the doorbell
  int64_t supervisor_pid = 0;                      // 0 = none to watch
  int n_shards = 1;                                // refused unless the launcher started as many
  absl::Duration progress_deadline = absl::Seconds(30);
  // Runs on the watch thread right before the process ends because of a peer. Must be quick.
  std::function<void(const std::string& reason)> last_words;
};

// Membership of this process in a shard group started by mpirun. Start() on the thread that becomes the engine thread,
// before gRPC or any other thread exists, and before weights are loaded: from then on the process ends itself (exit
// code 70) within milliseconds when a peer, mpirun or the supervisor dies, whatever it is doing.
class MpiSession {
 public:
  // FAILED_PRECONDITION: not started as asked. UNAVAILABLE: MPI refused.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Start(MpiSessionOptions options);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  Communicator& communicator();
  Doorbell& doorbell();
  // To the other hosts; null when there are none, or this shard does not speak for its host.
  HostLinks* links();
  const HostMap& hosts() const;
  GroupWatch& watch();
  uint64_t generation() const;

  // Leaves the group in step with every other member; collective. Past `deadline` the process ends with code 70.
  // After it the process should exit; no other member is watched any more.
  absl::Status Finish(absl::Duration deadline);

 private:
  struct Impl;
  explicit MpiSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace longshelf::engine
