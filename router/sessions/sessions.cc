#include "router/sessions.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "manifests.h"
#include "session_drops.h"
#include "session_errors.h"
#include "session_parks.h"
#include "session_table.h"
#include "version_clock.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;

constexpr uint32_t kTriesAtEnd = 5;           // nobody waits for it: in half a minute
constexpr uint32_t kTriesWhenOvertaken = 10;  // one of those that overtake each other always succeeds
constexpr uint32_t kDeleteRoundsMax = 5;      // by who parks it again
// Well below the time for which the stores say that a session was deleted: by then nobody remembers it any more.
constexpr absl::Duration kIdleMax = absl::Hours(12);
constexpr absl::Duration kIdleCheckInterval = absl::Minutes(1);
constexpr size_t kReadingMax = 8;
constexpr size_t kReadsWaitingMax = 256;

}  // namespace

std::variant<ApiRequest, ApiError> RequestToResume(const Session& session, std::optional<bool> stream,
                                                   const ParseLimits& limits) {
  auto parsed = ParseRequestBody(session.is_chat ? Api::kChat : Api::kCompletions, *session.body, limits);
  if (auto* request = std::get_if<ApiRequest>(&parsed)) {
    request->session = session.id;
    request->body = session.body;
    request->body_share = session.share;
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
      budget_(options_.busy_bytes_max),
      table_(std::make_unique<SessionTable>(options_.memory_bytes, options_.sessions_max)),
      versions_(std::make_unique<VersionClock>(clock)),
      drops_(store == nullptr ? nullptr
                              : std::make_unique<SessionDrops>(*store, options_.tenant_secret, model.vocab_size)),
      parks_(store == nullptr ? nullptr
                              : std::make_unique<SessionParks>(clock, *versions_, dispatcher, *store, *drops_)) {}

Sessions::~Sessions() = default;

size_t Sessions::n_parking() const { return store_ == nullptr ? 0 : parks_->n_running() + drops_->n_orders(); }

void Sessions::Tick() {
  if (const absl::Time now = clock_.Now(); now >= idle_check_at_) {
    table_->ForgetIdleBefore(now - kIdleMax);
    idle_check_at_ = now + kIdleCheckInterval;
  }
  if (store_ != nullptr) parks_->Tick();
}

void Sessions::LeaveWorkers() {
  if (store_ != nullptr) parks_->LeaveWorkers();
}

void Sessions::Stop() {
  if (store_ != nullptr) parks_->Stop();
}

bool Sessions::HasRoomFor(const PreparedRequest& prepared) const {
  const ApiRequest& request = prepared.request;
  if (request.session.empty() || request.body_share != nullptr) return true;
  return budget_.HasRoomFor(request.body->size() + sizeof(uint32_t) * prepared.first().tokens->size());
}

std::shared_ptr<AnswerRecorder> Sessions::Begin(Completion& completion, const std::string& request_id) {
  const PreparedRequest& prepared = completion.prepared();
  const ApiRequest& request = prepared.request;
  const auto entry = NewEntry(Tenant{prepared.tenant});
  Session& session = entry->session;
  session.id = request.session;
  session.model = model_.name;
  session.is_chat = request.api == Api::kChat;
  session.body = request.body;
  session.prompt = prepared.first().tokens;
  session.seed = completion.seed();
  session.request_id = request_id;
  session.namespace_id = prepared.namespace_id;
  session.created = clock_.WallNow();
  session.stands_on = versions_->Next();
  if (request.begun != nullptr) {
    session.output = request.begun->output;
    session.request_id = request.begun->request_id;
    session.stands_on = std::max(request.begun->stands_on, NewestOwnCard(*entry));
    session.fingerprint = request.begun->fingerprint;
  }
  session.share = request.body_share != nullptr ? request.body_share : budget_.Take(session.n_bytes());
  entry->namespace_salt = prepared.namespace_salt;
  entry->at_end = request.park;
  entry->running = &completion;
  table_->Add(entry);
  if (request.begun == nullptr && store_ != nullptr) Place(entry);
  return entry;
}

absl::Time Sessions::NewestOwnCard(const SessionEntry& entry) const {
  absl::Time newest = store_ == nullptr ? absl::InfinitePast() : parks_->NewestOf(entry);
  const EntryPtr replaced = table_->Find(entry.tenant, entry.session.id);
  if (replaced != nullptr && replaced->IsSameAnswer(entry)) newest = std::max(newest, replaced->session.stands_on);
  return newest;
}

void Sessions::Place(const EntryPtr& entry) {
  entry->is_placing = true;
  entry->manifests.push_back([] {});  // those of its parks come behind this
  store_->Versions(entry->scope, entry->session.id,
                   [this, entry](const absl::StatusOr<SessionStore::Listing>& versions) {
                     if (versions.ok() && !versions->heads.empty()) {
                       const absl::Time newest = VersionOf(versions->heads.back().key.hash);
                       versions_->Saw(newest);
                       entry->session.stands_on = std::max(entry->session.stands_on, newest);
                     }
                     entry->is_placing = false;
                     entry->manifests.pop_front();
                     if (!entry->manifests.empty()) entry->manifests.front()();
                   });
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
    entry->session.fingerprint = KeyText(worker->fingerprint);
  }
  const auto terms = std::exchange(entry->at_end, std::nullopt);
  const ByteBudget::Share share = std::exchange(entry->session.share, nullptr);
  // Another answer may have taken its place: then that one is the session.
  if (Known(entry->tenant, entry->session.id) != entry) return;
  table_->SetIdle(*entry, clock_.Now());
  if (!terms.has_value() || store_ == nullptr) return;
  parks_->Park(entry, *terms, kTriesAtEnd, [share](const std::variant<SessionInfo, ApiError>& result) {
    if (const auto* error = std::get_if<ApiError>(&result)) spdlog::warn("parking a session failed: {}", error->code);
  });
}

void Sessions::FindLatest(const Tenant& tenant, const std::string& id, OnLatest done) {
  if (store_ == nullptr) return done(Known(tenant, id), absl::FailedPreconditionError("there is no KV store"));
  store_->FindCard(ScopeOf(tenant), id, [this, tenant, id, done = std::move(done)](absl::StatusOr<SessionInfo> card) {
    EntryPtr entry = Known(tenant, id);
    if (card.ok()) versions_->Saw(card->parked_at);
    // What another router answered later, or deleted, is newer than what this one remembers.
    const bool is_idle = entry != nullptr && entry->running == nullptr && !entry->is_placing;
    if (is_idle && card.ok() && card->answer_at > entry->session.stands_on) {
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
    const auto finish = [done, share = entry->session.share](const std::variant<SessionInfo, ApiError>& result) {
      done(result);
    };
    return parks_->Park(entry, terms, 1, finish);
  }
  ParkLatest(tenant, id, terms, kTriesWhenOvertaken, std::move(done));
}

void Sessions::ParkLatest(const Tenant& tenant, const std::string& id, ParkTerms terms, uint32_t n_tries,
                          Done<SessionInfo> done) {
  FindLatest(tenant, id, [=, this](const EntryPtr& entry, absl::StatusOr<SessionInfo> card) {
    if (entry != nullptr) {
      const uint64_t n_bytes = entry->session.n_bytes();
      if (entry->running == nullptr && !budget_.HasRoomFor(n_bytes)) return done(Overloaded());
      const auto share = entry->running != nullptr ? entry->session.share : budget_.Take(n_bytes);
      return parks_->Park(entry, terms, 1,
                          [done, share](const std::variant<SessionInfo, ApiError>& result) { done(result); });
    }
    if (!card.ok()) return done(SessionStoreError(card.status()));
    // Parked before, and not gone on with here: it is kept longer.
    GetSession(tenant, *card, [=, this, card = *card](std::variant<Session, ApiError> loaded) {
      auto* session = std::get_if<Session>(&loaded);
      if (session == nullptr) {
        // Its body may have gone with a card that was replaced meanwhile.
        const bool is_final = std::get<ApiError>(loaded).code != "session_store_unavailable" || n_tries <= 1;
        return is_final ? done(std::get<ApiError>(loaded)) : ParkLatest(tenant, id, terms, n_tries - 1, done);
      }
      const EntryPtr again = NewEntry(tenant);
      again->session = std::move(*session);
      again->namespace_salt = drops_->SaltOf(again->session);
      again->kv = card.kv;
      parks_->Park(again, terms, 1, [=, this](const std::variant<SessionInfo, ApiError>& result) {
        // Parked by somebody else meanwhile: then that is to be kept longer.
        const auto* error = std::get_if<ApiError>(&result);
        if (error == nullptr || error->http_status != 409 || n_tries <= 1) return done(result);
        ParkLatest(tenant, id, terms, n_tries - 1, done);
      });
    });
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
    if (!card.ok() && !absl::IsNotFound(card.status()) && entry->parked.has_value()) card = *entry->parked;
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
  if (parks_->is_stopped()) return done(Draining());
  if (reads_waiting_.size() >= kReadsWaitingMax) return done(Overloaded());
  reads_waiting_.push_back([=, this] {
    const auto finish = [=, this](std::variant<Session, ApiError> result) {
      --n_reading_;
      ReadNext();
      done(std::move(result));
    };
    if (!budget_.HasRoomFor(card.body_bytes)) return finish(Overloaded());
    const auto share = budget_.Take(card.body_bytes);
    store_->GetBody(ScopeOf(tenant), card, model_.vocab_size, [=](absl::StatusOr<Session> session) {
      if (!session.ok()) return finish(SessionStoreError(session.status()));
      session->id = card.id;
      session->model = card.model;
      session->created = card.created;
      session->finish_reason = card.finish_reason;
      session->fingerprint = card.fingerprint;
      session->stands_on = card.parked_at;
      session->answer_at = card.answer_at;
      session->share = share;
      finish(*std::move(session));
    });
  });
  ReadNext();
}

void Sessions::ReadNext() {
  if (reads_waiting_.empty() || n_reading_ >= kReadingMax) return;
  ++n_reading_;
  const auto read = std::move(reads_waiting_.front());
  reads_waiting_.pop_front();
  read();
}

void Sessions::LoadUnfinished(const Tenant& tenant, const std::string& id, Done<Session> done) {
  FindLatest(tenant, id, [=, this](const EntryPtr& entry, absl::StatusOr<SessionInfo> card) {
    if (entry != nullptr && entry->running != nullptr) return done(SessionIsRunning());
    // What this router broke off itself need not have been parked.
    if (entry != nullptr) {
      const Session& session = entry->session;
      if (const auto error = CheckUnfinished(session.finish_reason, session.fingerprint)) return done(*error);
      return done(session);
    }
    if (store_ == nullptr) return done(NoSessionStore());
    if (!card.ok()) return done(SessionStoreError(card.status()));
    if (const auto error = CheckUnfinished(card->finish_reason, card->fingerprint)) return done(*error);
    GetSession(tenant, *card, done);
  });
}

std::optional<ApiError> Sessions::CheckUnfinished(const std::string& finish_reason,
                                                  const std::string& fingerprint) const {
  if (!finish_reason.empty()) return SessionIsComplete();
  const auto& worker = dispatcher_.model();
  if (worker.has_value() && !fingerprint.empty() && fingerprint != KeyText(worker->fingerprint)) {
    return SessionOfAnotherModel();
  }
  return std::nullopt;
}

void Sessions::List(const Tenant& tenant, const std::string& after, uint32_t limit, Done<SessionStore::Page> done) {
  if (store_ == nullptr) return done(NoSessionStore());
  store_->List(ScopeOf(tenant), after, limit, [this, tenant, done](absl::StatusOr<SessionStore::Page> page) {
    if (absl::IsInvalidArgument(page.status())) {
      return done(InvalidField("after", "is not what a page of this list said"));
    }
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

struct Sessions::Deletion {
  std::string scope;
  SessionInfo card;
  Done<SessionInfo> done;
  std::optional<SessionStore::Stored> said;  // what says that it was deleted
  uint32_t n_rounds = 0;
};

void Sessions::Delete(const Tenant& tenant, const std::string& id, Done<SessionInfo> done) {
  EntryPtr known = Known(tenant, id);
  if (known != nullptr) {
    known->at_end.reset();
    if (known->running != nullptr) known->running->Interrupt("cancelled");
    table_->Forget(*known);
  }
  if (store_ == nullptr) return known == nullptr ? done(NoSuchSession()) : done(known->Info());
  const EntryPtr parking = parks_->Cancel(tenant, id);
  if (known == nullptr) known = parking;
  store_->FindCard(ScopeOf(tenant), id, [=, this](absl::StatusOr<SessionInfo> card) {
    // One whose time is over is there as long as the stores have no other use for the room.
    if (card.ok()) versions_->Saw(card->parked_at);
    if (card.ok() && card->is_deleted) card = absl::NotFoundError("deleted");
    if (absl::IsDataLoss(card.status())) {
      card = SessionInfo();
      card->id = id;
    }
    if (card.ok()) {
      return DeleteVersions(std::make_shared<Deletion>(
          Deletion{.scope = ScopeOf(tenant), .card = *card, .done = done, .said = {}, .n_rounds = 0}));
    }
    // It was this router's alone.
    if (known != nullptr && absl::IsNotFound(card.status())) return done(known->Info());
    done(SessionStoreError(card.status()));
  });
}

void Sessions::DeleteVersions(const std::shared_ptr<Deletion>& deletion) {
  store_->Versions(deletion->scope, deletion->card.id, [=, this](absl::StatusOr<SessionStore::Listing> listed) {
    if (listed.ok() && !listed->is_whole) listed = absl::UnavailableError("KV stores that may have it do not answer");
    if (!listed.ok()) return deletion->done(SessionStoreError(listed.status()));
    const SessionStore::Heads& versions = listed->heads;
    if (!versions.empty()) versions_->Saw(VersionOf(versions.back().key.hash));
    const auto& said = deletion->said;
    SessionStore::Heads others = versions;
    std::erase_if(others, [&](const auto& each) { return said.has_value() && each.key == said->head.key; });
    if (others.empty() && deletion->n_rounds > 0) return deletion->done(deletion->card);
    // Whoever parks from now on sees what is said.
    const bool is_said = said.has_value() && std::ranges::all_of(others, [&](const kvstore::ObjectHead& each) {
                           return each.key.hash < said->head.key.hash && each.retain_until <= said->card.retain_until;
                         });
    // Dropping comes first: it makes the room for saying so.
    const auto say = [=, this](const absl::StatusOr<uint32_t>& n_missed) {
      if (!n_missed.ok()) return deletion->done(SessionStoreError(n_missed.status()));
      if (is_said) return deletion->done(deletion->card);
      SayDeleted(deletion, versions, *n_missed);
    };
    drops_->Drop({.scope = deletion->scope, .versions = others, .states = {}, .done = say, .is_waited_for = true});
  });
}

void Sessions::SayDeleted(const std::shared_ptr<Deletion>& deletion, const SessionStore::Heads& versions,
                          uint32_t n_missed) {
  if (deletion->n_rounds++ >= kDeleteRoundsMax) {
    return deletion->done(SessionStoreError(absl::UnavailableError("the session is parked again and again")));
  }
  store_->SayDeleted(deletion->scope, deletion->card.id, versions, deletion->card.durability, versions_->Next(),
                     [=, this](absl::StatusOr<SessionStore::Stored> said) {
                       // A store that did not answer may have it, and not be told.
                       if (!said.ok() && n_missed > 0) return deletion->done(SessionStoreError(said.status()));
                       if (said.ok()) deletion->said = *std::move(said);
                       // Others may have come in between.
                       DeleteVersions(deletion);
                     });
}

}  // namespace longshelf::router
