#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "random_text.h"
#include "testing/fixtures.h"

namespace longshelf::tokenizer {
namespace {

using testing::RandomText;

std::shared_ptr<const Tokenizer> LoadDemo() {
  auto tokenizer = Tokenizer::Load(longshelf::testing::ModelPath("demo"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

// Merges by scanning for the best pair again and again: the definition, quadratic.
class SlowBpe {
 public:
  SlowBpe() {
    std::ifstream in(longshelf::testing::ModelPath("demo") / "tokenizer.json");
    const auto json = nlohmann::json::parse(in);
    for (const auto& [piece, id] : json["model"]["vocab"].items()) vocab_[piece] = id;
    int rank = 0;
    for (const auto& merge : json["model"]["merges"]) {
      ranks_[{merge[0].get<std::string>(), merge[1].get<std::string>()}] = rank++;
    }
  }
  // `piece` in letters that the alphabet leaves as they are.
  std::vector<uint32_t> Encode(const std::string& piece) const {
    std::vector<std::string> symbols;
    for (const char c : piece) symbols.emplace_back(1, c);
    while (true) {
      int best_rank = INT32_MAX;
      size_t best = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto it = ranks_.find({symbols[i], symbols[i + 1]});
        if (it != ranks_.end() && it->second < best_rank) {
          best_rank = it->second;
          best = i;
        }
      }
      if (best_rank == INT32_MAX) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
    std::vector<uint32_t> ids;
    for (const std::string& symbol : symbols) ids.push_back(vocab_.at(symbol));
    return ids;
  }

 private:
  std::map<std::string, uint32_t> vocab_;
  std::map<std::pair<std::string, std::string>, int> ranks_;
};

TEST(Tokenizer, ShortAndLongPiecesMergeAsTheDefinitionSays) {
  const auto tokenizer = LoadDemo();
  const SlowBpe slow;
  std::mt19937_64 rng(1);
  for (int round = 0; round < 400; ++round) {
    // Around the length at which the algorithm changes, in letters that have many merges.
    const size_t length = 1 + testing::Below(rng, round % 4 == 0 ? 400 : 70);
    std::string piece;
    for (size_t i = 0; i < length; ++i) piece += testing::Pick(rng, std::string_view("eeaatthinorsl"));
    EXPECT_EQ(*tokenizer->EncodeOrdinary(piece), slow.Encode(piece)) << piece;
  }
}

TEST(Tokenizer, MegabytePiecesTakeNoQuadraticTime) {
  const auto tokenizer = LoadDemo();
  for (const char* const unit : {"a", "ab", "東", "あ", "!", " ", "\n", "é", "\u200d", "🫠", "1", "\u0301"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer->Encode(text);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(tokenizer->Decode(*ids), text);
    EXPECT_LT(took.count(), 20) << unit;  // quadratic: hours
  }
}

TEST(Tokenizer, AHundredThousandRandomStringsRoundTrip) {
  std::mt19937_64 rng(20);
  for (const auto& dir :
       {longshelf::testing::ModelPath("demo"), longshelf::testing::FixturePath("tokenizers/deepseek-v4")}) {
    const auto tokenizer = *Tokenizer::Load(dir);
    for (int i = 0; i < 50'000; ++i) {
      const std::string text = RandomText(rng);
      const auto ids = tokenizer->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      ASSERT_EQ(tokenizer->Decode(*ids), text);
      const auto ordinary = tokenizer->EncodeOrdinary(text);
      ASSERT_TRUE(ordinary.ok()) << ordinary.status();
      ASSERT_EQ(tokenizer->Decode(*ordinary, /*skip_special=*/true), text);
      for (const uint32_t id : *ordinary) ASSERT_FALSE(tokenizer->IsSpecial(id));
    }
  }
}

TEST(Tokenizer, SpecialTokensInOrdinaryTextAreText) {
  const auto tokenizer = LoadDemo();
  EXPECT_EQ(*tokenizer->Encode("<｜end▁of▁sentence｜>"), std::vector<uint32_t>{1});
  const auto ordinary = *tokenizer->EncodeOrdinary("<｜end▁of▁sentence｜>");
  EXPECT_GT(ordinary.size(), 1u);
  EXPECT_EQ(tokenizer->Decode(ordinary), "<｜end▁of▁sentence｜>");
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsOffset) {
  const auto tokenizer = LoadDemo();
  for (const std::string_view bad : {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE3\x81", "\x80"}) {
    const auto ids = tokenizer->Encode(std::string("twelve bytes").append(bad).append("x"));
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(ids.status().message().find("byte 12"), std::string::npos) << ids.status();
  }
}

TEST(Tokenizer, MoreTokensThanAllowedAreRefused) {
  const auto tokenizer = LoadDemo();
  const std::string text = "one two three <think> four";
  const size_t n = tokenizer->Encode(text)->size();
  EXPECT_TRUE(tokenizer->Encode(text, n).ok());
  for (size_t limit = 0; limit < n; ++limit) {
    EXPECT_EQ(tokenizer->Encode(text, limit).status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(tokenizer->EncodeOrdinary(text, limit).status().code(), absl::StatusCode::kResourceExhausted);
  }
  // Too long for its tokens at sight.
  EXPECT_EQ(tokenizer->Encode(std::string(100'000'000, 'a'), 10).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(tokenizer->Encode("", 0)->empty());
}

TEST(Tokenizer, TokensAreKnownByTheirBytes) {
  const auto tokenizer = LoadDemo();
  for (uint32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    ASSERT_FALSE(tokenizer->TokenBytes(id).empty());
    EXPECT_EQ(tokenizer->TokenId(tokenizer->TokenBytes(id)), id);
  }
  EXPECT_TRUE(tokenizer->TokenBytes(tokenizer->vocab_size()).empty());
  EXPECT_TRUE(tokenizer->TokenBytes(UINT32_MAX).empty());
  EXPECT_FALSE(tokenizer->IsSpecial(UINT32_MAX));
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_FALSE(tokenizer->IsSpecial(5));
  EXPECT_EQ(tokenizer->TokenId("no such token"), std::nullopt);
}

TEST(StreamDecoder, EqualsDecodeForAnyTokensAndNeverBreaksACodePoint) {
  const auto tokenizer = LoadDemo();
  std::mt19937_64 rng(3);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<uint32_t> ids;
    for (size_t n = testing::Below(rng, 20); n > 0; --n) {
      // Mostly single bytes: they make and break code points.
      const size_t range = testing::Below(rng, 4) == 0 ? tokenizer->vocab_size() + 2 : 260;
      ids.push_back(static_cast<uint32_t>(testing::Below(rng, range)));
    }
    const bool skip_special = round % 2 == 0;
    StreamDecoder decoder(*tokenizer, skip_special);
    std::string streamed;
    for (const uint32_t id : ids) {
      const std::string delta = decoder.Push(id);
      ASSERT_TRUE(testing::IsUtf8(delta));
      streamed += delta;
    }
    streamed += decoder.Finish();
    ASSERT_EQ(streamed, tokenizer->Decode(ids, skip_special));
    ASSERT_TRUE(testing::IsUtf8(streamed));
  }
}

TEST(StreamDecoder, EmitsAsSoonAsTextIsCertain) {
  const auto tokenizer = LoadDemo();
  StreamDecoder decoder(*tokenizer);
  const auto push = [&](const char* byte) { return decoder.Push(*tokenizer->TokenId(byte)); };
  EXPECT_EQ(push("\xE2"), "");
  EXPECT_EQ(push("\x9C"), "");
  EXPECT_EQ(push("\x93"), "\xE2\x9C\x93");
  EXPECT_EQ(push("\xE2"), "");
  EXPECT_EQ(push("a"),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(push("\xF0"), "");
  EXPECT_EQ(decoder.Finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Finish(), "");
}

}  // namespace
}  // namespace longshelf::tokenizer
