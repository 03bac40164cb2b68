#include "cli/chat_session.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace longshelf::cli {
namespace {

using Json = nlohmann::json;

constexpr size_t kEventBytesMax = 4 << 20;

Json ParseJson(const std::string& text) { return Json::parse(text, nullptr, /*allow_exceptions=*/false); }

// The member as a string, or "" when it is missing or something else.
std::string TextOf(const Json& object, const char* name) {
  if (!object.is_object()) return "";
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

int64_t NumberOf(const Json& object, const char* name, int64_t otherwise) {
  if (!object.is_object()) return otherwise;
  const auto it = object.find(name);
  return it != object.end() && it->is_number_integer() ? it->get<int64_t>() : otherwise;
}

}  // namespace

std::string ChatSession::RequestBody(const std::string& user_text) const {
  Json messages = Json::array();
  if (!settings_.system.empty()) messages.push_back({{"role", "system"}, {"content", settings_.system}});
  for (const Turn& turn : turns_) {
    messages.push_back({{"role", "user"}, {"content", turn.user}});
    messages.push_back({{"role", "assistant"}, {"content", turn.assistant}});
  }
  messages.push_back({{"role", "user"}, {"content", user_text}});
  Json body = {{"model", settings_.model},
               {"messages", std::move(messages)},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (!settings_.thinking.empty()) body["thinking"] = {{"type", settings_.thinking}};
  if (!settings_.effort.empty()) body["reasoning_effort"] = settings_.effort;
  if (settings_.max_tokens) body["max_tokens"] = *settings_.max_tokens;
  if (settings_.temperature) body["temperature"] = *settings_.temperature;
  if (settings_.top_p) body["top_p"] = *settings_.top_p;
  if (settings_.seed) body["seed"] = *settings_.seed;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void ChatSession::AddTurn(std::string user_text, std::string answer) {
  turns_.push_back({std::move(user_text), std::move(answer)});
}

void AnswerStream::Feed(absl::string_view bytes) {
  while (!bytes.empty() && status_.ok()) {
    const size_t end = bytes.find('\n');
    absl::StrAppend(&line_, bytes.substr(0, end));
    if (line_.size() + data_.size() > kEventBytesMax) {
      status_ = absl::ResourceExhaustedError("the server sent an event larger than 4 MiB");
      return;
    }
    if (end == absl::string_view::npos) return;
    bytes.remove_prefix(end + 1);
    TakeLine(absl::StripSuffix(line_, "\r"));
    line_.clear();
  }
}

void AnswerStream::TakeLine(absl::string_view line) {
  if (line.empty()) {
    if (!data_.empty()) TakeEvent(std::exchange(data_, {}));
    return;
  }
  if (!absl::ConsumePrefix(&line, "data:")) return;  // a comment, or a field that says nothing here
  absl::ConsumePrefix(&line, " ");
  absl::StrAppend(&data_, data_.empty() ? "" : "\n", line);
}

void AnswerStream::TakeEvent(const std::string& data) {
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  const Json event = ParseJson(data);
  if (!event.is_object()) {
    status_ = absl::UnavailableError("the server sent an event that is not JSON");
    return;
  }
  if (event.contains("error")) {
    status_ = absl::UnavailableError(ErrorMessage(data));
    return;
  }
  if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
    n_prompt_tokens_ = NumberOf(*usage, "prompt_tokens", -1);
    n_cached_tokens_ = NumberOf(*usage, "prompt_cache_hit_tokens", -1);
    n_completion_tokens_ = NumberOf(*usage, "completion_tokens", -1);
  }
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty() || !(*choices)[0].is_object()) return;
  const Json& choice = (*choices)[0];
  if (const std::string reason = TextOf(choice, "finish_reason"); !reason.empty()) finish_reason_ = reason;
  const auto delta = choice.find("delta");
  if (delta == choice.end()) return;
  if (const std::string text = TextOf(*delta, "reasoning_content"); !text.empty()) on_text_(Kind::kReasoning, text);
  if (const std::string text = TextOf(*delta, "content"); !text.empty()) {
    content_ += text;
    on_text_(Kind::kContent, text);
  }
}

std::string ErrorMessage(const std::string& body) {
  const Json json = ParseJson(body);
  if (json.is_object() && json.contains("error")) {
    const Json& error = json["error"];
    std::string message = error.is_string() ? error.get<std::string>() : TextOf(error, "message");
    if (!message.empty()) return message;
  }
  return body.substr(0, 200);
}

std::vector<std::string> ModelNames(const std::string& body) {
  std::vector<std::string> names;
  const Json json = ParseJson(body);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_array()) return names;
  for (const Json& model : json["data"]) {
    if (std::string id = TextOf(model, "id"); !id.empty()) names.push_back(std::move(id));
  }
  return names;
}

std::string ForTerminal(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c1) {
      ++i;
    } else if ((byte >= 0x20 && byte != 0x7F) || byte == '\n' || byte == '\t') {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace longshelf::cli
