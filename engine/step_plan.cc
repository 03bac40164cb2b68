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
constexpr size_t kCopyBlockBytes = 2 + 4 + 4;
constexpr size_t kImportStateBytes = 4 + 8 + 8;
constexpr size_t kRowBytes = 4 + 8 + 8 + 8 + 2;
constexpr size_t kExportBlockBytes = 2 + 4 + 8;
constexpr size_t kExportStateBytes = 4 + 8;
constexpr size_t kSampledBytes = 4 + 4 + 8 + 8;
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

void PutSlot(WireWriter& w, const SlotId& slot) {
  w.Value(slot.shard);
  w.Value(slot.slot);
}

void GetSlot(WireReader& r, SlotId& slot, absl::string_view field) {
  r.Value(slot.shard, field);
  r.Value(slot.slot, field);
}

void PutSampling(WireWriter& w, const SamplingParams& p) {
  w.Value(p.temperature);
  w.Value(p.top_p);
  w.Value(p.top_k);
  w.Value(p.min_p);
  w.Value(p.seed);
  w.Value(p.presence_penalty);
  w.Value(p.frequency_penalty);
  w.Flag(p.logprobs);
  w.Value(p.n_top_logprobs);
}

void GetSampling(WireReader& r, SamplingParams& p) {
  r.Value(p.temperature, "sampling.temperature");
  r.Value(p.top_p, "sampling.top_p");
  r.Value(p.top_k, "sampling.top_k");
  r.Value(p.min_p, "sampling.min_p");
  r.Value(p.seed, "sampling.seed");
  r.Value(p.presence_penalty, "sampling.presence_penalty");
  r.Value(p.frequency_penalty, "sampling.frequency_penalty");
  r.Flag(p.logprobs, "sampling.logprobs");
  r.Value(p.n_top_logprobs, "sampling.n_top_logprobs");
}

void PutMoves(WireWriter& w, const StepPlan& plan) {
  w.Count(plan.open_slots.size());
  for (const auto& open : plan.open_slots) {
    PutSlot(w, open.slot);
    PutSampling(w, open.sampling);
    w.Array(open.prior_output);
  }
  w.Count(plan.import_blocks.size());
  for (const auto& import : plan.import_blocks) {
    w.Value(import.shard);
    w.Value(import.block);
    w.Array(import.bytes);
  }
  w.Count(plan.copy_blocks.size());
  for (const auto& copy : plan.copy_blocks) {
    w.Value(copy.shard);
    w.Value(copy.from);
    w.Value(copy.to);
  }
  w.Count(plan.import_states.size());
  for (const auto& import : plan.import_states) {
    PutSlot(w, import.slot);
    w.Value(import.n_tokens);
    w.Array(import.bytes);
  }
}

void GetMoves(WireReader& r, StepPlan& plan) {
  plan.open_slots.resize(r.Count(kOpenSlotBytes, "open_slots"));
  for (auto& open : plan.open_slots) {
    GetSlot(r, open.slot, "open_slots.slot");
    GetSampling(r, open.sampling);
    r.Array(open.prior_output, "open_slots.prior_output");
  }
  plan.import_blocks.resize(r.Count(kImportBlockBytes, "import_blocks"));
  for (auto& import : plan.import_blocks) {
    r.Value(import.shard, "import_blocks.shard");
    r.Value(import.block, "import_blocks.block");
    r.Array(import.bytes, "import_blocks.bytes");
  }
  plan.copy_blocks.resize(r.Count(kCopyBlockBytes, "copy_blocks"));
  for (auto& copy : plan.copy_blocks) {
    r.Value(copy.shard, "copy_blocks.shard");
    r.Value(copy.from, "copy_blocks.from");
    r.Value(copy.to, "copy_blocks.to");
  }
  plan.import_states.resize(r.Count(kImportStateBytes, "import_states"));
  for (auto& import : plan.import_states) {
    GetSlot(r, import.slot, "import_states.slot");
    r.Value(import.n_tokens, "import_states.n_tokens");
    r.Array(import.bytes, "import_states.bytes");
  }
}

void PutRowsAndExports(WireWriter& w, const StepPlan& plan) {
  w.Count(plan.rows.size());
  for (const auto& row : plan.rows) {
    PutSlot(w, row.slot);
    w.Value(row.n_past);
    w.Array(row.tokens);
    w.Array(row.blocks);
    w.Flag(row.sample);
    w.Flag(row.return_logits);
  }
  w.Count(plan.export_blocks.size());
  for (const auto& ex : plan.export_blocks) {
    w.Value(ex.shard);
    w.Value(ex.block);
    w.Value(ex.n_tokens_in_block);
  }
  w.Count(plan.export_states.size());
  for (const auto& ex : plan.export_states) {
    PutSlot(w, ex.slot);
    w.Value(ex.n_tokens);
  }
}

