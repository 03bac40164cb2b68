// What an exchange of expert rows costs, by the way that rows take: expert_transport_bench RUN_DIR SHM_DIR [ROUNDS], by
// mpirun. Every round writes the rows anew, exchanges them and reads every line from elsewhere once, as a quantiser, a
// network and a product would. A line per number of tokens: medians over rounds of the slowest shard, and ratios to the
// baseline.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/status.h"
#include "engine/comm/baseline_expert_transport.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "figures.h"

namespace longshelf {
namespace {

using engine::ExpertTransport;

// Flash: FP8 rows with their scales there, BF16 rows back.
constexpr size_t kHidden = 4096;
constexpr size_t kRowBytes = kHidden + kHidden / 128;
constexpr size_t kResultBytes = 2 * kHidden;
constexpr uint32_t kExperts = 256;
constexpr size_t kPerToken = 6;
constexpr std::array<size_t, 4> kTokens = {1, 8, 64, 512};

double Now() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Uniform routing, another one in each round.
std::vector<engine::ExpertAssignment> Route(std::mt19937_64& random, size_t n_tokens) {
  std::vector<engine::ExpertAssignment> out;
  for (uint32_t t = 0; t < n_tokens; ++t) {
    std::vector<uint32_t> chosen;
    while (chosen.size() < kPerToken) {
      const auto e = static_cast<uint32_t>(random() % kExperts);
      if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) chosen.push_back(e);
    }
    std::sort(chosen.begin(), chosen.end());
    for (const uint32_t e : chosen) out.push_back({t, e, 1.0F});
  }
  return out;
}

// One word of every cache line.
uint64_t ReadLines(const std::byte* bytes, size_t n) {
  uint64_t sum = 0;
  for (size_t i = 0; i + sizeof(uint64_t) <= n; i += 64) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, sizeof(word));
    sum += word;
  }
  return sum;
}

struct Times {
  double dispatch = 0;
  double combine = 0;
};

class Harness {
 public:
  explicit Harness(engine::MpiSession& session) : session_(session), random_(17 + static_cast<uint64_t>(Rank())) {}

  absl::StatusOr<Times> Round(ExpertTransport& transport, size_t n_tokens, uint64_t seq) {
    rows_.assign(n_tokens * kRowBytes, static_cast<std::byte>(seq));
    const std::vector<engine::ExpertAssignment> assignments = Route(random_, n_tokens);
    transport.BeginStep(seq);
    RETURN_IF_ERROR(session_.communicator().Barrier());
    Times times;
    double start = Now();
    RETURN_IF_ERROR(transport.BeginDispatch(rows_, kRowBytes, assignments));
    RETURN_IF_ERROR(transport.FinishDispatch(received_));
    times.dispatch = Now() - start;
    std::vector<const std::byte*> places;
    for (const engine::DispatchedRow& row : received_) places.push_back(row.row);
    times.dispatch += ReadRemote(places, rows_, kRowBytes);
    results_.assign(received_.size() * kResultBytes, static_cast<std::byte>(seq + 1));
    RETURN_IF_ERROR(session_.communicator().Barrier());
    start = Now();
    RETURN_IF_ERROR(transport.BeginCombine(results_, kResultBytes));
    RETURN_IF_ERROR(transport.FinishCombine(combined_));
    times.combine = Now() - start;
    times.combine += ReadRemote(combined_, results_, kResultBytes);
    return Slowest(times);
  }
  uint64_t sum() const { return sum_; }

 private:
  // Time to read every row once that came from another shard.
  double ReadRemote(std::vector<const std::byte*> places, const std::vector<std::byte>& own, size_t row_bytes) {
    std::erase_if(places, [&](const std::byte* p) { return p >= own.data() && p < own.data() + own.size(); });
    std::sort(places.begin(), places.end());
    places.erase(std::unique(places.begin(), places.end()), places.end());
    const double start = Now();
    for (const std::byte* place : places) sum_ += ReadLines(place, row_bytes);
    return Now() - start;
  }
  int Rank() { return session_.communicator().rank(); }
  absl::StatusOr<Times> Slowest(const Times& mine) {
    const std::string text(reinterpret_cast<const char*>(&mine), sizeof(mine));
    ASSIGN_OR_RETURN(const std::vector<std::string> all, engine::AllGather(session_.communicator(), text));
    Times slowest;
    for (const std::string& one : all) {
      Times times;
      std::memcpy(&times, one.data(), sizeof(times));
      slowest.dispatch = std::max(slowest.dispatch, times.dispatch);
      slowest.combine = std::max(slowest.combine, times.combine);
    }
    return slowest;
  }

