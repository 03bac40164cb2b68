#include "real_worker.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <span>
#include <utility>

#include "engine/comm/baseline_expert_transport.h"
#include "engine/shard_group.h"
#include "proto/channel_settings.h"
#include "testing/fixtures.h"
#include "thread_group.h"

namespace longshelf::worker {

RealStore::RealStore(uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {
  store_ = std::move(kvstore::Store::Create({capacity_bytes, 0.9})).value();
  server_ = std::move(kvstore::Server::Start({}, *store_, clock_, metrics_)).value();
}

int RealStore::DropCheckpoints(const kvstore::Fingerprint& fingerprint, const std::vector<kvstore::BlockKey>& blocks) {
  kvstore::LookupQuery query;
  query.fingerprint = fingerprint;
  query.root = kvstore::ChainRoot(fingerprint, std::string(32, 's'));
  query.chain = blocks;
  const kvstore::LookupResult found = store_->Lookup(query).value();
  int n_dropped = 0;
  for (const kvstore::CheckpointInfo& info : found.checkpoints) {
    const kvstore::ObjectKey key{info.hash, kvstore::ObjectKind::kCheckpoint};
    n_dropped += static_cast<int>(store_->Drop(std::span(&key, 1)).n_dropped);
  }
  return n_dropped;
}

void RealStore::RestartEmpty() {
  const std::string at = address();
  server_.reset();
  store_ = std::move(kvstore::Store::Create({capacity_bytes_, 0.9})).value();
  server_ = std::move(kvstore::Server::Start({.listen = at}, *store_, clock_, metrics_)).value();
}

std::shared_ptr<const engine::ModelWeights> WeightsOf(const std::string& model) {
  static std::map<std::string, std::shared_ptr<const engine::ModelWeights>> loaded;
  auto& weights = loaded[model];
  if (weights == nullptr) weights = std::move(engine::LoadModelWeights(testing::ModelPath(model), nullptr)).value();
  return weights;
}

std::vector<uint32_t> RandomTokens(const engine::ModelConfig& config, size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> out(n);
  // Small ids are the special tokens.
  for (uint32_t& token : out) token = 3 + random() % static_cast<uint32_t>(config.vocab_size - 3);
  return out;
}

std::vector<uint32_t> With(std::vector<uint32_t> tokens, const std::vector<uint32_t>& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

void ExpectSame(const Generated& got, const Generated& want, size_t skip) {
  ASSERT_EQ(got.tokens.size() + skip, want.tokens.size());
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    EXPECT_EQ(got.tokens[i], want.tokens[i + skip]) << "token " << i;
    const std::string& logits = got.logits[i];
    const std::string& expected = want.logits[i + skip];
    ASSERT_EQ(logits.size(), expected.size());
    EXPECT_EQ(std::memcmp(logits.data(), expected.data(), expected.size()), 0)
        << "logits of token " << i << " differ in some bit";
  }
}

kvstore::BlockKey StoredKey(const RealWorker& worker, const std::vector<uint32_t>& tokens, size_t n) {
  kvstore::BlockKey key = kvstore::ChainRoot(worker.fingerprint(), std::string(32, 's'));
  const std::span<const uint32_t> all(tokens);
  size_t done = 0;
  for (; done + 256 <= n; done += 256) key = kvstore::ChainNext(key, all.subspan(done, 256));
  return done == n ? key : kvstore::ChainNext(key, all.subspan(done, n - done));
}

RealWorker::RealWorker(std::shared_ptr<const engine::ModelWeights> weights, const std::string& store_address,
                       const std::function<void(ShardConfig&)>& change)
    : weights_(std::move(weights)) {
  config_.model = "test";
  config_.allow_logits = true;
  config_.n_sequences_max = 16;
  config_.kv_memory_bytes = uint64_t{64} << 20;
  config_.checkpoint_memory_bytes = uint64_t{64} << 20;
  config_.step_token_budget = 256;
  if (!store_address.empty()) config_.kvstores = {store_address};
  if (change) change(config_);
  thread_ = std::thread([this] {
    const std::string run_dir = testing::MakeTempDir("worker").string();
    const auto leader_bell = std::move(engine::Doorbell::Create(run_dir, config_.generation)).value();
    homes_.resize(static_cast<size_t>(config_.n_shards));
    testing::ThreadGroup group(config_.n_shards);
    group.Run([&](engine::Communicator& communicator) { RunShard(communicator, *leader_bell, run_dir); });
  });
  serving_.get_future().wait();
  grpc::ChannelArguments args = proto::InternalChannelArguments();
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  stub_ = v1::Worker::NewStub(grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(node_->server().port()),
                                                        grpc::InsecureChannelCredentials(), args));
}

RealWorker::~RealWorker() {
  node_->StopEngine();
  thread_.join();
}

void RealWorker::RunShard(engine::Communicator& communicator, engine::Doorbell& leader_bell,
                          const std::string& run_dir) {
  engine::LocalExpertTransport own_transport;
  engine::BaselineExpertTransport group_transport(
      communicator, static_cast<uint32_t>(weights_->config.n_routed_experts), config_.generation);
  engine::ExpertTransport* transport = &own_transport;
  if (communicator.size() > 1) transport = &group_transport;
  const auto model = std::move(engine::Model::Create(weights_, engine::ModelOptions{}, *transport)).value();
  const auto n_blocks = static_cast<uint32_t>(config_.kv_memory_bytes / model->layout().block_bytes());
  const auto executor =
      std::move(engine::Executor::Create(engine::MakeSequenceModel(*model), {config_.n_sequences_max, n_blocks}))
          .value();
  // Every shard reaches the store by itself; shard 0's way is the node's own.
  const auto store = std::move(ConnectStore(config_, nullptr, clock_, nullptr)).value();
  const auto home = store == nullptr ? nullptr : MakeHomeStore(*store, executor->copies());
  homes_[static_cast<size_t>(communicator.rank())] = home.get();
  EXPECT_TRUE(communicator.Barrier().ok());
  if (communicator.size() == 1) {
    engine::LocalStepRunner runner(*executor);
    Serve(*model, runner, executor->copies(), n_blocks);
  } else if (communicator.rank() == 0) {
    engine::ShardGroupRunner runner({communicator, leader_bell, group_transport, nullptr, config_.generation},
                                    *executor);
    Serve(*model, runner, executor->copies(), n_blocks);
    EXPECT_TRUE(runner.Shutdown().ok());
  } else {
    const auto bell = std::move(engine::Doorbell::Open(run_dir, config_.generation)).value();
    const absl::Status ended =
        engine::RunFollower({communicator, *bell, group_transport, nullptr, config_.generation}, *executor);
    EXPECT_TRUE(ended.ok()) << ended;
  }
}

void RealWorker::Serve(const engine::Model& model, engine::StepRunner& runner, engine::KvCopies& copies,
                       uint32_t n_blocks) {
  const int64_t n_wanted = config_.n_context_max > 0 ? config_.n_context_max : 8192;
  const int64_t n_context_max = std::min<int64_t>(n_wanted, int64_t{n_blocks} * engine::kBlockTokens);
  node_ = std::move(WorkerNode::Create(config_, DescribeModel(model, n_context_max), {}, clock_, metrics_, runner,
                                       {copies, {homes_.begin() + 1, homes_.end()}}))
              .value();
  fingerprint_ = model.fingerprint();
  serving_.set_value();
  EXPECT_TRUE(node_->RunEngine().ok());
  node_->Shutdown(absl::ZeroDuration());
}

Generated RealWorker::Generate(const Ask& ask) {
  v1::WorkerGenerateRequest request;
  request.set_epoch(1);
  request.mutable_prompt_tokens()->Add(ask.prompt.begin(), ask.prompt.end());
  request.mutable_committed_tokens()->Add(ask.committed.begin(), ask.committed.end());
  request.set_max_tokens(ask.max_tokens);
  request.set_namespace_id("tenant");
  request.set_namespace_salt(ask.salt);
  request.set_return_logits(true);
  request.set_no_cache_read(ask.no_cache_read);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(120));
  const auto reader = stub_->Generate(&context, request);
  Generated out;
  v1::WorkerGenerateEvent event;
  bool is_gone = false;
  while (reader->Read(&event)) {
    if (event.has_started()) out.started = event.started();
    if (event.has_finished()) out.finished = event.finished();
    if (!event.has_token()) continue;
    EXPECT_EQ(event.token().index(), ask.committed.size() + out.tokens.size());
    out.tokens.push_back(event.token().token());
    out.logits.push_back(event.token().logits());
    EXPECT_EQ(event.token().logits().size(), static_cast<size_t>(weights_->config.vocab_size) * sizeof(float));
    if (is_gone || ask.goes_on == nullptr || ask.goes_on(out.tokens.size())) continue;
    is_gone = true;
    context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok() || is_gone) << status.error_message();
  return out;
}

absl::StatusOr<v1::ParkReply> RealWorker::Park(const std::vector<uint32_t>& tokens, const std::string& salt) {
  v1::ParkRequest request;
  request.mutable_tokens()->Add(tokens.begin(), tokens.end());
  request.set_namespace_id("tenant");
  request.set_namespace_salt(salt);
  request.set_retain_until_unix_ms(static_cast<uint64_t>(absl::ToUnixMillis(clock_.WallNow() + absl::Hours(1))));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::ParkReply reply;
  const grpc::Status status = stub_->Park(&context, request, &reply);
  if (!status.ok()) return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  return reply;
}

namespace {

bool WaitUntil(const std::function<bool()>& is_so) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!is_so()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace

bool RealWorker::WaitUntilOffloaded() const {
  return WaitUntil([this] { return metrics().find("longshelf_worker_offload_queue_bytes 0\n") != std::string::npos; });
}

bool RealWorker::WaitForMetric(const std::string& name, double at_least) const {
  return WaitUntil([&] {
    const std::string all = metrics();
    const size_t line = all.find("\n" + name + " ");
    return line != std::string::npos && std::stod(all.substr(line + name.size() + 2)) >= at_least;
  });
}

}  // namespace longshelf::worker
