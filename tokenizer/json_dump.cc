#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "absl/strings/numbers.h"
#include "common/check.h"
#include "tokenizer/json_text.h"

// json.dumps(value, ensure_ascii=False) of Python.
namespace longshelf::tokenizer {
namespace {

// repr(float(text)).
void AppendReal(std::string_view text, std::string& out) {
  double value = 0;
  LONGSHELF_CHECK(absl::SimpleAtod(absl::string_view(text.data(), text.size()), &value));
  if (std::isinf(value)) {
    out += value < 0 ? "-Infinity" : "Infinity";
    return;
  }
  std::array<char, 64> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string_view scientific(buffer.data(), static_cast<size_t>(end.ptr - buffer.data()));
  const size_t e = scientific.find('e');
  int exponent = 0;
  const char* const exponent_begin = scientific.data() + e + (scientific[e + 1] == '+' ? 2 : 1);
  std::from_chars(exponent_begin, scientific.data() + scientific.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    out += scientific;
    return;
  }
  std::string_view mantissa = scientific.substr(0, e);
  if (mantissa[0] == '-') {
    out += '-';
    mantissa.remove_prefix(1);
  }
  std::string digits(mantissa.substr(0, 1));
  if (mantissa.size() > 2) digits += mantissa.substr(2);
  if (exponent < 0) {
    out += "0.";
    out.append(static_cast<size_t>(-exponent - 1), '0');
    out += digits;
    return;
  }
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    digits.append(whole - digits.size(), '0');
    out += digits + ".0";
  } else {
    out += digits.substr(0, whole) + "." + digits.substr(whole);
  }
}

}  // namespace

void JsonText::Value::DumpTo(std::string& out) const {
  switch (kind()) {
    case JsonKind::kInteger:
      out += raw() == "-0" ? "0" : raw();
      break;
    case JsonKind::kReal:
      AppendReal(raw(), out);
      break;
    case JsonKind::kString:
      AppendJsonString(AsString(), out);
      break;
    case JsonKind::kArray: {
      std::string_view separator = "[";
      for (const Value& element : Elements()) {
        out += separator;
        element.DumpTo(out);
        separator = ", ";
      }
      out += size() == 0 ? "[]" : "]";
      break;
    }
    case JsonKind::kObject: {
      std::string_view separator = "{";
      for (const auto& [key, value] : AsMembers()) {
        out += separator;
        AppendJsonString(key, out);
        out += ": ";
        value.DumpTo(out);
        separator = ", ";
      }
      out += size() == 0 ? "{}" : "}";
      break;
    }
    default:
      out += raw();
  }
}

void AppendJsonString(std::string_view text, std::string& out) {
  out += '"';
  AppendJsonEscaped(text, out);
  out += '"';
}

void AppendJsonEscaped(std::string_view text, std::string& out) {
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
}

}  // namespace longshelf::tokenizer
