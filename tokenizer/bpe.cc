#include "bpe.h"

#include <queue>

namespace longshelf::tokenizer::internal {
namespace {

// Up to this many bytes, scanning for the lowest rank beats a queue.
constexpr size_t kShortPieceBytes = 48;
constexpr uint32_t kNoRank = UINT32_MAX;
constexpr uint32_t kNone = UINT32_MAX;

// A token of the piece in the making; a doubly linked list by index. `token` is kNone once merged into its left
// neighbour.
struct Symbol {
  uint32_t token;
  uint32_t previous;
  uint32_t next;
};

struct Candidate {
  uint32_t rank;
  uint32_t left;  // index of the left symbol
  bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
};

}  // namespace

const BpeMerge* BpeMerges::Find(uint32_t left, uint32_t right) const {
  const auto it = merges_.find(Key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeMerges::Encode(std::string_view piece, std::vector<uint32_t>& out) const {
  if (piece.size() <= kShortPieceBytes) {
    EncodeShort(piece, out);
  } else {
    EncodeLong(piece, out);
  }
}

void BpeMerges::EncodeShort(std::string_view piece, std::vector<uint32_t>& out) const {
  std::array<uint32_t, kShortPieceBytes> tokens;
  std::array<BpeMerge, kShortPieceBytes> merges;  // of tokens[i] and tokens[i + 1]
  size_t n = piece.size();
  const auto look_up = [&](size_t i) {
    const BpeMerge* merge = i + 1 < n ? Find(tokens[i], tokens[i + 1]) : nullptr;
    merges[i] = merge != nullptr ? *merge : BpeMerge{kNoRank, kNone};
  };
  for (size_t i = 0; i < n; ++i) tokens[i] = byte_tokens_[static_cast<unsigned char>(piece[i])];
  for (size_t i = 0; i < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == kNoRank) break;
    tokens[best] = merges[best].token;
    for (size_t i = best + 1; i + 1 < n; ++i) {
      tokens[i] = tokens[i + 1];
      merges[i] = merges[i + 1];
    }
    --n;
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  out.insert(out.end(), tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(n));
}

void BpeMerges::EncodeLong(std::string_view piece, std::vector<uint32_t>& out) const {
  const auto n = static_cast<uint32_t>(piece.size());
  std::vector<Symbol> symbols(n);
  for (uint32_t i = 0; i < n; ++i) {
    symbols[i] = {byte_tokens_[static_cast<unsigned char>(piece[i])], i == 0 ? kNone : i - 1,
                  i + 1 == n ? kNone : i + 1};
  }
  const auto merge_at = [&](uint32_t left) -> const BpeMerge* {
    const uint32_t right = symbols[left].next;
    return right == kNone ? nullptr : Find(symbols[left].token, symbols[right].token);
  };
  std::vector<Candidate> first;
  first.reserve(n);
  for (uint32_t i = 0; i < n; ++i) {
    if (const BpeMerge* merge = merge_at(i)) first.push_back({merge->rank, i});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(), std::move(first));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    if (symbols[top.left].token == kNone) continue;
    // Ranks name pairs uniquely, so an equal rank says that this is still the pair that was queued.
    const BpeMerge* merge = merge_at(top.left);
    if (merge == nullptr || merge->rank != top.rank) continue;
    Symbol& left = symbols[top.left];
    Symbol& right = symbols[left.next];
    left.token = merge->token;
    right.token = kNone;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = top.left;
    if (const BpeMerge* m = merge_at(top.left)) queue.push({m->rank, top.left});
    if (left.previous != kNone) {
      if (const BpeMerge* m = merge_at(left.previous)) queue.push({m->rank, left.previous});
    }
  }
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) out.push_back(symbols[i].token);
}

}  // namespace longshelf::tokenizer::internal
