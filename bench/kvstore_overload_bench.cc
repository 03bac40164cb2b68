// What a store still does for its clients when ten times as much is asked of it as it can do, beside readers that never
// read: committed and delivered payload (goodput) of two streams, its peak, against that of many. The store is a
// process of its own. CSV on standard output: step, streams, slow readers, median GB/s of the rounds, its share of the
// peak, processor time of the store per GB, and objects refused in the last round.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/memory.h"
#include "common/metrics.h"
#include "figures.h"
#include "kvstore/blocking_client.h"
#include "kvstore/client.h"
#include "kvstore/server.h"
#include "kvstore/store.h"

namespace longshelf::kvstore {
namespace {

constexpr const char* kNamespace = "bench";
constexpr int kPeakStreams = 2;
constexpr size_t kObjectsPerCall = 16;

struct BenchConfig {
  uint64_t payload_bytes = 899648;  // one block of V4 Flash
  uint64_t memory_bytes = 1ull << 30;
  int n_streams = 20;
  int n_slow_readers = 20;
  int n_rounds = 5;
  absl::Duration round = absl::Seconds(3);
};

// Started before any thread is; ends with this process.
class StoreProcess {
 public:
  explicit StoreProcess(const BenchConfig& config) {
    int port[2];
    int alive[2];
    LONGSHELF_CHECK(pipe(port) == 0 && pipe(alive) == 0);
    pid_ = fork();
    LONGSHELF_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      close(alive[1]);
      Serve(config, port[1], alive[0]);
    }
    LONGSHELF_CHECK(read(port[0], &port_, sizeof port_) == sizeof port_);
  }

  uint16_t port() const { return port_; }
  double CpuSeconds() const {
    clockid_t clock = 0;
    timespec time = {};
    LONGSHELF_CHECK(clock_getcpuclockid(pid_, &clock) == 0 && clock_gettime(clock, &time) == 0);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }

 private:
  [[noreturn]] static void Serve(const BenchConfig& config, int port_out, int alive) {
    SystemClock clock;
    Metrics metrics("kvstore_overload_bench");
    const auto store = *Store::Create({.capacity_bytes = config.memory_bytes});
    const auto server = *Server::Start({}, *store, clock, metrics);
    const uint16_t port = server->port();
    LONGSHELF_CHECK(write(port_out, &port, sizeof port) == sizeof port);
    char ended;
    while (read(alive, &ended, 1) < 0) {
    }
    _exit(0);
  }

  pid_t pid_ = 0;
  uint16_t port_ = 0;
};

struct Peer {
  explicit Peer(uint16_t port)
      : client(*MakeClient({.address = absl::StrCat("127.0.0.1:", port)})), blocking(*client) {}
  std::unique_ptr<Client> client;
  BlockingClient blocking;
};

struct Step {
  std::string name;
  bool is_put = false;
  int n_streams = 0;
  int n_slow_readers = 0;
  std::vector<double> gb_per_s = {};
  std::vector<double> cpu_s_per_gb = {};
  uint64_t n_refused = 0;
};

class Bench {
 public:
  explicit Bench(const BenchConfig& config) : config_(config), store_(config) {
    std::mt19937_64 random(1);
    std::vector<std::byte> payload(config.payload_bytes);
    for (std::byte& byte : payload) byte = static_cast<std::byte>(random());
    payload_ = std::make_shared<const std::vector<std::byte>>(std::move(payload));
    for (int i = 0; i < std::max(config.n_streams, kPeakStreams); ++i) {
      peers_.push_back(std::make_unique<Peer>(store_.port()));
    }
  }

  void Measure(Step& step, bool counts) {
    LONGSHELF_CHECK(peers_[0]->blocking.DropNamespace({.id = kNamespace}, absl::Minutes(1)).ok());
    const std::vector<PutItem> items = MakeItems();
    for (const auto& outcome : peers_[0]->blocking.PutMany(items, absl::Minutes(1))) LONGSHELF_CHECK(outcome.ok());
    std::vector<GetItem> wanted;
    for (const PutItem& item : items) wanted.push_back({item.head.key, config_.payload_bytes});
    const auto slow = StartSlowReaders(step.n_slow_readers, wanted);

    n_good_ = 0;
    n_refused_ = 0;
    const double cpu_before = store_.CpuSeconds();
    const auto begun = std::chrono::steady_clock::now();
    const auto end = begun + absl::ToChronoNanoseconds(config_.round);
    std::vector<std::thread> threads;
    for (int i = 0; i < step.n_streams; ++i) {
      threads.emplace_back([&, peer = peers_[static_cast<size_t>(i)].get()] {
        while (std::chrono::steady_clock::now() < end) step.is_put ? Put(*peer) : Get(*peer, wanted);
      });
    }
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    if (!counts) return;
    const double gb = static_cast<double>(n_good_ * config_.payload_bytes) / 1e9;
    step.gb_per_s.push_back(gb / took.count());
    step.cpu_s_per_gb.push_back((store_.CpuSeconds() - cpu_before) / gb);
    step.n_refused = n_refused_;
  }

