#include "host_list.h"

#include <algorithm>
#include <fstream>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "hosts/network.h"

namespace longshelf::worker {
namespace {

constexpr size_t kHostsMax = 4096;
constexpr size_t kNameBytesMax = 253;
constexpr int kDigitsMax = 9;

absl::StatusOr<std::string> Required(const ReadVariable& read, const char* name, const char* why) {
  if (std::optional<std::string> value = read(name); value.has_value() && !value->empty()) return *std::move(value);
  return absl::NotFoundError(absl::StrCat("--hosts: ", name, " is not set; ", why));
}

// "01-03" or "7" behind `prefix`, with leading zeros kept.
absl::Status ExpandRange(const std::string& prefix, const std::string& range, std::vector<std::string>& out) {
  const std::vector<std::string> ends = absl::StrSplit(range, '-');
  uint32_t first = 0;
  uint32_t last = 0;
  if (ends.size() > 2 || ends[0].size() > kDigitsMax || !absl::SimpleAtoi(ends[0], &first) ||
      !absl::SimpleAtoi(ends.back(), &last) || last < first || last - first >= kHostsMax - out.size()) {
    return absl::InvalidArgumentError(absl::StrCat("not a range of nodes: ", prefix, "[", range, "]"));
  }
  for (uint32_t n = first; n <= last; ++n) {
    out.push_back(absl::StrFormat("%s%0*u", prefix, static_cast<int>(ends[0].size()), n));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ReadHostFile(const std::string& path) {
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat("--hosts: cannot read ", path));
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line) && out.size() <= kHostsMax;) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text.front() == '#') continue;
    out.emplace_back(text.substr(0, text.find_first_of(" \t")));
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> HostsOfLeaderWorkerSet(const ReadVariable& read) {
  const char* why = "a LeaderWorkerSet sets it in its pods";
  ASSIGN_OR_RETURN(const std::string leader, Required(read, "LWS_LEADER_ADDRESS", why));
  ASSIGN_OR_RETURN(const std::string size_text, Required(read, "LWS_GROUP_SIZE", why));
  size_t size = 0;
  if (!absl::SimpleAtoi(size_text, &size) || size < 1 || size > kHostsMax) {
    return absl::InvalidArgumentError(absl::StrCat("--hosts: LWS_GROUP_SIZE is \"", size_text, "\""));
  }
  // The leader is NAME-GROUP.SERVICE.NAMESPACE, worker i NAME-GROUP-i.SERVICE.NAMESPACE.
  const size_t dot = std::min(leader.find('.'), leader.size());
  std::vector<std::string> out = {leader};
  for (size_t i = 1; i < size; ++i) out.push_back(absl::StrCat(leader.substr(0, dot), "-", i, leader.substr(dot)));
  return out;
}

absl::Status CheckHosts(const std::vector<std::string>& hosts) {
  std::set<std::string> seen;
  for (const std::string& host : hosts) {
    const bool is_name =
        !host.empty() && host.size() <= kNameBytesMax &&
        std::all_of(host.begin(), host.end(),
                    [](char c) {
                      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_';
                    }) &&
        host[0] != '-';
    if (absl::StrContains(host, ':')) {
      return absl::InvalidArgumentError(absl::StrCat("--hosts: \"", host, "\": no port belongs here, and ", kOnlyIpv4));
    }
    if (!is_name) return absl::InvalidArgumentError(absl::StrCat("--hosts: \"", host, "\" is not a name or address"));
    if (!seen.insert(host).second)
      return absl::InvalidArgumentError(absl::StrCat("--hosts: ", host, " is there twice"));
  }
  if (hosts.size() > kHostsMax) return absl::InvalidArgumentError("--hosts: more than 4096");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ExpandNodeList(const std::string& text) {
  std::vector<std::string> out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = text.find_first_of(",[", at);
    const std::string prefix = text.substr(at, end - at);
    if (end == std::string::npos || text[end] == ',') {
      out.push_back(prefix);
      at = end == std::string::npos ? text.size() : end + 1;
      continue;
    }
    const size_t close = text.find(']', end);
    if (close == std::string::npos || (close + 1 < text.size() && text[close + 1] != ',')) {
      return absl::InvalidArgumentError(absl::StrCat("not a list of nodes: ", text));
    }
    for (const absl::string_view range : absl::StrSplit(text.substr(end + 1, close - end - 1), ',')) {
      RETURN_IF_ERROR(ExpandRange(prefix, std::string(range), out));
    }
    at = close + 2;
  }
  if (out.empty() || out.size() > kHostsMax) return absl::InvalidArgumentError("a list of nodes has 1 to 4096 of them");
  return out;
}

absl::StatusOr<std::vector<std::string>> ResolveHosts(const std::vector<std::string>& given, const ReadVariable& read,
                                                      const AskPmix& ask_pmix) {
  std::vector<std::string> hosts = given;
  if (given.size() == 1 && given[0] == "slurm") {
    ASSIGN_OR_RETURN(const std::string list,
                     Required(read, "SLURM_JOB_NODELIST", "run longshelf-worker inside of a job (sbatch, salloc)"));
    ASSIGN_OR_RETURN(hosts, ExpandNodeList(list));
  } else if (given.size() == 1 && given[0] == "pmix") {
    ASSIGN_OR_RETURN(const std::string list, ask_pmix());
    ASSIGN_OR_RETURN(hosts, ExpandNodeList(list));
  } else if (given.size() == 1 && given[0] == "lws") {
    ASSIGN_OR_RETURN(hosts, HostsOfLeaderWorkerSet(read));
  } else if (given.size() == 1 && given[0].starts_with('@')) {
    ASSIGN_OR_RETURN(hosts, ReadHostFile(given[0].substr(1)));
  }
  RETURN_IF_ERROR(CheckHosts(hosts));
  return hosts;
}

}  // namespace longshelf::worker
