#include "expert_messages.h"

#include <emmintrin.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kMagic = 0x3245534C;  // "LSE2"

}  // namespace

DispatchLayout::DispatchLayout(MessageKind kind, size_t n_tokens, size_t n_rows, size_t row_bytes)
    : row_stride(RoundUpTo(row_bytes, kMessageUnitBytes)),
      tokens(sizeof(MessageHeader) + (kind == MessageKind::kDispatchPulled ? 0 : n_tokens * row_stride)),
      experts(tokens + n_tokens * sizeof(TokenEntry)),
      n_bytes(RoundUpTo(experts + n_rows * sizeof(ExpertEntry), kMessageUnitBytes)) {}

MessageHeader MakeHeader(MessageKind kind, int source, int destination, const MessageClock& clock) {
  MessageHeader header;
  header.kind = kind;
  header.source = static_cast<uint16_t>(source);
  header.generation = clock.generation;
  header.seq = clock.seq;
  header.layer_count = clock.layer_count;
  header.lane = clock.lane;
  header.destination = static_cast<uint32_t>(destination);
  return header;
}

void SealHeader(MessageHeader& header) {
  header.magic = kMagic;
  header.checksum = XXH32(&header, offsetof(MessageHeader, checksum), 0);
}

absl::Status OutOfStep(const char* what, int source, uint64_t theirs, uint64_t ours) {
  return absl::InternalError(absl::StrCat("expert message from shard ", source, ": ", what, " is ", theirs,
                                          ", this shard is at ", ours, "; the group is out of step"));
}

absl::Status CheckHeader(const MessageHeader& header, MessageKind kind, int source, int destination,
                         const MessageClock& clock) {
  if (header.magic != kMagic || header.checksum != XXH32(&header, offsetof(MessageHeader, checksum), 0)) {
    return absl::InternalError(absl::StrCat("expert message from shard ", source, ": the header is damaged"));
  }
  const auto number = [](MessageKind k) { return static_cast<uint64_t>(k); };
  if (header.kind != kind) return OutOfStep("kind", source, number(header.kind), number(kind));
  if (header.source != source) return OutOfStep("source", source, header.source, static_cast<uint64_t>(source));
  if (header.destination != static_cast<uint32_t>(destination)) {
    return OutOfStep("destination", source, header.destination, static_cast<uint64_t>(destination));
  }
  if (header.generation != clock.generation) {
    return OutOfStep("generation", source, header.generation, clock.generation);
  }
  if (header.seq != clock.seq) return OutOfStep("step", source, header.seq, clock.seq);
  if (header.layer_count != clock.layer_count) {
    return OutOfStep("layer count", source, header.layer_count, clock.layer_count);
  }
  if (header.lane != clock.lane) return OutOfStep("lane", source, header.lane, clock.lane);
  return absl::OkStatus();
}

absl::Status CheckDispatchCounts(const MessageHeader& header, size_t row_bytes, uint32_t n_experts) {
  if (header.row_bytes != row_bytes) return OutOfStep("row size", header.source, header.row_bytes, row_bytes);
  if (header.n_tokens > kExchangeTokensMax || header.n_rows < header.n_tokens ||
      header.n_rows > uint64_t{header.n_tokens} * n_experts) {
    return absl::InternalError(absl::StrCat("expert message from shard ", header.source, ": ", header.n_tokens,
                                            " tokens with ", header.n_rows, " rows; the limit is ", kExchangeTokensMax,
                                            " tokens with ", n_experts, " rows each"));
  }
  const size_t n_bytes = DispatchLayout(header.kind, header.n_tokens, header.n_rows, row_bytes).n_bytes;
  if (header.n_bytes != n_bytes) return OutOfStep("message size", header.source, header.n_bytes, n_bytes);
  return absl::OkStatus();
}

absl::StatusOr<const ExpertRoutes*> RoutesOf(std::span<const ExpertRoutes> routes, uint32_t layer) {
  if (routes.size() == 1) return routes.data();
  if (layer < routes.size()) return &routes[layer];
  return absl::InternalError(absl::StrCat("layer ", layer, " of ", routes.size(), " has no experts placed"));
}

