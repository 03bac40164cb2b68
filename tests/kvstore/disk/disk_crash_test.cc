// Kills and losses of power. Whatever happens when: what was acknowledged as durable is there, what was acknowledged as
// removed is not, and every byte that is served was put.
//
// The counts suit every run of the tests; for the long version:
//   LONGSHELF_CRASH_ROUNDS=5000 kvstore_disk_crash_test --gtest_filter='*Power*'
//   LONGSHELF_CRASH_ROUNDS=10000 kvstore_disk_crash_test --gtest_filter='*Kill*'
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>

#include "absl/strings/numbers.h"
#include "disk/posix_file_system.h"
#include "disk_fixture.h"
#include "memory_file_system.h"

namespace longshelf::kvstore::disk {
namespace {

using Operation = MemoryFileSystem::Operation;
constexpr uint64_t kRoot = 1u << 30;
constexpr uint64_t kKeys = 60;

int Rounds(int usual) {
  const char* text = std::getenv("LONGSHELF_CRASH_ROUNDS");
  int rounds = 0;
  return text != nullptr && absl::SimpleAtoi(text, &rounds) ? rounds : usual;
}

constexpr uint64_t kNamespaces = 3;

std::string NamespaceOf(uint64_t id) { return "namespace-" + std::to_string(id % kNamespaces); }

Object ObjectOf(uint64_t id) {
  Object object = MakeObject(id, kRoot, 256, 1 + (id * 7919) % 40000);
  object.head.namespace_id = NamespaceOf(id);
  return object;
}

// Every test runs in the clear and encrypted.
std::unique_ptr<const SecretKey> KeyIf(bool encrypted) { return encrypted ? MasterKey(1) : nullptr; }
class DiskCrash : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Clear, DiskCrash, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Encrypted, DiskCrash, ::testing::Values(true));

// What has been promised of each key.
struct Promise {
  std::optional<Answer> put = std::nullopt;      // a parked put since the last drop
  std::optional<Answer> touched = std::nullopt;  // a longer retention since the last drop
  std::optional<Answer> dropped = std::nullopt;  // a drop since the last put
};

class CrashModel {
 public:
  CrashModel(uint64_t seed, bool encrypted) : random_(seed), encrypted_(encrypted) {}

  void Run(MemoryFileSystem& files) {
    auto opened = OpenTier(SmallDisk(), files, clock_, KeyIf(encrypted_));
    if (!opened.ok()) return;  // the power went at the start
    std::unique_ptr<DiskTier> tier = *std::move(opened);
    Check(*tier);
    const uint64_t n_steps = 20 + random_() % 200;
    Answer last;
    for (uint64_t step = 0; step < n_steps && !lost_; ++step) {
      const uint64_t id = random_() % kKeys;
      const uint64_t what = random_() % 16;
      Answer answer;
      if (what < 3) {
        promises_[id].put = answer;
        promises_[id].dropped.reset();
        Put(*tier, Parked(ObjectOf(id), clock_.WallNow() + absl::Hours(1)), answer.Done());
      } else if (what == 3) {
        const ObjectKey keys[] = {BlockKeyOf(id)};
        promises_[id] = {.dropped = answer};
        tier->Drop(keys, answer.Done());
      } else if (what == 4 && random_() % 4 == 0) {
        for (uint64_t other = id % kNamespaces; other < kKeys; other += kNamespaces) {
          promises_[other] = {.dropped = answer};
        }
        tier->DropNamespace(NamespaceOf(id), answer.Done());
      } else if (what == 5) {
        if (!tier->Touch(BlockKeyOf(id), TouchedUntil(), answer.Done()).ok()) continue;
        promises_[id].touched = answer;
      } else {
        // Fills the disk; nothing is promised, and nothing changes of what was.
        Put(*tier, ObjectOf(kKeys + random_() % 500), answer.Done());
      }
      last = answer;
      if (random_() % 4 == 0) (void)last.Wait();
    }
    // What the loss of power did not cause.
    const bool fenced = tier->Stats().fenced;
    ASSERT_TRUE(!fenced || lost_);
  }

  // Every promise of before the crash.
  void Check(DiskTier& tier) {
    for (auto& [id, promise] : promises_) {
      const auto got = Get(tier, BlockKeyOf(id));
      if (got.ok()) {
        ASSERT_EQ(*got, ObjectOf(id).payload) << id;
      } else {
        ASSERT_EQ(got.status().code(), absl::StatusCode::kNotFound) << id << got.status();
      }
      if (promise.put.has_value() && promise.put->IsOk()) {
        ASSERT_TRUE(got.ok()) << id << ": was acknowledged and is lost";
        ASSERT_EQ(tier.index().Find(BlockKeyOf(id))->head.object_class, ObjectClass::kParked);
      }
      if (promise.touched.has_value() && promise.touched->IsOk()) {
        ASSERT_TRUE(got.ok()) << id << ": was acknowledged and is lost";
        ASSERT_GE(tier.index().Find(BlockKeyOf(id))->head.retain_until, TouchedUntil()) << id;
      }
      if (promise.dropped.has_value() && promise.dropped->IsOk()) {
        ASSERT_FALSE(got.ok()) << id << ": was removed and came back";
      }
    }
    for (uint64_t id = kKeys; id < kKeys + 500; ++id) {
      const auto got = Get(tier, BlockKeyOf(id));
      if (got.ok()) {
        ASSERT_EQ(*got, ObjectOf(id).payload);
      }
    }
  }

