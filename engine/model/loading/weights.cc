#include "engine/model/weights.h"

#include <set>

#include "absl/status/status.h"
#include "checkpoint_files.h"
#include "common/status.h"
#include "tensor_names.h"
#include "tensor_scan.h"
#include "text.h"
#include "weights_builder.h"
#include "weights_copy.h"

namespace longshelf::engine {
namespace {

constexpr size_t kMaxUnusedListed = 1000;
constexpr int64_t kFp8Block = 128;

struct CheckpointStorage final : TensorSource {
  CheckpointTensors checkpoint;
  OwnedBuffers owned;
  std::unique_ptr<HugeMemory> copy;  // kHuge: the views lie in it

  absl::StatusOr<const TensorView*> Get(const TensorSpec& spec) override {
    const auto it = checkpoint.tensors.find(spec.name);
    return it == checkpoint.tensors.end() ? nullptr : &it->second;
  }
};

// transformers leaves the draft module out, and a checkpoint may carry the other kind than its config says. Both run
// without it. A module of which only some tensors are there is refused later, by the first that is missing.
void DropMissingDraftModule(const CheckpointTensors& checkpoint, ModelConfig& config) {
  const auto first = checkpoint.tensors.lower_bound("mtp.");
  const bool any = first != checkpoint.tensors.end() && first->first.starts_with("mtp.");
  const bool is_dspark = checkpoint.tensors.contains("mtp.0.main_proj.weight");
  if (!any || is_dspark) {
    config.n_mtp_layers = 0;
    config.compress_ratios.resize(static_cast<size_t>(config.n_layers));
  }
  if (!is_dspark) {
    config.dspark = {};
  }
}

std::vector<std::string> UnusedTensors(const CheckpointTensors& checkpoint, const std::vector<UsedTensor>& used) {
  std::set<std::string_view> names;
  for (const UsedTensor& tensor : used) {
    names.insert(tensor.name);
  }
  std::vector<std::string> unused;
  for (const auto& [name, view] : checkpoint.tensors) {
    if (!names.contains(name) && !IsDroppedTensor(name) && unused.size() < kMaxUnusedListed) {
      unused.push_back(name);
    }
  }
  return unused;
}

struct OpenedWeights {
  std::shared_ptr<CheckpointStorage> storage;
  std::unique_ptr<ModelWeights> weights;
  std::vector<UsedTensor> used;
};

absl::StatusOr<OpenedWeights> OpenWeights(const std::filesystem::path& model_dir) {
  OpenedWeights opened;
  ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(model_dir));
  opened.storage = std::make_shared<CheckpointStorage>();
  CheckpointTensors& checkpoint = opened.storage->checkpoint;
  ASSIGN_OR_RETURN(checkpoint, OpenCheckpoint(model_dir, config));
  DropMissingDraftModule(checkpoint, config);
  absl::StatusOr<BuiltWeights> built = BuildWeights(config, *opened.storage, opened.storage->owned);
  if (!built.ok()) {
    return Annotate(built.status(), model_dir.string());
  }
  opened.weights = std::move(built->weights);
  opened.used = std::move(built->used);
  opened.weights->unused_tensors = UnusedTensors(checkpoint, opened.used);
  opened.weights->storage = opened.storage;
  return opened;
}

// Marks what is another shard's.
absl::Status TakePart(const WeightsPart& part, const ModelConfig& config, std::vector<UsedTensor>& used) {
  if (part.exchange == nullptr || part.experts_begin < 0 || part.experts_end < part.experts_begin ||
      part.experts_end > config.n_routed_experts) {
    return absl::InternalError("a part of the weights without an exchange, or with experts that do not exist");
  }
  for (UsedTensor& tensor : used) {
    const std::optional<int64_t> expert = RoutedExpertOf(tensor.name);
    tensor.held = !expert.has_value() || (*expert >= part.experts_begin && *expert < part.experts_end);
  }
  return absl::OkStatus();
}

absl::Status LoadMapped(OpenedWeights& opened, const ProgressFunction& progress, DigestExchange* exchange) {
  const std::vector<std::unique_ptr<const SafetensorsFile>>& files = opened.storage->checkpoint.files;
  for (const auto& file : files) {
    file->AdviseSequential();
  }
  ASSIGN_OR_RETURN(opened.weights->digest,
                   ScanTensors(opened.weights->config, opened.used, progress, nullptr, exchange));
  for (const auto& file : files) {
    file->AdviseNormal();
  }
  opened.weights->from_files = true;
  return absl::OkStatus();
}

absl::Status LoadHuge(OpenedWeights& opened, const ProgressFunction& progress, const LoadOptions& options) {
  CheckpointStorage& storage = *opened.storage;
  const ModelConfig config = opened.weights->config;
  std::vector<std::string> unused = std::move(opened.weights->unused_tensors);
  // Everything was checked. What was copied meanwhile, as it was not aligned, is aligned where it goes.
  opened.weights.reset();
  storage.owned.buffers.clear();
  ASSIGN_OR_RETURN(CopiedWeights copied, CopyWeights(config, storage.checkpoint, opened.used, options, progress));
  for (const UsedTensor& tensor : opened.used) {
    TensorView& view = storage.checkpoint.tensors.find(tensor.name)->second;
    // What is not held has no place; its address is never read.
    view.bytes = {copied.memory->data() + tensor.place, view.bytes.size()};
  }
  storage.copy = std::move(copied.memory);
  storage.checkpoint.files.clear();
  ASSIGN_OR_RETURN(BuiltWeights built, BuildWeights(config, storage, storage.owned));
  opened.weights = std::move(built.weights);
  opened.weights->unused_tensors = std::move(unused);
  opened.weights->storage = opened.storage;
  opened.weights->digest = copied.digest;
  opened.weights->huge_pages = storage.copy->Describe();
  return absl::OkStatus();
}

}  // namespace

