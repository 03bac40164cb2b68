#include "exchange_rounds.h"

#include <emmintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "common/check.h"
#include "common/status.h"
#include "group_of_shards.h"

namespace longshelf::bench {
namespace {

using engine::ExpertTransport;

constexpr size_t kPieceBytes = 256;
// After everybody is known to be there, for each: until everybody knows.
constexpr double kUsToStart = 25;

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

bool IsIn(std::span<const std::byte> memory, const std::byte* place) {
  return place >= memory.data() && place < memory.data() + memory.size();
}

// In pieces, as a product does.
void WriteResult(const engine::DispatchedRow& row, size_t n_bytes, std::byte value) {
  alignas(64) std::array<std::byte, kPieceBytes> piece;
  piece.fill(value);
  for (size_t at = 0; at < n_bytes; at += piece.size()) engine::StoreResult(row, at, piece);
}

}  // namespace

absl::StatusOr<Routing> MakeRouting(const std::string& name, bool sums) {
  Routing out{.name = name, .sampler = std::nullopt, .sums = sums};
  if (name == kNeighbour) return out;
  ASSIGN_OR_RETURN(const simulation::RoutingSpec spec, simulation::ParseRouting(name));
  const simulation::ExpertShape shape = {.n_experts = kExperts, .n_per_token = kPerToken};
  std::mt19937_64 random(3);  // the same experts are wanted on all shards
  ASSIGN_OR_RETURN(out.sampler, simulation::ExpertSampler::Create(spec, shape, random));
  return out;
}

ExchangeRounds::ExchangeRounds(engine::MpiSession& session)
    : session_(session),
      takes_turns_(TakesTurns(session.communicator())),
      random_(17 + static_cast<uint64_t>(Rank())) {}

ExchangeRounds::~ExchangeRounds() {
  if (copy_ != nullptr) munmap(copy_, copy_bytes_);
}

absl::StatusOr<ExchangeTimes> ExchangeRounds::Exchange(ExpertTransport& transport, Routing& routing, size_t n_tokens,
                                                       uint64_t seq) {
  const std::vector<engine::ExpertAssignment> assignments = Route(routing, n_tokens);
  transport.BeginStep(seq);
  ExchangeTimes times;
  Span span;
  RETURN_IF_ERROR(StartTogether(span));
  rows_.resize(n_tokens * kRowBytes);
  std::byte* memory = transport.RowMemory(0, n_tokens, kRowBytes);
  const std::span<std::byte> rows(memory != nullptr ? memory : rows_.data(), rows_.size());
  std::fill(rows.begin(), rows.end(), static_cast<std::byte>(seq));
  RETURN_IF_ERROR(AddSlowest(span, times.writing));
  RETURN_IF_ERROR(StartTogether(span));
  RETURN_IF_ERROR(transport.BeginDispatch(0, 0, rows, kRowBytes, assignments));
  RETURN_IF_ERROR(transport.FinishDispatch(0, {}, received_));
  RETURN_IF_ERROR(AddSlowest(span, times.dispatch));
  std::vector<const std::byte*> places;
  for (const engine::DispatchedRow& row : received_) places.push_back(row.row);
  RETURN_IF_ERROR(ReadRemote(places, rows, kRowBytes, times.dispatch));
  RETURN_IF_ERROR(Combine(transport, rows, routing.result_bytes(), static_cast<std::byte>(seq + 1), times));
  return times;
}

absl::StatusOr<ExchangeTimes> ExchangeRounds::Copy(Routing& routing, size_t n_tokens, uint64_t seq) {
  rows_.assign(n_tokens * kRowBytes, static_cast<std::byte>(seq));
  size_t n_rows = 0;
  size_t n_pairs = 0;
  CountRemote(Route(routing, n_tokens), n_rows, n_pairs);
  results_.assign(n_pairs * routing.result_bytes(), static_cast<std::byte>(seq + 1));
  ReserveCopy(std::max(n_rows * kRowBytes, n_pairs * routing.result_bytes()));
  ExchangeTimes times;
  RETURN_IF_ERROR(CopyAndRead(results_.data(), n_pairs * routing.result_bytes(), times.combine));
  rows_.assign(n_tokens * session_.communicator().size() * kRowBytes, static_cast<std::byte>(seq));
  RETURN_IF_ERROR(CopyAndRead(rows_.data(), n_rows * kRowBytes, times.dispatch));
  return times;
}

// Another one in each round.
std::vector<engine::ExpertAssignment> ExchangeRounds::Route(Routing& routing, size_t n_tokens) {
  std::vector<engine::ExpertAssignment> out;
  std::array<uint32_t, kPerToken> chosen;
  const int n_shards = session_.communicator().size();
  const uint32_t next = engine::FirstExpertOf((Rank() + 1) % n_shards, kExperts, n_shards);
  for (uint32_t t = 0; t < n_tokens; ++t) {
    if (!routing.sampler) {
      out.push_back({t, next, 1.0F});
      continue;
    }
    routing.sampler->Draw(random_, chosen);
    int last = -1;  // experts of a shard are next to each other
    for (const uint32_t e : chosen) {
      const int owner = OwnerOf(e);
      if (!routing.sums || owner != last) out.push_back({t, e, 1.0F});
      last = owner;
    }
  }
  return out;
}

// Results of other shards' rows are written inside of the time, as writing is what sends them by some ways.
absl::Status ExchangeRounds::Combine(ExpertTransport& transport, std::span<const std::byte> rows, size_t result_bytes,
                                     std::byte value, ExchangeTimes& times) {
  results_.resize(received_.size() * result_bytes);
  RETURN_IF_ERROR(transport.PlaceResults(0, results_, result_bytes, received_));
  const auto write = [&](bool own) {
    for (const engine::DispatchedRow& row : received_) {
      if (IsIn(rows, row.row) == own) WriteResult(row, result_bytes, value);
    }
    engine::FenceResults();
  };
  write(true);
  Span span;
  RETURN_IF_ERROR(StartTogether(span));
  write(false);
  RETURN_IF_ERROR(transport.BeginCombine(0));
  RETURN_IF_ERROR(transport.FinishCombine(0, combined_));
  RETURN_IF_ERROR(AddSlowest(span, times.combine));
  return ReadRemote(combined_, results_, result_bytes, times.combine);
}

int ExchangeRounds::OwnerOf(uint32_t expert) {
  const int n_shards = session_.communicator().size();
  int owner = 0;
  while (engine::FirstExpertOf(owner + 1, kExperts, n_shards) <= expert) ++owner;
  return owner;
}

void ExchangeRounds::CountRemote(const std::vector<engine::ExpertAssignment>& assignments, size_t& n_rows,
                                 size_t& n_pairs) {
  int last = -1;
  for (size_t i = 0; i < assignments.size(); ++i) {
    const int owner = OwnerOf(assignments[i].expert);
    const bool is_new = i == 0 || assignments[i - 1].token != assignments[i].token || owner != last;
    last = owner;
    if (owner == Rank()) continue;
    ++n_pairs;
    if (is_new) ++n_rows;
  }
}

// Pages as an inbox has them.
void ExchangeRounds::ReserveCopy(size_t n_bytes) {
  if (n_bytes <= copy_bytes_) return;
  if (copy_ != nullptr) munmap(copy_, copy_bytes_);
  copy_ = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  LONGSHELF_CHECK(copy_ != MAP_FAILED);
  copy_bytes_ = n_bytes;
}

absl::Status ExchangeRounds::CopyAndRead(const std::byte* from, size_t n, double& time) {
  auto* to = static_cast<std::byte*>(copy_);
  Span span;
  RETURN_IF_ERROR(StartTogether(span));
  for (size_t i = 0; i + sizeof(__m128i) <= n; i += sizeof(__m128i)) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
  _mm_sfence();
  sum_ += ReadLines(to, n);
  return AddSlowest(span, time);
}

// Adds the time to read every row once that came from another shard. What is prepared for it must be nobody's time,
// not even of shards that wait on the same core.
absl::Status ExchangeRounds::ReadRemote(std::vector<const std::byte*> places, std::span<const std::byte> own,
                                        size_t row_bytes, double& time) {
  std::erase_if(places, [&](const std::byte* p) { return IsIn(own, p); });
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  Span span;
  RETURN_IF_ERROR(StartTogether(span));
  for (const std::byte* place : places) sum_ += ReadLines(place, row_bytes);
  return AddSlowest(span, time);
}

// Begins a span at a time that is agreed on: a barrier lets shards go one after the other.
absl::Status ExchangeRounds::StartTogether(Span& span) {
  ASSIGN_OR_RETURN(const std::vector<double> all, GatherFromAll(session_.communicator(), NowUs()));
  const double start = *std::max_element(all.begin(), all.end()) + kUsToStart * static_cast<double>(all.size());
  while (NowUs() < start) std::this_thread::yield();
  span.start = NowUs();
  return absl::OkStatus();
}

// Ends a span that all began together, and adds what the slowest shard took. Where shards take turns, one that had
// its turn late took little, so what counts is from the first one's start to the last one's end.
absl::Status ExchangeRounds::AddSlowest(Span span, double& time) {
  span.end = NowUs();
  ASSIGN_OR_RETURN(const std::vector<Span> all, GatherFromAll(session_.communicator(), span));
  Span whole = span;
  double slowest = 0;
  for (const Span& one : all) {
    whole = {.start = std::min(whole.start, one.start), .end = std::max(whole.end, one.end)};
    slowest = std::max(slowest, one.end - one.start);
  }
  time += takes_turns_ ? whole.end - whole.start : slowest;
  return absl::OkStatus();
}

}  // namespace longshelf::bench
