#include "engine/executor.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "common/check.h"
#include "common/status.h"
#include "kv_arena.h"
#include "sampler.h"

namespace longshelf::engine {
namespace {

// What a sequence's sampler remembers between steps.
struct SlotSampler {
  SamplingParams params;
  TokenCounts output_counts;
  bool open = false;
};

absl::Status Misfit(absl::string_view what, uint64_t value, uint64_t limit) {
  return absl::InternalError(absl::StrCat("step plan does not fit this shard: ", what, " ", value, " of ", limit));
}

}  // namespace

// Owner thread: the shard's engine thread.
struct Executor::Impl {
  std::unique_ptr<SequenceModel> model;
  std::unique_ptr<CellArena> blocks;
  std::unique_ptr<CellArena> states;
  std::vector<SlotSampler> samplers;

  absl::Status CheckSlot(const SlotId& slot) const {
    return slot.slot < samplers.size() ? absl::OkStatus() : Misfit("slot", slot.slot, samplers.size());
  }
  absl::Status CheckBlock(uint32_t block) const {
    return block < blocks->n_cells() ? absl::OkStatus() : Misfit("block", block, blocks->n_cells());
  }
  absl::Status CheckRow(const StepPlan::Row& row) const;
  absl::Status CheckPlan(const StepPlan& plan, int shard) const;

