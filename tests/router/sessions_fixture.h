#pragma once

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "kvstore/keys.h"
#include "kvstore/server.h"
#include "kvstore/store.h"
#include "longshelf/v1/inference.grpc.pb.h"
#include "router/prefix_index.h"
#include "router_harness.h"

namespace longshelf::router::testing {

using kvstore::BlockKey;
using kvstore::ObjectKind;
using nlohmann::json;

inline constexpr char kPark[] = R"({"retention_s": 600})";
inline constexpr uint32_t kBlockTokens = 256;
inline constexpr size_t kPayloadBytes = 100;

inline json Parsed(const Reply& reply) { return json::parse(reply.body(), nullptr, false); }

inline std::vector<uint32_t> Numbers(size_t n, uint32_t first = 100) {
  std::vector<uint32_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

inline std::string Completion(const std::vector<uint32_t>& prompt, const std::string& session, uint32_t max_tokens = 50,
                              bool stream = true) {
  return json{{"prompt", prompt}, {"session", session}, {"max_tokens", max_tokens}, {"stream", stream}}.dump();
}

// Sends `n` tokens, then holds.
inline Script Held(uint32_t n, std::vector<uint32_t> tokens = RouterHarness::AnswerTokens()) {
  Script script{std::move(tokens)};
  script.held = true;
  script.holds_at = n;
  return script;
}

// The state of a session as its worker would have parked it: in the store, and named by the worker.
struct State {
  kvstore::Fingerprint fingerprint{1};
  BlockKey checkpoint{};
  std::vector<BlockKey> blocks;
  BlockKey root{};

  kvstore::ObjectKey checkpoint_key() const { return {checkpoint, ObjectKind::kCheckpoint}; }
};
inline State StateOf(const std::vector<uint32_t>& tokens, const std::string& salt, uint8_t checkpoint) {
  State state;
  const PromptKeys keys = MakePromptKeys(state.fingerprint, salt, kBlockTokens, tokens);
  state.root = keys.chain[0];
  state.blocks.assign(keys.chain.begin() + 1, keys.chain.end());
  state.checkpoint.fill(checkpoint);
  return state;
}

// Routers with fake workers over one real store.
class SessionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = *kvstore::Store::Create({.capacity_bytes = uint64_t{64} << 20, .parked_share = 0.9});
    server_ = *kvstore::Server::Start({}, *store_, clock_, metrics_);
    config_ = RouterHarness::DefaultConfig();
    config_.kvstores = {absl::StrCat("127.0.0.1:", server_->port())};
  }

