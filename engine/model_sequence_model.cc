#include "engine/executor.h"
#include "engine/model/plan.h"

namespace longshelf::engine {
namespace {

class ModelSequenceModel final : public SequenceModel {
 public:
  explicit ModelSequenceModel(Model& model) : model_(model) {}
  uint32_t vocab_size() const override { return static_cast<uint32_t>(model_.config().vocab_size); }
  size_t block_bytes() const override { return model_.layout().block_bytes(); }
  size_t state_bytes() const override { return model_.layout().state_bytes(); }
  double position_cost() const override {
    constexpr int64_t kNear = 1 << 14;  // past it, only what grows with the context grows
    constexpr int64_t kFar = 1 << 20;
    const CostModel cost = CostModel::OfV4("", model_.config());
    const double near = cost.Fp8EquivalentFlops(kNear);
    return (cost.Fp8EquivalentFlops(kFar) - near) / (static_cast<double>(kFar - kNear) * near);
  }
  void ResetState(std::byte* slot) const override { model_.layout().ResetState(slot); }
  size_t StateExportBytes(int64_t n_tokens) const override { return model_.layout().StateExportBytes(n_tokens); }
  void ExportState(const std::byte* slot, int64_t n_tokens, std::span<std::byte> out) const override {
    model_.layout().ExportState(slot, n_tokens, out);
  }
  absl::Status ImportState(std::span<const std::byte> bytes, int64_t n_tokens, std::byte* slot) const override {
    return model_.layout().ImportState(bytes, n_tokens, slot);
  }
  void ClearTail(std::byte* block, int64_t n_tokens_in_block) const override {
    model_.layout().ClearTail(block, n_tokens_in_block);
  }
  int64_t replay_tokens() const override { return model_.replay_tokens(); }
  int64_t n_draft_max() const override { return model_.layout().n_draft_max(); }
  int64_t n_draft() const override { return model_.n_draft(); }
  absl::StatusOr<DraftOutput> Draft(std::span<const DraftRequest> requests, int64_t n_tokens) override {
    return model_.Draft(requests, n_tokens);
  }
  void ForEach(int64_t n, absl::FunctionRef<void(int64_t)> fn) override { model_.ForEach(n, fn); }
  absl::StatusOr<ForwardOutput> Forward(const ForwardBatch& batch) override { return model_.Forward(batch); }

 private:
  Model& model_;
};

}  // namespace

std::unique_ptr<SequenceModel> MakeSequenceModel(Model& model) { return std::make_unique<ModelSequenceModel>(model); }

}  // namespace longshelf::engine
