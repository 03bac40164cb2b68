#include "churn.h"

#include <grpcpp/create_channel.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "longshelf/v1/inference.grpc.pb.h"
#include "real_worker.h"
#include "router/router_service.h"
#include "router_harness.h"

namespace longshelf::testing {
namespace {

using router::testing::RequestText;
using router::testing::TestClient;
using worker::RealWorker;

constexpr size_t kPrompts = 24;
constexpr size_t kPromptTokensMax = 3000;
constexpr uint32_t kSlots = 4;
constexpr std::chrono::seconds kSettleTime{60};

enum Op : uint8_t { kRead, kCancel, kDropHttp, kDropUpload, kPark, kResume, kOps };
constexpr std::array<const char*, kOps> kOpNames = {"read to the end",    "cancelled", "left over HTTP",
                                                    "left while sending", "parked",    "resumed elsewhere"};

// Everything that serves.
struct Cluster {
  Cluster() {
    for (auto& worker : workers) {
      worker =
          std::make_unique<RealWorker>(worker::WeightsOf("demo"), store.address(), [](worker::ShardConfig& config) {
            // About 160 blocks and 8 checkpoints: a dozen prompts, then something has to go.
            config.kv_memory_bytes = uint64_t{8} << 20;
            config.checkpoint_memory_bytes = uint64_t{4} << 20;
            config.n_sequences_max = kSlots;
          });
    }
    router::RouterConfig config = router::testing::RouterHarness::DefaultConfig();
    config.workers.clear();
    for (const auto& worker : workers) {
      config.workers.push_back(absl::StrCat("127.0.0.1:", worker->node().server().port()));
    }
    service = std::move(router::RouterService::Start(config, clock)).value();
  }

  RealWorker& worker(size_t i) { return *workers[i % workers.size()]; }

  SystemClock clock;
  worker::RealStore store{uint64_t{64} << 20};
  std::array<std::unique_ptr<RealWorker>, 2> workers;
  std::unique_ptr<router::RouterService> service;
};

// What differs from a cluster that nobody asks anything; empty: nothing.
std::string LeftBehind(Cluster& cluster) {
  std::vector<std::string> left;
  const auto expect = [&left](const std::string& what, uint64_t is, uint64_t should) {
    if (is != should) left.push_back(absl::StrCat(what, " is ", is, ", not ", should));
  };
  for (size_t i = 0; i < cluster.workers.size(); ++i) {
    const engine::Load load = cluster.worker(i).node().load();
    const std::string who = absl::StrCat("worker ", i, ": ");
    expect(who + "running", load.n_running, 0);
    expect(who + "waiting", load.n_waiting, 0);
    expect(who + "tokens queued", load.n_tokens_queued, 0);
    expect(who + "blocks not held", load.n_blocks_free, load.n_blocks_total);
    expect(who + "open streams", cluster.worker(i).node().n_streams(), 0);
  }
  const std::string metrics = cluster.service->Metrics();
  for (const char* gauge : {"longshelf_router_queue_depth", "longshelf_router_http_connections"}) {
    if (!absl::StrContains(metrics, absl::StrCat("\n", gauge, " 0\n")))
      left.push_back(absl::StrCat(gauge, " is not 0"));
  }
  expect("reserved bytes of the store", cluster.store.store().Stats(cluster.clock.Now()).reserved_bytes, 0);
  return absl::StrJoin(left, "; ");
}

template <typename Done>
bool Eventually(const Done& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSettleTime;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// What all clients share. Guarded by a mutex: there is no thread that could own it and be asked.
class Ledger {
 public:
  void Count(Op op) { ++counts_[op]; }
  uint64_t count(Op op) const { return counts_[op]; }
  void Fail(const std::string& why) {
    std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = why;
    failed_ = true;
  }
  bool failed() const { return failed_; }
  std::string failure() const { return failure_; }
  // The first answer to a prompt decides; a shorter one must be how a longer one begins.
  void Check(const std::string& prompt, const std::vector<uint32_t>& tokens) {
    std::lock_guard lock(mutex_);
    std::vector<uint32_t>& known = answers_[prompt];
    const size_t n = std::min(known.size(), tokens.size());
    if (!std::equal(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n), known.begin())) {
      if (failure_.empty()) failure_ = absl::StrCat("another answer to prompt ", prompt);
      failed_ = true;
    }
    if (tokens.size() > known.size()) known = tokens;
  }

 private:
  std::array<std::atomic<uint64_t>, kOps> counts_{};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::string failure_;
  std::map<std::string, std::vector<uint32_t>> answers_;
};

// One client: one thing after the other, decided by its seed. On a thread of its own.
class Client {
 public:
  Client(Cluster& cluster, Ledger& ledger, uint64_t seed)
      : cluster_(cluster),
        ledger_(ledger),
        random_(seed),
        stub_(v1::Inference::NewStub(grpc::CreateChannel(absl::StrCat("127.0.0.1:", cluster.service->grpc_port()),
                                                         grpc::InsecureChannelCredentials()))) {}