 private:
  std::vector<PutItem> MakeItems() {
    std::vector<PutItem> items(kObjectsPerCall);
    for (PutItem& item : items) {
      const uint64_t id = ++n_made_;
      std::memcpy(item.head.key.hash.data(), &id, sizeof id);
      item.head.depth_tokens = 256;
      item.head.parent.fill(0xff);
      item.head.namespace_id = kNamespace;
      item.payload = payload_;
    }
    return items;
  }

  // Readers that take one object and release nothing.
  std::vector<std::unique_ptr<Peer>> StartSlowReaders(int n, const std::vector<GetItem>& wanted) {
    std::atomic<int> n_stuck = 0;
    std::vector<std::unique_ptr<Peer>> readers;
    for (int i = 0; i < n; ++i) {
      readers.push_back(std::make_unique<Peer>(store_.port()));
      readers.back()->client->Get({.items = wanted, .timeout = absl::Minutes(9), .window_bytes = 1},
                                  {.on_object =
                                       [&n_stuck](size_t index, const absl::StatusOr<FetchedObject>&) {
                                         if (index == 0) n_stuck.fetch_add(1);
                                       },
                                   .on_done = [](const absl::Status&) {}});
    }
    while (n_stuck < n) std::this_thread::yield();
    return readers;
  }

  void Put(Peer& peer) {
    for (const auto& outcome : peer.blocking.PutMany(MakeItems(), absl::Minutes(1))) {
      ++(outcome.ok() ? n_good_ : n_refused_);
    }
  }
  void Get(Peer& peer, const std::vector<GetItem>& wanted) {
    const auto count = [this](size_t, const absl::StatusOr<FetchedObject>& object) {
      ++(object.ok() ? n_good_ : n_refused_);
    };
    LONGSHELF_CHECK(peer.blocking.Get({}, wanted, absl::Minutes(1), count).ok());
  }

  const BenchConfig config_;
  StoreProcess store_;
  Payload payload_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::atomic<uint64_t> n_made_ = 0;
  std::atomic<uint64_t> n_good_ = 0;
  std::atomic<uint64_t> n_refused_ = 0;
};

void Run(const BenchConfig& config) {
  Bench bench(config);
  std::vector<Step> steps = {
      {.name = "put_peak", .is_put = true, .n_streams = kPeakStreams},
      {.name = "put_overload", .is_put = true, .n_streams = config.n_streams, .n_slow_readers = config.n_slow_readers},
      {.name = "get_peak", .n_streams = kPeakStreams},
      {.name = "get_overload", .n_streams = config.n_streams, .n_slow_readers = config.n_slow_readers},
  };
  // Rounds go over all steps, so that a slow minute of the machine hits every step alike. The first warms up.
  for (int round = 0; round <= config.n_rounds; ++round) {
    for (Step& step : steps) bench.Measure(step, round > 0);
  }
  std::printf("step,streams,slow_readers,gb_per_s,of_peak,store_cpu_s_per_gb,refused\n");
  for (const Step& step : steps) {
    const double peak = Median(steps[step.is_put ? 0 : 2].gb_per_s);
    const double rate = Median(step.gb_per_s);
    std::printf("%s,%d,%d,%.3f,%.3f,%.3f,%lu\n", step.name.c_str(), step.n_streams, step.n_slow_readers, rate,
                rate / peak, Median(step.cpu_s_per_gb), static_cast<unsigned long>(step.n_refused));
  }
}

}  // namespace
}  // namespace longshelf::kvstore

int main(int argc, char** argv) {
  longshelf::KeepFreedMemory();  // as a store and a worker do
  longshelf::kvstore::BenchConfig config;
  longshelf::ConfigSpec spec("kvstore_overload_bench", "Goodput of a KV store node under ten times its load, as CSV.");
  spec.AddBytes(&config.payload_bytes, "payload", "bytes of one object", {1, 64 << 20});
  spec.AddBytes(&config.memory_bytes, "memory", "of the store", {64 << 20, 1ull << 40});
  spec.Add(&config.n_streams, "streams", "streams under overload", {2, 200});
  spec.Add(&config.n_slow_readers, "slow-readers", "readers beside them that do not read", {0, 200});
  spec.Add(&config.n_rounds, "rounds", "measured rounds; the median is reported", {1, 1000});
  spec.Add(&config.round, "round", "length of each", {absl::Milliseconds(100), absl::Minutes(1)});
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  longshelf::kvstore::Run(config);
  return 0;
}
