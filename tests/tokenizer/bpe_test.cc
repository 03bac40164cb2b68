#include "bpe.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace longshelf::tokenizer::internal {
namespace {

// Merges over a few letters, made up at random: far more entangled than those of a language.
struct RandomMerges {
  RandomMerges() : merges(Bytes()) {}
  RandomMerges(uint32_t seed, uint32_t n_letters, uint32_t n_merges) : merges(Bytes()) {
    std::mt19937 random(seed);
    std::vector<std::pair<uint32_t, size_t>> tokens;  // id, bytes
    for (uint32_t i = 0; i < n_letters; ++i) tokens.emplace_back('a' + i, 1);
    for (uint32_t rank = 0; rank < n_merges;) {
      const auto [left, n_left] = tokens[random() % tokens.size()];
      const auto [right, n_right] = tokens[random() % tokens.size()];
      if (n_left + n_right > 64 || pairs.contains({left, right})) continue;
      const uint32_t token = 256 + rank;
      pairs[{left, right}] = {rank, token};
      EXPECT_TRUE(merges.Add(left, right, {rank, token}, n_left + n_right));
      tokens.emplace_back(token, n_left + n_right);
      ++rank;
    }
  }
  static std::array<uint32_t, 256> Bytes() {
    std::array<uint32_t, 256> bytes{};
    std::iota(bytes.begin(), bytes.end(), 0);
    return bytes;
  }
  // By the definition: the pair of lowest rank, leftmost first, until there is none.
  std::vector<uint32_t> Reference(const std::string& text) const {
    std::vector<uint32_t> tokens(text.begin(), text.end());
    for (;;) {
      BpeMerge best{UINT32_MAX, 0};
      size_t at = 0;
      for (size_t i = 0; i + 1 < tokens.size(); ++i) {
        const auto it = pairs.find({tokens[i], tokens[i + 1]});
        if (it != pairs.end() && it->second.rank < best.rank) {
          best = it->second;
          at = i;
        }
      }
      if (best.rank == UINT32_MAX) return tokens;
      tokens[at] = best.token;
      tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
  }

  BpeMerges merges;
  std::map<std::pair<uint32_t, uint32_t>, BpeMerge> pairs;
};

std::string RandomLetters(size_t n, uint32_t n_letters, uint32_t seed) {
  std::mt19937 random(seed);
  std::string text(n, 'a');
  for (char& c : text) c = static_cast<char>('a' + random() % n_letters);
  return text;
}

TEST(BpeMerges, WindowsOfALongPieceAreEncodedAsIfItWereOne) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const uint32_t n_letters = 1 + seed % 4;
    const RandomMerges random(seed, n_letters, 4 + 10 * n_letters);
    for (const size_t n : {size_t{47}, size_t{1023}, size_t{1024}, size_t{1025}, size_t{2600}}) {
      const std::string text = RandomLetters(n, n_letters, seed);
      std::vector<uint32_t> tokens;
      random.merges.Encode(text, SIZE_MAX, tokens);
      EXPECT_TRUE(tokens == random.Reference(text)) << seed << ", " << n << " bytes";
    }
  }
}

// Each pair merges before the one to its left: whether a letter goes with its left or its right neighbour is known only
// from where the row ends.
TEST(BpeMerges, AWindowBeginsAsFarBackAsTheTextBehindItReaches) {
  constexpr uint32_t kFirst = 20;
  constexpr uint32_t kLast = 120;
  RandomMerges chain;
  for (uint32_t letter = kLast; letter-- > kFirst;) {
    const uint32_t rank = kLast - letter;
    chain.pairs[{letter, letter + 1}] = {rank, 256 + rank};
    ASSERT_TRUE(chain.merges.Add(letter, letter + 1, {rank, 256 + rank}, 2));
  }
  std::string row;
  for (uint32_t letter = kFirst; letter <= kLast; ++letter) row += static_cast<char>(letter);
  std::string text;
  for (size_t i = 0; text.size() < 8000; ++i) text += row.substr(0, row.size() - i % 2);
  std::vector<uint32_t> tokens;
  chain.merges.Encode(text, SIZE_MAX, tokens);
  EXPECT_TRUE(tokens == chain.Reference(text));
}

TEST(BpeMerges, AppendsToWhatIsThereAndLeavesItAlone) {
  const RandomMerges random(1, 2, 24);
  const std::string text = RandomLetters(3000, 2, 1);
  std::vector<uint32_t> tokens = {'a', 'b'};
  random.merges.Encode(text, SIZE_MAX, tokens);
  std::vector<uint32_t> alone;
  random.merges.Encode(text, SIZE_MAX, alone);
  ASSERT_EQ(tokens.size(), alone.size() + 2);
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), tokens.begin() + 2));
}

TEST(BpeMerges, StopsSoonAfterThereAreMoreThanAskedFor) {
  const RandomMerges random(1, 4, 30);
  const std::string text = RandomLetters(size_t{4} << 20, 4, 1);
  std::vector<uint32_t> tokens;
  random.merges.Encode(text, 1000, tokens);
  EXPECT_GT(tokens.size(), 1000u);
  EXPECT_LT(tokens.size(), 10'000u);
}

}  // namespace
}  // namespace longshelf::tokenizer::internal