  void Run(std::chrono::steady_clock::time_point end) {
    while (std::chrono::steady_clock::now() < end && !ledger_.failed()) {
      const auto op = static_cast<Op>(random_() % kOps);
      switch (op) {
        case kRead:
          Generate(/*n_replies_max=*/SIZE_MAX);
          break;
        case kCancel:
          Generate(Below(12));
          break;
        case kDropHttp:
        case kDropUpload:
          LeaveHttp(op);
          break;
        default:
          Move(op);
      }
      ledger_.Count(op);
    }
  }

 private:
  size_t Below(size_t n) { return random_() % n; }

  // Prompts share beginnings: a few seeds, many lengths.
  std::vector<uint32_t> Prompt(std::string& name) {
    const size_t number = Below(kPrompts);
    const size_t n = 1 + (number * 7919) % kPromptTokensMax;
    name = absl::StrCat(number % 5, ":", n);
    return worker::RandomTokens(worker::WeightsOf("demo")->config, n, static_cast<uint32_t>(number % 5));
  }

  void Generate(size_t n_replies_max) {
    std::string name;
    v1::GenerateRequest request;
    const std::vector<uint32_t> prompt = Prompt(name);
    request.mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
    request.mutable_options()->set_temperature(0);
    request.mutable_options()->set_max_tokens(1 + static_cast<uint32_t>(Below(40)));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 5 * kSettleTime);
    const auto reader = stub_->Generate(&context, request);
    std::vector<uint32_t> tokens;
    v1::GenerateReply reply;
    size_t n_replies = 0;
    bool cancelled = n_replies_max == 0;
    if (cancelled) context.TryCancel();
    while (reader->Read(&reply)) {
      tokens.insert(tokens.end(), reply.tokens().begin(), reply.tokens().end());
      if (++n_replies != n_replies_max) continue;
      cancelled = true;
      context.TryCancel();
    }
    const grpc::Status status = reader->Finish();
    // A stream that finished first was not cancelled.
    const bool fine = status.ok() || (cancelled && status.error_code() == grpc::StatusCode::CANCELLED);
    if (!fine) ledger_.Fail(absl::StrCat("Generate: ", status.error_message()));
    ledger_.Check("router " + name, tokens);
  }

  void LeaveHttp(Op op) {
    std::string name;
    const std::string body = absl::StrCat(R"({"prompt":[)", absl::StrJoin(Prompt(name), ","), R"(],"stream":)",
                                          Below(2) == 0 ? "true" : "false", R"(,"max_tokens":200,"temperature":0})");
    const std::string request = RequestText("POST", "/v1/completions", body);
    TestClient client(cluster_.service->http_port());
    client.Send(op == kDropUpload ? request.substr(0, Below(request.size())) : request);
    // At once, with the head, with the first text.
    constexpr std::array<const char*, 3> kMarkers = {"", "HTTP/1.1", "\"text\""};
    if (op == kDropHttp) client.ReadUntil(kMarkers[Below(kMarkers.size())]);
    client.Close();
  }

  // On one worker, parked there, and on the other one from the middle of the answer.
  void Move(Op op) {
    std::string name;
    const std::vector<uint32_t> prompt = Prompt(name);
    const size_t from = Below(2);
    const worker::Generated first = cluster_.worker(from).Generate({.prompt = prompt, .max_tokens = 8});
    ledger_.Check("worker " + name, first.tokens);
    const auto parked = cluster_.worker(from).Park(prompt);
    // Others may have pushed it out of the small cache, or filled the store with what is parked.
    if (!parked.ok() && !absl::IsNotFound(parked.status()) && !absl::IsResourceExhausted(parked.status())) {
      ledger_.Fail(absl::StrCat("Park: ", parked.status().ToString()));
    }
    if (op == kPark || first.tokens.size() < 2) return;
    std::vector<uint32_t> tokens = {first.tokens[0]};
    const worker::Generated rest =
        cluster_.worker(from + 1).Generate({.prompt = prompt, .committed = tokens, .max_tokens = 16});
    tokens.insert(tokens.end(), rest.tokens.begin(), rest.tokens.end());
    ledger_.Check("worker " + name, tokens);
  }

