#pragma once

#include <deque>
#include <optional>
#include <vector>

namespace longshelf::simulation {

// The cores of one machine, as a scheduler gives them to ranks: whoever was ready first, for a quantum at a time.
class CoreQueue {
 public:
  // n_at_once: ranks that compute at the same time, of the n_here of this machine; n_ranks: of all. switch_s: when a
  // core goes over to another rank, and again for each that waits for that core, which looks whether it has to wait on.
  CoreQueue(int n_at_once, int n_here, int n_ranks, double quantum_s, double switch_s);

  struct Slice {
    int rank;
    double seconds;
    bool is_last;  // then its work is done
  };
  // A rank that has no work yet gets some.
  void Submit(int rank, double work_s);
  // The next slice that can begin now; the caller says when it has ended.
  std::optional<Slice> Start();
  void End(const Slice& slice);

 private:
  struct Task {
    int rank;
    double left_s;
  };
  const int n_at_once_;
  const int n_here_;
  const double quantum_s_;
  const double switch_s_;
  int n_free_;
  std::deque<Task> ready_;
  std::vector<double> left_;  // by rank, of running slices
  std::vector<int> last_;     // ranks that ran last, one for each core
};

}  // namespace longshelf::simulation