  engine::MpiSession& session_;
  std::mt19937_64 random_;
  std::vector<std::byte> rows_;
  std::vector<std::byte> results_;
  std::vector<engine::DispatchedRow> received_;
  std::vector<const std::byte*> combined_;
  uint64_t sum_ = 0;  // so that reading is not optimised away
};

struct Way {
  const char* name;
  std::unique_ptr<ExpertTransport> transport;
  std::vector<double> dispatch;
  std::vector<double> combine;
};

absl::StatusOr<std::vector<Way>> MakeWays(engine::MpiSession& session, const std::string& dir) {
  engine::DirectTransportOptions options;
  options.n_experts = kExperts;
  options.generation = session.generation();
  options.n_tokens_max = kTokens.back();
  options.n_experts_per_token = kPerToken;
  options.row_bytes_max = kRowBytes;
  options.result_bytes_max = kResultBytes;
  std::vector<Way> ways(3);
  ways[0].name = "baseline";
  ways[0].transport =
      std::make_unique<engine::BaselineExpertTransport>(session.communicator(), kExperts, session.generation());
  ways[1].name = "messages";
  ASSIGN_OR_RETURN(ways[1].transport,
                   engine::DirectExpertTransport::Create(session.communicator(), session.hosts(), options));
  ways[2].name = "direct";
  options.shm_dir = dir;
  ASSIGN_OR_RETURN(ways[2].transport,
                   engine::DirectExpertTransport::Create(session.communicator(), session.hosts(), options));
  return ways;
}

absl::Status Run(const std::string& run_dir, const std::string& shm_dir, int n_rounds) {
  constexpr int kWarmUp = 5;
  engine::MpiSessionOptions options;
  options.run_dir = run_dir;
  options.generation = 1;
  options.n_shards = engine::ReadLaunchPosition().value_or(engine::LaunchPosition()).size;
  ASSIGN_OR_RETURN(const auto session, engine::MpiSession::Start(options));
  ASSIGN_OR_RETURN(std::vector<Way> ways, MakeWays(*session, shm_dir));
  Harness harness(*session);
  const bool prints = session->communicator().rank() == 0;
  if (prints)
    std::printf("%6s %-9s %12s %12s %9s %9s\n", "tokens", "way", "dispatch us", "combine us", "ratio", "ratio");
  uint64_t seq = 0;
  for (const size_t n_tokens : kTokens) {
    // In turn, so that whatever else the machine does hits all of them.
    for (int round = 0; round < kWarmUp + n_rounds; ++round) {
      for (Way& way : ways) {
        ASSIGN_OR_RETURN(const Times times, harness.Round(*way.transport, n_tokens, ++seq));
        if (round < kWarmUp) continue;
        way.dispatch.push_back(times.dispatch);
        way.combine.push_back(times.combine);
      }
    }
    const double dispatch = Median(ways[0].dispatch);
    const double combine = Median(ways[0].combine);
    for (Way& way : ways) {
      if (prints) {
        std::printf("%6zu %-9s %12.1f %12.1f %9.2f %9.2f\n", n_tokens, way.name, Median(way.dispatch),
                    Median(way.combine), Median(way.dispatch) / dispatch, Median(way.combine) / combine);
      }
      if (&way != &ways[0]) {
        way.dispatch.clear();
        way.combine.clear();
      }
    }
    ways[0].dispatch.clear();
    ways[0].combine.clear();
  }
  if (prints) std::printf("read %llu\n", static_cast<unsigned long long>(harness.sum()));
  return session->Finish(absl::Seconds(5));
}

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: mpirun ... expert_transport_bench RUN_DIR SHM_DIR [ROUNDS]\n");
    return 64;
  }
  const absl::Status status = longshelf::Run(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : 51);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
