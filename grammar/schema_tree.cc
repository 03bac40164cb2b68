#include "schema_tree.h"

#include "absl/strings/match.h"
#include "common/status.h"
#include "grammar/output_spec.h"

namespace longshelf::grammar {
namespace {

using tokenizer::JsonKind;
using tokenizer::JsonText;

// "%41" in a URI's fragment; nothing when it is not well formed.
std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string out;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return std::nullopt;
    out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  return out;
}

std::string PointerStep(std::string_view key) {
  std::string out = "/";
  for (const char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

std::string FromPointerStep(std::string_view step) {
  std::string out;
  for (size_t i = 0; i < step.size(); ++i) {
    const bool is_escape = step[i] == '~' && i + 1 < step.size();
    if (is_escape) ++i;
    out += !is_escape ? step[i] : step[i] == '1' ? '/' : '~';
  }
  return out;
}

}  // namespace

absl::StatusOr<SchemaTree> SchemaTree::Parse(std::string_view json) {
  if (json.size() > kSchemaBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", json.size(), " bytes; a schema may have at most ", kSchemaBytesMax));
  }
  const tokenizer::JsonLimits limits{
      .bytes_max = kSchemaBytesMax, .depth_max = kSchemaDepthMax, .values_max = kSchemaBytesMax};
  const absl::StatusOr<JsonText> text = JsonText::Parse(json, limits);
  if (!text.ok()) return absl::InvalidArgumentError(absl::StrCat("is no usable JSON: ", text.status().message()));
  SchemaTree tree;
  tree.Add(text->root(), 0, "");
  return tree;
}

// As deep as the limits allow.
uint32_t SchemaTree::Add(const JsonText::Value& json, uint32_t parent, std::string key) {
  const auto number = static_cast<uint32_t>(values_.size());
  values_.push_back({.kind = json.kind(), .parent = parent, .key = std::move(key)});
  switch (json.kind()) {
    case JsonKind::kString:
      values_[number].text = json.AsString();
      break;
    case JsonKind::kInteger:
    case JsonKind::kReal:
      values_[number].text = json.raw();
      break;
    case JsonKind::kArray:
      for (const JsonText::Value& element : json.Elements()) {
        const uint32_t child = Add(element, number, absl::StrCat(values_[number].elements.size()));
        values_[number].elements.push_back(child);
      }
      break;
    case JsonKind::kObject:
      for (const auto& [name, value] : json.AsMembers()) {
        const uint32_t child = Add(value, number, name);
        values_[number].members.emplace_back(name, child);
        if (name == "$anchor" && value.is_string()) anchors_.emplace_back(value.AsString(), number);
      }
      break;
    default:
      break;
  }
  return number;
}

std::optional<uint32_t> SchemaTree::Member(uint32_t number, std::string_view name) const {
  for (const auto& [key, value] : values_[number].members) {
    if (key == name) return value;
  }
  return std::nullopt;
}

std::string SchemaTree::PointerOf(uint32_t number) const {
  std::string out;
  for (; number != 0; number = values_[number].parent) out.insert(0, PointerStep(values_[number].key));
  return out;
}

absl::StatusOr<uint32_t> SchemaTree::Resolve(std::string_view ref) const {
  if (!ref.starts_with('#')) {
    return absl::InvalidArgumentError("may only refer to this schema itself, as in #/$defs/name or #anchor");
  }
  const std::optional<std::string> fragment = PercentDecoded(ref.substr(1));
  if (!fragment) return absl::InvalidArgumentError("is no URI");
  if (!fragment->empty() && fragment->front() != '/') {
    for (const auto& [name, value] : anchors_) {
      if (name == *fragment) return value;
    }
    return absl::InvalidArgumentError("refers to an $anchor that is not there");
  }
  uint32_t at = 0;
  std::string_view rest = *fragment;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('/', 1), rest.size());
    const std::string key = FromPointerStep(rest.substr(1, end - 1));
    rest.remove_prefix(end);
    std::optional<uint32_t> next = Member(at, key);
    for (const uint32_t element : values_[at].elements) {
      if (values_[element].key == key) next = element;
    }
    if (!next) return absl::InvalidArgumentError("refers to what is not there");
    at = *next;
  }
  return at;
}

}  // namespace longshelf::grammar
