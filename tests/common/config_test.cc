#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace longshelf {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct DemoConfig {
  std::string listen = "127.0.0.1:8080";
  int queue_max = 64;
  uint64_t memory_bytes = uint64_t{512} << 20;
  absl::Duration timeout = absl::Seconds(2);
  double share = 0.5;
  bool verbose = false;
  std::vector<std::string> peers;
  std::string format = "text";
  std::string token;
};

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() : spec_("demo", "A program that tests options.") {
    spec_.Add(&config_.listen, "listen", "where to listen");
    spec_.Add(&config_.queue_max, "queue-max", "requests that may wait", {1, 1000});
    spec_.AddBytes(&config_.memory_bytes, "memory", "memory to use", {1 << 20, uint64_t{1} << 40});
    spec_.Add(&config_.timeout, "timeout", "time to wait", {absl::Milliseconds(1), absl::Seconds(60)});
    spec_.Add(&config_.share, "share", "part of it", {0, 1});
    spec_.Add(&config_.verbose, "verbose", "say more");
    spec_.Add(&config_.peers, "peers", "other nodes");
    spec_.AddChoice(&config_.format, "format", "form of output", {"text", "json"});
    spec_.AddSecretFile(&config_.token, "token-file", "file with the token");
    directory_ = std::filesystem::path(::testing::TempDir()) /
                 absl::StrCat("config_", ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(directory_);
  }
  ~ConfigTest() override { std::filesystem::remove_all(directory_); }

  std::string WriteFile(const std::string& name, const std::string& text) const {
    const std::string path = directory_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  DemoConfig config_;
  ConfigSpec spec_;
  std::filesystem::path directory_;
};

TEST_F(ConfigTest, RunsWithDefaultsWhenNothingIsGiven) {
  EXPECT_TRUE(spec_.Parse({}, {"PATH=/bin"}).run);
  EXPECT_EQ(config_.queue_max, 64);
}

TEST_F(ConfigTest, LetsYamlBeatDefaultsAndEnvironmentBeatYamlAndFlagsBeatAll) {
  const std::string yaml = WriteFile("a.yaml", "listen: a\nqueue-max: 2\nmemory: 2MiB\n");
  ASSERT_TRUE(
      spec_.Parse({"--config", yaml, "--memory", "4MiB"}, {"LONGSHELF_QUEUE_MAX=3", "LONGSHELF_MEMORY=3MiB", "HOME=/"})
          .run);
  EXPECT_EQ(config_.listen, "a");
  EXPECT_EQ(config_.queue_max, 3);
  EXPECT_EQ(config_.memory_bytes, 4u << 20);
  EXPECT_EQ(config_.timeout, absl::Seconds(2));
}

TEST_F(ConfigTest, PrintsEveryOptionWithValueAndOrigin) {
  const std::string yaml = WriteFile("a.yaml", "\nlisten: 127.0.0.1:1\n");
  const ParseOutcome outcome =
      spec_.Parse({"--config=" + yaml, "--verbose", "--print-config"}, {"LONGSHELF_TIMEOUT=30s"});
  EXPECT_FALSE(outcome.run);
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.text, ::testing::ContainsRegex("listen: \"127.0.0.1:1\" +# " + yaml + ":2\n"));
  EXPECT_THAT(outcome.text, ::testing::ContainsRegex("queue-max: 64 +# default\n"));
  EXPECT_THAT(outcome.text, ::testing::ContainsRegex("memory: 512MiB +# default\n"));
  EXPECT_THAT(outcome.text, ::testing::ContainsRegex("timeout: 30s +# env LONGSHELF_TIMEOUT\n"));
  EXPECT_THAT(outcome.text, ::testing::ContainsRegex("verbose: true +# flag --verbose\n"));
}

TEST_F(ConfigTest, ReadsBackWhatItPrints) {
  const ParseOutcome printed = spec_.Parse(
      {"--listen", "x: \"y\" # z\n", "--peers=a,b", "--share", "0.25", "--verbose=false", "--print-config"}, {});
  ASSERT_EQ(printed.exit_code, 0);
  const std::string path = WriteFile("printed.yaml", printed.text);
  DemoConfig again;
  ConfigSpec other("demo", "");
  other.Add(&again.listen, "listen", "");
  other.Add(&again.queue_max, "queue-max", "", {1, 1000});
  other.AddBytes(&again.memory_bytes, "memory", "");
  other.Add(&again.timeout, "timeout", "");
  other.Add(&again.share, "share", "", {0, 1});
  other.Add(&again.verbose, "verbose", "");
  other.Add(&again.peers, "peers", "");
  other.AddChoice(&again.format, "format", "", {"text", "json"});
  other.AddSecretFile(&again.token, "token-file", "");
  const ParseOutcome outcome = other.Parse({"--config", path}, {});
  ASSERT_TRUE(outcome.run) << outcome.text;
  EXPECT_EQ(again.listen, "x: \"y\" # z\n");
  EXPECT_THAT(again.peers, ElementsAre("a", "b"));
  EXPECT_EQ(again.share, 0.25);
}

