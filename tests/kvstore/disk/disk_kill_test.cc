// Kills of a process with real files, at named points or at any time. What was acknowledged before is so afterwards:
// objects are there until their time, removed ones are not.
//
// The count suits every run of the tests; for the long version:
//   LONGSHELF_CRASH_ROUNDS=10000 kvstore_disk_crash_test --gtest_filter='*Kill*'
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>
#include <random>
#include <semaphore>

#include "crash_objects.h"
#include "killing_file_system.h"

namespace longshelf::kvstore::disk {
namespace {

// What a process does, and says on its pipe. Of each eight objects, the first is retained.
enum class Event : uint64_t {
  kPut,         // a retained object is durable
  kRefused,     // it is not, and was not removed either
  kTouched,     // a longer retention is durable
  kDropAsked,   // it may be gone from now on
  kDropped,     // it is gone for good
  kAllDropped,  // so is this one, which passed through with its namespace
};
struct Message {
  Event event;
  uint64_t id;
};

constexpr uint64_t kRetainedEvery = 8;
constexpr std::ptrdiff_t kInFlight = 20;
bool IsPassing(uint64_t id) { return id % 4 == 1; }

struct Round {
  std::string directory;
  bool encrypted = false;
  bool plain_files = false;  // through the page cache, by pwrite
  uint64_t first_id = 0;
  KillPoint point = KillPoint::kNever;
  uint64_t n_passes = 0;
};

std::unique_ptr<FileSystem> FilesOf(const Round& round) {
  return round.plain_files ? MakePosixFileSystem(DirectIo::kNever, WriteMethod::kPwrite)
                           : MakePosixFileSystem(DirectIo::kAuto);
}

DiskOptions RealDisk(const std::string& directory) {
  // Room for what 20 rounds retain; all that they write goes around more than once.
  DiskOptions options = SmallDisk(60);
  options.directory = directory;
  return options;
}

absl::Time RetainedUntil(const Clock& clock) { return clock.WallNow() + absl::Hours(1); }
absl::Time TouchedUntil(const Clock& clock) { return clock.WallNow() + absl::Hours(2); }

// In the child. Several operations are under way at once, so that records are written in groups.
class KilledProcess {
 public:
  KilledProcess(const Round& round, int pipe)
      : files_(FilesOf(round), RealDisk("").segment_bytes, round.point, round.n_passes), pipe_(pipe) {
    auto tier = OpenTier(RealDisk(round.directory), files_, clock_, KeyIf(round.encrypted));
    if (!tier.ok()) _exit(1);
    tier_ = *std::move(tier);
  }

  void Step(uint64_t id) {
    // Long enough ago to have been answered, in this process or one before.
    const uint64_t known = id - id % kRetainedEvery - kRetainedEvery * (4 + id * 7 % 13);
    if (id % kRetainedEvery == 0) {
      Put(*tier_, Parked(ObjectOf(id), RetainedUntil(clock_)), Begun(Event::kPut, id));
    } else if (id % kRetainedEvery == 4 && known < id) {
      const ObjectKey key = BlockKeyOf(known);
      const DiskTier::Done done = Begun(Event::kTouched, known);
      if (!tier_->Touch(key, TouchedUntil(clock_), done).ok()) under_way_.release();
    } else if (id % kRetainedEvery == 6 && known < id) {
      Say(Event::kDropAsked, known);
      const ObjectKey keys[] = {BlockKeyOf(known)};
      tier_->Drop(keys, Begun(Event::kDropped, known));
    } else if (IsPassing(id)) {
      // Comes and goes, and its key with it.
      Object object = ObjectOf(id);
      object.head.namespace_id = "passing";
      Put(*tier_, object, Begun());
      tier_->DropNamespace("passing", Begun(Event::kAllDropped, id));
    } else {
      Put(*tier_, ObjectOf(id), Begun());
    }
  }

 private:
  // When it is done it is said.
  DiskTier::Done Begun(std::optional<Event> event = std::nullopt, uint64_t id = 0) {
    under_way_.acquire();
    return [this, event, id](const absl::Status& status) {
      files_.Hit(KillPoint::kBeforeAcknowledgement);
      if (event.has_value() && status.ok()) Say(*event, id);
      if (event == Event::kPut && !status.ok()) Say(Event::kRefused, id);
      files_.Hit(KillPoint::kAfterAcknowledgement);
      under_way_.release();
    };
  }
  void Say(Event event, uint64_t id) {
    const Message message{event, id};
    if (write(pipe_, &message, sizeof message) != sizeof message) _exit(2);
  }

