// What an exchange of expert rows costs, by the way that rows take: expert_transport_bench RUN_DIR SHM_DIR [ROUNDS], by
// mpirun. Every round writes the rows anew, exchanges them and reads every line from elsewhere once, as a quantiser, a
// network and a product would. Times are of the slowest shard.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
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
constexpr size_t kPieceBytes = 256;
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
  double writing = 0;  // of rows, before they are dispatched
  double dispatch = 0;
  double combine = 0;
};

class Harness {
 public:
  explicit Harness(engine::MpiSession& session) : session_(session), random_(17 + static_cast<uint64_t>(Rank())) {}

  absl::StatusOr<Times> Round(ExpertTransport& transport, size_t n_tokens, uint64_t seq) {
    const std::vector<engine::ExpertAssignment> assignments = Route(random_, n_tokens);
    transport.BeginStep(seq);
    RETURN_IF_ERROR(session_.communicator().Barrier());
    Times times;
    double start = Now();
    rows_.resize(n_tokens * kRowBytes);
    std::byte* memory = transport.RowMemory(rows_.size());
    const std::span<std::byte> rows(memory != nullptr ? memory : rows_.data(), rows_.size());
    std::fill(rows.begin(), rows.end(), static_cast<std::byte>(seq));
    times.writing = Now() - start;
    RETURN_IF_ERROR(session_.communicator().Barrier());
    start = Now();
    RETURN_IF_ERROR(transport.BeginDispatch(0, rows, kRowBytes, assignments));
    RETURN_IF_ERROR(transport.FinishDispatch(received_));
    times.dispatch = Now() - start;
    std::vector<const std::byte*> places;
    for (const engine::DispatchedRow& row : received_) places.push_back(row.row);
    times.dispatch += ReadRemote(places, rows, kRowBytes);
    RETURN_IF_ERROR(Combine(transport, rows, static_cast<std::byte>(seq + 1), times));
    return Slowest(times);
  }
  uint64_t sum() const { return sum_; }

 private:
  static bool IsIn(std::span<const std::byte> memory, const std::byte* place) {
    return place >= memory.data() && place < memory.data() + memory.size();
  }

  // Results of other shards' rows are written inside of the time, as writing is what sends them by some ways.
  absl::Status Combine(ExpertTransport& transport, std::span<const std::byte> rows, std::byte value, Times& times) {
    results_.resize(received_.size() * kResultBytes);
    RETURN_IF_ERROR(transport.PlaceResults(results_, kResultBytes, received_));
    const auto write = [&](bool own) {
      for (const engine::DispatchedRow& row : received_) {
        if (IsIn(rows, row.row) == own) WriteResult(row, value);
      }
      engine::FenceResults();
    };
    write(true);
    RETURN_IF_ERROR(session_.communicator().Barrier());
    const double start = Now();
    write(false);
    RETURN_IF_ERROR(transport.BeginCombine());
    RETURN_IF_ERROR(transport.FinishCombine(combined_));
    times.combine = Now() - start;
    times.combine += ReadRemote(combined_, results_, kResultBytes);
    return absl::OkStatus();
  }

  // In pieces, as a product does.
  static void WriteResult(const engine::DispatchedRow& row, std::byte value) {
    alignas(64) std::array<std::byte, kPieceBytes> piece;
    piece.fill(value);
    for (size_t at = 0; at < kResultBytes; at += piece.size()) engine::StoreResult(row, at, piece);
  }

