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
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace longshelf::engine {
namespace {

// Four sequences in turn: two decode, two read prompts in pieces of changing size.
TEST(StepMemory, AThousandMixedStepsAllocateNothing) {
  constexpr int64_t kTokens = 5000;
  constexpr int64_t kLargestPiece = 9;
  auto weights = LoadModelWeights(testing::ModelPath("micro-flash"), nullptr);
  ASSERT_TRUE(weights.ok()) << weights.status();
  ModelOptions options;
  options.n_threads = 2;
  options.n_rows_max = 64;
  LocalExpertTransport transport;
  auto model = Model::Create(std::shared_ptr<const ModelWeights>(std::move(*weights)), options, transport);
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
      const auto next = std::span(tokens).subspan(static_cast<size_t>(n_past[i]), static_cast<size_t>(n));
      batch.chunks.push_back(memories[i]->Chunk(n_past[i], next, WantLogits::kLast));
      n_past[i] += n;
    }
    return (*model)->Forward(batch).ok();
  };
  // The first steps size the lists that are kept.
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(step(kLargestPiece));
  bool ok = true;
  counting = true;
  for (int i = 0; i < 1000; ++i) ok = ok && step(i % (kLargestPiece + 1));
  counting = false;
  EXPECT_TRUE(ok);
  EXPECT_EQ(n_allocations.load(), 0);
}

}  // namespace
}  // namespace longshelf::engine
