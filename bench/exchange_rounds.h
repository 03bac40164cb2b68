#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/comm/expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "simulation/routing.h"

// Exchanges of expert rows as they are timed: rows written anew, everything that came from elsewhere read once.
namespace longshelf::bench {

// Flash: FP8 rows with their scales there, BF16 rows back.
inline constexpr size_t kHidden = 4096;
inline constexpr size_t kRowBytes = kHidden + kHidden / 128;
inline constexpr size_t kResultBytes = 2 * kHidden;
inline constexpr uint32_t kExperts = 256;
inline constexpr size_t kPerToken = 6;

constexpr size_t ResultBytes(bool sums) { return sums ? 2 * kResultBytes : kResultBytes; }

// Which experts tokens choose.
struct Routing {
  std::string name;
  std::optional<simulation::ExpertSampler> sampler;  // none: all tokens choose one expert of the next shard
  // In place of a BF16 result for each expert one FP32 sum comes back from each shard that has some of a token's: not
  // exact, and not the same for other numbers of shards. To compare what moving them costs; nobody adds anything up.
  bool sums = false;
  size_t result_bytes() const { return ResultBytes(sums); }
};

inline constexpr std::string_view kNeighbour = "neighbour";

// kNeighbour, or what simulation::ParseRouting() takes.
absl::StatusOr<Routing> MakeRouting(const std::string& name, bool sums);

// Microseconds, of the slowest shard; where shards take turns on cores, until the last one is done.
struct ExchangeTimes {
  double writing = 0;  // of rows, before they are dispatched
  double dispatch = 0;
  double combine = 0;
};

// Rounds of one shard's; all shards of the group make the same calls. Owner: the thread that calls MPI.
class ExchangeRounds {
 public:
  explicit ExchangeRounds(engine::MpiSession& session);
  ~ExchangeRounds();
  ExchangeRounds(const ExchangeRounds&) = delete;
  ExchangeRounds& operator=(const ExchangeRounds&) = delete;

  absl::StatusOr<ExchangeTimes> Exchange(engine::ExpertTransport& transport, Routing& routing, size_t n_tokens,
                                         uint64_t seq);
  // No exchange: as many bytes as would go elsewhere are copied past the caches and read, by this core alone.
  absl::StatusOr<ExchangeTimes> Copy(Routing& routing, size_t n_tokens, uint64_t seq);
  // Of what was read.
  uint64_t sum() const { return sum_; }

 private:
  struct Span {
    double start = 0;
    double end = 0;
  };
  std::vector<engine::ExpertAssignment> Route(Routing& routing, size_t n_tokens);
  absl::Status Combine(engine::ExpertTransport& transport, std::span<const std::byte> rows, size_t result_bytes,
                       std::byte value, ExchangeTimes& times);
  int OwnerOf(uint32_t expert);
  void CountRemote(const std::vector<engine::ExpertAssignment>& assignments, size_t& n_rows, size_t& n_pairs);
  void ReserveCopy(size_t n_bytes);
  absl::Status CopyAndRead(const std::byte* from, size_t n, double& time);
  absl::Status ReadRemote(std::vector<const std::byte*> places, std::span<const std::byte> own, size_t row_bytes,
                          double& time);
  absl::Status StartTogether(Span& span);
  absl::Status AddSlowest(Span span, double& time);
  int Rank() { return session_.communicator().rank(); }

  engine::MpiSession& session_;
  const bool takes_turns_;
  std::mt19937_64 random_;
  std::vector<std::byte> rows_;
  std::vector<std::byte> results_;
  void* copy_ = nullptr;
  size_t copy_bytes_ = 0;
  std::vector<engine::DispatchedRow> received_;
  std::vector<const std::byte*> combined_;
  uint64_t sum_ = 0;  // so that reading is not optimised away
};

}  // namespace longshelf::bench
