#include "router/sessions.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <span>

#include "kvstore/keys.h"
#include "kvstore/namespace_id.h"
#include "session_errors.h"
#include "session_objects.h"
#include "session_table.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;

constexpr std::string_view kParked = "parked";
constexpr uint32_t kOthersMax = 1000;  // sessions that one is compared with when it is deleted

std::string Text(const BlockKey& key) { return {reinterpret_cast<const char*>(key.data()), key.size()}; }

}  // namespace

std::variant<ApiRequest, ApiError> RequestToResume(const Session& session, std::optional<bool> stream,
                                                   const ParseLimits& limits) {
  auto parsed = ParseRequestBody(session.is_chat ? Api::kChat : Api::kCompletions, session.body, limits);
  if (auto* request = std::get_if<ApiRequest>(&parsed)) {
    request->session = session.id;
    request->body = session.body;
    request->begun = std::make_shared<const BegunAnswer>(BegunAnswer{
        *session.prompt, session.output, session.seed, session.request_id, session.stands_on, session.fingerprint});
    request->stream = stream.value_or(request->stream);
    request->echo = false;  // it was
  }
  return parsed;
}

Sessions::Sessions(Options options, const ServedModel& model, Clock& clock, Dispatcher& dispatcher, SessionStore* store,
                   const Namespaces* namespaces)
    : options_(std::move(options)),
      model_(model),
      clock_(clock),
      dispatcher_(dispatcher),
      store_(store),
      namespaces_(namespaces),
      table_(std::make_unique<SessionTable>(options_.memory_bytes, options_.sessions_max)) {}

Sessions::~Sessions() = default;

std::shared_ptr<AnswerRecorder> Sessions::Begin(Completion& completion, const std::string& request_id) {
  const PreparedRequest& prepared = completion.prepared();
  const ApiRequest& request = prepared.request;
  const auto entry = NewEntry(Tenant{prepared.tenant});
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
  session.stands_on = session.created;
  if (request.begun != nullptr) {
    session.output = request.begun->output;
    session.request_id = request.begun->request_id;
    session.stands_on = request.begun->stands_on;
    session.fingerprint = request.begun->fingerprint;
  }
  entry->namespace_salt = prepared.namespace_salt;
  entry->at_end = request.park;
  entry->running = &completion;
  table_->Add(entry);
  return entry;
}

Sessions::EntryPtr Sessions::NewEntry(const Tenant& tenant) {
  auto entry = std::make_shared<SessionEntry>(tenant, [this](const EntryPtr& ended) { OnEnd(ended); });
  entry->scope = ScopeOf(tenant);
  return entry;
}

std::string Sessions::ScopeOf(const Tenant& tenant) const {
  const std::string name = NamespaceName(tenant, "");
  return namespaces_ == nullptr ? name : namespaces_->ids()->Of(name);
}

Sessions::EntryPtr Sessions::Known(const Tenant& tenant, const std::string& id) {
  EntryPtr entry = table_->Find(tenant, id);
  if (entry == nullptr || entry->scope == ScopeOf(tenant)) return entry;
  table_->Forget(*entry);
  return nullptr;
}

void Sessions::OnEnd(const EntryPtr& entry) {
  // When it began, no worker need have been there.
  if (const auto& worker = dispatcher_.model(); worker.has_value() && entry->session.fingerprint.empty()) {
    entry->session.fingerprint = Text(worker->fingerprint);
  }
  const auto terms = std::exchange(entry->at_end, std::nullopt);
  // Another answer may have taken its place: then that one is the session.
  if (Known(entry->tenant, entry->session.id) != entry) return;
  table_->SetIdle(*entry);
  if (!terms.has_value() || store_ == nullptr) return;
  ParkEntry(entry, *terms, [](const std::variant<SessionInfo, ApiError>& result) {
    if (const auto* error = std::get_if<ApiError>(&result)) spdlog::warn("parking a session failed: {}", error->code);
  });
}

void Sessions::FindLatest(const Tenant& tenant, const std::string& id, OnLatest done) {
  if (store_ == nullptr) return done(Known(tenant, id), absl::FailedPreconditionError("there is no KV store"));
  store_->FindCard(ScopeOf(tenant), id, [this, tenant, id, done = std::move(done)](absl::StatusOr<SessionInfo> card) {
    EntryPtr entry = Known(tenant, id);
    // What another router parked later, or deleted, is newer than what this one remembers.
    if (entry != nullptr && entry->running == nullptr && card.ok() && card->parked_at > entry->session.stands_on) {
      table_->Forget(*entry);
      entry = nullptr;
    }
    if (card.ok() && (card->is_deleted || card->retain_until <= clock_.WallNow())) {
      card = absl::NotFoundError("deleted, or its time is over");
    }
    done(entry, std::move(card));
  });
}

