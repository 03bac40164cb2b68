// What TLS costs at the router's HTTP door: streams of small events, and connections that ask once. Plain and with TLS
// in one run, round by round. CSV on standard output: step, median units per second, ratio to the plain step, processor
// microseconds per unit, client and server together.

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/http_client.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/metrics.h"
#include "common/status.h"
#include "figures.h"
#include "net/tls_identity.h"
#include "router/http_server.h"

namespace longshelf::router {
namespace {

namespace asio = boost::asio;

struct BenchConfig {
  std::string certificates;
  int n_streams = 8;
  int n_events = 4000;  // of each stream
  int event_bytes = 220;
  int n_connections = 200;
  int n_rounds = 7;
};

// Sends its events one by one, each in a turn of the loop of its own, as tokens come to a router; waits for a client
// that has much unread.
class Producer final : public HttpExchangeObserver, public std::enable_shared_from_this<Producer> {
 public:
  Producer(asio::io_context& loop, std::shared_ptr<HttpExchange> exchange, const BenchConfig& config)
      : loop_(loop),
        exchange_(std::move(exchange)),
        n_left_(config.n_events),
        event_(absl::StrCat("data: ", std::string(static_cast<size_t>(config.event_bytes) - 8, 'x'), "\n\n")) {}

  void Begin() {
    exchange_->SetObserver(this);
    exchange_->BeginStream({200, "text/event-stream", "", {}});
    Next();
  }

 private:
  static constexpr size_t kUnsentMax = size_t{256} << 10;

  void Next() {
    asio::post(loop_, [self = shared_from_this()] { self->Send(); });
  }
  void Send() {
    if (n_left_ == 0) {
      exchange_->SetObserver(nullptr);
      return exchange_->End();
    }
    if (exchange_->unsent_bytes() > kUnsentMax) {
      waiting_ = shared_from_this();
      return;
    }
    --n_left_;
    exchange_->Write(event_);
    Next();
  }
  void OnClientGone() override { n_left_ = 0; }
  void OnDrained() override {
    if (const auto self = std::exchange(waiting_, nullptr)) self->Next();
  }

  asio::io_context& loop_;
  const std::shared_ptr<HttpExchange> exchange_;
  int n_left_;
  const std::string event_;
  std::shared_ptr<Producer> waiting_;  // itself, while it waits
};

class Handler final : public HttpHandler {
 public:
  Handler(asio::io_context& loop, const BenchConfig& config) : loop_(loop), config_(config) {}
  std::optional<HttpReply> OnHeader(const HttpRequest&) override { return std::nullopt; }
  void OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    if (request.path == "/stream") {
      std::make_shared<Producer>(loop_, std::move(exchange), config_)->Begin();
    } else {
      exchange->Reply({200, "text/plain", "ok\n", {}});
    }
  }
  HttpReply TransportError(int status, const std::string& why, const std::string&) override {
    return {status, "text/plain", why, {}};
  }

 private:
  asio::io_context& loop_;
  const BenchConfig& config_;
};

struct Step {
  std::string name;
  std::function<int()> run;  // how many units it did
  std::vector<double> per_s = {};
  std::vector<double> cpu_us = {};
};

// One door and those who knock at it.
struct Door {
  std::unique_ptr<HttpServer> server;
  net::SslContext context;

  void Ask(const std::string& target, const std::function<void(absl::string_view)>& on_body) const {
    cli::HttpCall call;
    call.target = target;
    call.tls = context;
    call.on_body = on_body;
    const auto answer = cli::CallHttp({.host = "127.0.0.1", .port = server->port(), .tls = context != nullptr}, call);
    LONGSHELF_CHECK(answer.ok() && answer->status == 200);
  }
  int Stream(const BenchConfig& config) const {
    std::vector<std::thread> readers;
    for (int i = 0; i < config.n_streams; ++i) {
      readers.emplace_back([&] {
        size_t n_bytes = 0;
        Ask("/stream", [&n_bytes](absl::string_view piece) { n_bytes += piece.size(); });
        LONGSHELF_CHECK(n_bytes == static_cast<size_t>(config.n_events) * static_cast<size_t>(config.event_bytes));
      });
    }
    for (std::thread& reader : readers) reader.join();
    return config.n_streams * config.n_events;
  }
  int Connect(const BenchConfig& config) const {
    for (int i = 0; i < config.n_connections; ++i) Ask("/once", [](absl::string_view) {});
    return config.n_connections;
  }
};

void Measure(std::vector<Step>& steps, int n_rounds) {
  for (int round = 0; round <= n_rounds; ++round) {
    for (Step& step : steps) {
      const double cpu_before = CpuSeconds();
      const auto begun = std::chrono::steady_clock::now();
      const int n = step.run();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
      if (round == 0) continue;  // warms up
      step.per_s.push_back(n / took.count());
      step.cpu_us.push_back((CpuSeconds() - cpu_before) * 1e6 / n);
    }
  }
}

absl::Status Run(const BenchConfig& config) {
  const SystemClock clock;
  asio::io_context loop{1};
  Metrics registry("http_tls_bench");
  RouterMetrics metrics(registry);
  Handler handler(loop, config);
  const net::TlsFiles files = {
      .certificate = config.certificates + "/router.crt", .key = config.certificates + "/router.key", .authority = ""};
  ASSIGN_OR_RETURN(const auto identity, net::TlsIdentity::Load(files, clock, nullptr));
  Door plain, tls;
  HttpServerConfig door;
  door.listen = "127.0.0.1:0";
  ASSIGN_OR_RETURN(plain.server, HttpServer::Start(door, loop, handler, metrics));
  door.tls = identity;
  ASSIGN_OR_RETURN(tls.server, HttpServer::Start(door, loop, handler, metrics));
  ASSIGN_OR_RETURN(tls.context,
                   cli::MakeCallContext({.certificate = "", .key = "", .authority = config.certificates + "/ca.crt"}));
  std::thread thread([&loop] { loop.run(); });
  std::vector<Step> steps = {{"plain_events", [&] { return plain.Stream(config); }},
                             {"tls_events", [&] { return tls.Stream(config); }},
                             {"plain_connections", [&] { return plain.Connect(config); }},
                             {"tls_connections", [&] { return tls.Connect(config); }}};
  Measure(steps, config.n_rounds);
  std::printf("step,per_s,of_plain,cpu_us\n");
  for (size_t i = 0; i < steps.size(); ++i) {
    const double rate = Median(steps[i].per_s);
    std::printf("%s,%.0f,%.3f,%.2f\n", steps[i].name.c_str(), rate, rate / Median(steps[i - i % 2].per_s),
                Median(steps[i].cpu_us));
  }
  asio::post(loop, [&] {
    plain.server->CloseAll();
    tls.server->CloseAll();
  });
  thread.join();
  return absl::OkStatus();
}

}  // namespace
}  // namespace longshelf::router

int main(int argc, char** argv) {
  longshelf::router::BenchConfig config;
  longshelf::ConfigSpec spec("http_tls_bench", "What TLS costs at the router's HTTP door, as CSV.");
  spec.Add(&config.certificates, "tls", "directory that `longshelf certs` made");
  spec.Add(&config.n_streams, "streams", "at once", {1, 1024});
  spec.Add(&config.n_events, "events", "of each stream", {1, 10'000'000});
  spec.Add(&config.event_bytes, "event-bytes", "of each event", {16, 1 << 20});
  spec.Add(&config.n_connections, "connections", "one after another, each for one request", {1, 100'000});
  spec.Add(&config.n_rounds, "rounds", "measured rounds; the median is reported", {5, 1000});
  spec.Require("tls");
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::router::Run(config);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
