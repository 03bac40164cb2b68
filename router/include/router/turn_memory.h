#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "tokenizer/chat.h"

namespace longshelf::router {

// The tokens that recent turns of assistants were sampled as. A client sends a turn back in words of its own: arguments
// with other blanks or in another order, reasoning left out. What is found here is rendered as it was sampled, so the
// prompt goes on from what workers hold. Any thread.
//
// A turn is found by SHA-256 of its namespace, its content, and the ids, names and arguments of its calls, where order
// and blanks of JSON do not count. Reasoning that a client sends back must be what was sampled; none at all is fine.
class TurnMemory {
 public:
  // At most so many bytes of turns, the latest used.
  explicit TurnMemory(uint64_t n_bytes_max) : n_bytes_max_(n_bytes_max) {}

  // `turn` as a client would read it, with its reasoning; `tokens` from the first behind the prompt to the end of
  // sentence, `text` what they spell.
  void Remember(const std::string& namespace_id, const tokenizer::ChatMessage& turn, std::string text,
                std::vector<uint32_t> tokens);
  // Gives every assistant message that is known its sampled_text and sampled_tokens. How many there were.
  size_t Recall(const std::string& namespace_id, std::vector<tokenizer::ChatMessage>& messages);

  uint64_t n_bytes() const;

 private:
  struct Turn {
    std::string key;
    std::string reasoning;
    std::string text;
    std::vector<uint32_t> tokens;
    uint64_t n_bytes() const;
  };
  const uint64_t n_bytes_max_;
  mutable std::mutex mutex_;  // guards what the loop adds to and threads of the prepare pool look for
  std::list<Turn> turns_;     // the latest used first
  std::unordered_map<std::string, std::list<Turn>::iterator> by_key_;
  uint64_t n_bytes_ = 0;
};

}  // namespace longshelf::router
