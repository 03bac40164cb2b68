#include "engine/comm/mpi_expert_transport.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kMagic = 0x3145534C;  // "LSE1"
constexpr uint16_t kKindDispatch = 1;
constexpr uint16_t kKindCombine = 2;
// Bounds on what a peer may announce before anything is allocated for it.
constexpr uint32_t kTokensMax = 1U << 20;
constexpr uint32_t kRowBytesMax = 1U << 20;
constexpr uint64_t kMessageUnitsMax = uint64_t{1} << 30;  // 64 GiB

// One token of a message: how many of the {expert, weight} entries are its.
struct TokenEntry {
  uint32_t source_token;
  uint32_t n_experts;
};
struct ExpertEntry {
  uint32_t expert;
  float weight;
};
static_assert(sizeof(TokenEntry) == 8 && sizeof(ExpertEntry) == 8);

constexpr size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A dispatch message: rows [n_tokens, row_bytes] | pad to 8 | TokenEntry [n_tokens] | ExpertEntry [n_rows] | pad to 64.
struct DispatchLayout {
  DispatchLayout(size_t n_tokens, size_t n_rows, size_t row_bytes)
      : tokens(RoundUp(n_tokens * row_bytes, sizeof(TokenEntry))),
        experts(tokens + n_tokens * sizeof(TokenEntry)),
        n_units(RoundUp(experts + n_rows * sizeof(ExpertEntry), kExchangeUnitBytes) / kExchangeUnitBytes) {}
  size_t tokens;   // offset
  size_t experts;  // offset
  size_t n_units;
};

// A combine message: header | rows [n_rows, result_bytes] | pad to 64. Nothing when there are no rows.
size_t CombineUnits(size_t n_rows, size_t result_bytes) {
  if (n_rows == 0) return 0;
  return 1 + RoundUp(n_rows * result_bytes, kExchangeUnitBytes) / kExchangeUnitBytes;
}

template <typename T>
void GrowTo(std::vector<T>& buffer, size_t n) {
  if (buffer.size() < n) buffer.resize(n);
}

template <typename Unit>
std::byte* Bytes(std::vector<Unit>& buffer) {
  return reinterpret_cast<std::byte*>(buffer.data());
}

absl::Status Mismatch(const char* what, int source, uint64_t theirs, uint64_t ours) {
  return absl::InternalError(absl::StrCat("expert message from shard ", source, ": ", what, " is ", theirs,
                                          ", this shard is at ", ours, "; the group is out of step"));
}

}  // namespace

MpiExpertTransport::MpiExpertTransport(Communicator& communicator, uint32_t n_experts, uint64_t generation)
    : communicator_(communicator),
      rank_(communicator.rank()),
      size_(communicator.size()),
      n_experts_(n_experts),
      generation_(generation),
      owner_(n_experts) {
  for (int r = 0; r < size_; ++r) {
    for (uint32_t e = FirstExpertOf(r, n_experts, size_); e < FirstExpertOf(r + 1, n_experts, size_); ++e) {
      owner_[e] = r;
    }
  }
  const auto n = static_cast<size_t>(size_);
  sent_headers_.resize(n);
  received_headers_.resize(n);
  n_units_.resize(n);
  n_tokens_to_.resize(n);
  owner_begin_.resize(n + 1);
  arrival_begin_.resize(n + 1);
}

void MpiExpertTransport::BeginStep(uint64_t seq) {
  seq_ = seq;
  n_dispatched_ = 0;
}

absl::Status MpiExpertTransport::GroupByOwner(std::span<const ExpertAssignment> assignments, size_t n_tokens) {
  std::fill(owner_begin_.begin(), owner_begin_.end(), 0U);
  std::fill(n_tokens_to_.begin(), n_tokens_to_.end(), 0U);
  for (size_t i = 0; i < assignments.size(); ++i) {
    const ExpertAssignment& a = assignments[i];
    if (a.expert >= n_experts_ || a.token >= n_tokens || (i > 0 && a.token < assignments[i - 1].token)) {
      return absl::InternalError(absl::StrCat("expert assignment ", i, " {token ", a.token, ", expert ", a.expert,
                                              "} is out of order or out of range: ", n_tokens, " tokens, ", n_experts_,
                                              " experts"));
    }
    ++owner_begin_[static_cast<size_t>(owner_[a.expert]) + 1];
  }
  for (size_t r = 0; r < n_tokens_to_.size(); ++r) owner_begin_[r + 1] += owner_begin_[r];
  by_owner_.resize(assignments.size());
  std::vector<size_t> cursor(owner_begin_.begin(), owner_begin_.end() - 1);
  for (size_t i = 0; i < assignments.size(); ++i) {
    const auto owner = static_cast<size_t>(owner_[assignments[i].expert]);
    const size_t at = cursor[owner]++;
    by_owner_[at] = static_cast<uint32_t>(i);
    const bool first_of_token =
        at == owner_begin_[owner] || assignments[by_owner_[at - 1]].token != assignments[i].token;
    if (first_of_token) ++n_tokens_to_[owner];
  }
  return absl::OkStatus();
}

