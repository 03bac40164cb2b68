#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "cluster_core.h"

namespace longshelf::kvstore {

// One question to several nodes at once, answered when the last of them has answered or failed, or when what is there
// is enough. Lives on the loop; keeps itself alive until then.
template <typename Result>
class Scatter final : public Operation, public std::enable_shared_from_this<Scatter<Result>> {
 public:
  struct Answer {
    std::shared_ptr<ClusterNode> node;
    absl::StatusOr<Result> result = absl::UnavailableError("the KV store cannot be reached");
  };
  using Done = std::function<void(absl::StatusOr<std::vector<Answer>> answers)>;
  using Ask = std::function<void(Client& client, size_t i, Client::Done<Result> done)>;
  struct Options {
    std::function<bool(const std::vector<Answer>& answers)> is_enough = nullptr;  // of those that are there
    bool may_take_long = false;  // whoever has not answered in time may be well all the same
  };

  // answers[i] is of nodes[i].
  Scatter(ClusterCore& core, const std::vector<std::shared_ptr<ClusterNode>>& nodes, Done done, Options options)
      : core_(core), options_(std::move(options)), done_(std::move(done)) {
    for (const auto& node : nodes) answers_.push_back({.node = node});
  }

  void Start(const Ask& ask) {
    n_waiting_ = 1;
    begun_ = core_.clock.Now();
    for (size_t i = 0; i < answers_.size(); ++i) {
      if (!core_.MayCall(*answers_[i].node)) continue;
      ++n_waiting_;
      ask(*answers_[i].node->client, i,
          [self = this->shared_from_this(), loop = core_.loop, i](const absl::StatusOr<Result>& result) {
            loop->Post([self, i, result] { self->OnAnswer(i, result); });
          });
    }
    EndOne();
  }

  void Abandon(const absl::Status& status) override {
    if (const auto done = std::exchange(done_, nullptr)) done(status);
  }

 private:
  void OnAnswer(size_t i, const absl::StatusOr<Result>& result) {
    const bool is_late = options_.may_take_long && absl::IsDeadlineExceeded(result.status());
    core_.Report(*answers_[i].node, is_late ? absl::OkStatus() : result.status(), core_.clock.Now() - begun_);
    answers_[i].result = result;
    EndOne();
  }
  void EndOne() {
    --n_waiting_;
    if (done_ == nullptr) return;
    const bool is_last = n_waiting_ == 0;
    if (!is_last && (options_.is_enough == nullptr || !options_.is_enough(answers_))) return;
    const Done done = std::exchange(done_, nullptr);
    is_last ? done(std::move(answers_)) : done(answers_);
  }

  ClusterCore& core_;
  const Options options_;
  std::vector<Answer> answers_;
  size_t n_waiting_ = 0;
  absl::Time begun_;
  Done done_;
};

// Starts one.
template <typename Result>
void ScatterTo(ClusterCore& core, const std::vector<std::shared_ptr<ClusterNode>>& nodes,
               const typename Scatter<Result>::Ask& ask, typename Scatter<Result>::Done done,
               typename Scatter<Result>::Options options = {}) {
  const auto scatter = std::make_shared<Scatter<Result>>(core, nodes, std::move(done), std::move(options));
  core.Register(scatter);
  scatter->Start(ask);
}

}  // namespace longshelf::kvstore
