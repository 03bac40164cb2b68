#include "top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "select.h"

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
    // Few against many, and also half of all: the bound rises often, or never.
    const size_t n = 2 + random() % (round % 3 == 0 ? 40000 : 3000);
    const size_t k = 1 + random() % std::min<size_t>(n - 1, round % 2 == 0 ? 600 : 3000);
    std::vector<float> scores(n);
    for (float& s : scores) {
      switch (round % 5) {
        case 0:
          s = static_cast<float>(random()) * 1e-3F - 2e6F;
          break;
        case 1:
          s = static_cast<float>(random() % 5) - 2.0F;  // many ties
          break;
        case 2:
          s = (random() & 1U) != 0 ? 0.0F : -0.0F;  // equal, whatever their sign
          break;
        case 3:
          s = static_cast<float>(&s - scores.data());  // every one is above all before
          break;
        default:
          s = std::ldexp(static_cast<float>(random() % 256), static_cast<int>(random() % 40) - 20);
      }
    }
    std::vector<int32_t> chosen(k);
    std::vector<std::byte> scratch(static_cast<size_t>(TopKScratchBytes(static_cast<int64_t>(k))));
    for (const std::string& kernels : AvailableKernels()) {
      TopK(*FindKernels(kernels), scores.data(), static_cast<int64_t>(n), static_cast<int64_t>(k), chosen.data(),
           scratch.data());
      ASSERT_EQ(chosen, Expected(scores, k)) << "round " << round << ", " << kernels;
    }
  }
}

}  // namespace
}  // namespace longshelf::engine
