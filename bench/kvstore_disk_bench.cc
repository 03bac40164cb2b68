// How fast the disk tier writes and reads blocks on a file system, and how many bytes reach the device per byte put.
// CSV on standard output; with --encrypt, the same once more encrypted. To compare: fio --rw=write --bs=904K --direct=1
// --fdatasync=72 --fallocate=posix on the same file system, in turns.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/memory.h"
#include "disk/disk_tier.h"
#include "disk/posix_file_system.h"
#include "figures.h"

namespace longshelf::kvstore::disk {
namespace {

struct BenchConfig {
  std::string directory;
  uint64_t payload_bytes = 899648;  // one block of V4 Flash
  uint64_t disk_bytes = 2ull << 30;
  uint64_t put_bytes = 4ull << 30;
  double retained = 0.1;
  int n_readers = 2;
  bool use_uring = true;
  bool encrypt = false;
  int n_turns = 1;
};

// Lets as many puts be under way as the queue takes.
class Window {
 public:
  explicit Window(int n_max) : n_left_(n_max) {}
  void Take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return n_left_ > 0; });
    --n_left_;
  }
  void Give() {
    std::lock_guard lock(mutex_);
    ++n_left_;
    changed_.notify_one();
  }

 private:
  std::mutex mutex_;  // between the putting thread and the writer
  std::condition_variable changed_;
  int n_left_;
};

double SecondsSince(std::chrono::steady_clock::time_point begun) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

void Run(const BenchConfig& config, bool encrypted) {
  SystemClock clock;
  const auto files = MakePosixFileSystem(DirectIo::kAuto, config.use_uring ? WriteMethod::kAuto : WriteMethod::kPwrite);
  std::filesystem::remove_all(config.directory);
  DiskOptions options;
  options.directory = config.directory;
  options.quota_bytes = config.disk_bytes;
  options.scrub_bytes_per_s = 0;
  auto opened = DiskTier::Open(options, *files, clock, NodeId{1}, encrypted ? SecretKey::Random() : nullptr);
  LONGSHELF_CHECK(opened.ok());
  DiskTier& tier = **opened;

  std::vector<std::byte> payload(config.payload_bytes);
  std::mt19937_64 random(1);
  for (std::byte& byte : payload) byte = static_cast<std::byte>(random());
  ObjectHead head;
  head.depth_tokens = 256;
  head.payload_bytes = config.payload_bytes;
  head.digest = DigestOf(payload);
  head.namespace_id = "bench";
  Window window(64);
  const uint64_t n_puts = config.put_bytes / config.payload_bytes;
  const auto begun = std::chrono::steady_clock::now();
  const double write_cpu_begun = CpuSeconds();
  for (uint64_t i = 0; i < n_puts; ++i) {
    window.Take();
    std::memcpy(head.key.hash.data(), &i, sizeof i);
    // Every so many is retained until half of the disk was written after it.
    const bool retained = static_cast<double>(i % 100) < 100 * config.retained;
    head.object_class = retained ? ObjectClass::kParked : ObjectClass::kCache;
    head.retain_until = retained ? clock.WallNow() + absl::Seconds(2) : absl::UnixEpoch();
    AlignedBuffer buffer = tier.BufferFor(config.payload_bytes);
    std::memcpy(DiskTier::PayloadOf(buffer, config.payload_bytes).data(), payload.data(), payload.size());
    tier.Put(head, std::move(buffer), [&window](const absl::Status&) { window.Give(); });
  }
  for (int i = 0; i < 64; ++i) window.Take();
  const double write_s = SecondsSince(begun);
  const double write_cpu_s = CpuSeconds() - write_cpu_begun;
  const DiskStats stats = tier.Stats();

  std::atomic<uint64_t> n_read = 0;
  std::vector<std::thread> readers;
  const auto read_begun = std::chrono::steady_clock::now();
  const double read_cpu_begun = CpuSeconds();
  for (int reader = 0; reader < config.n_readers; ++reader) {
    readers.emplace_back([&, reader] {
      std::mt19937_64 order(static_cast<uint64_t>(reader) + 10);
      ObjectKey key;
      for (int i = 0; i < 500; ++i) {
        const uint64_t id = n_puts - 1 - order() % std::min<uint64_t>(n_puts, 1000);
        std::memcpy(key.hash.data(), &id, sizeof id);
        if (tier.Read(key, {}).ok()) ++n_read;
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  const double read_s = SecondsSince(read_begun);
  const double read_cpu_s = CpuSeconds() - read_cpu_begun;
  const char* suffix = encrypted ? "_encrypted" : "";
  const double write_gb = static_cast<double>(stats.payload_bytes) / 1e9;
  std::printf("segment_write%s,%.3f,%.3f,%.3f,%lu,%lu\n", suffix, write_gb / write_s, write_cpu_s / write_gb,
              static_cast<double>(stats.log.bytes_written) / static_cast<double>(stats.payload_bytes), stats.n_put,
              stats.log.n_kept);
  const double read_gb = static_cast<double>(n_read * config.payload_bytes) / 1e9;
  std::printf("segment_read%s,%.3f,%.3f,,%lu,\n", suffix, read_gb / read_s, read_cpu_s / read_gb, n_read.load());
}

}  // namespace
}  // namespace longshelf::kvstore::disk

int main(int argc, char** argv) {
  longshelf::KeepFreedMemory();  // as a store does
  longshelf::kvstore::disk::BenchConfig config;
  longshelf::ConfigSpec spec("kvstore_disk_bench", "Throughput and write amplification of the disk tier, as CSV.");
  spec.Add(&config.directory, "directory", "an empty or absent directory on the file system to measure; it is emptied");
  spec.AddBytes(&config.payload_bytes, "payload", "bytes of one object", {1, 64 << 20});
  spec.AddBytes(&config.disk_bytes, "disk-size", "quota", {768 << 20, 1ll << 40});
  spec.AddBytes(&config.put_bytes, "put", "payload bytes to write", {1 << 20, 1ll << 40});
  spec.Add(&config.retained, "retained", "part of the objects that is retained for two seconds", {0.0, 0.5});
  spec.Add(&config.n_readers, "readers", "threads that read", {1, 64});
  spec.Add(&config.use_uring, "uring", "write through io_uring where the kernel allows it");
  spec.Add(&config.encrypt, "encrypt", "measure once more with objects encrypted");
  spec.Add(&config.n_turns, "turns", "how often all of it is measured", {1, 100});
  spec.Require("directory");
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  std::printf("step,gb_per_s,cpu_s_per_gb,write_amplification,objects,kept\n");
  for (int turn = 0; turn < config.n_turns; ++turn) {
    longshelf::kvstore::disk::Run(config, /*encrypted=*/false);
    if (config.encrypt) longshelf::kvstore::disk::Run(config, /*encrypted=*/true);
  }
  return 0;
}
