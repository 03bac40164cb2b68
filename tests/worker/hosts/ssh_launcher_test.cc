// --launcher ssh, with OpenSSH's own client and server: nothing of ours runs on the other host until a group wants it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cluster_of_hosts.h"
#include "testing/fixtures.h"
#include "worker_stream.h"

namespace longshelf::worker {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using testing::Generate;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::NetHosts;
using testing::Outcome;
using testing::SupervisedWorker;

constexpr char kSshd[] = "/usr/sbin/sshd";

// longshelf-worker on the first of two hosts and an sshd on the second, with keys and settings of their own.
class SshHosts {
 public:
  // `has_host`: longshelf-host is there on the second one.
  explicit SshHosts(std::unique_ptr<NetHosts> hosts, bool has_host = true)
      : dir_(testing::MakeTempDir("ssh")), hosts_(std::move(hosts)) {
    for (const char* key : {"host_key", "user_key"}) {
      EXPECT_EQ(hosts_->RunOn(0, {"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", (dir_ / key).string()}), 0);
    }
    fs::create_directories(dir_ / "programs");
    fs::create_symlink(LONGSHELF_TEST_HOST, HostBinary());
    StartServer(has_host);
    WriteClient();
    std::vector<std::string> command = {"env", "PATH=" + (dir_ / "bin").string() + ":" + std::getenv("PATH")};
    const std::vector<std::string> worker = testing::WorkerCommand(
        LONGSHELF_TEST_SHARD,
        {"--model=" + testing::ModelPath("demo").string(), "--hosts=" + hosts_->list(), "--launcher=ssh",
         "--host-binary=" + HostBinary().string(), "--listen=" + hosts_->address(0) + ":7300", "--insecure-internal",
         "--kv-memory=32MiB", "--restart-delay-min=50ms", "--host-silence=2s", "--drain-timeout=1s"});
    command.insert(command.end(), worker.begin(), worker.end());
    worker_ = std::make_unique<SupervisedWorker>(dir_ / "host0", hosts_->On(0, command));
  }

  fs::path HostBinary() const { return dir_ / "programs" / "longshelf-host"; }
  NetHosts& hosts() { return *hosts_; }
  SupervisedWorker& worker() { return *worker_; }
  bool WaitServing(uint64_t number) const { return worker_->WaitServing(number, 1, seconds(60)).has_value(); }
  // By the generation that is the n-th to serve.
  Outcome Ask(int n) const { return Generate(testing::ServingAddress(*worker_, n, hosts_->address(0))); }
  std::string Logs() const { return worker_->log() + "sshd:\n" + server_->log(); }
  // Shards, daemons and longshelf-host on the second host.
  std::vector<engine::ProcessId> Far() const {
    std::vector<engine::ProcessId> out = testing::ProcessTree(server_->pid());
    std::erase_if(out, [](const engine::ProcessId& id) {
      std::string name;
      std::ifstream("/proc/" + std::to_string(id.pid) + "/comm") >> name;
      return name != "longshelf-shard" && name != "longshelf-host" && name != "orted";
    });
    return out;
  }
  std::vector<std::string> FarLeftovers() const {
    std::vector<std::string> out;
    for (const char* part : {"work", "shm"}) {
      for (const auto& entry : fs::directory_iterator(dir_ / "far" / part)) {
        if (entry.path().filename() != "lock") out.push_back(entry.path().string());
      }
    }
    return out;
  }

 private:
  void StartServer(bool has_host) {
    fs::create_directories(dir_ / "far" / "shm");
    std::ofstream(dir_ / "sshd_config") << "ListenAddress " << hosts_->address(1) << "\nHostKey "
                                        << (dir_ / "host_key").string() << "\nAuthorizedKeysFile "
                                        << (dir_ / "user_key.pub").string()
                                        << "\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n"
                                           "PasswordAuthentication no\nSetEnv LONGSHELF_WORK_DIR="
                                        << (dir_ / "far" / "work").string()
                                        << " LONGSHELF_SHM_DIR=" << (dir_ / "far" / "shm").string() << "\n";
    // It insists on a directory in /run, of which this host has its own.
    std::string start = "mount -t tmpfs none /run && mkdir /run/sshd && ";
    if (!has_host) start += "mount -t tmpfs none " + (dir_ / "programs").string() + " && ";
    start += std::string("exec ") + kSshd + " -D -e -f " + (dir_ / "sshd_config").string();
    server_ = std::make_unique<SupervisedWorker>(dir_ / "sshd", hosts_->On(1, {"sh", "-c", start}));
  }
  // The ssh of this worker's PATH, told to use this test's key and to know this test's host.
  void WriteClient() const {
    std::ifstream key(dir_ / "host_key.pub");
    std::string type;
    std::string value;
    key >> type >> value;
    std::ofstream(dir_ / "known_hosts") << hosts_->address(1) << " " << type << " " << value << "\n";
    std::ofstream(dir_ / "ssh_config") << "IdentityFile " << (dir_ / "user_key").string() << "\nUserKnownHostsFile "
                                       << (dir_ / "known_hosts").string() << "\nStrictHostKeyChecking yes\n";
    fs::create_directories(dir_ / "bin");
    std::ofstream(dir_ / "bin" / "ssh") << "#!/bin/sh\nexec /usr/bin/ssh -F " << (dir_ / "ssh_config").string()
                                        << " \"$@\"\n";
    fs::permissions(dir_ / "bin" / "ssh", fs::perms::owner_all);
  }

