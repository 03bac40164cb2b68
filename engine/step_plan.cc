#include "engine/step_plan.h"

#include <xxhash.h>

#include <utility>

#include "common/status.h"
#include "wire.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kPlanMagic = 0x4C505333;    // "3SPL"
constexpr uint32_t kResultMagic = 0x52505332;  // "2SPR"

std::string Seal(WireWriter& w) {
  w.Value<uint64_t>(XXH3_64bits(w.out().data(), w.out().size()));
  return std::move(w.out());
}

// The bytes before the checksum.
absl::StatusOr<std::string_view> Unseal(std::string_view bytes, absl::string_view what) {
  uint64_t expected = 0;
  if (bytes.size() < sizeof expected) return absl::DataLossError(absl::StrCat(what, ": too short for a checksum"));
  const std::string_view body = bytes.substr(0, bytes.size() - sizeof expected);
  std::memcpy(&expected, bytes.data() + body.size(), sizeof expected);
  if (XXH3_64bits(body.data(), body.size()) != expected) {
    return absl::DataLossError(absl::StrCat(what, ": checksum differs over ", body.size(), " bytes"));
  }
  return body;
}

// The forms below are written by a WireWriter, which takes the values as const, and read by a WireReader.

template <typename Wire, typename Slot>
void SlotForm(Wire& wire, Slot& slot, absl::string_view field) {
  wire.Value(slot.shard, field);
  wire.Value(slot.slot, field);
}

// Takes the parameters apart, so that one more of them does not compile until it travels too.
template <typename Wire, typename Sampling>
void SamplingForm(Wire& wire, Sampling& sampling) {
  auto& [temperature, top_p, top_k, min_p, seed, presence_penalty, frequency_penalty, logprobs, n_top_logprobs] =
      sampling;
  wire.Value(temperature, "sampling.temperature");
  wire.Value(top_p, "sampling.top_p");
  wire.Value(top_k, "sampling.top_k");
  wire.Value(min_p, "sampling.min_p");
  wire.Value(seed, "sampling.seed");
  wire.Value(presence_penalty, "sampling.presence_penalty");
  wire.Value(frequency_penalty, "sampling.frequency_penalty");
  wire.Flag(logprobs, "sampling.logprobs");
  wire.Value(n_top_logprobs, "sampling.n_top_logprobs");
}

template <typename Wire, typename Plan>
void MovesForm(Wire& wire, Plan& plan) {
  wire.List(plan.open_slots, "open_slots", [](auto& w, auto& open) {
    SlotForm(w, open.slot, "open_slots.slot");
    SamplingForm(w, open.sampling);
    w.Array(open.prior_output, "open_slots.prior_output");
  });
  wire.List(plan.set_blocks, "set_blocks", [](auto& w, auto& set) {
    SlotForm(w, set.slot, "set_blocks.slot");
    w.Value(set.index, "set_blocks.index");
    w.Value(set.block, "set_blocks.block");
  });
  wire.List(plan.import_blocks, "import_blocks", [](auto& w, auto& import) {
    w.Value(import.shard, "import_blocks.shard");
    w.Value(import.block, "import_blocks.block");
    w.Array(import.bytes, "import_blocks.bytes");
  });
  wire.List(plan.import_states, "import_states", [](auto& w, auto& import) {
    SlotForm(w, import.slot, "import_states.slot");
    w.Value(import.n_tokens, "import_states.n_tokens");
    w.Array(import.bytes, "import_states.bytes");
  });
}

template <typename Wire, typename Plan>
void RowsAndExportsForm(Wire& wire, Plan& plan) {
  wire.List(plan.rows, "rows", [](auto& w, auto& row) {
    SlotForm(w, row.slot, "rows.slot");
    w.Value(row.n_past, "rows.n_past");
    w.Array(row.tokens, "rows.tokens");
    w.Flag(row.sample, "rows.sample");
    w.Flag(row.return_logits, "rows.return_logits");
    w.Value(row.n_drafts, "rows.n_drafts");
    w.Flag(row.wants_draft, "rows.wants_draft");
    w.Value(row.replay_begin, "rows.replay_begin");
  });
  wire.List(plan.export_blocks, "export_blocks", [](auto& w, auto& ex) {
    w.Value(ex.shard, "export_blocks.shard");
    w.Value(ex.block, "export_blocks.block");
    w.Value(ex.n_tokens_in_block, "export_blocks.n_tokens_in_block");
  });
  wire.List(plan.export_states, "export_states", [](auto& w, auto& ex) {
    SlotForm(w, ex.slot, "export_states.slot");
    w.Value(ex.n_tokens, "export_states.n_tokens");
  });
  wire.Value(plan.n_draft, "n_draft");
}

void StatusForm(WireWriter& w, const absl::Status& status) {
  w.Value<int32_t>(status.raw_code());
  w.Text(std::string_view(status.message().data(), status.message().size()), "failures.message");
}

void StatusForm(WireReader& r, absl::Status& status) {
  int32_t code = 0;
  std::string message;
  r.Value(code, "failures.code");
  if (r.ok() && (code < 1 || code > 16)) r.Fail("failures.code", "is not an error");
  r.Text(message, "failures.message");
  status = absl::Status(static_cast<absl::StatusCode>(code), message);
}

