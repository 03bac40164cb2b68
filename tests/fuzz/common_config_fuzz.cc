// What a person configures: values, YAML, environment and flags. A value is read as it is shown, and what
// --print-config prints gives, as a YAML file, the same configuration.
#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/config.h"
#include "config_sources.h"
#include "config_values.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "memory_file.h"

namespace longshelf {
namespace {

void ReadValues(absl::string_view text) {
  if (const auto value = ParseInteger(text); value.ok()) LONGSHELF_CHECK(*ParseInteger(absl::StrCat(*value)) == *value);
  if (const auto value = ParseNumber(text); value.ok()) LONGSHELF_CHECK(std::isfinite(*value));
  if (const auto value = ParseByteSize(text); value.ok()) {
    LONGSHELF_CHECK(*value >= 0 && *ParseByteSize(FormatByteSize(*value)) == *value);
  }
  if (const auto value = ParseTime(text); value.ok()) {
    LONGSHELF_CHECK(ParseTime(absl::FormatDuration(*value)).ok());
  }
  // Quoted, any text is one YAML value.
  const fuzz::MemoryFile file(absl::StrCat("key: ", QuoteYaml(text)));
  const auto settings = ReadYamlSettings(file.path());
  LONGSHELF_CHECK(!settings.ok() || (settings->size() == 1 && settings->front().values.size() == 1));
  const bool is_ascii = std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  LONGSHELF_CHECK(!is_ascii || (settings.ok() && settings->front().values.front() == text));
}

// One option of every kind, as a program has them.
struct Options {
  bool flag = false;
  std::string text = "default";
  std::string choice = "a";
  std::vector<std::string> list;
  absl::Duration time = absl::Seconds(1);
  double number = 0.5;
  int32_t count = 3;
  uint64_t bytes = 4096;

  ConfigSpec Spec() {
    ConfigSpec spec("fuzz", "Options of every kind.");
    spec.Add(&flag, "some-flag", "a flag");
    spec.Add(&text, "some-text", "a text");
    spec.AddChoice(&choice, "some-choice", "a choice", {"a", "b"});
    spec.Add(&list, "some-list", "a list");
    spec.Add(&time, "some-time", "a time");
    spec.Add(&number, "some-number", "a number", {-10, 10});
    spec.Add(&count, "some-count", "a count", {-5, 100});
    spec.AddBytes(&bytes, "some-bytes", "bytes");
    return spec;
  }
  void CheckBounds() const {
    LONGSHELF_CHECK(choice == "a" || choice == "b");
    LONGSHELF_CHECK(time >= absl::ZeroDuration() && time <= absl::Hours(24 * 365));
    LONGSHELF_CHECK(number >= -10 && number <= 10 && count >= -5 && count <= 100 && bytes <= uint64_t{1} << 50);
  }
  bool IsAs(const Options& other) const {
    return flag == other.flag && text == other.text && choice == other.choice && list == other.list &&
           count == other.count && bytes == other.bytes;
  }
};

bool IsPlain(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= ' ' && c < 0x7f; });
}

void Configure(std::string_view yaml, const std::vector<std::string>& flags,
               const std::vector<std::string>& environment) {
  const fuzz::MemoryFile file(yaml);
  std::vector<std::string> args = {absl::StrCat("--config=", file.path())};
  args.insert(args.end(), flags.begin(), flags.end());
  Options options;
  const ParseOutcome outcome = options.Spec().Parse(args, environment);
  options.CheckBounds();
  LONGSHELF_CHECK(outcome.run || !outcome.text.empty());
  if (!outcome.run) return;
  args.push_back("--print-config");
  Options shown;
  const ParseOutcome printed = shown.Spec().Parse(args, environment);
  LONGSHELF_CHECK(!printed.run && printed.exit_code == 0 && shown.IsAs(options));
  const fuzz::MemoryFile print(printed.text);
  Options again;
  const ParseOutcome read = again.Spec().Parse({absl::StrCat("--config=", print.path())}, {});
  bool is_plain = IsPlain(options.text);
  for (const std::string& one : options.list) is_plain = is_plain && IsPlain(one);
  LONGSHELF_CHECK(!is_plain || (read.run && again.IsAs(options)));
}

constexpr std::string_view kYaml =
    "# comment\nsome:\n  flag: yes\n  text: \"a \\\"b\\\" \\x41\"\nsome-choice: b\nsome_list: [x, 'y', z]\n"
    "some-time: 1m30s\nsome-number: -1.5e0\nsome-count: 7\nsome-bytes: 1.5GB\n";

std::string Input(std::string_view yaml, const std::vector<std::string>& args) {
  std::string input(1, '\1');
  fuzz::AppendPart(yaml, input);
  for (const std::string& arg : args) fuzz::AppendPart(arg, input);
  return input;
}

}  // namespace
}  // namespace longshelf

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  Seeds seeds{.inputs = {Input(kYaml, {}), Input("", {"--some-flag", "--some-list=a,b", "--some-count", "5"}),
                         Input("some-text: &a x\nsome-list: [*a, *a]\n",
                               {"LONGSHELF_SOME_TIME=250ms", "LONGSHELF_SOME_BYTES=512MiB", "--no-some-flag"}),
                         Input("{some: {text: \"# no comment\"}}\n", {"--some-choice=a", "LONGSHELF_SOME_LIST=p,q"})},
              .words = {"--some-text=",
                        "--some-list=",
                        "LONGSHELF_SOME_",
                        "--help",
                        "--version",
                        "--",
                        "-5",
                        "\n",
                        ": ",
                        "- ",
                        "[",
                        "{",
                        "&a ",
                        "*a",
                        "!!binary ",
                        "<<: *a",
                        "|\n",
                        ">-\n",
                        "\t",
                        "%YAML 9\n",
                        "---\n",
                        "? ",
                        "\"",
                        "'",
                        "\\x00",
                        "\\u2028",
                        "0x10",
                        ".inf",
                        "nan",
                        "1e18",
                        "9223372036854775807",
                        "KiB",
                        "TB",
                        "ns",
                        "h"}};
  for (const char* value : {"1.5GB", "-12", "1h2m3.5s", "0.1e-3", "yes", "a\"b\\c\n\x7f", "é", "8EiB"}) {
    seeds.inputs.push_back('\0' + std::string(value));
  }
  return seeds;
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  if (input.Byte() % 2 == 0) {
    const std::string text(input.Rest());
    ReadValues(text);
    return 0;
  }
  const std::string_view yaml = input.Part();
  std::vector<std::string> flags;
  std::vector<std::string> environment;
  while (!input.empty()) {
    const std::string arg(input.Part());
    // An argument ends where a program's would.
    (absl::StartsWith(arg, "LONGSHELF_") ? environment : flags).emplace_back(arg.c_str());
  }
  Configure(yaml, flags, environment);
  return 0;
}
