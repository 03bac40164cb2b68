// Losses of power. Whatever happens when: what was acknowledged as durable is there, what was acknowledged as removed
// is not, and every byte that is served was put.
//
// The counts suit every run of the tests; for the long version:
//   LONGSHELF_CRASH_ROUNDS=5000 kvstore_disk_crash_test --gtest_filter='*Power*'
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "crash_objects.h"
#include "memory_file_system.h"

namespace longshelf::kvstore::disk {
namespace {

using Operation = MemoryFileSystem::Operation;
constexpr uint64_t kKeys = 60;

// Every test runs in the clear and encrypted.
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

// The copies are not synced one by one: a loss of power leaves torn ones in the segment that is to take them all, time
// and again. The originals fill most of a segment, so there is no room for them and for what was torn.
TEST_P(DiskCrash, NoLossOfPowerWhileTheOldestSegmentIsCopiedTakesWhatIsRetained) {
  constexpr uint64_t kRetained = 9;
  constexpr size_t kPayload = 20000;
  const DiskOptions options = SmallDisk(4);
  DatedClock clock;
  const auto retained = [&](uint64_t id) {
    return Parked(MakeObject(id, /*parent=*/1u << 30, 256, kPayload), clock.WallNow() + absl::Hours(1));
  };
  const int n_rounds = Rounds(60);
  for (int seed = 1; seed <= n_rounds; ++seed) {
    std::mt19937_64 random(static_cast<uint64_t>(seed));
    auto files = std::make_unique<MemoryFileSystem>();
    {
      auto tier = OpenTier(options, *files, clock, KeyIf(GetParam()));
      ASSERT_TRUE(tier.ok()) << tier.status();
      for (uint64_t id = 0; id < kRetained; ++id) ASSERT_TRUE(PutAndWait(**tier, retained(id)).ok());
      for (uint64_t id = 100; id < 124; ++id) {
        ASSERT_TRUE(PutAndWait(**tier, MakeObject(id, 1u << 30, 256, kPayload)).ok());
      }
    }
    for (int image = 0; image < 4; ++image) {
      std::unique_ptr<MemoryFileSystem> left;
      std::atomic<uint64_t> n_operations = 0;
      const uint64_t n_operations_left = random() % 40;
      files->SetFault([&](Operation operation) {
        if (left == nullptr && operation != Operation::kRead && n_operations++ == n_operations_left) {
          left = files->LosePower(random, /*p_kept=*/0.75);
        }
        return left != nullptr ? absl::DataLossError("no power") : absl::OkStatus();
      });
      if (auto tier = OpenTier(options, *files, clock, KeyIf(GetParam())); tier.ok()) {
        for (uint64_t id = 200; id < 220 && PutAndWait(**tier, MakeObject(id, 1u << 30, 256, kPayload)).ok();) ++id;
      }
      files->SetFault(nullptr);
      if (left == nullptr) break;
      files = std::move(left);
    }
    auto tier = OpenTier(options, *files, clock, KeyIf(GetParam()));
    ASSERT_TRUE(tier.ok()) << tier.status();
    for (uint64_t id = 0; id < kRetained; ++id) {
      const auto got = Get(**tier, BlockKeyOf(id));
      ASSERT_TRUE(got.ok()) << got.status() << " seed " << seed << " object " << id;
      EXPECT_EQ(*got, retained(id).payload);
    }
  }
}

}  // namespace
}  // namespace longshelf::kvstore::disk