MpiExpertTransport::Header MpiExpertTransport::MakeHeader(uint16_t kind, int destination) const {
  const auto d = static_cast<size_t>(destination);
  Header header;
  header.magic = kMagic;
  header.kind = kind;
  header.source = static_cast<uint16_t>(rank_);
  header.generation = generation_;
  header.seq = seq_;
  header.layer_count = n_dispatched_;
  header.destination = static_cast<uint32_t>(destination);
  if (kind == kKindDispatch) {
    header.n_tokens = n_tokens_to_[d];
    header.n_rows = static_cast<uint32_t>(owner_begin_[d + 1] - owner_begin_[d]);
  } else {
    header.n_rows = static_cast<uint32_t>(arrival_begin_[d + 1] - arrival_begin_[d]);
  }
  return header;
}

absl::Status MpiExpertTransport::CheckHeader(const Header& header, uint16_t kind, int source) const {
  if (header.magic != kMagic || header.checksum != XXH32(&header, offsetof(Header, checksum), 0)) {
    return absl::InternalError(absl::StrCat("expert message from shard ", source, ": the header is damaged"));
  }
  if (header.kind != kind) return Mismatch("kind", source, header.kind, kind);
  if (header.source != source) return Mismatch("source", source, header.source, static_cast<uint64_t>(source));
  if (header.destination != static_cast<uint32_t>(rank_)) {
    return Mismatch("destination", source, header.destination, static_cast<uint64_t>(rank_));
  }
  if (header.generation != generation_) return Mismatch("generation", source, header.generation, generation_);
  if (header.seq != seq_) return Mismatch("step", source, header.seq, seq_);
  if (header.layer_count != n_dispatched_) return Mismatch("layer count", source, header.layer_count, n_dispatched_);
  return absl::OkStatus();
}

// Counts and the lockstep check in one small exchange; afterwards both sides know every message's size.
absl::Status MpiExpertTransport::ExchangeHeaders(size_t row_bytes) {
  for (int d = 0; d < size_; ++d) {
    Header& header = sent_headers_[static_cast<size_t>(d)];
    header = MakeHeader(kKindDispatch, d);
    header.row_bytes = static_cast<uint32_t>(row_bytes);
    header.n_units = DispatchLayout(header.n_tokens, header.n_rows, row_bytes).n_units;
    header.checksum = XXH32(&header, offsetof(Header, checksum), 0);
  }
  RETURN_IF_ERROR(communicator_.ExchangeFixed(std::as_bytes(std::span(sent_headers_)),
                                              std::as_writable_bytes(std::span(received_headers_))));
  for (int s = 0; s < size_; ++s) {
    const Header& header = received_headers_[static_cast<size_t>(s)];
    RETURN_IF_ERROR(CheckHeader(header, kKindDispatch, s));
    if (header.row_bytes != row_bytes) return Mismatch("row size", s, header.row_bytes, row_bytes);
    if (header.n_tokens > kTokensMax || header.n_rows < header.n_tokens ||
        header.n_rows > uint64_t{header.n_tokens} * n_experts_) {
      return absl::InternalError(absl::StrCat("expert message from shard ", s, ": ", header.n_tokens, " tokens with ",
                                              header.n_rows, " rows; the limit is ", kTokensMax, " tokens with ",
                                              n_experts_, " rows each"));
    }
    const size_t n_units = DispatchLayout(header.n_tokens, header.n_rows, row_bytes).n_units;
    if (header.n_units != n_units || n_units > kMessageUnitsMax) {
      return Mismatch("message size in units", s, header.n_units, n_units);
    }
  }
  return absl::OkStatus();
}

void MpiExpertTransport::PlaceParts(std::span<const size_t> n_units, std::vector<ExchangePart>& parts,
                                    std::vector<Unit>& buffer) {
  parts.resize(n_units.size());
  size_t n_total = 0;
  for (size_t r = 0; r < n_units.size(); ++r) {
    parts[r] = {n_total, n_units[r]};
    n_total += n_units[r];
  }
  GrowTo(buffer, n_total);
}

