#include "router/sessions.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <span>

#include "absl/strings/str_cat.h"
#include "kvstore/keys.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::ObjectKind;
using kvstore::PlacedKey;

constexpr std::string_view kParked = "parked";
constexpr uint32_t kOthersMax = 1000;  // sessions that one is compared with when it is deleted

ApiError NoSuchSession() {
  ApiError error;
  error.http_status = 404;
  error.code = "session_not_found";
  error.param = "session";
  error.message = "there is no such session: it was never parked, its retention is over, or it was deleted";
  return error;
}

ApiError OtherModel() {
  ApiError error;
  error.http_status = 409;
  error.code = "session_of_another_model";
  error.param = "session";
  error.message = "this session was answered by other weights than those served now: it cannot go on to the bit";
  return error;
}

ApiError IsComplete() {
  ApiError error;
  error.http_status = 409;
  error.code = "session_complete";
  error.param = "session";
  error.message = "the answer of this session is complete: send the conversation with its next message";
  return error;
}

ApiError FromStore(const absl::Status& status) {
  if (absl::IsNotFound(status)) return NoSuchSession();
  ApiError error;
  error.type = "server_error";
  if (absl::IsResourceExhausted(status) || absl::IsFailedPrecondition(status)) {
    error.http_status = 507;
    error.code = "session_store_full";
    error.message =
        "the KV store cannot promise to keep this session: it has no room for it, or no disk where `durability` wants "
        "one";
  } else if (absl::IsDataLoss(status)) {
    error.http_status = 500;
    error.code = "session_damaged";
    error.message = "the parked session is damaged or of another version; send the conversation again";
  } else if (absl::IsInvalidArgument(status)) {
    error.type = "invalid_request_error";
    error.param = "after";
    error.message = "after is not what a page of this list said";
  } else {
    error.http_status = 503;
    error.code = "session_store_unavailable";
    error.message = "the KV store does not answer: retry after the time in Retry-After";
    error.retry_after_s = 1;
  }
  return error;
}

std::string Text(const BlockKey& key) { return {reinterpret_cast<const char*>(key.data()), key.size()}; }

std::vector<uint32_t> AllTokens(const Session& session) {
  std::vector<uint32_t> tokens = *session.prompt;
  tokens.insert(tokens.end(), session.output.begin(), session.output.end());
  return tokens;
}

std::span<const BlockKey> BlocksOf(const PromptKeys& keys) { return std::span(keys.chain).subspan(1); }

BlockKey KeyOf(const std::string& bytes) {
  BlockKey key{};
  std::memcpy(key.data(), bytes.data(), std::min(bytes.size(), key.size()));
  return key;
}

}  // namespace

std::variant<ApiRequest, ApiError> RequestToResume(const Session& session, std::optional<bool> stream,
                                                   const ParseLimits& limits) {
  auto parsed = ParseRequestBody(session.is_chat ? Api::kChat : Api::kCompletions, session.body, limits);
  if (auto* request = std::get_if<ApiRequest>(&parsed)) {
    request->session = session.id;
    request->body = session.body;
    request->begun = std::make_shared<const BegunAnswer>(
        BegunAnswer{*session.prompt, session.output, session.seed, session.request_id});
    request->stream = stream.value_or(request->stream);
    request->echo = false;  // it was
  }
  return parsed;
}

// One answer. Kept by the table and by the request that makes it.
struct Sessions::Entry final : AnswerRecorder, std::enable_shared_from_this<Sessions::Entry> {
  Entry(Sessions& the_owner, Tenant the_tenant) : owner(the_owner), tenant(std::move(the_tenant)) {}

  void OnToken(uint32_t token) override { session.output.push_back(token); }
  void OnEnd(std::string_view finish_reason, std::optional<size_t> on_worker) override {
    running = nullptr;
    session.finish_reason = finish_reason;
    worker = on_worker;
    owner.OnEnd(shared_from_this());
  }
  Key key() const { return {tenant.name, session.id}; }

  Sessions& owner;
  const Tenant tenant;
  Session session;
  std::string namespace_salt;
  std::optional<ParkTerms> at_end;
  Completion* running = nullptr;
  std::optional<size_t> worker;  // that has its state
  uint64_t n_counted = 0;        // bytes, while it is idle and in the table
};

Sessions::Sessions(Options options, const ServedModel& model, Clock& clock, Dispatcher& dispatcher, SessionStore* store)
    : options_(std::move(options)), model_(model), clock_(clock), dispatcher_(dispatcher), store_(store) {}

