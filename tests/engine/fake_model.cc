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

struct State {
  uint64_t n_tokens = 0;
  uint64_t last = 0;
};

State LoadState(const std::byte* slot) {
  State state;
  std::memcpy(&state, slot, sizeof state);
  return state;
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
  LONGSHELF_CHECK(static_cast<int64_t>(LoadState(slot).n_tokens) == n_tokens);
  std::memcpy(out.data(), slot, state_bytes());
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(state_bytes()), out.end(), std::byte{7});
}

absl::Status FakeModel::ImportState(std::span<const std::byte> bytes, int64_t n_tokens, std::byte* slot) const {
  if (bytes.size() != StateExportBytes(n_tokens)) return absl::InvalidArgumentError("state has another size");
  std::memcpy(slot, bytes.data(), state_bytes());
  return absl::OkStatus();
}

void FakeModel::ClearTail(std::byte* block, int64_t n_tokens_in_block) const {
  const size_t n_kept = static_cast<size_t>(n_tokens_in_block) * kRecordBytes;
  std::memset(block + n_kept, 0, block_bytes() - n_kept);
}

absl::StatusOr<ForwardOutput> FakeModel::Forward(const ForwardBatch& batch) {
  ++n_forwards;
  ForwardOutput out;
  logits_.clear();
  for (const SequenceChunk& chunk : batch.chunks) {
    State state = LoadState(chunk.state);
    // The bookkeeping of the engine is what is tested: a wrong position is its bug.
    LONGSHELF_CHECK(static_cast<int64_t>(state.n_tokens) == chunk.n_past);
    for (const uint32_t token : chunk.tokens) {
      state.last = NextRecord(state.last, token);
      std::byte* block = chunk.blocks[state.n_tokens / kBlockTokens];
      std::memcpy(block + state.n_tokens % kBlockTokens * kRecordBytes, &state.last, kRecordBytes);
      ++state.n_tokens;
    }
    std::memcpy(chunk.state, &state, sizeof state);
    n_tokens_computed += static_cast<int64_t>(chunk.tokens.size());
    if (chunk.want_logits == WantLogits::kNone) continue;
    uint64_t digest = 0;
    for (uint64_t p = 0; p < state.n_tokens; ++p) {
      uint64_t record = 0;
      std::memcpy(&record, chunk.blocks[p / kBlockTokens] + p % kBlockTokens * kRecordBytes, kRecordBytes);
      digest = Mix(digest, record);
    }
    // Nothing of a former owner may be readable past the end.
    for (uint64_t p = state.n_tokens; p % kBlockTokens != 0; ++p) {
      uint64_t record = 0;
      std::memcpy(&record, chunk.blocks[p / kBlockTokens] + p % kBlockTokens * kRecordBytes, kRecordBytes);
      LONGSHELF_CHECK(record == 0);
    }
    const auto logits = Logits(digest, state.last == kPoisoned);
    logits_.insert(logits_.end(), logits.begin(), logits.end());
    ++out.n_rows;
  }
  out.logits = logits_;
  return out;
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
