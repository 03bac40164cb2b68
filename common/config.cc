#include "common/config.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/build_info.h"
#include "common/check.h"
#include "common/status.h"
#include "config_sources.h"
#include "config_values.h"

namespace longshelf {
namespace {

constexpr absl::string_view kEnvPrefix = "LONGSHELF_";
constexpr std::streamoff kSecretBytesMax = 64 << 10;

// Kubernetes puts NAME_SERVICE_HOST, NAME_PORT and the like into every container for each service of the namespace; a
// service called longshelf-something must not stop us from starting.
bool IsServiceLink(absl::string_view name, absl::string_view value) {
  return absl::EndsWith(name, "_SERVICE_HOST") || absl::StrContains(name, "_SERVICE_PORT") ||
         (absl::StrContains(name, "_PORT") && (absl::StrContains(value, "://") || absl::StrContains(name, "_TCP")));
}

template <typename T>
absl::Status CheckRange(const T& value, const T& min, const T& max, const std::function<std::string(const T&)>& show) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(show(value), " is outside ", show(min), " to ", show(max)));
}

}  // namespace

int ParseOutcome::Finish() const {
  (exit_code == 0 ? std::cout : std::cerr) << text << std::flush;
  return exit_code;
}

ConfigSpec::ConfigSpec(std::string program, std::string purpose)
    : program_(std::move(program)), purpose_(std::move(purpose)) {}

void ConfigSpec::Group(std::string title) { group_ = std::move(title); }

ConfigSpec::Option& ConfigSpec::Append(std::string name, std::string help, std::string type_label) {
  LONGSHELF_CHECK(Find(name) == nullptr);
  Option& option = options_.emplace_back();
  option.name = std::move(name);
  option.help = std::move(help);
  option.type_label = std::move(type_label);
  option.group = group_;
  return option;
}

void ConfigSpec::Add(bool* field, std::string name, std::string help) {
  Option& option = Append(std::move(name), std::move(help), "");
  option.is_bool = true;
  option.show = [field] { return std::string(*field ? "true" : "false"); };
  option.set = [field](const std::vector<std::string>& texts) -> absl::Status {
    ASSIGN_OR_RETURN(*field, ParseBool(texts[0]));
    return absl::OkStatus();
  };
}

void ConfigSpec::Add(std::string* field, std::string name, std::string help) {
  Option& option = Append(std::move(name), std::move(help), "TEXT");
  option.show = [field] { return QuoteYaml(*field); };
  option.set = [field](const std::vector<std::string>& texts) {
    *field = texts[0];
    return absl::OkStatus();
  };
}

void ConfigSpec::Add(std::vector<std::string>* field, std::string name, std::string help) {
  Option& option = Append(std::move(name), std::move(help), "TEXT,...");
  option.is_list = true;
  option.show = [field] {
    return absl::StrCat(
        "[", absl::StrJoin(*field, ", ", [](std::string* out, const std::string& s) { *out += QuoteYaml(s); }), "]");
  };
  option.set = [field](const std::vector<std::string>& texts) {
    *field = texts;
    return absl::OkStatus();
  };
}

void ConfigSpec::Add(absl::Duration* field, std::string name, std::string help, Range<absl::Duration> limits) {
  Option& option = Append(std::move(name), std::move(help), "DURATION");
  option.show = [field] { return absl::FormatDuration(*field); };
  option.set = [field, limits](const std::vector<std::string>& texts) -> absl::Status {
    ASSIGN_OR_RETURN(const absl::Duration value, ParseTime(texts[0]));
    RETURN_IF_ERROR(CheckRange<absl::Duration>(value, limits.min, limits.max,
                                               [](const absl::Duration& d) { return absl::FormatDuration(d); }));
    *field = value;
    return absl::OkStatus();
  };
}

