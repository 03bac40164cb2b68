// How long a small Get waits while others look up whole chains in a loop, on one store without a network.
// CSV on standard output: Get's percentiles in milliseconds, and lookups per second meanwhile.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/config.h"
#include "kvstore/store.h"

namespace longshelf::kvstore {
namespace {

struct BenchConfig {
  int n_clients = 8;
  int n_blocks = 4096;  // a context of 1 Mi tokens
  int n_gets = 2000;
};

BlockKey HashOf(uint64_t chain, uint64_t position) {
  BlockKey hash{};
  std::memcpy(hash.data(), &position, sizeof position);
  std::memcpy(hash.data() + sizeof position, &chain, sizeof chain);
  return hash;
}

void Put(Store& store, uint64_t chain, uint64_t position) {
  const std::byte payload[1] = {std::byte{1}};
  ObjectHead head;
  head.key.hash = HashOf(chain, position);
  head.parent = HashOf(chain, position - 1);
  head.depth_tokens = static_cast<uint32_t>(256 * (position + 1));
  head.payload_bytes = sizeof payload;
  head.digest = DigestOf(payload);
  head.namespace_id = "bench";
  auto opened = store.Open(head, absl::UnixEpoch());
  LONGSHELF_CHECK(opened.ok());
  auto& reservation = std::get<Store::Reservation>(*opened);
  LONGSHELF_CHECK(reservation.Append(0, payload).ok());
  LONGSHELF_CHECK(store.Commit(std::move(reservation), absl::UnixEpoch()).ok());
}

void Run(const BenchConfig& config) {
  const auto n_clients = static_cast<uint64_t>(config.n_clients);
  const auto n_blocks = static_cast<uint64_t>(config.n_blocks);
  const auto store =
      std::move(*Store::Create({.capacity_bytes = (n_clients + 1) * n_blocks * Store::ChargeOf(1) + (8 << 20)}));
  for (uint64_t chain = 0; chain < n_clients; ++chain) {
    for (uint64_t position = 0; position < n_blocks; ++position) Put(*store, chain, position);
  }
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> n_lookups = 0;
  std::vector<std::thread> clients;
  for (uint64_t chain = 0; chain < n_clients; ++chain) {
    clients.emplace_back([&, chain] {
      LookupQuery query;
      query.root = HashOf(chain, uint64_t{0} - 1);
      for (uint64_t position = 0; position < n_blocks; ++position) query.chain.push_back(HashOf(chain, position));
      while (!stop) {
        LONGSHELF_CHECK(store->Lookup(query)->n_present == n_blocks);
        ++n_lookups;
      }
    });
  }
  std::vector<double> waits_ms;
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 0; i < config.n_gets; ++i) {
    const ObjectKey key{HashOf(static_cast<uint64_t>(i) % n_clients, static_cast<uint64_t>(i) % n_blocks),
                        ObjectKind::kBlock};
    const auto asked = std::chrono::steady_clock::now();
    auto reader = store->Get(key, {});
    std::byte out[1];
    LONGSHELF_CHECK(reader.ok() && reader->Read(out).ok());
    reader = absl::UnknownError("done");
    const auto now = std::chrono::steady_clock::now();
    waits_ms.push_back(std::chrono::duration<double, std::milli>(now - asked).count());
    // Clients think in between; a loop without would measure this thread's own turns.
    while (std::chrono::steady_clock::now() - now < std::chrono::microseconds(100)) std::this_thread::yield();
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  stop = true;
  for (std::thread& client : clients) client.join();
  std::sort(waits_ms.begin(), waits_ms.end());
  const auto percentile = [&](size_t p) { return waits_ms[waits_ms.size() * p / 1000]; };
  std::printf("get_p50_ms,get_p90_ms,get_p99_ms,get_p999_ms,get_max_ms,lookups_per_s\n%.3f,%.3f,%.3f,%.3f,%.3f,%.0f\n",
              percentile(500), percentile(900), percentile(990), percentile(999), waits_ms.back(),
              static_cast<double>(n_lookups) / took.count());
}

}  // namespace
}  // namespace longshelf::kvstore

int main(int argc, char** argv) {
  longshelf::kvstore::BenchConfig config;
  longshelf::ConfigSpec spec("kvstore_lookup_bench", "How long a small Get waits behind lookups of whole chains.");
  spec.Add(&config.n_clients, "clients", "threads that look up chains", {1, 64});
  spec.Add(&config.n_blocks, "blocks", "blocks of each chain", {1, 65536});
  spec.Add(&config.n_gets, "gets", "measured Gets", {1000, 1'000'000});
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  longshelf::kvstore::Run(config);
  return 0;
}