template <typename Wire, typename Sampled>
void SampledForm(Wire& w, Sampled& sampled) {
  w.Value(sampled.token, "sampled.token");
  w.Value(sampled.logprob, "sampled.logprob");
  w.List(sampled.top, "sampled.top", [](auto& inner, auto& top) {
    inner.Value(top.token, "sampled.top.token");
    inner.Value(top.logprob, "sampled.top.logprob");
  });
  w.Array(sampled.logits, "sampled.logits");
}

template <typename Wire, typename Result>
void ResultForm(Wire& wire, Result& result) {
  wire.List(result.rows, "rows", [](auto& w, auto& row) {
    w.List(row.sampled, "rows.sampled", [](auto& inner, auto& sampled) { SampledForm(inner, sampled); });
    w.Array(row.draft, "rows.draft");
    w.Array(row.draft_confidence, "rows.draft_confidence");
  });
  wire.List(result.blocks, "blocks", [](auto& w, auto& block) { w.Array(block, "blocks.bytes"); });
  wire.List(result.states, "states", [](auto& w, auto& state) { w.Array(state, "states.bytes"); });
  wire.List(result.failures, "failures", [](auto& w, auto& failure) {
    SlotForm(w, failure.slot, "failures.slot");
    StatusForm(w, failure.status);
  });
}

// What dominates the size; the rest grows on its own.
size_t PayloadBytes(const StepPlan& plan) {
  constexpr size_t kItemBytes = 32;  // beside the payload, about
  size_t n = 4096;
  for (const auto& import : plan.import_blocks) n += import.bytes.size() + kItemBytes;
  for (const auto& import : plan.import_states) n += import.bytes.size() + kItemBytes;
  return n;
}

}  // namespace

std::string StepPlan::Serialize() const {
  WireWriter w;
  w.Reserve(PayloadBytes(*this));
  w.Value(kPlanMagic);
  w.Value(static_cast<uint8_t>(opcode));
  w.Value(seq);
  MovesForm(w, *this);
  RowsAndExportsForm(w, *this);
  return Seal(w);
}

absl::StatusOr<StepPlan> StepPlan::Parse(std::string_view bytes) {
  ASSIGN_OR_RETURN(const std::string_view body, Unseal(bytes, "step plan"));
  WireReader r(body);
  StepPlan plan;
  uint32_t magic = 0;
  uint8_t opcode = 0;
  r.Value(magic, "magic");
  if (magic != kPlanMagic) r.Fail("magic", "is not a step plan of this version");
  r.Value(opcode, "opcode");
  if (opcode > static_cast<uint8_t>(Opcode::kShutdown)) r.Fail("opcode", "is unknown");
  plan.opcode = static_cast<Opcode>(opcode);
  r.Value(plan.seq, "seq");
  MovesForm(r, plan);
  RowsAndExportsForm(r, plan);
  if (absl::Status status = r.Finish(); !status.ok()) return Annotate(status, "step plan");
  return plan;
}

std::string StepResult::Serialize() const {
  WireWriter w;
  w.Value(kResultMagic);
  ResultForm(w, *this);
  return Seal(w);
}

absl::StatusOr<StepResult> StepResult::Parse(std::string_view bytes) {
  ASSIGN_OR_RETURN(const std::string_view body, Unseal(bytes, "step result"));
  WireReader r(body);
  StepResult result;
  uint32_t magic = 0;
  r.Value(magic, "magic");
  if (magic != kResultMagic) r.Fail("magic", "is not a step result of this version");
  ResultForm(r, result);
  if (absl::Status status = r.Finish(); !status.ok()) return Annotate(status, "step result");
  return result;
}

namespace {

// Moves entries of per-shard lists into `out`, following the shard of each plan item.
template <typename Item, typename Entry, typename ShardOf>
absl::Status MergeList(const std::vector<Item>& items, ShardOf shard_of, std::vector<StepResult>& per_shard,
                       std::vector<Entry> StepResult::*list, absl::string_view what, std::vector<Entry>& out) {
  std::vector<size_t> next(per_shard.size(), 0);
  out.reserve(items.size());
  for (const Item& item : items) {
    const size_t shard = shard_of(item);
    if (shard >= per_shard.size() || next[shard] >= (per_shard[shard].*list).size()) {
      return absl::InternalError(absl::StrCat("shard ", shard, " gave too few ", what, " for the plan"));
    }
    out.push_back(std::move((per_shard[shard].*list)[next[shard]++]));
  }
  for (size_t shard = 0; shard < per_shard.size(); ++shard) {
    if (next[shard] != (per_shard[shard].*list).size()) {
      return absl::InternalError(absl::StrCat("shard ", shard, " gave more ", what, " than the plan asks for"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StepResult> MergeResults(const StepPlan& plan, std::vector<StepResult> per_shard) {
  StepResult out;
  RETURN_IF_ERROR(MergeList(
      plan.rows, [](const StepPlan::Row& r) { return r.slot.shard; }, per_shard, &StepResult::rows, "rows", out.rows));
  RETURN_IF_ERROR(MergeList(
      plan.export_blocks, [](const StepPlan::ExportBlock& e) { return e.shard; }, per_shard, &StepResult::blocks,
      "blocks", out.blocks));
  RETURN_IF_ERROR(MergeList(
      plan.export_states, [](const StepPlan::ExportState& e) { return e.slot.shard; }, per_shard, &StepResult::states,
      "states", out.states));
  for (StepResult& result : per_shard) {
    for (SlotFailure& failure : result.failures) out.failures.push_back(std::move(failure));
  }
  return out;
}

}  // namespace longshelf::engine
