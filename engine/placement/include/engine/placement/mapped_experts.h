#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/weights.h"

namespace longshelf::engine {

// An expert of a layer; draft layers come after the model's.
struct ExpertId {
  uint32_t layer = 0;
  uint32_t expert = 0;
  bool operator==(const ExpertId&) const = default;
};

// Expert layers of a model, those of its draft module included.
uint32_t CountExpertLayers(const ModelWeights& weights);

// Brings experts of other shards into this one's memory, and lets its own go. Called by the engine thread, which never
// waits here.
class ExpertMover {
 public:
  virtual ~ExpertMover() = default;
  // Begins with these, forgets what was asked for before. Each is fetched after a call of AllowOne().
  virtual void Fetch(std::vector<ExpertId> experts) = 0;
  virtual void AllowOne() = 0;
  struct State {
    size_t n_left = 0;
    absl::Status status;  // DATA_LOSS: bytes are not those that the group agreed on; names the tensor
  };
  // None: ask later.
  virtual std::optional<State> Look() = 0;
  // They are not in use, and will be fetched again before they are.
  virtual void Release(std::vector<ExpertId> experts) = 0;
};

// Of a checkpoint in mapped files: a thread of the lowest priority reads every byte, which brings it into memory, and
// compares its digest with what the shards that had read it said when the group formed.
class MappedExperts final : public ExpertMover {
 public:
  // digests: SHA-256 of every routed expert's tensors by official name.
  MappedExperts(std::shared_ptr<const ModelWeights> weights, std::map<std::string, Digest, std::less<>> digests);
  ~MappedExperts() override;
  MappedExperts(const MappedExperts&) = delete;
  MappedExperts& operator=(const MappedExperts&) = delete;

  void Fetch(std::vector<ExpertId> experts) override;
  void AllowOne() override;
  std::optional<State> Look() override;
  void Release(std::vector<ExpertId> experts) override;

 private:
  void Serve();
  absl::Status Check(ExpertId id) const;

  const std::shared_ptr<const ModelWeights> weights_;
  const std::map<std::string, Digest, std::less<>> digests_;
  // A mutex instead of a mailbox: a new request replaces what is left of the old one. Guards all below.
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<ExpertId> to_release_;
  std::deque<ExpertId> left_;
  uint64_t request_ = 0;  // counts calls of Fetch
  size_t n_allowed_ = 0;
  absl::Status status_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace longshelf::engine
