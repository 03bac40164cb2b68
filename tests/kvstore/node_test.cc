// The longshelf-kvstore binary as an operator meets it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio.hpp>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/config.h"
#include "connection.h"
#include "objects.h"
#include "testing/fixtures.h"

namespace longshelf::kvstore {
namespace {

using ::testing::HasSubstr;

class NodeProcess {
 public:
  explicit NodeProcess(std::vector<std::string> args) {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    args.insert(args.begin(), LONGSHELF_KVSTORE_BINARY);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    stderr_ = fds[0];
  }
  ~NodeProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(stderr_);
  }

  // Reads standard error until it holds `text`; false at its end or after twenty seconds.
  bool WaitFor(const std::string& text) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (log_.find(text) == std::string::npos) {
      pollfd ready = {stderr_, POLLIN, 0};
      const auto left = absl::ToInt64Milliseconds(deadline - absl::Now());
      if (left <= 0 || poll(&ready, 1, static_cast<int>(left)) <= 0) return false;
      char buffer[4096];
      const ssize_t n = read(stderr_, buffer, sizeof buffer);
      if (n <= 0) return false;
      log_.append(buffer, static_cast<size_t>(n));
    }
    return true;
  }

  // The digits after `text` in the log.
  std::string NumberAfter(const std::string& text) const {
    const size_t begin = log_.find(text) + text.size();
    return log_.substr(begin, log_.find_first_not_of("0123456789", begin) - begin);
  }

  void Signal(int signal_number) const { kill(pid_, signal_number); }

  int ExitCode() {
    WaitFor("\x01");  // until the end: nothing logs this
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    EXPECT_TRUE(WIFEXITED(status)) << status;
    return WEXITSTATUS(status);
  }

  const std::string& log() const { return log_; }

 private:
  pid_t pid_ = 0;
  int stderr_ = -1;
  std::string log_;
};