std::shared_ptr<AnswerRecorder> Sessions::Begin(Completion& completion, const std::string& request_id) {
  const PreparedRequest& prepared = completion.prepared();
  const ApiRequest& request = prepared.request;
  auto entry = std::make_shared<Entry>(*this, Tenant{prepared.tenant});
  Session& session = entry->session;
  session.id = request.session;
  session.model = model_.name;
  session.is_chat = request.api == Api::kChat;
  session.body = request.body;
  session.prompt = prepared.prompt;
  session.seed = completion.seed();
  session.request_id = request_id;
  session.namespace_id = prepared.namespace_id;
  session.created = clock_.WallNow();
  if (request.begun != nullptr) {
    session.output = request.begun->output;
    session.request_id = request.begun->request_id;
  }
  if (const auto& worker = dispatcher_.model()) session.fingerprint = Text(worker->fingerprint);
  entry->namespace_salt = prepared.namespace_salt;
  entry->at_end = request.park;
  entry->running = &completion;
  Forget(entry->key());
  entries_[entry->key()] = entry;
  return entry;
}

void Sessions::OnEnd(const std::shared_ptr<Entry>& entry) {
  const auto known = entries_.find(entry->key());
  // Another answer of the session may have taken its place.
  if (known != entries_.end() && known->second == entry) {
    recent_.push_back(entry->key());
    entry->n_counted = entry->session.n_bytes();
    n_bytes_ += entry->n_counted;
    Trim();
  }
  const auto terms = std::exchange(entry->at_end, std::nullopt);
  if (!terms.has_value() || store_ == nullptr) return;
  ParkEntry(entry, *terms, [](const std::variant<SessionInfo, ApiError>& result) {
    if (const auto* error = std::get_if<ApiError>(&result)) spdlog::warn("parking a session failed: {}", error->code);
  });
}

void Sessions::Forget(const Key& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  n_bytes_ -= std::exchange(it->second->n_counted, 0);
  recent_.remove(key);
  entries_.erase(it);
}

void Sessions::Trim() {
  while (!recent_.empty() && (n_bytes_ > options_.memory_bytes || entries_.size() > options_.sessions_max)) {
    Forget(Key(recent_.front()));
  }
}

std::shared_ptr<Sessions::Entry> Sessions::Known(const Tenant& tenant, const std::string& id) {
  const auto it = entries_.find({tenant.name, id});
  return it == entries_.end() ? nullptr : it->second;
}

SessionInfo Sessions::InfoOf(const Entry& entry) const {
  SessionInfo info;
  info.id = entry.session.id;
  info.model = entry.session.model;
  info.created = entry.session.created;
  info.n_prompt_tokens = static_cast<uint32_t>(entry.session.prompt->size());
  info.n_output_tokens = static_cast<uint32_t>(entry.session.output.size());
  info.fingerprint = entry.session.fingerprint;
  info.finish_reason = entry.session.finish_reason;
  info.is_running = entry.running != nullptr;
  return info;
}

void Sessions::Park(const Tenant& tenant, const std::string& id, ParkTerms terms, Done<SessionInfo> done) {
  if (store_ == nullptr) return done(NoSessionStore());
  const std::shared_ptr<Entry> entry = Known(tenant, id);
  if (entry != nullptr) return ParkEntry(entry, terms, std::move(done));
  // Parked before, and not gone on with here: it is kept longer.
  Load(tenant, id, [this, tenant, id, terms, done](std::variant<Session, ApiError> loaded) {
    auto* session = std::get_if<Session>(&loaded);
    if (session == nullptr) return done(std::get<ApiError>(loaded));
    auto again = std::make_shared<Entry>(*this, tenant);
    again->session = std::move(*session);
    const auto salt = kvstore::NamespaceSalt(options_.tenant_secret, again->session.namespace_id);
    again->namespace_salt.assign(salt.begin(), salt.end());
    ParkEntry(again, terms, done);
  });
}

