#include "block_answer.h"

#include <algorithm>
#include <utility>

namespace longshelf::router {

std::string BlockAnswer::Open(Block block) {
  if (open_ == block.kind && block.kind != BlockKind::kCall) return "";
  std::string out = Close(/*is_complete=*/true);
  open_ = block.kind;
  is_at_begin_ = true;
  return out + BeginBlock(block);
}

std::string BlockAnswer::Close(bool is_complete) {
  if (!open_) return "";
  open_.reset();
  has_blocks_ = true;
  return EndBlock(is_complete);
}

std::string BlockAnswer::Delta(uint32_t, const ChoiceDelta& delta) {
  std::string out;
  for (const AnswerPart& part : delta.parts) {
    std::string_view text = part.text;
    switch (part.kind) {
      case AnswerPart::Kind::kReasoning:
        out += Open({BlockKind::kReasoning, "", ""});
        break;
      case AnswerPart::Kind::kContent:
        out += Open({BlockKind::kText, "", ""});
        // What parts it from the text in front of a call.
        if (is_at_begin_ && has_blocks_) text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
        break;
      case AnswerPart::Kind::kCallBegin:
        out += Open({BlockKind::kCall, part.call_id, part.text});
        continue;
      case AnswerPart::Kind::kCallArguments:
        break;
      case AnswerPart::Kind::kCallEnd:
        out += Close(/*is_complete=*/true);
        continue;
    }
    if (text.empty()) continue;
    is_at_begin_ = false;
    out += AddToBlock(text);
  }
  return out;
}

std::string BlockAnswer::EndLastBlock(std::string_view finish_reason) {
  return Close(open_ != BlockKind::kCall && finish_reason != "length");
}

std::string WithPrefix(std::string_view prefix, std::string_view call_id) {
  constexpr std::string_view kPrefix = "call_";
  if (call_id.starts_with(kPrefix)) call_id.remove_prefix(kPrefix.size());
  return std::string(prefix) + std::string(call_id);
}

}  // namespace longshelf::router
