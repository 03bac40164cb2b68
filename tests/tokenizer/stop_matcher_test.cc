#include <gtest/gtest.h>

#include "random_text.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::tokenizer {
namespace {

struct Outcome {
  std::string text;
  bool stopped = false;
  bool operator==(const Outcome&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Outcome& o) { return out << '"' << o.text << "\" " << o.stopped; }

// The definition: the stop string that ends first; of those that end there the longest.
Outcome Slow(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (!stop.empty() && std::string_view(text).substr(0, end).ends_with(stop)) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest != 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

TEST(StopMatcher, AnyChunkingEqualsTheDefinitionOnTheWhole) {
  std::mt19937_64 rng(4);
  size_t stopped = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = testing::Below(rng, 4); n > 0; --n) {
      std::string stop;
      for (size_t i = testing::Below(rng, 5); i > 0; --i) stop += testing::Pick(rng, std::string_view("ab"));
      stops.push_back(stop);
    }
    std::string text;
    for (size_t i = testing::Below(rng, 20); i > 0; --i) text += testing::Pick(rng, std::string_view("aabbc"));
    const Outcome expected = Slow(stops, text);
    StopMatcher matcher(stops);
    Outcome streamed;
    for (size_t pos = 0; pos < text.size();) {
      const size_t n = 1 + testing::Below(rng, 4);
      const StopMatcher::Result result = matcher.Push(std::string_view(text).substr(pos, n));
      pos += n;
      streamed.text += result.text;
      streamed.stopped = result.stopped;
      ASSERT_TRUE(expected.text.starts_with(streamed.text));
    }
    streamed.text += matcher.Finish();
    ASSERT_EQ(streamed, expected) << text;
    stopped += expected.stopped ? 1 : 0;
  }
  EXPECT_GT(stopped, 10'000u);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayStillBecomeAStop) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Push("text E").text, "text ");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("x\n").text, "ENx");
  EXPECT_EQ(matcher.Push("y").text, "\ny");
  const StopMatcher::Result result = matcher.Push("zEND more");
  EXPECT_EQ(result.text, "z");
  EXPECT_TRUE(result.stopped);
  EXPECT_TRUE(matcher.Push("more").stopped);
  EXPECT_EQ(matcher.Push("more").text, "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcher, NeverCutsACodePoint) {
  StopMatcher matcher({"東京", "é"});
  for (const char* const piece : {"東", "北", "è", "京", "東", "x"}) {
    EXPECT_TRUE(testing::IsUtf8(matcher.Push(piece).text));
  }
  EXPECT_TRUE(matcher.Push("東京").stopped);
}

TEST(StopMatcher, WithoutStopsNothingIsHeld) {
  StopMatcher matcher({"", ""});
  EXPECT_EQ(matcher.Push("anything").text, "anything");
  EXPECT_EQ(matcher.Finish(), "");
}

}  // namespace
}  // namespace longshelf::tokenizer
