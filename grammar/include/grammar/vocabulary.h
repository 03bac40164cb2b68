#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longshelf::tokenizer {
class Tokenizer;
}

namespace longshelf::grammar {

// The tokens of a model by their texts, as a tree. Immutable; any thread.
class Vocabulary {
 public:
  struct Token {
    std::string bytes;        // "": no text; never written
    bool is_special = false;  // only the markers of the chat are, of these
  };
  explicit Vocabulary(std::span<const Token> tokens);
  static std::shared_ptr<const Vocabulary> Make(const tokenizer::Tokenizer& tokenizer);

  // In depth-first order. The node after all below a node is its `end`.
  struct Node {
    uint16_t symbol;  // Symbol (program.h)
    uint16_t depth;   // nodes above it
    uint32_t end;
    uint32_t first_token;  // of ids(); those of the next node begin behind its own
  };
  const std::vector<Node>& nodes() const { return nodes_; }
  // Tokens whose text ends at node `i`.
  std::span<const uint32_t> TokensAt(size_t i) const {
    const size_t end = i + 1 < nodes_.size() ? nodes_[i + 1].first_token : ids_.size();
    return {ids_.data() + nodes_[i].first_token, ids_.data() + end};
  }
  // Empty: it has no text, and is never written.
  std::span<const uint16_t> SymbolsOf(uint32_t token) const;
  uint32_t size() const { return static_cast<uint32_t>(begins_.size() - 1); }
  // Symbols of the longest token.
  uint32_t depth() const { return depth_; }

 private:
  std::vector<Node> nodes_;
  std::vector<uint32_t> ids_;
  std::vector<uint16_t> symbols_;  // of all tokens, by id
  std::vector<uint32_t> begins_;
  uint32_t depth_ = 0;
};

}  // namespace longshelf::grammar
