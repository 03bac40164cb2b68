#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvstore/keys.h"
#include "kvstore/members.h"

namespace longshelf::kvstore {

// Beyond the replicas, so many nodes are asked for an object: one that has just joined, or that was down when the
// object was put, costs a question.
inline constexpr size_t kSpareCandidates = 2;

// Which nodes an extent belongs to: weighted rendezvous hashing (Thaler and Ravishankar 1998; the weighted form is
// -w / ln(u), Schindelhauer and Schomaker 2005). Nobody keeps a table: whoever knows the members knows the place, and a
// member that comes or goes moves its own share only. Immutable.
class Placement {
 public:
  explicit Placement(const std::vector<Member>& members);

  size_t n_members() const { return nodes_.size(); }
  // The first `n` members (indices) of an extent, best first; fewer when there are not so many. The first of them are
  // in different zones as long as there are new ones.
  std::vector<size_t> Candidates(const BlockKey& extent, size_t n) const;

 private:
  struct Node {
    uint64_t seed = 0;
    double weight = 1.0;
    size_t zone = 0;
  };
  std::vector<Node> nodes_;
  size_t n_zones_ = 0;
};

}  // namespace longshelf::kvstore
