// The longshelf-kvstore binary as an operator meets it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/config.h"
#include "connection.h"
#include "node_process.h"
#include "objects.h"
#include "test_authority.h"
#include "testing/fixtures.h"

namespace longshelf::kvstore {
namespace {

using ::testing::HasSubstr;

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

std::vector<std::string> WithDisk(const std::vector<std::string>& more = {}) {
  const std::string directory = (longshelf::testing::MakeTempDir("disk") / "segments").string();
  std::vector<std::string> args = {"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--memory",
                                   "16MiB",    "--disk",      directory,        "--disk-size", "768MiB"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

std::string KeyFileOf(const std::string& content, std::filesystem::perms perms = std::filesystem::perms::owner_read) {
  const std::string path = longshelf::testing::MakeTempDir("key") / "key";
  std::ofstream(path) << content;
  std::filesystem::permissions(path, perms);
  return path;
}

void ExpectParkedObjectsSurviveAKill(const std::vector<std::string>& args, const std::string& encrypted) {
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
  ASSERT_TRUE(node.WaitFor(absl::StrCat(" bytes, ", encrypted)));
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

TEST(Node, ParkedObjectsOnDiskSurviveAKill) { ExpectParkedObjectsSurviveAKill(WithDisk(), "not encrypted"); }

TEST(Node, ParkedObjectsOnAnEncryptedDiskSurviveAKill) {
  const std::string key = KeyFileOf(std::string(64, 'a') + "\n");
  ExpectParkedObjectsSurviveAKill(WithDisk({"--disk-key-file", key}), "encrypted");
}

TEST(Node, RefusesAKeyFileThatIsNone) {
  const auto log_of = [](const std::vector<std::string>& args) {
    NodeProcess node(args);
    EXPECT_EQ(node.ExitCode(), kExitConfig);
    EXPECT_THAT(node.log(), HasSubstr("--disk-key-file"));
    return node.log();
  };
  const std::string key(64, 'a');
  EXPECT_THAT(log_of(WithDisk({"--disk-key-file", "/nowhere/key"})), HasSubstr("/nowhere/key: No such file"));
  EXPECT_THAT(log_of(WithDisk({"--disk-key-file", KeyFileOf(key.substr(1))})), HasSubstr("it holds 63 characters"));
  EXPECT_THAT(log_of(WithDisk({"--disk-key-file", KeyFileOf(key.substr(1) + "g")})), HasSubstr("hexadecimal"));
  const auto open_to_all = std::filesystem::perms::owner_read | std::filesystem::perms::others_read;
  EXPECT_THAT(log_of(WithDisk({"--disk-key-file", KeyFileOf(key, open_to_all)})), HasSubstr("chmod 600"));
  EXPECT_THAT(log_of({"--disk-key-file", KeyFileOf(key)}), HasSubstr("no --disk"));
}

TEST(Node, RefusesADiskOfAnotherKey) {
  const std::vector<std::string> clear = WithDisk();
  const auto with_key = [&clear](char digit) {
    std::vector<std::string> args = clear;
    args.insert(args.end(), {"--disk-key-file", KeyFileOf(std::string(64, digit))});
    return args;
  };
  const auto run = [](const std::vector<std::string>& args, int exit_code) {
    NodeProcess node(args);
    if (exit_code == 0) {
      EXPECT_TRUE(node.WaitFor("serving on port"));
      node.Signal(SIGTERM);
    }
    EXPECT_EQ(node.ExitCode(), exit_code);
    return node.log();
  };
  run(with_key('a'), 0);
  EXPECT_THAT(run(with_key('b'), kExitConfig), HasSubstr("another key"));
  EXPECT_THAT(run(clear, kExitConfig), HasSubstr("what is there is encrypted"));
  run(with_key('a'), 0);
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

TEST(Node, ListensBeyondLoopbackWithTls) {
  net::TestAuthority authority;
  const net::TlsFiles files = authority.Write("store", net::Role::kKvstore);
  NodeProcess node({"--listen", "0.0.0.0:0", "--admin-listen", "127.0.0.1:0", "--memory", "16MiB", "--tls-cert",
                    files.certificate, "--tls-key", files.key, "--tls-ca", files.authority});
  ASSERT_TRUE(node.WaitFor("\n"));
  const std::string address = absl::StrCat("127.0.0.1:", node.NumberAfter("serving on port "));
  const auto worker = authority.Identity("worker", net::Role::kWorker);
  EXPECT_TRUE(Connection({.address = address, .token = "", .tls = worker})->Stats(absl::Seconds(10)).ok());
  EXPECT_EQ(Connection({.address = address})->Stats(absl::Seconds(10)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(node.log(), HasSubstr("admin https://"));
  node.Signal(SIGINT);
  EXPECT_EQ(node.ExitCode(), 0);
}

TEST(Node, RefusesCertificatesThatCannotBeUsedAndSaysWhy) {
  net::TestAuthority authority;
  const net::TlsFiles files = authority.Write("store", net::Role::kKvstore);
  const net::TlsFiles old = authority.Write("old", net::Role::kKvstore, net::kOver);
  const auto expect_refusal = [](const std::vector<std::string>& args, const std::string& why) {
    NodeProcess node(args);
    EXPECT_EQ(node.ExitCode(), kExitConfig);
    EXPECT_THAT(node.log(), HasSubstr(why));
  };
  const std::string& ca = files.authority;
  expect_refusal({"--tls-cert", files.certificate, "--tls-ca", ca}, "missing: --tls-key");
  expect_refusal({"--tls-ca", ca}, "missing: --tls-cert, --tls-key");
  expect_refusal({"--tls-cert", files.certificate, "--tls-key", files.key}, "missing: --tls-ca");
  expect_refusal({"--tls-cert", files.certificate, "--tls-key", "/nowhere", "--tls-ca", ca}, "cannot read /nowhere");
  expect_refusal({"--tls-cert", files.certificate, "--tls-key", old.key, "--tls-ca", ca}, "not the certificate's");
  expect_refusal({"--tls-cert", old.certificate, "--tls-key", old.key, "--tls-ca", ca}, "has expired on");
  expect_refusal({"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--admin-tls", "mutual"}, "--tls-cert");
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