TEST_F(ConfigTest, RefusesAnUnknownYamlKeyAndSuggestsTheNearest) {
  const std::string yaml = WriteFile("a.yaml", "listen: a\nquue_max: 3\n");
  const ParseOutcome outcome = spec_.Parse({"--config", yaml}, {});
  EXPECT_EQ(outcome.exit_code, kExitConfig);
  EXPECT_THAT(outcome.text, HasSubstr(absl::StrCat(yaml, ":2: unknown key \"quue-max\"; did you mean queue-max?")));
}

TEST_F(ConfigTest, RefusesAnUnknownEnvironmentVariable) {
  ParseOutcome outcome = spec_.Parse({}, {"LONGSHELF_QUEUE_MAXX=3"});
  EXPECT_EQ(outcome.exit_code, kExitConfig);
  EXPECT_THAT(outcome.text, HasSubstr("did you mean LONGSHELF_QUEUE_MAX?"));
  outcome = spec_.Parse({}, {"LONGSHELF_ENTIRELY_OTHER=3"});
  EXPECT_EQ(outcome.exit_code, kExitConfig);
  EXPECT_THAT(outcome.text, HasSubstr("LONGSHELF_ENTIRELY_OTHER"));
}

TEST_F(ConfigTest, LetsAToolIgnoreForeignVariablesButNotMisspelledOnes) {
  spec_.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  EXPECT_TRUE(spec_.Parse({}, {"LONGSHELF_ENTIRELY_OTHER=3"}).run);
  EXPECT_EQ(spec_.Parse({}, {"LONGSHELF_QUEUE_MAXX=3"}).exit_code, kExitConfig);
}

TEST_F(ConfigTest, IgnoresVariablesThatKubernetesAddsForServices) {
  EXPECT_TRUE(spec_
                  .Parse({}, {"LONGSHELF_ROUTER_SERVICE_HOST=10.0.0.1", "LONGSHELF_ROUTER_SERVICE_PORT_HTTP=80",
                              "LONGSHELF_ROUTER_PORT=tcp://10.0.0.1:80", "LONGSHELF_ROUTER_PORT_80_TCP_ADDR=10.0.0.1"})
                  .run);
}

TEST_F(ConfigTest, RefusesAnUnknownFlagAndSuggestsTheNearest) {
  const ParseOutcome outcome = spec_.Parse({"--listne=x"}, {});
  EXPECT_EQ(outcome.exit_code, kExitUsage);
  EXPECT_THAT(outcome.text, HasSubstr("unknown flag --listne=x; did you mean --listen?"));
}

TEST_F(ConfigTest, RefusesAStrayArgumentAndAFlagGivenTwice) {
  EXPECT_THAT(spec_.Parse({"stray"}, {}).text, HasSubstr("unexpected argument stray"));
  EXPECT_EQ(spec_.Parse({"--listen", "a", "--listen", "b"}, {}).exit_code, kExitUsage);
}

TEST_F(ConfigTest, NamesOptionValueAndLimitWhenANumberIsOutOfRange) {
  ParseOutcome outcome = spec_.Parse({"--queue-max", "-1"}, {});
  EXPECT_EQ(outcome.exit_code, kExitUsage);
  EXPECT_THAT(outcome.text, HasSubstr("queue-max: -1 is outside 1 to 1000"));
  outcome = spec_.Parse({}, {"LONGSHELF_MEMORY=9999999TiB"});
  EXPECT_EQ(outcome.exit_code, kExitConfig);
  outcome = spec_.Parse({"--memory=1KiB"}, {});
  EXPECT_THAT(outcome.text, HasSubstr("memory: 1KiB is outside 1MiB to 1TiB"));
  outcome = spec_.Parse({"--timeout=2h"}, {});
  EXPECT_THAT(outcome.text, HasSubstr("timeout: 2h is outside 1ms to 1m"));
  outcome = spec_.Parse({"--share=1.5"}, {});
  EXPECT_THAT(outcome.text, HasSubstr("share: 1.5 is outside 0 to 1"));
}

TEST_F(ConfigTest, RefusesTextThatIsNoValueOfTheType) {
  for (const char* bad :
       {"--queue-max=3x", "--queue-max=", "--queue-max=99999999999999999999", "--memory=12parsecs", "--memory=-5MiB",
        "--memory=.", "--timeout=5", "--timeout=inf", "--share=nan", "--verbose=maybe", "--format=xml"}) {
    EXPECT_EQ(spec_.Parse({bad}, {}).exit_code, kExitUsage) << bad;
  }
}

