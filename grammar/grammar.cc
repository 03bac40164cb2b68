#include "grammar/grammar.h"

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "markup.h"
#include "program.h"
#include "program_builder.h"
#include "schema_nodes.h"
#include "schema_tree.h"
#include "tokenizer/chat_markup.h"
#include "value_emitter.h"

namespace longshelf::grammar {
namespace {

namespace protocol = tokenizer::protocol;
using Form = ValueEmitter::Form;

// Of one specification: what is written before, beside and around values.
class SpecEmitter {
 public:
  explicit SpecEmitter(const OutputSpec& spec) : spec_(spec), values_(nodes_, builder_) {}

  absl::StatusOr<std::unique_ptr<const Program>> Run() {
    const uint32_t start = builder_.NewState();
    const uint32_t answer = spec_.after_thinking ? EmitThinking(start) : start;
    const uint32_t end = builder_.NewState();
    builder_.Add(end, {Move::Kind::kEnd});
    if (!spec_.answer_schema.empty()) RETURN_IF_ERROR(EmitSchema(answer, end));
    if (spec_.calls != OutputSpec::Calls::kNone) RETURN_IF_ERROR(EmitWithCalls(answer, end));
    RETURN_IF_ERROR(values_.EmitAll());
    if (builder_.is_full()) {
      return absl::ResourceExhaustedError(absl::StrCat("takes more than ", kProgramStatesMax, " states"));
    }
    return std::make_unique<const Program>(builder_.states(), start);
  }

 private:
  // Returns the state behind </think>.
  uint32_t EmitThinking(uint32_t from) {
    const uint32_t ends = builder_.NewState();
    for (const uint32_t state : builder_.FreeBytes(from, {protocol::kDsml, protocol::kEos, protocol::kThinkEnd})) {
      builder_.Jump(state, ends);
    }
    return builder_.Text(ends, protocol::kThinkEnd);
  }

  absl::Status EmitSchema(uint32_t from, uint32_t end) {
    const auto in_schema = [](const absl::Status& status) { return Annotate(status, "answer_schema"); };
    absl::StatusOr<NodeId> root = AddSchema(spec_.answer_schema);
    if (!root.ok()) return in_schema(root.status());
    builder_.Add(from, {Move::Kind::kCall, end, values_.Rule(*root, Form::kJson)});
    if (absl::Status status = values_.EmitAll(); !status.ok()) return in_schema(status);
    return absl::OkStatus();
  }

  absl::StatusOr<NodeId> AddSchema(std::string_view json) {
    ASSIGN_OR_RETURN(SchemaTree tree, SchemaTree::Parse(json));
    trees_.push_back(std::move(tree));
    const NodeId root = nodes_.Add(trees_.back());
    RETURN_IF_ERROR(values_.Analyse(root));
    return root;
  }

  // Calls behind any text, or where the answer begins.
  absl::Status EmitWithCalls(uint32_t from, uint32_t end) {
    const uint32_t calls = builder_.NewState();
    RETURN_IF_ERROR(EmitCalls(calls, end));
    if (spec_.calls == OutputSpec::Calls::kAllowed && spec_.answer_schema.empty()) {
      for (const uint32_t state : builder_.FreeBytes(from, {protocol::kDsml, protocol::kEos})) {
        builder_.Add(state, {Move::Kind::kEnd});
        builder_.Jump(state, calls);
      }
    } else {
      builder_.Jump(builder_.Bytes(from, "\n\n"), calls);
    }
    return absl::OkStatus();
  }

  absl::Status EmitCalls(uint32_t from, uint32_t end) {
    if (spec_.tools.empty()) return absl::InvalidArgumentError("tools: there is none that may be called");
    uint32_t at = builder_.Text(from, std::string(protocol::kToolCallsBegin) + ">\n");
    at = builder_.Behind(at, Move::Kind::kSet, 1, spec_.n_calls_max);
    const uint32_t next = builder_.Behind(at, Move::Kind::kTake);
    const uint32_t named = builder_.Text(next, std::string(protocol::kInvokeBegin) + " name=\"");
    const uint32_t close = builder_.Behind(at, Move::Kind::kNeedAtMost, 0);
    builder_.Jump(builder_.Text(close, protocol::kToolCallsEnd), end);
    for (size_t i = 0; i < spec_.tools.size(); ++i) {
      const absl::Status status = EmitTool(spec_.tools[i], named, at);
      if (!status.ok()) return Annotate(status, absl::StrCat("tools[", i, "]"));
    }
    return absl::OkStatus();
  }

  absl::Status EmitTool(const OutputSpec::Tool& tool, uint32_t from, uint32_t behind) {
    const bool is_plain = !tool.name.empty() && tool.name.find_first_of("\"<>\\\n\r\t") == std::string::npos &&
                          WritableStrings().Accepts(tool.name);
    if (!is_plain) {
      return absl::InvalidArgumentError("name: cannot be written in a call: it has quotes, <, >, \\ or line breaks");
    }
    const uint32_t begin = builder_.Bytes(builder_.Bytes(from, tool.name), "\">\n");
    if (tool.parameters.empty()) {
      RETURN_IF_ERROR(values_.Analyse(nodes_.any()));
      builder_.Add(begin, {Move::Kind::kCall, behind, values_.FreeArguments()});
      return values_.EmitAll();
    }
    const auto in_parameters = [](const absl::Status& status) { return Annotate(status, "parameters"); };
    absl::StatusOr<NodeId> root = AddSchema(tool.parameters);
    if (!root.ok()) return in_parameters(root.status());
    if (absl::Status status = values_.CheckParameters(*root); !status.ok()) return in_parameters(status);
    builder_.Add(begin, {Move::Kind::kCall, behind, values_.Rule(*root, Form::kArguments)});
    if (absl::Status status = values_.EmitAll(); !status.ok()) return in_parameters(status);
    return absl::OkStatus();
  }

  const OutputSpec& spec_;
  std::deque<SchemaTree> trees_;  // at one place while nodes look at them
  SchemaNodes nodes_;
  ProgramBuilder builder_;
  ValueEmitter values_;
};

}  // namespace

Grammar::Grammar(std::unique_ptr<const Program> program, std::unique_ptr<const Position> start)
    : program_(std::move(program)), start_(std::move(start)) {}
Grammar::~Grammar() = default;

size_t Grammar::n_states() const { return program_->n_states(); }

absl::StatusOr<std::shared_ptr<const Grammar>> Grammar::Compile(const OutputSpec& spec) {
  if (spec.answer_schema.empty() && spec.calls == OutputSpec::Calls::kNone) {
    return absl::InvalidArgumentError("nothing is specified");
  }
  if (spec.n_calls_max == 0 || spec.n_calls_max > kCallsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("n_calls_max is ", spec.n_calls_max, "; it must be 1 to ", kCallsMax));
  }
  if (spec.tools.size() > kToolsMax) {
    return absl::InvalidArgumentError(absl::StrCat("tools: there are ", spec.tools.size(), "; at most ", kToolsMax));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<const Program> program, SpecEmitter(spec).Run());
  auto start = std::make_unique<const Position>(program->Next(program->Start(), spec.given));
  if (start->is_dead()) return absl::InvalidArgumentError("given: an answer of this form does not begin so");
  return std::shared_ptr<const Grammar>(std::unique_ptr<Grammar>(new Grammar(std::move(program), std::move(start))));
}

}  // namespace longshelf::grammar
