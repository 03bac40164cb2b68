#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "chat_protocol.h"
#include "common/status.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

namespace longshelf::tokenizer {
namespace {

// Arguments are text that a model or a client wrote: deeper than this they are passed on as they are.
constexpr JsonLimits kArgumentLimits{
    .bytes_max = 64u << 20, .depth_max = 512, .values_max = 1u << 20, .python_constants = true};

// A piece of a user turn: text, or the result of a tool.
struct Block {
  bool is_result;
  std::string text;
  std::string tool_call_id;  // results
};

// A message after tool results have been folded into user turns. `source` is null for a turn made of results only.
struct Turn {
  std::string_view role;
  const ChatMessage* source = nullptr;
  std::vector<Block> blocks = {};  // user
  std::string_view task = {};
  bool reasoning_dropped = false;
};

absl::StatusOr<std::string_view> EffortText(const ChatOptions& options) {
  for (const protocol::Effort& effort : protocol::kEfforts) {
    if (effort.dialect == options.dialect && effort.name == options.reasoning_effort) return effort.text;
  }
  return absl::InvalidArgumentError(
      fmt::format("reasoning_effort: \"{}\" is unknown to this model revision, it has {}", options.reasoning_effort,
                  options.dialect == ChatDialect::kPreview ? "high and max" : "low, high and max"));
}

std::string JoinParts(const std::vector<ChatContentPart>& parts) {
  std::string out;
  for (const ChatContentPart& part : parts) {
    if (&part != &parts.front()) out += "\n\n";
    out += part.type == "text" ? part.text : fmt::format("[Unsupported {}]", part.type);
  }
  return out;
}

std::string ContentText(const ChatMessage& message) {
  return message.content_is_parts ? JoinParts(message.parts) : message.content.value_or("");
}

void AddToolResult(const ChatMessage& message, std::vector<Turn>& turns) {
  if (turns.empty() || turns.back().role != "user") turns.push_back({.role = "user"});
  turns.back().blocks.push_back({true, ContentText(message), message.tool_call_id});
}

void AddUserText(const ChatMessage& message, std::vector<Turn>& turns) {
  // A turn that carries a task is complete.
  if (turns.empty() || turns.back().role != "user" || !turns.back().task.empty()) {
    turns.push_back({.role = "user", .source = &message, .task = message.task});
  }
  turns.back().blocks.push_back({false, ContentText(message), ""});
}

// Results come in the order of the calls they answer, whatever the order in which they were given.
void SortResults(std::vector<Turn>& turns) {
  std::map<std::string_view, size_t> call_order;
  for (Turn& turn : turns) {
    if (turn.role == "assistant" && !turn.source->tool_calls.empty()) {
      call_order.clear();
      for (size_t i = 0; i < turn.source->tool_calls.size(); ++i) {
        if (const std::string& id = turn.source->tool_calls[i].id; !id.empty()) call_order[id] = i;
      }
    } else if (turn.role == "user" && !call_order.empty()) {
      std::vector<Block> results;
      for (const Block& block : turn.blocks) {
        if (block.is_result) results.push_back(block);
      }
      const auto place = [&call_order](const Block& block) {
        const auto it = call_order.find(block.tool_call_id);
        return it == call_order.end() ? size_t{0} : it->second;
      };
      std::stable_sort(results.begin(), results.end(),
                       [&place](const Block& a, const Block& b) { return place(a) < place(b); });
      auto next = results.begin();
      for (Block& block : turn.blocks) {
        if (block.is_result) block = std::move(*next++);
      }
    }
  }
}

// Index of the last user or developer turn, -1 if there is none.
ptrdiff_t LastUser(const std::vector<Turn>& turns) {
  for (size_t i = turns.size(); i-- > 0;) {
    if (turns[i].role == "user" || turns[i].role == "developer") return static_cast<ptrdiff_t>(i);
  }
  return -1;
}

// Forgets what was thought before the last user turn, and developer turns with it.
void DropThinking(std::vector<Turn>& turns) {
  constexpr std::string_view kKept[] = {"user", "system", "latest_reminder", "direct_search_results"};
  const ptrdiff_t last_user = LastUser(turns);
  std::vector<Turn> kept;
  for (size_t i = 0; i < turns.size(); ++i) {
    Turn& turn = turns[i];
    const bool before = static_cast<ptrdiff_t>(i) < last_user;
    if (before && turn.role == "assistant") {
      turn.reasoning_dropped = true;
    } else if (before && std::find(std::begin(kKept), std::end(kKept), turn.role) == std::end(kKept)) {
      continue;
    }
    kept.push_back(std::move(turn));
  }
  turns = std::move(kept);
}

// A prompt in the making: what is the protocol's own, and what came with the messages.
class PromptWriter {
 public:
  void Control(std::string_view text) { prompt_.text += text; }
  void Text(std::string_view text) {
    if (text.empty()) return;
    const size_t begin = prompt_.text.size();
    prompt_.text += text;
    if (!prompt_.ordinary.empty() && prompt_.ordinary.back().end == begin) {
      prompt_.ordinary.back().end = prompt_.text.size();
    } else {
      prompt_.ordinary.push_back({begin, prompt_.text.size()});
    }
  }
  void Sampled(const std::string& text, const std::vector<uint32_t>& tokens) {
    const size_t begin = prompt_.text.size();
    Control(text);
    if (!tokens.empty()) prompt_.sampled.push_back({{begin, prompt_.text.size()}, tokens});
  }
  ChatPrompt Take() { return std::move(prompt_); }

