// Restoring a session touches nobody else's memory: seven sequences that decode meanwhile say what each says alone, to
// the bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "real_worker.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

constexpr size_t kNeighbours = 7;
constexpr size_t kTokens = 1500;  // five blocks, a tail and a state to be restored
constexpr size_t kTokensAfter = 8;

class NeighboursTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::vector<uint32_t> Prompt(size_t n, uint32_t seed) const { return RandomTokens(weights_->config, n, seed); }

  const std::shared_ptr<const engine::ModelWeights> weights_ = WeightsOf(GetParam());
};

TEST_P(NeighboursTest, ThoseWhoDecodeWhileASessionIsRestoredSayWhatEachSaysAlone) {
  RealStore store;
  const auto session = Prompt(kTokens, 1);
  const auto prompt = With(session, Prompt(9, 2));
  {
    RealWorker parker(weights_, store.address());
    parker.Generate({.prompt = session, .max_tokens = 1});
    ASSERT_TRUE(parker.Park(session).ok());
  }
  RealWorker worker(weights_, store.address());
  std::array<Generated, kNeighbours> beside;
  std::array<std::atomic<size_t>, kNeighbours> n_tokens{};
  std::atomic<bool> is_restored = false;
  std::vector<std::thread> clients;
  for (size_t i = 0; i < kNeighbours; ++i) {
    clients.emplace_back([&, i] {
      size_t n_last = SIZE_MAX;
      Ask ask{.prompt = Prompt(120 + 40 * i, static_cast<uint32_t>(10 + i)), .max_tokens = 4000, .no_cache_read = true};
      // A few tokens beyond the end of the restore.
      ask.goes_on = [&, i](size_t n) {
        n_tokens[i] = n;
        if (is_restored && n_last == SIZE_MAX) n_last = n + kTokensAfter;
        return n < n_last;
      };
      beside[i] = worker.Generate(ask);
    });
  }
  while (std::any_of(n_tokens.begin(), n_tokens.end(), [](const auto& n) { return n < 3; })) std::this_thread::yield();
  const Generated restored = worker.Generate({.prompt = prompt});
  std::array<size_t, kNeighbours> n_at_end{};
  std::copy(n_tokens.begin(), n_tokens.end(), n_at_end.begin());
  is_restored = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(restored.started.n_cached_store(), kTokens);

  RealWorker alone(weights_, "");
  ExpectSame(restored, alone.Generate({.prompt = prompt, .no_cache_read = true}));
  for (size_t i = 0; i < kNeighbours; ++i) {
    SCOPED_TRACE(i);
    EXPECT_GE(beside[i].tokens.size(), n_at_end[i] + kTokensAfter) << "it ended before the restore did";
    ExpectSame(beside[i], alone.Generate({.prompt = Prompt(120 + 40 * i, static_cast<uint32_t>(10 + i)),
                                          .max_tokens = static_cast<uint32_t>(beside[i].tokens.size()),
                                          .no_cache_read = true}));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, NeighboursTest, ::testing::Values("micro-flash", "micro-pro"),
                         [](const auto& parameter) { return testing::TestNameOf(parameter.param); });

}  // namespace
}  // namespace longshelf::worker
