#include "engine/step_plan.h"

#include <xxhash.h>

#include <utility>

#include "common/status.h"
#include "wire.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kPlanMagic = 0x4C505331;    // "1SPL"
constexpr uint32_t kResultMagic = 0x52505331;  // "1SPR"

// Smallest serialised sizes, for bounding counts.
constexpr size_t kOpenSlotBytes = 4 + 57 + 8;
constexpr size_t kImportBlockBytes = 2 + 4 + 8;
constexpr size_t kImportStateBytes = 4 + 8 + 8;
constexpr size_t kRowBytes = 4 + 8 + 8 + 8 + 2;
constexpr size_t kExportBlockBytes = 2 + 4 + 8;
constexpr size_t kExportStateBytes = 4 + 8;
constexpr size_t kSampledBytes = 4 + 4 + 8 + 8;
constexpr size_t kTopBytes = 4 + 4;
constexpr size_t kBytesBytes = 8;
constexpr size_t kFailureBytes = 4 + 4 + 8;

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

template <typename Wire, typename Sampling>
void SamplingForm(Wire& wire, Sampling& p) {
  wire.Value(p.temperature, "sampling.temperature");
  wire.Value(p.top_p, "sampling.top_p");
  wire.Value(p.top_k, "sampling.top_k");
  wire.Value(p.min_p, "sampling.min_p");
  wire.Value(p.seed, "sampling.seed");
  wire.Value(p.presence_penalty, "sampling.presence_penalty");
  wire.Value(p.frequency_penalty, "sampling.frequency_penalty");
  wire.Flag(p.logprobs, "sampling.logprobs");
  wire.Value(p.n_top_logprobs, "sampling.n_top_logprobs");
}

template <typename Wire, typename Plan>
void MovesForm(Wire& wire, Plan& plan) {
  wire.List(plan.open_slots, kOpenSlotBytes, "open_slots", [&wire](auto& open) {
    SlotForm(wire, open.slot, "open_slots.slot");
    SamplingForm(wire, open.sampling);
    wire.Array(open.prior_output, "open_slots.prior_output");
  });
  wire.List(plan.import_blocks, kImportBlockBytes, "import_blocks", [&wire](auto& import) {
    wire.Value(import.shard, "import_blocks.shard");
    wire.Value(import.block, "import_blocks.block");
    wire.Array(import.bytes, "import_blocks.bytes");
  });
  wire.List(plan.import_states, kImportStateBytes, "import_states", [&wire](auto& import) {
    SlotForm(wire, import.slot, "import_states.slot");
    wire.Value(import.n_tokens, "import_states.n_tokens");
    wire.Array(import.bytes, "import_states.bytes");
  });
}

template <typename Wire, typename Plan>
void RowsAndExportsForm(Wire& wire, Plan& plan) {
  wire.List(plan.rows, kRowBytes, "rows", [&wire](auto& row) {
    SlotForm(wire, row.slot, "rows.slot");
    wire.Value(row.n_past, "rows.n_past");
    wire.Array(row.tokens, "rows.tokens");
    wire.Array(row.blocks, "rows.blocks");
    wire.Flag(row.sample, "rows.sample");
    wire.Flag(row.return_logits, "rows.return_logits");
  });
  wire.List(plan.export_blocks, kExportBlockBytes, "export_blocks", [&wire](auto& ex) {
    wire.Value(ex.shard, "export_blocks.shard");
    wire.Value(ex.block, "export_blocks.block");
    wire.Value(ex.n_tokens_in_block, "export_blocks.n_tokens_in_block");
  });
  wire.List(plan.export_states, kExportStateBytes, "export_states", [&wire](auto& ex) {
    SlotForm(wire, ex.slot, "export_states.slot");
    wire.Value(ex.n_tokens, "export_states.n_tokens");
  });
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

template <typename Wire, typename Result>
void ResultForm(Wire& wire, Result& result) {
  wire.List(result.sampled, kSampledBytes, "sampled", [&wire](auto& sampled) {
    wire.Value(sampled.token, "sampled.token");
    wire.Value(sampled.logprob, "sampled.logprob");
    wire.List(sampled.top, kTopBytes, "sampled.top", [&wire](auto& top) {
      wire.Value(top.token, "sampled.top.token");
      wire.Value(top.logprob, "sampled.top.logprob");
    });
    wire.Array(sampled.logits, "sampled.logits");
  });
  wire.List(result.blocks, kBytesBytes, "blocks", [&wire](auto& block) { wire.Array(block, "blocks.bytes"); });
  wire.List(result.states, kBytesBytes, "states", [&wire](auto& state) { wire.Array(state, "states.bytes"); });
  wire.List(result.failures, kFailureBytes, "failures", [&wire](auto& failure) {
    SlotForm(wire, failure.slot, "failures.slot");
    StatusForm(wire, failure.status);
  });
}

// What dominates the size; the rest grows on its own.
size_t PayloadBytes(const StepPlan& plan) {
  size_t n = 4096;
  for (const auto& import : plan.import_blocks) n += import.bytes.size() + kImportBlockBytes;
  for (const auto& import : plan.import_states) n += import.bytes.size() + kImportStateBytes;
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
      plan.rows, [](const StepPlan::Row& r) { return r.slot.shard; }, per_shard, &StepResult::sampled, "rows",
      out.sampled));
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
