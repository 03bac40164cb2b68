// Weights in mapped files and in huge pages: the same bits, one copy, nothing left in the page cache.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <future>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "huge_memory.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;
using Weights = std::shared_ptr<const ModelWeights>;

constexpr LoadOptions kHuge = {WeightsMemory::kHuge, nullptr};

absl::StatusOr<Weights> Load(const std::filesystem::path& dir, const LoadOptions& options = {},
                             const ProgressFunction& progress = nullptr) {
  absl::StatusOr<std::unique_ptr<const ModelWeights>> weights = LoadModelWeights(dir, progress, options);
  if (!weights.ok()) return weights.status();
  return Weights(std::move(*weights));
}

std::filesystem::path CopyOf(const std::string& model) {
  const std::filesystem::path dir = testing::MakeTempDir("weights") / "model";
  std::filesystem::copy(testing::ModelPath(model), dir, std::filesystem::copy_options::recursive);
  return dir;
}

std::vector<std::filesystem::path> TensorFiles(const std::filesystem::path& dir) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  return files;
}

// How many of their pages are in the page cache.
size_t CountResident(const std::vector<std::filesystem::path>& files) {
  size_t n_resident = 0;
  for (const std::filesystem::path& path : files) {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    const size_t n_bytes = std::filesystem::file_size(path);
    void* data = mmap(nullptr, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
    std::vector<unsigned char> pages((n_bytes + 4095) / 4096);
    EXPECT_EQ(mincore(data, n_bytes, pages.data()), 0);
    for (const unsigned char page : pages) n_resident += page & 1U;
    munmap(data, n_bytes);
    close(fd);
  }
  return n_resident;
}

// Drops what nobody maps. False where files live in memory.
bool DropPages(const std::vector<std::filesystem::path>& files) {
  for (const std::filesystem::path& path : files) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
  return CountResident(files) == 0;
}

size_t CountPages(const std::vector<std::filesystem::path>& files) {
  size_t n = 0;
  for (const std::filesystem::path& path : files) n += (std::filesystem::file_size(path) + 4095) / 4096;
  return n;
}

// Drops the pages of files that this process maps.
bool DropMappedPages(const std::filesystem::path& dir, const std::vector<std::filesystem::path>& files) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(dir.string()) == std::string::npos) continue;
    char* end = nullptr;
    const uintptr_t begin = std::strtoull(line.c_str(), &end, 16);
    const size_t n_bytes = std::strtoull(end + 1, nullptr, 16) - begin;
    EXPECT_EQ(madvise(reinterpret_cast<void*>(begin), n_bytes, MADV_DONTNEED), 0);
  }
  return DropPages(files);
}

std::vector<float> Logits(const Weights& weights, int n_threads) {
  LocalExpertTransport transport;
  ModelOptions options;
  options.n_threads = n_threads;
  const auto model = Model::Create(weights, options, transport);
  EXPECT_TRUE(model.ok()) << model.status();
  std::vector<uint32_t> tokens(80);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<uint32_t>((i * 7919 + 3) % static_cast<size_t>(weights->config.vocab_size));
  }
  SequenceMemory memory((*model)->layout(), static_cast<int64_t>(tokens.size()));
  std::vector<float> logits;
  for (size_t done = 0; done < tokens.size(); done += 20) {
    const auto next = std::span(tokens).subspan(done, 20);
    const auto out = (*model)->Forward({{memory.Chunk(static_cast<int64_t>(done), next, WantLogits::kAll)}});
    EXPECT_TRUE(out.ok()) << out.status();
    logits.insert(logits.end(), out->logits.begin(), out->logits.end());
  }
  return logits;
}

void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_FALSE(a.empty());
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);
}

class EveryModel : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, EveryModel, ::testing::Values("demo", "micro-flash", "micro-pro", "micro-odd"));

TEST_P(EveryModel, GivesTheSameBitsFromFilesAndFromHugePages) {
  const auto mapped = Load(testing::ModelPath(GetParam()));
  LoadProgress last;
  const auto huge = Load(testing::ModelPath(GetParam()), kHuge, [&](const LoadProgress& progress) { last = progress; });
  ASSERT_TRUE(mapped.ok() && huge.ok()) << mapped.status() << huge.status();
  EXPECT_TRUE((*mapped)->from_files);
  EXPECT_FALSE((*huge)->from_files);
  EXPECT_THAT((*huge)->huge_pages, HasSubstr("GiB in "));
  EXPECT_EQ((*huge)->digest, (*mapped)->digest);
  EXPECT_EQ((*huge)->unused_tensors, (*mapped)->unused_tensors);
  EXPECT_GT(last.bytes_total, 0U);
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  ExpectSameBits(Logits(*huge, 2), Logits(*mapped, 1));
}

TEST(MappedWeights, GiveTheSameBitsWhenTheirPagesHaveBeenDropped) {
  const std::filesystem::path dir = CopyOf("demo");
  const auto weights = Load(dir);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const std::vector<float> expected = Logits(*weights, 2);
  const std::vector<std::filesystem::path> files = TensorFiles(dir);
  ASSERT_FALSE(files.empty());
  if (!DropMappedPages(dir, files)) GTEST_SKIP() << "the temporary directory keeps its files in memory";
  rusage before = {};
  getrusage(RUSAGE_SELF, &before);
  ExpectSameBits(Logits(*weights, 2), expected);
  rusage after = {};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_GT(after.ru_inblock, before.ru_inblock);
}

