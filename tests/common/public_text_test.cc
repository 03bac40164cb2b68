#include "common/public_text.h"

#include <gtest/gtest.h>

#include <string>

namespace longshelf {
namespace {

TEST(PublicText, KeepsWhatWentWrong) {
  const char* const texts[] = {
      "layers.3.ffn.experts.7.w1 is missing",
      "INTERNAL: tensor 4 of 12: checksum differs (0x1f2e), block 3",
      "the system refused something: std::bad_alloc",
      "step 17 made no progress for 3000 ms",
  };
  for (const char* text : texts) EXPECT_EQ(PublicText(text), text);
}

TEST(PublicText, NamesNothingOfTheMachine) {
  const struct {
    const char* text;
    const char* expected;
  } rows[] = {
      {"cannot read /srv/models/v4/model-1.safetensors: gone", "cannot read ... gone"},
      {"CHECK failed at engine/model/moe.cc:31: n > 0", "CHECK failed at ... n > 0"},
      {"shard 1 (process 4711) is gone", "shard 1 (process ... is gone"},
      {"host node-7: it closed its link", "host ... it closed its link"},
      {"connect to 10.0.0.7:7300 refused", "connect to ... refused"},
      {"connect to (10.0.0.7) refused", "connect to ... refused"},
      {"peer ipv6:[fe80::1]:7300, silent", "peer ... silent"},
      {"peer localhost:7300 silent", "peer ... silent"},
      {"user@node ended", "... ended"},
  };
  for (const auto& row : rows) EXPECT_EQ(PublicText(row.text), row.expected);
}

TEST(PublicText, IsOneLineOfPrintableTextOfBoundedLength) {
  EXPECT_EQ(PublicText("a\nb\x1b[31m\tc\x80\xff d\x7f"), "a b [31m c d");
  EXPECT_EQ(PublicText(""), "");
  EXPECT_EQ(PublicText("\n\t "), "");
  const std::string text = PublicText(std::string(100'000, 'x'), 50);
  EXPECT_EQ(text, std::string(47, 'x') + "...");
  EXPECT_EQ(PublicText(std::string(50, 'x'), 50), std::string(50, 'x'));
}

}  // namespace
}  // namespace longshelf
