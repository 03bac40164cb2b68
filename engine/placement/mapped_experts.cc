#include "engine/placement/mapped_experts.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "engine/comm/quiet_thread.h"

namespace longshelf::engine {
namespace {

const LayerWeights& LayerOf(const ModelWeights& weights, uint32_t layer) {
  const size_t n = weights.layers.size();
  if (layer < n) return weights.layers[layer];
  if (weights.dspark.has_value()) return weights.dspark->stages[layer - n];
  return weights.mtp[layer - n].layer;
}

struct Piece {
  std::string name;
  std::span<const uint8_t> bytes;
};

// Every tensor of an expert under its official name.
std::vector<Piece> PiecesOf(const ModelWeights& weights, ExpertId id) {
  const size_t n = weights.layers.size();
  const std::string prefix = id.layer < n ? absl::StrCat("layers.", id.layer) : absl::StrCat("mtp.", id.layer - n);
  const ExpertWeights& expert = LayerOf(weights, id.layer).moe.experts[id.expert];
  std::vector<Piece> out;
  const auto add = [&](const char* name, const Matrix& matrix) {
    const std::string base = absl::StrCat(prefix, ".ffn.experts.", id.expert, ".", name);
    out.push_back({base + ".weight", {matrix.data, MatrixBytes(matrix)}});
    if (ScaleBytes(matrix) > 0) out.push_back({base + ".scale", {matrix.scale, ScaleBytes(matrix)}});
  };
  add("w1", expert.w1);
  add("w2", expert.w2);
  add("w3", expert.w3);
  return out;
}

// Whole pages inside of a range: its edges may be somebody else's.
void Advise(std::span<const uint8_t> bytes, int advice) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

uint32_t CountExpertLayers(const ModelWeights& weights) {
  const size_t n_draft = weights.dspark.has_value() ? weights.dspark->stages.size() : weights.mtp.size();
  return static_cast<uint32_t>(weights.layers.size() + n_draft);
}

MappedExperts::MappedExperts(std::shared_ptr<const ModelWeights> weights,
                             std::map<std::string, Digest, std::less<>> digests)
    : weights_(std::move(weights)), digests_(std::move(digests)), thread_(StartQuietThread([this] { Serve(); })) {}

MappedExperts::~MappedExperts() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  arrived_.notify_one();
  thread_.join();
}

void MappedExperts::Fetch(std::vector<ExpertId> experts) {
  const std::lock_guard lock(mutex_);
  left_.assign(experts.begin(), experts.end());
  ++request_;
  n_allowed_ = 0;
  status_ = absl::OkStatus();
}

// The other thread may be without a processor for long while it holds the mutex, so this one only tries.
void MappedExperts::AllowOne() {
  {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || left_.empty() || !status_.ok()) return;
    ++n_allowed_;
  }
  arrived_.notify_one();
}

std::optional<ExpertMover::State> MappedExperts::Look() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return std::nullopt;
  return State{left_.size(), status_};
}

void MappedExperts::Release(std::vector<ExpertId> experts) {
  {
    const std::lock_guard lock(mutex_);
    to_release_.insert(to_release_.end(), experts.begin(), experts.end());
  }
  arrived_.notify_one();
}

absl::Status MappedExperts::Check(ExpertId id) const {
  const std::vector<Piece> pieces = PiecesOf(*weights_, id);
  for (const Piece& piece : pieces) Advise(piece.bytes, MADV_WILLNEED);
  for (const Piece& piece : pieces) {
    const auto known = digests_.find(piece.name);
    if (known == digests_.end()) {
      return absl::InternalError(absl::StrCat("the group has no digest of tensor ", piece.name));
    }
    if (DigestOfBytes(piece.bytes) != known->second) {
      return absl::DataLossError(
          absl::StrCat("the bytes of tensor ", piece.name, " are not those that the group agreed on when it formed"));
    }
  }
  return absl::OkStatus();
}

// Only what no other thread of the machine wants to use: a step is not to wait for this.
void MappedExperts::Serve() {
  const sched_param none{};
  sched_setscheduler(0, SCHED_IDLE, &none);
  std::unique_lock lock(mutex_);
  while (true) {
    arrived_.wait(
        lock, [this] { return closed_ || !to_release_.empty() || (n_allowed_ > 0 && !left_.empty() && status_.ok()); });
    if (closed_) return;
    if (!to_release_.empty()) {
      const ExpertId gone = to_release_.front();
      to_release_.pop_front();
      lock.unlock();
      for (const Piece& piece : PiecesOf(*weights_, gone)) Advise(piece.bytes, MADV_DONTNEED);
      lock.lock();
      continue;
    }
    --n_allowed_;
    const ExpertId id = left_.front();
    const uint64_t request = request_;
    lock.unlock();
    const absl::Status status = Check(id);
    lock.lock();
    if (request != request_) continue;
    if (status.ok()) left_.pop_front();
    status_ = status;
  }
}

}  // namespace longshelf::engine
