#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/answer_writer.h"
#include "thinking_signature.h"

// Answers as the Anthropic Messages API has them.
namespace longshelf::router {

// An answer is a list of blocks, each a text, thinking or one call of a tool. What a stream says of them and what an
// answer in one piece says is decided here, once.
class MessagesAnswer : public AnswerWriter {
 public:
  struct Head {
    std::string id;  // "msg_..."
    std::string model;
    bool context_is_limit = false;  // not max_tokens: less was left
  };
  MessagesAnswer(Head head, ThinkingSigner signer) : head_(std::move(head)), signer_(std::move(signer)) {}

  void Skip(uint32_t, const ChoiceDelta&) override {}  // sessions are of other APIs
  void AnsweredBy(std::string fingerprint, const Usage& usage) override;
  std::string Delta(uint32_t choice, const ChoiceDelta& delta) override;
  std::string Finished(uint32_t choice, const ChoiceEnd& end) override;

 protected:
  enum class BlockKind : uint8_t { kText, kThinking, kToolUse };
  struct Block {
    BlockKind kind;
    std::string id;    // kToolUse
    std::string name;  // kToolUse
  };
  // Each returns what a stream says of it.
  virtual std::string BeginBlock(const Block& block) = 0;
  virtual std::string AddToBlock(std::string_view text) = 0;
  // `signature`: of thinking. `is_complete`: a call that is not was cut off.
  virtual std::string EndBlock(const std::string& signature, bool is_complete) = 0;

  const Head head_;
  Usage usage_;  // of the prompt, once a worker has begun
  std::string stop_reason_;
  std::string stop_sequence_;  // empty: none ended it

 private:
  std::string Open(Block block);
  std::string Close(bool is_complete);

  const ThinkingSigner signer_;
  std::optional<BlockKind> open_;
  bool is_at_begin_ = false;  // nothing of the open block was written
  bool has_blocks_ = false;
  std::optional<ThinkingSigner::Signature> signature_;
};

// message_start, then content_block_start, _delta and _stop for each block, message_delta, message_stop.
class MessagesStream final : public MessagesAnswer {
 public:
  using MessagesAnswer::MessagesAnswer;
  std::string Opening() override;
  std::string Done(const Usage& usage) override;
  std::string Error(const ApiError& error) override;
  std::string Progress(const PrefillProgress& progress) override;
  std::string KeepAlive() override;
  bool is_stream() const override { return true; }

 private:
  std::string BeginBlock(const Block& block) override;
  std::string AddToBlock(std::string_view text) override;
  std::string EndBlock(const std::string& signature, bool is_complete) override;

  int index_ = -1;
  BlockKind kind_ = BlockKind::kText;
};

class MessagesWhole final : public MessagesAnswer {
 public:
  using MessagesAnswer::MessagesAnswer;
  std::string Opening() override { return ""; }
  std::string Done(const Usage& usage) override;
  std::string Error(const ApiError& error) override;
  std::string Progress(const PrefillProgress&) override { return ""; }
  std::string KeepAlive() override { return "\n"; }
  bool is_stream() const override { return false; }

 private:
  std::string BeginBlock(const Block& block) override;
  std::string AddToBlock(std::string_view text) override;
  std::string EndBlock(const std::string& signature, bool is_complete) override;

  Block block_{BlockKind::kText, "", ""};
  std::string text_;     // of the block, or its arguments
  std::string content_;  // JSON of the blocks before, with commas between them
};

// {"input_tokens": N}
std::string TokenCountJson(const PreparedRequest& prepared);

}  // namespace longshelf::router
