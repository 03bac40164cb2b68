#include "fake_model.h"

#include <algorithm>
#include <limits>

#include "common/check.h"

namespace longshelf::engine {
namespace {

constexpr uint64_t kPoisoned = ~uint64_t{0};

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9E3779B97F4A7C15 + b + 0x7F4A7C15;
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9;
  x ^= x >> 29;
  return x == kPoisoned || x == 0 ? 1 : x;
}

// A ring of the records of the last positions, so that tokens can be taken back.
struct State {
  static constexpr size_t kKept = 16;
  uint64_t n_tokens = 0;
  uint64_t records[kKept] = {};

  uint64_t Last(uint64_t n) const { return n == 0 ? 0 : records[(n - 1) % kKept]; }
  void Push(uint64_t record) { records[n_tokens++ % kKept] = record; }
};

State LoadState(const std::byte* slot) {
  State state;
  std::memcpy(&state, slot, sizeof state);
  return state;
}

// Of the first n positions.
uint64_t DigestOf(std::span<std::byte* const> blocks, uint64_t n) {
  uint64_t digest = 0;
  for (uint64_t p = 0; p < n; ++p) {
    uint64_t record = 0;
    std::memcpy(&record, blocks[p / kBlockTokens] + p % kBlockTokens * FakeModel::kRecordBytes, sizeof record);
    digest = Mix(digest, record);
  }
  return digest;
}

uint32_t Best(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

uint64_t NextRecord(uint64_t last, uint32_t token) {
  return last == kPoisoned || token == FakeModel::kPoison ? kPoisoned : Mix(last, token);
}

std::vector<float> Logits(uint64_t digest, bool poisoned) {
  std::vector<float> logits(FakeModel::kVocab);
  for (uint32_t i = 0; i < FakeModel::kVocab; ++i) {
    logits[i] = static_cast<float>(Mix(digest, i) % 10007) / 1000.0F;
  }
  logits[FakeModel::kPoison] = -1000.0F;
  if (poisoned) logits[3] = std::numeric_limits<float>::quiet_NaN();
  return logits;
}

}  // namespace

void FakeModel::ResetState(std::byte* slot) const { std::memset(slot, 0, state_bytes()); }

void FakeModel::ExportState(const std::byte* slot, int64_t n_tokens, std::span<std::byte> out) const {
  LONGSHELF_CHECK(out.size() == StateExportBytes(n_tokens));
  const State state = LoadState(slot);
  const auto n = static_cast<uint64_t>(n_tokens);
  LONGSHELF_CHECK(n <= state.n_tokens && state.n_tokens <= n + static_cast<uint64_t>(n_draft_max_));
  const uint64_t exported[] = {n, state.Last(n)};
  std::memcpy(out.data(), exported, sizeof exported);
  std::fill(out.begin() + sizeof exported, out.end(), std::byte{7});
}

absl::Status FakeModel::ImportState(std::span<const std::byte> bytes, int64_t n_tokens, std::byte* slot) const {
  if (bytes.size() != StateExportBytes(n_tokens)) return absl::InvalidArgumentError("state has another size");
  uint64_t exported[2];
  std::memcpy(exported, bytes.data(), sizeof exported);
  State state;
  state.n_tokens = exported[0];
  if (state.n_tokens > 0) state.records[(state.n_tokens - 1) % State::kKept] = exported[1];
  std::memcpy(slot, &state, sizeof state);
  return absl::OkStatus();
}

void FakeModel::ClearTail(std::byte* block, int64_t n_tokens_in_block) const {
  const size_t n_kept = static_cast<size_t>(n_tokens_in_block) * kRecordBytes;
  std::memset(block + n_kept, 0, block_bytes() - n_kept);
}

void FakeModel::Replay(const SequenceChunk& chunk) {
  State state = LoadState(chunk.state);
  if (chunk.n_past == chunk.replay_begin) {
    LONGSHELF_CHECK(state.n_tokens == 0);
    state.n_tokens = static_cast<uint64_t>(chunk.n_past);
  }
  LONGSHELF_CHECK(static_cast<uint64_t>(chunk.n_past) == state.n_tokens && chunk.want_logits == WantLogits::kNone);
  for (size_t i = 0; i < chunk.tokens.size(); ++i) {
    uint64_t record = 0;
    std::memcpy(&record, chunk.blocks[state.n_tokens / kBlockTokens] + state.n_tokens % kBlockTokens * kRecordBytes,
                kRecordBytes);
    // As far as the tokens go it has to be what they make.
    LONGSHELF_CHECK(record != 0);
    const bool is_right = static_cast<int64_t>(state.n_tokens) + 1 >= chunk.replay_begin + n_replay_;
    state.Push(is_right ? record : 12345);
  }
  std::memcpy(chunk.state, &state, sizeof state);
  n_tokens_replayed += static_cast<int64_t>(chunk.tokens.size());
}

absl::StatusOr<ForwardOutput> FakeModel::Forward(const ForwardBatch& batch) {
  ++n_forwards;
  ForwardOutput out;
  logits_.clear();
  chunks_ = batch.chunks;
  for (const SequenceChunk& chunk : batch.chunks) {
    if (chunk.replay_begin >= 0) {
      Replay(chunk);
      continue;
    }
    State state = LoadState(chunk.state);
    // The bookkeeping of the engine is what is tested: a wrong position is its bug.
    const auto n_past = static_cast<uint64_t>(chunk.n_past);
    LONGSHELF_CHECK(n_past <= state.n_tokens && state.n_tokens <= n_past + static_cast<uint64_t>(n_draft_max_));
    state.n_tokens = n_past;
    for (const uint32_t token : chunk.tokens) {
      const uint64_t record = NextRecord(state.Last(state.n_tokens), token);
      std::byte* block = chunk.blocks[state.n_tokens / kBlockTokens];
      std::memcpy(block + state.n_tokens % kBlockTokens * kRecordBytes, &record, kRecordBytes);
      state.Push(record);
      if (chunk.want_logits == WantLogits::kAll) AppendLogits(chunk, state.n_tokens, record == kPoisoned, out);
    }
    std::memcpy(chunk.state, &state, sizeof state);
    n_tokens_computed += static_cast<int64_t>(chunk.tokens.size());
    // Nothing of a former owner may be readable past the end, nor anything but what was taken back.
    const uint64_t n_block_end = (state.n_tokens + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
    for (uint64_t p = state.n_tokens + static_cast<uint64_t>(n_draft_max_); p < n_block_end; ++p) {
      uint64_t record = 0;
      std::memcpy(&record, chunk.blocks[p / kBlockTokens] + p % kBlockTokens * kRecordBytes, kRecordBytes);
      LONGSHELF_CHECK(record == 0);
    }
    if (chunk.want_logits != WantLogits::kLast) continue;
    AppendLogits(chunk, state.n_tokens, state.Last(state.n_tokens) == kPoisoned, out);
  }
  out.logits = logits_;
  return out;
}

void FakeModel::AppendLogits(const SequenceChunk& chunk, uint64_t n_tokens, bool poisoned, ForwardOutput& out) {
  const auto logits = Logits(DigestOf(chunk.blocks, n_tokens), poisoned);
  logits_.insert(logits_.end(), logits.begin(), logits.end());
  ++out.n_rows;
}

absl::StatusOr<DraftOutput> FakeModel::Draft(std::span<const DraftRequest> requests, int64_t n_tokens) {
  LONGSHELF_CHECK(n_tokens <= n_draft_);
  guesses_.clear();
  confidence_.clear();
  for (const DraftRequest& request : requests) {
    const SequenceChunk& chunk = chunks_.at(request.chunk);
    const auto n = static_cast<uint64_t>(chunk.n_past + request.n_kept);
    uint64_t last = LoadState(chunk.state).Last(n);
    uint64_t digest = DigestOf(chunk.blocks, n);
    uint32_t token = request.next_token;
    for (int64_t i = 0; i < n_tokens; ++i) {
      last = NextRecord(last, token);
      digest = Mix(digest, last);
      token = Best(Logits(digest, false));
      if (digest % 4 == 0) token = (token + 1) % kVocab;  // a wrong guess now and then
      guesses_.push_back(token);
      confidence_.push_back(1.5F);
    }
  }
  return DraftOutput{.n_each = n_tokens, .tokens = guesses_, .confidence = confidence_};
}

std::vector<float> FakeModel::LogitsAfter(std::span<const uint32_t> tokens) {
  uint64_t last = 0;
  uint64_t digest = 0;
  for (const uint32_t token : tokens) {
    last = NextRecord(last, token);
    digest = Mix(digest, last);
  }
  return Logits(digest, last == kPoisoned);
}

std::vector<uint32_t> FakeModel::Continue(std::vector<uint32_t> tokens, size_t n, uint32_t eos) {
  std::vector<uint32_t> out;
  while (out.size() < n) {
    const auto logits = LogitsAfter(tokens);
    out.push_back(static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    tokens.push_back(out.back());
    if (out.back() == eos) break;
  }
  return out;
}

PrefixKey FakeHasher::Root(std::string_view namespace_salt) const {
  uint64_t hash = 99;
  for (const char c : namespace_salt) hash = Mix(hash, static_cast<uint64_t>(static_cast<unsigned char>(c)));
  PrefixKey key{};
  std::memcpy(key.data(), &hash, sizeof hash);
  return key;
}

PrefixKey FakeHasher::Next(const PrefixKey& parent, std::span<const uint32_t> tokens) const {
  uint64_t hash = 0;
  std::memcpy(&hash, parent.data(), sizeof hash);
  hash = Mix(hash, tokens.size());
  for (const uint32_t token : tokens) hash = Mix(hash, token);
  PrefixKey key{};
  std::memcpy(key.data(), &hash, sizeof hash);
  return key;
}

}  // namespace longshelf::engine