 private:
  ChatPrompt prompt_;
};

void AppendSystemExtras(const ChatMessage& message, PromptWriter& out) {
  if (!message.tools.empty()) {
    out.Control("\n\n");
    out.Control(protocol::kToolsHead);
    for (const std::string& tool : message.tools) {
      if (&tool != &message.tools.front()) out.Control("\n");
      out.Text(tool);
    }
    out.Control(protocol::kToolsTail);
  }
  if (message.response_format) {
    out.Control("\n\n");
    out.Control(protocol::kResponseFormat);
    out.Text(*message.response_format);
  }
}

void AppendParameter(std::string_view name, bool is_string, std::string_view value, PromptWriter& out) {
  out.Control(protocol::kParameterBegin);
  out.Control(" name=\"");
  out.Text(name);
  out.Control(is_string ? "\" string=\"true\">" : "\" string=\"false\">");
  out.Text(value);
  out.Control(protocol::kParameterEnd);
  out.Control(">");
}

void AppendArguments(const std::string& arguments, PromptWriter& out) {
  const absl::StatusOr<JsonText> json = JsonText::Parse(arguments, kArgumentLimits);
  if (!json.ok() || json->root().kind() != JsonKind::kObject) {
    AppendParameter("arguments", true, arguments, out);
    return;
  }
  bool first = true;
  for (const auto& [name, value] : json->root().AsMembers()) {
    if (!first) out.Control("\n");
    first = false;
    std::string text;
    if (value.is_string()) {
      text = value.AsString();
    } else {
      value.DumpTo(text);
    }
    AppendParameter(name, value.is_string(), text, out);
  }
}

void AppendToolCalls(const std::vector<ChatToolCall>& calls, PromptWriter& out) {
  if (calls.empty()) return;
  out.Control("\n\n");
  out.Control(protocol::kToolCallsBegin);
  out.Control(">\n");
  for (const ChatToolCall& call : calls) {
    out.Control(protocol::kInvokeBegin);
    out.Control(" name=\"");
    out.Text(call.name);
    out.Control("\">\n");
    AppendArguments(call.arguments, out);
    out.Control("\n");
    out.Control(protocol::kInvokeEnd);
    out.Control(">\n");
  }
  out.Control(protocol::kToolCallsEnd);
}

bool HasReasoning(std::string_view sampled) { return sampled.find(protocol::kThinkEnd) != std::string_view::npos; }

class Renderer {
 public:
  Renderer(const ChatMessage* first_message, const std::vector<Turn>& turns, bool thinking, bool drop_thinking)
      : first_message_(first_message),
        turns_(turns),
        thinking_(thinking),
        drop_thinking_(drop_thinking),
        last_user_(LastUser(turns)) {}