  KillingFileSystem files_;
  DatedClock clock_;
  const int pipe_;
  std::counting_semaphore<kInFlight> under_way_{kInFlight};
  std::unique_ptr<DiskTier> tier_;
};

// In the parent: what the processes that used one disk said.
class Promises {
 public:
  void Note(const Message& message) {
    last_id_ = std::max(last_id_, message.id);
    if (message.event == Event::kAllDropped) return passed_.push_back(message.id);
    Promise& promise = promises_[message.id];
    switch (message.event) {
      case Event::kPut:
        promise.put = true;
        break;
      case Event::kRefused:
        EXPECT_TRUE(promise.drop_asked) << message.id << " was refused";
        break;
      case Event::kTouched:
        promise.touched = true;
        break;
      case Event::kDropAsked:
        promise.drop_asked = true;
        break;
      case Event::kDropped:
        promise.dropped = true;
        break;
      case Event::kAllDropped:
        break;
    }
  }

  void Check(DiskTier& tier, const Clock& clock) const {
    for (const auto& [id, promise] : promises_) {
      const auto got = Get(tier, BlockKeyOf(id));
      if (promise.dropped) {
        ASSERT_FALSE(got.ok()) << id << ": was removed and came back";
      }
      if (got.ok()) {
        ASSERT_EQ(*got, ObjectOf(id).payload);
      }
      if (promise.drop_asked || !(promise.put || promise.touched)) continue;
      ASSERT_TRUE(got.ok()) << id << ": was acknowledged and is lost: " << got.status();
      const absl::Time until = promise.touched ? TouchedUntil(clock) : RetainedUntil(clock);
      ASSERT_GE(tier.index().Find(BlockKeyOf(id))->head.retain_until, until) << id;
    }
    for (const uint64_t id : passed_) ASSERT_FALSE(Get(tier, BlockKeyOf(id)).ok()) << id << ": its namespace went";
  }

  // Past whatever may have been begun.
  uint64_t NextId() const { return last_id_ - last_id_ % kRetainedEvery + 8 * kRetainedEvery; }

 private:
  struct Promise {
    bool put = false;
    bool touched = false;
    bool drop_asked = false;
    bool dropped = false;
  };
  std::map<uint64_t, Promise> promises_;
  std::vector<uint64_t> passed_;
  uint64_t last_id_ = 0;
};

// Lets it do what it does until it is killed, at its point, or, as some points are passed a few times only, some time
// after so many puts were acknowledged. What it said, by event.
void RunUntilKilled(const Round& round, uint64_t n_puts_until_kill, Promises& promises, std::map<Event, int>& n_said) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(pipe_ends[0]);
    KilledProcess process(round, pipe_ends[1]);
    for (uint64_t id = round.first_id;; ++id) process.Step(id);
  }
  close(pipe_ends[1]);
  Message message{};
  for (uint64_t n_puts = 0; read(pipe_ends[0], &message, sizeof message) == sizeof message;) {
    promises.Note(message);
    ++n_said[message.event];
    const bool is_put = message.event == Event::kPut;
    if ((is_put && n_puts++ == n_puts_until_kill) || message.event == Event::kRefused) kill(child, SIGKILL);
  }
  close(pipe_ends[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
}

// In the clear and encrypted.
class DiskKill : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Clear, DiskKill, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Encrypted, DiskKill, ::testing::Values(true));

TEST_P(DiskKill, NoKillTakesWhatWasAcknowledged) {
  Round round;
  round.directory = ::testing::TempDir() + (GetParam() ? "/disk_kill_test_encrypted" : "/disk_kill_test");
  round.encrypted = GetParam();
  std::mt19937_64 random(5);
  DatedClock clock;
  Promises promises;
  std::map<Event, int> n_said;
  const int n_rounds = Rounds(200);
  for (int i = 0; i < n_rounds; ++i) {
    if (i % 20 == 0) {  // a new disk: before the retained ones fill it
      std::filesystem::remove_all(round.directory);
      promises = Promises();
    }
    round.plain_files = i % 3 == 2;
    round.first_id = promises.NextId();
    round.point = static_cast<KillPoint>(static_cast<uint64_t>(i) % static_cast<uint64_t>(KillPoint::kPoints));
    round.n_passes = random() % PassesOf(round.point);
    RunUntilKilled(round, random() % 8, promises, n_said);
    const auto files = FilesOf(round);
    auto tier = OpenTier(RealDisk(round.directory), *files, clock, KeyIf(round.encrypted));
    ASSERT_TRUE(tier.ok()) << tier.status() << " round " << i;
    promises.Check(**tier, clock);
    if (HasFailure()) FAIL() << "round " << i;
  }
  for (const Event event : {Event::kPut, Event::kTouched, Event::kDropped, Event::kAllDropped}) {
    EXPECT_GT(n_said[event], n_rounds / 4) << static_cast<int>(event);
  }
  std::filesystem::remove_all(round.directory);
}

}  // namespace
}  // namespace longshelf::kvstore::disk
