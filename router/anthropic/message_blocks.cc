#include "message_blocks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "chat_fields.h"
#include "late_system.h"

namespace longshelf::router {
namespace {

using tokenizer::ChatMessage;
using tokenizer::ChatToolCall;

constexpr std::string_view kNoMedia =
    "is not supported: this model reads no images, files or audio, and nothing is ever fetched on behalf of a request";

ChatMessage EmptyMessage(std::string_view role) {
  ChatMessage message;
  message.role = std::string(role);
  message.content = "";
  return message;
}

class MessagesReader {
 public:
  MessagesReader(const SizeLimits& limits, const ThinkingSigner& signer, size_t id_bytes_max, ApiRequest& request)
      : limits_(limits), signer_(signer), id_bytes_max_(id_bytes_max), out_(request.messages) {}

  std::optional<ApiError> Read(const JsonValue& value) {
    const auto array = AsArray(value);
    if (!array) return InvalidField("messages", "must be a list");
    size_t n = 0;
    for (const JsonValue& entry : *array) {
      if (n >= limits_.messages) {
        return InvalidField("messages", absl::StrCat("may hold at most ", limits_.messages, " messages"));
      }
      if (auto error = ReadMessage(entry, absl::StrCat("messages[", n++, "]"))) return error;
    }
    if (n == 0) return InvalidField("messages", "must hold at least one message");
    if (!open_calls_.empty() && !is_last_assistant_) return Unanswered();
    EndWithATurn(out_);
    return std::nullopt;
  }
  bool is_last_assistant() const { return is_last_assistant_; }

 private:
  std::optional<ApiError> ReadMessage(const JsonValue& value, const std::string& where) {
    const auto object = AsObject(value);
    if (!object) return InvalidField(where, "must be an object with role and content");
    const auto role = TextMember(*object, "role");
    if (!role || (*role != "user" && *role != "assistant" && *role != "system")) {
      return InvalidField(where + ".role", "must be user, assistant or system");
    }
    const auto content = Member(*object, "content");
    if (!content) return InvalidField(where + ".content", "must be a string or a list of blocks");
    if (*role == "assistant" && !is_last_assistant_ && !open_calls_.empty()) return Unanswered();
    is_last_assistant_ = *role == "assistant";
    if (is_last_assistant_ && (out_.empty() || out_.back().role != "assistant")) {
      out_.push_back(EmptyMessage("assistant"));
    }
    calls_where_ = is_last_assistant_ ? where : calls_where_;
    user_text_.reset();
    if (const auto text = AsString(*content)) {
      AddTextOf(*role, *text);
    } else {
      const auto blocks = AsArray(*content);
      if (!blocks) return InvalidField(where + ".content", "must be a string or a list of blocks");
      if (auto error = ReadBlocks(*blocks, *role, where + ".content")) return error;
    }
    return std::nullopt;
  }

  // An empty message is one all the same.
  void AddTextOf(std::string_view role, std::string_view text) {
    if (role == "assistant") return AddText(text, *out_.back().content);
    if (!user_text_) {
      user_text_ = out_.size();
      out_.push_back(EmptyMessage(role == "system" && !MayBeSystem(out_) ? "user" : role));
    }
    AddText(text, *out_[*user_text_].content);
  }

  std::optional<ApiError> ReadBlocks(const JsonArray& blocks, std::string_view role, const std::string& where) {
    size_t n = 0;
    for (const JsonValue& value : blocks) {
      const std::string here = absl::StrCat(where, "[", n, "]");
      if (n++ >= limits_.content_parts) {
        return InvalidField(where, absl::StrCat("may hold at most ", limits_.content_parts, " blocks"));
      }
      const auto block = AsObject(value);
      const auto type_field = block ? Member(*block, "type") : std::nullopt;
      const auto type = type_field ? AsString(*type_field) : std::nullopt;
      if (!type) return InvalidField(here + ".type", "must be a string");
      if (auto error = ReadBlock(*block, *type, role, here)) return error;
    }
    if (n == 0) return InvalidField(where, "must hold at least one block");
    return std::nullopt;
  }

  std::optional<ApiError> ReadBlock(const JsonObject& block, std::string_view type, std::string_view role,
                                    const std::string& here) {
    const bool is_assistant = role == "assistant";
    if (type == "text") {
      const auto field = Member(block, "text");
      const auto text = field ? AsString(*field) : std::nullopt;
      if (!text) return InvalidField(here + ".text", "must be a string");
      AddTextOf(role, *text);
      return std::nullopt;
    }
    if (type == "tool_use" && is_assistant) return ReadToolUse(block, here);
    if (type == "thinking" && is_assistant) return ReadThinkingBlock(block, here);
    if (type == "tool_result" && role == "user") return ReadToolResult(block, here);
    if (type == "image" || type == "document") return InvalidField(here + ".type", kNoMedia);
    return InvalidField(here + ".type", is_assistant ? "must be text, thinking or tool_use in an assistant message"
                                                     : "must be text or tool_result in a user message");
  }

  std::optional<ApiError> ReadId(const JsonObject& block, std::string_view name, const std::string& here,
                                 std::string& id) {
    const auto field = Member(block, name);
    const auto text = field ? AsString(*field) : std::nullopt;
    if (!text || text->empty() || text->size() > id_bytes_max_) {
      return InvalidField(absl::StrCat(here, ".", absl::string_view(name.data(), name.size())),
                          absl::StrCat("must be a string of 1 to ", id_bytes_max_, " bytes"));
    }
    id = std::string(*text);
    return std::nullopt;
  }