  absl::StatusOr<ChatPrompt> Render(std::string_view effort) {
    out_.Control(protocol::kBos);
    if (thinking_ && !turns_.empty()) out_.Control(effort);
    for (size_t i = 0; i < turns_.size(); ++i) {
      RETURN_IF_ERROR(AppendTurn(i));
      if (i + 1 == turns_.size() || turns_[i + 1].role == "assistant" || turns_[i + 1].role == "latest_reminder") {
        AppendTransition(i);
      }
    }
    return out_.Take();
  }

 private:
  absl::Status AppendTurn(size_t i) {
    const Turn& turn = turns_[i];
    if (turn.role == "user") {
      out_.Control(protocol::kUser);
      for (const Block& block : turn.blocks) {
        if (&block != &turn.blocks.front()) out_.Control("\n\n");
        if (block.is_result) out_.Control("<tool_result>");
        out_.Text(block.text);
        if (block.is_result) out_.Control("</tool_result>");
      }
    } else if (turn.role == "assistant") {
      AppendAssistant(i);
    } else if (turn.role == "system") {
      out_.Text(ContentText(*turn.source));
      AppendSystemExtras(*turn.source, out_);
    } else if (turn.role == "developer") {
      const std::string content = ContentText(*turn.source);
      if (content.empty()) return Bad(turn, "content", "a developer message needs some");
      out_.Control(protocol::kUser);
      out_.Text(content);
      AppendSystemExtras(*turn.source, out_);
    } else if (turn.role == "latest_reminder") {
      out_.Control(protocol::kLatestReminder);
      out_.Text(ContentText(*turn.source));
    } else {
      return Bad(turn, "role", fmt::format("\"{}\" is unknown", turn.role));
    }
    return absl::OkStatus();
  }

  absl::Status Bad(const Turn& turn, std::string_view field, std::string_view reason) const {
    return absl::InvalidArgumentError(fmt::format("messages[{}].{}: {}", turn.source - first_message_, field, reason));
  }

  void AppendAssistant(size_t i) {
    const ChatMessage& message = *turns_[i].source;
    const bool task_before = i > 0 && !turns_[i - 1].task.empty();
    const bool reasons = thinking_ && !task_before && (!drop_thinking_ || static_cast<ptrdiff_t>(i) > last_user_);
    if (message.sampled_text && reasons == thinking_ && HasReasoning(*message.sampled_text) == thinking_) {
      out_.Sampled(*message.sampled_text, message.sampled_tokens);
      return;
    }
    if (reasons) {
      if (!turns_[i].reasoning_dropped) out_.Text(message.reasoning_content);
      out_.Control(protocol::kThinkEnd);
    }
    out_.Text(ContentText(message));
    AppendToolCalls(message.tool_calls, out_);
    if (!message.wo_eos) out_.Control(protocol::kEos);
  }

  // What makes the model speak after turn i.
  void AppendTransition(size_t i) {
    const Turn& turn = turns_[i];
    if (!turn.task.empty()) {
      if (turn.task == protocol::kActionTask) {
        out_.Control(protocol::kAssistant);
        out_.Control(thinking_ ? protocol::kThinkBegin : protocol::kThinkEnd);
      }
      const auto* const task = std::find_if(protocol::kTaskTokens.begin(), protocol::kTaskTokens.end(),
                                            [&turn](const auto& entry) { return entry.first == turn.task; });
      out_.Control(task->second);
    } else if (turn.role == "user" || turn.role == "developer") {
      const bool thinks = thinking_ && (!drop_thinking_ || static_cast<ptrdiff_t>(i) >= last_user_);
      out_.Control(protocol::kAssistant);
      out_.Control(thinks ? protocol::kThinkBegin : protocol::kThinkEnd);
    }
  }

