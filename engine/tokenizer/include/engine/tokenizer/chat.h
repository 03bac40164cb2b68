#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// The V4 chat encoding (spec section 12), as code: no templates. Pure functions; any thread.
namespace longshelf::engine {

struct ChatToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON text as the client or the model gave it
};

// A part of a content list. Non-text parts keep their type only.
struct ChatContentPart {
  std::string type;
  std::string text;
};

struct ChatMessage {
  std::string role;  // system | user | assistant | tool | developer | latest_reminder | ...
  std::optional<std::string> content;
  std::vector<ChatContentPart> parts;  // when content was a list
  bool content_is_parts = false;
  std::string reasoning_content;
  std::vector<ChatToolCall> tool_calls;  // assistant
  std::string tool_call_id;              // tool
  std::vector<std::string> tools;        // system/developer: each the OpenAI `function` object, dumped Python-style
  std::optional<std::string> response_format;  // schema JSON, dumped Python-style
  std::string task;                            // user: "", action, query, ...
  bool wo_eos = false;
  bool mask = false;
};

enum class ThinkingMode : uint8_t { kChat, kThinking };
// Effort texts differ by checkpoint revision; they are data (effort.cc).
enum class ChatDialect : uint8_t { kPreview, k0731 };

struct ChatOptions {
  ThinkingMode thinking_mode = ThinkingMode::kThinking;
  bool drop_thinking = true;
  std::string reasoning_effort;  // "", "low", "high", "max": what the dialect knows; others are INVALID_ARGUMENT
  ChatDialect dialect = ChatDialect::kPreview;
};

// The prompt text, ready for Tokenizer::Encode.
absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages, const ChatOptions& options);

// Python json.dumps(value, ensure_ascii=False) of a JSON text: separators ", " and ": ", insertion order kept.
absl::StatusOr<std::string> DumpJsonPythonStyle(std::string_view json);

// A whole completion -> message. Strict as the reference: INVALID_ARGUMENT where it refuses.
absl::StatusOr<ChatMessage> ParseCompletion(std::string_view completion, ThinkingMode mode);

// Streaming and lenient: text is never lost, no DSML marker is ever emitted as content, and the concatenated events do
// not depend on how the input was split. Linear time.
class CompletionParser {
 public:
  explicit CompletionParser(ThinkingMode mode);
  struct Event {
    enum class Kind : uint8_t { kReasoning, kContent, kToolCall };
    Kind kind;
    std::string text;        // kReasoning, kContent: delta
    ChatToolCall tool_call;  // kToolCall: complete; id left empty
  };
  std::vector<Event> Push(std::string_view text);
  // At the end of the stream: what was held back. An unfinished tool call is emitted as content.
  std::vector<Event> Finish();
  // True until </think> was seen (thinking mode).
  bool in_reasoning() const { return state_ == State::kReasoning; }

 private:
  enum class State : uint8_t { kReasoning, kContent, kToolCalls, kDone };
  State state_;
  std::string held_;
  bool ParseHeldToolCalls(bool at_end, std::vector<Event>& events);
  void Scan(bool at_end, std::vector<Event>& events);
};

}  // namespace longshelf::engine
