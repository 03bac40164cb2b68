#include "engine/executor.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>

#include "common/check.h"
#include "common/status.h"
#include "engine/token_stamp.h"
#include "kv_arena.h"
#include "sampler.h"

namespace longshelf::engine {
namespace {

// The form that a slot's output is to have, and how far the output is in it. It is made beside the prompt's first
// steps: compiling a schema may take longer than a step.
class OutputForm {
 public:
  void Begin(const std::shared_ptr<grammar::ConstraintCache>& constraints, const StepPlan::OpenSlot& open) {
    state_ = nullptr;
    failed_ = absl::OkStatus();
    pending_ = {};
    if (open.output_spec.empty()) return;
    pending_ = std::async(std::launch::async, [constraints, open] { return Make(constraints.get(), open); });
  }
  // Null: any output. Waits until it is made.
  absl::StatusOr<grammar::OutputState*> Get() {
    if (pending_.valid()) {
      absl::StatusOr<State> made = pending_.get();
      failed_ = made.status();
      if (made.ok()) state_ = *std::move(made);
    }
    if (!failed_.ok()) return failed_;
    return state_.get();
  }

 private:
  using State = std::unique_ptr<grammar::OutputState>;
  static absl::StatusOr<State> Make(grammar::ConstraintCache* constraints, const StepPlan::OpenSlot& open) {
    if (constraints == nullptr) {
      return absl::FailedPreconditionError("this worker has no tokenizer to write an output of a given form with");
    }
    ASSIGN_OR_RETURN(std::shared_ptr<grammar::Constraint> constraint, constraints->Get(open.output_spec));
    auto state = std::make_unique<grammar::OutputState>(std::move(constraint), open.end_token_ids);
    for (size_t i = 0; i < open.prior_output.size(); ++i) {
      const absl::Status status = state->Push(open.prior_output[i]);
      if (!status.ok()) return Annotate(status, absl::StrCat("output token ", i));
    }
    return state;
  }

  std::future<absl::StatusOr<State>> pending_;
  State state_;
  absl::Status failed_;
};

// What a slot holds of its sequence between steps, beside its state.
struct Slot {
  bool open = false;
  std::vector<std::byte*> blocks;  // the block table: where the blocks lie in the arena, in order
  SamplingParams sampling;
  TokenCounts output_counts;
  OutputForm form;
};

constexpr size_t BlocksCovering(uint64_t n_tokens) {
  return static_cast<size_t>((n_tokens + kBlockTokens - 1) / kBlockTokens);
}

absl::Status Misfit(absl::string_view what, uint64_t value, uint64_t limit) {
  return absl::InternalError(absl::StrCat("step plan does not fit this shard: ", what, " ", value, " of ", limit));
}

}  // namespace

// Owner thread: the shard's engine thread.
struct Executor::Impl {
  std::unique_ptr<SequenceModel> model;
  std::unique_ptr<CellArena> blocks;
  std::unique_ptr<CellArena> states;
  std::vector<Slot> slots;
  std::shared_ptr<grammar::ConstraintCache> constraints;
  KvCopies copies;

  absl::Status CheckSlot(const SlotId& slot) const {
    return slot.slot < slots.size() ? absl::OkStatus() : Misfit("slot", slot.slot, slots.size());
  }
  absl::Status CheckBlock(uint32_t block) const {
    return block < blocks->n_cells() ? absl::OkStatus() : Misfit("block", block, blocks->n_cells());
  }
  // n_bytes: beside the stamp; 0: any.
  absl::Status CheckCopy(uint64_t number, size_t n_bytes) const;
  // What of a slot decides whether a plan fits it.
  struct SlotForm {
    bool open = false;
    size_t n_blocks = 0;
    bool has_row = false;
  };
  // Of the slots that the plan touches, as they are when its rows run.
  using SlotForms = std::unordered_map<uint16_t, SlotForm>;
  absl::StatusOr<SlotForms> CheckTables(const StepPlan& plan, int shard) const;
  SlotForm& FormOf(uint16_t slot, SlotForms& forms) const {
    return forms.try_emplace(slot, SlotForm{slots[slot].open, slots[slot].blocks.size()}).first->second;
  }
  absl::Status CheckRow(const StepPlan::Row& row, const SlotForm& form) const;
  absl::Status CheckPlan(const StepPlan& plan, int shard) const;

