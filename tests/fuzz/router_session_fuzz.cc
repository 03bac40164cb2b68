// Parked sessions as a store gives them back. What is accepted is bounded, can be shown to its owner, and is the same
// after one more way to the store and back.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "random_text.h"
#include "router/api_request.h"
#include "router/http_sessions.h"
#include "router/session.h"

namespace longshelf::router {
namespace {

constexpr uint32_t kVocab = 1000;
constexpr size_t kKeyBytes = 32;

void ParseCard(const std::string& bytes) {
  const absl::StatusOr<SessionInfo> card = CardFromBytes(bytes);
  LONGSHELF_CHECK(card.ok() || card.status().code() == absl::StatusCode::kDataLoss);
  if (!card.ok()) return;
  LONGSHELF_CHECK(!CheckSessionId(card->id).has_value());
  LONGSHELF_CHECK(card->model.size() <= kSizeLimits.model_name_bytes);
  LONGSHELF_CHECK(card->fingerprint.empty() || card->fingerprint.size() == kKeyBytes);
  LONGSHELF_CHECK(card->body_key.size() == kKeyBytes);
  LONGSHELF_CHECK(card->finish_reason.size() <= 64);
  if (card->kv.has_value()) {
    LONGSHELF_CHECK(card->kv->state.checkpoint_key.size() == kKeyBytes && card->kv->block_tokens > 0);
    LONGSHELF_CHECK(std::ranges::all_of(card->kv->trail, [](const auto& key) { return key.size() == kKeyBytes; }));
  }
  LONGSHELF_CHECK(nlohmann::json::accept(SessionJson(*card)));
  const std::string stored = CardToBytes(*card);
  const absl::StatusOr<SessionInfo> again = CardFromBytes(stored);
  LONGSHELF_CHECK(again.ok() && CardToBytes(*again) == stored);
}

void ParseBody(const std::string& bytes) {
  const absl::StatusOr<Session> body = BodyFromBytes(bytes, kVocab);
  LONGSHELF_CHECK(body.ok() || body.status().code() == absl::StatusCode::kDataLoss);
  if (!body.ok()) return;
  const auto is_token = [](uint32_t token) { return token < kVocab; };
  LONGSHELF_CHECK(!body->prompt->empty() && std::ranges::all_of(*body->prompt, is_token));
  LONGSHELF_CHECK(std::ranges::all_of(body->output, is_token));
  LONGSHELF_CHECK(!body->namespace_id.empty() && body->namespace_id.size() <= 64 && body->request_id.size() <= 256);
  const std::string stored = BodyToBytes(*body);
  const absl::StatusOr<Session> again = BodyFromBytes(stored, kVocab);
  LONGSHELF_CHECK(again.ok() && BodyToBytes(*again) == stored);
}

SessionInfo Card(bool has_kv) {
  SessionInfo info;
  info.id = "agent-7:main";
  info.model = "démo";
  info.created = absl::FromUnixMillis(1'000'000);
  info.parked_at = absl::FromUnixMillis(2'000'000);
  info.retain_until = absl::FromUnixMillis(9'000'000);
  info.n_prompt_tokens = 70'000;
  info.n_output_tokens = 12;
  info.finish_reason = "stop";
  info.durability = Durability::kDisk;
  info.fingerprint = std::string(kKeyBytes, 'f');
  info.body_key = std::string(kKeyBytes, 'b');
  info.body_bytes = 500;
  if (!has_kv) return info;
  info.kv = ParkedKv{.state = {69'888, 300, 1 << 20, std::string(kKeyBytes, 'c')},
                     .block_tokens = 256,
                     .trail = {std::string(kKeyBytes, '1'), std::string(kKeyBytes, '2')}};
  return info;
}

Session Body() {
  Session session;
  session.body = std::make_shared<const std::string>(R"({"prompt":"x"})");
  session.prompt = std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>{1, 2, 300});
  session.output = {4, 5};
  session.seed = ~uint64_t{0};
  session.request_id = "req-1";
  session.namespace_id = "alice";
  return session;
}

}  // namespace
}  // namespace longshelf::router

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using namespace router;                    // all of the input is of the router
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  SessionInfo long_name = Card(false);
  long_name.model = std::string(kSizeLimits.model_name_bytes - 1, 'm') + "é";
  return {.inputs = {'\0' + CardToBytes(Card(true)), '\0' + CardToBytes(Card(false)), '\0' + CardToBytes(long_name),
                     '\1' + BodyToBytes(Body())},
          .words = {"é", "disk_all", "memory", std::string("\x32\x00", 2), "\x0a\x01s"}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  const bool is_card = input.Byte() % 2 == 0;
  const std::string bytes(input.Rest());
  is_card ? router::ParseCard(bytes) : router::ParseBody(bytes);
  return 0;
}
