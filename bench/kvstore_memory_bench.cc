// What one session costs a store in memory, beside the bytes that longshelf plan says: the store's own figure and what
// the process really grew by. CSV on standard output.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "common/check.h"
#include "common/config.h"
#include "kvstore/store.h"

namespace longshelf::kvstore {
namespace {

constexpr int kBlockTokens = 256;
constexpr uint64_t kStampBytes = 1048;  // what names a block's tokens, behind its payload (docs/kvstore.md)

struct BenchConfig {
  uint64_t block_bytes = 899648;  // of V4 Flash
  uint64_t checkpoint_bytes = 3600000;
  int n_tokens = 1 << 20;
};

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t n_total = 0;
  uint64_t n_resident = 0;
  statm >> n_total >> n_resident;
  return n_resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

BlockKey KeyOf(uint64_t number) {
  BlockKey key{};
  std::memcpy(key.data(), &number, sizeof number);
  return key;
}

void Park(Store& store, ObjectHead head, std::span<const std::byte> payload, const Digest& digest) {
  head.namespace_id = "bench";
  head.object_class = ObjectClass::kParked;
  head.retain_until = absl::FromUnixSeconds(3600);
  head.payload_bytes = payload.size();
  head.digest = digest;
  const absl::Time now = absl::FromUnixSeconds(1);
  auto opened = store.Open(head, now);
  LONGSHELF_CHECK(opened.ok());
  auto& reservation = std::get<Store::Reservation>(*opened);
  LONGSHELF_CHECK(reservation.Append(0, payload).ok());
  LONGSHELF_CHECK(store.Commit(std::move(reservation), now).ok());
}

void Run(const BenchConfig& config) {
  const auto n_blocks = static_cast<uint64_t>(config.n_tokens / kBlockTokens);
  const uint64_t planned_bytes = n_blocks * config.block_bytes + config.checkpoint_bytes;
  auto store = *Store::Create({.capacity_bytes = 2 * planned_bytes + (64 << 20), .parked_share = 1});
  std::vector<std::byte> payload(std::max(config.block_bytes, config.checkpoint_bytes) + kStampBytes);
  std::mt19937_64 random(1);
  for (std::byte& byte : payload) byte = static_cast<std::byte>(random());
  const auto block = std::span(payload).first(config.block_bytes + kStampBytes);
  const auto checkpoint = std::span(payload).first(config.checkpoint_bytes + kStampBytes);
  const Digest block_digest = DigestOf(block);

  const uint64_t resident_before = ResidentBytes();
  ObjectHead head;
  for (uint64_t i = 0; i < n_blocks; ++i) {
    head.key = {KeyOf(i + 1), ObjectKind::kBlock};
    head.parent = KeyOf(i);
    head.depth_tokens = static_cast<uint32_t>(kBlockTokens * (i + 1));
    Park(*store, head, block, block_digest);
  }
  head.key = {KeyOf(n_blocks), ObjectKind::kCheckpoint};
  Park(*store, head, checkpoint, DigestOf(checkpoint));
  const StoreStats stats = store->Stats(absl::FromUnixSeconds(1));
  const uint64_t grown_bytes = ResidentBytes() - resident_before;
  LONGSHELF_CHECK(stats.n_objects == n_blocks + 1);
  const auto ratio = [planned_bytes](uint64_t n) {
    return static_cast<double>(n) / static_cast<double>(planned_bytes);
  };
  std::printf("tokens,block_bytes,planned_bytes,used_bytes,of_planned,resident_growth_bytes,of_planned\n");
  std::printf("%d,%lu,%lu,%lu,%.4f,%lu,%.4f\n", config.n_tokens, config.block_bytes, planned_bytes, stats.used_bytes,
              ratio(stats.used_bytes), grown_bytes, ratio(grown_bytes));
}

}  // namespace
}  // namespace longshelf::kvstore

int main(int argc, char** argv) {
  longshelf::kvstore::BenchConfig config;
  longshelf::ConfigSpec spec("kvstore_memory_bench", "Memory of one session in a store, as CSV.");
  spec.AddBytes(&config.block_bytes, "block", "bytes of one block, as longshelf plan says", {1, 32 << 20});
  spec.AddBytes(&config.checkpoint_bytes, "checkpoint", "bytes of a checkpoint and a tail", {1, 32 << 20});
  spec.Add(&config.n_tokens, "tokens", "of the session", {256, 1 << 20});
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  longshelf::kvstore::Run(config);
  return 0;
}
