// One shard of the tests that need real MPI: test_shard RUN_DIR SCENARIO. Says what went wrong and exits 1.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/comm/mpi_session.h"
#include "transport_oracle.h"

namespace longshelf {
namespace {

using engine::Communicator;
using engine::MpiSession;

std::string Transport(MpiSession& session) { return testing::CompareWithDirectSum(session.communicator(), 42, 150); }

std::string Pattern(int rank, size_t n) {
  std::string out(n, '\0');
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<char>(i * 31 + static_cast<size_t>(rank) * 7);
  return out;
}

// Values around every frame size, and of different size on every rank.
std::string Collectives(MpiSession& session) {
  Communicator& communicator = session.communicator();
  const int rank = communicator.rank();
  for (const size_t n : {0, 1, 2039, 2040, 2041, 8183, 8184, 8185, 5'000'000}) {
    std::string bytes = rank == 0 ? Pattern(0, n) : "old";
    if (!communicator.Broadcast(bytes).ok() || bytes != Pattern(0, n)) return absl::StrCat("broadcast of ", n);
    const auto gathered = communicator.Gather(Pattern(rank, n + static_cast<size_t>(rank)));
    if (!gathered.ok()) return std::string(gathered.status().message());
    for (int r = 0; rank == 0 && r < communicator.size(); ++r) {
      const auto at = static_cast<size_t>(r);
      if ((*gathered)[at] != Pattern(r, n + at)) return absl::StrCat("gather of ", n, " from ", r);
    }
  }
  return "";
}

std::string Hello(MpiSession& session) {
  const int rank = session.communicator().rank();
  const std::vector<engine::IdentityField> fields = {{"kernel isa", rank == 1 ? "avx2" : "avx512"}};
  return std::string(engine::AgreeOnIdentity(session.communicator(), fields).message());
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The followers sleep for three seconds between two steps.
std::string Idle(MpiSession& session) {
  constexpr int kIdleSeconds = 3;
  Communicator& communicator = session.communicator();
  std::string plan = "plan";
  const auto step = [&]() -> bool {
    if (communicator.rank() == 0) session.doorbell().Ring();
    if (communicator.rank() != 0) {
      while (!session.doorbell().Wait(absl::Seconds(1))) {
      }
    }
    return communicator.Broadcast(plan).ok();
  };
  if (!step()) return "first step";
  const double before = CpuSeconds();
  if (communicator.rank() == 0) sleep(kIdleSeconds);
  if (communicator.rank() == 0) session.doorbell().Ring();
  while (communicator.rank() != 0 && !session.doorbell().Wait(absl::Seconds(1))) {
  }
  const double used = CpuSeconds() - before;
  if (!communicator.Broadcast(plan).ok()) return "second step";
  std::printf("rank %d used %.4f s of processor in %d s idle\n", communicator.rank(), used, kIdleSeconds);
  return used < 0.02 * kIdleSeconds ? "" : absl::StrCat("idle shard used ", used, " s of processor");
}

// One rank dies as told while the others wait for it: in MPI, or asleep at the bell.
std::string Die(MpiSession& session, const std::function<void()>& how, bool idle) {
  if (session.communicator().rank() == session.communicator().size() - 1) {
    usleep(300'000);
    how();
  }
  while (idle && session.communicator().rank() != 0 && !session.doorbell().Wait(absl::Seconds(1))) {
  }
  while (idle) pause();
  return std::string(session.communicator().Barrier().message());
}

std::string DieAsLeader(MpiSession& session) {
  if (session.communicator().rank() == 0) {
    usleep(300'000);
    raise(SIGKILL);
  }
  while (!session.doorbell().Wait(absl::Seconds(1))) {
  }
  return "rung by a dead leader";
}

// The last rank stops inside a step; the others must not wait for ever.
std::string Hang(MpiSession& session) {
  session.watch().BeginStep(1);
  if (session.communicator().rank() == session.communicator().size() - 1) {
    while (true) pause();
  }
  return std::string(session.communicator().Barrier().message());
}

std::string HangAtTheEnd(MpiSession& session) {
  while (session.communicator().rank() == session.communicator().size() - 1) pause();
  return "";
}

int Run(const std::string& run_dir, const std::string& scenario) {
  engine::MpiSessionOptions options;
  options.run_dir = run_dir;
  options.generation = 9;
  options.n_shards = engine::ReadLaunchPosition().value_or(engine::LaunchPosition()).size;
  options.progress_deadline = absl::Seconds(1);
  auto session = MpiSession::Start(options);
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", std::string(session.status().message()).c_str());
    return 1;
  }
  MpiSession& s = **session;
  const std::map<std::string, std::function<std::string()>> scenarios = {
      {"transport", [&] { return Transport(s); }},
      {"collectives", [&] { return Collectives(s); }},
      {"hello", [&] { return Hello(s); }},
      {"idle", [&] { return Idle(s); }},
      {"kill",
       [&] {
         return Die(
             s, [] { raise(SIGKILL); }, false);
       }},
      {"exit",
       [&] {
         return Die(
             s, [] { _exit(0); }, false);
       }},
      {"kill-idle",
       [&] {
         return Die(
             s, [] { raise(SIGKILL); }, true);
       }},
      {"kill-leader", [&] { return DieAsLeader(s); }},
      {"hang", [&] { return Hang(s); }},
      {"hang-at-end", [&] { return HangAtTheEnd(s); }},
  };
  const std::string problem = scenarios.at(scenario)();
  if (!problem.empty()) {
    std::fprintf(stderr, "rank %d: %s\n", s.communicator().rank(), problem.c_str());
    return 1;
  }
  const absl::Status left = s.Finish(absl::Seconds(2));
  return left.ok() ? 0 : 1;
}

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) { return argc == 3 ? longshelf::Run(argv[1], argv[2]) : 64; }
