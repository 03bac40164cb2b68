#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace longshelf {

// Exit codes of sysexits(3) that every binary shares.
inline constexpr int kExitUsage = 64;        // a wrong flag
inline constexpr int kExitUnavailable = 69;  // something needed is not there (port taken, peer unreachable)
inline constexpr int kExitSystem = 71;       // memory, threads or descriptors were refused
inline constexpr int kExitConfig = 78;       // a wrong YAML file, environment variable, secret file or combination

// Inclusive limits of a number. Nothing outside is ever stored.
template <typename T>
struct Range {
  T min;
  T max;
};

// What main does after Parse. When !run: `return outcome.Finish();`.
struct ParseOutcome {
  bool run = false;
  int exit_code = 0;
  std::string text = {};  // for stdout when exit_code is 0, else for stderr

  int Finish() const;  // prints `text` where it belongs, returns exit_code
};

// The options of one binary (or of one subcommand of `longshelf`), bound to fields of a struct. A field's value at the
// time of Add is its default. Precedence: default < YAML file (--config) < environment < flag.
//
//   RouterConfig config;
//   ConfigSpec spec("longshelf-router", "Public HTTP and gRPC edge of a longshelf cluster.");
//   spec.Add(&config.listen, "listen", "address and port for clients");
//   spec.Add(&config.queue_max, "queue-max", "requests that may wait for a worker", {1, 100'000});
//   if (ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
//
// An option `queue-max` is `--queue-max N`, `LONGSHELF_QUEUE_MAX=N`, and `queue-max: N` in YAML (`queue_max`, and `max`
// below a map `queue`, mean the same). Also always there: --config, --print-config, --version, --help.
// Fields must outlive Parse. Not thread safe; used once, before threads start.
class ConfigSpec {
 public:
  // What a LONGSHELF_* variable that no option has leads to. Likely misspellings are always refused.
  enum class UnknownEnv {
    kRefuse,  // servers: a setting that silently does nothing is worse than one that stops the start
    kIgnore,  // the command line tool: the shell may hold variables meant for a server
  };

  ConfigSpec(std::string program, std::string purpose);

  // Options added from here on appear below `title` in --help.
  void Group(std::string title);

  void Add(bool* field, std::string name, std::string help);  // --x, --x=false, --no-x
  void Add(std::string* field, std::string name, std::string help);
  // Comma-separated or repeated as a flag, comma-separated in the environment, a sequence in YAML.
  void Add(std::vector<std::string>* field, std::string name, std::string help);
  // "250ms", "2s", "1m30s". Infinite is refused.
  void Add(absl::Duration* field, std::string name, std::string help,
           Range<absl::Duration> limits = {absl::ZeroDuration(), absl::Hours(24 * 365)});
  void Add(double* field, std::string name, std::string help, Range<double> limits);
  // Whole numbers; limits may not pass 2^63 - 1.
  template <typename T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) void Add(T* field, std::string name, std::string help,
                                                                       std::type_identity_t<Range<T>> limits) {
    AddInteger(
        std::move(name), std::move(help), Clamp(limits.min), Clamp(limits.max), /*bytes=*/false,
        [field] { return Clamp(*field); }, [field](int64_t value) { *field = static_cast<T>(value); });
  }
  // Sizes in bytes: "512MiB", "1.5GB", "4096".
  template <typename T>
  requires(std::is_integral_v<T> &&
           sizeof(T) == 8) void AddBytes(T* field, std::string name, std::string help,
                                         std::type_identity_t<Range<T>> limits = {0, T{1} << 50}) {
    AddInteger(
        std::move(name), std::move(help), Clamp(limits.min), Clamp(limits.max), /*bytes=*/true,
        [field] { return Clamp(*field); }, [field](int64_t value) { *field = static_cast<T>(value); });
  }
  // One of `choices`, spelled exactly.
  void AddChoice(std::string* field, std::string name, std::string help, std::vector<std::string> choices);
  // The option's value is a path; `secret` gets the file's content without surrounding white space. An unreadable,
  // empty or blank file is an error. The secret itself is never an option's value and never printed.
  void AddSecretFile(std::string* secret, std::string name, std::string help);
  // An argument without a dash, in order of adding. No environment or YAML form.
  void AddPositional(std::string* field, std::string name, std::string help, bool required);
  void AddPositional(std::vector<std::string>* field, std::string name, std::string help);

  // Refuses to run unless some source sets option `name`.
  void Require(absl::string_view name);
  // Called once all fields are set; a failure is a configuration error with its message.
  void Check(std::function<absl::Status()> check);
  void set_unknown_env(UnknownEnv mode) { unknown_env_ = mode; }

  // argv[0] is skipped. Reads the process's environment.
  ParseOutcome Parse(int argc, const char* const* argv);
  // The same with everything given; `environment` holds "NAME=value" entries.
  ParseOutcome Parse(const std::vector<std::string>& args, const std::vector<std::string>& environment);

  // After Parse: the flags that give another process the options that were set here by any source, for those options
  // that `wanted` says yes to. Values are passed as they were written, so a secret stays in its file.
  std::vector<std::string> FlagsToPassOn(const std::function<bool(const std::string& name)>& wanted) const;

 private:
  struct Option {
    std::string name;
    std::string help;
    std::string group;
    std::string type_label;  // shown in --help, empty for booleans
    bool is_bool = false;
    bool is_list = false;
    bool is_positional = false;
    bool required = false;
    // Stores the text's value or says what is wrong with it; at most one text unless is_list.
    std::function<absl::Status(const std::vector<std::string>&)> set;
    std::function<std::string()> show;  // as YAML
    std::string origin = "default";
    std::vector<std::string> texts = {};  // the value as `origin` wrote it
  };

  template <typename T>
  static int64_t Clamp(T value) {
    return std::in_range<int64_t>(value) ? static_cast<int64_t>(value) : std::numeric_limits<int64_t>::max();
  }
  Option& Append(std::string name, std::string help, std::string type_label);
  void AddInteger(std::string name, std::string help, int64_t min, int64_t max, bool bytes,
                  std::function<int64_t()> get, std::function<void(int64_t)> set);
  Option* Find(absl::string_view name);
  std::string Suggestion(absl::string_view unknown, absl::string_view prefix) const;
  absl::Status Apply(Option& option, const std::vector<std::string>& texts, const std::string& origin);
  absl::Status ApplyYaml(const std::string& path);
  absl::Status ApplyEnvironment(const std::vector<std::string>& environment);
  absl::Status CheckComplete() const;
  std::string PrintConfig() const;

  std::string program_;
  std::string purpose_;
  std::string group_ = "Options";
  std::vector<Option> options_;
  std::vector<std::function<absl::Status()>> checks_;
  UnknownEnv unknown_env_ = UnknownEnv::kRefuse;
};

// "LONGSHELF_TOKEN_FILE" for the option "token-file".
std::string EnvironmentName(std::string_view option);

// The process's environment without LONGSHELF_* variables. Use it for child processes: their options are given as
// flags, and a variable meant for the parent would be refused by the child.
std::vector<std::string> EnvironmentForChildren();

// A token as every option that names a secret file reads it: surrounding white space removed; NOT_FOUND,
// INVALID_ARGUMENT (empty, blank or above 64 KiB) otherwise, naming the path.
absl::Status ReadSecretFile(const std::string& path, std::string* secret);

// The candidate a person most likely meant by `unknown`, or "" when none is near.
std::string NearestName(absl::string_view unknown, const std::vector<std::string>& candidates);

}  // namespace longshelf
