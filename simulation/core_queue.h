#pragma once

#include <deque>
#include <optional>

namespace longshelf::simulation {

// A core, or as many as one rank computes with, as a scheduler gives it to the ranks that live there: whoever was ready
// first, for a quantum at a time. A rank that waits polls, so it looks busy, and none is moved to another core.
class CoreQueue {
 public:
  // n_here: ranks that live there. switch_s: when the core goes over to another one. One that waits gets its turns,
  // too, and looks whether it has to wait on: half of them do before whoever is ready.
  CoreQueue(int n_here, double quantum_s, double switch_s)
      : n_here_(n_here), quantum_s_(quantum_s), switch_s_(switch_s) {}

  struct Slice {
    int rank;
    double seconds;
    bool is_last;  // then its work is done
  };
  // A rank that has no work yet gets some. Whose work ended just now keeps the core.
  void Submit(int rank, double work_s);
  // The next slice that can begin now; the caller says when it has ended.
  std::optional<Slice> Start();
  void End(const Slice& slice);

 private:
  struct Task {
    int rank;
    double left_s;
  };
  const int n_here_;
  const double quantum_s_;
  const double switch_s_;
  bool is_running_ = false;
  bool has_ended_ = false;  // and nobody was given the core since
  bool was_idle_ = false;   // all looked whether they have to wait on
  int last_ = -1;           // who ran last
  double left_s_ = 0;       // of it, after the slice that runs
  std::deque<Task> ready_;
};

}  // namespace longshelf::simulation
