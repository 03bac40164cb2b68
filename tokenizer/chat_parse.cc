#include <algorithm>
#include <initializer_list>
#include <set>
#include <utility>

#include "chat_protocol.h"
#include "common/status.h"
#include "tokenizer/chat.h"
#include "tokenizer/json_text.h"

// The strict parser: accepts exactly what DeepSeek's own accepts, a few truncated completions included.
namespace longshelf::tokenizer {
namespace {

absl::Status Refuse(const char* reason) { return absl::InvalidArgumentError(reason); }

// Reads a text from stop to stop. Every stop begins with "<", "/" or a newline.
class StopReader {
 public:
  explicit StopReader(std::string_view text) : text_(text) {}

  struct Part {
    std::string_view text;  // before the stop
    std::string_view stop;  // empty: the text ended
  };
  // All stops are looked for in one pass, so that one that never comes costs nothing.
  Part ReadUntil(std::initializer_list<std::string_view> stops) {
    const size_t begin = pos_;
    for (; pos_ < text_.size(); ++pos_) {
      pos_ = std::min(text_.find_first_of("</\n", pos_), text_.size());
      for (const std::string_view stop : stops) {
        if (!text_.substr(pos_).starts_with(stop)) continue;
        const Part part{text_.substr(begin, pos_ - begin), stop};
        pos_ += stop.size();
        return part;
      }
    }
    pos_ = text_.size();
    return {text_.substr(begin), {}};
  }
  bool AtEnd() const { return pos_ == text_.size(); }

 private:
  const std::string_view text_;
  size_t pos_ = 0;
};

// "$" of the reference's expressions also stands before a last newline.
bool TakeSuffix(std::string_view suffix, std::string_view& text) {
  if (text.ends_with(suffix)) {
    text.remove_suffix(suffix.size());
    return true;
  }
  if (text.ends_with('\n') && text.substr(0, text.size() - 1).ends_with(suffix)) {
    text.remove_suffix(suffix.size() + 1);
    return true;
  }
  return false;
}

bool TakePrefix(std::string_view prefix, std::string_view& text) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// name="N">\n
bool ParseName(std::string_view text, std::string& name) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t\n\r\f\v\x1c\x1d\x1e\x1f"), text.size()));
  if (!TakePrefix("name=\"", text)) return false;
  // The shortest name: where both ends of "$" fit, the earlier one.
  constexpr std::string_view kEnd = "\">\n";
  if (text.ends_with("\">\n\n")) text.remove_suffix(1);
  if (!text.ends_with(kEnd)) return false;
  name = text.substr(0, text.size() - kEnd.size());
  return true;
}

// `value` of a string parameter is text; of any other it is JSON, pasted as it is.
void AddMember(std::string_view name, bool is_string, std::string_view value, std::string& members) {
  if (!members.empty()) members += ", ";
  AppendJsonString(name, members);
  members += ": ";
  if (is_string) {
    AppendJsonString(value, members);
  } else {
    members += value;
  }
}

// The parameters of one call, from behind the first opening marker on.
absl::StatusOr<std::string> ParseParameters(StopReader& reader, StopReader::Part& part) {
  constexpr std::string_view kStringTrue = "\" string=\"true\">";
  constexpr std::string_view kStringFalse = "\" string=\"false\">";
  std::string members;
  std::set<std::string_view> names;
  while (part.stop == protocol::kParameterBegin) {
    // The marker without its "<", which the expression wants at the end of the value.
    std::string_view text = reader.ReadUntil({protocol::kParameterEnd.substr(1)}).text;
    if (!TakePrefix(" name=\"", text)) return Refuse("Parameter format error: the name is missing");
    const size_t as_string = text.find(kStringTrue);
    const size_t as_json = text.find(kStringFalse);
    if (as_string == as_json) return Refuse("Parameter format error: string must be \"true\" or \"false\"");
    const bool is_string = as_string < as_json;
    const std::string_view name = text.substr(0, std::min(as_string, as_json));
    text.remove_prefix(name.size() + (is_string ? kStringTrue : kStringFalse).size());
    if (!TakeSuffix("<", text)) return Refuse("Parameter format error: the value does not end");
    if (!names.insert(name).second) return Refuse("Duplicate parameter name");
    AddMember(name, is_string, text, members);
    part = reader.ReadUntil({protocol::kParameterBegin, protocol::kInvokeEnd});
    if (part.text != ">\n") return Refuse("Parameter format error: text behind a parameter");
  }
  return "{" + members + "}";
}

absl::StatusOr<std::vector<ChatToolCall>> ParseToolCalls(StopReader& reader) {
  std::vector<ChatToolCall> calls;
  while (!reader.AtEnd()) {
    StopReader::Part part = reader.ReadUntil({protocol::kInvokeBegin, protocol::kToolCallsEnd});
    if (part.text != ">\n") return Refuse("Tool call format error: text between calls");
    if (part.stop == protocol::kToolCallsEnd) break;
    if (part.stop.empty()) return Refuse("Missing special token in tool calls");
    part = reader.ReadUntil({protocol::kParameterBegin, protocol::kInvokeEnd});
    ChatToolCall call;
    if (!ParseName(part.text, call.name)) return Refuse("Tool name format error");
    ASSIGN_OR_RETURN(call.arguments, ParseParameters(reader, part));
    calls.push_back(std::move(call));
  }
  return calls;
}

}  // namespace

absl::StatusOr<ChatMessage> ParseCompletion(std::string_view completion, ThinkingMode mode) {
  constexpr std::string_view kBlockBegin = "\n\n<｜DSML｜tool_calls";
  StopReader reader(completion);
  ChatMessage message;
  message.role = "assistant";
  if (mode == ThinkingMode::kThinking) {
    const StopReader::Part reasoning = reader.ReadUntil({protocol::kThinkEnd, kBlockBegin});
    if (reasoning.stop != protocol::kThinkEnd) return Refuse("Invalid thinking format: missing </think>");
    message.reasoning_content = reasoning.text;
  }
  StopReader::Part content = reader.ReadUntil({protocol::kEos, kBlockBegin});
  message.content = content.text;
  if (content.stop.empty()) return Refuse("Invalid format: missing EOS token");
  if (content.stop == kBlockBegin) {
    ASSIGN_OR_RETURN(message.tool_calls, ParseToolCalls(reader));
    if (!reader.ReadUntil({protocol::kEos}).text.empty()) return Refuse("Unexpected content after tool calls");
  }
  if (!reader.AtEnd()) return Refuse("Unexpected content at end");
  for (const std::string_view token :
       {protocol::kBos, protocol::kEos, protocol::kThinkBegin, protocol::kThinkEnd, protocol::kDsml}) {
    if (message.content->find(token) != std::string::npos ||
        message.reasoning_content.find(token) != std::string::npos) {
      return absl::InvalidArgumentError("Unexpected special token '" + std::string(token) + "' in content");
    }
  }
  return message;
}

}  // namespace longshelf::tokenizer