void ConfigSpec::Add(double* field, std::string name, std::string help, Range<double> limits) {
  Option& option = Append(std::move(name), std::move(help), "NUMBER");
  option.show = [field] { return absl::StrCat(*field); };
  option.set = [field, limits](const std::vector<std::string>& texts) -> absl::Status {
    ASSIGN_OR_RETURN(const double value, ParseNumber(texts[0]));
    RETURN_IF_ERROR(CheckRange<double>(value, limits.min, limits.max, [](const double& d) { return absl::StrCat(d); }));
    *field = value;
    return absl::OkStatus();
  };
}

void ConfigSpec::AddInteger(std::string name, std::string help, int64_t min, int64_t max, bool bytes,
                            std::function<int64_t()> get, std::function<void(int64_t)> set) {
  Option& option = Append(std::move(name), std::move(help), bytes ? "SIZE" : "N");
  const auto show = [bytes](const int64_t& value) { return bytes ? FormatByteSize(value) : absl::StrCat(value); };
  option.show = [show, get = std::move(get)] { return show(get()); };
  option.set = [=, set = std::move(set)](const std::vector<std::string>& texts) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t value, bytes ? ParseByteSize(texts[0]) : ParseInteger(texts[0]));
    RETURN_IF_ERROR(CheckRange<int64_t>(value, min, max, show));
    set(value);
    return absl::OkStatus();
  };
}

void ConfigSpec::AddChoice(std::string* field, std::string name, std::string help, std::vector<std::string> choices) {
  Option& option = Append(std::move(name), std::move(help), absl::StrJoin(choices, "|"));
  option.show = [field] { return QuoteYaml(*field); };
  option.set = [field, choices = std::move(choices)](const std::vector<std::string>& texts) -> absl::Status {
    if (std::find(choices.begin(), choices.end(), texts[0]) == choices.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected one of ", absl::StrJoin(choices, ", "), ", got ", QuoteYaml(texts[0])));
    }
    *field = texts[0];
    return absl::OkStatus();
  };
}

void ConfigSpec::AddSecretFile(std::string* secret, std::string name, std::string help) {
  auto path = std::make_shared<std::string>();
  auto given = std::make_shared<bool>(false);
  Option& option = Append(name, std::move(help), "FILE");
  option.show = [path] { return QuoteYaml(*path); };
  option.set = [path, given](const std::vector<std::string>& texts) {
    *path = texts[0];
    *given = true;
    return absl::OkStatus();
  };
  Check([secret, path, given, name = std::move(name)]() -> absl::Status {
    if (!*given) return absl::OkStatus();
    const absl::Status status = ReadSecretFile(*path, secret);
    return status.ok() ? status : Annotate(status, absl::StrCat("--", name));
  });
}

void ConfigSpec::AddPositional(std::string* field, std::string name, std::string help, bool required) {
  Add(field, std::move(name), std::move(help));
  options_.back().is_positional = true;
  options_.back().required = required;
}

void ConfigSpec::AddPositional(std::vector<std::string>* field, std::string name, std::string help) {
  Add(field, std::move(name), std::move(help));
  options_.back().is_positional = true;
}

void ConfigSpec::Require(absl::string_view name) {
  Option* option = Find(name);
  LONGSHELF_CHECK(option != nullptr);
  option->required = true;
}

void ConfigSpec::Check(std::function<absl::Status()> check) { checks_.push_back(std::move(check)); }

ConfigSpec::Option* ConfigSpec::Find(absl::string_view name) {
  const auto it = std::find_if(options_.begin(), options_.end(), [&](const Option& o) { return o.name == name; });
  return it == options_.end() ? nullptr : &*it;
}

std::string ConfigSpec::Suggestion(absl::string_view unknown, absl::string_view prefix) const {
  std::vector<std::string> names = {"config", "print-config", "version", "help"};
  for (const Option& option : options_) {
    if (!option.is_positional) names.push_back(option.name);
  }
  if (prefix == kEnvPrefix) {
    for (std::string& name : names) name = EnvironmentName(name).substr(kEnvPrefix.size());
  }
  const std::string nearest = NearestName(unknown, names);
  return nearest.empty() ? "" : absl::StrCat("; did you mean ", prefix, nearest, "?");
}