  const fs::path dir_;
  std::unique_ptr<NetHosts> hosts_;
  std::unique_ptr<SupervisedWorker> server_;
  std::unique_ptr<SupervisedWorker> worker_;
};

std::unique_ptr<NetHosts> MakeHosts(std::string* why) {
  if (access(kSshd, X_OK) == 0) return NetHosts::Make(2, why);
  *why = std::string("no ") + kSshd + " (scripts/install-deps.sh test)";
  return nullptr;
}

TEST(SshLauncher, BringsUpTheOtherHostAgainAfterADeathAndASilenceAndLeavesNothingThere) {
  std::string why;
  auto hosts = MakeHosts(&why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  SshHosts cluster(std::move(hosts));
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const Outcome expected = cluster.Ask(1);
  ASSERT_TRUE(expected.status.ok()) << expected.status.error_message() << cluster.Logs();

  std::vector<engine::ProcessId> far = cluster.Far();
  ASSERT_EQ(far.size(), 3U) << cluster.Logs();
  for (const engine::ProcessId& id : far) kill(id.pid, SIGKILL);
  ASSERT_TRUE(cluster.WaitServing(2)) << cluster.Logs();
  EXPECT_EQ(cluster.Ask(2).tokens, expected.tokens) << cluster.Logs();

  far = cluster.Far();
  ASSERT_EQ(far.size(), 3U) << cluster.Logs();
  cluster.hosts().SetLink(1, false);
  EXPECT_TRUE(testing::TimeUntilGone(far, seconds(6)).has_value()) << cluster.Logs();
  cluster.hosts().SetLink(1, true);
  ASSERT_TRUE(cluster.WaitServing(3)) << cluster.Logs();
  EXPECT_EQ(cluster.Ask(3).tokens, expected.tokens) << cluster.Logs();

  cluster.worker().Signal(SIGTERM);
  EXPECT_EQ(cluster.worker().WaitExit(seconds(15)), 0) << cluster.Logs();
  EXPECT_TRUE(testing::TimeUntilGone(cluster.Far(), seconds(5)).has_value()) << cluster.Logs();
  EXPECT_THAT(cluster.worker().Leftovers(), IsEmpty());
  EXPECT_THAT(cluster.FarLeftovers(), IsEmpty());
}

TEST(SshLauncher, AKilledSupervisorLeavesNobodyOnTheOtherHost) {
  std::string why;
  auto hosts = MakeHosts(&why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  SshHosts cluster(std::move(hosts));
  ASSERT_TRUE(cluster.WaitServing(1)) << cluster.Logs();
  const std::vector<engine::ProcessId> far = cluster.Far();
  ASSERT_EQ(far.size(), 3U) << cluster.Logs();
  cluster.worker().Signal(SIGKILL);
  EXPECT_TRUE(testing::TimeUntilGone(far, seconds(5)).has_value()) << cluster.Logs();
  EXPECT_THAT(cluster.FarLeftovers(), IsEmpty());
}

TEST(SshLauncher, SaysWhatIsMissingOnTheOtherHost) {
  std::string why;
  auto hosts = MakeHosts(&why);
  if (hosts == nullptr) GTEST_SKIP() << why;
  SshHosts cluster(std::move(hosts), /*has_host=*/false);
  const auto deadline = std::chrono::steady_clock::now() + seconds(20);
  while (cluster.worker().log().find("shard 1: ") == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << cluster.Logs();
    std::this_thread::yield();
  }
  EXPECT_THAT(cluster.worker().log(),
              HasSubstr("ssh ended with exit code 127; is " + cluster.HostBinary().string() + " there?"));
}

}  // namespace
}  // namespace longshelf::worker
