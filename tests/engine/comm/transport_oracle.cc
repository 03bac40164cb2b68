#include "transport_oracle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <vector>

#include "engine/comm/baseline_expert_transport.h"

namespace longshelf::testing {
namespace {

constexpr uint64_t kGeneration = 3;
constexpr uint32_t kLayers = 2;

using engine::DispatchedRow;
using engine::ExpertAssignment;

// One member's part of a round.
struct Part {
  std::vector<std::byte> rows;
  std::vector<ExpertAssignment> assignments;
};
struct Round {
  uint32_t n_experts = 0;
  std::optional<engine::ExpertPlacement> placement;  // of kLayers; none: even
  size_t row_bytes = 0;
  size_t result_floats = 0;
  std::array<std::vector<Part>, engine::kExchangeLanes> parts;  // by lane and rank
};

enum class Skew { kUniform, kOneExpert, kOneShard, kZipf };

uint32_t PickExpert(std::mt19937_64& random, Skew skew, uint32_t n_experts, int size) {
  switch (skew) {
    case Skew::kOneExpert:
      return n_experts - 1;
    case Skew::kOneShard: {
      const uint32_t first = engine::FirstExpertOf(size - 1, n_experts, size);
      return first + static_cast<uint32_t>(random() % (n_experts - first));
    }
    case Skew::kZipf: {
      const double u = std::uniform_real_distribution<double>(0.0, 1.0)(random);
      return static_cast<uint32_t>(static_cast<double>(n_experts) * u * u * u * u);
    }
    case Skew::kUniform:
      break;
  }
  return static_cast<uint32_t>(random() % n_experts);
}

Part MakePart(std::mt19937_64& random, const Round& round, Skew skew, int size) {
  constexpr std::array<size_t, 6> kTokenCounts = {0, 1, 2, 7, 128, 513};
  Part part;
  const size_t n_tokens = kTokenCounts[random() % kTokenCounts.size()];
  part.rows.resize(n_tokens * round.row_bytes);
  for (std::byte& b : part.rows) b = static_cast<std::byte>(random());
  for (uint32_t t = 0; t < n_tokens; ++t) {
    std::set<uint32_t> experts;
    const uint64_t n_wanted = 1 + random() % 6;
    for (uint64_t k = 0; k < n_wanted; ++k) experts.insert(PickExpert(random, skew, round.n_experts, size));
    for (const uint32_t e : experts) {
      part.assignments.push_back({t, e, std::uniform_real_distribution<float>(0.0F, 1.0F)(random)});
    }
  }
  return part;
}

// Somewhere each, or on some of the shards each.
engine::ExpertPlacement MakePlacement(std::mt19937_64& random, uint32_t n_experts, int size, bool with_replicas) {
  std::vector<std::vector<uint16_t>> holders(size_t{kLayers} * n_experts);
  for (std::vector<uint16_t>& of_expert : holders) {
    const auto first = static_cast<uint16_t>(random() % static_cast<uint64_t>(size));
    for (uint16_t r = 0; r < size; ++r) {
      if (r == first || (with_replicas && random() % 3 == 0)) of_expert.push_back(r);
    }
  }
  return {kLayers, n_experts, size, std::move(holders)};
}

Round MakeRound(std::mt19937_64& random, int size) {
  constexpr std::array<uint32_t, 6> kExpertCounts = {4, 7, 10, 13, 64, 256};
  constexpr std::array<size_t, 5> kRowBytes = {1, 33, 64, 132, 388};
  Round round;
  round.n_experts = kExpertCounts[random() % kExpertCounts.size()];
  round.row_bytes = kRowBytes[random() % kRowBytes.size()];
  round.result_floats = 1 + random() % 40;
  const auto skew = static_cast<Skew>(random() % 4);
  for (std::vector<Part>& of_lane : round.parts) {
    for (int r = 0; r < size; ++r) of_lane.push_back(MakePart(random, round, skew, size));
  }
  if (const uint64_t kind = random() % 3; kind > 0) {
    round.placement = MakePlacement(random, round.n_experts, size, kind == 2);
  }
  return round;
}

// Stands for an expert: any function of (row, expert, weight).
void Expert(const std::byte* row, size_t row_bytes, uint32_t expert, float weight, std::span<float> result) {
  for (size_t i = 0; i < result.size(); ++i) {
    const auto value = static_cast<float>(std::to_integer<int>(row[i % row_bytes]));
    result[i] = weight * (value + 0.37F * static_cast<float>(expert)) / static_cast<float>(i + 3);
  }
}

// What `rank` must receive on a layer, in (expert, source rank, source token) order, but for the first n_done rows of
// its own.
std::vector<DispatchedRow> ExpectedRows(const Round& round, std::span<const Part> parts, const engine::HostMap& hosts,
                                        uint32_t layer, int rank, size_t n_done) {
  const int size = hosts.n_ranks();
  const auto even = engine::ExpertPlacement::Even(kLayers, round.n_experts, size);
  std::vector<engine::ExpertRoutes> routes;
  for (int r = 0; r < size; ++r) routes.emplace_back(round.placement.value_or(even), layer, hosts, r);
  std::vector<DispatchedRow> out;
  for (uint32_t e = 0; e < round.n_experts; ++e) {
    for (size_t s = 0; s < parts.size(); ++s) {
      const Part& part = parts[s];
      for (const ExpertAssignment& a : part.assignments) {
        if (a.expert != e || routes[s].Choose(e, a.token) != rank) continue;
        if (static_cast<int>(s) == rank && n_done > 0) {
          --n_done;
          continue;
        }
        out.push_back({.expert = e, .weight = a.weight, .row = part.rows.data() + a.token * round.row_bytes});
      }
    }
  }
  return out;
}

// Per token, in ascending expert order.
std::vector<float> Sum(const Round& round, const Part& part, const std::vector<float>& results) {
  const size_t width = round.result_floats;
  std::vector<float> sums(part.rows.size() / round.row_bytes * width, 0.0F);
  for (size_t i = 0; i < part.assignments.size(); ++i) {
    for (size_t j = 0; j < width; ++j) sums[part.assignments[i].token * width + j] += results[i * width + j];
  }
  return sums;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// One exchange of a round on a lane, in steps, so that the other lane's can come between.
class Exchange {
 public:
  Exchange(engine::ExpertTransport& transport, const engine::HostMap& hosts, const Round& round, int lane,
           uint32_t layer)
      : transport_(transport),
        hosts_(hosts),
        round_(round),
        lane_(lane),
        layer_(layer),
        parts_(round.parts[static_cast<size_t>(lane)]),
        mine_(parts_[static_cast<size_t>(transport.rank())]) {}

  std::string Dispatch() {
    // Where the transport has memory for them, every other round.
    std::span<const std::byte> rows = mine_.rows;
    std::byte* memory = round_.row_bytes % 2 == 0
                            ? transport_.RowMemory(lane_, rows.size() / round_.row_bytes, round_.row_bytes)
                            : nullptr;
    if (memory != nullptr && !rows.empty()) {
      std::memcpy(memory, rows.data(), rows.size());
      rows = {memory, rows.size()};
    }
    return Say(transport_.BeginDispatch(lane_, layer_, rows, round_.row_bytes, mine_.assignments));
  }

  // Some members compute some of their own rows early, whether or not the others' are there.
  std::string Compute() {
    std::vector<DispatchedRow> own;
    transport_.HasArrived(lane_);
    transport_.OwnRows(lane_, own);
    own.resize(own.size() * ((static_cast<size_t>(transport_.rank()) + layer_) % 3) / 2);
    early_.resize(own.size() * width());
    for (size_t i = 0; i < own.size(); ++i) {
      own[i].result = reinterpret_cast<std::byte*>(&early_[i * width()]);
      Write(own[i]);
    }
    std::vector<DispatchedRow> received;
    if (auto s = transport_.FinishDispatch(lane_, own, received); !s.ok()) return s.ToString();
    const std::vector<DispatchedRow> expected =
        ExpectedRows(round_, parts_, hosts_, layer_, transport_.rank(), own.size());
    if (received.size() != expected.size()) {
      return "received " + std::to_string(received.size()) + " rows, expected " + std::to_string(expected.size());
    }
    results_.resize(received.size() * width());
    if (auto s = transport_.PlaceResults(lane_, std::as_writable_bytes(std::span(results_)), width() * sizeof(float),
                                         received);
        !s.ok()) {
      return s.ToString();
    }
    for (size_t i = 0; i < received.size(); ++i) {
      const DispatchedRow& row = received[i];
      if (row.expert != expected[i].expert || std::memcmp(&row.weight, &expected[i].weight, sizeof(float)) != 0 ||
          std::memcmp(row.row, expected[i].row, round_.row_bytes) != 0) {
        return "received row " + std::to_string(i) + " differs";
      }
      Write(row);
      if (i % 100 != 99) continue;
      engine::FenceResults();
      transport_.ResultsWritten(lane_, i + 1);
      transport_.Poll();
    }
    engine::FenceResults();
    return Say(transport_.BeginCombine(lane_));
  }

  std::string Combine() {
    std::vector<const std::byte*> places;
    if (auto s = transport_.FinishCombine(lane_, places); !s.ok()) return s.ToString();
    if (places.size() != mine_.assignments.size()) return "the count of combined rows differs";
    std::vector<float> combined(places.size() * width(), -1.0F);
    for (size_t i = 0; i < places.size(); ++i) std::memcpy(&combined[i * width()], places[i], width() * sizeof(float));
    std::vector<float> direct(combined.size());
    for (size_t i = 0; i < mine_.assignments.size(); ++i) {
      const ExpertAssignment& a = mine_.assignments[i];
      Expert(mine_.rows.data() + a.token * round_.row_bytes, round_.row_bytes, a.expert, a.weight,
             std::span(direct).subspan(i * width(), width()));
    }
    if (!SameBits(combined, direct)) return "combined rows differ";
    if (!SameBits(Sum(round_, mine_, combined), Sum(round_, mine_, direct))) return "sums differ";
    return "";
  }

 private:
  static std::string Say(const absl::Status& status) { return status.ok() ? "" : status.ToString(); }
  size_t width() const { return round_.result_floats; }
  void Write(const DispatchedRow& row) {
    std::vector<float> result(width());
    Expert(row.row, round_.row_bytes, row.expert, row.weight, result);
    engine::StoreResult(row, 0, std::as_bytes(std::span(result)));
  }

  engine::ExpertTransport& transport_;
  const engine::HostMap& hosts_;
  const Round& round_;
  const int lane_;
  const uint32_t layer_;
  const std::vector<Part>& parts_;
  const Part& mine_;
  std::vector<float> early_;
  std::vector<float> results_;
};

// Every layer on every lane, as a model's microbatches go: the second lane half a layer behind the first. Goes on after
// a difference, as the others wait.
std::string CompareRound(engine::ExpertTransport& transport, const engine::HostMap& hosts, const Round& round) {
  std::string first;
  const auto note = [&](const std::string& difference, int lane, uint32_t layer) {
    if (difference.empty() || !first.empty()) return;
    first = "lane " + std::to_string(lane) + " layer " + std::to_string(layer) + ": " + difference;
  };
  const bool has_two = transport.n_lanes() > 1;
  std::optional<Exchange> a;
  std::optional<Exchange> b;
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    note(a.emplace(transport, hosts, round, 0, layer).Dispatch(), 0, layer);
    if (b.has_value()) note(b->Combine(), 1, layer - 1);
    if (has_two) note(b.emplace(transport, hosts, round, 1, layer).Dispatch(), 1, layer);
    note(a->Compute(), 0, layer);
    if (has_two) note(b->Compute(), 1, layer);
    note(a->Combine(), 0, layer);
  }
  if (has_two) note(b->Combine(), 1, kLayers - 1);
  return first;
}

}  // namespace

engine::DirectTransportOptions DirectOptionsForRounds(uint32_t n_experts) {
  engine::DirectTransportOptions options;
  options.n_experts = n_experts;
  options.generation = kGeneration;
  options.n_lanes = engine::kExchangeLanes;
  options.n_tokens_max = 2 * 513;  // as many on the second lane
  options.n_experts_per_token = 6;
  options.row_bytes_max = 388;
  options.result_bytes_max = 640;  // several pieces
  return options;
}

std::string CompareWithDirectSum(engine::Communicator& communicator, uint64_t seed, int n_rounds) {
  return CompareWithDirectSum(
      communicator,
      [](engine::Communicator& among, uint32_t n_experts) {
        return std::make_unique<engine::BaselineExpertTransport>(among, n_experts, kGeneration);
      },
      seed, n_rounds, engine::HostMap(communicator.size()));
}

std::string CompareWithDirectSum(engine::Communicator& communicator, const MakeTransport& make, uint64_t seed,
                                 int n_rounds, const engine::HostMap& hosts) {
  std::mt19937_64 random(seed);
  std::string first;
  for (int n = 0; n < n_rounds; ++n) {
    const Round round = MakeRound(random, communicator.size());
    const auto transport = make(communicator, round.n_experts);
    if (transport == nullptr) return "no transport";
    if (round.placement.has_value()) transport->SetPlacement(*round.placement);
    transport->BeginStep(static_cast<uint64_t>(n));
    const std::string difference = CompareRound(*transport, hosts, round);
    if (difference.empty() || !first.empty()) continue;
    std::ostringstream text;
    text << "seed " << seed << " round " << n << " rank " << communicator.rank() << ": " << difference;
    first = text.str();
  }
  return first;
}

}  // namespace longshelf::testing
