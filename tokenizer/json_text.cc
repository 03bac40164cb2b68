#include "tokenizer/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "absl/container/flat_hash_map.h"
#include "common/check.h"
#include "common/status.h"
#include "utf8.h"

namespace longshelf::tokenizer {
namespace {

constexpr uint32_t kDepthMax = 1000;        // the reader recurses
constexpr size_t kIntegerDigitsMax = 4300;  // Python refuses longer ones
constexpr size_t kFewMembers = 16;          // up to here comparing keys beats hashing them
constexpr uint32_t kReplacement = 0xFFFD;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexValue(char c) {
  if (IsDigit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// REQUIRES: four hexadecimal digits.
uint32_t HexAt(std::string_view text, size_t pos) {
  uint32_t value = 0;
  for (size_t i = pos; i < pos + 4; ++i) value = value << 4 | static_cast<uint32_t>(HexValue(text[i]));
  return value;
}

}  // namespace

// Recursive descent over one text.
class JsonTextReader {
 public:
  JsonTextReader(std::string_view text, const JsonLimits& limits, JsonText& out)
      : text_(text), limits_(limits), out_(out) {}

  absl::Status Read() {
    SkipBlanks();
    RETURN_IF_ERROR(ReadValue(0));
    SkipBlanks();
    return pos_ == text_.size() ? absl::OkStatus() : Bad("text behind the value");
  }

 private:
  absl::Status Bad(std::string_view reason) const {
    return absl::InvalidArgumentError(fmt::format("not JSON at byte {}: {}", pos_, reason));
  }
  bool AtEnd() const { return pos_ == text_.size(); }
  bool Take(char c) {
    if (AtEnd() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }
  bool Take(std::string_view word) {
    if (!text_.substr(pos_).starts_with(word)) return false;
    pos_ += word.size();
    return true;
  }
  void SkipBlanks() {
    while (!AtEnd() && (text_[pos_] == ' ' || text_[pos_] == '\n' || text_[pos_] == '\t' || text_[pos_] == '\r')) {
      ++pos_;
    }
  }

  absl::StatusOr<size_t> Open(JsonKind kind) {
    if (out_.nodes_.size() >= limits_.values_max) {
      return Bad(fmt::format("more than {} values", limits_.values_max));
    }
    out_.nodes_.push_back({kind, static_cast<uint32_t>(pos_), 0, 0, 0});
    return out_.nodes_.size() - 1;
  }
  void Close(size_t index, JsonKind kind, uint32_t count) {
    JsonText::Node& node = out_.nodes_[index];
    node.kind = kind;
    node.end = static_cast<uint32_t>(pos_);
    node.next = static_cast<uint32_t>(out_.nodes_.size());
    node.count = count;
  }

  absl::Status ReadValue(uint32_t depth) {
    if (AtEnd()) return Bad("a value is missing");
    switch (text_[pos_]) {
      case '{':
        return ReadContainer(depth, JsonKind::kObject, '}');
      case '[':
        return ReadContainer(depth, JsonKind::kArray, ']');
      case '"':
        return ReadString();
      default:
        return ReadScalar();
    }
  }

  absl::Status ReadContainer(uint32_t depth, JsonKind kind, char closing) {
    if (depth >= std::min(limits_.depth_max, kDepthMax)) {
      return Bad(fmt::format("nested deeper than {}", std::min(limits_.depth_max, kDepthMax)));
    }
    ASSIGN_OR_RETURN(const size_t index, Open(kind));
    ++pos_;
    uint32_t count = 0;
    SkipBlanks();
    if (!Take(closing)) {
      do {
        SkipBlanks();
        if (kind == JsonKind::kObject) {
          if (AtEnd() || text_[pos_] != '"') return Bad("a member name is missing");
          RETURN_IF_ERROR(ReadString());
          SkipBlanks();
          if (!Take(':')) return Bad("':' is missing");
          SkipBlanks();
        }
        RETURN_IF_ERROR(ReadValue(depth + 1));
        ++count;
        SkipBlanks();
      } while (Take(','));
      if (!Take(closing)) return Bad(fmt::format("',' or '{}' is missing", closing));
    }
    Close(index, kind, count);
    return absl::OkStatus();
  }

  absl::Status ReadString() {
    ASSIGN_OR_RETURN(const size_t index, Open(JsonKind::kString));
    ++pos_;
    while (true) {
      if (AtEnd()) return Bad("a string does not end");
      const char c = text_[pos_];
      if (static_cast<unsigned char>(c) < 0x20) return Bad("a control character in a string");
      ++pos_;
      if (c == '"') break;
      if (c != '\\') continue;
      if (AtEnd()) return Bad("a string does not end");
      const char escape = text_[pos_++];
      if (escape == 'u') {
        for (int i = 0; i < 4; ++i, ++pos_) {
          if (AtEnd() || HexValue(text_[pos_]) < 0) return Bad("\\u needs four hexadecimal digits");
        }
      } else if (std::string_view("\"\\/bfnrt").find(escape) == std::string_view::npos) {
        return Bad("an unknown escape in a string");
      }
    }
    Close(index, JsonKind::kString, 0);
    return absl::OkStatus();
  }

  absl::Status ReadScalar() {
    ASSIGN_OR_RETURN(const size_t index, Open(JsonKind::kNull));
    JsonKind kind = JsonKind::kNull;
    if (Take("null")) {
      kind = JsonKind::kNull;
    } else if (Take("true")) {
      kind = JsonKind::kTrue;
    } else if (Take("false")) {
      kind = JsonKind::kFalse;
    } else if (limits_.python_constants && (Take("NaN") || Take("Infinity") || Take("-Infinity"))) {
      kind = JsonKind::kConstant;
    } else {
      ASSIGN_OR_RETURN(kind, ReadNumber());
    }
    Close(index, kind, 0);
    return absl::OkStatus();
  }

  size_t TakeDigits() {
    const size_t begin = pos_;
    while (!AtEnd() && IsDigit(text_[pos_])) ++pos_;
    return pos_ - begin;
  }

  absl::StatusOr<JsonKind> ReadNumber() {
    Take('-');
    if (!Take('0')) {
      const size_t digits = TakeDigits();
      if (digits == 0) return Bad("a value is missing");
      if (digits > kIntegerDigitsMax) return Bad(fmt::format("a number of more than {} digits", kIntegerDigitsMax));
    }
    JsonKind kind = JsonKind::kInteger;
    if (!AtEnd() && text_[pos_] == '.') {
      ++pos_;
      kind = JsonKind::kReal;
      if (TakeDigits() == 0) return Bad("digits are missing behind '.'");
    }
    if (!AtEnd() && (text_[pos_] == 'e' || text_[pos_] == 'E')) {
      ++pos_;
      kind = JsonKind::kReal;
      if (!Take('+')) Take('-');
      if (TakeDigits() == 0) return Bad("an exponent without digits");
    }
    return kind;
  }

  const std::string_view text_;
  const JsonLimits& limits_;
  JsonText& out_;
  size_t pos_ = 0;
};

absl::StatusOr<JsonText> JsonText::Parse(std::string_view text, const JsonLimits& limits) {
  const size_t bytes_max = std::min<size_t>(limits.bytes_max, UINT32_MAX);
  if (text.size() > bytes_max) {
    return absl::InvalidArgumentError(fmt::format("JSON of {} bytes, the limit is {}", text.size(), bytes_max));
  }
  if (const size_t offset = internal::FindInvalidUtf8(text); offset != std::string_view::npos) {
    return absl::InvalidArgumentError(fmt::format("not JSON at byte {}: invalid UTF-8", offset));
  }
  JsonText out;
  out.text_ = text;
  RETURN_IF_ERROR(JsonTextReader(text, limits, out).Read());
  return out;
}

JsonText::Value JsonText::root() const { return Value(this, 0); }

JsonKind JsonText::Value::kind() const { return node().kind; }

size_t JsonText::Value::size() const { return node().count; }

std::string_view JsonText::Value::raw() const { return text_->text_.substr(node().begin, node().end - node().begin); }

bool JsonText::Value::truthy() const {
  switch (kind()) {
    case JsonKind::kNull:
    case JsonKind::kFalse:
      return false;
    case JsonKind::kTrue:
    case JsonKind::kConstant:
      return true;
    case JsonKind::kInteger:
    case JsonKind::kReal: {
      // Zero whatever the exponent.
      const std::string_view digits = raw().substr(0, raw().find_first_of("eE"));
      return digits.find_first_of("123456789") != std::string_view::npos;
    }
    case JsonKind::kString:
      return raw().size() > 2;
    default:
      return size() != 0;
  }
}

std::optional<uint64_t> JsonText::Value::AsUint64() const {
  if (kind() != JsonKind::kInteger) return std::nullopt;
  uint64_t value = 0;
  const std::string_view digits = raw();
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::string JsonText::Value::AsString() const {
  const std::string_view body = raw().substr(1, raw().size() - 2);
  std::string out;
  out.reserve(body.size());
  for (size_t pos = 0; pos < body.size();) {
    const size_t escape = std::min(body.find('\\', pos), body.size());
    out.append(body.substr(pos, escape - pos));
    if (escape == body.size()) break;
    pos = escape + 2;
    switch (const char c = body[escape + 1]; c) {
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'u': {
        uint32_t unit = HexAt(body, pos);
        pos += 4;
        if (unit >= 0xD800 && unit < 0xDC00 && body.substr(pos).starts_with("\\u")) {
          if (const uint32_t low = HexAt(body, pos + 2); low >= 0xDC00 && low < 0xE000) {
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
            pos += 6;
          }
        }
        internal::AppendCodePoint(unit >= 0xD800 && unit < 0xE000 ? kReplacement : unit, out);
        break;
      }
      default:
        out += c;
    }
  }
  return out;
}

std::vector<JsonText::Value> JsonText::Value::Elements() const {
  LONGSHELF_CHECK(kind() == JsonKind::kArray);
  std::vector<Value> out;
  out.reserve(size());
  for (uint32_t i = index_ + 1; i < node().next; i = text_->nodes_[i].next) out.push_back(Value(text_, i));
  return out;
}

JsonText::Members JsonText::Value::AsMembers() const {
  LONGSHELF_CHECK(kind() == JsonKind::kObject);
  Members out;
  out.reserve(size());
  absl::flat_hash_map<std::string, size_t> places;
  const bool few = size() <= kFewMembers;
  for (uint32_t i = index_ + 1; i < node().next;) {
    std::string key = Value(text_, i).AsString();
    const Value value(text_, i + 1);
    i = value.node().next;
    const auto has_key = [&key](const auto& member) { return member.first == key; };
    const size_t place = few ? static_cast<size_t>(std::find_if(out.begin(), out.end(), has_key) - out.begin())
                             : places.try_emplace(key, out.size()).first->second;
    if (place == out.size()) {
      out.emplace_back(std::move(key), value);
    } else {
      out[place].second = value;
    }
  }
  return out;
}

}  // namespace longshelf::tokenizer
