#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longshelf::engine {

// How idle shards wait without burning a core: a page shared through the group's run directory with one counter, which
// the leader raises before every step. A short spin first, so that back-to-back steps cost no system call.
class Doorbell {
 public:
  // The leader creates the page (and replaces what is there); the others open it, which must come after.
  static absl::StatusOr<std::unique_ptr<Doorbell>> Create(const std::string& run_dir, uint64_t generation);
  // FAILED_PRECONDITION when the page belongs to another generation.
  static absl::StatusOr<std::unique_ptr<Doorbell>> Open(const std::string& run_dir, uint64_t generation);
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  // Leader: one more step begins.
  void Ring();

  // Others: true once the count passes the number of rings this object has already answered, and answers one.
  // False after `timeout`.
  bool Wait(absl::Duration timeout);

 private:
  struct Page;
  explicit Doorbell(Page* page) : page_(page) {}
  static absl::StatusOr<std::unique_ptr<Doorbell>> Map(int fd);

  Page* page_;
  uint32_t answered_ = 0;
};

}  // namespace longshelf::engine
