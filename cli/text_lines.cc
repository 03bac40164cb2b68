#include "cli/text_lines.h"

#include <fmt/format.h>

#include <functional>
#include <istream>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_json.h"
#include "tokenizer/json_text.h"

namespace longshelf::cli {
namespace {

using tokenizer::JsonKind;
using tokenizer::JsonText;

// A prompt of a million tokens as text or ids, with room.
constexpr size_t kLineBytesMax = 64u << 20;
constexpr tokenizer::JsonLimits kLineLimits{.bytes_max = kLineBytesMax, .depth_max = 64, .values_max = 1u << 22};

absl::Status Bad(const char* field, const char* reason) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", reason));
}

// The members of the object that a line is.
class Line {
 public:
  explicit Line(JsonText::Members members) : members_(std::move(members)) {}

  // Null if missing.
  const JsonText::Value* Find(std::string_view key) const {
    for (const auto& [name, value] : members_) {
      if (name == key) return value.is_null() ? nullptr : &value;
    }
    return nullptr;
  }
  absl::StatusOr<JsonText::Value> Required(const char* key) const {
    const JsonText::Value* value = Find(key);
    if (value == nullptr) return Bad(key, "is missing");
    return *value;
  }
  absl::StatusOr<std::string> RequiredText(const char* key) const {
    ASSIGN_OR_RETURN(const JsonText::Value value, Required(key));
    if (!value.is_string()) return Bad(key, "must be a string");
    return value.AsString();
  }
  absl::StatusOr<std::string> TextOr(const char* key, const char* otherwise) const {
    if (Find(key) == nullptr) return std::string(otherwise);
    return RequiredText(key);
  }

 private:
  JsonText::Members members_;
};

// What one line becomes; without the newline.
using Answer = std::function<absl::StatusOr<std::string>(const Line&)>;

// False at the end of the stream. A line longer than the limit is read to its end, and cut.
bool ReadLine(std::istream& in, std::string& line, bool& too_long) {
  line.clear();
  too_long = false;
  for (int c = in.get(); c != std::istream::traits_type::eof(); c = in.get()) {
    if (c == '\n') return true;
    if (line.size() < kLineBytesMax) {
      line.push_back(static_cast<char>(c));
    } else {
      too_long = true;
    }
  }
  return !line.empty();
}

absl::StatusOr<std::string> AnswerLine(const std::string& text, bool too_long, const Answer& answer) {
  if (too_long) return absl::InvalidArgumentError(fmt::format("the line is longer than {} bytes", kLineBytesMax));
  ASSIGN_OR_RETURN(const JsonText json, JsonText::Parse(text, kLineLimits));
  if (json.root().kind() != JsonKind::kObject) return absl::InvalidArgumentError("the line must be a JSON object");
  return answer(Line(json.root().AsMembers()));
}

LineCounts ForEachLine(std::istream& in, std::ostream& out, const Answer& answer) {
  LineCounts counts;
  std::string line;
  bool too_long = false;
  while (ReadLine(in, line, too_long)) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    ++counts.lines;
    const absl::StatusOr<std::string> result = AnswerLine(line, too_long, answer);
    if (result.ok()) {
      out << *result << std::endl;
      continue;
    }
    ++counts.failed;
    std::string message;
    const absl::string_view text = result.status().message();
    tokenizer::AppendJsonString({text.data(), text.size()}, message);
    out << "{\"error\": " << message << '}' << std::endl;
  }
  return counts;
}

void AppendIds(std::span<const uint32_t> ids, std::string& out) {
  out += fmt::format("\"ids\": [{}]", fmt::join(ids, ", "));
}

absl::StatusOr<tokenizer::ThinkingMode> Mode(const Line& line) {
  ASSIGN_OR_RETURN(const std::string mode, line.TextOr("thinking_mode", "thinking"));
  if (mode == "thinking") return tokenizer::ThinkingMode::kThinking;
  if (mode == "chat") return tokenizer::ThinkingMode::kChat;
  return Bad("thinking_mode", "must be \"thinking\" or \"chat\"");
}