  std::optional<ApiError> ReadToolUse(const JsonObject& block, const std::string& here) {
    ChatMessage& message = out_.back();
    if (message.tool_calls.size() >= limits_.tool_calls) {
      return InvalidField(here, absl::StrCat("is one too many: a message may hold at most ", limits_.tool_calls));
    }
    ChatToolCall call;
    if (auto error = ReadId(block, "id", here, call.id)) return error;
    const auto name = TextMember(block, "name");
    if (!name || name->empty() || name->size() > limits_.tool_name_bytes) {
      return InvalidField(here + ".name", absl::StrCat("must be a string of 1 to ", limits_.tool_name_bytes, " bytes"));
    }
    call.name = std::string(*name);
    const auto input = Member(block, "input");
    if (!input || !AsObject(*input)) return InvalidField(here + ".input", "must be an object");
    call.arguments = simdjson::minify(*input);
    open_calls_.push_back(call.id);
    message.tool_calls.push_back(std::move(call));
    return std::nullopt;
  }

  std::optional<ApiError> ReadThinkingBlock(const JsonObject& block, const std::string& here) {
    const auto text = TextMember(block, "thinking");
    if (!text) return InvalidField(here + ".thinking", "must be a string");
    const auto signature = TextMember(block, "signature");
    if (!signature || !signer_.Verify(*text, *signature)) {
      return InvalidField(here + ".signature",
                          "was not made by this service for this thinking: send the block back as it came, or leave "
                          "it out");
    }
    AddText(*text, out_.back().reasoning_content);
    return std::nullopt;
  }

  std::optional<ApiError> ReadToolResult(const JsonObject& block, const std::string& here) {
    ChatMessage message = EmptyMessage("tool");
    if (auto error = ReadId(block, "tool_use_id", here, message.tool_call_id)) return error;
    const auto call = std::find(open_calls_.begin(), open_calls_.end(), message.tool_call_id);
    if (call == open_calls_.end()) {
      return InvalidField(here + ".tool_use_id",
                          "must be the id of a tool_use in the assistant message before, answered once");
    }
    open_calls_.erase(call);
    const auto content = Member(block, "content");
    if (content && !IsNull(*content)) {
      std::vector<std::string> texts;
      if (const auto text = AsString(*content)) {
        texts.emplace_back(*text);
      } else {
        const auto blocks = AsArray(*content);
        if (!blocks) return InvalidField(here + ".content", "must be a string or a list of text blocks");
        if (auto error = ReadTextBlocks(*blocks, here + ".content", limits_, texts)) return error;
      }
      for (const std::string& text : texts) AddText(text, *message.content);
    }
    bool is_error = false;
    if (auto error = ReadFlag(block, "is_error", is_error)) return WithPlace(here, error);
    if (is_error && message.content->empty()) message.content = "error";
    out_.push_back(std::move(message));
    user_text_.reset();
    return std::nullopt;
  }

  ApiError Unanswered() const {
    return InvalidField(calls_where_, absl::StrCat("holds tool_use `", open_calls_.front().substr(0, 64),
                                                   "` without a tool_result in the message behind it"));
  }

  const SizeLimits& limits_;
  const ThinkingSigner& signer_;
  const size_t id_bytes_max_;
  std::vector<ChatMessage>& out_;
  std::vector<std::string> open_calls_;  // of the assistant message before, not answered yet
  std::string calls_where_;
  std::optional<size_t> user_text_;  // of this message, behind its last tool result: where its text goes
  bool is_last_assistant_ = false;
};

}  // namespace

std::optional<ApiError> ReadTextBlocks(const JsonArray& blocks, const std::string& where, const SizeLimits& limits,
                                       std::vector<std::string>& texts) {
  for (const JsonValue& value : blocks) {
    const std::string here = absl::StrCat(where, "[", texts.size(), "]");
    if (texts.size() >= limits.content_parts) {
      return InvalidField(where, absl::StrCat("may hold at most ", limits.content_parts, " blocks"));
    }
    const auto block = AsObject(value);
    const auto type_field = block ? Member(*block, "type") : std::nullopt;
    const auto type = type_field ? AsString(*type_field) : std::nullopt;
    if (!type) return InvalidField(here + ".type", "must be a string");
    if (*type != "text") return InvalidField(here + ".type", kNoMedia);
    const auto text = TextMember(*block, "text");
    if (!text) return InvalidField(here + ".text", "must be a string");
    texts.emplace_back(*text);
  }
  return std::nullopt;
}

std::optional<ApiError> ReadMessageBlocks(const JsonValue& messages, const SizeLimits& limits,
                                          const ThinkingSigner& signer, size_t id_bytes_max, ApiRequest& request) {
  MessagesReader reader(limits, signer, id_bytes_max, request);
  if (auto error = reader.Read(messages)) return error;
  if (!reader.is_last_assistant()) return std::nullopt;
  // An answer that the client has begun.
  ChatMessage& last = request.messages.back();
  if (!last.tool_calls.empty()) return InvalidField("messages", "must not end with a tool_use: send its tool_result");
  last.wo_eos = true;
  request.continues_assistant = true;
  return std::nullopt;
}

}  // namespace longshelf::router