TEST_F(ConfigTest, UnderstandsSizesInEveryUnit) {
  const std::pair<const char*, uint64_t> cases[] = {{"1048576", 1048576},  {"1MiB", 1 << 20},      {"2 MiB", 2 << 20},
                                                    {"1.5MiB", 1572864},   {"1GB", 1'000'000'000}, {"1gib", 1 << 30},
                                                    {"1048577B", 1048577}, {"2000KB", 2'000'000}};
  for (const auto& [text, bytes] : cases) {
    const ParseOutcome outcome = spec_.Parse({"--memory", text}, {});
    EXPECT_TRUE(outcome.run) << text << outcome.text;
    EXPECT_EQ(config_.memory_bytes, bytes) << text;
  }
}

TEST_F(ConfigTest, TurnsABooleanOffByNoAndByValue) {
  config_.verbose = true;
  EXPECT_TRUE(spec_.Parse({"--no-verbose"}, {}).run);
  EXPECT_FALSE(config_.verbose);
  EXPECT_TRUE(spec_.Parse({"--verbose"}, {}).run);
  EXPECT_TRUE(config_.verbose);
  EXPECT_TRUE(spec_.Parse({"--verbose=false"}, {}).run);
  EXPECT_FALSE(config_.verbose);
}

TEST_F(ConfigTest, AnEmptyValueIsOneAndTakesNothingOfWhatFollows) {
  EXPECT_TRUE(spec_.Parse({"--listen=", "--queue-max=7"}, {}).run);
  EXPECT_EQ(config_.listen, "");
  EXPECT_EQ(config_.queue_max, 7);
  EXPECT_TRUE(spec_.Parse({"--queue-max=8", "--listen="}, {}).run);
  EXPECT_EQ(config_.listen, "");
  EXPECT_TRUE(spec_.Parse({"--listen=a="}, {}).run);
  EXPECT_EQ(config_.listen, "a=");
}

TEST_F(ConfigTest, CollectsListsFromEverySource) {
  EXPECT_TRUE(spec_.Parse({"--peers=a,b", "--peers", "c"}, {}).run);
  EXPECT_THAT(config_.peers, ElementsAre("a", "b", "c"));
  EXPECT_TRUE(spec_.Parse({}, {"LONGSHELF_PEERS=d,e"}).run);
  EXPECT_THAT(config_.peers, ElementsAre("d", "e"));
  EXPECT_TRUE(spec_.Parse({"--config", WriteFile("a.yaml", "peers: [f, g]\n")}, {}).run);
  EXPECT_THAT(config_.peers, ElementsAre("f", "g"));
}

TEST_F(ConfigTest, JoinsNestedYamlKeysAndRefusesASettingMadeTwice) {
  EXPECT_TRUE(spec_.Parse({"--config", WriteFile("a.yaml", "queue:\n  max: 7\n")}, {}).run);
  EXPECT_EQ(config_.queue_max, 7);
  const ParseOutcome outcome = spec_.Parse({"--config", WriteFile("b.yaml", "queue_max: 7\nqueue:\n  max: 8\n")}, {});
  EXPECT_THAT(outcome.text, HasSubstr("b.yaml:3: queue-max is set twice"));
}

TEST_F(ConfigTest, RefusesAliasesThatMultiplyNothing) {
  // Without a setting in it, each level was walked once for each alias of it: 2000 * 2000 * 2000 steps here.
  std::string yaml = "a: &a {}\n";
  for (const auto& [key, inner] : {std::pair("b: &b", "*a"), std::pair("c: &c", "*b"), std::pair("d: &d", "*c")}) {
    absl::StrAppend(&yaml, key, " {");
    for (int i = 0; i < 2000; ++i) absl::StrAppend(&yaml, "k", i, ": ", inner, ", ");
    absl::StrAppend(&yaml, "}\n");
  }
  const ParseOutcome outcome = spec_.Parse({"--config", WriteFile("a.yaml", yaml)}, {});
  EXPECT_EQ(outcome.exit_code, kExitConfig);
  EXPECT_THAT(outcome.text, HasSubstr("has no value"));
}

TEST_F(ConfigTest, RefusesYamlThatIsNotAMapOfPlainValues) {
  int n = 0;
  for (const char* text : {"- a\n", "listen: [a]\n", "listen:\n", "peers: [[a]]\n", "a: {b: {c: {d: {e: {f: 1}}}}}\n",
                           "{", "? [a]\n: b\n"}) {
    const ParseOutcome outcome = spec_.Parse({"--config", WriteFile(absl::StrCat(n++, ".yaml"), text)}, {});
    EXPECT_EQ(outcome.exit_code, kExitConfig) << text << outcome.text;
  }
  EXPECT_EQ(spec_.Parse({"--config", "/nonexistent.yaml"}, {}).exit_code, kExitConfig);
}

TEST_F(ConfigTest, TakesTheFileFromTheEnvironmentToo) {
  EXPECT_TRUE(spec_.Parse({}, {"LONGSHELF_CONFIG=" + WriteFile("a.yaml", "listen: z\n")}).run);
  EXPECT_EQ(config_.listen, "z");
}

TEST_F(ConfigTest, ReadsASecretFromItsFileAndNeverShowsIt) {
  const std::string path = WriteFile("token", "  s3cret\n");
  EXPECT_TRUE(spec_.Parse({"--token-file", path}, {}).run);
  EXPECT_EQ(config_.token, "s3cret");
  const ParseOutcome printed = spec_.Parse({"--token-file", path, "--print-config"}, {});
  EXPECT_THAT(printed.text, HasSubstr(path));
  EXPECT_THAT(printed.text, ::testing::Not(HasSubstr("s3cret")));
}

TEST_F(ConfigTest, SEC_05_RefusesAnEmptyOrBlankOrAbsentSecretFile) {
  for (const std::string& path :
       {WriteFile("empty", ""), WriteFile("blank", " \n\t "), std::string("/nonexistent"), directory_.string()}) {
    EXPECT_EQ(spec_.Parse({"--token-file=" + path}, {}).exit_code, kExitConfig) << path;
  }
  EXPECT_NE(spec_.Parse({"--token-file="}, {}).exit_code, 0);
  EXPECT_NE(spec_.Parse({}, {"LONGSHELF_TOKEN_FILE="}).exit_code, 0);
}

TEST_F(ConfigTest, RefusesToRunWithoutARequiredOption) {
  spec_.Require("peers");
  const ParseOutcome outcome = spec_.Parse({}, {});
  EXPECT_EQ(outcome.exit_code, kExitUsage);
  EXPECT_THAT(outcome.text, HasSubstr("--peers is required (or LONGSHELF_PEERS)"));
  EXPECT_TRUE(spec_.Parse({"--peers=a"}, {}).run);
}

TEST_F(ConfigTest, ReportsAFailedCrossCheckAsAConfigurationError) {
  spec_.Check([] { return absl::InvalidArgumentError("listen needs a token"); });
  const ParseOutcome outcome = spec_.Parse({}, {});
  EXPECT_EQ(outcome.exit_code, kExitConfig);
  EXPECT_EQ(outcome.text, "demo: listen needs a token\n");
}

TEST_F(ConfigTest, ShowsTheEnvironmentTwinOfEveryFlagInHelp) {
  const ParseOutcome outcome = spec_.Parse({"--help"}, {});
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* name :
       {"LISTEN", "QUEUE_MAX", "MEMORY", "TIMEOUT", "SHARE", "VERBOSE", "PEERS", "FORMAT", "TOKEN_FILE", "CONFIG"}) {
    EXPECT_THAT(outcome.text, HasSubstr(absl::StrCat("LONGSHELF_", name)));
  }
  EXPECT_THAT(outcome.text, HasSubstr("A program that tests options."));
}

