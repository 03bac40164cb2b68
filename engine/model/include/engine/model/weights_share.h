#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longshelf::engine {

// How the shards of a group hold one copy of the weights: the leader copies, the others wait and then map what it has
// copied. A small file, whose lock the leader holds until the copy is there, tells them where it is; the memory itself
// has no name. Closing it, by whatever end of the process, lets the others go on.
class WeightsShare {
 public:
  // The leader makes the file, which must not exist.
  static absl::StatusOr<std::unique_ptr<WeightsShare>> Lead(const std::filesystem::path& file);
  // The others open it, which must come after. Does not wait.
  static absl::StatusOr<std::unique_ptr<WeightsShare>> Join(const std::filesystem::path& file);
  ~WeightsShare();
  WeightsShare(const WeightsShare&) = delete;
  WeightsShare& operator=(const WeightsShare&) = delete;

  bool leads() const { return leads_; }
  // Leader, once: what the others wait for, at most 4 KiB.
  absl::Status Publish(const std::string& text);
  // Others: waits for it. UNAVAILABLE: the leader ended without.
  absl::StatusOr<std::string> Await();

 private:
  WeightsShare(int fd, bool leads) : fd_(fd), leads_(leads) {}
  const int fd_;
  const bool leads_;
};

}  // namespace longshelf::engine