  void Open(const StepPlan::OpenSlot& open);
  void SetBlock(const StepPlan::SetBlock& set);
  void ImportBlock(const StepPlan::ImportBlock& import);
  void ImportState(const StepPlan::ImportState& import, std::vector<SlotFailure>& failures);
  absl::Status RunRows(const StepPlan& plan, int shard, int n_microbatches, StepResult& result);
  // logits: of the row's last n_drafts + 1 tokens. On any thread: it changes the row's slot only.
  absl::Status Sample(const StepPlan::Row& row, std::span<const float> logits, std::vector<SampledToken>& sampled);
  static absl::StatusOr<SampledToken> SampleAllowed(std::span<const float> logits, const Slot& slot,
                                                    grammar::OutputState* form, int64_t position);
  // A row of the plan that is at home here.
  struct LocalRow {
    const StepPlan::Row* row;
    size_t first_logits;          // rows of logits before its own
    size_t n_logits;              // rows of logits it gets
    std::optional<size_t> chunk;  // of the step; none when its sequence has failed
  };
  // What the rows have to score, each token on any thread.
  void Score(std::span<const LocalRow> local, std::span<const float> logits, StepResult& result);
  absl::Status Draft(std::span<const LocalRow> local, int64_t n_tokens, std::span<RowResult> results);
  void ExportBlock(const StepPlan::ExportBlock& ex);
  void ExportState(const StepPlan::ExportState& ex);
  void Keep(uint64_t number, std::vector<std::byte> bytes, const EncodedStamp& stamp);
};

namespace {

bool HasFailed(const std::vector<SlotFailure>& failures, const SlotId& slot) {
  return std::any_of(failures.begin(), failures.end(), [&](const SlotFailure& f) { return f.slot == slot; });
}

}  // namespace

absl::Status Executor::Impl::CheckRow(const StepPlan::Row& row, const SlotForm& form) const {
  if (!form.open) return Misfit("row of a slot that is not open, slot", row.slot.slot, 0);
  if (row.tokens.empty() || row.n_past < 0) return Misfit("row without tokens, slot", row.slot.slot, 0);
  const uint64_t n_end = static_cast<uint64_t>(row.n_past) + row.tokens.size();
  if (form.n_blocks < BlocksCovering(n_end)) {
    return Misfit("blocks of a slot cover too little, tokens", n_end, form.n_blocks * kBlockTokens);
  }
  for (const uint32_t token : row.tokens) {
    if (token >= model->vocab_size()) return Misfit("token", token, model->vocab_size());
  }
  if (row.replay_begin >= 0 && (row.sample || row.replay_begin > row.n_past || model->replay_tokens() == 0)) {
    return Misfit("row that replays, from", static_cast<uint64_t>(row.replay_begin), static_cast<uint64_t>(row.n_past));
  }
  const auto n_draft_max = static_cast<uint64_t>(model->n_draft_max());
  if (row.n_drafts > n_draft_max) return Misfit("drafts of a row", row.n_drafts, n_draft_max);
  const size_t n_targets = row.tokens.size() - (row.sample ? 1 : 0);
  if (!row.targets.empty() && (row.targets.size() != n_targets || row.n_drafts > 0 || row.replay_begin >= 0)) {
    return Misfit("tokens to score of a row,", row.targets.size(), n_targets);
  }
  for (const uint32_t token : row.targets) {
    if (token >= model->vocab_size()) return Misfit("token to score", token, model->vocab_size());
  }
  if (row.n_drafts > 0 && (!row.sample || row.tokens.size() != row.n_drafts + 1)) {
    return Misfit("drafts of a row that are not all but its first token,", row.n_drafts, row.tokens.size());
  }
  return absl::OkStatus();
}

absl::Status Executor::Impl::CheckCopy(uint64_t number, size_t n_bytes) const {
  const KvCopies::Bytes bytes = copies.Find(number);
  if (bytes == nullptr) return Misfit("copy that this shard does not have, number", number, copies.size());
  if (bytes->size() < kStampBytes || (n_bytes > 0 && bytes->size() != n_bytes + kStampBytes)) {
    return Misfit("bytes of an imported copy", bytes->size(), n_bytes + kStampBytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<Executor::Impl::SlotForms> Executor::Impl::CheckTables(const StepPlan& plan, int shard) const {
  SlotForms forms;
  for (const auto& open : plan.open_slots) {
    if (open.slot.shard != shard) continue;
    RETURN_IF_ERROR(CheckSlot(open.slot));
    FormOf(open.slot.slot, forms) = {.open = true, .n_blocks = 0};
  }
  for (const auto& set : plan.set_blocks) {
    if (set.slot.shard != shard) continue;
    RETURN_IF_ERROR(CheckSlot(set.slot));
    RETURN_IF_ERROR(CheckBlock(set.block));
    SlotForm& form = FormOf(set.slot.slot, forms);
    if (!form.open) return Misfit("block table of a slot that is not open, slot", set.slot.slot, 0);
    if (set.index > form.n_blocks) return Misfit("block table with a gap, entry", set.index, form.n_blocks);
    if (set.index == form.n_blocks) ++form.n_blocks;
  }
  return forms;
}

absl::Status Executor::Impl::CheckPlan(const StepPlan& plan, int shard) const {
  const auto n_draft = static_cast<uint64_t>(model->n_draft());
  if (plan.n_draft > n_draft) return Misfit("tokens to guess", plan.n_draft, n_draft);
  ASSIGN_OR_RETURN(SlotForms forms, CheckTables(plan, shard));
  for (const auto& row : plan.rows) {
    if (row.slot.shard != shard) continue;
    RETURN_IF_ERROR(CheckSlot(row.slot));
    SlotForm& form = FormOf(row.slot.slot, forms);
    if (std::exchange(form.has_row, true)) return Misfit("second row of a slot, slot", row.slot.slot, 0);
    RETURN_IF_ERROR(CheckRow(row, form));
  }
  for (const auto& import : plan.import_blocks) {
    if (import.shard != shard) continue;
    RETURN_IF_ERROR(CheckBlock(import.block));
    RETURN_IF_ERROR(CheckCopy(import.copy, blocks->cell_bytes()));
  }
  for (const auto& import : plan.import_states) {
    if (import.slot.shard != shard) continue;
    RETURN_IF_ERROR(CheckSlot(import.slot));
    RETURN_IF_ERROR(CheckCopy(import.copy, 0));  // the model says what is wrong with its size
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
  Slot& slot = slots[open.slot.slot];
  slot.open = true;
  slot.blocks.clear();
  slot.sampling = open.sampling;
  slot.output_counts.clear();
  for (const uint32_t token : open.prior_output) ++slot.output_counts[token];
  slot.form.Begin(constraints, open);
}

void Executor::Impl::SetBlock(const StepPlan::SetBlock& set) {
  std::vector<std::byte*>& table = slots[set.slot.slot].blocks;
  if (set.index == table.size()) table.emplace_back();
  table[set.index] = blocks->cell(set.block);
}

void Executor::Impl::ImportBlock(const StepPlan::ImportBlock& import) {
  const KvCopies::Bytes copy = copies.Find(import.copy);
  std::memcpy(blocks->cell(import.block), copy->data(), blocks->cell_bytes());
}

void Executor::Impl::ImportState(const StepPlan::ImportState& import, std::vector<SlotFailure>& failures) {
  const KvCopies::Bytes copy = copies.Find(import.copy);
  absl::Status status = model->ImportState(WithoutStamp(*copy), import.n_tokens, states->cell(import.slot.slot));
  if (!status.ok()) failures.push_back({import.slot, Annotate(status, "restored state")});
}

absl::Status Executor::Impl::RunRows(const StepPlan& plan, int shard, int n_microbatches, StepResult& result) {
  ForwardBatch batch;
  batch.n_microbatches = n_microbatches;
  std::vector<LocalRow> local;
  size_t n_logits_rows = 0;
  for (const StepPlan::Row& row : plan.rows) {
    if (row.slot.shard != shard) continue;
    local.push_back({.row = &row, .first_logits = n_logits_rows, .n_logits = 0, .chunk = std::nullopt});
    if (HasFailed(result.failures, row.slot)) continue;
    const std::vector<std::byte*>& table = slots[row.slot.slot].blocks;
    const auto n_past = static_cast<uint64_t>(row.n_past);
    const bool is_replay = row.replay_begin >= 0;
    for (size_t i = BlocksCovering(n_past); !is_replay && i < BlocksCovering(n_past + row.tokens.size()); ++i) {
      std::memset(table[i], 0, blocks->cell_bytes());
    }
    local.back().chunk = batch.chunks.size();
    local.back().n_logits = !row.targets.empty() ? row.tokens.size() : row.sample ? row.n_drafts + 1 : 0;
    const WantLogits want = local.back().n_logits == 0   ? WantLogits::kNone
                            : local.back().n_logits == 1 ? WantLogits::kLast
                                                         : WantLogits::kAll;
    n_logits_rows += local.back().n_logits;
    batch.chunks.push_back({.n_past = row.n_past,
                            .tokens = row.tokens,
                            .blocks = table,
                            .state = states->cell(row.slot.slot),
                            .want_logits = want,
                            .replay_begin = row.replay_begin});
  }
  ASSIGN_OR_RETURN(const ForwardOutput output, model->Forward(batch));
  const size_t vocab_size = model->vocab_size();
  if (output.logits.size() != n_logits_rows * vocab_size) {
    return Misfit("logits of the model", output.logits.size(), n_logits_rows * vocab_size);
  }
  result.rows.resize(local.size());
  std::vector<absl::Status> sampling(local.size());
  model->ForEach(static_cast<int64_t>(local.size()), [&](int64_t at) {
    const auto i = static_cast<size_t>(at);
    const LocalRow& row = local[i];
    if (row.n_logits == 0 || !row.row->sample) return;
    const size_t n_own = row.row->n_drafts + 1;
    const auto own = output.logits.subspan((row.first_logits + row.n_logits - n_own) * vocab_size, n_own * vocab_size);
    sampling[i] = Sample(*row.row, own, result.rows[i].sampled);
  });
  for (size_t i = 0; i < local.size(); ++i) {
    if (!sampling[i].ok()) result.failures.push_back({local[i].row->slot, sampling[i]});
  }
  Score(local, output.logits, result);
  return model->n_draft() > 0 ? Draft(local, plan.n_draft, result.rows) : absl::OkStatus();
}

void Executor::Impl::Score(std::span<const LocalRow> local, std::span<const float> logits, StepResult& result) {
  struct Item {
    size_t row;
    size_t target;
  };
  std::vector<Item> items;
  for (size_t i = 0; i < local.size(); ++i) {
    if (local[i].n_logits == 0) continue;
    const size_t n_targets = local[i].row->targets.size();
    result.rows[i].scored.resize(n_targets);
    for (size_t k = 0; k < n_targets; ++k) items.push_back({i, k});
  }
  const size_t vocab_size = model->vocab_size();
  std::vector<absl::Status> scoring(items.size());
  model->ForEach(static_cast<int64_t>(items.size()), [&](int64_t at) {
    const Item& item = items[static_cast<size_t>(at)];
    const LocalRow& row = local[item.row];
    const auto own = logits.subspan((row.first_logits + item.target) * vocab_size, vocab_size);
    const uint32_t n_top = slots[row.row->slot.slot].sampling.n_top_logprobs;
    auto scored = ScoreToken(own, row.row->targets[item.target], n_top);
    scoring[static_cast<size_t>(at)] = scored.status();
    if (scored.ok()) result.rows[item.row].scored[item.target] = *std::move(scored);
  });
  for (size_t at = 0; at < items.size(); ++at) {
    const StepPlan::Row& row = *local[items[at].row].row;
    if (scoring[at].ok() || HasFailed(result.failures, row.slot)) continue;
    const int64_t position = row.n_past + static_cast<int64_t>(items[at].target) + 1;
    result.failures.push_back({row.slot, Annotate(scoring[at], absl::StrCat("scoring position ", position))});
  }
  for (size_t i = 0; i < local.size(); ++i) {
    if (HasFailed(result.failures, local[i].row->slot)) result.rows[i] = {};
  }
}

absl::Status Executor::Impl::Draft(std::span<const LocalRow> local, int64_t n_tokens, std::span<RowResult> results) {
  std::vector<DraftRequest> requests;
  std::vector<RowResult*> asking;
  for (size_t i = 0; i < local.size(); ++i) {
    const StepPlan::Row& row = *local[i].row;
    RowResult& result = results[i];
    if (!row.wants_draft || !local[i].chunk.has_value() || result.sampled.empty()) continue;
    const auto n_kept = static_cast<int64_t>(row.tokens.size() - row.n_drafts + result.sampled.size() - 1);
    requests.push_back({*local[i].chunk, n_kept, result.sampled.back().token});
    asking.push_back(&result);
  }
  ASSIGN_OR_RETURN(const DraftOutput drafts, model->Draft(requests, n_tokens));
  const auto n_each = static_cast<size_t>(drafts.n_each);
  if (drafts.tokens.size() != n_each * requests.size() || drafts.confidence.size() != drafts.tokens.size()) {
    return Misfit("guesses of the model", drafts.tokens.size(), n_each * requests.size());
  }
  for (size_t k = 0; k < asking.size(); ++k) {
    const auto guess = drafts.tokens.subspan(k * n_each, n_each);
    const auto confidence = drafts.confidence.subspan(k * n_each, n_each);
    asking[k]->draft.assign(guess.begin(), guess.end());
    asking[k]->draft_confidence.assign(confidence.begin(), confidence.end());
  }
  return absl::OkStatus();
}

absl::StatusOr<SampledToken> Executor::Impl::SampleAllowed(std::span<const float> logits, const Slot& slot,
                                                           grammar::OutputState* form, int64_t position) {
  if (form == nullptr) return SampleToken(logits, slot.sampling, slot.output_counts, position);
  ASSIGN_OR_RETURN(const grammar::TokenBits allowed, form->Allowed());
  ASSIGN_OR_RETURN(SampledToken token,
                   SampleToken(logits, slot.sampling, slot.output_counts, position, AllowedTokens(allowed)));
  RETURN_IF_ERROR(form->Push(token.token));
  return token;
}

absl::Status Executor::Impl::Sample(const StepPlan::Row& row, std::span<const float> logits,
                                    std::vector<SampledToken>& sampled) {
  Slot& slot = slots[row.slot.slot];
  const size_t vocab_size = model->vocab_size();
  const size_t n_certain = row.tokens.size() - row.n_drafts;
  ASSIGN_OR_RETURN(grammar::OutputState* const form, slot.form.Get());
  for (size_t i = 0; i <= row.n_drafts; ++i) {
    const int64_t position = row.n_past + static_cast<int64_t>(n_certain + i);
    const auto own = logits.subspan(i * vocab_size, vocab_size);
    auto token = SampleAllowed(own, slot, form, position);
    if (!token.ok()) {
      sampled.clear();
      return Annotate(token.status(), absl::StrCat("sampling position ", position));
    }
    if (row.return_logits) token->logits.assign(own.begin(), own.end());
    ++slot.output_counts[token->token];
    sampled.push_back(*std::move(token));
    if (i < row.n_drafts && sampled.back().token != row.tokens[n_certain + i]) break;
  }
  return absl::OkStatus();
}

void Executor::Impl::ExportBlock(const StepPlan::ExportBlock& ex) {
  const std::byte* cell = blocks->cell(ex.block);
  std::vector<std::byte> out;
  out.reserve(blocks->cell_bytes() + kStampBytes);
  out.assign(cell, cell + blocks->cell_bytes());
  if (ex.n_tokens_in_block < kBlockTokens) model->ClearTail(out.data(), ex.n_tokens_in_block);
  Keep(ex.copy, std::move(out), ex.stamp);
}

void Executor::Impl::ExportState(const StepPlan::ExportState& ex) {
  std::vector<std::byte> out;
  out.reserve(model->StateExportBytes(ex.n_tokens) + kStampBytes);
  out.resize(model->StateExportBytes(ex.n_tokens));
  model->ExportState(states->cell(ex.slot.slot), ex.n_tokens, out);
  Keep(ex.copy, std::move(out), ex.stamp);
}

void Executor::Impl::Keep(uint64_t number, std::vector<std::byte> bytes, const EncodedStamp& stamp) {
  bytes.insert(bytes.end(), stamp.begin(), stamp.end());
  copies.Add(number, std::make_shared<const std::vector<std::byte>>(std::move(bytes)));
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
  impl->slots.resize(options.n_slots);
  impl->constraints = options.constraints;
  return std::unique_ptr<Executor>(new Executor(std::move(impl)));
}

absl::StatusOr<StepResult> Executor::Execute(const StepPlan& plan, int shard, int n_microbatches) {
  StepResult result;
  if (plan.opcode != StepPlan::Opcode::kStep) return result;
  RETURN_IF_ERROR(impl_->CheckPlan(plan, shard));
  for (const auto& open : plan.open_slots) {
    if (open.slot.shard == shard) impl_->Open(open);
  }
  for (const auto& set : plan.set_blocks) {
    if (set.slot.shard == shard) impl_->SetBlock(set);
  }
  for (const auto& import : plan.import_blocks) {
    if (import.shard == shard) impl_->ImportBlock(import);
  }
  for (const auto& import : plan.import_states) {
    if (import.slot.shard == shard) impl_->ImportState(import, result.failures);
  }
  if (!plan.rows.empty()) RETURN_IF_ERROR(impl_->RunRows(plan, shard, n_microbatches, result));
  for (const auto& ex : plan.export_blocks) {
    if (ex.shard == shard) impl_->ExportBlock(ex);
  }
  for (const auto& ex : plan.export_states) {
    if (ex.slot.shard == shard && !HasFailed(result.failures, ex.slot)) impl_->ExportState(ex);
  }
  for (const auto& drop : plan.drop_copies) {
    if (drop.shard == shard) impl_->copies.Drop(drop.copy);
  }
  return result;
}

std::vector<uint32_t> Executor::BlockTableOf(uint16_t slot) const {
  std::vector<uint32_t> out;
  for (const std::byte* block : impl_->slots[slot].blocks) out.push_back(impl_->blocks->IndexOf(block));
  return out;
}

KvCopies& Executor::copies() { return impl_->copies; }

GroupShape Executor::shape(int n_shards) const {
  const SequenceModel* model = impl_->model.get();
  return {.n_shards = n_shards,
          .n_slots_per_shard = impl_->states->n_cells(),
          .n_blocks_per_shard = impl_->blocks->n_cells(),
          .block_bytes = impl_->blocks->cell_bytes(),
          .state_export_bytes = [model](int64_t n_tokens) { return model->StateExportBytes(n_tokens); },
          .position_cost = model->position_cost(),
          .replay_tokens = model->replay_tokens(),
          .n_draft_max = model->n_draft_max(),
          .n_draft = model->n_draft()};
}

}  // namespace longshelf::engine
