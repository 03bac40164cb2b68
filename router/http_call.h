#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "router/answer_writer.h"
#include "router/http_api.h"
#include "router/http_server.h"
#include "router/request_core.h"

namespace longshelf::router {

// One generating request over HTTP: from its body to the last byte of its answer. Owner: the router loop.
class HttpCall final : public RequestSink, public HttpExchangeObserver {
 public:
  // Called once, at the end; destroys the call.
  using Forget = std::function<void(HttpCall&)>;

  HttpCall(const HttpApiConfig& config, RequestCore& core, const Route& route, AuditRecord record,
           std::shared_ptr<HttpExchange> exchange, Forget forget);
  ~HttpCall() override;

  // `session`: what the header names, or empty. `body_share` is held as long as the body.
  void Start(const Tenant& tenant, std::string body, std::string session, std::shared_ptr<const void> body_share);
  // Goes on with an answer that was broken off.
  void Resume(const Tenant& tenant, const std::string& id, const std::string& body);
  void Tick(absl::Time now);

  void OnPrepared(const PreparedRequest& prepared) override;
  void OnBegun(const Usage& usage) override;
  void OnReplayed(uint32_t choice, const ChoiceDelta& delta) override;
  void OnProgress(const PrefillProgress& progress) override;
  void OnDelta(uint32_t choice, const ChoiceDelta& delta) override;
  void OnChoiceFinished(uint32_t choice, const ChoiceEnd& end) override;
  void OnDone(const Usage& usage) override;
  void OnError(const ApiError& error) override;
  void OnClientGone() override;
  void OnDrained() override;

 private:
  bool is_stream() const { return writer_ != nullptr && writer_->is_stream(); }
  absl::Duration SilenceMax() const;
  HttpReply WithId(HttpReply reply) const;
  void SendHead();
  void SendOpening();
  void Write(std::string_view data);
  void Count(int status);
  void EndWith(HttpReply reply);
  void EndStream(int status);

  const HttpApiConfig& config_;
  RequestCore& core_;
  const Route& route_;
  const ApiStyle style_;
  const AuditRecord record_;
  const std::string& request_id_ = record_.request_id;
  const std::shared_ptr<HttpExchange> exchange_;
  const Forget forget_;
  const absl::Time begun_at_;
  absl::Time last_write_at_;
  std::unique_ptr<AnswerWriter> writer_;
  std::unique_ptr<RunningRequest> running_;
  bool begun_ = false;  // by a worker
  bool head_sent_ = false;
  bool opening_sent_ = false;
  bool paused_ = false;
  const std::shared_ptr<int> alive_ = std::make_shared<int>(0);  // for answers that come later
};

}  // namespace longshelf::router
