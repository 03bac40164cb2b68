#include "grammar/vocabulary.h"

#include <algorithm>
#include <numeric>

#include "program.h"
#include "tokenizer/chat_markup.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::grammar {
namespace {

// Longer ones are never written: their text can always be written by others.
constexpr size_t kTokenBytesMax = 1024;

std::vector<uint16_t> ToSymbols(const Vocabulary::Token& token) {
  if (token.bytes == tokenizer::protocol::kDsml) return {kDsmlSymbol};
  if (token.bytes == tokenizer::protocol::kThinkEnd) return {kThinkEndSymbol};
  if (token.is_special || token.bytes.size() > kTokenBytesMax) return {};
  std::vector<uint16_t> symbols;
  for (const char byte : token.bytes) symbols.push_back(static_cast<uint8_t>(byte));
  return symbols;
}

}  // namespace

Vocabulary::Vocabulary(std::span<const Token> tokens) {
  for (const Token& token : tokens) {
    begins_.push_back(static_cast<uint32_t>(symbols_.size()));
    const std::vector<uint16_t> symbols = ToSymbols(token);
    symbols_.insert(symbols_.end(), symbols.begin(), symbols.end());
    depth_ = std::max(depth_, static_cast<uint32_t>(symbols.size()));
  }
  begins_.push_back(static_cast<uint32_t>(symbols_.size()));
  ids_.resize(tokens.size());
  std::iota(ids_.begin(), ids_.end(), 0U);
  std::erase_if(ids_, [this](uint32_t id) { return SymbolsOf(id).empty(); });
  std::stable_sort(ids_.begin(), ids_.end(), [this](uint32_t a, uint32_t b) {
    return std::ranges::lexicographical_compare(SymbolsOf(a), SymbolsOf(b));
  });
  std::vector<uint32_t> open;  // nodes from the root to the last one
  const auto close = [&](size_t depth) {
    while (open.size() > depth) {
      nodes_[open.back()].end = static_cast<uint32_t>(nodes_.size());
      open.pop_back();
    }
  };
  for (size_t i = 0; i < ids_.size(); ++i) {
    const auto symbols = SymbolsOf(ids_[i]);
    size_t n_common = 0;
    while (n_common < open.size() && n_common < symbols.size() && nodes_[open[n_common]].symbol == symbols[n_common]) {
      ++n_common;
    }
    close(n_common);
    for (size_t k = n_common; k < symbols.size(); ++k) {
      open.push_back(static_cast<uint32_t>(nodes_.size()));
      // A token ends at the last of its nodes: those before have none of it.
      nodes_.push_back({symbols[k], static_cast<uint16_t>(k), 0, static_cast<uint32_t>(i)});
    }
  }
  close(0);
}

std::shared_ptr<const Vocabulary> Vocabulary::Make(const tokenizer::Tokenizer& tokenizer) {
  std::vector<Token> tokens(tokenizer.vocab_size());
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    tokens[id] = {std::string(tokenizer.TokenBytes(id)), tokenizer.IsSpecial(id)};
  }
  return std::make_shared<const Vocabulary>(tokens);
}

std::span<const uint16_t> Vocabulary::SymbolsOf(uint32_t token) const {
  if (token >= size()) return {};
  return {symbols_.data() + begins_[token], symbols_.data() + begins_[token + 1]};
}

}  // namespace longshelf::grammar
