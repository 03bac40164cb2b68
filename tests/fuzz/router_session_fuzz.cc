// Parked sessions as a store gives them back. What is accepted is bounded, can be shown to its owner, and is the same
// after one more way to the store and back.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "json_dump.h"
#include "parked_session.h"
#include "random_text.h"
#include "router/api_request.h"
#include "router/session.h"
#include "session_json.h"

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
  LONGSHELF_CHECK(nlohmann::json::accept(DumpJson(SessionJson(*card))));
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
  SessionInfo info = testing::ParkedCard();
  info.model = "démo";
  info.finish_reason = "stop";
  if (!has_kv) info.kv.reset();
  return info;
}

}  // namespace
}  // namespace longshelf::router

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using namespace router;                    // all of the input is of the router
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  Session body = testing::ParkedBody();
  body.prompt = std::make_shared<const std::vector<uint32_t>>(std::vector<uint32_t>{1, 2, 300});
  SessionInfo long_name = Card(false);
  long_name.model = std::string(kSizeLimits.model_name_bytes - 1, 'm') + "é";
  return {.inputs = {'\0' + CardToBytes(Card(true)), '\0' + CardToBytes(Card(false)), '\0' + CardToBytes(long_name),
                     '\1' + BodyToBytes(body)},
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
