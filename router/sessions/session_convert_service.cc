#include <algorithm>

#include "absl/strings/str_cat.h"
#include "longshelf/v1/session.pb.h"
#include "router/api_request.h"
#include "router/limits.h"
#include "router/session.h"

namespace longshelf::router {
namespace {

constexpr uint32_t kFormat = 1;
constexpr size_t kKeyBytes = 32;
constexpr int kTrailMax = 1 << 16;
constexpr int kTokensMax = 1 << 24;
constexpr size_t kRequestIdMax = 256;
constexpr size_t kNamespaceMax = 64;
constexpr size_t kFinishReasonMax = 64;

absl::Status Damaged(const char* what) {
  return absl::DataLossError(absl::StrCat("a parked session is damaged: ", what));
}

absl::StatusOr<Durability> DurabilityNamed(const std::string& name) {
  for (const Durability each : {Durability::kMemory, Durability::kDisk, Durability::kDiskAll}) {
    if (name == DurabilityName(each)) return each;
  }
  return Damaged("durability");
}

bool AreTokens(const google::protobuf::RepeatedField<uint32_t>& tokens, uint32_t vocab_size) {
  return tokens.size() <= kTokensMax &&
         std::all_of(tokens.begin(), tokens.end(), [vocab_size](uint32_t token) { return token < vocab_size; });
}

bool IsKey(const std::string& bytes) { return bytes.size() == kKeyBytes; }

}  // namespace

uint64_t Session::n_bytes() const {
  const size_t n_prompt = prompt == nullptr ? 0 : prompt->size();
  return (body == nullptr ? 0 : body->size()) + sizeof(uint32_t) * (n_prompt + output.size());
}

std::string CardToBytes(const SessionInfo& info) {
  v1::SessionCard card;
  card.set_format(kFormat);
  card.set_id(info.id);
  card.set_model(info.model);
  card.set_created_unix_ms(absl::ToUnixMillis(info.created));
  card.set_parked_unix_ms(absl::ToUnixMillis(info.parked_at));
  if (info.answer_at != absl::InfinitePast()) card.set_answer_unix_ms(absl::ToUnixMillis(info.answer_at));
  card.set_retain_until_unix_ms(absl::ToUnixMillis(info.retain_until));
  card.set_n_prompt_tokens(info.n_prompt_tokens);
  card.set_n_output_tokens(info.n_output_tokens);
  card.set_finish_reason(info.finish_reason);
  card.set_durability(std::string(DurabilityName(info.durability)));
  card.set_fingerprint(info.fingerprint);
  card.set_body_key(info.body_key);
  card.set_body_bytes(info.body_bytes);
  card.set_is_deleted(info.is_deleted);
  if (info.kv.has_value()) {
    v1::ParkedKv& kv = *card.mutable_kv();
    kv.set_n_tokens(info.kv->state.n_tokens);
    kv.set_n_objects(info.kv->state.n_objects);
    kv.set_n_bytes(info.kv->state.n_bytes);
    kv.set_checkpoint_key(info.kv->state.checkpoint_key);
    kv.set_block_tokens(info.kv->block_tokens);
    for (const std::string& key : info.kv->trail) kv.add_trail(key);
  }
  return card.SerializeAsString();
}

absl::StatusOr<SessionInfo> CardFromBytes(const std::string& bytes) {
  v1::SessionCard card;
  if (!card.ParseFromString(bytes)) return Damaged("its card");
  if (card.format() != kFormat) return Damaged("its card is of another format");
  if (CheckSessionId(card.id()).has_value()) return Damaged("its id");
  SessionInfo info;
  info.id = card.id();
  if (card.model().size() > kSizeLimits.model_name_bytes) return Damaged("its model");
  if (card.finish_reason().size() > kFinishReasonMax) return Damaged("how it finished");
  info.model = card.model();
  info.created = absl::FromUnixMillis(card.created_unix_ms());
  info.parked_at = absl::FromUnixMillis(card.parked_unix_ms());
  info.answer_at = info.parked_at;
  if (card.answer_unix_ms() != 0) {
    info.answer_at = std::min(info.parked_at, absl::FromUnixMillis(card.answer_unix_ms()));
  }
  info.retain_until = absl::FromUnixMillis(card.retain_until_unix_ms());
  info.n_prompt_tokens = card.n_prompt_tokens();
  info.n_output_tokens = card.n_output_tokens();
  info.finish_reason = card.finish_reason();
  auto durability = DurabilityNamed(card.durability());
  if (!durability.ok()) return durability.status();
  info.durability = *durability;
  info.body_key = card.body_key();
  info.body_bytes = card.body_bytes();
  info.fingerprint = card.fingerprint();
  info.is_deleted = card.is_deleted();
  if (!info.fingerprint.empty() && info.fingerprint.size() != kKeyBytes) return Damaged("its fingerprint");
  if (info.body_key.size() != kKeyBytes) return Damaged("the name of its body");
  if (!card.has_kv()) return info;
  const v1::ParkedKv& kv = card.kv();
  if (kv.checkpoint_key().size() != kKeyBytes || info.fingerprint.empty() || kv.block_tokens() == 0 ||
      kv.trail_size() > kTrailMax || !std::all_of(kv.trail().begin(), kv.trail().end(), IsKey)) {
    return Damaged("its state");
  }
  info.kv = ParkedKv{.state = {kv.n_tokens(), kv.n_objects(), kv.n_bytes(), kv.checkpoint_key()},
                     .block_tokens = kv.block_tokens(),
                     .trail = {kv.trail().begin(), kv.trail().end()}};
  return info;
}

std::string BodyToBytes(const Session& session) {
  v1::SessionBody body;
  body.set_format(kFormat);
  body.set_is_chat(session.is_chat);
  body.set_request(*session.body);
  body.mutable_prompt_tokens()->Add(session.prompt->begin(), session.prompt->end());
  body.mutable_output_tokens()->Add(session.output.begin(), session.output.end());
  body.set_seed(session.seed);
  body.set_request_id(session.request_id);
  body.set_namespace_id(session.namespace_id);
  return body.SerializeAsString();
}

absl::StatusOr<Session> BodyFromBytes(const std::string& bytes, uint32_t vocab_size) {
  v1::SessionBody body;
  if (!body.ParseFromString(bytes)) return Damaged("its body");
  if (body.format() != kFormat) return Damaged("its body is of another format");
  if (body.prompt_tokens().empty() || !AreTokens(body.prompt_tokens(), vocab_size) ||
      !AreTokens(body.output_tokens(), vocab_size)) {
    return Damaged("its tokens");
  }
  if (body.request_id().size() > kRequestIdMax || body.namespace_id().empty() ||
      body.namespace_id().size() > kNamespaceMax) {
    return Damaged("its names");
  }
  Session session;
  session.is_chat = body.is_chat();
  session.body = std::make_shared<const std::string>(std::move(*body.mutable_request()));
  session.prompt =
      std::make_shared<const std::vector<uint32_t>>(body.prompt_tokens().begin(), body.prompt_tokens().end());
  session.output.assign(body.output_tokens().begin(), body.output_tokens().end());
  session.seed = body.seed();
  session.request_id = body.request_id();
  session.namespace_id = body.namespace_id();
  return session;
}

}  // namespace longshelf::router
