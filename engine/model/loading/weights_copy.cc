#include "weights_copy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "common/check.h"
#include "common/status.h"
#include "text.h"

namespace longshelf::engine {
namespace {

// Whole cache lines, so that every dtype is aligned and no tensor shares a line with another.
constexpr uint64_t kPlaceAlignment = 64;
// What of a tensor is in the page cache at a time.
constexpr size_t kStretchBytes = size_t{4} << 20;

uint64_t GivePlaces(std::vector<UsedTensor>& used) {
  uint64_t end = 0;
  for (UsedTensor& tensor : used) {
    if (!tensor.held) continue;
    tensor.place = end;
    end += (tensor.view->bytes.size() + kPlaceAlignment - 1) / kPlaceAlignment * kPlaceAlignment;
  }
  return end;
}

class FileCopier final : public TensorCopier {
 public:
  FileCopier(const CheckpointTensors& checkpoint, HugeMemory& memory) : checkpoint_(checkpoint), memory_(memory) {
    for (const auto& file : checkpoint_.files) file->AdviseStretches();
  }

  absl::Status Begin(const UsedTensor& tensor) override {
    return memory_.Populate(tensor.place, tensor.view->bytes.size());
  }

  absl::StatusOr<const uint8_t*> Copy(const UsedTensor& tensor, size_t offset, size_t n) override {
    const std::span<const uint8_t> bytes = tensor.view->bytes;
    const SafetensorsFile& file = FileOf(bytes);
    uint8_t* const to = memory_.writable() + tensor.place + offset;
    if (offset % kStretchBytes == 0) file.Expect(Stretch(bytes, offset));
    RETURN_IF_ERROR(file.Read(bytes.subspan(offset, n), to));
    const size_t end = offset + n;
    if (end % kStretchBytes == 0 || end == bytes.size()) {
      file.Forget(Stretch(bytes, (end - 1) / kStretchBytes * kStretchBytes));
    }
    return to;
  }

 private:
  static std::span<const uint8_t> Stretch(std::span<const uint8_t> bytes, size_t begin) {
    return bytes.subspan(begin, std::min(kStretchBytes, bytes.size() - begin));
  }

  const SafetensorsFile& FileOf(std::span<const uint8_t> bytes) const {
    const auto it = std::find_if(checkpoint_.files.begin(), checkpoint_.files.end(),
                                 [&](const auto& file) { return file->Holds(bytes); });
    LONGSHELF_CHECK(it != checkpoint_.files.end());
    return **it;
  }

  const CheckpointTensors& checkpoint_;
  HugeMemory& memory_;
};

// What the leader tells the others.
struct Announcement {
  HugeMemoryAddress address;
  Digest layout{};
  Digest digest{};
};

std::string Hex(const Digest& digest) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

bool FromHex(const std::string& text, Digest& digest) {
  if (text.size() != 2 * digest.size()) return false;
  const std::string bytes = absl::HexStringToBytes(text);
  std::memcpy(digest.data(), bytes.data(), digest.size());
  return Hex(digest) == text;
}

template <typename T>
bool FromText(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0;
}

std::string ToText(const Announcement& a) {
  return Cat(a.address.pid, " ", a.address.fd, " ", a.address.n_bytes, " ", Hex(a.layout), " ", Hex(a.digest));
}

absl::StatusOr<Announcement> FromText(const std::string& text) {
  Announcement a;
  const std::vector<std::string> fields = SplitText(text, ' ');
  if (fields.size() != 5 || !FromText(fields[0], a.address.pid) || !FromText(fields[1], a.address.fd) ||
      !FromText(fields[2], a.address.n_bytes) || !FromHex(fields[3], a.layout) || !FromHex(fields[4], a.digest)) {
    return absl::InternalError("the shard that copies the weights announced something else");
  }
  return a;
}

absl::StatusOr<CopiedWeights> MapCopy(const Digest& layout, uint64_t n_bytes, WeightsShare& share,
                                      const ProgressFunction& progress) {
  ASSIGN_OR_RETURN(const std::string text, share.Await());
  ASSIGN_OR_RETURN(const Announcement announced, FromText(text));
  if (announced.layout != layout || announced.address.n_bytes < n_bytes) {
    return absl::FailedPreconditionError(
        "the shard that copied the weights found other tensors than this one: the files changed while they were "
        "loaded; "
        "start again");
  }
  CopiedWeights copied;
  ASSIGN_OR_RETURN(copied.memory, HugeMemory::Open(announced.address));
  copied.digest = announced.digest;
  if (progress) progress({n_bytes, n_bytes});
  return copied;
}

}  // namespace

absl::StatusOr<CopiedWeights> CopyWeights(const ModelConfig& config, const CheckpointTensors& checkpoint,
                                          std::vector<UsedTensor>& used, const LoadOptions& options,
                                          const ProgressFunction& progress) {
  WeightsShare* const share = options.share;
  DigestExchange* const exchange = options.part.has_value() ? options.part->exchange : nullptr;
  const uint64_t n_bytes = GivePlaces(used);
  const Digest layout = LayoutDigest(config, used);
  if (share != nullptr && !share->leads()) {
    // Everybody's part in the exchange comes first: the leader publishes after it.
    if (exchange != nullptr) RETURN_IF_ERROR(AskForDigest(config, used, *exchange).status());
    return MapCopy(layout, n_bytes, *share, progress);
  }
  CopiedWeights copied;
  ASSIGN_OR_RETURN(copied.memory, HugeMemory::Create(n_bytes));
  FileCopier copier(checkpoint, *copied.memory);
  ASSIGN_OR_RETURN(copied.digest, ScanTensors(config, used, progress, &copier, exchange));
  // Pages that tensors share, and those that were mapped to be parsed.
  for (const auto& file : checkpoint.files) {
    file->ForgetAll();
  }
  RETURN_IF_ERROR(copied.memory->Seal());
  if (share != nullptr) {
    RETURN_IF_ERROR(share->Publish(ToText({copied.memory->address(), layout, copied.digest})));
  }
  return copied;
}

}  // namespace longshelf::engine
