// What a model writes, read while it is sampled. The pieces do not depend on how the text was cut; what the strict
// parser accepts gives the same message, but for the repairs that chat.h names; no markup leaks into text; the
// arguments of a call are JSON.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "answer_pieces.h"
#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "random_text.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

namespace longshelf::tokenizer {
namespace {

using Kind = AnswerPiece::Kind;
using testing::ParseSplit;
using testing::ParseWhole;
using testing::Print;

constexpr std::string_view kDsml = "｜DSML｜";
constexpr size_t kCutBytesMax = 512;  // longer texts are cut in a few places only

void CheckPieces(const std::vector<AnswerPiece>& pieces, StreamEnd end, bool is_utf8) {
  bool in_call = false;
  for (const AnswerPiece& piece : pieces) {
    const bool is_text = piece.kind == Kind::kReasoning || piece.kind == Kind::kContent;
    LONGSHELF_CHECK(!is_text || piece.text.find(kDsml) == std::string::npos);
    LONGSHELF_CHECK(in_call == (piece.kind == Kind::kCallArguments || piece.kind == Kind::kCallEnd));
    if (piece.kind == Kind::kCallBegin) in_call = true;
    if (piece.kind == Kind::kCallEnd) in_call = false;
    if (is_utf8) LONGSHELF_CHECK(piece.kind == Kind::kCallArguments || testing::IsUtf8(piece.text));
  }
  LONGSHELF_CHECK(!in_call || end == StreamEnd::kCutOff);
  if (!is_utf8) return;
  const ChatMessage message = testing::MessageOf(pieces);
  for (const ChatToolCall& call : message.tool_calls) {
    LONGSHELF_CHECK(testing::IsUtf8(call.arguments));
    const bool is_open = in_call && &call == &message.tool_calls.back();
    LONGSHELF_CHECK(is_open || JsonText::Parse(call.arguments, {.depth_max = 1000, .values_max = 1u << 21}).ok());
  }
}

// Whether the lenient parser may read a call's arguments in another way: markup or no JSON in a value.
bool MayBeMended(const ChatMessage& strict, std::string_view text) {
  if (strict.tool_calls.empty()) return false;
  for (const ChatToolCall& call : strict.tool_calls) {
    if (!JsonText::Parse(call.arguments, {.depth_max = 500}).ok()) return true;
    if (call.arguments.find(kDsml) != std::string::npos || call.name.find(kDsml) != std::string::npos) return true;
  }
  // Cut off, where the strict parser takes some for complete.
  return text.find("</｜DSML｜tool_calls>") == std::string_view::npos;
}

void CheckAgainstStrict(const std::vector<AnswerPiece>& pieces, std::string_view text, ThinkingMode mode) {
  const absl::StatusOr<ChatMessage> strict = ParseCompletion(text, mode);
  if (!strict.ok() || MayBeMended(*strict, text)) return;
  const ChatMessage message = testing::MessageOf(pieces);
  LONGSHELF_CHECK(message.content == strict->content && message.reasoning_content == strict->reasoning_content);
  LONGSHELF_CHECK(std::ranges::equal(
      message.tool_calls, strict->tool_calls,
      [](const ChatToolCall& a, const ChatToolCall& b) { return a.name == b.name && a.arguments == b.arguments; }));
}

void Parse(std::string_view text, ThinkingMode mode, StreamEnd end, const std::vector<std::string>& stops) {
  const std::vector<AnswerPiece> pieces = ParseWhole(text, mode, end, stops);
  const bool may_stop = !stops.empty();
  CheckPieces(pieces, may_stop ? StreamEnd::kCutOff : end, testing::IsUtf8(text));
  const std::string whole = Print(pieces);
  LONGSHELF_CHECK(Print(ParseSplit(
                      text, mode, [] { return size_t{1}; }, end, stops)) == whole);
  const size_t step = text.size() / kCutBytesMax * 16 + 1;
  for (size_t at = 1; at < text.size(); at += step) {
    size_t first = at;
    const auto next_size = [&first] { return std::exchange(first, SIZE_MAX); };
    LONGSHELF_CHECK(Print(ParseSplit(text, mode, next_size, end, stops)) == whole);
  }
  if (end == StreamEnd::kComplete && !may_stop) CheckAgainstStrict(pieces, text, mode);
}

}  // namespace
}  // namespace longshelf::tokenizer

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  const std::string call =
      "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">v é"
      "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"false\">{\"c\": [1, null]}</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>";
  const std::string plain = "An answer.<｜end▁of▁sentence｜>";
  return {.inputs = {"\1thought</think>" + plain, '\0' + plain, "\1a</think>b" + call, '\0' + ("c" + call),
                     '\0' + std::string("<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"g\">\n</｜DSML｜invoke>\n"
                                        "</｜DSML｜function_calls>tail")},
          .words = {"</think>",
                    "<think>",
                    "<｜DSML｜tool_calls>\n",
                    "\n\n<｜DSML｜tool_calls>\n",
                    "</｜DSML｜tool_calls>",
                    "<｜DSML｜invoke name=\"f\">\n",
                    "</｜DSML｜invoke>\n",
                    "</｜DSML｜invoke>",
                    "<｜DSML｜parameter name=\"p\" string=\"true\">",
                    "<｜DSML｜parameter name=\"q\" string=\"false\">",
                    "</｜DSML｜parameter>\n",
                    "</｜DSML｜parameter>",
                    "｜DSML｜",
                    "<｜DSML｜",
                    "</｜DSML｜",
                    "｜DS",
                    "ML｜",
                    "\n",
                    "<",
                    ">",
                    "\">",
                    "<｜DSML｜invoke",
                    "<｜DSML｜parameter",
                    "｜",
                    "<｜end▁of▁sentence｜>",
                    "<｜begin▁of▁sentence｜>",
                    "[[[[",
                    "1e999",
                    "NaN",
                    "\"\\ud800\""}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  const unsigned how = input.Byte();
  tokenizer::Parse(input.Rest(), how % 2 == 1 ? tokenizer::ThinkingMode::kThinking : tokenizer::ThinkingMode::kChat,
                   how % 4 < 2 ? tokenizer::StreamEnd::kComplete : tokenizer::StreamEnd::kCutOff,
                   how % 8 < 4 ? std::vector<std::string>{} : std::vector<std::string>{"invoke", "\">", "v"});
  return 0;
}