absl::Status RoutePairs(std::span<const ExpertAssignment> assignments, size_t n_tokens, const ExpertRoutes& routes,
                        std::vector<uint16_t>& rank_of_pair) {
  rank_of_pair.resize(assignments.size());
  uint32_t token = 0;
  for (size_t i = 0; i < assignments.size(); ++i) {
    const ExpertAssignment& a = assignments[i];
    if (a.expert >= routes.n_experts() || a.token >= n_tokens || a.token < token) {
      return absl::InternalError(absl::StrCat("expert assignment ", i, " {token ", a.token, ", expert ", a.expert,
                                              "} is out of order or out of range: ", n_tokens, " tokens, ",
                                              routes.n_experts(), " experts"));
    }
    token = a.token;
    rank_of_pair[i] = routes.Choose(a.expert, a.token);
  }
  return absl::OkStatus();
}

Grouping::Grouping(int n_owners)
    : begin_(static_cast<size_t>(n_owners) + 1),
      n_tokens_(static_cast<size_t>(n_owners)),
      last_token_(static_cast<size_t>(n_owners)),
      cursor_(static_cast<size_t>(n_owners)) {}

std::span<const uint32_t> Grouping::of(int owner) const {
  const auto o = static_cast<size_t>(owner);
  return std::span(by_owner_).subspan(begin_[o], begin_[o + 1] - begin_[o]);
}

// Whether a pair is the first of its token is a coin toss to a branch predictor, so nothing branches on it.
void Grouping::Group(std::span<const ExpertAssignment> assignments, std::span<const uint16_t> owner_of_pair) {
  std::fill(begin_.begin(), begin_.end(), 0U);
  std::fill(n_tokens_.begin(), n_tokens_.end(), 0U);
  std::fill(last_token_.begin(), last_token_.end(), UINT32_MAX);
  for (size_t i = 0; i < assignments.size(); ++i) {
    const size_t owner = owner_of_pair[i];
    const uint32_t token = assignments[i].token;
    ++begin_[owner + 1];
    n_tokens_[owner] += last_token_[owner] == token ? 0 : 1;
    last_token_[owner] = token;
  }
  for (size_t o = 1; o < begin_.size(); ++o) begin_[o] += begin_[o - 1];
  by_owner_.resize(assignments.size());
  std::copy(begin_.begin(), begin_.end() - 1, cursor_.begin());
  for (size_t i = 0; i < assignments.size(); ++i) by_owner_[cursor_[owner_of_pair[i]]++] = static_cast<uint32_t>(i);
}

void FillDispatchHeader(const Grouping& grouping, int owner, size_t row_bytes, MessageHeader& header) {
  header.n_tokens = grouping.n_tokens(owner);
  header.n_rows = static_cast<uint32_t>(grouping.n_rows(owner));
  header.row_bytes = static_cast<uint32_t>(row_bytes);
  header.n_bytes = DispatchLayout(header.kind, header.n_tokens, header.n_rows, row_bytes).n_bytes;
  header.first_row = static_cast<uint32_t>(grouping.begin(owner));
}

void PackDispatch(const MessageHeader& header, const Grouping& grouping, int owner, const OutgoingRows& outgoing,
                  RowStore store, std::byte* out) {
  const DispatchLayout layout(header.kind, header.n_tokens, header.n_rows, header.row_bytes);
  const bool with_rows = header.kind != MessageKind::kDispatchPulled;
  std::memcpy(out, &header, sizeof(header));
  std::byte* row = out + sizeof(header);
  std::byte* token_place = out + layout.tokens;
  std::byte* expert_place = out + layout.experts;
  const std::span<const uint32_t> pairs = grouping.of(owner);
  for (size_t at = 0; at < pairs.size();) {
    TokenEntry token{outgoing.assignments[pairs[at]].token, 0};
    for (; at < pairs.size() && outgoing.assignments[pairs[at]].token == token.source_token; ++at) {
      const ExpertAssignment& a = outgoing.assignments[pairs[at]];
      const ExpertEntry entry{static_cast<uint16_t>(a.expert), outgoing.rank_of_pair[pairs[at]], a.weight};
      std::memcpy(expert_place, &entry, sizeof(entry));
      expert_place += sizeof(entry);
      ++token.n_experts;
    }
    std::memcpy(token_place, &token, sizeof(token));
    token_place += sizeof(token);
    if (!with_rows) continue;
    CopyBytes(store, outgoing.rows.data() + size_t{token.source_token} * header.row_bytes, header.row_bytes, row);
    row += layout.row_stride;
  }
}

