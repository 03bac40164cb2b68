#include "messages_answer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "json_dump.h"
#include "sse.h"

namespace longshelf::router {
namespace {

using Json = nlohmann::ordered_json;

std::string Event(std::string_view name, const Json& json) { return NamedEvent(name, DumpJson(json)); }

Json UsageJson(const Usage& usage) {
  return {{"input_tokens", usage.n_prompt_tokens - usage.n_cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.n_cached_tokens},
          {"output_tokens", usage.n_completion_tokens},
          {"service_tier", "standard"}};
}

Json OrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

// The same id as other APIs give it, with Anthropic's prefix.
std::string ToolUseId(std::string_view call_id) {
  constexpr std::string_view kPrefix = "call_";
  if (call_id.starts_with(kPrefix)) call_id.remove_prefix(kPrefix.size());
  return absl::StrCat("toolu_", absl::string_view(call_id.data(), call_id.size()));
}

// Of arguments that were cut off, the members that are complete beyond doubt.
std::string CompleteMembers(std::string_view arguments) {
  size_t end = std::min<size_t>(1, arguments.size());
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const char c = arguments[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ',' && depth == 1) {
      end = i;
    }
  }
  return end == 0 ? "{}" : std::string(arguments.substr(0, end)) + "}";
}

}  // namespace

void MessagesAnswer::AnsweredBy(std::string, const Usage& usage) { usage_ = usage; }

std::string MessagesAnswer::Open(Block block) {
  if (open_ == block.kind && block.kind != BlockKind::kToolUse) return "";
  std::string out = Close(/*is_complete=*/true);
  open_ = block.kind;
  is_at_begin_ = true;
  if (block.kind == BlockKind::kThinking) signature_.emplace(signer_);
  out += BeginBlock(block);
  return out;
}

std::string MessagesAnswer::Close(bool is_complete) {
  if (!open_) return "";
  open_.reset();
  has_blocks_ = true;
  const std::string signature = signature_ ? signature_->Finish() : "";
  signature_.reset();
  return EndBlock(signature, is_complete);
}

