#include "cluster_queries.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "scatter.h"

namespace longshelf::kvstore {
namespace {

template <typename Result>
using Answers = std::vector<typename Scatter<Result>::Answer>;

// The failure of all nodes, or OK when one has answered.
template <typename Result>
absl::Status NobodyAnswered(const Answers<Result>& answers) {
  absl::Status failure = absl::UnavailableError("no KV store of the cluster can be reached");
  for (const auto& answer : answers) {
    if (answer.result.ok()) return absl::OkStatus();
    failure = answer.result.status();
  }
  return failure;
}

// What each node is to be asked of a Touch, and how often a key must be found.
struct TouchPlan {
  std::vector<std::shared_ptr<ClusterNode>> nodes;
  std::vector<std::vector<size_t>> keys;  // per node, as indices of the query
  std::vector<size_t> n_wanted;           // per key
};

TouchPlan PlanOf(const ClusterCore& core, const TouchQuery& query) {
  TouchPlan plan;
  std::map<const ClusterNode*, size_t> known;
  std::vector<std::shared_ptr<ClusterNode>> candidates;
  const size_t n_replicas = std::clamp<size_t>(query.n_replicas, 1, core.view->nodes.size());
  const size_t n_candidates = std::max<size_t>(n_replicas, core.n_replicas) + kSpareCandidates;
  for (size_t i = 0; i < query.keys.size(); ++i) {
    const BlockKey& extent = query.keys[i].extent;
    if (i == 0 || extent != query.keys[i - 1].extent) candidates = core.view->Candidates(extent, n_candidates);
    for (const auto& node : candidates) {
      const auto [it, is_new] = known.emplace(node.get(), plan.nodes.size());
      if (is_new) {
        plan.nodes.push_back(node);
        plan.keys.emplace_back();
      }
      plan.keys[it->second].push_back(i);
    }
    plan.n_wanted.push_back(query.ack == Ack::kMemoryOne ? 1 : n_replicas);
  }
  return plan;
}

// Per key, by how many nodes it is retained.
std::vector<size_t> CountRetained(const TouchPlan& plan, const Answers<TouchResult>& answers, size_t n_keys) {
  std::vector<size_t> n_retained(n_keys);
  for (size_t node = 0; node < answers.size(); ++node) {
    if (!answers[node].result.ok()) continue;
    const std::vector<bool>& retained = answers[node].result->retained;
    for (size_t i = 0; i < std::min(retained.size(), plan.keys[node].size()); ++i) {
      if (retained[i]) ++n_retained[plan.keys[node][i]];
    }
  }
  return n_retained;
}

// As soon as each key is retained by as many nodes as it has to be; or when all have answered.
void Ask(ClusterCore& core, const TouchQuery& query, const std::shared_ptr<const TouchPlan>& plan, Ack ack,
         std::vector<size_t> n_wanted, absl::Duration timeout,
         std::function<void(absl::StatusOr<std::vector<size_t>>)> done) {
  const size_t n_keys = query.keys.size();
  ScatterTo<TouchResult>(
      core, plan->nodes,
      [&](Client& client, size_t node, Client::Done<TouchResult> answer) {
        TouchQuery part{.keys = {}, .retain_until = query.retain_until, .ack = ack};
        for (const size_t i : plan->keys[node]) part.keys.push_back(query.keys[i]);
        client.Touch(std::move(part), timeout, std::move(answer));
      },
      [plan, n_keys, done = std::move(done)](const absl::StatusOr<Answers<TouchResult>>& answers) {
        if (!answers.ok()) return done(answers.status());
        if (const absl::Status nobody = NobodyAnswered<TouchResult>(*answers); !nobody.ok()) return done(nobody);
        done(CountRetained(*plan, *answers, n_keys));
      },
      {.is_enough =
           [plan, n_keys, n_wanted = std::move(n_wanted)](const Answers<TouchResult>& answers) {
             const std::vector<size_t> n_retained = CountRetained(*plan, answers, n_keys);
             return std::equal(n_retained.begin(), n_retained.end(), n_wanted.begin(), std::greater_equal<>());
           },
       .may_take_long = IsDurable(ack)});
}

TouchResult ResultOf(const std::vector<size_t>& n_retained, const std::vector<size_t>& n_wanted) {
  TouchResult result;
  for (size_t i = 0; i < n_retained.size(); ++i) {
    if (n_retained[i] > 0) ++result.n_present;
    result.retained.push_back(n_retained[i] >= n_wanted[i]);
  }
  return result;
}

// Puts the answers of all members together.
Scatter<DropResult>::Done Summed(Client::Done<DropResult> done) {
  return [done = std::move(done)](const absl::StatusOr<Answers<DropResult>>& answers) {
    if (!answers.ok()) return done(answers.status());
    if (const absl::Status nobody = NobodyAnswered<DropResult>(*answers); !nobody.ok()) return done(nobody);
    DropResult sum;
    for (const auto& answer : *answers) {
      if (!answer.result.ok()) {
        ++sum.n_nodes_missed;
        continue;
      }
      sum.n_dropped += answer.result->n_dropped;
      sum.bytes_dropped += answer.result->bytes_dropped;
    }
    done(sum);
  };
}

ListResult Merged(const ListQuery& query, const Answers<ListResult>& answers) {
  std::map<BlockKey, ObjectHead> heads;
  // Behind the last hash of a page that is not the node's last, that node may have others.
  BlockKey complete_to;
  complete_to.fill(0xff);
  ListResult merged;
  for (const auto& answer : answers) {
    if (!answer.result.ok()) {
      ++merged.n_nodes_missed;
      continue;
    }
    for (const ObjectHead& head : answer.result->heads) {
      const auto [it, is_new] = heads.emplace(head.key.hash, head);
      it->second.retain_until = std::max(it->second.retain_until, head.retain_until);
    }
    if (!answer.result->more || answer.result->heads.empty()) continue;
    merged.more = true;
    complete_to = std::min(complete_to, answer.result->heads.back().key.hash);
  }
  for (const auto& [hash, head] : heads) {
    if (merged.heads.size() == query.limit || hash > complete_to) {
      merged.more = true;
      break;
    }
    merged.heads.push_back(head);
  }
  return merged;
}

}  // namespace

void ClusterTouch(ClusterCore& core, const TouchQuery& query, absl::Duration timeout, Client::Done<TouchResult> done) {
  const auto plan = std::make_shared<const TouchPlan>(PlanOf(core, query));
  if (query.keys.empty()) return done(TouchResult());
  using Counts = absl::StatusOr<std::vector<size_t>>;
  if (query.ack != Ack::kDurableOne) {
    return Ask(core, query, plan, query.ack, plan->n_wanted, timeout, [plan, done](const Counts& n_retained) {
      if (!n_retained.ok()) return done(n_retained.status());
      done(ResultOf(*n_retained, plan->n_wanted));
    });
  }
  // In the memory of all replicas, and on the disk of one.
  struct Both {
    Counts in_memory;
    Counts on_disk;
    int n_waiting = 2;
  };
  const auto both = std::make_shared<Both>();
  const auto end = [plan, both, done = std::move(done)] {
    if (--both->n_waiting > 0) return;
    if (!both->in_memory.ok()) return done(both->in_memory.status());
    if (!both->on_disk.ok()) return done(both->on_disk.status());
    TouchResult result = ResultOf(*both->in_memory, plan->n_wanted);
    for (size_t i = 0; i < both->on_disk->size(); ++i) {
      result.retained[i] = result.retained[i] && (*both->on_disk)[i] > 0;
    }
    done(std::move(result));
  };
  Ask(core, query, plan, Ack::kMemoryOne, plan->n_wanted, timeout, [both, end](const Counts& counts) {
    both->in_memory = counts;
    end();
  });
  Ask(core, query, plan, Ack::kDurableOne, std::vector<size_t>(query.keys.size(), 1), timeout,
      [both, end](const Counts& counts) {
        both->on_disk = counts;
        end();
      });
}

void ClusterDrop(ClusterCore& core, DropCall drop, const std::vector<PlacedKey>& keys, absl::Duration timeout,
                 Client::Done<DropResult> done) {
  ScatterTo<DropResult>(
      core, core.view->nodes,
      [&](Client& client, size_t, Client::Done<DropResult> answer) {
        (client.*drop)(keys, timeout, std::move(answer));
      },
      Summed(std::move(done)));
}

void ClusterDropNamespace(ClusterCore& core, const NamespaceDrop& drop, absl::Duration timeout,
                          Client::Done<DropResult> done) {
  ScatterTo<DropResult>(
      core, core.view->nodes,
      [&](Client& client, size_t, Client::Done<DropResult> answer) {
        client.DropNamespace(drop, timeout, std::move(answer));
      },
      Summed(std::move(done)));
}

void ClusterList(ClusterCore& core, const ListQuery& query, absl::Duration timeout, Client::Done<ListResult> done) {
  ScatterTo<ListResult>(
      core, core.view->nodes,
      [&](Client& client, size_t, Client::Done<ListResult> answer) { client.List(query, timeout, std::move(answer)); },
      [query, done = std::move(done)](const absl::StatusOr<Answers<ListResult>>& answers) {
        if (!answers.ok()) return done(answers.status());
        if (const absl::Status nobody = NobodyAnswered<ListResult>(*answers); !nobody.ok()) return done(nobody);
        done(Merged(query, *answers));
      });
}

void ClusterStats(ClusterCore& core, absl::Duration timeout, Client::Done<StoreStats> done) {
  ScatterTo<StoreStats>(
      core, core.view->nodes,
      [&](Client& client, size_t, Client::Done<StoreStats> answer) { client.Stats(timeout, std::move(answer)); },
      [done = std::move(done)](const absl::StatusOr<Answers<StoreStats>>& answers) {
        if (!answers.ok()) return done(answers.status());
        if (const absl::Status nobody = NobodyAnswered<StoreStats>(*answers); !nobody.ok()) return done(nobody);
        StoreStats sum;
        for (const auto& answer : *answers) {
          if (answer.result.ok()) sum += *answer.result;
        }
        done(sum);
      });
}

}  // namespace longshelf::kvstore
