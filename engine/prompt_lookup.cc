#include "prompt_lookup.h"

#include <algorithm>
#include <bit>

namespace longshelf::engine {
namespace {

constexpr size_t kSlotsMin = 1024;

}  // namespace

size_t PromptLookup::SlotOf(std::span<const uint32_t> tokens, size_t end) const {
  uint64_t hash = 0;
  for (size_t i = end - kGram; i < end; ++i) hash = (hash ^ tokens[i]) * 0x9E3779B97F4A7C15;
  return (hash >> 32) & (slots_.size() - 1);
}

void PromptLookup::Index(std::span<const uint32_t> tokens) {
  if (slots_.empty()) slots_.resize(std::clamp(std::bit_ceil(2 * tokens.size()), kSlotsMin, kSlotsMax));
  // The gram at the very end has no next token yet.
  const size_t end = std::min(tokens.size(), n_indexed_ + kIndexedPerCall);
  for (n_indexed_ = std::max(n_indexed_, kGram); n_indexed_ < end; ++n_indexed_) {
    slots_[SlotOf(tokens, n_indexed_)] = static_cast<uint32_t>(n_indexed_);
  }
}

void PromptLookup::Propose(std::span<const uint32_t> tokens, size_t n_max, std::vector<uint32_t>& out) {
  if (tokens.size() <= kGram) return;
  Index(tokens);
  if (n_indexed_ < tokens.size()) return;
  const size_t at = slots_[SlotOf(tokens, tokens.size())];
  if (at < kGram || at >= tokens.size()) return;
  const auto gram = tokens.last(kGram);
  if (!std::equal(gram.begin(), gram.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at - kGram))) return;
  const auto next = tokens.subspan(at, std::min(n_max, tokens.size() - at));
  out.insert(out.end(), next.begin(), next.end());
}

}  // namespace longshelf::engine
