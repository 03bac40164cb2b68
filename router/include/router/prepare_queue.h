#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace longshelf::router {

// What is too slow for the loop: decoding, parsing, rendering, tokenizing, hashing.
struct PrepareJob {
  std::string payer;     // jobs of different payers take turns
  uint64_t n_bytes = 0;  // how long it may take, and how much memory it may need meanwhile
  std::function<void()> work;
  std::function<void()> done;
};

// Which job is next, so that nobody's large ones are in the way of anybody's small ones: those have a lane and, of
// several threads, one of their own. Within a lane payers take turns by bytes; of one payer the shortest is first, and
// the longer one waits the shorter those must be that pass it. No locks: PreparePool's.
class PrepareQueue {
 public:
  struct Limits {
    size_t n_threads = 2;
    size_t n_waiting_max = 512;  // a payer may have as many as there are places left beside them
    uint64_t n_small_bytes = uint64_t{64} << 10;
    // Of large jobs that run at a time, unless one alone has more.
    uint64_t n_running_bytes_max = uint64_t{64} << 20;
  };
  explicit PrepareQueue(const Limits& limits) : limits_(limits) {}

  // False: there is enough to do already, and `job` is as it was.
  bool Push(PrepareJob&& job);
  // Nothing: no other may run now. To be followed by OnDone.
  std::optional<PrepareJob> Pop();
  void OnDone(uint64_t n_bytes);
  size_t n_waiting() const { return small_.n_jobs + large_.n_jobs; }

 private:
  struct Payer {
    uint64_t n_served = 0;  // bytes, on the clock of its lane
    std::multimap<uint64_t, PrepareJob> jobs;
  };
  struct Lane {
    void Push(PrepareJob&& job, uint64_t urgency);
    // Whose turn it is. REQUIRES: there are jobs.
    std::map<std::string, Payer>::iterator Next();
    PrepareJob Pop();
    std::map<std::string, Payer> payers;  // that have jobs
    uint64_t clock = 0;                   // what a payer that comes now is taken to have had
    size_t n_jobs = 0;
  };
  bool is_large(uint64_t n_bytes) const { return n_bytes > limits_.n_small_bytes; }
  bool MayRunLarge();
  size_t CountOf(const std::string& payer) const;

  const Limits limits_;
  Lane small_;
  Lane large_;
  uint64_t n_pushed_ = 0;
  size_t n_large_running_ = 0;
  uint64_t n_large_bytes_running_ = 0;
  size_t n_small_in_a_row_ = 0;
};

}  // namespace longshelf::router