void Sessions::Park(const Tenant& tenant, const std::string& id, ParkTerms terms, Done<SessionInfo> done) {
  if (store_ == nullptr) return done(NoSessionStore());
  if (const EntryPtr entry = Known(tenant, id); entry != nullptr && entry->running != nullptr) {
    return ParkEntry(entry, terms, std::move(done));
  }
  FindLatest(tenant, id, [=, this](const EntryPtr& entry, absl::StatusOr<SessionInfo> card) {
    if (entry != nullptr) return ParkEntry(entry, terms, done);
    if (!card.ok()) return done(SessionStoreError(card.status()));
    // Parked before, and not gone on with here: it is kept longer.
    GetSession(tenant, *card, [=, this, card = *card](std::variant<Session, ApiError> loaded) {
      auto* session = std::get_if<Session>(&loaded);
      if (session == nullptr) return done(std::get<ApiError>(loaded));
      const EntryPtr again = NewEntry(tenant);
      again->session = std::move(*session);
      again->namespace_salt = SaltOf(again->session);
      again->kv = card.kv;
      ParkEntry(again, terms, done);
    });
  });
}

void Sessions::ParkEntry(const EntryPtr& entry, ParkTerms terms, Done<SessionInfo> done) {
  ++n_parking_;
  done = [this, done = std::move(done)](std::variant<SessionInfo, ApiError> result) {
    --n_parking_;
    done(std::move(result));
  };
  entry->at_end.reset();
  if (entry->running != nullptr) entry->running->Interrupt(kParked);
  SessionInfo info = entry->Info();
  info.parked_at = clock_.WallNow();
  info.retain_until = info.parked_at + terms.retention;
  info.durability = terms.durability;
  if (!entry->worker.has_value()) return KeepState(entry, std::move(info), "no_worker", std::move(done));
  ParkOrder order;
  order.tokens = AllTokens(entry->session);
  order.namespace_id = entry->session.namespace_id;
  order.namespace_salt = entry->namespace_salt;
  order.terms = terms;
  order.retain_until = info.retain_until;
  dispatcher_.Park(*entry->worker, order,
                   [=, this, info = std::move(info)](const absl::StatusOr<ParkedState>& parked) mutable {
                     if (parked.ok()) {
                       info.kv = KvOf(*entry, *parked);
                       return PutManifest(entry, std::move(info), done);
                     }
                     const bool is_deleted = kvstore::IsNamespaceDeleted(parked.status());
                     if (absl::IsResourceExhausted(parked.status()) ||
                         (absl::IsFailedPrecondition(parked.status()) && !is_deleted)) {
                       return done(SessionStoreError(parked.status()));
                     }
                     const bool is_held = !is_deleted && !absl::IsNotFound(parked.status());
                     KeepState(entry, std::move(info), is_held ? "worker_unavailable" : "not_held", done);
                   });
}

// The tokens are what counts: without its state the session is parked all the same. But what is in the store from an
// earlier time is kept as long as the session.
void Sessions::KeepState(const EntryPtr& entry, SessionInfo info, std::string_view missing, Done<SessionInfo> done) {
  info.kv_missing = missing;
  if (!entry->kv.has_value() || entry->session.fingerprint.empty()) {
    return PutManifest(entry, std::move(info), std::move(done));
  }
  SessionInfo with_state = info;
  with_state.kv = entry->kv;
  with_state.kv_missing = "";
  auto keys = ObjectsOf(with_state, entry->session, entry->namespace_salt);
  store_->Retain(std::move(keys), info.retain_until, info.durability, [=, this](const absl::StatusOr<bool>& kept) {
    PutManifest(entry, kept.ok() && *kept ? with_state : info, done);
  });
}

std::optional<ParkedKv> Sessions::KvOf(const SessionEntry& entry, const ParkedState& state) const {
  const auto& worker = dispatcher_.model();
  if (!worker.has_value() || Text(worker->fingerprint) != entry.session.fingerprint ||
      state.checkpoint_key.size() != BlockKey().size())
    return std::nullopt;
  const PromptKeys keys =
      MakePromptKeys(worker->fingerprint, entry.namespace_salt, worker->block_tokens, AllTokens(entry.session));
  return ParkedKv{.state = state,
                  .block_tokens = worker->block_tokens,
                  .trail = TrailOf(std::span(keys.chain).subspan(1), worker->block_tokens, state.n_tokens)};
}

std::string Sessions::SaltOf(const Session& session) const {
  const auto salt = kvstore::NamespaceSalt(options_.tenant_secret, session.namespace_id);
  return {salt.begin(), salt.end()};
}

void Sessions::PutManifest(const EntryPtr& entry, SessionInfo info, Done<SessionInfo> done) {
  store_->Put(entry->scope, std::move(info), entry->session, [entry, done](absl::StatusOr<SessionInfo> stored) {
    if (!stored.ok()) return done(SessionStoreError(stored.status()));
    entry->session.stands_on = stored->parked_at;
    entry->kv = stored->kv;
    done(*std::move(stored));
  });
}

