#include "ping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "figures.h"
#include "group_of_shards.h"

namespace longshelf::bench {
namespace {

constexpr int kRounds = 1000;
constexpr int kTag = 100;

// One flag for each direction, on a line of its own.
struct Flags {
  alignas(64) std::atomic<uint32_t> there;
  alignas(64) std::atomic<uint32_t> back;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// Round by round: shard 0 tells and hears, shard 1 hears and tells.
absl::StatusOr<double> Measure(engine::MpiSession& session, const std::function<absl::Status(uint32_t)>& tell,
                               const std::function<absl::Status(uint32_t)>& hear) {
  engine::Communicator& communicator = session.communicator();
  const bool first = communicator.rank() == 0;
  std::vector<double> half;
  RETURN_IF_ERROR(communicator.Barrier());
  for (uint32_t round = 1; round <= kRounds; ++round) {
    const double start = NowUs();
    RETURN_IF_ERROR(first ? tell(round) : hear(round));
    RETURN_IF_ERROR(first ? hear(round) : tell(round));
    half.push_back((NowUs() - start) / 2);
  }
  ASSIGN_OR_RETURN(const std::vector<double> all, GatherFromAll(communicator, Median(half)));
  return all[0] * 1e-6;
}

}  // namespace

absl::StatusOr<double> PingByFlag(engine::MpiSession& session, const std::string& dir) {
  engine::Communicator& communicator = session.communicator();
  if (communicator.size() != 2) return absl::InvalidArgumentError("pings are for two shards");
  const bool first = communicator.rank() == 0;
  const std::string path = absl::StrCat(dir, "/ping");
  if (!first) RETURN_IF_ERROR(communicator.Barrier());  // until the file is there
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | (first ? O_CREAT | O_EXCL : 0), 0600);
  if (fd < 0 || ftruncate(fd, sizeof(Flags)) != 0) return absl::UnavailableError(absl::StrCat("cannot make ", path));
  void* memory = mmap(nullptr, sizeof(Flags), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) return absl::UnavailableError(absl::StrCat("cannot map ", path));
  if (first) RETURN_IF_ERROR(communicator.Barrier());
  const bool yields = TakesTurns(communicator);
  auto* flags = static_cast<Flags*>(memory);  // pages of a new file are zeros
  std::atomic<uint32_t>& mine = first ? flags->there : flags->back;
  std::atomic<uint32_t>& other = first ? flags->back : flags->there;
  absl::StatusOr<double> seconds = Measure(
      session,
      [&](uint32_t round) {
        mine.store(round, std::memory_order_release);
        return absl::OkStatus();
      },
      [&](uint32_t round) {
        while (other.load(std::memory_order_acquire) != round) {
          if (yields) std::this_thread::yield();
        }
        return absl::OkStatus();
      });
  munmap(memory, sizeof(Flags));
  if (first) unlink(path.c_str());
  return seconds;
}

absl::StatusOr<MessagePing> PingByMessage(engine::MpiSession& session) {
  engine::Communicator& communicator = session.communicator();
  if (communicator.size() != 2) return absl::InvalidArgumentError("pings are for two shards");
  const int peer = 1 - communicator.rank();
  alignas(engine::kExchangeUnitBytes) std::array<std::byte, engine::kExchangeUnitBytes> bytes{};
  std::vector<double> looks;
  // Sent, it is in the kernel's hands or in the other one's memory.
  const auto tell = [&](uint32_t) -> absl::Status {
    ASSIGN_OR_RETURN(auto transfer, communicator.StartSend(peer, kTag, bytes.data(), 1));
    while (transfer.is_open()) {
      RETURN_IF_ERROR(communicator.Advance());
      RETURN_IF_ERROR(communicator.IsDone(transfer).status());
    }
    return absl::OkStatus();
  };
  const auto hear = [&](uint32_t) -> absl::Status {
    ASSIGN_OR_RETURN(auto transfer, communicator.StartReceive(peer, kTag, bytes.data(), 1));
    while (true) {
      const double start = NowUs();
      RETURN_IF_ERROR(communicator.Advance());
      ASSIGN_OR_RETURN(const bool there, communicator.IsDone(transfer));
      if (there) return absl::OkStatus();
      looks.push_back(NowUs() - start);
      std::this_thread::yield();
    }
  };
  ASSIGN_OR_RETURN(const double seconds, Measure(session, tell, hear));
  return MessagePing{.seconds = seconds, .look_s = looks.empty() ? 0 : Median(looks) * 1e-6};
}

}  // namespace longshelf::bench
