#include "cluster_of_hosts.h"

#include <signal.h>

#include <fstream>

#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::testing {
namespace {

constexpr std::chrono::seconds kStart(60);

}  // namespace

ClusterOfHosts::ClusterOfHosts(std::unique_ptr<NetHosts> hosts, int shards_per_host,
                               const std::vector<std::string>& worker_flags)
    : dir_(MakeTempDir("hosts")), hosts_(std::move(hosts)), shards_per_host_(shards_per_host) {
  std::ofstream(dir_ / "token") << kHostToken;
  agents_.resize(static_cast<size_t>(hosts_->n()));
  for (int h = 1; h < hosts_->n(); ++h) StartAgent(h);
  std::vector<std::string> flags = {"--model=" + ModelPath("demo").string(),
                                    "--hosts=" + hosts_->list(),
                                    "--shards-per-host=" + std::to_string(shards_per_host),
                                    "--listen=" + hosts_->address(0) + ":7300",
                                    "--token-file=" + (dir_ / "token").string(),
                                    "--kv-memory=32MiB",
                                    "--restart-delay-min=50ms",
                                    "--step-deadline=5s",
                                    "--host-silence=2s",
                                    "--drain-timeout=1s"};
  flags.insert(flags.end(), worker_flags.begin(), worker_flags.end());
  worker_ =
      std::make_unique<SupervisedWorker>(dir_ / "host0", hosts_->On(0, WorkerCommand(LONGSHELF_TEST_SHARD, flags)));
}

void ClusterOfHosts::StartAgent(int host) {
  auto& agent = agents_[static_cast<size_t>(host)];
  agent.reset();
  agent = std::make_unique<SupervisedWorker>(
      dir_ / ("host" + std::to_string(host)),
      hosts_->On(host, {LONGSHELF_TEST_HOST, "--listen=" + hosts_->address(host) + ":7310", "--host-silence=2s",
                        "--token-file=" + (dir_ / "token").string()}));
}

bool ClusterOfHosts::WaitServing(uint64_t number) const {
  return worker_->WaitServing(number, shards_per_host_, kStart).has_value();
}

std::string ClusterOfHosts::Address(int generation) const {
  return ServingAddress(*worker_, generation, hosts_->address(0));
}

std::vector<engine::ProcessId> ClusterOfHosts::Processes() const {
  std::vector<engine::ProcessId> all;
  std::vector<const SupervisedWorker*> roots = {worker_.get()};
  for (size_t h = 1; h < agents_.size(); ++h) roots.push_back(agents_[h].get());
  for (const SupervisedWorker* root : roots) {
    for (const engine::ProcessId& id : ProcessTree(root->pid())) {
      if (id.pid != root->pid()) all.push_back(id);
    }
  }
  return all;
}

std::string ClusterOfHosts::Logs() const {
  std::string out = worker_->log();
  for (size_t h = 1; h < agents_.size(); ++h) out += "host " + std::to_string(h) + ":\n" + agents_[h]->log();
  return out;
}

std::vector<std::string> ClusterOfHosts::Leftovers() const {
  std::vector<std::string> out = worker_->Leftovers();
  for (size_t h = 1; h < agents_.size(); ++h) {
    const std::vector<std::string> more = agents_[h]->Leftovers();
    out.insert(out.end(), more.begin(), more.end());
  }
  return out;
}

}  // namespace longshelf::testing