void Sessions::ParkEntry(const std::shared_ptr<Entry>& entry, ParkTerms terms, Done<SessionInfo> done) {
  ++n_parking_;
  done = [this, done = std::move(done)](std::variant<SessionInfo, ApiError> result) {
    --n_parking_;
    done(std::move(result));
  };
  entry->at_end.reset();
  if (entry->running != nullptr) entry->running->Interrupt(kParked);
  SessionInfo info = InfoOf(*entry);
  info.parked_at = clock_.WallNow();
  info.retain_until = info.parked_at + terms.retention;
  info.durability = terms.durability;
  if (!entry->worker.has_value()) {
    info.kv_missing = "no_worker";
    return PutManifest(entry, std::move(info), std::move(done));
  }
  ParkOrder order;
  order.tokens = AllTokens(entry->session);
  order.namespace_id = entry->session.namespace_id;
  order.namespace_salt = entry->namespace_salt;
  order.terms = terms;
  order.retain_until = info.retain_until;
  dispatcher_.Park(
      *entry->worker, order,
      [this, entry, info = std::move(info), done](const absl::StatusOr<ParkedState>& parked) mutable {
        if (parked.ok()) {
          info.kv = KvOf(*entry, *parked);
        } else if (absl::IsResourceExhausted(parked.status()) || absl::IsFailedPrecondition(parked.status())) {
          return done(FromStore(parked.status()));
        } else {
          // The tokens are what counts: the rest can be computed again.
          info.kv_missing = absl::IsNotFound(parked.status()) ? "not_held" : "worker_unavailable";
        }
        PutManifest(entry, std::move(info), std::move(done));
      });
}

std::optional<ParkedKv> Sessions::KvOf(const Entry& entry, const ParkedState& state) const {
  const auto& worker = dispatcher_.model();
  if (!worker.has_value() || Text(worker->fingerprint) != entry.session.fingerprint ||
      state.checkpoint_key.size() != BlockKey().size())
    return std::nullopt;
  ParkedKv kv{.state = state, .block_tokens = worker->block_tokens, .trail = {}};
  const PromptKeys keys =
      MakePromptKeys(worker->fingerprint, entry.namespace_salt, worker->block_tokens, AllTokens(entry.session));
  const std::span<const BlockKey> blocks = BlocksOf(keys);
  for (size_t i = kTrailStep - 1; i < blocks.size() && (i + 1) * kv.block_tokens <= state.n_tokens; i += kTrailStep) {
    kv.trail.push_back(Text(blocks[i]));
  }
  return kv;
}

void Sessions::PutManifest(const std::shared_ptr<Entry>& entry, SessionInfo info, Done<SessionInfo> done) {
  store_->Put(entry->tenant.name, info, entry->session, [info, done](const absl::Status& stored) {
    if (!stored.ok()) return done(FromStore(stored));
    done(info);
  });
}

void Sessions::Find(const Tenant& tenant, const std::string& id, Done<SessionInfo> done) {
  const std::shared_ptr<Entry> entry = Known(tenant, id);
  if (store_ == nullptr) {
    if (entry == nullptr) return done(NoSuchSession());
    return done(InfoOf(*entry));
  }
  store_->FindCard(tenant.name, id, [this, entry, done](absl::StatusOr<SessionInfo> card) {
    if (entry == nullptr) {
      if (!card.ok()) return done(FromStore(card.status()));
      return done(*std::move(card));
    }
    // What this router knows is newer than what was parked.
    SessionInfo info = InfoOf(*entry);
    if (card.ok()) {
      info.parked_at = card->parked_at;
      info.retain_until = card->retain_until;
      info.durability = card->durability;
      info.kv = card->kv;
    }
    done(info);
  });
}

void Sessions::Load(const Tenant& tenant, const std::string& id, Done<Session> done) {
  if (store_ == nullptr) return done(NoSessionStore());
  store_->FindCard(tenant.name, id, [this, tenant, done](absl::StatusOr<SessionInfo> card) {
    if (!card.ok()) return done(FromStore(card.status()));
    store_->GetBody(tenant.name, *card, model_.vocab_size, [card = *card, done](absl::StatusOr<Session> session) {
      if (!session.ok()) return done(FromStore(session.status()));
      session->id = card.id;
      session->model = card.model;
      session->created = card.created;
      session->finish_reason = card.finish_reason;
      session->fingerprint = card.fingerprint;
      done(*std::move(session));
    });
  });
}

void Sessions::LoadUnfinished(const Tenant& tenant, const std::string& id, Done<Session> done) {
  // What this router broke off itself need not have been parked.
  if (const std::shared_ptr<Entry> entry = Known(tenant, id); entry != nullptr && entry->running == nullptr) {
    return done(CheckUnfinished(entry->session));
  }
  Load(tenant, id, [this, done](std::variant<Session, ApiError> loaded) {
    const auto* session = std::get_if<Session>(&loaded);
    done(session == nullptr ? std::move(loaded) : CheckUnfinished(*session));
  });
}

std::variant<Session, ApiError> Sessions::CheckUnfinished(const Session& session) const {
  if (!session.finish_reason.empty()) return IsComplete();
  const auto& worker = dispatcher_.model();
  if (worker.has_value() && !session.fingerprint.empty() && session.fingerprint != Text(worker->fingerprint)) {
    return OtherModel();
  }
  return session;
}

