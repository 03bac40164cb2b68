#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <variant>

#include "common/clock.h"
#include "router/api_request.h"
#include "router/audit_log.h"
#include "router/auth.h"
#include "router/completion.h"
#include "router/dispatcher.h"
#include "router/key_meters.h"
#include "router/namespaces.h"
#include "router/prepare_pool.h"
#include "router/served_model.h"
#include "router/sessions.h"

namespace longshelf::router {

// What an edge hears of its request, on the router loop.
class RequestSink : public CompletionSink {
 public:
  // The request is checked and tokenized; workers come next. Not called when OnError comes first.
  virtual void OnPrepared(const PreparedRequest& prepared) = 0;
};

// A request on its way through; destroying it cancels everything it started. Owner: the router loop.
class RunningRequest {
 public:
  struct State;
  explicit RunningRequest(std::shared_ptr<State> state) : state_(std::move(state)) {}
  ~RunningRequest();
  RunningRequest(const RunningRequest&) = delete;
  RunningRequest& operator=(const RunningRequest&) = delete;
  void Pause();
  void Resume();
  // A worker has it, or had it.
  bool is_placed() const;
  // So far: of the prompts, once they are prepared, and of the answers.
  uint64_t n_prompt_tokens() const;
  uint64_t n_output_tokens() const;

 private:
  std::shared_ptr<State> state_;
};

struct RequestCoreConfig {
  std::string tenant_secret;
  uint32_t n_prepare_threads = 2;
  // Requests that wait for such a thread; of one tenant, as many as there are places left beside them.
  uint32_t n_preparing_max = 512;
  // Of bodies larger than 64 KiB that are prepared at a time, unless one alone has more: each needs many times its size
  // meanwhile.
  uint64_t preparing_bytes_max = uint64_t{16} << 20;
  uint64_t turns_bytes_max = uint64_t{64} << 20;  // see TurnMemory; 0: none are remembered
};

// What the HTTP and the gRPC edge share: from an unparsed request to the calls of a sink. Parsing, rendering and
// tokenizing run on a small pool, everything else on the loop.
class RequestCore {
 public:
  using Parse = std::function<std::variant<ApiRequest, ApiError>()>;

  // Everything referred to must outlive this. `namespaces` may be null: then none is ever deleted.
  RequestCore(RequestCoreConfig config, const ServedModel& model, Clock& clock, RouterMetrics& metrics,
              Dispatcher& dispatcher, Sessions& sessions, Namespaces* namespaces, boost::asio::io_context& loop);
  ~RequestCore();

  // `parse` runs on the pool, and is gone when the sink hears of it; it holds the share of the body it has. `n_bytes`:
  // of what it parses. The sink is never called from inside Run, and must outlive the handle.
  std::unique_ptr<RunningRequest> Run(Parse parse, Tenant tenant, std::string request_id, RequestSink& sink,
                                      uint64_t n_bytes = 0);
  // Runs job.work on the pool and job.done on the loop. False when the pool, or the payer, has enough to do.
  bool RunOnPool(PrepareJob job) { return pool_.Run(std::move(job)); }

  // From now on Run answers 503.
  void BeginDrain() { draining_ = true; }
  bool draining() const { return draining_; }
  size_t n_running() const { return n_running_; }
  bool ready() const { return !draining_ && has_workers() && has_namespaces(); }
  bool has_workers() const { return dispatcher_.n_ready() > 0; }
  // Until then Run, DeleteCache and what is done with sessions answer 503: it would go by a name that is deleted.
  bool has_namespaces() const { return namespaces_ == nullptr || namespaces_->is_ready(); }
  // 503 until then. For those who use sessions().
  std::optional<ApiError> CheckStarted() const;

  const ServedModel& model() const { return model_; }
  // Names the workers' model: changes with weights, layout or numerics. "" while no worker is known.
  std::string system_fingerprint() const;
  // The context the workers serve, or the model's own while none is known.
  uint32_t n_context_max() const;
  ParseLimits parse_limits() const;
  const std::string& tenant_secret() const { return config_.tenant_secret; }
  PrepareContext prepare_context(Tenant tenant) const;
  Sessions& sessions() { return sessions_; }
  // Deletes all that was computed for the tenant and its users, with its sessions, or for one of its users. 501 without
  // a KV store, 409, 503, 507.
  void DeleteCache(const Tenant& tenant, std::string_view user_id,
                   std::function<void(std::variant<Namespaces::Deleted, ApiError>)> done);
  Clock& clock() { return clock_; }
  RouterMetrics& metrics() { return metrics_; }
  // Before the first request; must outlive this. Null: nothing is written down.
  void set_audit_log(AuditLog* log) { audit_log_ = log; }
  // Of a request that ends now; `ended_at` and `elapsed` are set here. Any thread when it came over gRPC.
  void Finished(AuditRecord record);

 private:
  friend struct RunningRequest::State;
  void OnPrepared(const std::shared_ptr<RunningRequest::State>& state, std::variant<PreparedRequest, ApiError> result);

  const RequestCoreConfig config_;
  const ServedModel& model_;
  Clock& clock_;
  RouterMetrics& metrics_;
  Dispatcher& dispatcher_;
  Sessions& sessions_;
  Namespaces* const namespaces_;
  const std::shared_ptr<TurnMemory> turns_ =
      config_.turns_bytes_max == 0 ? nullptr : std::make_shared<TurnMemory>(config_.turns_bytes_max);
  const std::shared_ptr<const NamespaceIds> none_deleted_ = std::make_shared<const NamespaceIds>();
  boost::asio::io_context& loop_;
  AuditLog* audit_log_ = nullptr;
  KeyMeters meters_;
  std::mt19937_64 seeds_;
  size_t n_running_ = 0;
  bool draining_ = false;
  PreparePool pool_;  // its threads use what is above
};

}  // namespace longshelf::router