std::string MessagesAnswer::Delta(uint32_t, const ChoiceDelta& delta) {
  std::string out;
  for (const AnswerPart& part : delta.parts) {
    std::string_view text = part.text;
    switch (part.kind) {
      case AnswerPart::Kind::kReasoning:
        out += Open({BlockKind::kThinking, "", ""});
        signature_->Add(text);
        break;
      case AnswerPart::Kind::kContent:
        out += Open({BlockKind::kText, "", ""});
        // What parts it from the text in front of a call.
        if (is_at_begin_ && has_blocks_) text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
        break;
      case AnswerPart::Kind::kCallBegin:
        out += Open({BlockKind::kToolUse, ToolUseId(part.call_id), part.text});
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

std::string MessagesAnswer::Finished(uint32_t, const ChoiceEnd& end) {
  stop_sequence_ = std::string(end.stop_string);
  if (end.finish_reason == "tool_calls") {
    stop_reason_ = "tool_use";
  } else if (end.finish_reason == "length") {
    stop_reason_ = head_.context_is_limit ? "model_context_window_exceeded" : "max_tokens";
  } else {
    stop_reason_ = stop_sequence_.empty() ? "end_turn" : "stop_sequence";
  }
  return Close(/*is_complete=*/open_ != BlockKind::kToolUse);
}

std::string MessagesStream::Opening() {
  const Json message = {{"id", head_.id},           {"type", "message"},         {"role", "assistant"},
                        {"model", head_.model},     {"content", Json::array()},  {"stop_reason", nullptr},
                        {"stop_sequence", nullptr}, {"usage", UsageJson(usage_)}};
  return Event("message_start", {{"type", "message_start"}, {"message", message}}) + KeepAlive();
}

std::string MessagesStream::BeginBlock(const Block& block) {
  ++index_;
  kind_ = block.kind;
  Json start;
  switch (block.kind) {
    case BlockKind::kText:
      start = {{"type", "text"}, {"text", ""}};
      break;
    case BlockKind::kThinking:
      start = {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
      break;
    case BlockKind::kToolUse:
      start = {{"type", "tool_use"}, {"id", block.id}, {"name", block.name}, {"input", Json::object()}};
      break;
  }
  return Event("content_block_start",
               {{"type", "content_block_start"}, {"index", index_}, {"content_block", std::move(start)}});
}

std::string MessagesStream::AddToBlock(std::string_view text) {
  Json delta;
  switch (kind_) {
    case BlockKind::kText:
      delta = {{"type", "text_delta"}, {"text", text}};
      break;
    case BlockKind::kThinking:
      delta = {{"type", "thinking_delta"}, {"thinking", text}};
      break;
    case BlockKind::kToolUse:
      delta = {{"type", "input_json_delta"}, {"partial_json", text}};
      break;
  }
  return Event("content_block_delta",
               {{"type", "content_block_delta"}, {"index", index_}, {"delta", std::move(delta)}});
}

std::string MessagesStream::EndBlock(const std::string& signature, bool) {
  std::string out;
  if (!signature.empty()) {
    out = Event("content_block_delta", {{"type", "content_block_delta"},
                                        {"index", index_},
                                        {"delta", {{"type", "signature_delta"}, {"signature", signature}}}});
  }
  return out + Event("content_block_stop", {{"type", "content_block_stop"}, {"index", index_}});
}

std::string MessagesStream::Done(const Usage& usage) {
  const Json delta = {{"stop_reason", stop_reason_}, {"stop_sequence", OrNull(stop_sequence_)}};
  return Event("message_delta", {{"type", "message_delta"}, {"delta", delta}, {"usage", UsageJson(usage)}}) +
         Event("message_stop", {{"type", "message_stop"}});
}

std::string MessagesStream::Error(const ApiError& error) {
  return NamedEvent("error", ErrorBody(error, ApiStyle::kAnthropic));
}

std::string MessagesStream::Progress(const PrefillProgress& progress) { return ProgressComment(progress); }
std::string MessagesStream::KeepAlive() { return Event("ping", {{"type", "ping"}}); }

std::string MessagesWhole::BeginBlock(const Block& block) {
  block_ = block;
  text_.clear();
  return "";
}

std::string MessagesWhole::AddToBlock(std::string_view text) {
  text_ += text;
  return "";
}

std::string MessagesWhole::EndBlock(const std::string& signature, bool is_complete) {
  if (!content_.empty()) content_ += ',';
  switch (block_.kind) {
    case BlockKind::kText:
      content_ += DumpJson({{"type", "text"}, {"text", text_}});
      break;
    case BlockKind::kThinking:
      content_ += DumpJson({{"type", "thinking"}, {"thinking", text_}, {"signature", signature}});
      break;
    case BlockKind::kToolUse: {
      std::string head = DumpJson({{"type", "tool_use"}, {"id", block_.id}, {"name", block_.name}});
      head.pop_back();
      absl::StrAppend(&content_, head, ",\"input\":", is_complete ? text_ : CompleteMembers(text_), "}");
      break;
    }
  }
  return "";
}

std::string MessagesWhole::Done(const Usage& usage) {
  std::string head = DumpJson({{"id", head_.id}, {"type", "message"}, {"role", "assistant"}, {"model", head_.model}});
  head.pop_back();
  const std::string tail =
      DumpJson({{"stop_reason", stop_reason_}, {"stop_sequence", OrNull(stop_sequence_)}, {"usage", UsageJson(usage)}});
  return absl::StrCat(head, ",\"content\":[", content_, "],", tail.substr(1));
}

std::string TokenCountJson(const PreparedRequest& prepared) {
  return DumpJson({{"input_tokens", prepared.prompt->size()}});
}

std::string MessagesWhole::Error(const ApiError& error) { return ErrorBody(error, ApiStyle::kAnthropic); }

}  // namespace longshelf::router
