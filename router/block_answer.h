#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "router/answer_writer.h"

namespace longshelf::router {

// Answers that are lists of blocks: each is a text, reasoning, or one call of a tool. Where one ends and the next
// begins is decided here once, for all APIs that have blocks, streamed or whole. One choice.
class BlockAnswer : public AnswerWriter {
 public:
  std::string Delta(uint32_t choice, const ChoiceDelta& delta) override;

 protected:
  enum class BlockKind : uint8_t { kText, kReasoning, kCall };
  struct Block {
    BlockKind kind = BlockKind::kText;
    std::string call_id;  // kCall
    std::string name;     // kCall
  };
  // Each returns what a stream says of it.
  virtual std::string BeginBlock(const Block& block) = 0;
  // Text, or a piece of a call's arguments.
  virtual std::string AddToBlock(std::string_view text) = 0;
  // Only the last one may be incomplete: the answer was cut off in it.
  virtual std::string EndBlock(bool is_complete) = 0;

  // The end of the answer.
  std::string EndLastBlock(std::string_view finish_reason);

 private:
  std::string Open(Block block);
  std::string Close(bool is_complete);

  std::optional<BlockKind> open_;
  bool is_at_begin_ = false;  // nothing of the open block was written
  bool has_blocks_ = false;
};

// "toolu_" for "call_": the same id with the prefix of another API.
std::string WithPrefix(std::string_view prefix, std::string_view call_id);

}  // namespace longshelf::router
