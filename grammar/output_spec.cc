#include "grammar/output_spec.h"

#include "absl/strings/str_cat.h"

namespace longshelf::grammar {
namespace {

constexpr char kVersion = 1;

void AppendNumber(uint32_t value, std::string& out) {
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift & 0xFF);
}

void AppendText(std::string_view text, std::string& out) {
  AppendNumber(static_cast<uint32_t>(text.size()), out);
  out += text;
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  bool Byte(uint8_t& out) {
    if (rest_.empty()) return false;
    out = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return true;
  }
  bool Number(uint32_t& out) {
    out = 0;
    for (int shift = 0; shift < 32; shift += 8) {
      uint8_t byte = 0;
      if (!Byte(byte)) return false;
      out |= uint32_t{byte} << shift;
    }
    return true;
  }
  bool Text(std::string& out) {
    uint32_t n = 0;
    if (!Number(n) || n > rest_.size()) return false;
    out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return true;
  }
  bool AtEnd() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

}  // namespace

std::string OutputSpec::Serialize() const {
  std::string out(1, kVersion);
  out += static_cast<char>(after_thinking ? 1 : 0);
  out += static_cast<char>(calls);
  AppendNumber(n_calls_max, out);
  AppendText(answer_schema, out);
  AppendText(given, out);
  AppendNumber(static_cast<uint32_t>(tools.size()), out);
  for (const Tool& tool : tools) {
    AppendText(tool.name, out);
    AppendText(tool.parameters, out);
  }
  return out;
}

absl::StatusOr<OutputSpec> OutputSpec::Parse(std::string_view bytes) {
  const auto bad = [](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("output specification: ", what));
  };
  if (bytes.size() > kSpecBytesMax) {
    return bad(absl::StrCat("has ", bytes.size(), " bytes; at most ", kSpecBytesMax));
  }
  Reader reader(bytes);
  OutputSpec spec;
  uint8_t version = 0;
  uint8_t thinking = 0;
  uint8_t calls = 0;
  uint32_t n_tools = 0;
  if (!reader.Byte(version) || version != kVersion) return bad("is not of this version");
  if (!reader.Byte(thinking) || !reader.Byte(calls) || !reader.Number(spec.n_calls_max) ||
      !reader.Text(spec.answer_schema) || !reader.Text(spec.given) || !reader.Number(n_tools)) {
    return bad("is too short");
  }
  if (thinking > 1 || calls > static_cast<uint8_t>(Calls::kRequired)) return bad("has an unknown value");
  if (n_tools > kToolsMax) return bad(absl::StrCat("has ", n_tools, " tools; at most ", kToolsMax));
  spec.after_thinking = thinking == 1;
  spec.calls = static_cast<Calls>(calls);
  for (uint32_t i = 0; i < n_tools; ++i) {
    Tool& tool = spec.tools.emplace_back();
    if (!reader.Text(tool.name) || !reader.Text(tool.parameters)) return bad("is too short");
  }
  if (!reader.AtEnd()) return bad("has bytes behind its end");
  return spec;
}

}  // namespace longshelf::grammar