  void Open(const StepPlan::OpenSlot& open);
  void ImportBlock(const StepPlan::ImportBlock& import);
  void ImportState(const StepPlan::ImportState& import, std::vector<SlotFailure>& failures);
  absl::Status RunRows(const StepPlan& plan, int shard, StepResult& result);
  void Sample(const StepPlan::Row& row, std::span<const float> logits, SampledToken& sampled,
              std::vector<SlotFailure>& failures);
  std::vector<std::byte> ExportBlock(const StepPlan::ExportBlock& ex) const;
  std::vector<std::byte> ExportState(const StepPlan::ExportState& ex) const;
};

namespace {

bool HasFailed(const std::vector<SlotFailure>& failures, const SlotId& slot) {
  return std::any_of(failures.begin(), failures.end(), [&](const SlotFailure& f) { return f.slot == slot; });
}

}  // namespace

absl::Status Executor::Impl::CheckRow(const StepPlan::Row& row) const {
  RETURN_IF_ERROR(CheckSlot(row.slot));
  if (!samplers[row.slot.slot].open) return Misfit("row of a slot that is not open, slot", row.slot.slot, 0);
  if (row.tokens.empty() || row.n_past < 0) return Misfit("row without tokens, slot", row.slot.slot, 0);
  const uint64_t n_end = static_cast<uint64_t>(row.n_past) + row.tokens.size();
  if (row.blocks.size() * static_cast<uint64_t>(kBlockTokens) < n_end) {
    return Misfit("blocks of a row cover too little, tokens", n_end, row.blocks.size() * kBlockTokens);
  }
  for (const uint32_t block : row.blocks) RETURN_IF_ERROR(CheckBlock(block));
  for (const uint32_t token : row.tokens) {
    if (token >= model->vocab_size()) return Misfit("token", token, model->vocab_size());
  }
  return absl::OkStatus();
}

absl::Status Executor::Impl::CheckPlan(const StepPlan& plan, int shard) const {
  std::unordered_set<uint16_t> opened;
  for (const auto& open : plan.open_slots) {
    if (open.slot.shard != shard) continue;
    RETURN_IF_ERROR(CheckSlot(open.slot));
    opened.insert(open.slot.slot);
  }
  for (const auto& import : plan.import_blocks) {
    if (import.shard != shard) continue;
    RETURN_IF_ERROR(CheckBlock(import.block));
    if (import.bytes.size() != blocks->cell_bytes()) {
      return Misfit("bytes of an imported block", import.bytes.size(), blocks->cell_bytes());
    }
  }
  for (const auto& import : plan.import_states) {
    if (import.slot.shard == shard) RETURN_IF_ERROR(CheckSlot(import.slot));
  }
  for (const auto& ex : plan.export_blocks) {
    if (ex.shard != shard) continue;
    RETURN_IF_ERROR(CheckBlock(ex.block));
    if (ex.n_tokens_in_block < 0 || ex.n_tokens_in_block > kBlockTokens) {
      return Misfit("tokens in an exported block", static_cast<uint64_t>(ex.n_tokens_in_block), kBlockTokens);
    }
  }
  for (const auto& ex : plan.export_states) {
    if (ex.slot.shard == shard) RETURN_IF_ERROR(CheckSlot(ex.slot));
  }
  return absl::OkStatus();
}

void Executor::Impl::Open(const StepPlan::OpenSlot& open) {
  model->ResetState(states->cell(open.slot.slot));
  SlotSampler& sampler = samplers[open.slot.slot];
  sampler.params = open.sampling;
  sampler.output_counts.clear();
  for (const uint32_t token : open.prior_output) ++sampler.output_counts[token];
  sampler.open = true;
}

void Executor::Impl::ImportBlock(const StepPlan::ImportBlock& import) {
  std::memcpy(blocks->cell(import.block), import.bytes.data(), import.bytes.size());
}

void Executor::Impl::ImportState(const StepPlan::ImportState& import, std::vector<SlotFailure>& failures) {
  absl::Status status = model->ImportState(import.bytes, import.n_tokens, states->cell(import.slot.slot));
  if (!status.ok()) failures.push_back({import.slot, Annotate(status, "restored state")});
}

absl::Status Executor::Impl::RunRows(const StepPlan& plan, int shard, StepResult& result) {
  ForwardBatch batch;
  std::vector<std::vector<std::byte*>> row_blocks;  // what the chunks' spans point into
  row_blocks.reserve(plan.rows.size());
  std::vector<std::optional<size_t>> logits_row;  // per local row of the plan
  size_t n_logits_rows = 0;
  for (const StepPlan::Row& row : plan.rows) {
    if (row.slot.shard != shard) continue;
    logits_row.emplace_back();
    if (HasFailed(result.failures, row.slot)) continue;
    RETURN_IF_ERROR(CheckRow(row));
    auto& pointers = row_blocks.emplace_back();
    for (size_t i = 0; i < row.blocks.size(); ++i) {
      pointers.push_back(blocks->cell(row.blocks[i]));
      const bool is_fresh = static_cast<int64_t>(i) * kBlockTokens >= row.n_past;
      if (is_fresh) std::memset(pointers.back(), 0, blocks->cell_bytes());
    }
    if (row.sample) logits_row.back() = n_logits_rows++;
    batch.chunks.push_back({.n_past = row.n_past,
                            .tokens = row.tokens,
                            .blocks = pointers,
                            .state = states->cell(row.slot.slot),
                            .want_logits = row.sample ? WantLogits::kLast : WantLogits::kNone});
  }
  ASSIGN_OR_RETURN(const ForwardOutput output, model->Forward(batch));
  const size_t vocab_size = model->vocab_size();
  if (output.logits.size() != n_logits_rows * vocab_size) {
    return Misfit("logits of the model", output.logits.size(), n_logits_rows * vocab_size);
  }
  size_t i = 0;
  for (const StepPlan::Row& row : plan.rows) {
    if (row.slot.shard != shard) continue;
    SampledToken& sampled = result.sampled.emplace_back();
    if (const auto at = logits_row[i++]; at.has_value()) {
      Sample(row, std::span(output.logits).subspan(*at * vocab_size, vocab_size), sampled, result.failures);
    }
  }
  return absl::OkStatus();
}

void Executor::Impl::Sample(const StepPlan::Row& row, std::span<const float> logits, SampledToken& sampled,
                            std::vector<SlotFailure>& failures) {
  SlotSampler& sampler = samplers[row.slot.slot];
  const int64_t position = row.n_past + static_cast<int64_t>(row.tokens.size());
  auto token = SampleToken(logits, sampler.params, sampler.output_counts, position);
  if (!token.ok()) {
    failures.push_back({row.slot, Annotate(token.status(), absl::StrCat("sampling position ", position))});
    return;
  }
  sampled = *std::move(token);
  if (row.return_logits) sampled.logits.assign(logits.begin(), logits.end());
  ++sampler.output_counts[sampled.token];
}

std::vector<std::byte> Executor::Impl::ExportBlock(const StepPlan::ExportBlock& ex) const {
  const std::byte* cell = blocks->cell(ex.block);
  std::vector<std::byte> out(cell, cell + blocks->cell_bytes());
  if (ex.n_tokens_in_block < kBlockTokens) model->ClearTail(out.data(), ex.n_tokens_in_block);
  return out;
}

std::vector<std::byte> Executor::Impl::ExportState(const StepPlan::ExportState& ex) const {
  std::vector<std::byte> out(model->StateExportBytes(ex.n_tokens));
  model->ExportState(states->cell(ex.slot.slot), ex.n_tokens, out);
  return out;
}

Executor::Executor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Executor::~Executor() = default;

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(std::unique_ptr<SequenceModel> model,
                                                           const ExecutorOptions& options) {
  constexpr uint32_t kSlotsMax = std::numeric_limits<uint16_t>::max();
  if (options.n_slots == 0 || options.n_slots > kSlotsMax) {
    return absl::InvalidArgumentError(absl::StrCat("n_slots is ", options.n_slots, "; 1 to ", kSlotsMax));
  }
  auto impl = std::make_unique<Impl>();
  impl->model = std::move(model);
  ASSIGN_OR_RETURN(impl->blocks, CellArena::Map("KV blocks", impl->model->block_bytes(), options.n_blocks));
  ASSIGN_OR_RETURN(impl->states, CellArena::Map("sequence states", impl->model->state_bytes(), options.n_slots));
  impl->samplers.resize(options.n_slots);
  return std::unique_ptr<Executor>(new Executor(std::move(impl)));
}

absl::StatusOr<StepResult> Executor::Execute(const StepPlan& plan, int shard) {
  StepResult result;
  if (plan.opcode != StepPlan::Opcode::kStep) return result;
  RETURN_IF_ERROR(impl_->CheckPlan(plan, shard));
  for (const auto& open : plan.open_slots) {
    if (open.slot.shard == shard) impl_->Open(open);
  }
  for (const auto& import : plan.import_blocks) {
    if (import.shard == shard) impl_->ImportBlock(import);
  }
  for (const auto& import : plan.import_states) {
    if (import.slot.shard == shard) impl_->ImportState(import, result.failures);
  }
  if (!plan.rows.empty()) RETURN_IF_ERROR(impl_->RunRows(plan, shard, result));
  for (const auto& ex : plan.export_blocks) {
    if (ex.shard == shard) result.blocks.push_back(impl_->ExportBlock(ex));
  }
  for (const auto& ex : plan.export_states) {
    if (ex.slot.shard != shard) continue;
    const bool failed = HasFailed(result.failures, ex.slot);
    result.states.push_back(failed ? std::vector<std::byte>() : impl_->ExportState(ex));
  }
  return result;
}

GroupShape Executor::shape(int n_shards) const {
  const SequenceModel* model = impl_->model.get();
  return {.n_shards = n_shards,
          .n_slots_per_shard = impl_->states->n_cells(),
          .n_blocks_per_shard = impl_->blocks->n_cells(),
          .block_bytes = impl_->blocks->cell_bytes(),
          .state_export_bytes = [model](int64_t n_tokens) { return model->StateExportBytes(n_tokens); }};
}

}  // namespace longshelf::engine
