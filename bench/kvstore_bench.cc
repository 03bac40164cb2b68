// How fast a store node gives and takes blocks, next to what the machine and gRPC can do at all, in one run.
// CSV on standard output: step, median GB/s of the rounds, ratio to memcpy, ratio to raw gRPC, and CPU seconds per GB
// (client and server together), which stay comparable on a machine that does other things meanwhile.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/metrics.h"
#include "kvstore/blocking_client.h"
#include "kvstore/client.h"
#include "kvstore/server.h"
#include "kvstore/store.h"
#include "longshelf/v1/kvstore.grpc.pb.h"
#include "proto/channel_settings.h"

namespace longshelf::kvstore {
namespace {

struct BenchConfig {
  uint64_t payload_bytes = 899648;  // one block of V4 Flash
  int n_objects = 128;
  int n_rounds = 7;
};

// Streams frames of one static slice: what gRPC costs when nobody computes anything.
class RawService final : public v1::KvStore::WithRawCallbackMethod_Get<v1::KvStore::CallbackService> {
 public:
  explicit RawService(uint64_t total_bytes) : total_bytes_(total_bytes), slice_(std::string(kMaxFrameBytes, 'r')) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Get(grpc::CallbackServerContext*, const grpc::ByteBuffer*) override {
    class Stream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
     public:
      Stream(const grpc::Slice& slice, uint64_t n_bytes) : frame_(&slice, 1), n_left_(n_bytes / kMaxFrameBytes) {}
      void Next() {
        if (n_left_-- == 0) return Finish(grpc::Status::OK);
        out_ = frame_;
        StartWrite(&out_);
      }
      void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
      void OnDone() override { self_.reset(); }
      std::shared_ptr<Stream> self_;

     private:
      const grpc::ByteBuffer frame_;
      grpc::ByteBuffer out_;
      uint64_t n_left_;
    };
    auto stream = std::make_shared<Stream>(slice_, total_bytes_);
    stream->self_ = stream;
    stream->Next();
    return stream.get();
  }

 private:
  const uint64_t total_bytes_;
  const grpc::Slice slice_;
};

// Reads a raw stream to its end, copying every frame into `target`.
class RawReader final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RawReader(std::span<std::byte> target) : target_(target) {}
  uint64_t Run(grpc::GenericStub& stub) {
    stub.PrepareBidiStreamingCall(&context_, "/longshelf.v1.KvStore/Get", {}, this);
    StartWriteLast(&request_, {});
    StartRead(&frame_);
    StartCall();
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return done_; });
    return n_bytes_;
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    std::vector<grpc::Slice> slices;
    LONGSHELF_CHECK(frame_.Dump(&slices).ok());
    for (const grpc::Slice& slice : slices) {
      std::memcpy(target_.data() + n_bytes_ % (target_.size() - kMaxFrameBytes), slice.begin(), slice.size());
      n_bytes_ += slice.size();
    }
    frame_.Clear();
    StartRead(&frame_);
  }
  void OnDone(const grpc::Status& status) override {
    LONGSHELF_CHECK(status.ok());
    std::lock_guard lock(mutex_);
    done_ = true;
    ended_.notify_one();
  }

 private:
  const std::span<std::byte> target_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_{nullptr, 0};
  grpc::ByteBuffer frame_;
  uint64_t n_bytes_ = 0;
  // Guards done_: the calling thread sleeps until gRPC's thread is through.
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
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

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

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

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
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

  RawService raw_service(n_bytes);
  int raw_port = 0;
  grpc::ServerBuilder builder;
  proto::ApplyInternalServerSettings(builder);
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &raw_port);
  builder.RegisterService(&raw_service);
  const auto raw_server = builder.BuildAndStart();
  grpc::GenericStub raw_stub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", raw_port), grpc::InsecureChannelCredentials(), proto::InternalChannelArguments()));

  std::vector<std::byte> target(std::max<uint64_t>(n_bytes, 4 * kMaxFrameBytes));
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
      {"raw_grpc", nullptr, [&] { LONGSHELF_CHECK(RawReader(target).Run(raw_stub) + kMaxFrameBytes > n_bytes); }},
      {"store_put", empty, [&] { PutDirect(*store, blocks); }},
      {"store_get", nullptr, [&] { GetDirect(*store, blocks, target); }},
      {"grpc_put", empty,
       [&] {
         for (const auto& outcome : blocking.PutMany(blocks.puts, absl::Minutes(5))) LONGSHELF_CHECK(outcome.ok());
       }},
      {"grpc_get", nullptr,
       [&] {
         LONGSHELF_CHECK(blocking
                             .Get({}, blocks.gets, absl::Minutes(5),
                                  [](size_t, absl::StatusOr<FetchedObject> object) { LONGSHELF_CHECK(object.ok()); })
                             .ok());
       }},
  };
  Measure(steps, config.n_rounds, n_bytes);
  const double memcpy_rate = Median(steps[0].gb_per_s);
  const double grpc_rate = Median(steps[2].gb_per_s);
  std::printf("step,gb_per_s,of_memcpy,of_raw_grpc,cpu_s_per_gb\n");
  for (const Step& step : steps) {
    const double rate = Median(step.gb_per_s);
    std::printf("%s,%.3f,%.3f,%.3f,%.3f\n", step.name.c_str(), rate, rate / memcpy_rate, rate / grpc_rate,
                Median(step.cpu_s_per_gb));
  }
}

}  // namespace
}  // namespace longshelf::kvstore

int main(int argc, char** argv) {
  longshelf::kvstore::BenchConfig config;
  longshelf::ConfigSpec spec("kvstore_bench", "Throughput of a KV store node next to memcpy and raw gRPC, as CSV.");
  spec.AddBytes(&config.payload_bytes, "payload", "bytes of one object", {1, 64 << 20});
  spec.Add(&config.n_objects, "objects", "objects per round", {1, 4096});
  spec.Add(&config.n_rounds, "rounds", "measured rounds; the median is reported", {5, 1000});
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  longshelf::kvstore::Run(config);
  return 0;
}
