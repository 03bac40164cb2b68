#include "bpe.h"

#include <algorithm>
#include <functional>

namespace longshelf::tokenizer::internal {
namespace {

// Up to this many bytes, scanning for the lowest rank beats a queue.
constexpr size_t kShortPieceBytes = 48;
// A longer one is encoded by windows: what a merge looks at is then in the processor's cache.
constexpr size_t kWindowBytes = 1024;
// The tokens of so many bytes before a window are encoded once more with it; of more where that is not enough.
constexpr size_t kOverlapBytes = 32;
// What comes later may still merge a few of the tokens at the end. It never merges so many.
constexpr size_t kUnsettledTokensMax = 4096;
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

struct BpeMerges::Scratch {
  std::vector<Symbol> symbols;
  std::vector<Candidate> queue;  // a heap
  std::vector<uint32_t> tokens;
  std::vector<uint32_t> seam;
};

bool BpeMerges::Add(uint32_t left, uint32_t right, BpeMerge merge, size_t n_bytes) {
  if (merge.token >= lengths_.size()) lengths_.resize(merge.token + size_t{1});
  lengths_[merge.token] = static_cast<uint32_t>(n_bytes);
  return merges_.emplace(Key(left, right), merge).second;
}

const BpeMerge* BpeMerges::Find(uint32_t left, uint32_t right) const {
  const auto it = merges_.find(Key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeMerges::Encode(std::string_view piece, size_t tokens_max, std::vector<uint32_t>& out) const {
  if (piece.size() <= kShortPieceBytes) {
    EncodeShort(piece, out);
  } else {
    EncodeLong(piece, tokens_max, out);
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

void BpeMerges::EncodeWindow(std::string_view window, Scratch& scratch, std::vector<uint32_t>& out) const {
  const auto n = static_cast<uint32_t>(window.size());
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& queue = scratch.queue;
  symbols.resize(n);
  queue.clear();
  for (uint32_t i = 0; i < n; ++i) {
    symbols[i] = {byte_tokens_[static_cast<unsigned char>(window[i])], i == 0 ? kNone : i - 1,
                  i + 1 == n ? kNone : i + 1};
  }
  const auto merge_at = [&](uint32_t left) -> const BpeMerge* {
    const uint32_t right = symbols[left].next;
    return right == kNone ? nullptr : Find(symbols[left].token, symbols[right].token);
  };
  const auto push = [&](uint32_t left) {
    if (const BpeMerge* merge = merge_at(left)) {
      queue.push_back({merge->rank, left});
      std::push_heap(queue.begin(), queue.end(), std::greater<>());
    }
  };
  for (uint32_t i = 0; i < n; ++i) {
    if (const BpeMerge* merge = merge_at(i)) queue.push_back({merge->rank, i});
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  while (!queue.empty()) {
    const Candidate top = queue.front();
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
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
    push(top.left);
    if (left.previous != kNone) push(left.previous);
  }
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) out.push_back(symbols[i].token);
}

// Whether the two, side by side, are what their bytes alone are encoded to.
bool BpeMerges::StayApart(std::string_view both, uint32_t left, uint32_t right, Scratch& scratch) const {
  scratch.seam.clear();
  if (both.size() <= kShortPieceBytes) {
    EncodeShort(both, scratch.seam);
  } else {
    EncodeWindow(both, scratch, scratch.seam);
  }
  return scratch.seam.size() == 2 && scratch.seam[0] == left && scratch.seam[1] == right;
}

// A row of tokens is the encoding of its text exactly if each two neighbours are the encoding of theirs: were there a
// merge across a border, the first of them would happen in the text of its two neighbours alone just the same, as
// until then nothing has crossed a border. So what is encoded window by window is right once the two tokens at each
// seam are; where they are not, the window begins further back.
void BpeMerges::EncodeLong(std::string_view piece, size_t tokens_max, std::vector<uint32_t>& out) const {
  Scratch scratch;
  const size_t first = out.size();
  std::string_view last;  // what scratch.tokens are of
  for (size_t end = 0; end < piece.size();) {
    const size_t next = std::min(end + kWindowBytes, piece.size());
    size_t n_kept = out.size();
    size_t begin = end;
    for (size_t n_back = kOverlapBytes;; n_back *= 2) {
      while (n_kept > first && end - begin < n_back) begin -= LengthOf(out[--n_kept]);
      // Long runs of one character are cut into windows that are all the same.
      if (const std::string_view window = piece.substr(begin, next - begin); window != last) {
        scratch.tokens.clear();
        EncodeWindow(window, scratch, scratch.tokens);
        last = window;
      }
      if (n_kept == first) break;
      const uint32_t left = out[n_kept - 1];
      const uint32_t right = scratch.tokens.front();
      const size_t n_left = LengthOf(left);
      if (StayApart(piece.substr(begin - n_left, n_left + LengthOf(right)), left, right, scratch)) break;
    }
    out.resize(n_kept);
    out.insert(out.end(), scratch.tokens.begin(), scratch.tokens.end());
    end = next;
    if (out.size() > tokens_max && out.size() - tokens_max > kUnsettledTokensMax) return;
  }
}

}  // namespace longshelf::tokenizer::internal
