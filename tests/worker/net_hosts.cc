#include "net_hosts.h"

#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace longshelf::testing {
namespace {

int Run(const std::vector<std::string>& command) {
  std::vector<char*> pointers;
  for (const std::string& arg : command) pointers.push_back(const_cast<char*>(arg.c_str()));
  pointers.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    execvp(pointers[0], pointers.data());
    _exit(127);
  }
  int status = 1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int Ip(const std::string& arguments) {
  std::vector<std::string> command = absl::StrSplit(arguments, ' ');
  command.insert(command.begin(), "ip");
  return Run(command);
}

}  // namespace

std::unique_ptr<NetHosts> NetHosts::Make(int n, std::string* why) {
  // Names and addresses of hosts that are gone stay taken for a while.
  static int n_made = 0;
  const int id = (getpid() * 16 + n_made++) % 100'000;
  const std::string subnet = absl::StrCat("10.", 64 + id / 250 % 64, ".", 1 + id % 250, ".");
  auto hosts = std::unique_ptr<NetHosts>(new NetHosts(n, absl::StrCat("ls", id), subnet));
  return hosts->Build(why) ? std::move(hosts) : nullptr;
}

bool NetHosts::Build(std::string* why) const {
  std::vector<std::string> steps = {
      absl::StrCat("link add ", name_, " type bridge"),
      absl::StrCat("addr add ", own_address(), "/24 dev ", name_),
      absl::StrCat("link set ", name_, " up"),
  };
  for (int h = 0; h < n_; ++h) {
    const std::string space = Namespace(h);
    const std::string outer = absl::StrCat(name_, "v", h);
    for (const std::string& step :
         {absl::StrCat("netns add ", space),
          absl::StrCat("link add ", outer, " type veth peer name eth0 netns ", space),
          absl::StrCat("link set ", outer, " master ", name_, " up"), absl::StrCat("-n ", space, " link set lo up"),
          absl::StrCat("-n ", space, " link add bridge0 type bridge"),
          absl::StrCat("-n ", space, " addr add 172.17.0.1/16 dev bridge0"),
          absl::StrCat("-n ", space, " link set bridge0 up"),
          absl::StrCat("-n ", space, " addr add ", address(h), "/24 dev eth0"),
          absl::StrCat("-n ", space, " link set eth0 up"), absl::StrCat("-n ", space, " link add storage0 type bridge"),
          absl::StrCat("-n ", space, " addr add 192.168.", 10 + h, ".1/24 dev storage0"),
          absl::StrCat("-n ", space, " link set storage0 up")}) {
      steps.push_back(step);
    }
  }
  for (const std::string& step : steps) {
    if (Ip(step) == 0) continue;
    *why = absl::StrCat("this machine does not let us make network namespaces: ip ", step);
    return false;
  }
  return true;
}

NetHosts::~NetHosts() {
  for (int h = 0; h < n_; ++h) {
    Ip(absl::StrCat("link del ", name_, "v", h));
    Ip("netns del " + Namespace(h));
  }
  Ip("link del " + name_);
}

std::string NetHosts::address(int host) const { return subnet_ + std::to_string(host + 1); }

std::string NetHosts::list() const {
  std::vector<std::string> all;
  for (int h = 0; h < n_; ++h) all.push_back(address(h));
  return absl::StrJoin(all, ",");
}

std::vector<std::string> NetHosts::On(int host, const std::vector<std::string>& command) const {
  std::vector<std::string> out = {"ip",
                                  "netns",
                                  "exec",
                                  Namespace(host),
                                  "unshare",
                                  "--uts",
                                  "sh",
                                  "-c",
                                  absl::StrCat("hostname host", host, "; exec \"$@\""),
                                  "sh"};
  const std::vector<std::string>& before = before_[static_cast<size_t>(host)];
  out.insert(out.end(), before.begin(), before.end());
  out.insert(out.end(), command.begin(), command.end());
  return out;
}

int NetHosts::RunOn(int host, const std::vector<std::string>& command) const { return Run(On(host, command)); }

void NetHosts::SetLink(int host, bool up) const {
  // Not "down": that would be told to the other side's kernel.
  const std::string outer = absl::StrCat(name_, "v", host);
  Ip(absl::StrCat("link set ", outer, up ? " master " + name_ : std::string(" nomaster")));
}

}  // namespace longshelf::testing
