#include "output_form.h"

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grammar/grammar.h"

namespace longshelf::router {
namespace {

using grammar::OutputSpec;

constexpr std::string_view kAnswerSchema = "answer_schema: ";
constexpr std::string_view kTool = "tools[";
constexpr std::string_view kGiven = "given: ";

// The tools that the answer may call.
std::vector<const ApiTool*> Callable(const ApiRequest& request) {
  std::vector<const ApiTool*> tools;
  for (const ApiTool& tool : request.tools) {
    if (!request.forced_call || request.forced_call->empty() || *request.forced_call == tool.name) {
      tools.push_back(&tool);
    }
  }
  return tools;
}

// In the words of the API, for what the compiler says of a specification.
ApiError ErrorOf(const ApiRequest& request, std::string_view message) {
  if (message.starts_with(kAnswerSchema)) {
    return InvalidField(request.answer_schema_where,
                        absl::StrCat("cannot be enforced: ", std::string(message.substr(kAnswerSchema.size()))));
  }
  if (message.starts_with(kGiven)) {
    return InvalidField("messages",
                        "must not end with an assistant message that an answer of this form cannot begin with");
  }
  const std::vector<const ApiTool*> tools = Callable(request);
  const size_t end = message.find("]: ");
  if (message.starts_with(kTool) && end != std::string_view::npos) {
    size_t index = 0;
    for (const char c : message.substr(kTool.size(), end - kTool.size())) {
      index = index * 10 + static_cast<size_t>(c - '0');
    }
    std::string_view what = message.substr(end + 3);
    const size_t colon = what.find(": ");
    if (index < tools.size() && colon != std::string_view::npos) {
      const ApiTool& tool = *tools[index];
      const bool is_schema = what.substr(0, colon) == "parameters";
      const std::string field = is_schema ? tool.parameters_where : tool.where + ".name";
      return InvalidField(field, absl::StrCat("cannot be enforced: ", std::string(what.substr(colon + 2))));
    }
  }
  return InvalidField("tools", absl::StrCat("cannot be enforced: ", std::string(message)));
}

}  // namespace

bool CheckedForms::Has(size_t hash) {
  const std::lock_guard lock(mutex_);
  return std::find(hashes_.begin(), hashes_.end(), hash) != hashes_.end();
}

void CheckedForms::Add(size_t hash) {
  const std::lock_guard lock(mutex_);
  hashes_.push_front(hash);
  if (hashes_.size() > kKept) hashes_.pop_back();
}

std::optional<OutputSpec> OutputFormOf(const ApiRequest& request) {
  const std::vector<const ApiTool*> tools = Callable(request);
  const bool any_strict = std::any_of(tools.begin(), tools.end(), [](const ApiTool* tool) { return tool->is_strict; });
  const bool is_forced = request.forced_call.has_value();
  if (request.answer_schema.empty() && !is_forced && !any_strict) return std::nullopt;
  OutputSpec form;
  form.after_thinking = request.thinking_mode == tokenizer::ThinkingMode::kThinking && !request.continues_assistant;
  if (!is_forced) form.answer_schema = request.answer_schema;
  if (!tools.empty()) form.calls = is_forced ? OutputSpec::Calls::kRequired : OutputSpec::Calls::kAllowed;
  if (request.one_tool_call) form.n_calls_max = 1;
  for (const ApiTool* tool : tools) form.tools.push_back({tool->name, tool->is_strict ? tool->parameters : ""});
  if (request.continues_assistant && !form.answer_schema.empty()) {
    form.given = request.messages.back().content.value_or("");
  }
  return form;
}

std::optional<ApiError> CheckOutputForm(const ApiRequest& request, const OutputSpec& form, CheckedForms* checked) {
  const std::string spec = form.Serialize();
  if (spec.size() > grammar::kSpecBytesMax) {
    return InvalidField("tools", absl::StrCat("may have at most ", grammar::kSpecBytesMax,
                                              " bytes of names and strict schemas together"));
  }
  const size_t hash = std::hash<std::string>{}(spec);
  if (checked != nullptr && checked->Has(hash)) return std::nullopt;
  const absl::Status status = grammar::Grammar::Compile(form).status();
  if (!status.ok()) return ErrorOf(request, std::string(status.message()));
  if (checked != nullptr) checked->Add(hash);
  return std::nullopt;
}

}  // namespace longshelf::router
