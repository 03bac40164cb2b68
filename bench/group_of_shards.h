#pragma once

#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/status.h"
#include "engine/comm/communicator.h"
#include "engine/comm/mpi_session.h"
#include "process/available_processors.h"

// What benchmarks that mpirun starts have in common.
namespace longshelf::bench {

inline double NowUs() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// run_dir: empty, for the group's files.
inline absl::StatusOr<std::unique_ptr<engine::MpiSession>> JoinGroup(const std::string& run_dir) {
  engine::MpiSessionOptions options;
  options.run_dir = run_dir;
  options.generation = 1;
  options.n_shards = engine::ReadLaunchPosition().value_or(engine::LaunchPosition()).size;
  return engine::MpiSession::Start(std::move(options));
}

// Whether shards have to share processors.
inline bool TakesTurns(const engine::Communicator& communicator) {
  return communicator.size() > FindAvailableProcessors().n;
}

// Everybody's, by rank.
template <typename T>
absl::StatusOr<std::vector<T>> GatherFromAll(engine::Communicator& communicator, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   engine::AllGather(communicator, std::string(reinterpret_cast<const char*>(&mine), sizeof(mine))));
  std::vector<T> out(all.size());
  for (size_t r = 0; r < all.size(); ++r) std::memcpy(&out[r], all[r].data(), sizeof(T));
  return out;
}

}  // namespace longshelf::bench