  const ChatMessage* const first_message_;
  const std::vector<Turn>& turns_;
  const bool thinking_;
  const bool drop_thinking_;
  const ptrdiff_t last_user_;
  PromptWriter out_;
};

bool IsTask(std::string_view task) {
  return std::any_of(protocol::kTaskTokens.begin(), protocol::kTaskTokens.end(),
                     [task](const auto& entry) { return entry.first == task; });
}

bool HasTools(const ChatMessage& message) {
  return !message.tools.empty() && message.role != "user" && message.role != "tool";
}

}  // namespace

bool ThinkingIsDropped(const std::vector<ChatMessage>& messages, const ChatOptions& options) {
  return options.thinking_mode == ThinkingMode::kThinking && options.drop_thinking &&
         std::none_of(messages.begin(), messages.end(), HasTools);
}

absl::StatusOr<std::string> RenderChat(const std::vector<ChatMessage>& messages, const ChatOptions& options) {
  ASSIGN_OR_RETURN(ChatPrompt prompt, RenderChatPrompt(messages, options));
  return std::move(prompt.text);
}

// What is sampled stands between control tokens, so that nothing is merged across its borders.
absl::StatusOr<std::vector<uint32_t>> EncodePrompt(const Tokenizer& tokenizer, const ChatPrompt& prompt,
                                                   size_t max_tokens) {
  std::vector<uint32_t> out;
  size_t begin = 0;
  auto ordinary = prompt.ordinary.begin();
  const auto encode_up_to = [&](size_t end) -> absl::Status {
    std::vector<TextRange> ranges;
    for (; ordinary != prompt.ordinary.end() && ordinary->end <= end; ++ordinary) {
      ranges.push_back({ordinary->begin - begin, ordinary->end - begin});
    }
    ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens,
                     tokenizer.EncodeMixed(std::string_view(prompt.text).substr(begin, end - begin), ranges,
                                           max_tokens - out.size()));
    out.insert(out.end(), tokens.begin(), tokens.end());
    return absl::OkStatus();
  };
  for (const ChatPrompt::Sampled& sampled : prompt.sampled) {
    RETURN_IF_ERROR(encode_up_to(sampled.range.begin));
    if (sampled.tokens.size() > max_tokens - out.size()) {
      return absl::ResourceExhaustedError(fmt::format("more than {} tokens", max_tokens));
    }
    out.insert(out.end(), sampled.tokens.begin(), sampled.tokens.end());
    begin = sampled.range.end;
  }
  RETURN_IF_ERROR(encode_up_to(prompt.text.size()));
  return out;
}

absl::StatusOr<ChatPrompt> RenderChatPrompt(const std::vector<ChatMessage>& messages, const ChatOptions& options) {
  ASSIGN_OR_RETURN(const std::string_view effort, EffortText(options));
  std::vector<Turn> turns;
  for (const ChatMessage& message : messages) {
    if (!message.task.empty() && !IsTask(message.task)) {
      return absl::InvalidArgumentError(
          fmt::format("messages[{}].task: \"{}\" is unknown", &message - messages.data(), message.task));
    }
    if (message.role == "tool") {
      AddToolResult(message, turns);
    } else if (message.role == "user") {
      AddUserText(message, turns);
    } else {
      turns.push_back({.role = message.role, .source = &message, .task = message.task});
    }
  }
  SortResults(turns);
  const bool thinking = options.thinking_mode == ThinkingMode::kThinking;
  const bool forced_keep = std::any_of(messages.begin(), messages.end(), HasTools);
  if (ThinkingIsDropped(messages, options)) DropThinking(turns);
  return Renderer(messages.data(), turns, thinking, options.drop_thinking && !forced_keep).Render(effort);
}

absl::StatusOr<std::string> DumpJsonPythonStyle(std::string_view json) {
  JsonLimits limits = kArgumentLimits;
  ASSIGN_OR_RETURN(const JsonText text, JsonText::Parse(json, limits));
  std::string out;
  text.root().DumpTo(out);
  return out;
}

}  // namespace longshelf::tokenizer
