#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/completion_parser.h"

// What a CompletionParser said, put together again.
namespace longshelf::tokenizer::testing {

// One line per run of pieces of one kind: what must not depend on the split. "T:" begins a call, "E" ends it.
inline std::string Print(const std::vector<AnswerPiece>& pieces) {
  using Kind = AnswerPiece::Kind;
  std::string out;
  std::optional<Kind> last;
  for (const AnswerPiece& piece : pieces) {
    constexpr std::string_view kNames[] = {"R:", "C:", "T:", "", "E"};
    if (last && *last != piece.kind && *last != Kind::kCallBegin) out += "\n";
    if (last != piece.kind) out += kNames[static_cast<size_t>(piece.kind)];
    out += piece.text;
    last = piece.kind;
  }
  return out + "\n";
}

inline ChatMessage MessageOf(const std::vector<AnswerPiece>& pieces) {
  using Kind = AnswerPiece::Kind;
  ChatMessage message;
  message.role = "assistant";
  message.content = "";
  for (const AnswerPiece& piece : pieces) {
    if (piece.kind == Kind::kReasoning) message.reasoning_content += piece.text;
    if (piece.kind == Kind::kContent) *message.content += piece.text;
    if (piece.kind == Kind::kCallBegin) message.tool_calls.push_back({"", piece.text, ""});
    if (piece.kind == Kind::kCallArguments) message.tool_calls.back().arguments += piece.text;
  }
  return message;
}

// `next_size` says how long each part of the text is.
template <typename NextSize>
std::vector<AnswerPiece> ParseSplit(std::string_view text, ThinkingMode mode, NextSize&& next_size,
                                    StreamEnd end = StreamEnd::kComplete, const std::vector<std::string>& stops = {}) {
  CompletionParser parser(mode, stops);
  std::vector<AnswerPiece> out;
  while (!text.empty()) {
    const size_t n = std::min(next_size(), text.size());
    parser.Push(text.substr(0, n), out);
    text.remove_prefix(n);
  }
  parser.Finish(end, out);
  return out;
}

inline std::vector<AnswerPiece> ParseWhole(std::string_view text, ThinkingMode mode,
                                           StreamEnd end = StreamEnd::kComplete,
                                           const std::vector<std::string>& stops = {}) {
  return ParseSplit(
      text, mode, [] { return SIZE_MAX; }, end, stops);
}

}  // namespace longshelf::tokenizer::testing
