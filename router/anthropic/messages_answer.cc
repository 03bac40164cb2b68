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

constexpr std::string_view kToolUsePrefix = "toolu_";

std::string Event(std::string_view name, const Json& json) { return NamedEvent(name, DumpJson(json)); }

Json UsageJson(const Usage& usage) {
  return {{"input_tokens", usage.n_prompt_tokens - usage.n_cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.n_cached_tokens},
          {"output_tokens", usage.n_completion_tokens},
          {"service_tier", "standard"}};
}

Json OrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

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

std::string MessagesAnswer::BeginBlock(const Block& block) {
  block_ = block;
  if (block.kind == BlockKind::kReasoning) signature_.emplace(signer_);
  return WriteBegin();
}

std::string MessagesAnswer::AddToBlock(std::string_view text) {
  if (signature_) signature_->Add(text);
  return WriteText(text);
}

std::string MessagesAnswer::EndBlock(bool is_complete) {
  const std::string signature = signature_ ? signature_->Finish() : "";
  signature_.reset();
  return WriteEnd(signature, is_complete);
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
  return EndLastBlock(end.finish_reason);
}

std::string MessagesStream::Opening() {
  const Json message = {{"id", head_.id},           {"type", "message"},         {"role", "assistant"},
                        {"model", head_.model},     {"content", Json::array()},  {"stop_reason", nullptr},
                        {"stop_sequence", nullptr}, {"usage", UsageJson(usage_)}};
  return Event("message_start", {{"type", "message_start"}, {"message", message}}) + KeepAlive();
}

std::string MessagesStream::WriteBegin() {
  ++index_;
  Json start;
  switch (block_.kind) {
    case BlockKind::kText:
      start = {{"type", "text"}, {"text", ""}};
      break;
    case BlockKind::kReasoning:
      start = {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
      break;
    case BlockKind::kCall:
      start = {{"type", "tool_use"},
               {"id", WithPrefix(kToolUsePrefix, block_.call_id)},
               {"name", block_.name},
               {"input", Json::object()}};
      break;
  }
  return Event("content_block_start",
               {{"type", "content_block_start"}, {"index", index_}, {"content_block", std::move(start)}});
}

std::string MessagesStream::WriteText(std::string_view text) {
  Json delta;
  switch (block_.kind) {
    case BlockKind::kText:
      delta = {{"type", "text_delta"}, {"text", text}};
      break;
    case BlockKind::kReasoning:
      delta = {{"type", "thinking_delta"}, {"thinking", text}};
      break;
    case BlockKind::kCall:
      delta = {{"type", "input_json_delta"}, {"partial_json", text}};
      break;
  }
  return Event("content_block_delta",
               {{"type", "content_block_delta"}, {"index", index_}, {"delta", std::move(delta)}});
}

std::string MessagesStream::WriteEnd(const std::string& signature, bool) {
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

std::string MessagesWhole::WriteBegin() {
  text_.clear();
  return "";
}

std::string MessagesWhole::WriteText(std::string_view text) {
  text_ += text;
  return "";
}

std::string MessagesWhole::WriteEnd(const std::string& signature, bool is_complete) {
  if (!content_.empty()) content_ += ',';
  switch (block_.kind) {
    case BlockKind::kText:
      content_ += DumpJson({{"type", "text"}, {"text", text_}});
      break;
    case BlockKind::kReasoning:
      content_ += DumpJson({{"type", "thinking"}, {"thinking", text_}, {"signature", signature}});
      break;
    case BlockKind::kCall: {
      std::string head =
          DumpJson({{"type", "tool_use"}, {"id", WithPrefix(kToolUsePrefix, block_.call_id)}, {"name", block_.name}});
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
  return DumpJson({{"input_tokens", prepared.first().tokens->size()}});
}

std::string MessagesWhole::Error(const ApiError& error) { return ErrorBody(error, ApiStyle::kAnthropic); }

}  // namespace longshelf::router
