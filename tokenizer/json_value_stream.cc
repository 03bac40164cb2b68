#include "json_value_stream.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "tokenizer/json_text.h"

namespace longshelf::tokenizer::internal {
namespace {

constexpr size_t kDepthMax = 512;
constexpr size_t kUnicodeEscapeBytes = 6;

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

bool IsJson(std::string_view text) { return JsonText::Parse(text, {.bytes_max = 64u << 20, .depth_max = 1}).ok(); }

bool MayBecomeScalar(std::string_view text) {
  for (const std::string_view word : {"true", "false", "null"}) {
    if (word.starts_with(text)) return true;
  }
  return text.find_first_not_of("+-.0123456789eE") == std::string_view::npos;
}

}  // namespace

void JsonValueStream::Push(std::string_view text, std::string& out) {
  for (const char c : text) {
    while (!Take(c, out)) {
    }
  }
}

bool JsonValueStream::Take(char c, std::string& out) {
  switch (mode_) {
    case Mode::kStart:
      Start(c, out);
      return true;
    case Mode::kWholeScalar:
      token_ += c;
      return true;
    case Mode::kContainer:
      return TakeInContainer(c, out);
    case Mode::kScalar:
      if (!IsBlank(c) && std::string_view(",]}:\"[{").find(c) == std::string_view::npos) {
        token_ += c;
        return true;
      }
      EndScalar(out);
      return false;
    case Mode::kString:
      return TakeInString(c, out);
    case Mode::kEscape:
      return TakeInEscape(c, out);
    case Mode::kTail:
      token_ += c;
      if (!IsBlank(c)) BeginRest(std::exchange(token_, {}), out);
      return true;
    case Mode::kRest:
      AppendJsonEscaped({&c, 1}, out);
      return true;
  }
  return true;
}

void JsonValueStream::Start(char c, std::string& out) {
  token_ += c;
  if (IsBlank(c)) return;
  if (c != '{' && c != '[' && c != '"') {
    mode_ = Mode::kWholeScalar;
    return;
  }
  out += std::exchange(token_, {});
  if (c == '"') {
    mode_ = Mode::kString;
    return;
  }
  mode_ = Mode::kContainer;
  open_ = c;
  expect_ = c == '{' ? Expect::kKeyOrEnd : Expect::kValueOrEnd;
}

bool JsonValueStream::TakeInContainer(char c, std::string& out) {
  const bool wants_value = expect_ == Expect::kValue || expect_ == Expect::kValueOrEnd;
  const bool wants_key = expect_ == Expect::kKey || expect_ == Expect::kKeyOrEnd;
  const bool may_end = expect_ != Expect::kColon && (expect_ != Expect::kValue || !comma_.empty());
  if (IsBlank(c)) {
    (comma_.empty() ? out : comma_) += c;
  } else if (c == '"' && (wants_value || wants_key)) {
    WriteComma(out);
    out += c;
    is_key_ = wants_key;
    mode_ = Mode::kString;
  } else if ((c == '{' || c == '[') && wants_value && open_.size() < kDepthMax) {
    WriteComma(out);
    out += c;
    open_ += c;
    expect_ = c == '{' ? Expect::kKeyOrEnd : Expect::kValueOrEnd;
  } else if ((c == '}' || c == ']') && may_end && (c == '}') == (open_.back() == '{')) {
    Close(c, out);
  } else if (c == ',' && expect_ == Expect::kCommaOrEnd) {
    comma_ = c;
    expect_ = open_.back() == '{' ? Expect::kKey : Expect::kValue;
  } else if (c == ':' && expect_ == Expect::kColon) {
    out += c;
    expect_ = Expect::kValue;
  } else if (wants_value && std::string_view(",:]}[{").find(c) == std::string_view::npos) {
    WriteComma(out);
    mode_ = Mode::kScalar;
    token_ = c;
  } else {
    BeginRest({&c, 1}, out);
  }
  return true;
}

// A comma before the bracket was one too many.
void JsonValueStream::Close(char c, std::string& out) {
  if (!comma_.empty()) comma_.erase(0, 1);
  out += std::exchange(comma_, {});
  expect_ = Expect::kCommaOrEnd;
  if (open_.size() == 1) {
    mode_ = Mode::kTail;
    token_ = c;
    return;
  }
  open_.pop_back();
  out += c;
}

bool JsonValueStream::TakeInString(char c, std::string& out) {
  if (c == '\\') {
    mode_ = Mode::kEscape;
    token_ = c;
  } else if (c != '"') {
    static_cast<unsigned char>(c) < 0x20 ? AppendJsonEscaped({&c, 1}, out) : out.push_back(c);
  } else if (open_.empty()) {
    mode_ = Mode::kTail;
    token_ = c;
  } else {
    out += c;
    mode_ = Mode::kContainer;
    expect_ = is_key_ ? Expect::kColon : Expect::kCommaOrEnd;
  }
  return true;
}

bool JsonValueStream::TakeInEscape(char c, std::string& out) {
  const bool is_unicode = token_.size() > 1;
  const bool fits = is_unicode ? absl::ascii_isxdigit(static_cast<unsigned char>(c))
                               : std::string_view("\"\\/bfnrtu").find(c) != std::string_view::npos;
  if (!fits) {
    mode_ = Mode::kString;
    AppendJsonEscaped(std::exchange(token_, {}), out);
    return false;
  }
  token_ += c;
  if (is_unicode ? token_.size() < kUnicodeEscapeBytes : c == 'u') return true;
  out += std::exchange(token_, {});
  mode_ = Mode::kString;
  return true;
}

void JsonValueStream::EndScalar(std::string& out) {
  IsJson(token_) ? void(out += token_) : AppendJsonString(token_, out);
  token_.clear();
  mode_ = Mode::kContainer;
  expect_ = Expect::kCommaOrEnd;
}

void JsonValueStream::WriteComma(std::string& out) { out += std::exchange(comma_, {}); }

void JsonValueStream::BeginRest(std::string_view text, std::string& out) {
  mode_ = Mode::kRest;
  WriteComma(out);
  const bool in_object = !open_.empty() && open_.back() == '{';
  // The closing quote of a string that was the value is part of the text then.
  if (!open_.empty()) {
    if (expect_ == Expect::kCommaOrEnd) out += ", ";
    if (in_object && expect_ != Expect::kColon && expect_ != Expect::kValue) out += R"("": )";
    if (expect_ == Expect::kColon) out += ": ";
    out += '"';
  }
  expect_ = Expect::kCommaOrEnd;
  AppendJsonEscaped(text, out);
}

void JsonValueStream::CloseContainers(std::string& out) {
  if (expect_ == Expect::kColon) out += ": ";
  if (!open_.empty() && (expect_ == Expect::kColon || (expect_ == Expect::kValue && comma_.empty()))) out += "null";
  while (!open_.empty()) {
    out += open_.back() == '{' ? '}' : ']';
    open_.pop_back();
  }
}

void JsonValueStream::Finish(StreamEnd end, std::string& out) {
  const bool complete = end == StreamEnd::kComplete;
  switch (mode_) {
    case Mode::kStart:
    case Mode::kWholeScalar:
      if (IsJson(token_)) {
        out += token_;
      } else if (complete || !MayBecomeScalar(token_)) {
        out += '"';
        AppendJsonEscaped(token_, out);
        if (complete) out += '"';
      }
      return;
    case Mode::kTail:
      out += token_;
      return;
    case Mode::kScalar:
      if (complete) EndScalar(out);
      break;
    case Mode::kEscape:
      if (complete) AppendJsonEscaped(token_, out);
      [[fallthrough]];
    case Mode::kString:
      if (complete) out += '"';
      if (!open_.empty()) expect_ = is_key_ ? Expect::kColon : Expect::kCommaOrEnd;
      break;
    case Mode::kRest:
      if (complete) out += '"';
      break;
    case Mode::kContainer:
      break;
  }
  if (complete) CloseContainers(out);
}

}  // namespace longshelf::tokenizer::internal
