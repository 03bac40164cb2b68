#include "input_items.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "chat_fields.h"
#include "late_system.h"

namespace longshelf::router {
namespace {

using tokenizer::ChatMessage;
using tokenizer::ChatToolCall;

constexpr size_t kIdBytesMax = 256;

class InputReader {
 public:
  InputReader(const SizeLimits& limits, std::vector<ChatMessage>& out) : limits_(limits), out_(out) {}

  std::optional<ApiError> Read(const JsonArray& items) {
    size_t n = 0;
    for (const JsonValue& value : items) {
      if (n >= limits_.messages) {
        return InvalidField("input", absl::StrCat("may hold at most ", limits_.messages, " items"));
      }
      const std::string where = absl::StrCat("input[", n++, "]");
      const auto item = AsObject(value);
      if (!item) return InvalidField(where, "must be an object");
      if (auto error = ReadItem(*item, where)) return error;
    }
    if (n == 0) return InvalidField("input", "must hold at least one item");
    if (!open_calls_.empty()) return Unanswered();
    return std::nullopt;
  }

 private:
  std::optional<ApiError> ReadItem(const JsonObject& item, const std::string& where) {
    const std::string_view type = TextMember(item, "type").value_or("message");
    if (type == "message") return ReadMessage(item, where);
    if (type == "reasoning") return ReadReasoning(item, where);
    if (type == "function_call") return ReadCall(item, where);
    if (type == "function_call_output") return ReadOutput(item, where);
    if (type == "item_reference") {
      return InvalidField(where + ".type",
                          "cannot be item_reference: responses are not kept here; send the item itself");
    }
    return InvalidField(where + ".type", "must be message, reasoning, function_call or function_call_output");
  }

  // Text, or a list of parts of one of these types.
  std::optional<ApiError> ReadContent(const JsonValue& value, const std::string& where, std::string& out) {
    if (const auto text = AsString(value)) {
      AddText(*text, out);
      return std::nullopt;
    }
    const auto parts = AsArray(value);
    if (!parts) return InvalidField(where, "must be a string or a list of parts");
    size_t n = 0;
    for (const JsonValue& each : *parts) {
      const std::string here = absl::StrCat(where, "[", n, "]");
      if (n++ >= limits_.content_parts) {
        return InvalidField(where, absl::StrCat("may hold at most ", limits_.content_parts, " parts"));
      }
      const auto part = AsObject(each);
      const auto type = part ? TextMember(*part, "type") : std::nullopt;
      if (!type) return InvalidField(here + ".type", "must be a string");
      const bool is_refusal = *type == "refusal";
      if (*type != "input_text" && *type != "output_text" && *type != "text" && *type != "reasoning_text" &&
          !is_refusal) {
        return InvalidField(here + ".type",
                            "must be input_text, output_text or refusal: this model reads no images, files or audio, "
                            "and nothing is ever fetched on behalf of a request");
      }
      const auto text = TextMember(*part, is_refusal ? "refusal" : "text");
      if (!text) return InvalidField(here + (is_refusal ? ".refusal" : ".text"), "must be a string");
      AddText(*text, out);
    }
    return std::nullopt;
  }

  ChatMessage& Add(std::string_view role) {
    ChatMessage& message = out_.emplace_back();
    message.role = std::string(role);
    message.content = "";
    return message;
  }
  ChatMessage& Assistant() { return out_.empty() || out_.back().role != "assistant" ? Add("assistant") : out_.back(); }

  std::optional<ApiError> ReadMessage(const JsonObject& item, const std::string& where) {
    const auto role = TextMember(item, "role");
    if (!role || (*role != "user" && *role != "assistant" && *role != "system" && *role != "developer")) {
      return InvalidField(where + ".role", "must be user, assistant, system or developer");
    }
    const auto content = Member(item, "content");
    if (!content) return InvalidField(where + ".content", "must be a string or a list of parts");
    const bool is_assistant = *role == "assistant";
    if (!is_assistant && !open_calls_.empty()) return Unanswered();
    const bool is_system = *role == "developer" || *role == "system";
    ChatMessage& message = is_assistant ? Assistant() : Add(is_system && MayBeSystem(out_) ? "system" : "user");
    return ReadContent(*content, where + ".content", *message.content);
  }

