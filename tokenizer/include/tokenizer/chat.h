#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tokenizer/tokenizer.h"

// The chat encoding published with DeepSeek-V4, as code: no templates. Pure functions; any thread.
namespace longshelf::tokenizer {

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
  // Assistant: the completion exactly as it was sampled, end of sentence included. If set, it is rendered instead of
  // the fields above wherever those would be rendered in full and in the same thinking mode; JSON arguments that the
  // model spelled its own way then stay as they were.
  std::optional<std::string> sampled_text;
  // The tokens that it was sampled as, if they are known: they take the place of what the text would be encoded as.
  std::vector<uint32_t> sampled_tokens;
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

// A prompt and what of it came with the messages: texts, names, schemas. Control tokens that those spell are text.
struct ChatPrompt {
  std::string text;
  std::vector<TextRange> ordinary;  // in order, apart
  // Text whose tokens are known. In order, apart from each other and from what is ordinary.
  struct Sampled {
    TextRange range;
    std::vector<uint32_t> tokens;
  };
  std::vector<Sampled> sampled;
};

// The prompt, ready for EncodePrompt; without `ordinary`, control tokens that a message spells are tokens, as
// DeepSeek's reference has it. sampled_text is the model's own: its control tokens are tokens. INVALID_ARGUMENT: an
// unknown role, task or effort, or a developer message without content.
//
// Rendering is append-only: RenderChat(history + assistant turn) begins with RenderChat(history) + sampled text, if the
// history ends where the model is asked to speak. It stays so when the conversation goes on, with one exception, which
// the reference has too: while ThinkingIsDropped(), a new user, tool or developer message removes the reasoning of
// the turns before it, and developer messages before it, so the text changes from the first such turn on. A
// conversation that must keep its prefix is rendered with drop_thinking = false (tools imply it). Text is equal to what
// was sampled if the model wrote JSON arguments as Python would, or sampled_text is given.
absl::StatusOr<ChatPrompt> RenderChatPrompt(const std::vector<ChatMessage>& messages, const ChatOptions& options);
// RESOURCE_EXHAUSTED as soon as there are more than max_tokens.
absl::StatusOr<std::vector<uint32_t>> EncodePrompt(const Tokenizer& tokenizer, const ChatPrompt& prompt,
                                                   size_t max_tokens = SIZE_MAX);
// Its text.
absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages, const ChatOptions& options);

// Whether RenderChat leaves out reasoning before the last user message: in thinking mode with drop_thinking, unless a
// message defines tools.
bool ThinkingIsDropped(const std::vector<ChatMessage>& messages, const ChatOptions& options);

// Python json.dumps(value, ensure_ascii=False) of a JSON text: separators ", " and ": ", insertion order kept.
absl::StatusOr<std::string> DumpJsonPythonStyle(std::string_view json);

// A whole completion, end of sentence included -> message. Strict as the reference: INVALID_ARGUMENT where it refuses.
absl::StatusOr<ChatMessage> ParseCompletion(std::string_view completion, ThinkingMode mode);

}  // namespace longshelf::tokenizer
