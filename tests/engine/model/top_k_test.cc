#include "top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace longshelf::engine {
namespace {

// By the definition: sort by score, ties to the lower index.
std::vector<int32_t> Expected(const std::vector<float>& scores, size_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(k);
  std::sort(order.begin(), order.end());
  return order;
}

TEST(TopK, ChoosesTheLargestAndTheLowerIndexOnTies) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    const size_t n = 2 + random() % 3000;
    const size_t k = 1 + random() % (n - 1);
    std::vector<float> scores(n);
    for (float& s : scores) {
      switch (round % 4) {
        case 0:
          s = static_cast<float>(random()) * 1e-3F - 2e6F;
          break;
        case 1:
          s = static_cast<float>(random() % 5) - 2.0F;  // many ties
          break;
        case 2:
          s = (random() & 1U) != 0 ? 0.0F : -0.0F;  // equal, whatever their sign
          break;
        default:
          s = std::ldexp(static_cast<float>(random() % 256), static_cast<int>(random() % 40) - 20);
      }
    }
    std::vector<int32_t> chosen(k);
    TopK(scores.data(), static_cast<int64_t>(n), static_cast<int64_t>(k), chosen.data());
    ASSERT_EQ(chosen, Expected(scores, k)) << "round " << round;
  }
}

}  // namespace
}  // namespace longshelf::engine
