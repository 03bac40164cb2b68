// Stands for longshelf-shard in tests of the supervisor: takes the same options, joins the group as a shard does, and
// does nothing else. --model says how: "serve", "stubborn" (does not drain), or "broken" (gives up at once).
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "engine/comm/mpi_session.h"
#include "engine/comm/run_dir.h"
#include "worker/shard_config.h"

namespace longshelf {
namespace {

void WaitForTerm(const sigset_t& signals) {
  int number = 0;
  sigwait(&signals, &number);
}

int Serve(const worker::ShardConfig& config, int rank, engine::MpiSession* session) {
  if (config.model == "broken") {
    engine::WriteRankError(config.run_dir, rank, "layers.3.attn.wq_a is missing");
    return 1;
  }
  if (rank == 0) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    if (!engine::WriteReady(config.run_dir).ok()) return 1;
    do {
      WaitForTerm(signals);
    } while (config.model == "stubborn");
    if (session != nullptr) session->doorbell().Ring();
    if (session != nullptr && session->links() != nullptr) session->links()->Ring();
  } else {
    while (!session->doorbell().Wait(absl::Seconds(1))) {
    }
  }
  return session == nullptr || session->Finish(absl::Seconds(2)).ok() ? 0 : 1;
}

int Join(const worker::ShardConfig& config) {
  engine::TieToParent();
  if (config.n_shards == 1) {
    if (!engine::WriteRankPid(config.run_dir, 0, getpid()).ok()) return 1;
    return Serve(config, 0, nullptr);
  }
  engine::MpiSessionOptions options;
  options.run_dir = config.run_dir;
  options.generation = config.generation;
  options.supervisor_pid = config.supervisor_pid;
  options.n_shards = config.n_shards;
  options.shm_dir = config.mpi_shm_dir;
  options.link_listen = config.link_listen;
  options.host_silence = config.host_silence;
  auto session = engine::MpiSession::Start(options);
  if (!session.ok()) return 1;
  return Serve(config, (*session)->communicator().rank(), session->get());
}

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) {
  longshelf::worker::ShardConfig config;
  longshelf::ConfigSpec spec("fake-shard", "A shard without an engine.");
  longshelf::worker::AddShardOptions(spec, &config);
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  return longshelf::Join(config);
}