absl::StatusOr<tokenizer::ChatOptions> Options(const Line& line) {
  tokenizer::ChatOptions options;
  ASSIGN_OR_RETURN(options.thinking_mode, Mode(line));
  ASSIGN_OR_RETURN(options.reasoning_effort, line.TextOr("reasoning_effort", ""));
  ASSIGN_OR_RETURN(const std::string dialect, line.TextOr("dialect", "preview"));
  if (dialect != "preview" && dialect != "0731") return Bad("dialect", "must be \"preview\" or \"0731\"");
  options.dialect = dialect == "preview" ? tokenizer::ChatDialect::kPreview : tokenizer::ChatDialect::k0731;
  if (const JsonText::Value* drop = line.Find("drop_thinking")) {
    if (drop->kind() != JsonKind::kTrue && drop->kind() != JsonKind::kFalse) {
      return Bad("drop_thinking", "must be true or false");
    }
    options.drop_thinking = drop->kind() == JsonKind::kTrue;
  }
  return options;
}

absl::StatusOr<std::string> Render(const tokenizer::Tokenizer& tokenizer, const Line& line) {
  ASSIGN_OR_RETURN(const tokenizer::ChatOptions options, Options(line));
  ASSIGN_OR_RETURN(const JsonText::Value list, line.Required("messages"));
  ASSIGN_OR_RETURN(std::vector<tokenizer::ChatMessage> messages, tokenizer::ParseChatMessages(list));
  if (const JsonText::Value* tools = line.Find("tools")) {
    ASSIGN_OR_RETURN(std::vector<std::string> definitions, tokenizer::ParseToolDefinitions(tools->raw()));
    tokenizer::AttachTools(std::move(definitions), messages);
  }
  ASSIGN_OR_RETURN(const std::string prompt, tokenizer::RenderChat(messages, options));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, tokenizer.Encode(prompt));
  std::string out = "{\"prompt\": ";
  tokenizer::AppendJsonString(prompt, out);
  out += ", ";
  AppendIds(ids, out);
  out += '}';
  return out;
}

absl::StatusOr<std::string> Decode(const tokenizer::Tokenizer& tokenizer, const Line& line) {
  ASSIGN_OR_RETURN(const JsonText::Value list, line.Required("ids"));
  if (list.kind() != JsonKind::kArray) return Bad("ids", "must be a list of token ids");
  std::vector<uint32_t> ids;
  ids.reserve(list.size());
  for (const JsonText::Value& value : list.Elements()) {
    const std::optional<uint64_t> id = value.AsUint64();
    if (!id || *id >= tokenizer.vocab_size()) {
      return absl::InvalidArgumentError(
          fmt::format("ids[{}]: must be a token id from 0 to {}", ids.size(), tokenizer.vocab_size() - 1));
    }
    ids.push_back(static_cast<uint32_t>(*id));
  }
  std::string out = "{\"text\": ";
  tokenizer::AppendJsonString(tokenizer.Decode(ids), out);
  out += '}';
  return out;
}

}  // namespace

LineCounts EncodeLines(const tokenizer::Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  return ForEachLine(in, out, [&tokenizer](const Line& line) -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const std::string text, line.RequiredText("text"));
    ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, tokenizer.Encode(text));
    std::string answer = "{";
    AppendIds(ids, answer);
    return answer + "}";
  });
}

LineCounts DecodeLines(const tokenizer::Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  return ForEachLine(in, out, [&tokenizer](const Line& line) { return Decode(tokenizer, line); });
}

LineCounts RenderLines(const tokenizer::Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  return ForEachLine(in, out, [&tokenizer](const Line& line) { return Render(tokenizer, line); });
}

LineCounts ParseLines(std::istream& in, std::ostream& out) {
  return ForEachLine(in, out, [](const Line& line) -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const tokenizer::ThinkingMode mode, Mode(line));
    ASSIGN_OR_RETURN(const std::string completion, line.RequiredText("completion"));
    ASSIGN_OR_RETURN(const tokenizer::ChatMessage message, tokenizer::ParseCompletion(completion, mode));
    return "{\"message\": " + tokenizer::ChatMessageToJson(message) + "}";
  });
}

}  // namespace longshelf::cli