absl::Status ConfigSpec::Apply(Option& option, const std::vector<std::string>& texts, const std::string& origin) {
  if (!option.is_list && texts.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": ", option.name, " takes one value, got ", texts.size()));
  }
  const absl::Status status = option.set(texts);
  if (!status.ok()) return Annotate(status, absl::StrCat(origin, ": ", option.name));
  option.origin = origin;
  option.texts = texts;
  return absl::OkStatus();
}

absl::Status ConfigSpec::ApplyYaml(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<YamlSetting> settings, ReadYamlSettings(path));
  std::set<std::string> seen;
  for (const YamlSetting& setting : settings) {
    const std::string origin = absl::StrCat(path, ":", setting.line);
    Option* option = Find(setting.key);
    if (option == nullptr || option->is_positional) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin, ": unknown key ", QuoteYaml(setting.key), Suggestion(setting.key, "")));
    }
    if (!seen.insert(setting.key).second) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": ", setting.key, " is set twice"));
    }
    if (setting.is_sequence && !option->is_list) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": ", setting.key, " takes one value, not a list"));
    }
    RETURN_IF_ERROR(Apply(*option, setting.values, origin));
  }
  return absl::OkStatus();
}

absl::Status ConfigSpec::ApplyEnvironment(const std::vector<std::string>& environment) {
  for (const std::string& entry : environment) {
    if (!absl::StartsWith(entry, kEnvPrefix)) continue;
    const size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : entry.substr(equals + 1);
    if (name == "LONGSHELF_CONFIG") continue;  // read before, by Parse
    const auto it = std::find_if(options_.begin(), options_.end(),
                                 [&](const Option& o) { return !o.is_positional && EnvironmentName(o.name) == name; });
    if (it != options_.end()) {
      const std::vector<std::string> texts =
          it->is_list ? std::vector<std::string>(absl::StrSplit(value, ',', absl::SkipEmpty()))
                      : std::vector<std::string>{value};
      RETURN_IF_ERROR(Apply(*it, texts, absl::StrCat("env ", name)));
      continue;
    }
    const std::string suggestion = Suggestion(name.substr(kEnvPrefix.size()), kEnvPrefix);
    if (IsServiceLink(name, value) || (unknown_env_ == UnknownEnv::kIgnore && suggestion.empty())) continue;
    return absl::InvalidArgumentError(absl::StrCat("env ", name, ": ", program_, " has no such option",
                                                   suggestion.empty() ? "; unset it" : suggestion));
  }
  return absl::OkStatus();
}

absl::Status ConfigSpec::CheckComplete() const {
  for (const Option& option : options_) {
    if (!option.required || option.origin != "default") continue;
    if (option.is_positional) return absl::InvalidArgumentError(absl::StrCat(option.name, " is missing"));
    return absl::InvalidArgumentError(
        absl::StrCat("--", option.name, " is required (or ", EnvironmentName(option.name), "): ", option.help));
  }
  return absl::OkStatus();
}

std::string ConfigSpec::PrintConfig() const {
  std::string out = absl::StrCat("# ", program_, " ", GetBuildInfo().version, "\n");
  for (const Option& option : options_) {
    if (option.is_positional) continue;
    const std::string value = option.show();
    // An empty default reads as unset; setting it to nothing would be another matter.
    const bool unset = option.origin == "default" && value == "\"\"";
    std::string line = absl::StrCat(unset ? "# " : "", option.name, ": ", value);
    line.resize(std::max<size_t>(line.size(), 44), ' ');
    absl::StrAppend(&out, line, "  # ", option.origin, "\n");
  }
  return out;
}

std::vector<std::string> ConfigSpec::FlagsToPassOn(const std::function<bool(const std::string& name)>& wanted) const {
  std::vector<std::string> flags;
  for (const Option& option : options_) {
    if (option.is_positional || option.origin == "default" || !wanted(option.name)) continue;
    for (const std::string& text : option.texts) flags.push_back(absl::StrCat("--", option.name, "=", text));
  }
  return flags;
}

ParseOutcome ConfigSpec::Parse(int argc, const char* const* argv) {
  std::vector<std::string> environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) environment.emplace_back(*entry);
  return Parse(std::vector<std::string>(argv + std::min(argc, 1), argv + argc), environment);
}

