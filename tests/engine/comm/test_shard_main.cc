// One shard of the tests that need real MPI: test_shard RUN_DIR SCENARIO. Says what went wrong and exits 1.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "transport_oracle.h"

namespace longshelf {
namespace {

using engine::Communicator;
using engine::MpiSession;

std::string Transport(MpiSession& session) { return testing::CompareWithDirectSum(session.communicator(), 42, 150); }

// With shared memory, and by messages alone.
std::string Direct(MpiSession& session, const std::string& shm_dir) {
  return testing::CompareWithDirectSum(
      session.communicator(),
      [&](Communicator& communicator, uint32_t n_experts) -> std::unique_ptr<engine::ExpertTransport> {
        engine::DirectTransportOptions options = testing::DirectOptionsForRounds(n_experts);
        options.shm_dir = shm_dir;
        auto transport = engine::DirectExpertTransport::Create(communicator, session.hosts(), options);
        if (!transport.ok()) std::fprintf(stderr, "%s\n", std::string(transport.status().message()).c_str());
        return transport.ok() ? *std::move(transport) : nullptr;
      },
      43, 150, session.hosts());
}

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

// More shards than processors, under a launcher that believes the opposite.
std::string Barrier(MpiSession& session) {
  const auto seconds = engine::MeasureBarrier(session.communicator());
  if (!seconds.ok()) return std::string(seconds.status().message());
  return *seconds < 0.005 ? "" : absl::StrCat("a barrier took ", *seconds, " s");
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// How shards that have come as far as a scenario wants say so to the one that waits for them: a pipe in the run
// directory. Everyone opens it before the group forms, so nothing said is lost.
class Readiness {
 public:
  explicit Readiness(const std::string& run_dir) {
    const std::string path = run_dir + "/readiness";
    if (mkfifo(path.c_str(), 0600) == 0 || errno == EEXIST) fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  }
  ~Readiness() { close(fd_); }
  Readiness(const Readiness&) = delete;
  Readiness& operator=(const Readiness&) = delete;

  bool ok() const { return fd_ >= 0; }
  bool Say() { return write(fd_, "r", 1) == 1; }
  bool Await(int n) {
    char byte = 0;
    while (n > 0 && read(fd_, &byte, 1) == 1) --n;
    return n == 0;
  }

 private:
  int fd_ = -1;
};

struct Shard {
  MpiSession& session;
  Readiness& readiness;

  int rank() const { return session.communicator().rank(); }
  int size() const { return session.communicator().size(); }
  bool is_last() const { return rank() == size() - 1; }
  void AwaitBell() {
    while (!session.doorbell().Wait(absl::Seconds(1))) {
    }
  }
};

// The followers are at the bell for three seconds between two steps.
std::string Idle(Shard shard) {
  constexpr int kIdleSeconds = 3;
  Communicator& communicator = shard.session.communicator();
  const bool leads = shard.rank() == 0;
  std::string plan = "plan";
  const auto step = [&]() -> bool {
    if (leads) shard.session.doorbell().Ring();
    if (!leads) shard.AwaitBell();
    return communicator.Broadcast(plan).ok();
  };
  if (!step()) return "first step";
  const double before = CpuSeconds();
  if (!leads) {
    for (int s = 0; s < kIdleSeconds; ++s) {
      if (shard.session.doorbell().Wait(absl::Seconds(1))) return "rung between the steps";
    }
  }
  const bool told = leads ? shard.readiness.Await(shard.size() - 1) : shard.readiness.Say();
  const double used = CpuSeconds() - before;
  if (!told) return "no word of the others";
  if (!step()) return "second step";
  std::printf("rank %d used %.4f s of processor in %d s idle\n", shard.rank(), used, kIdleSeconds);
  return used < 0.02 * kIdleSeconds ? "" : absl::StrCat("idle shard used ", used, " s of processor");
}

// A follower that has found the bell silent once says so and goes on waiting.
void SayAtTheBell(Shard shard) {
  if (!shard.session.doorbell().Wait(absl::Milliseconds(20))) shard.readiness.Say();
  shard.AwaitBell();
}

// One rank dies as told once the others wait for it in MPI.
std::string Die(Shard shard, void (*how)()) {
  if (shard.is_last() && shard.readiness.Await(shard.size() - 1)) how();
  shard.readiness.Say();
  return std::string(shard.session.communicator().Barrier().message());
}

// One follower is killed while its leader waits for work and the other follower is asleep at the bell.
std::string KillIdle(Shard shard) {
  if (shard.is_last() && shard.readiness.Await(shard.size() - 1)) raise(SIGKILL);
  if (shard.rank() != 0) SayAtTheBell(shard);
  shard.readiness.Say();
  while (true) pause();
}

std::string KillLeader(Shard shard) {
  if (shard.rank() == 0 && shard.readiness.Await(shard.size() - 1)) raise(SIGKILL);
  SayAtTheBell(shard);
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

// One step of forty quick exchanges takes seconds in all; then the last rank is stopped in the middle of the next.
std::string StopAfterALongStep(Shard shard) {
  engine::GroupWatch& watch = shard.session.watch();
  Communicator& communicator = shard.session.communicator();
  watch.BeginStep(1);
  for (int i = 0; i < 40; ++i) {
    if (shard.rank() == 0) poll(nullptr, 0, 50);
    if (const absl::Status status = communicator.Barrier(); !status.ok()) return std::string(status.message());
  }
  watch.EndStep();
  watch.BeginStep(2);
  if (const absl::Status status = communicator.Barrier(); !status.ok()) return std::string(status.message());
  std::fprintf(stderr, "rank %d is in step 2\n", shard.rank());
  if (shard.is_last()) raise(SIGSTOP);
  return std::string(communicator.Barrier().message());
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
  Readiness readiness(run_dir);
  if (!readiness.ok()) {
    std::perror("cannot open the readiness pipe");
    return 1;
  }
  auto session = MpiSession::Start(options);
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", std::string(session.status().message()).c_str());
    return 1;
  }
  MpiSession& s = **session;
  const Shard shard{s, readiness};
  const std::map<std::string, std::function<std::string()>> scenarios = {
      {"transport", [&] { return Transport(s); }},
      {"shared-memory", [&] { return Direct(s, run_dir); }},
      {"messages", [&] { return Direct(s, ""); }},
      {"collectives", [&] { return Collectives(s); }},
      {"barrier", [&] { return Barrier(s); }},
      {"hello", [&] { return Hello(s); }},
      {"idle", [&] { return Idle(shard); }},
      {"kill", [&] { return Die(shard, [] { raise(SIGKILL); }); }},
      {"exit", [&] { return Die(shard, [] { _exit(0); }); }},
      {"kill-idle", [&] { return KillIdle(shard); }},
      {"kill-leader", [&] { return KillLeader(shard); }},
      {"hang", [&] { return Hang(s); }},
      {"stop-after-a-long-step", [&] { return StopAfterALongStep(shard); }},
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
