// What kvstore_disk_bench does, by RocksDB with blob files: a log of what is to be durable, values in files of their
// own. CSV on standard output. Built where the library is (Debian: librocksdb-dev).
#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/config.h"

namespace longshelf {
namespace {

struct BenchConfig {
  std::string directory;
  uint64_t payload_bytes = 899648;  // one block of V4 Flash
  uint64_t put_bytes = 4ull << 30;
  uint64_t sync_bytes = 64ull << 20;  // as the disk tier does
  int n_readers = 2;
};

double SecondsSince(std::chrono::steady_clock::time_point begun) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

// What this process has sent to storage.
uint64_t WrittenBytes() {
  std::ifstream io("/proc/self/io");
  std::string name;
  uint64_t value = 0;
  while (io >> name >> value) {
    if (name == "write_bytes:") return value;
  }
  return 0;
}

std::string KeyOf(uint64_t id) { return {reinterpret_cast<const char*>(&id), sizeof id}; }

std::unique_ptr<rocksdb::DB> Open(const BenchConfig& config) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.compression = rocksdb::kNoCompression;
  options.enable_blob_files = true;
  options.min_blob_size = 0;
  options.blob_compression_type = rocksdb::kNoCompression;
  options.use_direct_io_for_flush_and_compaction = true;
  options.use_direct_reads = true;
  options.write_buffer_size = 256ull << 20;
  options.max_write_buffer_number = 3;
  options.max_background_jobs = 4;
  rocksdb::DB* db = nullptr;
  LONGSHELF_CHECK(rocksdb::DB::Open(options, config.directory, &db).ok());
  return std::unique_ptr<rocksdb::DB>(db);
}

void Run(const BenchConfig& config) {
  std::filesystem::remove_all(config.directory);
  const auto db = Open(config);
  std::string payload(config.payload_bytes, '\0');
  std::mt19937_64 random(1);
  for (char& byte : payload) byte = static_cast<char>(random());

  const uint64_t n_puts = config.put_bytes / config.payload_bytes;
  const uint64_t written_before = WrittenBytes();
  const auto begun = std::chrono::steady_clock::now();
  uint64_t unsynced_bytes = 0;
  for (uint64_t i = 0; i < n_puts; ++i) {
    LONGSHELF_CHECK(db->Put({}, KeyOf(i), payload).ok());
    unsynced_bytes += payload.size();
    if (unsynced_bytes >= config.sync_bytes) {
      LONGSHELF_CHECK(db->SyncWAL().ok());
      unsynced_bytes = 0;
    }
  }
  LONGSHELF_CHECK(db->SyncWAL().ok());
  const double write_s = SecondsSince(begun);
  LONGSHELF_CHECK(db->Flush({}).ok());
  const uint64_t n_bytes = n_puts * config.payload_bytes;
  const double amplification = static_cast<double>(WrittenBytes() - written_before) / static_cast<double>(n_bytes);

  std::atomic<uint64_t> n_read = 0;
  std::vector<std::thread> readers;
  const auto read_begun = std::chrono::steady_clock::now();
  for (int reader = 0; reader < config.n_readers; ++reader) {
    readers.emplace_back([&, reader] {
      std::mt19937_64 order(static_cast<uint64_t>(reader) + 10);
      rocksdb::PinnableSlice value;
      for (int i = 0; i < 500; ++i) {
        const uint64_t id = n_puts - 1 - order() % std::min<uint64_t>(n_puts, 1000);
        value.Reset();
        if (db->Get({}, db->DefaultColumnFamily(), KeyOf(id), &value).ok()) ++n_read;
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  const double read_s = SecondsSince(read_begun);
  std::printf("step,gb_per_s,write_amplification,objects\n");
  std::printf("rocksdb_write,%.3f,%.3f,%lu\n", static_cast<double>(n_bytes) / 1e9 / write_s, amplification, n_puts);
  std::printf("rocksdb_read,%.3f,,%lu\n", static_cast<double>(n_read * config.payload_bytes) / 1e9 / read_s,
              n_read.load());
}

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) {
  longshelf::BenchConfig config;
  longshelf::ConfigSpec spec("rocksdb_blob_bench",
                             "Throughput and write amplification of RocksDB's blob files, as CSV.");
  spec.Add(&config.directory, "directory", "an empty or absent directory on the file system to measure; it is emptied");
  spec.AddBytes(&config.payload_bytes, "payload", "bytes of one object", {1, 64 << 20});
  spec.AddBytes(&config.put_bytes, "put", "payload bytes to write", {1 << 20, 1ll << 40});
  spec.AddBytes(&config.sync_bytes, "sync", "payload bytes between two syncs of the log", {1, 1ll << 40});
  spec.Add(&config.n_readers, "readers", "threads that read", {1, 64});
  spec.Require("directory");
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  longshelf::Run(config);
  return 0;
}
