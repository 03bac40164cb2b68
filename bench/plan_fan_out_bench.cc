// How long until every shard of a machine has the plan of a step; by mpirun. Shard 0 rings and broadcasts as the leader
// does, after the others have gone to sleep meanwhile, or at once, as between two steps. Clocks of one machine agree.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "engine/comm/communicator.h"
#include "engine/comm/mpi_session.h"
#include "figures.h"
#include "group_of_shards.h"

namespace longshelf::bench {
namespace {

constexpr double kPlanningUs = 2000;  // longer than an idle shard spins
constexpr int kWarmUp = 20;

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

// From the ring until the last shard has the plan.
absl::StatusOr<double> Round(engine::MpiSession& session, std::string plan, bool from_sleep) {
  engine::Communicator& communicator = session.communicator();
  RETURN_IF_ERROR(communicator.Barrier());
  const bool leads = communicator.rank() == 0;
  double at_us = 0;
  if (leads) {
    at_us = NowUs();
    for (const double begin_us = at_us; from_sleep && at_us < begin_us + kPlanningUs;) at_us = NowUs();
    session.doorbell().Ring();
  } else {
    while (!session.doorbell().Wait(absl::Seconds(2))) {
    }
  }
  RETURN_IF_ERROR(communicator.Broadcast(plan));
  if (!leads) at_us = NowUs();
  ASSIGN_OR_RETURN(const std::vector<double> all, GatherFromAll(communicator, at_us));
  return *std::max_element(all.begin(), all.end()) - all.front();
}

absl::Status Run(const std::string& run_dir, int n_rounds, size_t n_bytes) {
  ASSIGN_OR_RETURN(const auto session, JoinGroup(run_dir));
  if (session->communicator().rank() == 0) std::printf("shards,plan_bytes,others,p50_us,p99_us,most_us\n");
  for (const bool from_sleep : {false, true}) {
    std::vector<double> times;
    for (int n = 0; n < kWarmUp + n_rounds; ++n) {
      ASSIGN_OR_RETURN(const double us, Round(*session, std::string(n_bytes, 'p'), from_sleep));
      if (n >= kWarmUp) times.push_back(us);
    }
    if (session->communicator().rank() != 0) continue;
    std::printf("%d,%zu,%s,%.1f,%.1f,%.1f\n", session->communicator().size(), n_bytes,
                from_sleep ? "asleep" : "waiting", Median(times), Percentile(times, 0.99), Percentile(times, 1.0));
    std::fflush(stdout);
  }
  return session->Finish(absl::Seconds(5));
}

}  // namespace
}  // namespace longshelf::bench

int main(int argc, char** argv) {
  std::string run_dir;
  int n_rounds = 1000;
  size_t n_bytes = 2048;
  longshelf::ConfigSpec spec("plan_fan_out_bench", "How long until every shard has a plan; to be run by mpirun.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&run_dir, "run-dir", "an empty directory for the group's files");
  spec.Require("run-dir");
  spec.Add(&n_rounds, "rounds", "rounds of each measurement", {1, 1'000'000});
  spec.Add(&n_bytes, "bytes", "of a plan", {1, 1 << 24});
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::bench::Run(run_dir, n_rounds, n_bytes);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
