#include "parameter_stream.h"

#include <algorithm>

#include "tokenizer/json_text.h"

namespace longshelf::tokenizer::internal {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kName = "name=\"";
constexpr std::string_view kString = " string=\"";
constexpr std::string_view kStringTrue = "\" string=\"true\">";
constexpr std::string_view kStringFalse = "\" string=\"false\">";

std::string_view WithoutBlanks(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text;
}

// N">V and N" string="S">V, where S is a word that says nothing we know.
bool SplitLoosely(std::string_view text, std::string_view& name, std::string_view& value) {
  const size_t quote = text.find('"');
  if (quote == std::string_view::npos) return false;
  name = text.substr(0, quote);
  value = text.substr(quote + 1);
  if (value.starts_with(kString)) {
    value.remove_prefix(kString.size());
    const size_t word =
        std::min(value.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), value.size());
    value.remove_prefix(word);
    if (!value.starts_with('"')) return false;
    value.remove_prefix(1);
  }
  if (!value.starts_with('>')) return false;
  value.remove_prefix(1);
  return true;
}

bool IsJson(std::string_view text) {
  return JsonText::Parse(text, {.bytes_max = 64u << 20, .depth_max = 512, .values_max = 1u << 20}).ok();
}

}  // namespace

// Of both ends the one that comes first, behind where the name begins.
bool ParameterStream::FindHead(size_t name_at) {
  const size_t from = std::max(searched_, name_at);
  searched_ = head_.size() - std::min(head_.size(), kStringFalse.size() - 1);
  const size_t as_string = head_.find(kStringTrue, from);
  const size_t as_json = head_.find(kStringFalse, from);
  found_at_ = std::min(as_string, as_json);
  found_ = as_string < as_json ? kStringTrue : kStringFalse;
  return found_at_ != std::string::npos;
}

void ParameterStream::BeginMember(std::string_view name, Output& out) {
  if (!is_member_) return;
  if (!is_first_) out.members += ", ";
  AppendJsonString(name, out.members);
  out.members += ": ";
  has_member_ = true;
}

void ParameterStream::PushText(std::string_view text, Output& out) {
  if (text.empty()) return;
  std::string& to = is_member_ ? out.members : out.text;
  const auto write = [&](std::string_view part) { is_member_ ? AppendJsonEscaped(part, to) : void(to.append(part)); };
  if (has_newline_) write("\n");
  has_newline_ = text.back() == '\n';
  if (has_newline_) text.remove_suffix(1);
  write(text);
}

void ParameterStream::Push(std::string_view text, Output& out) {
  if (state_ == State::kText) return PushText(text, out);
  if (state_ == State::kJson) return json_->Push(text, out.members);
  head_.append(text);
  const std::string_view head = WithoutBlanks(head_);
  const size_t name_at = head_.size() - head.size() + kName.size();
  if (!head.starts_with(kName) || !FindHead(name_at)) return;
  BeginMember(std::string_view(head_).substr(name_at, found_at_ - name_at), out);
  const std::string value = head_.substr(found_at_ + found_.size());
  head_.clear();
  if (found_ == kStringTrue || !is_member_) {
    state_ = State::kText;
    if (is_member_) out.members += '"';
    return PushText(value, out);
  }
  state_ = State::kJson;
  json_.emplace();
  json_->Push(value, out.members);
}

// The attributes never ended as they should.
void ParameterStream::FinishLoosely(StreamEnd end, Output& out) {
  std::string_view head = WithoutBlanks(head_);
  std::string_view name;
  std::string_view value;
  const bool has_name = head.starts_with(kName);
  if (has_name && SplitLoosely(head.substr(kName.size()), name, value)) {
    BeginMember(name, out);
    if (!is_member_) {
      out.text += value;
    } else if (IsJson(value)) {
      out.members += value;
    } else {
      out.members += '"';
      AppendJsonEscaped(value, out.members);
      if (end == StreamEnd::kComplete) out.members += '"';
    }
    return;
  }
  // Cut off inside its attributes, it has nothing else.
  const bool is_cut = end == StreamEnd::kCutOff && (has_name || kName.starts_with(head));
  if (!is_cut) out.text += head;
}

void ParameterStream::Finish(StreamEnd end, bool closed, Output& out) {
  switch (state_) {
    case State::kHead:
      if (!closed && head_.ends_with('\n')) head_.pop_back();
      return FinishLoosely(end, out);
    case State::kText:
      if (closed && has_newline_) is_member_ ? AppendJsonEscaped("\n", out.members) : out.text.push_back('\n');
      if (is_member_ && end == StreamEnd::kComplete) out.members += '"';
      return;
    case State::kJson:
      return json_->Finish(end, out.members);
  }
}

}  // namespace longshelf::tokenizer::internal