  // Loses the power before some operation of the run.
  void RunUntilPowerIsLost(std::unique_ptr<MemoryFileSystem>& files) {
    std::unique_ptr<MemoryFileSystem> image;
    const uint64_t n_operations_left = random_() % 150;
    const double p_kept = static_cast<double>(random_() % 5) / 4;
    auto power = std::make_shared<std::mt19937_64>(random_());
    std::atomic<uint64_t> n_operations = 0;
    files->SetFault([&](Operation operation) {
      if (operation != Operation::kRead && n_operations++ == n_operations_left) {
        image = files->LosePower(*power, p_kept);
        lost_ = true;
      }
      return lost_ ? absl::DataLossError("no power") : absl::OkStatus();
    });
    Run(*files);
    files->SetFault(nullptr);
    if (image == nullptr) image = files->LosePower(*power, p_kept);
    files = std::move(image);
    lost_ = false;
  }

  void CheckAfterwards(MemoryFileSystem& files) {
    auto tier = OpenTier(SmallDisk(), files, clock_, KeyIf(encrypted_));
    ASSERT_TRUE(tier.ok()) << tier.status();
    Check(**tier);
    // All of it was read; there is room all the same.
    const absl::Status status = PutAndWait(**tier, ObjectOf(kKeys + 500));
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_FALSE((*tier)->Stats().fenced);
  }

 private:
  absl::Time TouchedUntil() const { return clock_.WallNow() + absl::Hours(2); }

  std::mt19937_64 random_;
  const bool encrypted_;
  DatedClock clock_;
  std::map<uint64_t, Promise> promises_;
  std::atomic<bool> lost_ = false;
};

TEST_P(DiskCrash, NoLossOfPowerTakesWhatWasAcknowledged) {
  const int n_rounds = Rounds(500);
  int n_images = 0;
  for (uint64_t seed = 1; n_images < n_rounds; ++seed) {
    CrashModel model(seed, GetParam());
    auto files = std::make_unique<MemoryFileSystem>();
    // One disk goes through several.
    for (int i = 0; i < 5; ++i, ++n_images) {
      model.RunUntilPowerIsLost(files);
      if (::testing::Test::HasFatalFailure()) FAIL() << "seed " << seed << " image " << i;
    }
    model.CheckAfterwards(*files);
    if (::testing::Test::HasFatalFailure()) FAIL() << "seed " << seed;
  }
}

// Real files, and a process that is killed at a named point of its n-th operation there.
enum class KillPoint {
  kNever,
  kBeforeWrite,
  kInWrite,
  kAfterWrite,
  kBeforeSync,
  kAfterSync,
  kBeforeAllocate,
  kAfterAllocate,
  kBeforeSyncDirectory,
  kAfterSyncDirectory,
  kBeforeRename,
  kAfterRename,
  kBeforeRemove,
  kAfterRemove,
  kPoints
};

class KillingFile final : public File {
 public:
  using Hit = std::function<void(KillPoint)>;
  KillingFile(std::unique_ptr<File> file, Hit hit) : file_(std::move(file)), hit_(std::move(hit)) {}

  absl::StatusOr<size_t> ReadSome(uint64_t offset, std::span<std::byte> out) override {
    return file_->ReadSome(offset, out);
  }
  absl::StatusOr<size_t> WriteSome(uint64_t offset, std::span<const std::span<const std::byte>> pieces) override {
    hit_(KillPoint::kBeforeWrite);
    // The first half only, then the point.
    const std::span<const std::byte> half[] = {pieces[0].first(PaddedBytes(pieces[0].size() / 2))};
    const auto n = file_->WriteSome(offset, pieces.size() == 1 ? half : pieces.first(1));
    hit_(pieces.size() == 1 && half[0].size() == pieces[0].size() ? KillPoint::kAfterWrite : KillPoint::kInWrite);
    return n;
  }
  absl::Status SyncData() override {
    hit_(KillPoint::kBeforeSync);
    const absl::Status status = file_->SyncData();
    hit_(KillPoint::kAfterSync);
    return status;
  }
  absl::Status Preallocate(uint64_t n_bytes) override {
    hit_(KillPoint::kBeforeAllocate);
    const absl::Status status = file_->Preallocate(n_bytes);
    hit_(KillPoint::kAfterAllocate);
    return status;
  }
  absl::StatusOr<uint64_t> Size() override { return file_->Size(); }