void CopyBytes(RowStore store, const std::byte* from, size_t n, std::byte* to) {
  if (store == RowStore::kPlain) {
    std::memcpy(to, from, n);
    return;
  }
  constexpr size_t kStore = sizeof(__m128i);
  size_t i = 0;
  for (; i + kStore <= n; i += kStore) {
    const __m128i value = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), value);
  }
  std::memcpy(to + i, from + i, n - i);
}

void StoreResult(const DispatchedRow& row, size_t offset, std::span<const std::byte> piece) {
  CopyBytes(row.store, piece.data(), piece.size(), row.result + offset);
}

void FenceResults() { _mm_sfence(); }

absl::Status CheckDispatchArguments(std::span<const std::byte> rows, size_t row_bytes) {
  if (row_bytes > 0 && row_bytes <= kExchangeRowBytesMax && rows.size() % row_bytes == 0 &&
      rows.size() / row_bytes <= kExchangeTokensMax) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("dispatch of ", rows.size(), " bytes in rows of ", row_bytes,
                                          "; a row has 1 to ", kExchangeRowBytesMax, " bytes and a step at most ",
                                          kExchangeTokensMax, " rows"));
}

absl::Status CheckCombineArguments(std::span<const std::byte> results, size_t result_bytes, size_t n_received) {
  if (result_bytes > 0 && result_bytes <= kExchangeRowBytesMax && results.size() == n_received * result_bytes) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("combine of ", results.size(), " bytes in rows of ", result_bytes,
                                          " after a dispatch that received ", n_received, " rows"));
}

absl::Status ReadDispatch(const IncomingDispatch& incoming, const ExpertRoutes& routes,
                          std::vector<Arrival>& arrivals) {
  const MessageHeader& header = incoming.header;
  const DispatchLayout layout(header.kind, header.n_tokens, header.n_rows, header.row_bytes);
  const bool pulled = header.kind == MessageKind::kDispatchPulled;
  uint32_t n_rows = 0;
  uint64_t next_token = 0;
  for (uint32_t t = 0; t < header.n_tokens; ++t) {
    TokenEntry token;
    std::memcpy(&token, incoming.message + layout.tokens + t * sizeof(token), sizeof(token));
    if (token.source_token < next_token || token.n_experts == 0 || token.n_experts > header.n_rows - n_rows ||
        (pulled && token.source_token >= incoming.n_rows_max)) {
      return absl::InternalError(absl::StrCat("expert message from shard ", header.source,
                                              ": token list is malformed at ", t, " of ", header.n_tokens));
    }
    next_token = uint64_t{token.source_token} + 1;
    const std::byte* row = pulled ? incoming.rows + size_t{token.source_token} * header.row_bytes
                                  : incoming.message + sizeof(MessageHeader) + t * layout.row_stride;
    for (uint32_t i = 0; i < token.n_experts; ++i, ++n_rows) {
      ExpertEntry entry;
      std::memcpy(&entry, incoming.message + layout.experts + n_rows * sizeof(entry), sizeof(entry));
      const bool is_ours = entry.rank == routes.rank();
      if (is_ours ? !routes.Holds(entry.expert) : incoming.all_are_ours) {
        return absl::InternalError(absl::StrCat("expert message from shard ", header.source, ": expert ", entry.expert,
                                                " is not held by shard ", routes.rank()));
      }
      if (is_ours) arrivals.push_back({entry.expert, entry.weight, row});
    }
  }
  if (n_rows != header.n_rows) return OutOfStep("row count", header.source, n_rows, header.n_rows);
  return absl::OkStatus();
}

void ArrivalOrder::Order(std::span<const Arrival> arrivals, uint32_t n_experts, std::vector<DispatchedRow>& received) {
  cursor_.assign(n_experts + 1, 0U);
  for (const Arrival& a : arrivals) ++cursor_[a.expert + 1];
  for (size_t e = 1; e < cursor_.size(); ++e) cursor_[e] += cursor_[e - 1];
  received.resize(arrivals.size());
  place_.resize(arrivals.size());
  for (size_t i = 0; i < arrivals.size(); ++i) {
    const Arrival& a = arrivals[i];
    place_[i] = cursor_[a.expert]++;
    received[place_[i]] = {.expert = a.expert, .weight = a.weight, .row = a.row};
  }
}

}  // namespace longshelf::engine
