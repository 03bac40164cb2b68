#include "config_sources.h"

#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status.h"

namespace longshelf {
namespace {

constexpr uintmax_t kYamlBytesMax = 1 << 20;
constexpr int kYamlDepthMax = 4;
constexpr size_t kYamlSettingsMax = 1024;  // also what stops nested aliases from multiplying

absl::Status YamlError(const std::string& path, int line, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ":", line, ": ", what));
}

absl::Status Flatten(const std::string& path, const YAML::Node& map, const std::string& prefix, int depth,
                     std::vector<YamlSetting>* out) {
  if (depth > kYamlDepthMax) return YamlError(path, map.Mark().line + 1, "nested deeper than 4 levels");
  for (const auto& entry : map) {
    const int line = entry.first.Mark().line + 1;
    if (!entry.first.IsScalar()) return YamlError(path, line, "a key must be plain text");
    if (out->size() >= kYamlSettingsMax) return YamlError(path, line, "more than 1024 settings");
    const std::string key = absl::StrCat(prefix, absl::StrReplaceAll(entry.first.Scalar(), {{"_", "-"}}));
    const YAML::Node& value = entry.second;
    // An empty map would be no setting, so nothing would stop aliases of it from multiplying.
    if (value.IsNull() || (value.IsMap() && value.size() == 0)) {
      return YamlError(path, line, key + " has no value; remove the line or give one");
    }
    if (value.IsMap()) {
      RETURN_IF_ERROR(Flatten(path, value, key + "-", depth + 1, out));
      continue;
    }
    YamlSetting setting{.key = key, .is_sequence = value.IsSequence(), .line = line};
    if (value.IsScalar()) setting.values.push_back(value.Scalar());
    for (size_t i = 0; value.IsSequence() && i < value.size(); ++i) {
      if (!value[i].IsScalar()) return YamlError(path, line, key + ": a list holds plain values only");
      setting.values.push_back(value[i].Scalar());
    }
    out->push_back(std::move(setting));
  }
  return absl::OkStatus();
}

// CLI11 reports through exceptions; they end here.
template <typename Function>
absl::Status CatchCli(Function function) {
  try {
    function();
    return absl::OkStatus();
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

// CLI11 takes the next argument as the value of `--flag=`; of `--flag` and an empty argument it does not.
std::vector<std::string> WithEmptyValuesApart(const std::vector<std::string>& args) {
  std::vector<std::string> out;
  for (const std::string& arg : args) {
    const bool is_empty = absl::StartsWith(arg, "--") && arg.find('=') == arg.size() - 1;
    out.push_back(is_empty ? arg.substr(0, arg.size() - 1) : arg);
    if (is_empty) out.emplace_back();
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<YamlSetting>> ReadYamlSettings(const std::string& path) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", error.message()));
  if (bytes > kYamlBytesMax) return absl::InvalidArgumentError(absl::StrCat(path, " is larger than 1MiB"));
  std::vector<YamlSetting> out;
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (root.IsNull()) return out;
    if (!root.IsMap()) return YamlError(path, root.Mark().line + 1, "expected `key: value` lines");
    RETURN_IF_ERROR(Flatten(path, root, "", 1, &out));
  } catch (const YAML::Exception& exception) {
    return YamlError(path, exception.mark.line + 1, exception.msg);
  }
  return out;
}

absl::StatusOr<FlagValues> ReadFlags(const std::string& program, const std::string& purpose,
                                     const std::vector<FlagSpec>& flags, const std::vector<std::string>& args) {
  FlagValues out;
  out.values.resize(flags.size());
  CLI::App app(purpose, program);
  app.allow_extras();
  app.set_help_flag();
  app.get_formatter()->column_width(36);
  const absl::Status status = CatchCli([&] {
    for (size_t i = 0; i < flags.size(); ++i) {
      const FlagSpec& flag = flags[i];
      std::vector<std::string>& values = out.values[i];
      CLI::Option* option = nullptr;
      if (flag.is_bool) {
        option = app.add_flag("--" + flag.name, values, flag.help);
        const auto turn_off = [&values](std::int64_t) { values.emplace_back("false"); };
        app.add_flag_function("--no-" + flag.name, turn_off)->group("");  // works, but help stays short
      } else {
        option = app.add_option(flag.is_positional ? flag.name : "--" + flag.name, values, flag.help);
        option->type_name(flag.type_label)->allow_extra_args(flag.is_positional && flag.is_list);
        if (flag.is_list) option->delimiter(',');
        if (!flag.is_list) option->expected(1);
      }
      option->group(flag.is_positional ? "Arguments" : flag.group);
      if (!flag.is_positional && flag.default_text != "\"\"" && flag.default_text != "[]" && !flag.is_bool) {
        option->default_str(flag.default_text);
      }
    }
    app.add_option("--config", out.config_path, "YAML file with any of these options [LONGSHELF_CONFIG]")
        ->type_name("FILE")
        ->group("Help and configuration");
    app.add_flag("--print-config", out.print_config, "show every option, its value and where it came from")
        ->group("Help and configuration");
    app.add_flag("--version", out.version, "show the version")->group("Help and configuration");
    app.add_flag("-h,--help", out.help, "show this text")->group("Help and configuration");
    out.help_text = app.help();
    std::vector<std::string> reversed = WithEmptyValuesApart(args);
    std::reverse(reversed.begin(), reversed.end());
    app.parse(reversed);
  });
  if (!status.ok()) return status;
  const std::vector<std::string> remaining = app.remaining();
  const auto flag_like =
      std::find_if(remaining.begin(), remaining.end(), [](const std::string& s) { return absl::StartsWith(s, "-"); });
  if (flag_like != remaining.end()) {
    out.unknown = *flag_like;
  } else if (!remaining.empty()) {
    out.unknown = remaining[0];
  }
  return out;
}

}  // namespace longshelf