void Sessions::Find(const Tenant& tenant, const std::string& id, Done<SessionInfo> done) {
  FindLatest(tenant, id, [done](const EntryPtr& entry, absl::StatusOr<SessionInfo> card) {
    if (entry == nullptr) {
      if (absl::IsFailedPrecondition(card.status())) return done(NoSuchSession());
      if (!card.ok()) return done(SessionStoreError(card.status()));
      return done(*std::move(card));
    }
    SessionInfo info = entry->Info();
    if (card.ok()) {
      info.parked_at = card->parked_at;
      info.retain_until = card->retain_until;
      info.durability = card->durability;
      info.kv = card->kv;
    }
    done(info);
  });
}

void Sessions::GetSession(const Tenant& tenant, const SessionInfo& card, Done<Session> done) {
  store_->GetBody(ScopeOf(tenant), card, model_.vocab_size, [card, done](absl::StatusOr<Session> session) {
    if (!session.ok()) return done(SessionStoreError(session.status()));
    session->id = card.id;
    session->model = card.model;
    session->created = card.created;
    session->finish_reason = card.finish_reason;
    session->fingerprint = card.fingerprint;
    session->stands_on = card.parked_at;
    done(*std::move(session));
  });
}

void Sessions::LoadUnfinished(const Tenant& tenant, const std::string& id, Done<Session> done) {
  FindLatest(tenant, id, [=, this](const EntryPtr& entry, absl::StatusOr<SessionInfo> card) {
    if (entry != nullptr && entry->running != nullptr) return done(SessionIsRunning());
    // What this router broke off itself need not have been parked.
    if (entry != nullptr) return done(CheckUnfinished(entry->session));
    if (store_ == nullptr) return done(NoSessionStore());
    if (!card.ok()) return done(SessionStoreError(card.status()));
    GetSession(tenant, *card, [=, this](std::variant<Session, ApiError> loaded) {
      const auto* session = std::get_if<Session>(&loaded);
      done(session == nullptr ? std::move(loaded) : CheckUnfinished(*session));
    });
  });
}

std::variant<Session, ApiError> Sessions::CheckUnfinished(const Session& session) const {
  if (!session.finish_reason.empty()) return SessionIsComplete();
  const auto& worker = dispatcher_.model();
  if (worker.has_value() && !session.fingerprint.empty() && session.fingerprint != Text(worker->fingerprint)) {
    return SessionOfAnotherModel();
  }
  return session;
}

void Sessions::List(const Tenant& tenant, const std::string& after, uint32_t limit, Done<SessionStore::Page> done) {
  if (store_ == nullptr) return done(NoSessionStore());
  store_->List(ScopeOf(tenant), after, limit, [this, tenant, done](absl::StatusOr<SessionStore::Page> page) {
    if (!page.ok()) return done(SessionStoreError(page.status()));
    std::erase_if(page->sessions, [now = clock_.WallNow()](const SessionInfo& info) {
      return info.is_deleted || info.retain_until <= now;
    });
    for (SessionInfo& info : page->sessions) {
      const EntryPtr entry = Known(tenant, info.id);
      info.is_running = entry != nullptr && entry->running != nullptr;
    }
    done(*std::move(page));
  });
}

void Sessions::Delete(const Tenant& tenant, const std::string& id, Done<SessionInfo> done) {
  const EntryPtr known = Known(tenant, id);
  if (known != nullptr) {
    known->at_end.reset();
    if (known->running != nullptr) known->running->Interrupt("cancelled");
    table_->Forget(*known);
  }
  FindLatest(tenant, id, [=, this](const EntryPtr&, absl::StatusOr<SessionInfo> card) {
    if (card.ok()) return DeleteParked(tenant, *card, done);
    // It was this router's alone.
    const bool is_nowhere_else = absl::IsNotFound(card.status()) || store_ == nullptr;
    if (known != nullptr && is_nowhere_else) return done(known->Info());
    done(store_ == nullptr ? NoSuchSession() : SessionStoreError(card.status()));
  });
}

void Sessions::DeleteParked(const Tenant& tenant, const SessionInfo& card, Done<SessionInfo> done) {
  // Without its tokens its state cannot be named: it goes when its time is over.
  const auto drop = [=, this](std::vector<kvstore::PlacedKey> state) {
    store_->Delete(ScopeOf(tenant), card, clock_.WallNow(), std::move(state),
                   [card, done](const absl::Status& deleted) {
                     if (!deleted.ok()) return done(SessionStoreError(deleted));
                     done(card);
                   });
  };
  if (!card.kv.has_value()) return drop({});
  store_->GetBody(ScopeOf(tenant), card, model_.vocab_size, [=, this](const absl::StatusOr<Session>& session) {
    if (!session.ok()) return drop({});
    store_->List(ScopeOf(tenant), "", kOthersMax,
                 [=, this, session = *session](absl::StatusOr<SessionStore::Page> page) {
                   if (!page.ok()) return done(SessionStoreError(page.status()));
                   // More sessions than can be compared: what they share is not known, so nothing is taken from them.
                   if (!page->next.empty()) return drop({});
                   std::erase_if(page->sessions, [&](const SessionInfo& other) { return other.id == card.id; });
                   drop(ObjectsOnlyOf(card, session, SaltOf(session), page->sessions));
                 });
  });
}

}  // namespace longshelf::router