size_t MatrixBytes(const Matrix& matrix) {
  const auto n = static_cast<size_t>(matrix.rows * matrix.cols);
  switch (matrix.format) {
    case Matrix::Format::kFp4:
      return n / 2;
    case Matrix::Format::kFp8:
      return n;
    case Matrix::Format::kBf16:
      return 2 * n;
    case Matrix::Format::kF32:
      break;
  }
  return 4 * n;
}

size_t ScaleBytes(const Matrix& matrix) {
  if (matrix.scale == nullptr) return 0;
  const bool per_row = matrix.format == Matrix::Format::kFp4;
  return static_cast<size_t>((per_row ? matrix.rows : (matrix.rows + kFp8Block - 1) / kFp8Block) * matrix.scale_cols);
}

absl::StatusOr<std::unique_ptr<const ModelWeights>> OpenModelWeights(const std::filesystem::path& model_dir) {
  ASSIGN_OR_RETURN(OpenedWeights opened, OpenWeights(model_dir));
  return std::unique_ptr<const ModelWeights>(std::move(opened.weights));
}

absl::StatusOr<std::unique_ptr<const ModelWeights>> LoadModelWeights(const std::filesystem::path& model_dir,
                                                                     const ProgressFunction& progress,
                                                                     const LoadOptions& options) {
  ASSIGN_OR_RETURN(OpenedWeights opened, OpenWeights(model_dir));
  if (options.part.has_value()) RETURN_IF_ERROR(TakePart(*options.part, opened.weights->config, opened.used));
  DigestExchange* const exchange = options.part.has_value() ? options.part->exchange : nullptr;
  const absl::Status loaded = options.memory == WeightsMemory::kHuge ? LoadHuge(opened, progress, options)
                                                                     : LoadMapped(opened, progress, exchange);
  if (!loaded.ok()) {
    return Annotate(loaded, model_dir.string());
  }
  return std::unique_ptr<const ModelWeights>(std::move(opened.weights));
}

}  // namespace longshelf::engine
