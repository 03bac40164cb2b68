// How fast a store node gives and takes blocks, next to what the machine and gRPC can do at all, in one run.
// CSV on standard output: step, median GB/s of the rounds, ratios to memcpy, to a bare gRPC stream in the same
// direction and to Redis, and CPU seconds per GB (client and server together, but Redis' server), which stay comparable
// on a machine that does other things meanwhile.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <string>
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
#include "net/tls_identity.h"
#include "raw_stream.h"
#include "redis_peer.h"

namespace longshelf::kvstore {
namespace {

struct BenchConfig {
  uint64_t payload_bytes = 899648;  // one block of V4 Flash
  int n_objects = 128;
  int n_rounds = 7;
  std::string certificates = {};  // directory that `longshelf certs` made; empty: TLS is not measured
};

struct Blocks {
  explicit Blocks(const BenchConfig& config) {
    std::mt19937_64 random(1);
    for (size_t i = 0; i < static_cast<size_t>(config.n_objects); ++i) {
      std::vector<std::byte> payload(config.payload_bytes);
      for (std::byte& byte : payload) byte = static_cast<std::byte>(random());
      PutItem item;
      std::memcpy(item.head.key.hash.data(), &i, sizeof i);
      item.head.depth_tokens = static_cast<uint32_t>(256 * (i + 1));
      item.head.parent.fill(0xff);
      item.head.namespace_id = "bench";
      item.head.payload_bytes = config.payload_bytes;
      item.head.digest = DigestOf(payload);
      item.payload = std::make_shared<const std::vector<std::byte>>(std::move(payload));
      puts.push_back(item);
      gets.push_back({item.head.key, config.payload_bytes});
    }
  }
  std::vector<PutItem> puts;
  std::vector<GetItem> gets;
};

// A step's time; `prepare` is not measured.
struct Step {
  std::string name;
  std::function<void()> prepare;
  std::function<void()> run;
  std::vector<double> gb_per_s = {};
  std::vector<double> cpu_s_per_gb = {};
};

void Measure(std::vector<Step>& steps, int n_rounds, uint64_t n_bytes) {
  // Rounds go over all steps, so that a slow minute of the machine hits every step alike.
  for (int round = 0; round <= n_rounds; ++round) {
    for (Step& step : steps) {
      if (step.prepare) step.prepare();
      const double cpu_before = CpuSeconds();
      const auto begun = std::chrono::steady_clock::now();
      step.run();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
      if (round == 0) continue;  // warms up
      const double gb = static_cast<double>(n_bytes) / 1e9;
      step.gb_per_s.push_back(gb / took.count());
      step.cpu_s_per_gb.push_back((CpuSeconds() - cpu_before) / gb);
    }
  }
}

void PutDirect(Store& store, const Blocks& blocks) {
  for (const PutItem& item : blocks.puts) {
    auto opened = store.Open(item.head, absl::UnixEpoch());
    LONGSHELF_CHECK(opened.ok());
    auto& reservation = std::get<Store::Reservation>(*opened);
    LONGSHELF_CHECK(reservation.Append(0, *item.payload).ok());
    LONGSHELF_CHECK(store.Commit(std::move(reservation), absl::UnixEpoch()).ok());
  }
}

void GetDirect(Store& store, const Blocks& blocks, std::span<std::byte> target) {
  for (const GetItem& item : blocks.gets) {
    auto reader = store.Get(item.key, {});
    LONGSHELF_CHECK(reader.ok());
    while (reader->offset() < item.expected_bytes) {
      const size_t n = std::min<uint64_t>(kMaxFrameBytes, item.expected_bytes - reader->offset());
      LONGSHELF_CHECK(reader->Read(target.first(n)).ok());
    }
  }
}

void CopyHashed(const Blocks& blocks, std::span<std::byte> target) {
  for (const PutItem& item : blocks.puts) {
    for (std::span<const std::byte> left = *item.payload; !left.empty();) {
      const auto frame = left.first(std::min(left.size(), kMaxFrameBytes));
      LONGSHELF_CHECK(DigestOf(frame) != Digest{});
      std::memcpy(target.data(), frame.data(), frame.size());
      target = target.subspan(frame.size());
      left = left.subspan(frame.size());
    }
  }
}

void Report(const std::vector<Step>& steps) {
  const auto median_of = [&](std::string_view name, const auto& figure) {
    const auto step = std::find_if(steps.begin(), steps.end(), [name](const Step& each) { return each.name == name; });
    return step == steps.end() ? 0.0 : Median((*step).*figure);
  };
  const auto rate_of = [&](std::string_view name) { return median_of(name, &Step::gb_per_s); };
  const auto cpu_of = [&](std::string_view name) { return median_of(name, &Step::cpu_s_per_gb); };
  std::printf("step,gb_per_s,of_memcpy,of_raw,of_redis,cpu_s_per_gb\n");
  for (const Step& step : steps) {
    const double rate = Median(step.gb_per_s);
    const std::string way = step.name.ends_with("put") || step.name.ends_with("set") ? "put" : "get";
    const double redis = rate_of(way == "put" ? "redis_set" : "redis_get");
    std::printf("%s,%.3f,%.3f,%.3f,%.3f,%.3f\n", step.name.c_str(), rate, rate / rate_of("memcpy"),
                rate / rate_of("raw_" + way), redis > 0 ? rate / redis : 0.0, Median(step.cpu_s_per_gb));
  }
  if (rate_of("tls_put") > 0) {
    std::printf("TLS: a put %.2f, a get %.2f of the rate without it; %.2f and %.2f of the processor time\n",
                rate_of("tls_put") / rate_of("grpc_put"), rate_of("tls_get") / rate_of("grpc_get"),
                cpu_of("tls_put") / cpu_of("grpc_put"), cpu_of("tls_get") / cpu_of("grpc_get"));
  }
  // Both sides hash what they send or receive, a frame at a time, and whoever copies it next has it at hand.
  const double checksum = cpu_of("hashed_copy") - cpu_of("memcpy");
  std::printf("checksums: %.1f %% of the processor time of a put, %.1f %% of a get\n",
              200 * checksum / cpu_of("grpc_put"), 200 * checksum / cpu_of("grpc_get"));
}

// A server of its own, with TLS, and its client.
struct TlsPair {
  std::shared_ptr<net::TlsIdentity> server_identity;
  std::shared_ptr<net::TlsIdentity> client_identity;
  std::unique_ptr<Server> server;
  std::unique_ptr<Client> client;
};

TlsPair StartTlsPair(const std::string& certificates, Store& store, const Clock& clock, Metrics& metrics) {
  const auto load = [&](const char* role) {
    auto identity = net::TlsIdentity::Load({.certificate = absl::StrCat(certificates, "/", role, ".crt"),
                                            .key = absl::StrCat(certificates, "/", role, ".key"),
                                            .authority = absl::StrCat(certificates, "/ca.crt")},
                                           clock, nullptr);
    if (!identity.ok()) std::fprintf(stderr, "%s\n", identity.status().ToString().c_str());
    LONGSHELF_CHECK(identity.ok());
    return *identity;
  };
  TlsPair pair;
  pair.server_identity = load("kvstore");
  pair.client_identity = load("worker");
  ServerOptions options;
  options.tls = pair.server_identity;
  pair.server = std::move(*Server::Start(options, store, clock, metrics));
  pair.client =
      std::move(*MakeClient({.address = absl::StrCat("127.0.0.1:", pair.server->port()), .tls = pair.client_identity}));
  return pair;
}

void PutAll(BlockingClient& client, const Blocks& blocks) {
  for (const auto& outcome : client.PutMany(blocks.puts, absl::Minutes(5))) LONGSHELF_CHECK(outcome.ok());
}

void GetAll(BlockingClient& client, const Blocks& blocks) {
  LONGSHELF_CHECK(client
                      .Get({}, blocks.gets, absl::Minutes(5),
                           [](size_t, absl::StatusOr<FetchedObject> object) { LONGSHELF_CHECK(object.ok()); })
                      .ok());
}

void Run(const BenchConfig& config) {
  const Blocks blocks(config);
  const uint64_t n_bytes = config.payload_bytes * static_cast<uint64_t>(config.n_objects);
  SystemClock clock;
  Metrics metrics("kvstore_bench");
  const uint64_t capacity = 2 * n_bytes + (64 << 20);
  auto store = std::move(*Store::Create({.capacity_bytes = capacity, .parked_share = 0.5}));
  auto server = std::move(*Server::Start({}, *store, clock, metrics));
  const auto client = std::move(*MakeClient({.address = absl::StrCat("127.0.0.1:", server->port())}));
  BlockingClient blocking(*client);

  std::vector<std::byte> target(std::max<uint64_t>(n_bytes, 4 * kMaxFrameBytes));
  const std::unique_ptr<RedisPeer> redis = RedisPeer::Start(2 * n_bytes + (256 << 20));
  if (redis == nullptr) std::fprintf(stderr, "no redis-server here (apt-get install redis-server): not measured\n");
  std::vector<std::span<const std::byte>> payloads;
  for (const PutItem& item : blocks.puts) payloads.emplace_back(*item.payload);
  RawStream raw(payloads, target);
  const auto empty = [&] { store->DropNamespace("bench"); };
  std::vector<Step> steps = {
      {"memcpy", nullptr,
       [&] {
         for (size_t i = 0; i < blocks.puts.size(); ++i) {
           std::memcpy(target.data() + i * config.payload_bytes, blocks.puts[i].payload->data(), config.payload_bytes);
         }
       }},
      {"digest", nullptr,
       [&] {
         for (const PutItem& item : blocks.puts) LONGSHELF_CHECK(DigestOf(*item.payload) == item.head.digest);
       }},
      {"hashed_copy", nullptr, [&] { CopyHashed(blocks, target); }},
      {"raw_put", nullptr, [&] { raw.Put(); }},
      {"raw_get", nullptr, [&] { raw.Get(); }},
      {"store_put", empty, [&] { PutDirect(*store, blocks); }},
      {"store_get", nullptr, [&] { GetDirect(*store, blocks, target); }},
      {"grpc_put", empty, [&] { PutAll(blocking, blocks); }},
      {"grpc_get", nullptr, [&] { GetAll(blocking, blocks); }},
  };
  TlsPair tls;
  std::optional<BlockingClient> tls_client;
  if (!config.certificates.empty()) {
    tls = StartTlsPair(config.certificates, *store, clock, metrics);
    tls_client.emplace(*tls.client);
    steps.push_back({"tls_put", empty, [&] { PutAll(*tls_client, blocks); }});
    steps.push_back({"tls_get", nullptr, [&] { GetAll(*tls_client, blocks); }});
  }
  if (redis != nullptr) {
    steps.push_back({"redis_set", [&] { redis->Flush(); }, [&] { redis->Set(payloads); }});
    steps.push_back(
        {"redis_get", nullptr, [&] { redis->Get(payloads.size(), std::span(target).first(config.payload_bytes)); }});
  }
  Measure(steps, config.n_rounds, n_bytes);
  Report(steps);
}

}  // namespace
}  // namespace longshelf::kvstore

int main(int argc, char** argv) {
  longshelf::KeepFreedMemory();  // as a store and a worker do; the bare stream has it too
  longshelf::kvstore::BenchConfig config;
  longshelf::ConfigSpec spec("kvstore_bench", "Throughput of a KV store node next to memcpy and raw gRPC, as CSV.");
  spec.AddBytes(&config.payload_bytes, "payload", "bytes of one object", {1, 64 << 20});
  spec.Add(&config.n_objects, "objects", "objects per round", {1, 4096});
  spec.Add(&config.n_rounds, "rounds", "measured rounds; the median is reported", {5, 1000});
  spec.Add(&config.certificates, "tls", "directory that `longshelf certs` made: also measure with TLS");
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  longshelf::kvstore::Run(config);
  return 0;
}
