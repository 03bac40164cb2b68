#include "measure_ways.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "common/status.h"

namespace longshelf::engine {
namespace {

// For each size; some 50 ms in all.
constexpr double kBudgetSeconds = 0.008;
// At least so many however long they take: in one alone a shard may have waited for its processor.
constexpr double kRoundsMin = 3;
constexpr double kRoundsMax = 60;
constexpr size_t kLineBytes = 64;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// One word of every cache line. The empty instruction keeps the compiler from leaving the loads out.
void ReadLines(const std::byte* bytes, size_t n_bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i + sizeof(uint64_t) <= n_bytes; i += kLineBytes) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, sizeof(word));
    sum += word;
  }
  asm volatile("" : : "r"(sum));
}

struct Times {
  double dispatch = 0;
  double combine = 0;
};

// All shards begin and end each phase together: where they take turns on a core, what one does between phases would be
// another one's time, and what those do that had no turn yet would be nobody's.
class Measurement {
 public:
  Measurement(Communicator& communicator, ExpertTransport& transport, const MeasuredExchange& exchange)
      : communicator_(communicator), transport_(transport), exchange_(exchange) {}

  absl::StatusOr<Times> Round(size_t n_tokens) {
    Times times;
    const std::vector<ExpertAssignment> assignments = Route(n_tokens);
    const size_t n_bytes = n_tokens * exchange_.row_bytes;
    own_rows_.resize(n_bytes);
    RETURN_IF_ERROR(communicator_.Barrier());
    double start = Now();
    std::byte* rows = transport_.RowMemory(0, n_tokens, exchange_.row_bytes);
    if (rows == nullptr) rows = own_rows_.data();
    std::memset(rows, static_cast<int>(++round_ & 0xFFU), n_bytes);
    const auto is_own = [&](const DispatchedRow& row) { return row.row >= rows && row.row < rows + n_bytes; };
    RETURN_IF_ERROR(transport_.BeginDispatch(0, 0, {rows, n_bytes}, exchange_.row_bytes, assignments));
    RETURN_IF_ERROR(transport_.FinishDispatch(0, {}, received_));
    for (const DispatchedRow& row : received_) {
      if (!is_own(row)) ReadLines(row.row, exchange_.row_bytes);
    }
    RETURN_IF_ERROR(communicator_.Barrier());
    times.dispatch = Now() - start;
    own_results_.resize(received_.size() * exchange_.result_bytes);
    RETURN_IF_ERROR(transport_.PlaceResults(0, own_results_, exchange_.result_bytes, received_));
    WriteResults(is_own);
    RETURN_IF_ERROR(communicator_.Barrier());
    start = Now();
    WriteResults(std::not_fn(is_own));
    RETURN_IF_ERROR(transport_.BeginCombine(0));
    RETURN_IF_ERROR(transport_.FinishCombine(0, combined_));
    for (const std::byte* result : combined_) {
      if (!IsOwnResult(result)) ReadLines(result, exchange_.result_bytes);
    }
    RETURN_IF_ERROR(communicator_.Barrier());
    times.combine = Now() - start;
    return times;
  }

 private:
  bool IsOwnResult(const std::byte* at) const {
    return at >= own_results_.data() && at < own_results_.data() + own_results_.size();
  }

  // Spread over the experts with a stride that no number of experts per shard divides.
  std::vector<ExpertAssignment> Route(size_t n_tokens) const {
    constexpr size_t kStride = 37;
    const std::vector<uint32_t>& experts = exchange_.experts;
    std::vector<ExpertAssignment> out;
    const size_t n = std::min(exchange_.n_experts_per_token, experts.size());
    for (uint32_t t = 0; t < n_tokens; ++t) {
      std::vector<uint32_t> chosen;
      for (size_t at = t * n * kStride; chosen.size() < n; at += kStride) {
        // Past a cycle of the stride every expert of it is chosen: on to the next one.
        uint32_t expert = experts[at % experts.size()];
        while (std::find(chosen.begin(), chosen.end(), expert) != chosen.end()) expert = experts[++at % experts.size()];
        chosen.push_back(expert);
      }
      std::sort(chosen.begin(), chosen.end());
      for (const uint32_t expert : chosen) out.push_back({t, expert, 1.0F});
    }
    return out;
  }

  // A product's results come in pieces like these.
  template <typename Wanted>
  void WriteResults(Wanted wanted) {
    constexpr size_t kPieceBytes = 256;
    alignas(kLineBytes) std::array<std::byte, kPieceBytes> piece;
    piece.fill(static_cast<std::byte>(round_ & 0xFFU));
    for (const DispatchedRow& row : received_) {
      if (!wanted(row)) continue;
      for (size_t at = 0; at < exchange_.result_bytes; at += kPieceBytes) {
        StoreResult(row, at, std::span(piece).first(std::min(kPieceBytes, exchange_.result_bytes - at)));
      }
    }
    FenceResults();
  }