void Sessions::List(const Tenant& tenant, const std::string& after, uint32_t limit, Done<SessionStore::Page> done) {
  if (store_ == nullptr) return done(NoSessionStore());
  store_->List(tenant.name, after, limit, [this, tenant, done](absl::StatusOr<SessionStore::Page> page) {
    if (!page.ok()) return done(FromStore(page.status()));
    for (SessionInfo& info : page->sessions) {
      const std::shared_ptr<Entry> entry = Known(tenant, info.id);
      info.is_running = entry != nullptr && entry->running != nullptr;
    }
    done(*std::move(page));
  });
}

void Sessions::Delete(const Tenant& tenant, const std::string& id, Done<SessionInfo> done) {
  const std::shared_ptr<Entry> entry = Known(tenant, id);
  if (entry != nullptr) {
    entry->at_end.reset();
    if (entry->running != nullptr) entry->running->Interrupt("cancelled");
    Forget(entry->key());
  }
  if (store_ == nullptr) {
    if (entry == nullptr) return done(NoSuchSession());
    return done(InfoOf(*entry));
  }
  store_->FindCard(tenant.name, id, [this, tenant, entry, done](absl::StatusOr<SessionInfo> card) {
    if (!card.ok()) {
      if (entry != nullptr && absl::IsNotFound(card.status())) return done(InfoOf(*entry));
      return done(FromStore(card.status()));
    }
    store_->GetBody(
        tenant.name, *card, model_.vocab_size,
        [this, tenant, card = *card, done](const absl::StatusOr<Session>& session) {
          // Without its tokens its state cannot be named: it goes when its time is over.
          if (!session.ok()) return DropWith(tenant, card, Session(), {}, done);
          store_->List(tenant.name, "", kOthersMax,
                       [this, tenant, card, session = *session, done](const absl::StatusOr<SessionStore::Page>& page) {
                         if (!page.ok()) return done(FromStore(page.status()));
                         // More sessions than can be compared: what they share is not known, so nothing is taken from
                         // them.
                         DropWith(tenant, card, page->next.empty() ? session : Session(), page->sessions, done);
                       });
        });
  });
}

void Sessions::DropWith(const Tenant& tenant, SessionInfo info, const Session& session,
                        const std::vector<SessionInfo>& all, Done<SessionInfo> done) {
  std::vector<PlacedKey> keys;
  if (info.kv.has_value() && session.prompt != nullptr) {
    const auto salt = kvstore::NamespaceSalt(options_.tenant_secret, session.namespace_id);
    const std::string salt_text(salt.begin(), salt.end());
    const PromptKeys chain =
        MakePromptKeys(KeyOf(info.fingerprint), salt_text, info.kv->block_tokens, AllTokens(session));
    const std::span<const BlockKey> blocks = BlocksOf(chain);
    std::set<std::string> others;
    for (const SessionInfo& other : all) {
      if (other.id != info.id && other.kv.has_value()) others.insert(other.kv->trail.begin(), other.kv->trail.end());
    }
    size_t n_shared = 0;  // blocks that another session has too, as far as its trail tells
    for (size_t i = kTrailStep - 1; i < blocks.size(); i += kTrailStep) {
      if (others.contains(Text(blocks[i]))) n_shared = i + kTrailStep;
    }
    const auto n_blocks = std::min<size_t>(blocks.size(), info.kv->state.n_tokens / info.kv->block_tokens);
    for (size_t i = n_shared; i < n_blocks; ++i) {
      keys.push_back({{blocks[i], ObjectKind::kBlock},
                      kvstore::ExtentOf(chain.chain[0], blocks, (i + 1) * info.kv->block_tokens)});
    }
    const BlockKey checkpoint = KeyOf(info.kv->state.checkpoint_key);
    const BlockKey& extent = kvstore::ExtentOf(chain.chain[0], blocks, std::max<uint32_t>(info.kv->state.n_tokens, 1));
    keys.push_back({{checkpoint, ObjectKind::kCheckpoint}, extent});
    keys.push_back({{checkpoint, ObjectKind::kTail}, extent});
  }
  store_->Drop(tenant.name, info.id, std::move(keys), [info, done](const absl::StatusOr<uint32_t>& n_missed) {
    if (!n_missed.ok()) return done(FromStore(n_missed.status()));
    if (*n_missed > 0) return done(FromStore(absl::UnavailableError("a store did not answer")));
    done(info);
  });
}

}  // namespace longshelf::router