void GetRowsAndExports(WireReader& r, StepPlan& plan) {
  plan.rows.resize(r.Count(kRowBytes, "rows"));
  for (auto& row : plan.rows) {
    GetSlot(r, row.slot, "rows.slot");
    r.Value(row.n_past, "rows.n_past");
    r.Array(row.tokens, "rows.tokens");
    r.Array(row.blocks, "rows.blocks");
    r.Flag(row.sample, "rows.sample");
    r.Flag(row.return_logits, "rows.return_logits");
  }
  plan.export_blocks.resize(r.Count(kExportBlockBytes, "export_blocks"));
  for (auto& ex : plan.export_blocks) {
    r.Value(ex.shard, "export_blocks.shard");
    r.Value(ex.block, "export_blocks.block");
    r.Value(ex.n_tokens_in_block, "export_blocks.n_tokens_in_block");
  }
  plan.export_states.resize(r.Count(kExportStateBytes, "export_states"));
  for (auto& ex : plan.export_states) {
    GetSlot(r, ex.slot, "export_states.slot");
    r.Value(ex.n_tokens, "export_states.n_tokens");
  }
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
  w.Value(generation);
  w.Value(seq);
  PutMoves(w, *this);
  PutRowsAndExports(w, *this);
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
  r.Value(plan.generation, "generation");
  r.Value(plan.seq, "seq");
  GetMoves(r, plan);
  GetRowsAndExports(r, plan);
  if (absl::Status status = r.Finish(); !status.ok()) return Annotate(status, "step plan");
  return plan;
}

std::string StepResult::Serialize() const {
  WireWriter w;
  w.Value(kResultMagic);
  w.Count(sampled.size());
  for (const SampledToken& s : sampled) {
    w.Value(s.token);
    w.Value(s.logprob);
    w.Count(s.top.size());
    for (const TokenLogprob& top : s.top) {
      w.Value(top.token);
      w.Value(top.logprob);
    }
    w.Array(s.logits);
  }
  w.Count(blocks.size());
  for (const auto& block : blocks) w.Array(block);
  w.Count(states.size());
  for (const auto& state : states) w.Array(state);
  w.Count(failures.size());
  for (const SlotFailure& failure : failures) {
    PutSlot(w, failure.slot);
    w.Value<int32_t>(failure.status.raw_code());
    w.Text(std::string_view(failure.status.message().data(), failure.status.message().size()));
  }
  return Seal(w);
}

absl::StatusOr<StepResult> StepResult::Parse(std::string_view bytes) {
  ASSIGN_OR_RETURN(const std::string_view body, Unseal(bytes, "step result"));
  WireReader r(body);
  StepResult result;
  uint32_t magic = 0;
  r.Value(magic, "magic");
  if (magic != kResultMagic) r.Fail("magic", "is not a step result of this version");
  result.sampled.resize(r.Count(kSampledBytes, "sampled"));
  for (SampledToken& s : result.sampled) {
    r.Value(s.token, "sampled.token");
    r.Value(s.logprob, "sampled.logprob");
    s.top.resize(r.Count(sizeof(uint32_t) + sizeof(float), "sampled.top"));
    for (TokenLogprob& top : s.top) {
      r.Value(top.token, "sampled.top.token");
      r.Value(top.logprob, "sampled.top.logprob");
    }
    r.Array(s.logits, "sampled.logits");
  }
  result.blocks.resize(r.Count(sizeof(uint64_t), "blocks"));
  for (auto& block : result.blocks) r.Array(block, "blocks.bytes");
  result.states.resize(r.Count(sizeof(uint64_t), "states"));
  for (auto& state : result.states) r.Array(state, "states.bytes");
  result.failures.resize(r.Count(kFailureBytes, "failures"));
  for (SlotFailure& failure : result.failures) {
    GetSlot(r, failure.slot, "failures.slot");
    int32_t code = 0;
    std::string message;
    r.Value(code, "failures.code");
    if (r.ok() && (code < 1 || code > 16)) r.Fail("failures.code", "is not an error");
    r.Text(message, "failures.message");
    failure.status = absl::Status(static_cast<absl::StatusCode>(code), message);
  }
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
