#include "engine/step_plan.h"

#include <xxhash.h>

#include <utility>

#include "common/status.h"
#include "wire.h"

namespace longshelf::engine {
namespace {

constexpr uint32_t kPlanMagic = 0x4C505336;    // "6SPL"
constexpr uint32_t kResultMagic = 0x52505334;  // "4SPR"

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
  auto& [temperature, top_p, top_k, min_p, seed, presence_penalty, frequency_penalty, logprobs, n_top_logprobs,
         logit_bias] = sampling;
  wire.Value(temperature, "sampling.temperature");
  wire.Value(top_p, "sampling.top_p");
  wire.Value(top_k, "sampling.top_k");
  wire.Value(min_p, "sampling.min_p");
  wire.Value(seed, "sampling.seed");
  wire.Value(presence_penalty, "sampling.presence_penalty");
  wire.Value(frequency_penalty, "sampling.frequency_penalty");
  wire.Flag(logprobs, "sampling.logprobs");
  wire.Value(n_top_logprobs, "sampling.n_top_logprobs");
  wire.List(logit_bias, "sampling.logit_bias", [](auto& w, auto& entry) {
    w.Value(entry.token, "sampling.logit_bias.token");
    w.Value(entry.bias, "sampling.logit_bias.bias");
  });
}

template <typename Wire, typename Plan>
void MovesForm(Wire& wire, Plan& plan) {
  wire.List(plan.open_slots, "open_slots", [](auto& w, auto& open) {
    SlotForm(w, open.slot, "open_slots.slot");
    SamplingForm(w, open.sampling);
    w.Array(open.prior_output, "open_slots.prior_output");
    w.Text(open.output_spec, "open_slots.output_spec");
    w.Array(open.end_token_ids, "open_slots.end_token_ids");
  });
  wire.List(plan.set_blocks, "set_blocks", [](auto& w, auto& set) {
    SlotForm(w, set.slot, "set_blocks.slot");
    w.Value(set.index, "set_blocks.index");
    w.Value(set.block, "set_blocks.block");
  });
  wire.List(plan.move_copies, "move_copies", [](auto& w, auto& move) {
    w.Value(move.from, "move_copies.from");
    w.Value(move.copy, "move_copies.copy");
    w.Value(move.to, "move_copies.to");
    w.Value(move.new_copy, "move_copies.new_copy");
    w.Value(move.n_bytes, "move_copies.n_bytes");
  });
  wire.List(plan.import_blocks, "import_blocks", [](auto& w, auto& import) {
    w.Value(import.shard, "import_blocks.shard");
    w.Value(import.block, "import_blocks.block");
    w.Value(import.copy, "import_blocks.copy");
  });
  wire.List(plan.import_states, "import_states", [](auto& w, auto& import) {
    SlotForm(w, import.slot, "import_states.slot");
    w.Value(import.n_tokens, "import_states.n_tokens");
    w.Value(import.copy, "import_states.copy");
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
    w.Array(row.targets, "rows.targets");
  });
  wire.List(plan.export_blocks, "export_blocks", [](auto& w, auto& ex) {
    w.Value(ex.shard, "export_blocks.shard");
    w.Value(ex.block, "export_blocks.block");
    w.Value(ex.n_tokens_in_block, "export_blocks.n_tokens_in_block");
    w.Value(ex.copy, "export_blocks.copy");
    w.Fixed(ex.stamp, "export_blocks.stamp");
  });
  wire.List(plan.export_states, "export_states", [](auto& w, auto& ex) {
    SlotForm(w, ex.slot, "export_states.slot");
    w.Value(ex.n_tokens, "export_states.n_tokens");
    w.Value(ex.copy, "export_states.copy");
    w.Fixed(ex.stamp, "export_states.stamp");
  });
  wire.List(plan.drop_copies, "drop_copies", [](auto& w, auto& drop) {
    w.Value(drop.shard, "drop_copies.shard");
    w.Value(drop.copy, "drop_copies.copy");
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

// What a sampled and a scored token share.
template <typename Wire, typename Token>
void LogprobsForm(Wire& w, Token& token) {
  w.Value(token.token, "token");
  w.Value(token.logprob, "token.logprob");
  w.List(token.top, "token.top", [](auto& inner, auto& top) {
    inner.Value(top.token, "token.top.token");
    inner.Value(top.logprob, "token.top.logprob");
  });
}

template <typename Wire, typename Sampled>
void SampledForm(Wire& w, Sampled& sampled) {
  LogprobsForm(w, sampled);
  w.Array(sampled.logits, "sampled.logits");
}

template <typename Wire, typename Result>
void ResultForm(Wire& wire, Result& result) {
  wire.List(result.rows, "rows", [](auto& w, auto& row) {
    w.List(row.sampled, "rows.sampled", [](auto& inner, auto& sampled) { SampledForm(inner, sampled); });
    w.Array(row.draft, "rows.draft");
    w.Array(row.draft_confidence, "rows.draft_confidence");
    w.List(row.scored, "rows.scored", [](auto& inner, auto& scored) { LogprobsForm(inner, scored); });
  });
  wire.List(result.failures, "failures", [](auto& w, auto& failure) {
    SlotForm(w, failure.slot, "failures.slot");
    StatusForm(w, failure.status);
  });
}

}  // namespace

std::string StepPlan::Serialize() const {
  WireWriter w;
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

absl::StatusOr<StepResult> MergeResults(const StepPlan& plan, std::vector<StepResult> per_shard) {
  StepResult out;
  std::vector<size_t> next(per_shard.size(), 0);
  out.rows.reserve(plan.rows.size());
  for (const StepPlan::Row& row : plan.rows) {
    const size_t shard = row.slot.shard;
    if (shard >= per_shard.size() || next[shard] >= per_shard[shard].rows.size()) {
      return absl::InternalError(absl::StrCat("shard ", shard, " gave too few rows for the plan"));
    }
    out.rows.push_back(std::move(per_shard[shard].rows[next[shard]++]));
  }
  for (size_t shard = 0; shard < per_shard.size(); ++shard) {
    if (next[shard] != per_shard[shard].rows.size()) {
      return absl::InternalError(absl::StrCat("shard ", shard, " gave more rows than the plan asks for"));
    }
    for (SlotFailure& failure : per_shard[shard].failures) out.failures.push_back(std::move(failure));
  }
  return out;
}

}  // namespace longshelf::engine
