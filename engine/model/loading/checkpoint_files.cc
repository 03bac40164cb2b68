#include "checkpoint_files.h"

#include <algorithm>
#include <set>
#include <system_error>

#include "absl/status/status.h"
#include "common/status.h"
#include "dtype.h"
#include "json_fields.h"
#include "model_files.h"
#include "tensor_names.h"
#include "text.h"

namespace longshelf::engine {
namespace {

constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kSingleName = "model.safetensors";
constexpr uint64_t kMaxIndexBytes = 64 << 20;
constexpr size_t kMaxFiles = 4096;

class CheckpointOpener {
 public:
  CheckpointOpener(const std::filesystem::path& dir, const ModelConfig& config) : dir_(dir), config_(config) {}

  absl::StatusOr<CheckpointTensors> Open() {
    const absl::StatusOr<std::string> index = ReadBeneath(dir_, kIndexName, kMaxIndexBytes);
    if (index.ok()) {
      const absl::Status opened = OpenIndexed(*index);
      if (!opened.ok()) {
        return Annotate(opened, (dir_ / kIndexName).string());
      }
      return std::move(result_);
    }
    if (!absl::IsNotFound(index.status())) {
      return index.status();
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFiles());
    for (const std::string& name : names) {
      ASSIGN_OR_RETURN(std::unique_ptr<const SafetensorsFile> file, SafetensorsFile::OpenBeneath(dir_, name));
      for (const auto& [tensor, view] : file->tensors()) {
        RETURN_IF_ERROR(Add(tensor, view));
      }
      result_.files.push_back(std::move(file));
    }
    return std::move(result_);
  }

 private:
  absl::StatusOr<std::vector<std::string>> ListFiles() const {
    std::error_code error;
    std::vector<std::string> names;
    for (std::filesystem::directory_iterator it(dir_, error), end; !error && it != end; it.increment(error)) {
      std::string name = it->path().filename().string();
      if (name == kSingleName) {
        return std::vector<std::string>{std::move(name)};
      }
      if (name.ends_with(".safetensors")) {
        names.push_back(std::move(name));
      }
      if (names.size() > kMaxFiles) {
        return absl::InvalidArgumentError(Cat(dir_.string(), ": has more than ", kMaxFiles, " .safetensors files"));
      }
    }
    if (error) {
      return absl::NotFoundError(Cat(dir_.string(), ": ", error.message()));
    }
    if (names.empty()) {
      return absl::NotFoundError(
          Cat(dir_.string(), ": no ", kIndexName, ", no ", kSingleName, ", no other .safetensors file"));
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status OpenIndexed(std::string_view text) {
    simdjson::dom::parser parser;
    ASSIGN_OR_RETURN(const simdjson::dom::element root, ParseJson(parser, text, /*max_depth=*/8, "index"));
    ASSIGN_OR_RETURN(const JsonFields fields, UniqueFields(root, "index"));
    const auto map = fields.find("weight_map");
    if (map == fields.end()) {
      return absl::InvalidArgumentError("weight_map: missing");
    }
    ASSIGN_OR_RETURN(const JsonFields weight_map, UniqueFields(map->second, "weight_map"));
    std::map<std::string_view, const SafetensorsFile*> opened;
    for (const auto& [tensor, element] : weight_map) {
      std::string_view name;
      if (element.get_string().get(name) != simdjson::SUCCESS) {
        return absl::InvalidArgumentError(Cat("weight_map: ", QuotedName(tensor), " is not given a file name"));
      }
      if (!name.ends_with(".safetensors")) {
        return absl::InvalidArgumentError(
            Cat("weight_map: ", QuotedName(tensor), " is given ", QuotedName(name), ", not a .safetensors file"));
      }
      const SafetensorsFile*& file = opened[name];
      if (file == nullptr) {
        if (opened.size() > kMaxFiles) {
          return absl::InvalidArgumentError(Cat("weight_map: names more than ", kMaxFiles, " files"));
        }
        ASSIGN_OR_RETURN(std::unique_ptr<const SafetensorsFile> mapped, SafetensorsFile::OpenBeneath(dir_, name));
        file = mapped.get();
        result_.files.push_back(std::move(mapped));
      }
      const TensorView* view = file->Find(tensor);
      if (view == nullptr) {
        return absl::InvalidArgumentError(
            Cat("weight_map: tensor ", QuotedName(tensor), " is not in ", QuotedName(name)));
      }
      RETURN_IF_ERROR(Add(tensor, *view));
    }
    return absl::OkStatus();
  }

  absl::Status Add(std::string_view stored, const TensorView& view) {
    std::string name = CanonicalTensorName(stored);
    for (const std::string_view stack : {".experts.gate_up_proj.", ".experts.down_proj."}) {
      if (ContainsText(name, stack)) {
        return AddStack(name, stack == ".experts.gate_up_proj." ? 2 : 1, view);
      }
    }
    return AddNamed(std::move(name), view);
  }

  absl::Status AddNamed(std::string name, const TensorView& view) {
    const auto [it, added] = result_.tensors.try_emplace(std::move(name), view);
    if (!added) {
      return absl::InvalidArgumentError(
          Cat("tensor ", QuotedName(it->first), ": given twice (by two files or two spellings)"));
    }
    return absl::OkStatus();
  }

  // [E, n_parts * rows, cols] becomes E * n_parts views [rows, cols]; in gate_up, w1's rows come before w3's.
  absl::Status AddStack(const std::string& name, int64_t n_parts, const TensorView& view) {
    const int64_t n_experts = config_.n_routed_experts;
    if (view.shape.size() != 3 || view.shape[0] != n_experts || view.shape[1] % n_parts != 0 || view.bytes.empty()) {
      return absl::InvalidArgumentError(Cat("tensor ", QuotedName(name), ": is ",
                                            DescribeTensor(view.dtype, view.shape), ", a stack of ", n_experts,
                                            " experts has ", n_parts, " equal parts in its second dimension"));
    }
    const size_t stack_at = name.find(".experts.") + std::string_view(".experts.").size();
    const std::string_view prefix = std::string_view(name).substr(0, stack_at);
    const std::string_view field = std::string_view(name).substr(name.rfind('.'));
    const auto part_bytes = view.bytes.size() / static_cast<size_t>(n_experts * n_parts);
    for (int64_t i = 0; i < n_experts * n_parts; ++i) {
      const std::string_view matrix = n_parts == 1 ? "w2" : (i % 2 == 0 ? "w1" : "w3");
      TensorView part;
      part.dtype = view.dtype;
      part.shape = {view.shape[1] / n_parts, view.shape[2]};
      part.bytes = view.bytes.subspan(static_cast<size_t>(i) * part_bytes, part_bytes);
      RETURN_IF_ERROR(AddNamed(Cat(prefix, i / n_parts, ".", matrix, field), part));
    }
    return absl::OkStatus();
  }

  const std::filesystem::path& dir_;
  const ModelConfig& config_;
  CheckpointTensors result_;
};

}  // namespace

absl::StatusOr<CheckpointTensors> OpenCheckpoint(const std::filesystem::path& model_dir, const ModelConfig& config) {
  return CheckpointOpener(model_dir, config).Open();
}

}  // namespace longshelf::engine