TEST_F(ConfigTest, ShowsItsVersion) { EXPECT_THAT(spec_.Parse({"--version"}, {}).text, HasSubstr("demo 0.")); }

TEST_F(ConfigTest, PassesOnWhatWasSetByAnySourceAsItWasWritten) {
  ASSERT_TRUE(spec_.Parse({"--peers=a,b", "--timeout=250ms", "--verbose"}, {"LONGSHELF_MEMORY=1GiB"}).run);
  EXPECT_THAT(spec_.FlagsToPassOn([](const std::string& name) { return name != "timeout"; }),
              ElementsAre("--memory=1GiB", "--verbose=true", "--peers=a", "--peers=b"));
}

TEST_F(ConfigTest, TakesArgumentsInOrder) {
  std::string directory;
  std::vector<std::string> rest;
  ConfigSpec spec("demo", "");
  spec.AddPositional(&directory, "DIR", "a directory", /*required=*/true);
  spec.AddPositional(&rest, "FILES", "files");
  EXPECT_THAT(spec.Parse({}, {}).text, HasSubstr("DIR is missing"));
  EXPECT_TRUE(spec.Parse({"d", "a", "b"}, {}).run);
  EXPECT_EQ(directory, "d");
  EXPECT_THAT(rest, ElementsAre("a", "b"));
}

}  // namespace
}  // namespace longshelf