TEST(HugeWeights, LeaveNothingOfTheFilesInThePageCache) {
  const std::filesystem::path dir = CopyOf("demo");
  const std::vector<std::filesystem::path> files = TensorFiles(dir);
  if (!DropPages(files)) GTEST_SKIP() << "the temporary directory keeps its files in memory";
  const auto weights = Load(dir, kHuge);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_LT(CountResident(files), CountPages(files) / 100);
}

TEST(HugeWeights, OfAGroupAreCopiedByItsLeaderAndMappedByTheOthers) {
  const std::filesystem::path file = testing::MakeTempDir("share") / "weights";
  auto lead = WeightsShare::Lead(file);
  auto join = WeightsShare::Join(file);
  ASSERT_TRUE(lead.ok() && join.ok()) << lead.status() << join.status();
  std::promise<void> begun;
  auto follower = std::async(std::launch::async, [&] {
    begun.set_value();
    return Load(testing::ModelPath("micro-flash"), {WeightsMemory::kHuge, join->get()});
  });
  begun.get_future().wait();
  const auto leader = Load(testing::ModelPath("micro-flash"), {WeightsMemory::kHuge, lead->get()});
  const auto other = follower.get();
  ASSERT_TRUE(leader.ok() && other.ok()) << leader.status() << other.status();
  EXPECT_EQ((*leader)->digest, (*other)->digest);
  EXPECT_NE((*leader)->embed.data, (*other)->embed.data);
  ExpectSameBits(Logits(*leader, 1), Logits(*other, 1));
  // Two mappings of one file, which has no name.
  std::ifstream maps("/proc/self/maps");
  std::vector<std::string> inodes;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("longshelf-weights (deleted)") == std::string::npos) continue;
    EXPECT_THAT(line, HasSubstr(" r--s ")) << "writable";
    std::istringstream fields(line);
    std::string field;
    for (int i = 0; i < 5; ++i) fields >> field;
    inodes.push_back(field);
  }
  ASSERT_EQ(inodes.size(), 2U);
  EXPECT_EQ(inodes[0], inodes[1]);
}

TEST(HugeWeights, OfAGroupFailForTheOthersWhenTheLeaderEndsEarly) {
  const std::filesystem::path file = testing::MakeTempDir("share") / "weights";
  auto lead = WeightsShare::Lead(file);
  auto join = WeightsShare::Join(file);
  ASSERT_TRUE(lead.ok() && join.ok()) << lead.status() << join.status();
  EXPECT_FALSE(WeightsShare::Lead(file).ok());
  auto follower = std::async(std::launch::async, [&] {
    return Load(testing::ModelPath("micro-flash"), {WeightsMemory::kHuge, join->get()});
  });
  lead->reset();
  EXPECT_EQ(follower.get().status().code(), absl::StatusCode::kUnavailable);
}

TEST(HugeWeights, OfAGroupAreRefusedWhenTheFilesChangedMeanwhile) {
  const std::filesystem::path file = testing::MakeTempDir("share") / "weights";
  auto lead = WeightsShare::Lead(file);
  auto join = WeightsShare::Join(file);
  ASSERT_TRUE(lead.ok() && join.ok()) << lead.status() << join.status();
  const auto leader = Load(testing::ModelPath("micro-flash"), {WeightsMemory::kHuge, lead->get()});
  ASSERT_TRUE(leader.ok()) << leader.status();
  const auto other = Load(testing::ModelPath("micro-odd"), {WeightsMemory::kHuge, join->get()});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("the files changed"));
}

TEST(HugeWeights, RefuseAnAnnouncementThatIsNone) {
  for (const char* text : {"", "1 2 3", "-1 2 3 4 5", "nonsense"}) {
    const std::filesystem::path file = testing::MakeTempDir("share") / "weights";
    auto lead = WeightsShare::Lead(file);
    auto join = WeightsShare::Join(file);
    ASSERT_TRUE(lead.ok() && join.ok()) << lead.status() << join.status();
    ASSERT_TRUE((*lead)->Publish(text).ok());
    EXPECT_FALSE(Load(testing::ModelPath("micro-odd"), {WeightsMemory::kHuge, join->get()}).ok()) << text;
  }
}

TEST(HugeMemory, CannotBeWrittenOnceItIsSealedAndIsRefusedBefore) {
  auto memory = HugeMemory::Create(5000);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE((*memory)->Populate(0, 5000).ok());
  std::memset((*memory)->writable(), 7, 5000);
  EXPECT_EQ(HugeMemory::Open((*memory)->address()).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE((*memory)->Seal().ok());
  HugeMemoryAddress address = (*memory)->address();
  const auto other = HugeMemory::Open(address);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ((*other)->data()[4999], 7);
  EXPECT_EQ(mmap(nullptr, address.n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, address.fd, 0), MAP_FAILED);
  address.n_bytes *= 2;
  EXPECT_EQ(HugeMemory::Open(address).status().code(), absl::StatusCode::kFailedPrecondition);
  address.fd = 1'000'000;
  EXPECT_EQ(HugeMemory::Open(address).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(HugeMemory, SaysWhenThereIsNotAsMuch) {
  const auto memory = HugeMemory::Create(uint64_t{1} << 60);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(memory.status().message()), HasSubstr("--weights mapped"));
}

}  // namespace
}  // namespace longshelf::engine
