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
};

// The prompt, ready for Tokenizer::EncodeMixed; with Tokenizer::Encode, control tokens that a message spells are
// tokens, as DeepSeek's reference has it. sampled_text is the model's own: its control tokens are tokens.
// INVALID_ARGUMENT: an unknown role, task or effort, or a developer message without content.
//
// Rendering is append-only: RenderChat(history + assistant turn) begins with RenderChat(history) + sampled text, if the
// history ends where the model is asked to speak. It stays so when the conversation goes on, with one exception, which
// the reference has too: while ThinkingIsDropped(), a new user, tool or developer message removes the reasoning of
// the turns before it, and developer messages before it, so the text changes from the first such turn on. A
// conversation that must keep its prefix is rendered with drop_thinking = false (tools imply it). Text is equal to what
// was sampled if the model wrote JSON arguments as Python would, or sampled_text is given.
absl::StatusOr<ChatPrompt> RenderChatPrompt(const std::vector<ChatMessage>& messages, const ChatOptions& options);
// Its text.
absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages, const ChatOptions& options);

// Whether RenderChat leaves out reasoning before the last user message: in thinking mode with drop_thinking, unless a
// message defines tools.
bool ThinkingIsDropped(const std::vector<ChatMessage>& messages, const ChatOptions& options);

// Python json.dumps(value, ensure_ascii=False) of a JSON text: separators ", " and ": ", insertion order kept.
absl::StatusOr<std::string> DumpJsonPythonStyle(std::string_view json);

// A whole completion, end of sentence included -> message. Strict as the reference: INVALID_ARGUMENT where it refuses.
absl::StatusOr<ChatMessage> ParseCompletion(std::string_view completion, ThinkingMode mode);

// Reads a completion while it is sampled, and mends what the model got wrong. What ParseCompletion accepts gives the
// same message, but for three repairs: a parameter value that is not the JSON it claims to be becomes a string, markup
// inside a value closes the value, and a call that is cut off is no call (the reference takes some for complete).
//
// Nothing but markup and the blanks around it is lost: text outside the grammar, and a tool call that cannot be
// understood or does not end, is emitted as content. The marker ｜DSML｜ never appears in reasoning or content; where
// it is no markup it becomes |DSML|. The concatenated events do not depend on how the input was split. Linear time. One
// per output stream.
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
  // True until </think> was seen, or tool calls began without it (thinking mode).
  bool in_reasoning() const { return state_ == State::kReasoning; }
  // Bytes looked at so far; tests prove with it that time is linear.
  uint64_t work() const { return work_; }

 private:
  enum class State : uint8_t {
    kReasoning,
    kContent,
    kBetweenCalls,    // behind the opening of a block, or behind a call
    kCallHead,        // behind <｜DSML｜invoke
    kParameter,       // behind <｜DSML｜parameter
    kAfterParameter,  // behind </｜DSML｜parameter
  };
  struct Marker;
  struct Range {
    size_t begin = 0;
    size_t end = 0;
  };
  bool InText() const { return state_ <= State::kContent; }
  bool InCall() const { return state_ >= State::kCallHead; }
  std::string_view Slice(Range range) const;
  void Run(bool at_end, std::vector<Event>& events);
  void DropDone();
  bool FindMarker(bool at_end, Marker& marker);
  void OnTextMarker(const Marker& marker, std::vector<Event>& events);
  void OnBlockMarker(const Marker& marker, std::vector<Event>& events);
  void BeginCall(const Marker& marker);
  void ClosePart(size_t end);
  void EndCall(size_t end, std::vector<Event>& events);
  bool BuildCall(ChatToolCall& call);
  void Emit(std::string_view text, std::vector<Event>& events);
  void EmitUpTo(size_t end, size_t newlines_kept_back, std::vector<Event>& events);
  void Leftover(size_t end, std::vector<Event>& events);

  State state_;
  std::string held_;
  size_t begin_ = 0;  // held_ before this is done with; a call from its "<" on is not
  size_t scan_ = 0;   // held_ before this has no unseen marker
  Range head_;        // of the call being read
  std::vector<Range> parameters_;
  size_t after_parameter_ = 0;
  std::string stray_;          // text between the parameters of the call
  bool skip_bracket_ = false;  // the ">" of the marker just read
  bool after_block_ = false;   // only blanks since tool calls
  bool content_emitted_ = false;
  bool eos_pending_ = false;  // an end of sentence that text may still follow
  uint64_t work_ = 0;
};

}  // namespace longshelf::tokenizer
