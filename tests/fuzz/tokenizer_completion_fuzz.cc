// What a model writes, read while it is sampled. The events do not depend on how the text was cut; what the strict
// parser accepts gives the same message, but for the repairs that chat.h names; no markup leaks into text; the
// arguments of a call are JSON.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "random_text.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

namespace longshelf::tokenizer {
namespace {

using Event = CompletionParser::Event;
constexpr std::string_view kDsml = "｜DSML｜";
constexpr size_t kCutBytesMax = 512;  // longer texts are cut in a few places only

// Events with neighbouring deltas joined: what must not depend on the split.
class Collector {
 public:
  explicit Collector(ThinkingMode mode) : parser_(mode) {}
  void Push(std::string_view text) { Add(parser_.Push(text)); }
  std::vector<Event> Finish() {
    Add(parser_.Finish());
    LONGSHELF_CHECK(parser_.Finish().empty());
    return std::move(events_);
  }

 private:
  void Add(std::vector<Event> more) {
    for (Event& event : more) {
      if (event.kind != Event::Kind::kToolCall && !events_.empty() && events_.back().kind == event.kind) {
        events_.back().text += event.text;
      } else {
        events_.push_back(std::move(event));
      }
    }
  }

  CompletionParser parser_;
  std::vector<Event> events_;
};

bool AreEqual(const std::vector<Event>& a, const std::vector<Event>& b) {
  return std::ranges::equal(a, b, [](const Event& x, const Event& y) {
    return x.kind == y.kind && x.text == y.text && x.tool_call.name == y.tool_call.name &&
           x.tool_call.arguments == y.tool_call.arguments;
  });
}

std::vector<Event> Whole(std::string_view text, ThinkingMode mode) {
  Collector out(mode);
  out.Push(text);
  return out.Finish();
}

std::vector<Event> CutAt(std::string_view text, size_t at, ThinkingMode mode) {
  Collector out(mode);
  out.Push(text.substr(0, at));
  out.Push(text.substr(at));
  return out.Finish();
}

std::vector<Event> ByteByByte(std::string_view text, ThinkingMode mode) {
  Collector out(mode);
  for (const char c : text) out.Push({&c, 1});
  return out.Finish();
}

void CheckEvents(const std::vector<Event>& events, bool is_utf8) {
  for (const Event& event : events) {
    LONGSHELF_CHECK(event.text.find(kDsml) == std::string::npos);
    LONGSHELF_CHECK(event.tool_call.id.empty());
    if (!is_utf8) continue;
    LONGSHELF_CHECK(testing::IsUtf8(event.text) && testing::IsUtf8(event.tool_call.name));
    if (event.kind != Event::Kind::kToolCall) continue;
    LONGSHELF_CHECK(JsonText::Parse(event.tool_call.arguments, {.depth_max = 1000, .values_max = 1u << 21}).ok());
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

void CheckAgainstStrict(const std::vector<Event>& events, std::string_view text, ThinkingMode mode) {
  const absl::StatusOr<ChatMessage> strict = ParseCompletion(text, mode);
  if (!strict.ok() || MayBeMended(*strict, text)) return;
  ChatMessage message;
  message.content = "";
  for (const Event& event : events) {
    if (event.kind == Event::Kind::kReasoning) message.reasoning_content += event.text;
    if (event.kind == Event::Kind::kContent) *message.content += event.text;
    if (event.kind == Event::Kind::kToolCall) message.tool_calls.push_back(event.tool_call);
  }
  LONGSHELF_CHECK(message.content == strict->content && message.reasoning_content == strict->reasoning_content);
  LONGSHELF_CHECK(std::ranges::equal(
      message.tool_calls, strict->tool_calls,
      [](const ChatToolCall& a, const ChatToolCall& b) { return a.name == b.name && a.arguments == b.arguments; }));
}

void Parse(std::string_view text, ThinkingMode mode) {
  const std::vector<Event> whole = Whole(text, mode);
  CheckEvents(whole, testing::IsUtf8(text));
  LONGSHELF_CHECK(AreEqual(ByteByByte(text, mode), whole));
  const size_t step = text.size() / kCutBytesMax * 16 + 1;
  for (size_t at = 1; at < text.size(); at += step) LONGSHELF_CHECK(AreEqual(CutAt(text, at, mode), whole));
  CheckAgainstStrict(whole, text, mode);
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
  const bool thinks = input.Byte() % 2 == 1;
  tokenizer::Parse(input.Rest(), thinks ? tokenizer::ThinkingMode::kThinking : tokenizer::ThinkingMode::kChat);
  return 0;
}
