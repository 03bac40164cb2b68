#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace longshelf::worker {

// How often the engine of a group has turned, in the file `progress` of its run directory: rank 0 writes, the
// supervisor reads. Telling a hung engine from an idle one is the writer's business: it makes an idle engine turn.
class EngineProgressWriter {
 public:
  explicit EngineProgressWriter(const std::filesystem::path& run_dir);  // what cannot be written is not written
  ~EngineProgressWriter();
  EngineProgressWriter(const EngineProgressWriter&) = delete;
  EngineProgressWriter& operator=(const EngineProgressWriter&) = delete;

  void Write(uint64_t n_turns);

 private:
  int fd_;
};

// nullopt until something was written.
std::optional<uint64_t> ReadEngineProgress(const std::filesystem::path& run_dir);

}  // namespace longshelf::worker