  Communicator& communicator_;
  ExpertTransport& transport_;
  const MeasuredExchange& exchange_;
  uint64_t round_ = 0;
  std::vector<std::byte> own_rows_;
  std::vector<std::byte> own_results_;
  std::vector<DispatchedRow> received_;
  std::vector<const std::byte*> combined_;
};

// Everybody's, by shard.
absl::StatusOr<std::vector<std::vector<double>>> Share(Communicator& communicator, const std::vector<double>& mine) {
  const std::string text(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double));
  ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(communicator, text));
  std::vector<std::vector<double>> out;
  for (const std::string& one : all) {
    if (one.size() != text.size()) return absl::InternalError("shards have measured different things");
    out.emplace_back(mine.size());
    std::memcpy(out.back().data(), one.data(), one.size());
  }
  return out;
}

// What the slowest shard had.
absl::StatusOr<std::vector<double>> Slowest(Communicator& communicator, const std::vector<double>& mine) {
  ASSIGN_OR_RETURN(const auto all, Share(communicator, mine));
  std::vector<double> out(mine.size());
  for (const std::vector<double>& one : all) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = std::max(out[i], one[i]);
  }
  return out;
}

// Of rounds one after the other: by way, dispatch and combine.
WayFigures BestRounds(size_t n_tokens, const std::vector<double>& rounds) {
  WayFigures out;
  out.n_tokens = n_tokens;
  out.dispatch_seconds.fill(std::numeric_limits<double>::infinity());
  out.combine_seconds.fill(std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < rounds.size(); ++i) {
    double& least = (i % 2 == 0 ? out.dispatch_seconds : out.combine_seconds)[i / 2 % kRowWays.size()];
    least = std::min(least, rounds[i]);
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<WayFigures>> MeasureWays(Communicator& communicator, ExpertTransport& transport,
                                                    const MeasuredExchange& exchange,
                                                    const std::function<void(const RowWays&)>& use) {
  std::vector<size_t> sizes;
  for (const size_t n : kMeasuredTokens) sizes.push_back(std::min(n, exchange.n_tokens_max));
  Measurement measurement(communicator, transport, exchange);
  transport.BeginStep(0);
  std::vector<WayFigures> out;
  for (const size_t n_tokens : sizes) {
    // By round, and in it by way, dispatch and combine.
    std::vector<double> mine;
    const auto run = [&]() -> absl::Status {
      for (const RowWay way : kRowWays) {
        use({way, way});
        ASSIGN_OR_RETURN(const Times times, measurement.Round(n_tokens));
        mine.insert(mine.end(), {times.dispatch, times.combine});
      }
      return absl::OkStatus();
    };
    // The first round meets pages and caches that were never used.
    RETURN_IF_ERROR(run());
    mine.clear();
    const double start = Now();
    RETURN_IF_ERROR(run());
    // As many more as everybody has time for.
    ASSIGN_OR_RETURN(const std::vector<double> slow, Slowest(communicator, {Now() - start}));
    const auto n_rounds = static_cast<int>(std::clamp(kBudgetSeconds / slow[0], kRoundsMin, kRoundsMax));
    for (int n = 1; n < n_rounds; ++n) RETURN_IF_ERROR(run());
    ASSIGN_OR_RETURN(const std::vector<double> slowest, Slowest(communicator, mine));
    out.push_back(BestRounds(n_tokens, slowest));
  }
  return out;
}

WayTable::WayTable(const std::vector<WayFigures>& figures) {
  const auto fastest = [](const auto& seconds) {
    return kRowWays[static_cast<size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin())];
  };
  for (const WayFigures& one : figures) {
    sizes_.push_back({one.n_tokens, {fastest(one.dispatch_seconds), fastest(one.combine_seconds)}});
  }
}

const RowWays& WayTable::Of(size_t n_tokens) const {
  size_t at = 0;
  while (at + 1 < sizes_.size() && n_tokens * n_tokens > sizes_[at].n_tokens * sizes_[at + 1].n_tokens) ++at;
  return sizes_[at].ways;
}

bool WayTable::any_pulled() const {
  return std::any_of(sizes_.begin(), sizes_.end(), [](const SizedWays& sized) {
    return sized.ways.dispatch == RowWay::kPull || sized.ways.combine == RowWay::kPull;
  });
}

const char* RowWayName(RowWay way) {
  switch (way) {
    case RowWay::kStream:
      return "streamed";
    case RowWay::kPush:
      return "pushed";
    case RowWay::kPull:
      return "pulled";
  }
  return "unknown";
}

}  // namespace longshelf::engine
