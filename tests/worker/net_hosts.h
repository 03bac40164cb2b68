#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "supervised.h"

namespace longshelf::testing {

// Machines that are network namespaces of this one, each with a host name, a link to a common bridge on which this
// process has an address too, and two more interfaces that lead nowhere (one with the same address everywhere, as
// container bridges have). Needs root.
class NetHosts {
 public:
  // Null when this machine does not let us; `why` then says what failed.
  static std::unique_ptr<NetHosts> Make(int n, std::string* why);
  ~NetHosts();
  NetHosts(const NetHosts&) = delete;
  NetHosts& operator=(const NetHosts&) = delete;

  int n() const { return n_; }
  std::string address(int host) const;
  std::string own_address() const { return subnet_ + "254"; }  // of this process
  std::string network() const { return subnet_ + "0/24"; }
  // "10.1.2.1,10.1.2.2"
  std::string list() const;
  // From now on commands on that host run behind these words: "env", "A=b"; or a shell that prepares something first.
  void RunBehind(int host, std::vector<std::string> words) { before_[static_cast<size_t>(host)] = std::move(words); }
  // `command` as it is run on that host.
  std::vector<std::string> On(int host, const std::vector<std::string>& command) const;
  // Runs it there and waits; the exit code. For ip, tc and nft.
  int RunOn(int host, const std::vector<std::string>& command) const;
  // Packets to and from the host are lost without a word, or not any more.
  void SetLink(int host, bool up) const;

 private:
  NetHosts(int n, std::string name, std::string subnet)
      : n_(n), name_(std::move(name)), subnet_(std::move(subnet)), before_(static_cast<size_t>(n)) {}
  std::string Namespace(int host) const { return name_ + "-" + std::to_string(host); }
  bool Build(std::string* why) const;

  const int n_;
  const std::string name_;
  const std::string subnet_;  // "10.1.2."
  std::vector<std::vector<std::string>> before_;
};

}  // namespace longshelf::testing