  std::optional<ApiError> ReadReasoning(const JsonObject& item, const std::string& where) {
    const auto content = Member(item, "content");
    if (!content || IsNull(*content)) return std::nullopt;  // of another service: there is nothing to read
    return ReadContent(*content, where + ".content", Assistant().reasoning_content);
  }

  std::optional<ApiError> ReadCall(const JsonObject& item, const std::string& where) {
    ChatToolCall call;
    if (auto error = ReadId(item, where, call.id)) return error;
    const auto name = TextMember(item, "name");
    if (!name || name->empty() || name->size() > limits_.tool_name_bytes) {
      return InvalidField(where + ".name",
                          absl::StrCat("must be a string of 1 to ", limits_.tool_name_bytes, " bytes"));
    }
    const auto arguments = TextMember(item, "arguments");
    if (!arguments) return InvalidField(where + ".arguments", "must be a string of JSON");
    call.name = std::string(*name);
    call.arguments = std::string(*arguments);
    ChatMessage& message = Assistant();
    if (message.tool_calls.size() >= limits_.tool_calls) {
      return InvalidField(where,
                          absl::StrCat("is one too many: a turn may hold at most ", limits_.tool_calls, " calls"));
    }
    open_calls_.push_back(call.id);
    message.tool_calls.push_back(std::move(call));
    return std::nullopt;
  }

  std::optional<ApiError> ReadOutput(const JsonObject& item, const std::string& where) {
    std::string id;
    if (auto error = ReadId(item, where, id)) return error;
    const auto call = std::find(open_calls_.begin(), open_calls_.end(), id);
    if (call == open_calls_.end()) {
      return InvalidField(where + ".call_id", "must be the call_id of a function_call before it, answered once");
    }
    open_calls_.erase(call);
    const auto output = Member(item, "output");
    if (!output) return InvalidField(where + ".output", "must be a string or a list of parts");
    ChatMessage& message = Add("tool");
    message.tool_call_id = std::move(id);
    return ReadContent(*output, where + ".output", *message.content);
  }

  static std::optional<ApiError> ReadId(const JsonObject& item, const std::string& where, std::string& id) {
    const auto text = TextMember(item, "call_id");
    if (!text || text->empty() || text->size() > kIdBytesMax) {
      return InvalidField(where + ".call_id", absl::StrCat("must be a string of 1 to ", kIdBytesMax, " bytes"));
    }
    id = std::string(*text);
    return std::nullopt;
  }

  ApiError Unanswered() const {
    return InvalidField(
        "input", absl::StrCat("has no function_call_output for the call `", open_calls_.front().substr(0, 64), "`"));
  }

  const SizeLimits& limits_;
  std::vector<ChatMessage>& out_;
  std::vector<std::string> open_calls_;  // not answered yet
};

}  // namespace

std::optional<ApiError> ReadInput(const JsonValue& input, const SizeLimits& limits, ApiRequest& request) {
  if (const auto text = AsString(input)) {
    ChatMessage& message = request.messages.emplace_back();
    message.role = "user";
    message.content = std::string(*text);
    return std::nullopt;
  }
  const auto items = AsArray(input);
  if (!items) return InvalidField("input", "must be a string or a list of items");
  if (auto error = InputReader(limits, request.messages).Read(*items)) return error;
  EndWithATurn(request.messages);
  if (request.messages.back().role == "assistant") {
    return InvalidField("input", "must end with a message of a user or the output of a call");
  }
  return std::nullopt;
}

}  // namespace longshelf::router
