// JSON whose form reaches the model, and chat messages made of it. The parser accepts what another one accepts; what it
// dumps is JSON of the same value and dumps as itself; messages survive their own form, and render as UTF-8.
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "random_text.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_json.h"
#include "tokenizer/json_text.h"

namespace longshelf::tokenizer {
namespace {

using nlohmann::json;

// nlohmann skips a byte order mark, ends at NUL and knows no limits.
bool MayBeTakenByOthers(std::string_view text) {
  return text.starts_with("\xef\xbb\xbf") || text.find('\0') != std::string_view::npos || text.size() > 128;
}

// It refuses half a surrogate pair, and numbers that no double holds.
bool MayBeRefusedByOthers(std::string_view text) {
  return text.find("\\u") != std::string_view::npos || text.find_first_of("eE") != std::string_view::npos ||
         text.size() > 300;
}

void ParseText(std::string_view text) {
  const absl::StatusOr<JsonText> parsed = JsonText::Parse(text);
  if (!parsed.ok()) {
    LONGSHELF_CHECK(testing::IsUtf8(std::string(parsed.status().message())));
    LONGSHELF_CHECK(!json::accept(text) || MayBeTakenByOthers(text));
    return;
  }
  LONGSHELF_CHECK(testing::IsUtf8(text));
  LONGSHELF_CHECK(json::accept(text) || MayBeRefusedByOthers(text));
  std::string dumped;
  parsed->root().DumpTo(dumped);
  LONGSHELF_CHECK(testing::IsUtf8(dumped));
  if (json::accept(text)) LONGSHELF_CHECK(json::parse(dumped) == json::parse(text));
  const auto again = DumpJsonPythonStyle(dumped);
  LONGSHELF_CHECK(again.ok() && *again == dumped);
}

void CheckMessage(const ChatMessage& message) {
  const std::string text = ChatMessageToJson(message);
  const absl::StatusOr<std::vector<ChatMessage>> again = ParseChatMessages("[" + text + "]");
  LONGSHELF_CHECK(again.ok() && again->size() == 1 && ChatMessageToJson(again->front()) == text);
}

void ParseMessages(std::string_view text) {
  const absl::StatusOr<std::vector<ChatMessage>> messages = ParseChatMessages(text);
  if (!messages.ok()) {
    LONGSHELF_CHECK(testing::IsUtf8(std::string(messages.status().message())));
    return;
  }
  LONGSHELF_CHECK(!messages->empty());
  for (const ChatMessage& message : *messages) CheckMessage(message);
  for (const bool drop_thinking : {false, true}) {
    ChatOptions options;
    options.drop_thinking = drop_thinking;
    const absl::StatusOr<std::string> prompt = RenderChat(*messages, options);
    LONGSHELF_CHECK(!prompt.ok() || testing::IsUtf8(*prompt));
  }
}

void ParseTools(std::string_view text) {
  const auto tools = ParseToolDefinitions(text);
  if (!tools.ok()) return;
  for (const std::string& tool : *tools) {
    const auto again = DumpJsonPythonStyle(tool);
    LONGSHELF_CHECK(again.ok() && *again == tool);
  }
}

constexpr std::string_view kMessages =
    R"([{"role": "system", "content": "s", "tools": [{"function": {"name": "f", "a": [1.5e3, null]}}],
    "response_format": {"t": 1}}, {"role": "user", "content": [{"type": "text", "text": "\u00e9\ud83d\ude00"}]},
    {"role": "assistant", "reasoning_content": "r", "content": null, "tool_calls": [{"id": "c", "function": {"name": "f",
    "arguments": "{\"a\": [1, {\"b\": \"c\"}], \"d\": -0.5}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "x"},
    {"role": "latest_reminder", "content": "l"}, {"role": "user", "content": "u", "task": "action"}])";

}  // namespace
}  // namespace longshelf::tokenizer

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  return {.inputs = {'\0' + std::string(R"({"a":[1,-0,1.5,"x\n\u0041",true,null],"b":{"a":{},"c":[]}})"),
                     '\0' + std::string(R"([123456789012345678901234567890,0.1,-1.50,1E+2,1e-7,"é"])"),
                     '\1' + std::string(tokenizer::kMessages),
                     '\2' + std::string(R"([{"type":"function","function":{"name":"g","parameters":{"b":1,"a":2}}}])")},
          .words = {"{",
                    "}",
                    "[",
                    "]",
                    ",",
                    ":",
                    "\"a\":1",
                    "null",
                    "-",
                    "1e5",
                    "1e999",
                    "0.0",
                    "\\ud800",
                    "\\udc00",
                    "\\u0000",
                    "\\/",
                    "NaN",
                    "Infinity",
                    "\x7f",
                    "\xef\xbb\xbf",
                    "\xf0\x9f\x98\x80",
                    "é",
                    "\"role\":\"user\"",
                    "\"content\":",
                    "\"wo_eos\":true",
                    "\"mask\":1",
                    "\"developer\"",
                    "[[[[[[[[[[[[[[[[[[[["}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  switch (input.Byte() % 3) {
    case 0:
      tokenizer::ParseText(input.Rest());
      break;
    case 1:
      tokenizer::ParseMessages(input.Rest());
      break;
    default:
      tokenizer::ParseTools(input.Rest());
  }
  return 0;
}