  Cluster& cluster_;
  Ledger& ledger_;
  std::mt19937_64 random_;
  const std::unique_ptr<v1::Inference::Stub> stub_;
};

// As many sequences as there are slots run at the same time: none was lost.
absl::Status CheckSlots(RealWorker& worker) {
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::WorkerGenerateEvent>>> readers;
  for (uint32_t i = 0; i < kSlots; ++i) {
    v1::WorkerGenerateRequest request;
    request.add_prompt_tokens(10 + i);
    request.set_max_tokens(8000);  // as good as for ever
    request.mutable_sampling()->set_temperature(2);
    request.mutable_sampling()->set_seed(i);
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(worker.stub().Generate(contexts.back().get(), request));
  }
  const bool all_ran = Eventually([&] { return worker.node().load().n_running == kSlots; });
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& reader : readers) {
    v1::WorkerGenerateEvent event;
    while (reader->Read(&event)) {
    }
    reader->Finish();
  }
  if (all_ran) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("no ", kSlots, " sequences ran at once: a slot is lost"));
}

// Sum of a counter's samples in a metrics text.
double Sum(const std::string& metrics, const std::string& name) {
  double sum = 0;
  for (size_t at = metrics.find("\n" + name); at != std::string::npos; at = metrics.find("\n" + name, at + 1)) {
    const size_t end = metrics.find('\n', at + 1);
    sum += std::stod(metrics.substr(metrics.rfind(' ', end) + 1));
  }
  return sum;
}

absl::Status Report(Cluster& cluster, const Ledger& ledger, std::ostream& out) {
  std::vector<std::string> never;
  for (size_t op = 0; op < kOps; ++op) {
    out << kOpNames[op] << ": " << ledger.count(static_cast<Op>(op)) << '\n';
    if (ledger.count(static_cast<Op>(op)) == 0) never.emplace_back(kOpNames[op]);
  }
  for (const char* counter : {"longshelf_worker_restores_total", "longshelf_worker_parks_total{result=\"ok\"}",
                              "longshelf_worker_streams_total{result=\"cancelled\"}"}) {
    double sum = 0;
    for (const auto& worker : cluster.workers) sum += Sum(worker->metrics(), counter);
    out << counter << ": " << sum << '\n';
    if (sum == 0) never.emplace_back(counter);
  }
  if (never.empty()) return absl::OkStatus();
  return absl::InternalError("this never happened: " + absl::StrJoin(never, ", "));
}

}  // namespace

absl::Status RunChurn(const ChurnSettings& settings, std::ostream& out) {
  Cluster cluster;
  if (!Eventually([&] { return Sum(cluster.service->Metrics(), "longshelf_router_worker_up") == 2; })) {
    return absl::InternalError("the router found no two workers");
  }
  if (const std::string before = LeftBehind(cluster); !before.empty()) {
    return absl::InternalError("before the first request: " + before);
  }
  Ledger ledger;
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(settings.minutes * 60'000));
  std::vector<std::thread> threads;
  for (int i = 0; i < settings.n_clients; ++i) {
    threads.emplace_back(
        [&, seed = settings.seed * 1000 + static_cast<uint64_t>(i)] { Client(cluster, ledger, seed).Run(end); });
  }
  for (std::thread& thread : threads) thread.join();
  if (ledger.failed()) return absl::InternalError(ledger.failure());
  if (!Eventually([&] { return LeftBehind(cluster).empty(); })) return absl::InternalError(LeftBehind(cluster));
  for (const auto& worker : cluster.workers) RETURN_IF_ERROR(CheckSlots(*worker));
  if (!Eventually([&] { return LeftBehind(cluster).empty(); })) return absl::InternalError(LeftBehind(cluster));
  return Report(cluster, ledger, out);
}

}  // namespace longshelf::testing
