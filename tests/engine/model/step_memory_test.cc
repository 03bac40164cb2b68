#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "testing/fixtures.h"

// Counts what the program allocates while `counting` is set.
namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> n_allocations{0};

void* Counted(std::size_t n, std::size_t align) {
  if (counting.load()) n_allocations.fetch_add(1);
  void* p = std::aligned_alloc(align, (n + align - 1) / align * align);
  if (p == nullptr) std::abort();
  return p;
}
}  // namespace

void* operator new(std::size_t n) { return Counted(n == 0 ? 1 : n, alignof(std::max_align_t)); }
void* operator new(std::size_t n, std::align_val_t align) { return Counted(n, static_cast<std::size_t>(align)); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace longshelf::engine {
namespace {

struct Module {
  const char* model;  // a checkpoint, or a config with random weights
  DrafterKind drafter;
  int n_steps;
};

std::shared_ptr<const ModelWeights> LoadWeights(const Module& module) {
  if (module.drafter != DrafterKind::kDspark)
    return LoadModelWeights(testing::ModelPath(module.model), nullptr).value();
  return MakeRandomModelWeights(LoadModelConfig(testing::FixturePath(module.model)).value(), 5).value();
}

class StepMemory : public ::testing::TestWithParam<Module> {};

// Four sequences in turn: two decode, with drafts where there is a drafter, two read prompts in pieces of changing
// size.
TEST_P(StepMemory, MixedStepsAllocateNothing) {
  constexpr int64_t kTokens = 5000;
  constexpr int64_t kLargestPiece = 9;
  const std::shared_ptr<const ModelWeights> weights = LoadWeights(GetParam());
  const bool drafts = GetParam().drafter != DrafterKind::kNone;
  ModelOptions options;
  options.n_threads = 2;
  options.n_rows_max = 64;
  options.drafter = GetParam().drafter;
  options.n_draft_max = drafts ? 3 : 0;
  LocalExpertTransport transport;
  auto model = Model::Create(weights, options, transport);
  ASSERT_TRUE(model.ok()) << model.status();
  std::mt19937 random(3);
  std::vector<uint32_t> tokens(kTokens);
  for (uint32_t& t : tokens) t = static_cast<uint32_t>(random() % static_cast<uint32_t>((*model)->config().vocab_size));
  std::vector<std::unique_ptr<SequenceMemory>> memories;
  std::vector<int64_t> n_past(4, 0);
  for (int i = 0; i < 4; ++i) memories.push_back(std::make_unique<SequenceMemory>((*model)->layout(), kTokens));
  ForwardBatch batch;
  batch.chunks.reserve(4);
  const auto step = [&](int64_t piece) {
    batch.chunks.clear();
    for (size_t i = 0; i < 4; ++i) {
      const int64_t n = i < 2 ? 1 : std::min(piece, kTokens - n_past[i]);
      if (n == 0) continue;
      // A decoding sequence reads three more tokens, which are taken back.
      const auto next =
          std::span(tokens).subspan(static_cast<size_t>(n_past[i]), static_cast<size_t>(i < 2 && drafts ? n + 3 : n));
      batch.chunks.push_back(memories[i]->Chunk(n_past[i], next, i < 2 ? WantLogits::kAll : WantLogits::kLast));
      n_past[i] += n;
    }
    if (!(*model)->Forward(batch).ok()) return false;
    if (!drafts) return true;
    const DraftRequest requests[] = {{1, 1, tokens[static_cast<size_t>(n_past[1])]},
                                     {0, 1, tokens[static_cast<size_t>(n_past[0])]}};
    return (*model)->Draft(requests, piece % 4).ok();
  };
  // The first steps size the lists that are kept.
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(step(kLargestPiece));
    ASSERT_TRUE(step(3));
  }
  n_allocations = 0;
  bool ok = true;
  counting = true;
  for (int i = 0; i < GetParam().n_steps; ++i) ok = ok && step(i % (kLargestPiece + 1));
  counting = false;
  EXPECT_TRUE(ok);
  EXPECT_EQ(n_allocations.load(), 0);
}

INSTANTIATE_TEST_SUITE_P(Modules, StepMemory,
                         ::testing::Values(Module{"micro-flash", DrafterKind::kNone, 1000},
                                           Module{"micro-flash", DrafterKind::kMtp, 200},
                                           Module{"configs/micro-dspark", DrafterKind::kDspark, 200}),
                         [](const auto& param) { return std::string(DrafterName(param.param.drafter)); });

}  // namespace
}  // namespace longshelf::engine