  // Time to read every row once that came from another shard.
  double ReadRemote(std::vector<const std::byte*> places, std::span<const std::byte> own, size_t row_bytes) {
    std::erase_if(places, [&](const std::byte* p) { return IsIn(own, p); });
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
      slowest.writing = std::max(slowest.writing, times.writing);
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
  std::string name;
  std::unique_ptr<ExpertTransport> transport;
  std::vector<double> dispatch;
  std::vector<double> with_writing;  // dispatch, and rows written before
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
  const auto make = [&](std::string name) -> absl::StatusOr<Way> {
    Way way;
    way.name = std::move(name);
    ASSIGN_OR_RETURN(way.transport,
                     engine::DirectExpertTransport::Create(session.communicator(), session.hosts(), options));
    return way;
  };
  std::vector<Way> ways(1);
  ways[0].name = "baseline";
  ways[0].transport =
      std::make_unique<engine::BaselineExpertTransport>(session.communicator(), kExperts, session.generation());
  ASSIGN_OR_RETURN(ways.emplace_back(), make("messages"));
  options.shm_dir = dir;
  for (const engine::RowWay way : engine::kRowWays) {
    options.ways = engine::RowWays{way, way};
    ASSIGN_OR_RETURN(ways.emplace_back(), make(engine::RowWayName(way)));
  }
  options.ways.reset();
  const double start = Now();
  ASSIGN_OR_RETURN(ways.emplace_back(), make("chosen"));
  if (session.communicator().rank() == 0) {
    const auto& chosen = static_cast<const engine::DirectExpertTransport&>(*ways.back().transport);
    std::printf("chosen in %.0f ms: %s\n", (Now() - start) / 1e3, chosen.Describe().c_str());
    for (const engine::WayFigures& f : chosen.figures()) {
      for (size_t w = 0; w < engine::kRowWays.size(); ++w) {
        std::printf("measured %zu %-9s %12.1f %12.1f\n", f.n_tokens, engine::RowWayName(engine::kRowWays[w]),
                    f.dispatch_seconds[w] * 1e6, f.combine_seconds[w] * 1e6);
      }
    }
  }
  return ways;
}

double Least(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

// Of each way the median and the least, which is what a quiet machine would give, and what they are of the baseline's;
// then what the chosen way is of the best of the three that it was chosen from.
void Print(size_t n_tokens, const std::vector<Way>& ways) {
  const Way& baseline = ways.front();
  double best_dispatch = std::numeric_limits<double>::infinity();
  double best_combine = best_dispatch;
  for (const Way& way : ways) {
    std::printf("%6zu %-9s %9.1f %9.1f %9.1f %9.1f %6.2f %6.2f %6.2f %6.2f\n", n_tokens, way.name.c_str(),
                Median(way.dispatch), Least(way.dispatch), Median(way.combine), Least(way.combine),
                Median(way.dispatch) / Median(baseline.dispatch), Least(way.dispatch) / Least(baseline.dispatch),
                Median(way.combine) / Median(baseline.combine), Least(way.combine) / Least(baseline.combine));
    if (&way < &ways[2] || &way == &ways.back()) continue;
    best_dispatch = std::min(best_dispatch, Least(way.with_writing));
    best_combine = std::min(best_combine, Least(way.combine));
  }
  std::printf("%6zu chosen to the best of three, least, rows written included: %.2f %.2f\n", n_tokens,
              Least(ways.back().with_writing) / best_dispatch, Least(ways.back().combine) / best_combine);
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
    std::printf("%6s %-9s %9s %9s %9s %9s %13s %13s\n", "tokens", "way", "dispatch", "least us", "combine", "least us",
                "ratios", "ratios");
  uint64_t seq = 0;
  for (const size_t n_tokens : kTokens) {
    // In turn, so that whatever else the machine does hits all of them.
    for (int round = 0; round < kWarmUp + n_rounds; ++round) {
      for (Way& way : ways) {
        ASSIGN_OR_RETURN(const Times times, harness.Round(*way.transport, n_tokens, ++seq));
        if (round < kWarmUp) continue;
        way.dispatch.push_back(times.dispatch);
        way.with_writing.push_back(times.dispatch + times.writing);
        way.combine.push_back(times.combine);
      }
    }
    if (prints) Print(n_tokens, ways);
    for (Way& way : ways) {
      way.dispatch.clear();
      way.with_writing.clear();
      way.combine.clear();
    }
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