void MpiExpertTransport::PackRows(std::span<const std::byte> rows, size_t row_bytes,
                                  std::span<const ExpertAssignment> assignments) {
  for (size_t d = 0; d < n_units_.size(); ++d) {
    n_units_[d] = d == static_cast<size_t>(rank_) ? 0 : sent_headers_[d].n_units;
  }
  PlaceParts(n_units_, send_parts_, send_);
  for (size_t d = 0; d < n_units_.size(); ++d) {
    if (n_units_[d] == 0) continue;
    const DispatchLayout layout(n_tokens_to_[d], owner_begin_[d + 1] - owner_begin_[d], row_bytes);
    std::byte* message = send_[send_parts_[d].first_unit].bytes;
    std::byte* row = message;
    std::byte* expert = message + layout.experts;
    size_t n_tokens = 0;
    TokenEntry token{};
    for (size_t i = owner_begin_[d]; i < owner_begin_[d + 1]; ++i) {
      const ExpertAssignment& a = assignments[by_owner_[i]];
      if (n_tokens == 0 || a.token != token.source_token) {
        token = {a.token, 0};
        ++n_tokens;
        std::memcpy(row, rows.data() + a.token * row_bytes, row_bytes);
        row += row_bytes;
      }
      ++token.n_experts;
      std::memcpy(message + layout.tokens + (n_tokens - 1) * sizeof(token), &token, sizeof(token));
      const ExpertEntry entry{a.expert, a.weight};
      std::memcpy(expert, &entry, sizeof(entry));
      expert += sizeof(entry);
    }
  }
}

absl::Status MpiExpertTransport::ReadMessage(int source, size_t row_bytes) {
  const auto s = static_cast<size_t>(source);
  const Header& header = received_headers_[s];
  if (header.n_rows == 0) return absl::OkStatus();
  const DispatchLayout layout(header.n_tokens, header.n_rows, row_bytes);
  const std::byte* message = receive_rows_[receive_parts_[s].first_unit].bytes;
  uint32_t n_rows = 0;
  uint64_t next_token = 0;
  for (uint32_t t = 0; t < header.n_tokens; ++t) {
    TokenEntry token;
    std::memcpy(&token, message + layout.tokens + t * sizeof(token), sizeof(token));
    if (token.source_token < next_token || token.n_experts == 0 || token.n_experts > header.n_rows - n_rows) {
      return absl::InternalError(absl::StrCat("expert message from shard ", source, ": token list is malformed at ", t,
                                              " of ", header.n_tokens));
    }
    next_token = uint64_t{token.source_token} + 1;
    for (uint32_t i = 0; i < token.n_experts; ++i, ++n_rows) {
      ExpertEntry entry;
      std::memcpy(&entry, message + layout.experts + n_rows * sizeof(entry), sizeof(entry));
      if (entry.expert >= n_experts_ || owner_[entry.expert] != rank_) {
        return absl::InternalError(absl::StrCat("expert message from shard ", source, ": expert ", entry.expert,
                                                " is not held by shard ", rank_));
      }
      arrivals_.push_back({entry.expert, entry.weight, message + t * row_bytes});
    }
  }
  if (n_rows != header.n_rows) return Mismatch("row count", source, n_rows, header.n_rows);
  return absl::OkStatus();
}

absl::Status MpiExpertTransport::ReadArrivals(std::span<const std::byte> rows, size_t row_bytes,
                                              std::span<const ExpertAssignment> assignments) {
  arrivals_.clear();
  for (int s = 0; s < size_; ++s) {
    arrival_begin_[static_cast<size_t>(s)] = arrivals_.size();
    if (s != rank_) {
      RETURN_IF_ERROR(ReadMessage(s, row_bytes));
      continue;
    }
    // This shard's own pairs never leave it.
    const auto self = static_cast<size_t>(rank_);
    for (size_t i = owner_begin_[self]; i < owner_begin_[self + 1]; ++i) {
      const ExpertAssignment& a = assignments[by_owner_[i]];
      arrivals_.push_back({a.expert, a.weight, rows.data() + a.token * row_bytes});
    }
  }
  arrival_begin_.back() = arrivals_.size();
  return absl::OkStatus();
}

// Counting sort by expert. Arrivals are in (source, token) order and the sort is stable, so the result is a pure
// function of the routing.
void MpiExpertTransport::OrderByExpert(std::vector<DispatchedRow>& received) {
  const uint32_t first = FirstExpertOf(rank_, n_experts_, size_);
  const uint32_t last = FirstExpertOf(rank_ + 1, n_experts_, size_);
  expert_cursor_.assign(last - first + 1, 0U);
  for (const Arrival& a : arrivals_) ++expert_cursor_[a.expert - first + 1];
  for (size_t e = 1; e < expert_cursor_.size(); ++e) expert_cursor_[e] += expert_cursor_[e - 1];
  received.resize(arrivals_.size());
  place_.resize(arrivals_.size());
  for (size_t i = 0; i < arrivals_.size(); ++i) {
    const Arrival& a = arrivals_[i];
    place_[i] = expert_cursor_[a.expert - first]++;
    received[place_[i]] = {a.expert, a.weight, a.row};
  }
}