 private:
  const std::unique_ptr<File> file_;
  const Hit hit_;
};

class KillingFileSystem final : public FileSystem {
 public:
  KillingFileSystem(KillPoint point, uint64_t n_passes)
      : files_(MakePosixFileSystem(DirectIo::kNever)), point_(point), n_passes_left_(n_passes) {}

  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path, bool create) override {
    auto file = files_->Open(path, create);
    if (!file.ok()) return file.status();
    return std::make_unique<KillingFile>(*std::move(file), [this](KillPoint point) { Hit(point); });
  }
  absl::StatusOr<std::unique_ptr<DirectoryLock>> Lock(const std::string& directory) override {
    return files_->Lock(directory);
  }
  absl::Status Remove(const std::string& path) override {
    Hit(KillPoint::kBeforeRemove);
    const absl::Status status = files_->Remove(path);
    Hit(KillPoint::kAfterRemove);
    return status;
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    Hit(KillPoint::kBeforeRename);
    const absl::Status status = files_->Rename(from, to);
    Hit(KillPoint::kAfterRename);
    return status;
  }
  absl::Status CreateDirectory(const std::string& path) override { return files_->CreateDirectory(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    return files_->List(directory);
  }
  absl::Status SyncDirectory(const std::string& directory) override {
    Hit(KillPoint::kBeforeSyncDirectory);
    const absl::Status status = files_->SyncDirectory(directory);
    Hit(KillPoint::kAfterSyncDirectory);
    return status;
  }

 private:
  void Hit(KillPoint point) {
    if (point == point_ && n_passes_left_-- == 0) (void)raise(SIGKILL);
  }

  const std::unique_ptr<FileSystem> files_;
  const KillPoint point_;
  std::atomic<uint64_t> n_passes_left_;
};

DiskOptions RealDisk(const std::string& directory) {
  // Room for what 20 rounds retain; all that they write goes around more than once.
  DiskOptions options = SmallDisk(40);
  options.directory = directory;
  return options;
}

// In the child: puts objects, and says on the pipe which were acknowledged. Retained: 1/8 of the keys.
void PutUntilKilled(const std::string& directory, bool encrypted, uint64_t first_id, KillPoint point, uint64_t n_passes,
                    int pipe) {
  KillingFileSystem files(point, n_passes);
  DatedClock clock;
  auto tier = OpenTier(RealDisk(directory), files, clock, KeyIf(encrypted));
  if (!tier.ok()) _exit(1);
  for (uint64_t id = first_id;; ++id) {
    const bool durable = id % 8 == 0;
    Object object = durable ? Parked(ObjectOf(id), clock.WallNow() + absl::Hours(1)) : ObjectOf(id);
    if (id % 4 == 1) {
      // Comes and goes, and its key with it.
      object.head.namespace_id = "passing";
      Put(**tier, object, nullptr);
      (*tier)->DropNamespace("passing", nullptr);
    } else if (!durable) {
      Put(**tier, object, nullptr);
    } else if (!PutAndWait(**tier, object).ok() || write(pipe, &id, sizeof id) != sizeof id) {
      _exit(2);
    }
  }
}

TEST_P(DiskCrash, NoKillTakesWhatWasAcknowledged) {
  const std::string directory = ::testing::TempDir() + (GetParam() ? "/disk_kill_test_encrypted" : "/disk_kill_test");
  std::filesystem::remove_all(directory);
  std::mt19937_64 random(5);
  DatedClock clock;
  const int n_rounds = Rounds(200);
  uint64_t next_id = 0;
  std::vector<uint64_t> acknowledged;
  uint64_t n_acknowledged = 0;
  for (int round = 0; round < n_rounds; ++round) {
    if (round % 20 == 0) {  // a new disk: before the retained ones fill it
      std::filesystem::remove_all(directory);
      acknowledged.clear();
    }
    const auto point = static_cast<KillPoint>(static_cast<uint64_t>(round) % static_cast<uint64_t>(KillPoint::kPoints));
    const uint64_t n_passes = random() % 40;
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(pipe_ends[0]);
      PutUntilKilled(directory, GetParam(), next_id, point, n_passes, pipe_ends[1]);
    }
    close(pipe_ends[1]);
    // Points of the start are passed a few times only: then, and for kNever, it is killed at random.
    const uint64_t n_acks_until_kill = random() % 8;
    uint64_t id = 0;
    for (uint64_t n_acks = 0; read(pipe_ends[0], &id, sizeof id) == sizeof id; ++n_acks) {
      acknowledged.push_back(id);
      ++n_acknowledged;
      next_id = id + 1;
      if (n_acks == n_acks_until_kill) kill(child, SIGKILL);
    }
    close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "round " << round << ": exit " << WEXITSTATUS(status);
    const auto files = MakePosixFileSystem(DirectIo::kNever);
    auto tier = OpenTier(RealDisk(directory), *files, clock, KeyIf(GetParam()));
    ASSERT_TRUE(tier.ok()) << tier.status() << " round " << round;
    for (const uint64_t known : acknowledged) {
      const auto got = Get(**tier, BlockKeyOf(known));
      ASSERT_TRUE(got.ok()) << known << " in round " << round << ": " << got.status();
      ASSERT_EQ(*got, ObjectOf(known).payload);
    }
  }
  EXPECT_GT(n_acknowledged, static_cast<uint64_t>(n_rounds) / 2);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace longshelf::kvstore::disk