  json Get(RouterHarness& router, const std::string& id = "s") {
    return Parsed(router.Do("GET", "/v1/sessions/" + id));
  }
  json Park(RouterHarness& router, const std::string& id = "s", const std::string& body = kPark) {
    return Parsed(router.Do("POST", absl::StrCat("/v1/sessions/", id, "/park"), body));
  }
  Reply Resume(RouterHarness& router, const std::string& id = "s") {
    return router.Do("POST", absl::StrCat("/v1/sessions/", id, "/resume"), "{}");
  }
  unsigned Delete(RouterHarness& router, const std::string& id = "s") {
    return router.Do("DELETE", "/v1/sessions/" + id).result_int();
  }
  // True when the session has come to this; false after ten seconds.
  bool Await(RouterHarness& router, const std::string& field, const json& value, const std::string& id = "s") {
    const absl::Time patience = clock_.Now() + absl::Seconds(10);
    while (Get(router, id)[field] != value) {
      if (clock_.Now() > patience) return false;
    }
    return true;
  }
  // Parks an answer after its `n` tokens.
  void ParkAt(RouterHarness& router, uint32_t n, const std::vector<uint32_t>& prompt = {5, 6, 7},
              const std::string& id = "s") {
    router.workers[0]->SetScript(Held(n));
    TestClient client(router.service->http_port());
    client.Send(RequestText("POST", "/v1/completions", Completion(prompt, id)));
    ASSERT_TRUE(Await(router, "output_tokens", n, id));
    ASSERT_EQ(Park(router, id)["output_tokens"], n);
  }
  bool IsStored(const kvstore::ObjectKey& key, const kvstore::Fingerprint& fingerprint) {
    return store_->Get(key, fingerprint).ok();
  }
  void Store(const kvstore::ObjectKey& key, uint32_t depth, const BlockKey& extent,
             const kvstore::Fingerprint& fingerprint, const std::string& namespace_id = "ns") {
    kvstore::ObjectHead head;
    head.key = key;
    head.extent = extent;
    head.depth_tokens = depth;
    head.fingerprint = fingerprint;
    head.namespace_id = namespace_id;
    StoreBytes(head, std::string(kPayloadBytes, '\0'));
  }
  // Parked; size, digest and time of `head` are filled in.
  void StoreBytes(kvstore::ObjectHead head, const std::string& bytes) {
    const auto* const begin = reinterpret_cast<const std::byte*>(bytes.data());
    const std::vector<std::byte> payload(begin, begin + bytes.size());
    head.payload_bytes = payload.size();
    head.digest = kvstore::DigestOf(payload);
    head.object_class = kvstore::ObjectClass::kParked;
    head.retain_until = clock_.WallNow() + absl::Seconds(60);
    auto reservation = std::get<kvstore::Store::Reservation>(store_->Open(head, clock_.WallNow()).value());
    ASSERT_TRUE(reservation.Append(0, payload).ok());
    ASSERT_TRUE(store_->Commit(std::move(reservation), clock_.WallNow()).ok());
  }
  static std::unique_ptr<v1::Inference::Stub> Stub(const RouterHarness& router) {
    return v1::Inference::NewStub(grpc::CreateChannel(absl::StrCat("127.0.0.1:", router.service->grpc_port()),
                                                      grpc::InsecureChannelCredentials()));
  }
  static constexpr char kTenant[] = "anonymous";
  static BlockKey NameOf(const std::string& text) { return kvstore::NamespaceSalt("longshelf", text); }
  // Heads of a session's cards, the newest last.
  std::vector<kvstore::ObjectHead> Cards(const std::string& id = "s") {
    const BlockKey name = NameOf(absl::StrCat("session/1/", kTenant, "/", id));
    return store_
        ->List({.parent = NameOf(absl::StrCat("sessions/1/", kTenant)),
                .hash_prefix = {reinterpret_cast<const char*>(name.data()), 16}})
        ->heads;
  }
  // Of the session's card.
  void DropBody(const std::string& id = "s") {
    const BlockKey card = Cards(id).back().key.hash;
    const BlockKey body = NameOf("session-body/1/" + std::string(card.begin(), card.end()));
    const kvstore::ObjectKey key{body, ObjectKind::kManifest};
    ASSERT_EQ(store_->Drop(std::span(&key, 1)).n_dropped, 1u);
  }
  void SetCheckpoint(RouterHarness& router, uint8_t checkpoint) {
    router.workers[0]->SetCheckpointKey(std::string(BlockKey().size(), static_cast<char>(checkpoint)));
  }
  // What a worker would have parked of the answer that it made last.
  State StoreState(RouterHarness& router, const std::vector<uint32_t>& prompt, uint8_t checkpoint,
                   bool with_blocks = true) {
    State state = StateOf(prompt, router.workers[0]->requests().back().namespace_salt(), checkpoint);
    for (size_t i = 0; i < state.blocks.size() && with_blocks; ++i) {
      const auto depth = static_cast<uint32_t>((i + 1) * kBlockTokens);
      Store({state.blocks[i], ObjectKind::kBlock}, depth, kvstore::ExtentOf(state.root, state.blocks, depth),
            state.fingerprint);
    }
    const auto depth = static_cast<uint32_t>(prompt.size());
    Store(state.checkpoint_key(), depth, kvstore::ExtentOf(state.root, state.blocks, depth), state.fingerprint);
    return state;
  }
  bool IsStored(const State& state) { return IsStored(state.checkpoint_key(), state.fingerprint); }
  // An answer of `n` tokens that is parked at its end.
  static std::string ParkedAtEnd(uint32_t n, const std::vector<uint32_t>& prompt = {5, 6, 7}) {
    return json{{"prompt", prompt}, {"session", {{"id", "s"}, {"retention_s", 600}}}, {"max_tokens", n}}.dump();
  }
  // A router that drains waits for its parks.
  static void Drain(RouterHarness& router) {
    std::promise<void> drained;
    router.service->BeginDrain([&] { drained.set_value(); });
    drained.get_future().wait();
  }

  SystemClock clock_;
  longshelf::Metrics metrics_{"test"};
  std::unique_ptr<kvstore::Store> store_;
  std::unique_ptr<kvstore::Server> server_;
  RouterConfig config_;
};

}  // namespace longshelf::router::testing
