// What an exchange of expert rows costs, by the way that rows take; by mpirun. Every round writes the rows anew,
// exchanges them and reads every line from elsewhere once, as a quantiser, a network and a product would. A line per
// number of tokens: medians over rounds of the slowest shard, and ratios to the baseline.
#include <emmintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/config.h"
#include "common/status.h"
#include "engine/comm/baseline_expert_transport.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "engine/comm/row_way.h"
#include "figures.h"
#include "group_of_shards.h"
#include "plain_transport.h"
#include "simulation/routing.h"

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
constexpr size_t kTokensMax = 4096;

struct Settings {
  std::string run_dir;
  std::string shm_dir;
  int n_rounds = 51;
  std::vector<std::string> tokens = {"1", "8", "64", "512"};
  std::vector<std::string> routings = {"uniform"};
  std::vector<std::string> ways = {"baseline", "plain", "messages", "streamed", "pushed", "pulled", "direct", "copy"};
  bool json = false;
};

// Another one in each round.
std::vector<engine::ExpertAssignment> Route(simulation::ExpertSampler& sampler, std::mt19937_64& random,
                                            size_t n_tokens) {
  std::vector<engine::ExpertAssignment> out;
  std::array<uint32_t, kPerToken> chosen;
  for (uint32_t t = 0; t < n_tokens; ++t) {
    sampler.Draw(random, chosen);
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
  ~Harness() {
    if (copy_ != nullptr) munmap(copy_, copy_bytes_);
  }
  Harness(const Harness&) = delete;
  Harness& operator=(const Harness&) = delete;
  explicit Harness(engine::MpiSession& session) : session_(session), random_(17 + static_cast<uint64_t>(Rank())) {}

  absl::StatusOr<Times> Round(ExpertTransport& transport, simulation::ExpertSampler& sampler, size_t n_tokens,
                              uint64_t seq) {
    const std::vector<engine::ExpertAssignment> assignments = Route(sampler, random_, n_tokens);
    transport.BeginStep(seq);
    RETURN_IF_ERROR(session_.communicator().Barrier());
    Times times;
    double start = bench::NowUs();
    rows_.resize(n_tokens * kRowBytes);
    std::byte* memory = transport.RowMemory(0, n_tokens, kRowBytes);
    const std::span<std::byte> rows(memory != nullptr ? memory : rows_.data(), rows_.size());
    std::fill(rows.begin(), rows.end(), static_cast<std::byte>(seq));
    times.writing = bench::NowUs() - start;
    RETURN_IF_ERROR(session_.communicator().Barrier());
    start = bench::NowUs();
    RETURN_IF_ERROR(transport.BeginDispatch(0, 0, rows, kRowBytes, assignments));
    RETURN_IF_ERROR(transport.FinishDispatch(0, {}, received_));
    times.dispatch = bench::NowUs() - start;
    std::vector<const std::byte*> places;
    for (const engine::DispatchedRow& row : received_) places.push_back(row.row);
    times.dispatch += ReadRemote(places, rows, kRowBytes);
    RETURN_IF_ERROR(Combine(transport, rows, static_cast<std::byte>(seq + 1), times));
    return Slowest(times);
  }
  // No exchange: as many bytes as would go elsewhere are copied past the caches and read, by this core alone.
  absl::StatusOr<Times> LocalRound(simulation::ExpertSampler& sampler, size_t n_tokens, uint64_t seq) {
    rows_.assign(n_tokens * kRowBytes, static_cast<std::byte>(seq));
    size_t n_rows = 0;
    size_t n_pairs = 0;
    CountRemote(Route(sampler, random_, n_tokens), n_rows, n_pairs);
    results_.assign(n_pairs * kResultBytes, static_cast<std::byte>(seq + 1));
    ReserveCopy(std::max(n_rows * kRowBytes, n_pairs * kResultBytes));
    Times times;
    RETURN_IF_ERROR(session_.communicator().Barrier());
    times.combine = CopyAndRead(results_.data(), n_pairs * kResultBytes);
    rows_.assign(n_tokens * session_.communicator().size() * kRowBytes, static_cast<std::byte>(seq));
    RETURN_IF_ERROR(session_.communicator().Barrier());
    times.dispatch = CopyAndRead(rows_.data(), n_rows * kRowBytes);
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
    RETURN_IF_ERROR(transport.PlaceResults(0, results_, kResultBytes, received_));
    const auto write = [&](bool own) {
      for (const engine::DispatchedRow& row : received_) {
        if (IsIn(rows, row.row) == own) WriteResult(row, value);
      }
      engine::FenceResults();
    };
    write(true);
    RETURN_IF_ERROR(session_.communicator().Barrier());
    const double start = bench::NowUs();
    write(false);
    RETURN_IF_ERROR(transport.BeginCombine(0));
    RETURN_IF_ERROR(transport.FinishCombine(0, combined_));
    times.combine = bench::NowUs() - start;
    times.combine += ReadRemote(combined_, results_, kResultBytes);
    return absl::OkStatus();
  }

  // In pieces, as a product does.
  static void WriteResult(const engine::DispatchedRow& row, std::byte value) {
    alignas(64) std::array<std::byte, kPieceBytes> piece;
    piece.fill(value);
    for (size_t at = 0; at < kResultBytes; at += piece.size()) engine::StoreResult(row, at, piece);
  }

  void CountRemote(const std::vector<engine::ExpertAssignment>& assignments, size_t& n_rows, size_t& n_pairs) {
    const int n_shards = session_.communicator().size();
    int last = -1;
    for (size_t i = 0; i < assignments.size(); ++i) {
      int owner = 0;
      while (engine::FirstExpertOf(owner + 1, kExperts, n_shards) <= assignments[i].expert) ++owner;
      const bool is_new = i == 0 || assignments[i - 1].token != assignments[i].token || owner != last;
      last = owner;
      if (owner == Rank()) continue;
      ++n_pairs;
      if (is_new) ++n_rows;
    }
  }
  // Pages as an inbox has them.
  void ReserveCopy(size_t n_bytes) {
    if (n_bytes <= copy_bytes_) return;
    if (copy_ != nullptr) munmap(copy_, copy_bytes_);
    copy_ = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    LONGSHELF_CHECK(copy_ != MAP_FAILED);
    copy_bytes_ = n_bytes;
  }
  double CopyAndRead(const std::byte* from, size_t n) {
    auto* to = static_cast<std::byte*>(copy_);
    const double start = bench::NowUs();
    for (size_t i = 0; i + sizeof(__m128i) <= n; i += sizeof(__m128i)) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    }
    _mm_sfence();
    sum_ += ReadLines(to, n);
    return bench::NowUs() - start;
  }

  // Time to read every row once that came from another shard.
  double ReadRemote(std::vector<const std::byte*> places, std::span<const std::byte> own, size_t row_bytes) {
    std::erase_if(places, [&](const std::byte* p) { return IsIn(own, p); });
    std::sort(places.begin(), places.end());
    places.erase(std::unique(places.begin(), places.end()), places.end());
    const double start = bench::NowUs();
    for (const std::byte* place : places) sum_ += ReadLines(place, row_bytes);
    return bench::NowUs() - start;
  }
  int Rank() { return session_.communicator().rank(); }
  absl::StatusOr<Times> Slowest(const Times& mine) {
    ASSIGN_OR_RETURN(const std::vector<Times> all, bench::GatherFromAll(session_.communicator(), mine));
    Times slowest;
    for (const Times& times : all) {
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
  void* copy_ = nullptr;
  size_t copy_bytes_ = 0;
  std::vector<engine::DispatchedRow> received_;
  std::vector<const std::byte*> combined_;
  uint64_t sum_ = 0;  // so that reading is not optimised away
};

struct Way {
  std::string name;
  std::unique_ptr<ExpertTransport> transport;  // null: a copy in place of an exchange
  std::vector<double> dispatch;
  std::vector<double> with_writing;  // dispatch, and rows written before
  std::vector<double> combine;
};

absl::StatusOr<Way> MakeWay(engine::MpiSession& session, const std::string& name, const std::string& shm_dir) {
  engine::DirectTransportOptions options;
  options.n_experts = kExperts;
  options.generation = session.generation();
  options.n_tokens_max = kTokensMax;
  options.n_experts_per_token = kPerToken;
  options.row_bytes_max = kRowBytes;
  options.result_bytes_max = kResultBytes;
  const auto fixed = std::find_if(engine::kRowWays.begin(), engine::kRowWays.end(),
                                  [&](engine::RowWay one) { return engine::RowWayName(one) == name; });
  const bool is_fixed = fixed != engine::kRowWays.end();
  if (is_fixed) options.ways = engine::RowWays{*fixed, *fixed};
  if (is_fixed || name == "direct") options.shm_dir = shm_dir;
  Way way;
  way.name = name;
  if (name == "baseline") {
    way.transport =
        std::make_unique<engine::BaselineExpertTransport>(session.communicator(), kExperts, session.generation());
  } else if (name == "plain") {
    way.transport = std::make_unique<bench::PlainTransport>(session.communicator(), kExperts);
  } else if (name == "messages" || is_fixed || name == "direct") {
    ASSIGN_OR_RETURN(way.transport,
                     engine::DirectExpertTransport::Create(session.communicator(), session.hosts(), options));
  } else if (name != "copy") {
    return absl::InvalidArgumentError(
        absl::StrCat("--way ", name, ": must be baseline, plain, messages, streamed, pushed, pulled, direct or copy"));
  }
  return way;
}

absl::StatusOr<std::vector<Way>> MakeWays(engine::MpiSession& session, const Settings& settings) {
  std::vector<Way> ways;
  for (const std::string& name : settings.ways) {
    ASSIGN_OR_RETURN(Way way, MakeWay(session, name, settings.shm_dir));
    ways.push_back(std::move(way));
  }
  return ways;
}

double Least(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

const Way* Find(const std::vector<Way>& ways, const std::string& name) {
  const auto it = std::find_if(ways.begin(), ways.end(), [&](const Way& way) { return way.name == name; });
  return it == ways.end() ? nullptr : &*it;
}

// What the way that was chosen by measuring is of the best of those that it was chosen from.
void PrintChoice(size_t n_tokens, const std::vector<Way>& ways) {
  const Way* direct = Find(ways, "direct");
  double best_dispatch = std::numeric_limits<double>::infinity();
  double best_combine = best_dispatch;
  for (const engine::RowWay one : engine::kRowWays) {
    const Way* way = Find(ways, engine::RowWayName(one));
    if (direct == nullptr || way == nullptr) return;
    best_dispatch = std::min(best_dispatch, Least(way->with_writing));
    best_combine = std::min(best_combine, Least(way->combine));
  }
  std::printf("%6zu direct to the best of the three, least, rows written included: %.2f %.2f\n", n_tokens,
              Least(direct->with_writing) / best_dispatch, Least(direct->combine) / best_combine);
}

// One line for each way: text for people, or a JSON object.
void Print(const Settings& settings, int n_shards, const std::string& routing, size_t n_tokens,
           const std::vector<Way>& ways) {
  for (const Way& way : ways) {
    const double dispatch = Median(way.dispatch);
    const double combine = Median(way.combine);
    if (settings.json) {
      std::printf(
          "{\"shards\": %d, \"routing\": \"%s\", \"tokens\": %zu, \"way\": \"%s\", \"dispatch_us\": %.2f, "
          "\"combine_us\": %.2f, \"dispatch_quiet_us\": %.2f, \"combine_quiet_us\": %.2f}\n",
          n_shards, routing.c_str(), n_tokens, way.name.c_str(), dispatch, combine, Quiet(way.dispatch),
          Quiet(way.combine));
    } else {
      std::printf("%-9s %6zu %-9s %9.1f %9.1f %9.1f %9.1f %6.2f %6.2f %6.2f %6.2f\n", routing.c_str(), n_tokens,
                  way.name.c_str(), dispatch, Least(way.dispatch), combine, Least(way.combine),
                  dispatch / Median(ways[0].dispatch), Least(way.dispatch) / Least(ways[0].dispatch),
                  combine / Median(ways[0].combine), Least(way.combine) / Least(ways[0].combine));
    }
  }
  if (!settings.json) PrintChoice(n_tokens, ways);
  std::fflush(stdout);
}

// Ways take turns, so that whatever else the machine does hits all of them.
absl::Status Measure(Harness& harness, std::vector<Way>& ways, simulation::ExpertSampler& sampler, size_t n_tokens,
                     int n_rounds, uint64_t& seq) {
  constexpr int kWarmUp = 5;
  for (Way& way : ways) {
    way.dispatch.clear();
    way.with_writing.clear();
    way.combine.clear();
  }
  for (int round = 0; round < kWarmUp + n_rounds; ++round) {
    for (Way& way : ways) {
      ++seq;
      ASSIGN_OR_RETURN(const Times times, way.transport == nullptr
                                              ? harness.LocalRound(sampler, n_tokens, seq)
                                              : harness.Round(*way.transport, sampler, n_tokens, seq));
      if (round < kWarmUp) continue;
      way.dispatch.push_back(times.dispatch);
      way.with_writing.push_back(times.writing + times.dispatch);
      way.combine.push_back(times.combine);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<size_t>> TokensOf(const Settings& settings) {
  std::vector<size_t> out;
  for (const std::string& text : settings.tokens) {
    uint64_t n = 0;
    if (!absl::SimpleAtoi(text, &n) || n < 1 || n > kTokensMax) {
      return absl::InvalidArgumentError(absl::StrCat("--tokens ", text, ": must be from 1 to ", kTokensMax));
    }
    out.push_back(n);
  }
  return out;
}

absl::Status Run(const Settings& settings) {
  ASSIGN_OR_RETURN(const std::vector<size_t> all_tokens, TokensOf(settings));
  ASSIGN_OR_RETURN(const auto session, bench::JoinGroup(settings.run_dir));
  ASSIGN_OR_RETURN(std::vector<Way> ways, MakeWays(*session, settings));
  Harness harness(*session);
  const bool prints = session->communicator().rank() == 0;
  if (prints && !settings.json) {
    if (const Way* direct = Find(ways, "direct"); direct != nullptr) {
      const auto& chosen = static_cast<const engine::DirectExpertTransport&>(*direct->transport);
      std::printf("direct: %s\n", chosen.Describe().c_str());
    }
    std::printf("medians and least of dispatch and combine in us, and what they are of the first way's\n");
    std::printf("%-9s %6s %-9s %9s %9s %9s %9s %6s %6s %6s %6s\n", "routing", "tokens", "way", "dispatch", "least",
                "combine", "least", "ratio", "least", "ratio", "least");
  }
  const simulation::ExpertShape shape = {.n_experts = kExperts, .n_per_token = kPerToken};
  uint64_t seq = 0;
  for (const std::string& routing : settings.routings) {
    ASSIGN_OR_RETURN(const simulation::RoutingSpec spec, simulation::ParseRouting(routing));
    std::mt19937_64 random(3);  // the same experts are wanted on all shards
    ASSIGN_OR_RETURN(simulation::ExpertSampler sampler, simulation::ExpertSampler::Create(spec, shape, random));
    for (const size_t n_tokens : all_tokens) {
      RETURN_IF_ERROR(Measure(harness, ways, sampler, n_tokens, settings.n_rounds, seq));
      if (prints) Print(settings, session->communicator().size(), routing, n_tokens, ways);
    }
  }
  if (prints) std::fprintf(stderr, "read %llu\n", static_cast<unsigned long long>(harness.sum()));
  return session->Finish(absl::Seconds(5));
}

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) {
  longshelf::Settings settings;
  longshelf::ConfigSpec spec("expert_transport_bench", "What an exchange of expert rows costs; to be run by mpirun.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&settings.run_dir, "run-dir", "an empty directory for the group's files");
  spec.Require("run-dir");
  spec.Add(&settings.shm_dir, "shm-dir", "a directory in shared memory");
  spec.Require("shm-dir");
  spec.Add(&settings.n_rounds, "rounds", "rounds of each measurement; the median counts", {1, 100'000});
  spec.Add(&settings.tokens, "tokens", "tokens of each shard; repeatable");
  spec.Add(&settings.routings, "routing", "uniform, zipf[:EXPONENT], hot[:EXPERTS:SHARE]; repeatable");
  spec.Add(
      &settings.ways, "way",
      "baseline, plain (the same by hand), messages, streamed, pushed, pulled, direct (the best of these three) or "
      "copy; repeatable. Ratios are to the first");
  spec.Add(&settings.json, "json", "a JSON object in each line");
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::Run(settings);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