std::string HttpGet(const std::string& port, const std::string& path) {
  boost::asio::ip::tcp::iostream stream("127.0.0.1", port);
  stream << "GET " << path << " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" << std::flush;
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(Node, ServesReportsAndStopsOnSigterm) {
  NodeProcess node({"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--memory", "16MiB"});
  ASSERT_TRUE(node.WaitFor("admin http://127.0.0.1:"));
  ASSERT_TRUE(node.WaitFor("\n"));
  const Connection client({.address = absl::StrCat("127.0.0.1:", node.NumberAfter("serving on port "))});
  const Object object = MakeObject(1, 99, 256, 100000);
  const PutItem puts[] = {ItemOf(object)};
  ASSERT_TRUE(client->PutMany(puts, absl::Seconds(10))[0].ok());
  const GetItem gets[] = {{object.head.key, 100000}, {BlockKeyOf(2), 1}};
  const auto got = client->GetMany(FingerprintOf(1), gets, absl::Seconds(10));
  EXPECT_EQ(*got[0], object.payload);
  EXPECT_EQ(client->Stats(absl::Seconds(10))->capacity_bytes, 16u << 20);

  const std::string admin = node.NumberAfter("admin http://127.0.0.1:");
  EXPECT_THAT(HttpGet(admin, "/readyz"), HasSubstr("200"));
  const std::string metrics = HttpGet(admin, "/metrics");
  EXPECT_THAT(metrics, HasSubstr("longshelf_kvstore_objects 1\n"));
  EXPECT_THAT(metrics, HasSubstr("longshelf_kvstore_get_objects_total{result=\"hit\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("longshelf_kvstore_get_objects_total{result=\"miss\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("longshelf_kvstore_put_objects_total{outcome=\"committed\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("longshelf_kvstore_sent_bytes_total 100000\n"));
  EXPECT_THAT(metrics, HasSubstr("longshelf_kvstore_reserved_bytes 0\n"));

  node.Signal(SIGTERM);
  EXPECT_EQ(node.ExitCode(), 0);
}

TEST(Node, ParkedObjectsOnDiskSurviveAKill) {
  const std::string directory = (longshelf::testing::MakeTempDir("disk") / "segments").string();
  const std::vector<std::string> args = {"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--memory",
                                         "16MiB",    "--disk",      directory,        "--disk-size", "768MiB"};
  std::vector<Object> objects;
  for (uint64_t id = 0; id < 4; ++id) {
    objects.push_back(Parked(MakeObject(id, id == 0 ? 99 : id - 1, static_cast<uint32_t>(256 * (id + 1)), 100000),
                             absl::Now() + absl::Hours(1)));
  }
  {
    NodeProcess node(args);
    ASSERT_TRUE(node.WaitFor("admin http://127.0.0.1:"));
    ASSERT_TRUE(node.WaitFor("\n"));
    const Connection client({.address = absl::StrCat("127.0.0.1:", node.NumberAfter("serving on port "))});
    std::vector<PutItem> puts;
    for (const Object& object : objects) puts.push_back(ItemOf(object));
    for (const auto& outcome : client->PutMany(puts, absl::Seconds(10))) ASSERT_TRUE(outcome.ok());
    // The put says when they are in memory; they are on disk when the metric says so.
    const std::string admin = node.NumberAfter("admin http://127.0.0.1:");
    const std::string durable = "longshelf_kvstore_disk_put_objects_total 4\n";
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (HttpGet(admin, "/metrics").find(durable) == std::string::npos) ASSERT_LT(absl::Now(), deadline);
    node.Signal(SIGKILL);
  }
  NodeProcess node(args);
  ASSERT_TRUE(node.WaitFor("4 objects on disk"));
  ASSERT_TRUE(node.WaitFor("admin http://127.0.0.1:"));
  ASSERT_TRUE(node.WaitFor("\n"));
  const Connection client({.address = absl::StrCat("127.0.0.1:", node.NumberAfter("serving on port "))});
  LookupQuery query{.fingerprint = FingerprintOf(1), .root = Hash(99), .chain = {}, .probes = {}};
  std::vector<GetItem> gets;
  for (const Object& object : objects) {
    query.chain.push_back(object.head.key.hash);
    gets.push_back(WantOf(object));
  }
  EXPECT_EQ(client->Lookup(query, absl::Seconds(10))->n_present, 4u);
  const auto got = client->GetMany(FingerprintOf(1), gets, absl::Seconds(10));
  for (size_t i = 0; i < objects.size(); ++i) {
    ASSERT_TRUE(got[i].ok()) << i << ": " << got[i].status();
    EXPECT_EQ(*got[i], objects[i].payload);
  }
  node.Signal(SIGTERM);
  EXPECT_EQ(node.ExitCode(), 0);
}

TEST(Node, RefusesADiskWithoutASize) {
  EXPECT_EQ(NodeProcess({"--disk", "/nowhere"}).ExitCode(), kExitConfig);
  EXPECT_EQ(NodeProcess({"--disk-size", "1GiB"}).ExitCode(), kExitConfig);
}

TEST(Node, RefusesToListenBeyondLoopbackWithoutAuthentication) {
  NodeProcess node({"--listen", "0.0.0.0:0"});
  EXPECT_EQ(node.ExitCode(), kExitConfig);
  EXPECT_THAT(node.log(), HasSubstr("--token-file"));
  EXPECT_THAT(node.log(), HasSubstr("--insecure-internal"));
}

TEST(Node, ListensBeyondLoopbackWithATokenAndAsksForIt) {
  const std::string token_file = longshelf::testing::MakeTempDir("token") / "token";
  std::ofstream(token_file) << "0123456789abcdef\n";
  NodeProcess node(
      {"--listen", "0.0.0.0:0", "--admin-listen", "127.0.0.1:0", "--memory", "16MiB", "--token-file", token_file});
  ASSERT_TRUE(node.WaitFor("\n"));
  const std::string address = absl::StrCat("127.0.0.1:", node.NumberAfter("serving on port "));
  EXPECT_TRUE(Connection({.address = address, .token = "0123456789abcdef"})->Stats(absl::Seconds(10)).ok());
  EXPECT_EQ(Connection({.address = address})->Stats(absl::Seconds(10)).status().code(),
            absl::StatusCode::kUnauthenticated);
  node.Signal(SIGINT);
  EXPECT_EQ(node.ExitCode(), 0);
}

TEST(Node, WarnsWhenTheOverrideOpensIt) {
  NodeProcess node(
      {"--listen", "0.0.0.0:0", "--admin-listen", "127.0.0.1:0", "--memory", "16MiB", "--insecure-internal"});
  EXPECT_TRUE(node.WaitFor("anyone who reaches"));
  node.Signal(SIGTERM);
  EXPECT_EQ(node.ExitCode(), 0);
}

TEST(Node, RefusesBlankTokensAndImpossibleMemory) {
  const std::string token_file = longshelf::testing::MakeTempDir("token") / "token";
  std::ofstream(token_file) << " \n";
  EXPECT_EQ(NodeProcess({"--token-file", token_file}).ExitCode(), kExitConfig);
  std::ofstream(token_file) << "short";
  EXPECT_EQ(NodeProcess({"--listen", "127.0.0.1:0", "--token-file", token_file}).ExitCode(), kExitConfig);
  EXPECT_EQ(NodeProcess({"--memory", "5"}).ExitCode(), kExitUsage);
  EXPECT_EQ(NodeProcess({"--parked-share", "1.5"}).ExitCode(), kExitUsage);
}

}  // namespace
}  // namespace longshelf::kvstore
