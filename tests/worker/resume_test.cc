#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "absl/time/clock.h"
#include "fake_store.h"
#include "real_worker.h"
#include "testing/fixtures.h"

namespace longshelf::worker {
namespace {

using kvstore::ObjectKey;
using kvstore::ObjectKind;
using ::testing::HasSubstr;

class ResumeTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::shared_ptr<const engine::ModelWeights> weights_ = WeightsOf(GetParam());

  std::vector<uint32_t> Prompt(size_t n, uint32_t seed = 1) const { return RandomTokens(weights_->config, n, seed); }
};

TEST_P(ResumeTest, AParkedSequenceGoesOnElsewhereAsIfItHadNeverMoved) {
  RealStore store;
  RealWorker a(weights_, store.address());
  RealWorker b(weights_, store.address());
  uint32_t seed = 1;
  for (const size_t n : {1, 3, 4, 5, 127, 128, 129, 255, 256, 257, 1000, 5000}) {
    SCOPED_TRACE(n);
    // The long ones once: they take most of the time and the models' blocks differ in layout only.
    if (n > 300 && GetParam() != std::string_view("micro-flash")) continue;
    const auto prompt = Prompt(n, ++seed);
    const Generated whole =
        b.Generate({.prompt = prompt, .max_tokens = 6, .no_cache_read = true, .salt = std::string(32, 'r')});
    const Generated first = a.Generate({.prompt = prompt, .max_tokens = 2});
    ASSERT_EQ(first.tokens.size(), 2);
    const auto parked = a.Park(prompt);
    ASSERT_TRUE(parked.ok()) << parked.status();
    EXPECT_EQ(parked->n_tokens(), n);

    // From the prompt's end, and from in the middle of the answer.
    const Generated again = b.Generate({.prompt = prompt, .committed = {first.tokens[0]}, .max_tokens = 6});
    EXPECT_EQ(again.started.n_cached_store(), n);
    EXPECT_EQ(again.started.n_cached_local(), 0);
    ExpectSame(first, {whole.started,
                       {whole.tokens.begin(), whole.tokens.begin() + 2},
                       {whole.logits.begin(), whole.logits.begin() + 2},
                       {}});
    ExpectSame(again, whole, 1);
  }
}

TEST_P(ResumeTest, ItGoesOnOnAGroupOfAnotherNumberOfShards) {
  RealStore store;
  RealWorker one(weights_, store.address());
  RealWorker two(weights_, store.address(), [](ShardConfig& config) { config.n_shards = 2; });
  ASSERT_EQ(one.fingerprint(), two.fingerprint());
  RealWorker* from = &one;
  RealWorker* to = &two;
  uint32_t seed = 50;
  for (const size_t n : {5, 257, 600}) {
    SCOPED_TRACE(n);
    const auto prompt = Prompt(n, ++seed);
    const Generated first = from->Generate({.prompt = prompt, .max_tokens = 2});
    ASSERT_TRUE(from->Park(prompt).ok());
    const Generated whole =
        from->Generate({.prompt = prompt, .max_tokens = 6, .no_cache_read = true, .salt = std::string(32, 'r')});
    const Generated again = to->Generate({.prompt = prompt, .committed = {first.tokens[0]}, .max_tokens = 6});
    EXPECT_EQ(again.started.n_cached_store(), n);
    ExpectSame(again, whole, 1);
    std::swap(from, to);
  }
}

TEST_P(ResumeTest, AnAnswerThatIsParkedInTheMiddleGoesOnElsewhere) {
  RealStore store;
  RealWorker a(weights_, store.address());
  RealWorker b(weights_, store.address());
  const auto prompt = Prompt(300);
  const Generated whole = a.Generate({.prompt = prompt, .max_tokens = 40, .no_cache_read = true});
  const Generated first = a.Generate({.prompt = prompt, .max_tokens = 20});
  // The last token was sampled and not processed.
  std::vector<uint32_t> processed = prompt;
  processed.insert(processed.end(), first.tokens.begin(), first.tokens.end() - 1);
  const auto parked = a.Park(processed);
  ASSERT_TRUE(parked.ok()) << parked.status();
  EXPECT_EQ(parked->n_tokens(), 319);
  const Generated again = b.Generate({.prompt = prompt, .committed = first.tokens, .max_tokens = 40});
  EXPECT_EQ(again.started.n_cached_store(), 300) << "counts prompt tokens";
  EXPECT_EQ(again.started.miss_reason(), "");
  ExpectSame(again, whole, 20);
}

TEST_P(ResumeTest, WithoutAnyStateItGoesOnFromTheStoresBlocksAlone) {
  RealStore store;
  const auto prompt = Prompt(2000);
  const auto n_replay = static_cast<size_t>(weights_->config.n_layers * weights_->config.window);
  RealWorker alone(weights_, "");
  const Generated whole = alone.Generate({.prompt = prompt});
  {
    RealWorker a(weights_, store.address());
    a.Generate({.prompt = prompt});
    ASSERT_TRUE(a.Park(prompt).ok());
  }
  std::vector<kvstore::BlockKey> blocks;
  for (size_t end = 256; end <= prompt.size(); end += 256) blocks.push_back(StoredKey(alone, prompt, end));
  ASSERT_GT(store.DropCheckpoints(alone.fingerprint(), blocks), 0);
  RealWorker b(weights_, store.address());
  const Generated again = b.Generate({.prompt = prompt});
  EXPECT_EQ(again.started.n_cached_store(), 256 * blocks.size() - n_replay);
  ExpectSame(again, whole);
}

TEST_P(ResumeTest, ASharedPrefixIsReusedLocallyAndThroughTheStore) {
  RealStore store;
  RealWorker a(weights_, store.address());
  RealWorker b(weights_, store.address());
  const auto common = Prompt(700);
  const auto with = [&](uint32_t seed) { return With(common, Prompt(400, seed)); };
  const auto two = with(12);
  const auto three = with(13);
  const Generated cold = a.Generate({.prompt = with(11)});
  EXPECT_EQ(cold.started.n_cached_local() + cold.started.n_cached_store(), 0);
  EXPECT_EQ(cold.started.miss_reason(), "cold");
  const Generated second = a.Generate({.prompt = two});
  EXPECT_EQ(second.started.n_cached_local(), 0) << "blocks are shared, but nobody left a state where the prompts part";
  const Generated local = a.Generate({.prompt = three});
  EXPECT_EQ(local.started.n_cached_local(), 512) << "left by the second, that saw what it shares with the first";
  EXPECT_EQ(local.started.n_cached_store(), 0);
  const Generated alone = b.Generate({.prompt = three, .no_cache_read = true, .salt = std::string(32, 'r')});
  ExpectSame(local, alone);
  ASSERT_TRUE(a.WaitUntilOffloaded());
  const Generated stored = b.Generate({.prompt = two});
  EXPECT_EQ(stored.started.n_cached_local(), 0);
  EXPECT_GE(stored.started.n_cached_store(), 512);
  const Generated whole = b.Generate({.prompt = two, .no_cache_read = true});
  ExpectSame(second, whole);
  ExpectSame(stored, whole);
  EXPECT_THAT(b.metrics(), HasSubstr("longshelf_worker_restores_total 1\n"));
}

// The first worker saw the first prompt only, so nobody has seen on one machine what the prompts share.
TEST_P(ResumeTest, WhatPromptsShareIsSeenAcrossWorkersToo) {
  RealStore store;
  RealWorker a(weights_, store.address());
  RealWorker b(weights_, store.address());
  RealWorker c(weights_, store.address());
  const auto common = Prompt(700);
  const auto with = [&](uint32_t seed) { return With(common, Prompt(400, seed)); };
  a.Generate({.prompt = with(11)});
  ASSERT_TRUE(a.WaitUntilOffloaded());
  EXPECT_EQ(b.Generate({.prompt = with(12)}).started.n_cached_store(), 0);
  ASSERT_TRUE(b.WaitUntilOffloaded());
  const Generated third = c.Generate({.prompt = with(13)});
  EXPECT_EQ(third.started.n_cached_store(), 512);
  ExpectSame(third, a.Generate({.prompt = with(13), .no_cache_read = true, .salt = std::string(32, 'r')}));
}

// A worker that restored another chat holds the blocks of the system prompt, and no state at its end.
TEST_P(ResumeTest, AStateIsBroughtForBlocksThatAreHeldAlready) {
  RealStore store;
  RealWorker a(weights_, store.address());
  RealWorker b(weights_, store.address());
  const auto common = Prompt(512);
  const auto one = With(common, Prompt(400, 21));
  a.Generate({.prompt = one});
  a.Generate({.prompt = With(common, Prompt(400, 22))});  // leaves a state where they part
  ASSERT_TRUE(a.WaitUntilOffloaded());
  EXPECT_GT(b.Generate({.prompt = With(one, Prompt(5, 23))}).started.n_cached_store(), 512);
  const auto two = With(common, Prompt(400, 24));
  const Generated warm = b.Generate({.prompt = two});
  EXPECT_EQ(warm.started.n_cached_local() + warm.started.n_cached_store(), 512);
  EXPECT_THAT(b.metrics(), HasSubstr("longshelf_worker_restores_total 2\n"));
  ExpectSame(warm, b.Generate({.prompt = two, .no_cache_read = true, .salt = std::string(32, 'r')}));
}

// A store that restarts empty in the middle of a session: one turn later all of it is there again.
TEST_P(ResumeTest, AStoreThatRestartsEmptyIsGivenTheSessionAgain) {
  if (GetParam() != std::string_view("micro-flash")) GTEST_SKIP() << "the length is what is tested";
  const auto roomy = [](ShardConfig& config) {
    config.n_context_max = 32768;
    config.kv_memory_bytes = uint64_t{256} << 20;
    config.store_memory_bytes = uint64_t{4} << 20;
  };
  RealStore store;
  const std::string address = store.address();
  std::vector<uint32_t> session = Prompt(20'000);
  {
    RealWorker a(weights_, address, roomy);
    const Generated first = a.Generate({.prompt = session, .max_tokens = 4});
    ASSERT_TRUE(a.WaitUntilOffloaded());
    store.RestartEmpty();
    session.insert(session.end(), first.tokens.begin(), first.tokens.end());
    const auto more = Prompt(500, 7);
    session.insert(session.end(), more.begin(), more.end());
    const Generated second = a.Generate({.prompt = session, .max_tokens = 4});
    session.insert(session.end(), second.tokens.begin(), second.tokens.end());
    ASSERT_TRUE(a.WaitForMetric("longshelf_worker_healed_blocks_total", 70));
    ASSERT_TRUE(a.WaitUntilOffloaded());
  }
  RealWorker b(weights_, address, roomy);
  session.push_back(5);
  const Generated next = b.Generate({.prompt = session, .max_tokens = 4});
  EXPECT_GE(next.started.n_cached_store(), session.size() * 95 / 100);
  RealWorker alone(weights_, "", roomy);
  ExpectSame(next, alone.Generate({.prompt = session, .max_tokens = 4}));
}

TEST_P(ResumeTest, AnotherTenantsPrefixIsNeverReused) {
  RealStore store;
  RealWorker a(weights_, store.address());
  const auto prompt = Prompt(600);
  a.Generate({.prompt = prompt});
  ASSERT_TRUE(a.WaitUntilOffloaded());
  const Generated other = a.Generate({.prompt = prompt, .salt = std::string(32, 'o')});
  EXPECT_EQ(other.started.n_cached_local() + other.started.n_cached_store(), 0);
}

TEST_P(ResumeTest, ADamagedOrMissingComponentIsRefusedAndComputedAgain) {
  const auto prompt = Prompt(301);
  const std::vector<uint32_t> parked_tokens(prompt.begin(), prompt.end() - 1);
  RealWorker reference(weights_, "");
  const Generated whole = reference.Generate({.prompt = prompt});
  struct Case {
    const char* reason;
    size_t n;
    ObjectKind kind;
    bool flip;
  };
  for (const Case& c :
       {Case{"digest_mismatch", 300, ObjectKind::kCheckpoint, true},
        Case{"digest_mismatch", 300, ObjectKind::kTail, true}, Case{"digest_mismatch", 256, ObjectKind::kBlock, true},
        Case{"", 300, ObjectKind::kCheckpoint, false}, Case{"no_tail", 300, ObjectKind::kTail, false},
        Case{"", 256, ObjectKind::kBlock, false}}) {
    SCOPED_TRACE(::testing::Message() << c.n << " kind " << static_cast<int>(c.kind)
                                      << (c.flip ? " flipped" : " gone"));
    RealStore store;
    {
      RealWorker a(weights_, store.address());
      a.Generate({.prompt = parked_tokens, .max_tokens = 1});
      ASSERT_TRUE(a.Park(parked_tokens).ok());
    }
    const ObjectKey key{StoredKey(reference, prompt, c.n), c.kind};
    if (c.flip) {
      ASSERT_TRUE(store.store().FlipBitForTest(key, 4711));
    } else {
      ASSERT_EQ(store.store().Drop(std::span(&key, 1)).n_dropped, 1);
    }
    RealWorker b(weights_, store.address());
    const Generated again = b.Generate({.prompt = prompt});
    EXPECT_LE(again.started.n_cached_store(), 256) << "not the spoilt position";
    ExpectSame(again, whole);
    if (c.flip) {
      EXPECT_EQ(again.started.miss_reason(), c.reason);
    }
    if (*c.reason != '\0') {
      EXPECT_THAT(b.metrics(),
                  HasSubstr(std::string("longshelf_worker_restore_failures_total{reason=\"") + c.reason + "\"} 1\n"));
    }
  }
}

TEST_P(ResumeTest, CancellingGivesSlotsAndBlocksBack) {
  RealWorker a(weights_, "", [](ShardConfig& config) { config.checkpoint_memory_bytes = 0; });
  a.Generate({.prompt = Prompt(10)});
  const auto WaitIdle = [&a] {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
      const engine::Load load = a.node().load();
      // The edge closes a stream a moment after the engine is done with it.
      const bool closed = a.node().n_streams() == 0;
      if (closed && load.n_running + load.n_waiting == 0 && load.n_blocks_free == load.n_blocks_total) return true;
      std::this_thread::yield();
    }
    return false;
  };
  ASSERT_TRUE(WaitIdle());
  const uint32_t n_free = a.node().load().n_blocks_free;
  for (int i = 0; i < 16; ++i) {
    v1::WorkerGenerateRequest request;
    const auto prompt = Prompt(600, static_cast<uint32_t>(i));
    request.mutable_prompt_tokens()->Add(prompt.begin(), prompt.end());
    request.set_max_tokens(1000);
    grpc::ClientContext context;
    const auto reader = a.stub().Generate(&context, request);
    v1::WorkerGenerateEvent event;
    // In the queue, in prefill, and at the first tokens.
    for (int k = 0; k < i % 8; ++k) ASSERT_TRUE(reader->Read(&event));
    context.TryCancel();
    while (reader->Read(&event)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(WaitIdle());
  EXPECT_EQ(a.node().load().n_blocks_free, n_free);
  EXPECT_EQ(a.node().n_streams(), 0);
}

TEST_P(ResumeTest, SixteenAtOnceGiveWhatEachGivesAlone) {
  RealStore store;
  RealWorker a(weights_, store.address());
  RealWorker b(weights_, "");
  std::vector<std::vector<uint32_t>> prompts;
  for (uint32_t i = 0; i < 16; ++i) prompts.push_back(Prompt(1 + 37 * i, 100 + i));
  std::vector<Generated> together(prompts.size());
  {
    std::vector<std::thread> clients;
    for (size_t i = 0; i < prompts.size(); ++i) {
      clients.emplace_back([&, i] { together[i] = a.Generate({.prompt = prompts[i], .max_tokens = 12}); });
    }
    for (std::thread& client : clients) client.join();
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectSame(together[i], b.Generate({.prompt = prompts[i], .max_tokens = 12}));
  }
}

TEST_P(ResumeTest, AStoreThatDiesCostsNothingButItsHits) {
  RealStore store;
  const std::string address = store.address();
  RealWorker a(weights_, address);
  const auto prompt = Prompt(600);
  const Generated whole = a.Generate({.prompt = prompt});
  ASSERT_TRUE(a.WaitUntilOffloaded());
  store.Kill();
  RealWorker b(weights_, address);
  for (int i = 0; i < 5; ++i) {
    const Generated again = b.Generate({.prompt = prompt});
    ExpectSame(again, whole);
    EXPECT_EQ(again.started.n_cached_store(), 0);
  }
  EXPECT_EQ(b.Park(prompt).status().code(), absl::StatusCode::kUnavailable);
}

TEST_P(ResumeTest, AWorkerStopsThoughAParkWaitsForAStoreThatDoesNotAnswer) {
  if (GetParam() != std::string_view("micro-flash")) GTEST_SKIP() << "the model does not matter";
  kvstore::FakeStore store;
  std::atomic<int> n_lookups = 0;
  std::promise<void> is_asked;
  std::promise<void> go;
  store.on_put = [](grpc::ServerContext&, kvstore::FakeStore::PutCall&) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
  };
  // Whoever looks after the session asks first.
  store.on_lookup = [&, wait = go.get_future().share()](grpc::ServerContext&) {
    if (++n_lookups == 2) is_asked.set_value();
    wait.wait();
    return grpc::Status::OK;
  };
  auto worker = std::make_unique<RealWorker>(weights_, store.address());
  const auto prompt = Prompt(600);
  (void)worker->Generate({.prompt = prompt, .no_cache_read = true});
  auto parked = std::async(std::launch::async, [&] { return worker->Park(prompt).status(); });
  EXPECT_EQ(is_asked.get_future().wait_for(std::chrono::seconds(15)), std::future_status::ready);
  const absl::Time begun = absl::Now();
  worker->node().StopEngine();
  EXPECT_EQ(parked.get().code(), absl::StatusCode::kUnavailable);
  worker.reset();
  EXPECT_LT(absl::Now() - begun, absl::Seconds(8));
  go.set_value();
}

INSTANTIATE_TEST_SUITE_P(Models, ResumeTest, ::testing::Values("micro-flash", "micro-odd", "demo"),
                         [](const auto& parameter) { return testing::TestNameOf(parameter.param); });

}  // namespace
}  // namespace longshelf::worker
