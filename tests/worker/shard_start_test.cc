#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "memory_check.h"
#include "testing/fixtures.h"

extern char** environ;

namespace longshelf::worker {
namespace {

using ::testing::HasSubstr;

struct Ended {
  int exit_code = -1;
  std::string log;
};

// Runs longshelf-shard on a fixture model until it ends by itself.
Ended RunShard(const std::map<std::string, std::string>& changed) {
  const std::filesystem::path log = testing::MakeTempDir("shard") / "log";
  std::map<std::string, std::string> options = {{"--model", testing::ModelPath("micro-odd").string()},
                                                {"--listen", "127.0.0.1:0"},
                                                {"--admin-listen", "127.0.0.1:0"}};
  for (const auto& [name, value] : changed) options[name] = value;
  std::vector<std::string> args = {LONGSHELF_TEST_SHARD};
  for (const auto& [name, value] : options) args.push_back(name + "=" + value);
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT, 0600);
  pid_t pid = 0;
  const int spawned = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  EXPECT_EQ(spawned, 0);
  int status = 0;
  Ended out;
  if (spawned == 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status)) out.exit_code = WEXITSTATUS(status);
  std::ostringstream text;
  text << std::ifstream(log).rdbuf();
  out.log = text.str();
  return out;
}

TEST(ShardStart, RefusesToListenOnTheNetworkWithoutAToken) {
  const Ended ended = RunShard({{"--listen", "0.0.0.0:0"}});
  EXPECT_EQ(ended.exit_code, 78);
  EXPECT_THAT(ended.log, HasSubstr("--token-file"));
  EXPECT_THAT(ended.log, HasSubstr("--insecure-internal"));
}

TEST(ShardStart, RefusesABlankToken) {
  const std::filesystem::path file = testing::MakeTempDir("token") / "token";
  std::ofstream(file) << " \n\t\n";
  const Ended ended = RunShard({{"--token-file", file.string()}});
  EXPECT_EQ(ended.exit_code, 78);
  EXPECT_THAT(ended.log, HasSubstr("token-file"));
}

TEST(ShardStart, RefusesMoreKvThanThereIsMemoryBeforeLoadingAnything) {
  const Ended ended = RunShard({{"--kv-memory", "8TiB"}});
  EXPECT_EQ(ended.exit_code, 78);
  EXPECT_THAT(ended.log, HasSubstr("are available"));
  EXPECT_THAT(ended.log, HasSubstr("--kv-memory"));
  EXPECT_THAT(ended.log, Not(HasSubstr("loading weights")));
}

TEST(ShardStart, RefusesMoreMemoryForTheStoreThanThereIs) {
  const Ended ended = RunShard({{"--store-memory", "8TiB"}, {"--kvstore", "127.0.0.1:1"}});
  EXPECT_EQ(ended.exit_code, 78);
  EXPECT_THAT(ended.log, HasSubstr("are available"));
  EXPECT_THAT(ended.log, HasSubstr("8796093022208 (--store-memory)"));
}

TEST(ShardStart, RefusesAContextThatItsKvMemoryCannotHold) {
  const Ended ended = RunShard({{"--kv-memory", "1MiB"}, {"--context", "1000000"}});
  EXPECT_EQ(ended.exit_code, 78);
  EXPECT_THAT(ended.log, HasSubstr("--context is 1000000"));
}

TEST(ShardStart, NamesAMissingModel) {
  const Ended ended = RunShard({{"--model", "/nonexistent"}});
  EXPECT_EQ(ended.exit_code, 78);
  EXPECT_THAT(ended.log, HasSubstr("/nonexistent"));
}

TEST(ShardStart, SaysWhyItCannotMoveExperts) {
  const Ended alone = RunShard({{"--expert-placement", "balanced"}});
  EXPECT_EQ(alone.exit_code, 78);
  EXPECT_THAT(alone.log, HasSubstr("moves experts between shards, and there is only one"));
  const Ended copied = RunShard({{"--expert-placement", "balanced"}, {"--weights", "huge"}});
  EXPECT_NE(copied.exit_code, 0);
  EXPECT_THAT(copied.log, HasSubstr("cannot be had with weights=huge"));
  const Ended even = RunShard({{"--redundant-experts", "2"}});
  EXPECT_NE(even.exit_code, 0);
  EXPECT_THAT(even.log, HasSubstr("copies that expert-placement=balanced makes"));
}

TEST(ShardStart, SaysWhenItsPortIsTaken) {
  const int taken = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(bind(taken, generic, length), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  ASSERT_EQ(getsockname(taken, generic, &length), 0);
  const std::string listen_address = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  const Ended ended = RunShard({{"--listen", listen_address}});
  close(taken);
  EXPECT_EQ(ended.exit_code, 69);
  EXPECT_THAT(ended.log, HasSubstr("cannot listen on " + listen_address));
}

MemoryNeed SomeNeed(bool weights_copied) {
  MemoryNeed need;
  need.weights = 1000;
  need.weights_copied = weights_copied;
  need.kv_blocks = 300;
  need.states = 20;
  need.checkpoints = 1;
  need.exchange = 50;
  need.store_buffers = 7;
  return need;
}

TEST(CheckMemory, CountsCopiedWeightsAndWhatTheGroupSharesOncePerMachineAndTheRestPerShard) {
  const MemoryNeed need = SomeNeed(/*weights_copied=*/true);
  EXPECT_TRUE(CheckMemory(need, 1, {.available = 1378}).ok());
  EXPECT_FALSE(CheckMemory(need, 1, {.available = 1377}).ok());
  EXPECT_TRUE(CheckMemory(need, 2, {.available = 1748}).ok());
  const absl::Status refused = CheckMemory(need, 2, {.available = 1747});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("needs 1748 bytes of memory and 1747 are available"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--weights mapped"));
}

TEST(CheckMemory, TakesCopiedWeightsFromReservedHugePagesWhenAllFit) {
  const MemoryNeed need = SomeNeed(/*weights_copied=*/true);
  EXPECT_TRUE(CheckMemory(need, 2, {.available = 748, .huge_free = 1000}).ok());
  EXPECT_FALSE(CheckMemory(need, 2, {.available = 747, .huge_free = 1000}).ok());
  EXPECT_FALSE(CheckMemory(need, 2, {.available = 1747, .huge_free = 999}).ok());
}

TEST(CheckMemory, LetsMappedWeightsBeLargerThanMemoryAndTells) {
  const MemoryNeed need = SomeNeed(/*weights_copied=*/false);
  EXPECT_TRUE(CheckMemory(need, 2, {.available = 748}).ok());
  EXPECT_FALSE(CheckMemory(need, 2, {.available = 747}).ok());
  EXPECT_FALSE(WeightsFit(need, 2, {.available = 1747, .huge_free = 1000}));
  EXPECT_TRUE(WeightsFit(need, 2, {.available = 1748}));
}

TEST(CheckMemory, SeesTheMemoryOfThisMachine) { EXPECT_GT(ReadMemoryRoom().available, uint64_t{1} << 20); }

TEST(ShardStart, RefusesAnUnknownPlaceForWeights) {
  const Ended ended = RunShard({{"--weights", "swapped"}});
  EXPECT_EQ(ended.exit_code, 64);
  EXPECT_THAT(ended.log, HasSubstr("weights"));
}

}  // namespace
}  // namespace longshelf::worker
