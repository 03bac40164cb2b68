#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/model/weights.h"

namespace longshelf::engine {

// With less memory than weights, experts that the gate chose may have to come from storage. This has the kernel begin
// to read all of them at once, in the background, while the shared expert computes; a page that is not there yet is
// then waited for by whoever touches it. Called by the engine thread, which never waits here.
//
// While this process reads nothing from storage, everything is in memory and nothing is asked for: all that is left is
// one getrusage in every few calls.
class ExpertPrefetch {
 public:
  // `from_files`: the weights are mapped files. Otherwise nothing is ever due, and there is no thread.
  explicit ExpertPrefetch(bool from_files);
  ~ExpertPrefetch();
  ExpertPrefetch(const ExpertPrefetch&) = delete;
  ExpertPrefetch& operator=(const ExpertPrefetch&) = delete;

  // Once for each set of chosen experts: whether some of their pages may be absent.
  bool IsDue();
  void Ask(const ExpertWeights& expert);

 private:
  struct Range {
    const uint8_t* data;
    size_t n_bytes;
  };
  // The most recent requests; an older one that was not served yet gives way, as its expert is in use by now.
  struct Queue;

  void AskRange(const uint8_t* data, size_t n_bytes);
  static void Serve(Queue& queue);

  int64_t n_read_ = 0;   // what the kernel counted when it was last asked
  int64_t n_quiet_ = 0;  // looks since that changed
  int64_t n_calls_ = 0;
  std::unique_ptr<Queue> queue_;
  std::thread thread_;
};

}  // namespace longshelf::engine