ParseOutcome ConfigSpec::Parse(const std::vector<std::string>& args, const std::vector<std::string>& environment) {
  const auto fail = [this](int exit_code, const absl::Status& status) {
    return ParseOutcome{
        .run = false, .exit_code = exit_code, .text = absl::StrCat(program_, ": ", status.message(), "\n")};
  };
  std::vector<FlagSpec> flags;
  for (const Option& option : options_) {
    flags.push_back({.name = option.name,
                     .help = option.is_positional ? option.help
                                                  : absl::StrCat(option.help, " [", EnvironmentName(option.name), "]"),
                     .group = option.group,
                     .type_label = option.type_label,
                     .default_text = option.show(),
                     .is_bool = option.is_bool,
                     .is_list = option.is_list,
                     .is_positional = option.is_positional});
  }
  const absl::StatusOr<FlagValues> given = ReadFlags(program_, purpose_, flags, args);
  if (!given.ok()) return fail(kExitUsage, given.status());
  if (given->help) return {.text = given->help_text};
  if (given->version) {
    const BuildInfo build = GetBuildInfo();
    return {.text = absl::StrCat(program_, " ", build.version, " (", build.compiler, ", ", build.preset, ")\n")};
  }
  if (!given->unknown.empty()) {
    const bool is_flag = absl::StartsWith(given->unknown, "-");
    const std::string name(absl::StripPrefix(given->unknown.substr(0, given->unknown.find('=')), "--"));
    return fail(kExitUsage, absl::InvalidArgumentError(
                                absl::StrCat(is_flag ? "unknown flag " : "unexpected argument ", given->unknown,
                                             is_flag ? Suggestion(name, "--") : "", " (--help lists all)")));
  }

  std::string config_path = given->config_path;
  for (const std::string& entry : environment) {
    if (config_path.empty() && absl::StartsWith(entry, "LONGSHELF_CONFIG=")) config_path = entry.substr(17);
  }
  if (!config_path.empty()) {
    if (const absl::Status status = ApplyYaml(config_path); !status.ok()) return fail(kExitConfig, status);
  }
  if (const absl::Status status = ApplyEnvironment(environment); !status.ok()) return fail(kExitConfig, status);
  for (size_t i = 0; i < options_.size(); ++i) {
    if (given->values[i].empty()) continue;
    const std::string origin = options_[i].is_positional ? "argument" : absl::StrCat("flag --", options_[i].name);
    if (const absl::Status status = Apply(options_[i], given->values[i], origin); !status.ok()) {
      return fail(kExitUsage, status);
    }
  }
  if (given->print_config) return {.text = PrintConfig()};
  if (const absl::Status status = CheckComplete(); !status.ok()) return fail(kExitUsage, status);
  for (const auto& check : checks_) {
    if (const absl::Status status = check(); !status.ok()) return fail(kExitConfig, status);
  }
  return {.run = true};
}

std::string EnvironmentName(std::string_view option) {
  const absl::string_view text(option.data(), option.size());
  return absl::StrCat(kEnvPrefix, absl::AsciiStrToUpper(absl::StrReplaceAll(text, {{"-", "_"}})));
}

std::vector<std::string> EnvironmentForChildren() {
  std::vector<std::string> out;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    if (!absl::StartsWith(*entry, kEnvPrefix)) out.emplace_back(*entry);
  }
  return out;
}

absl::Status ReadSecretFile(const std::string& path, std::string* secret) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", QuoteYaml(path)));
  std::string content(kSecretBytesMax + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  if (file.bad()) return absl::NotFoundError(absl::StrCat("cannot read ", QuoteYaml(path)));
  if (content.size() > kSecretBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(QuoteYaml(path), " is larger than 64KiB"));
  }
  absl::StripAsciiWhitespace(&content);
  if (content.empty()) return absl::InvalidArgumentError(absl::StrCat(QuoteYaml(path), " holds no token: it is empty"));
  *secret = std::move(content);
  return absl::OkStatus();
}

}  // namespace longshelf
