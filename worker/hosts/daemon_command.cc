#include "daemon_command.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"

namespace longshelf::worker {
namespace {

constexpr char kDaemon[] = "orted";
constexpr size_t kArgsMax = 1024;
constexpr size_t kArgBytesMax = 64 << 10;

// Words as a shell would see them; nothing that a shell would do more than split and unquote is understood.
absl::StatusOr<std::vector<std::string>> Split(std::string_view text) {
  std::vector<std::string> out;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (const char c : text) {
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else {
        word += c;
      }
    } else if (c == '"' || c == '\'') {
      quote = c;
      in_word = true;
    } else if (absl::ascii_isspace(static_cast<unsigned char>(c))) {
      if (in_word) out.push_back(std::exchange(word, {}));
      in_word = false;
    } else if (std::string_view("$`\\;&|<>(){}").find(c) != std::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("not a plain command line: ", std::string(1, c)));
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote != 0) return absl::InvalidArgumentError("a quote is not closed");
  if (in_word) out.push_back(word);
  return out;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseDaemonCommand(const std::vector<std::string>& words) {
  ASSIGN_OR_RETURN(std::vector<std::string> all, Split(absl::StrJoin(words, " ")));
  if (all.empty() || all[0] != kDaemon) {
    return absl::InvalidArgumentError(
        absl::StrCat("only Open MPI's ", kDaemon, " is started on a host, not \"", all.empty() ? "" : all[0], "\""));
  }
  all.erase(all.begin());
  RETURN_IF_ERROR(CheckDaemonArgs(all));
  return all;
}

absl::Status CheckDaemonArgs(const std::vector<std::string>& args) {
  if (args.size() > kArgsMax || args.size() % 3 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(args.size(), " arguments for the daemon; at most ", kArgsMax, ", in threes: -mca NAME VALUE"));
  }
  for (size_t i = 0; i < args.size(); i += 3) {
    const std::string& name = args[i + 1];
    const bool is_name = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return c == '_' || absl::ascii_isalnum(static_cast<unsigned char>(c));
    });
    if ((args[i] != "-mca" && args[i] != "--mca") || !is_name || args[i + 2].size() > kArgBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("the daemon's argument ", i, " is not a setting: ", args[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::worker
