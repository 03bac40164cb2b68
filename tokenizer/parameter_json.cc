#include "parameter_json.h"

#include <algorithm>

#include "tokenizer/json_text.h"

namespace longshelf::tokenizer::internal {
namespace {

constexpr std::string_view kName = "name=\"";
constexpr std::string_view kString = " string=\"";
constexpr std::string_view kStringTrue = "\" string=\"true\">";
constexpr std::string_view kStringFalse = "\" string=\"false\">";

bool IsJson(std::string_view text) {
  return JsonText::Parse(text, {.bytes_max = 64u << 20, .depth_max = 512, .values_max = 1u << 20}).ok();
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

}  // namespace

void ArgumentsBuilder::Add(std::string_view name, bool is_string, std::string_view value) {
  if (!members_.empty()) members_ += ", ";
  AppendJsonString(name, members_);
  members_ += ": ";
  if (is_string) {
    AppendJsonString(value, members_);
  } else {
    members_ += value;
  }
}

bool ArgumentsBuilder::AddLenient(std::string_view parameter) {
  parameter.remove_prefix(std::min(parameter.find_first_not_of(" \t\r\n"), parameter.size()));
  if (!parameter.starts_with(kName)) return false;
  parameter.remove_prefix(kName.size());
  const size_t as_string = parameter.find(kStringTrue);
  const size_t as_json = parameter.find(kStringFalse);
  if (as_string < as_json) {
    Add(parameter.substr(0, as_string), true, parameter.substr(as_string + kStringTrue.size()));
    return true;
  }
  std::string_view name;
  std::string_view value;
  if (as_json != std::string_view::npos) {
    name = parameter.substr(0, as_json);
    value = parameter.substr(as_json + kStringFalse.size());
  } else if (!SplitLoosely(parameter, name, value)) {
    return false;
  }
  Add(name, !IsJson(value), value);
  return true;
}

}  // namespace longshelf::tokenizer::internal