absl::Status MpiExpertTransport::Dispatch(std::span<const std::byte> rows, size_t row_bytes,
                                          std::span<const ExpertAssignment> assignments,
                                          std::vector<DispatchedRow>& received) {
  if (row_bytes == 0 || row_bytes > kRowBytesMax || rows.size() % row_bytes != 0 ||
      rows.size() / row_bytes > kTokensMax) {
    return absl::InternalError(absl::StrCat("dispatch of ", rows.size(), " bytes in rows of ", row_bytes,
                                            "; a row has 1 to ", kRowBytesMax, " bytes and a step at most ", kTokensMax,
                                            " rows"));
  }
  ++n_dispatched_;
  RETURN_IF_ERROR(GroupByOwner(assignments, rows.size() / row_bytes));
  RETURN_IF_ERROR(ExchangeHeaders(row_bytes));
  PackRows(rows, row_bytes, assignments);
  for (size_t s = 0; s < n_units_.size(); ++s) {
    n_units_[s] = s == static_cast<size_t>(rank_) ? 0 : received_headers_[s].n_units;
  }
  PlaceParts(n_units_, receive_parts_, receive_rows_);
  RETURN_IF_ERROR(communicator_.ExchangeUnits(Bytes(send_), send_parts_, Bytes(receive_rows_), receive_parts_));
  RETURN_IF_ERROR(ReadArrivals(rows, row_bytes, assignments));
  OrderByExpert(received);
  return absl::OkStatus();
}

absl::Status MpiExpertTransport::Combine(std::span<const std::byte> results, size_t result_bytes,
                                         std::span<std::byte> combined) {
  if (result_bytes == 0 || result_bytes > kRowBytesMax || results.size() != arrivals_.size() * result_bytes ||
      combined.size() != by_owner_.size() * result_bytes) {
    return absl::InternalError(absl::StrCat("combine of ", results.size(), " into ", combined.size(),
                                            " bytes in rows of ", result_bytes, " after a dispatch that received ",
                                            arrivals_.size(), " and sent ", by_owner_.size(), " pairs"));
  }
  const auto self = static_cast<size_t>(rank_);
  for (size_t r = 0; r < n_units_.size(); ++r) {
    n_units_[r] = r == self ? 0 : CombineUnits(arrival_begin_[r + 1] - arrival_begin_[r], result_bytes);
  }
  PlaceParts(n_units_, send_parts_, send_);
  for (size_t r = 0; r < n_units_.size(); ++r) {
    if (n_units_[r] == 0) continue;
    Header header = MakeHeader(kKindCombine, static_cast<int>(r));
    header.row_bytes = static_cast<uint32_t>(result_bytes);
    header.n_units = n_units_[r];
    header.checksum = XXH32(&header, offsetof(Header, checksum), 0);
    Unit* message = &send_[send_parts_[r].first_unit];
    std::memcpy(message->bytes, &header, sizeof(header));
    std::byte* to = message[1].bytes;
    for (size_t i = arrival_begin_[r]; i < arrival_begin_[r + 1]; ++i, to += result_bytes) {
      std::memcpy(to, results.data() + place_[i] * result_bytes, result_bytes);
    }
  }
  for (size_t r = 0; r < n_units_.size(); ++r) {
    n_units_[r] = r == self ? 0 : CombineUnits(owner_begin_[r + 1] - owner_begin_[r], result_bytes);
  }
  PlaceParts(n_units_, receive_parts_, receive_results_);
  RETURN_IF_ERROR(communicator_.ExchangeUnits(Bytes(send_), send_parts_, Bytes(receive_results_), receive_parts_));
  return PlaceResults(results, result_bytes, combined);
}

// Every result row goes to the address of its assignment; nothing depends on the order of arrival.
absl::Status MpiExpertTransport::PlaceResults(std::span<const std::byte> results, size_t result_bytes,
                                              std::span<std::byte> combined) {
  for (int r = 0; r < size_; ++r) {
    const auto owner = static_cast<size_t>(r);
    const size_t n_rows = owner_begin_[owner + 1] - owner_begin_[owner];
    if (n_rows == 0) continue;
    const Unit* message = nullptr;
    if (r != rank_) {
      message = &receive_results_[receive_parts_[owner].first_unit];
      Header header;
      std::memcpy(&header, message->bytes, sizeof(header));
      RETURN_IF_ERROR(CheckHeader(header, kKindCombine, r));
      if (header.row_bytes != result_bytes) return Mismatch("row size", r, header.row_bytes, result_bytes);
      if (header.n_rows != n_rows) return Mismatch("row count", r, header.n_rows, n_rows);
    }
    for (size_t i = 0; i < n_rows; ++i) {
      const std::byte* from = message != nullptr ? message[1].bytes + i * result_bytes
                                                 : results.data() + place_[arrival_begin_[owner] + i] * result_bytes;
      std::memcpy(combined.data() + by_owner_[owner_begin_[owner] + i] * result_bytes, from, result_bytes);
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
