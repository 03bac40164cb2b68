#include "value_emitter.h"

#include <algorithm>

#include "common/status.h"
#include "grammar/output_spec.h"
#include "markup.h"
#include "pattern.h"
#include "tokenizer/chat_markup.h"

namespace longshelf::grammar {
namespace {

namespace protocol = tokenizer::protocol;

constexpr uint32_t kNameCharsMax = 64;
// In the name of a parameter, which stands between quotes without escapes.
constexpr std::string_view kNamePattern = R"(^[^"<>\\\x00-\x1f\x7f]+$)";

uint32_t ToRegister(uint64_t n) { return static_cast<uint32_t>(std::min<uint64_t>(n, kUnlimited)); }

}  // namespace

// What stands around the members of an object.
struct ValueEmitter::Style {
  bool is_call;
  std::string_view open;
  std::string_view separator;
  std::string close;
  // In front of a name and behind it.
  std::string before_name;
  std::string_view after_name;

  static Style Json() { return {false, "{", ", ", "}", "\"", "\": "}; }
  static Style Call() {
    return {true,
            "",
            "\n",
            "\n" + std::string(protocol::kInvokeEnd) + ">\n",
            std::string(protocol::kParameterBegin) + " name=\"",
            "\" string=\""};
  }
};

ValueEmitter::ValueEmitter(SchemaNodes& nodes, ProgramBuilder& builder)
    : nodes_(nodes), builder_(builder), writable_(WritableStrings()), return_(builder.NewState()) {
  builder_.Add(return_, {Move::Kind::kReturn});
}

std::vector<NodeId> ValueEmitter::ChildrenOf(const Alternative& alternative) const {
  std::vector<NodeId> children;
  if (const auto* array = std::get_if<ArraySet>(&alternative)) {
    children = array->prefix;
    children.push_back(array->rest);
  } else if (const auto* object = std::get_if<ObjectSet>(&alternative)) {
    for (const auto& property : object->properties) children.push_back(property.value);
    for (const auto& names : object->rest) children.push_back(names.value);
  }
  return children;
}

absl::Status ValueEmitter::Analyse(NodeId root) {
  std::vector<NodeId> todo = {root};
  bool is_new = false;
  while (!todo.empty()) {
    const NodeId node = todo.back();
    todo.pop_back();
    if (analysed_.contains(node)) continue;
    is_new = true;
    ASSIGN_OR_RETURN(Alternatives alternatives, nodes_.AlternativesOf(node));
    for (const Alternative& each : alternatives) {
      for (const NodeId child : ChildrenOf(each)) todo.push_back(child);
    }
    Analysed& analysed = analysed_[node];
    analysed.heights.assign(alternatives.size(), kNever);
    analysed.alternatives = std::move(alternatives);
  }
  // A value's height is one more than that of the highest that it must have in it; heights only sink.
  while (is_new) {
    is_new = false;
    for (auto& [node, analysed] : analysed_) {
      for (size_t i = 0; i < analysed.alternatives.size(); ++i) {
        const uint32_t height = HeightOf(analysed.alternatives[i]);
        if (height >= analysed.heights[i]) continue;
        analysed.heights[i] = height;
        analysed.height = std::min(analysed.height, height);
        is_new = true;
      }
    }
  }
  for (const auto& [node, analysed] : analysed_) {
    for (const Alternative& each : analysed.alternatives) {
      if (const auto* object = std::get_if<ObjectSet>(&each)) RETURN_IF_ERROR(CheckCounts(*object));
    }
  }
  if (analysed_[root].height >= kFramesMax) {
    return absl::InvalidArgumentError("allows no value that can be written");
  }
  return absl::OkStatus();
}

uint32_t ValueEmitter::HeightOf(NodeId node) const {
  const auto it = analysed_.find(node);
  return it == analysed_.end() ? kNever : it->second.height;
}

uint32_t ValueEmitter::HeightOf(const Alternative& alternative) const {
  if (const auto* object = std::get_if<ObjectSet>(&alternative)) return HeightOfObject(*object);
  const auto* array = std::get_if<ArraySet>(&alternative);
  if (array == nullptr) return 1;
  uint32_t height = 0;
  for (size_t i = 0; i < array->prefix.size() && i < array->min; ++i) {
    height = std::max(height, HeightOf(array->prefix[i]));
  }
  if (array->min > array->prefix.size()) height = std::max(height, HeightOf(array->rest));
  return height >= kFramesMax ? kNever : height + 1;
}

// Nothing when an object cannot be.
std::optional<ValueEmitter::Members> ValueEmitter::MembersOf(const ObjectSet& object) const {
  Members members;
  std::vector<uint32_t> optional_heights;
  for (const ObjectSet::Property& property : object.properties) {
    const uint32_t height = HeightOf(property.value);
    const bool can_be = height != kNever && writable_.Accepts(property.name);
    if (!can_be && property.is_required) return std::nullopt;
    if (!can_be) continue;
    members.properties.push_back({property.name, property.is_required, property.value, height});
    if (property.is_required) {
      ++members.n_required;
      members.small = std::max(members.small, height);
    } else {
      optional_heights.push_back(height);
    }
  }
  uint32_t rest_height = kNever;
  for (const ObjectSet::NameClass& names : object.rest) {
    const uint32_t height = HeightOf(names.value);
    if (height == kNever) continue;
    members.rest.push_back(&names);
    members.rest_heights.push_back(height);
    rest_height = std::min(rest_height, height);
  }
  if (object.max < members.n_required || object.min > object.max) return std::nullopt;
  if (object.min <= members.n_required) return members;
  if (rest_height != kNever) optional_heights.push_back(rest_height);
  const uint64_t n_more = object.min - members.n_required;
  if (n_more > optional_heights.size()) return std::nullopt;
  std::sort(optional_heights.begin(), optional_heights.end());
  members.small = std::max(members.small, optional_heights[n_more - 1]);
  return members;
}

uint32_t ValueEmitter::HeightOfObject(const ObjectSet& object) const {
  const std::optional<Members> members = MembersOf(object);
  return !members || members->small >= kFramesMax ? kNever : members->small + 1;
}

// Names that are not known before cannot be counted: one may come twice.
absl::Status ValueEmitter::CheckCounts(const ObjectSet& object) const {
  size_t n_required = 0;
  bool has_rest = false;
  for (const auto& property : object.properties) n_required += property.is_required ? 1 : 0;
  for (const auto& names : object.rest) has_rest = has_rest || HeightOf(names.value) != kNever;
  if (!has_rest || object.min <= n_required + 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("\"minProperties\" of ", object.min, " cannot be enforced with ", n_required,
                   " required members: one more than these is, or any number with \"additionalProperties\": false"));
}

absl::Status ValueEmitter::CheckParameters(NodeId root) const {
  ASSIGN_OR_RETURN(const CharDfa plain, CompilePattern(kNamePattern));
  if (!HeightOf(root, Form::kArguments)) return absl::InvalidArgumentError("must allow an object");
  for (const Alternative& each : analysed_.at(root).alternatives) {
    const auto* object = std::get_if<ObjectSet>(&each);
    for (size_t i = 0; object != nullptr && i < object->properties.size(); ++i) {
      const std::string& name = object->properties[i].name;
      if (plain.Accepts(name)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("\"properties\" has ", QuotedString(name),
                       ": the name of a parameter cannot hold quotes, <, >, backslashes or control characters"));
    }
  }
  return absl::OkStatus();
}

std::optional<uint32_t> ValueEmitter::HeightOf(NodeId node, Form form) const {
  const auto it = analysed_.find(node);
  uint32_t height = kNever;
  for (size_t i = 0; it != analysed_.end() && i < it->second.alternatives.size(); ++i) {
    const Alternative& each = it->second.alternatives[i];
    const bool is_string = std::holds_alternative<StringSet>(each);
    if (form == Form::kRawString && !is_string) continue;
    if (form == Form::kNoString && is_string) continue;
    if (form == Form::kArguments && !std::holds_alternative<ObjectSet>(each)) continue;
    height = std::min(height, it->second.heights[i]);
  }
  return height >= kFramesMax ? std::nullopt : std::optional(height);
}

uint32_t ValueEmitter::Rule(NodeId node, Form form) {
  const auto [it, is_new] = rules_.try_emplace({node, form}, 0);
  if (is_new) {
    it->second = builder_.NewState();
    todo_.emplace_back(node, form);
  }
  return it->second;
}

absl::Status ValueEmitter::EmitAll() {
  while (!todo_.empty()) {
    const auto [node, form] = todo_.back();
    todo_.pop_back();
    RETURN_IF_ERROR(Emit(node, form, rules_[{node, form}]));
    if (builder_.is_full()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the schema takes more than ", kProgramStatesMax, " states; make it smaller"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValueEmitter::Emit(NodeId node, Form form, uint32_t from) {
  const Analysed& analysed = analysed_.at(node);
  for (size_t i = 0; i < analysed.alternatives.size(); ++i) {
    const Alternative& each = analysed.alternatives[i];
    const bool is_string = std::holds_alternative<StringSet>(each);
    if (analysed.heights[i] >= kFramesMax || (form == Form::kRawString && !is_string) ||
        (form == Form::kNoString && is_string) ||
        (form == Form::kArguments && !std::holds_alternative<ObjectSet>(each))) {
      continue;
    }
    // The frame of this rule is open already.
    const uint32_t begin = builder_.Behind(from, Move::Kind::kFits, analysed.heights[i] - 1);
    if (const auto* literal = std::get_if<LiteralSet>(&each)) {
      std::vector<std::string> words;
      if (literal->has_null) words.emplace_back("null");
      if (literal->has_true) words.emplace_back("true");
      if (literal->has_false) words.emplace_back("false");
      builder_.Words(begin, words, return_);
    } else if (const auto* number = std::get_if<NumberSet>(&each)) {
      RETURN_IF_ERROR(EmitNumber(*number, begin));
    } else if (const auto* string = std::get_if<StringSet>(&each)) {
      RETURN_IF_ERROR(EmitString(*string, form, begin));
    } else if (const auto* array = std::get_if<ArraySet>(&each)) {
      EmitArray(*array, begin);
    } else {
      const Style style = form == Form::kArguments ? Style::Call() : Style::Json();
      RETURN_IF_ERROR(EmitObject(std::get<ObjectSet>(each), style, begin));
    }
  }
  return absl::OkStatus();
}

absl::Status ValueEmitter::EmitNumber(const NumberSet& number, uint32_t from) {
  if (number.values) {
    std::vector<std::string> words;
    for (const Decimal& value : *number.values) words.push_back(value.Text());
    builder_.Words(from, words, return_);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const NumberDfa dfa, MakeNumberDfa(number));
  builder_.Number(from, dfa, return_);
  return absl::OkStatus();
}

uint32_t ValueEmitter::AnyString(StringForm form, bool counted) {
  std::optional<uint32_t>& body = any_strings_[(form == StringForm::kQuoted ? 2 : 0) + (counted ? 1 : 0)];
  if (!body) {
    body = builder_.NewState();
    uint32_t end = return_;
    if (form == StringForm::kQuoted) {
      end = builder_.NewState();
      builder_.Symbols(end, '"', '"', return_);
    }
    builder_.Chars(*body, writable_, form, counted, end);
  }
  return *body;
}

absl::Status ValueEmitter::EmitString(const StringSet& string, Form form, uint32_t from) {
  const StringForm string_form = form == Form::kRawString ? StringForm::kRaw : StringForm::kQuoted;
  if (string.values) {
    std::vector<std::string> words;
    for (const std::string& value : *string.values) {
      words.push_back(string_form == StringForm::kRaw ? value : QuotedString(value));
    }
    builder_.Words(from, words, return_);
    return absl::OkStatus();
  }
  if (string_form == StringForm::kQuoted) from = builder_.Text(from, "\"");
  if (string.chars == nullptr) {
    const bool counted = string.min > 0 || string.max != kNoLimit;
    if (counted) from = builder_.Behind(from, Move::Kind::kSet, ToRegister(string.min), ToRegister(string.max));
    builder_.Jump(from, AnyString(string_form, counted));
    return absl::OkStatus();
  }
  uint32_t end = return_;
  if (string_form == StringForm::kQuoted) {
    end = builder_.NewState();
    builder_.Symbols(end, '"', '"', return_);
  }
  builder_.Chars(from, *string.chars, string_form, /*counted=*/false, end);
  return absl::OkStatus();
}

void ValueEmitter::EmitArray(const ArraySet& array, uint32_t from) {
  const auto call = [&](uint32_t state, NodeId item) {
    const uint32_t behind = builder_.NewState();
    builder_.Add(state, {Move::Kind::kCall, behind, Rule(item, Form::kJson)});
    return behind;
  };
  const auto fits = [&](uint32_t state, NodeId item) {
    return builder_.Behind(state, Move::Kind::kFits, HeightOf(item));
  };
  uint64_t max = array.max;
  size_t n_prefix = array.prefix.size();
  for (size_t i = n_prefix; i-- > 0;) {
    if (HeightOf(array.prefix[i]) == kNever) n_prefix = i;
  }
  const bool ends_in_prefix = n_prefix < array.prefix.size() || HeightOf(array.rest) == kNever;
  if (ends_in_prefix) max = std::min<uint64_t>(max, n_prefix);
  uint32_t at = builder_.Text(from, "[");
  size_t i = 0;
  for (; i < n_prefix && i < max; ++i) {
    if (i >= array.min) builder_.Symbols(at, ']', ']', return_);
    uint32_t next = fits(at, array.prefix[i]);
    if (i > 0) next = builder_.Text(next, ", ");
    at = call(next, array.prefix[i]);
  }
  if (i == max) {
    builder_.Symbols(at, ']', ']', return_);
    return;
  }
  const uint64_t need = array.min > i ? array.min - i : 0;
  const uint64_t room = max == kNoLimit ? kNoLimit : max - i;
  if (need > 0 || room != kNoLimit) {
    at = builder_.Behind(at, Move::Kind::kSet, ToRegister(need), ToRegister(room));
  }
  const uint32_t more = builder_.NewState();  // behind an item
  const auto item = [&](uint32_t state, bool is_first) {
    uint32_t next = builder_.Behind(fits(state, array.rest), Move::Kind::kTake);
    if (!is_first) next = builder_.Text(next, ", ");
    builder_.Jump(call(next, array.rest), more);
  };
  const auto close = [&](uint32_t state) {
    builder_.Symbols(builder_.Behind(state, Move::Kind::kNeedAtMost, 0), ']', ']', return_);
  };
  close(at);
  item(at, i == 0);
  close(more);
  item(more, /*is_first=*/false);
}

absl::StatusOr<CharDfa> ValueEmitter::NamesOf(const ObjectSet::NameClass& names, const Style& style) const {
  const CharDfa& any = names.names == nullptr ? writable_ : *names.names;
  if (!style.is_call) return any;
  ASSIGN_OR_RETURN(const CharDfa plain, CompilePattern(kNamePattern));
  return CharDfa::Intersect(any, plain);
}

uint32_t ValueEmitter::EmitMemberValue(NodeId value, const Style& style, uint32_t from) {
  const uint32_t behind = builder_.NewState();
  if (!style.is_call) {
    builder_.Add(from, {Move::Kind::kCall, behind, Rule(value, Form::kJson)});
    return behind;
  }
  const std::string end = std::string(protocol::kParameterEnd) + ">";
  for (const auto& [form, text] : {std::pair(Form::kRawString, "true\">"), std::pair(Form::kNoString, "false\">")}) {
    const std::optional<uint32_t> height = HeightOf(value, form);
    if (!height) continue;
    const uint32_t begin = builder_.Text(builder_.Behind(from, Move::Kind::kFits, *height), text);
    const uint32_t called = builder_.NewState();
    builder_.Add(begin, {Move::Kind::kCall, called, Rule(value, form)});
    builder_.Jump(builder_.Text(called, end), behind);
  }
  return behind;
}

// Members come in the order of `properties`, then the others. From each state on lead: the next property, what follows
// without it when it may be left out, and behind the last one the end.
class ValueEmitter::ObjectWriter {
 public:
  struct Name {
    const ObjectSet::NameClass* names;
    uint32_t height;
    CharDfa dfa;
  };
  ObjectWriter(ValueEmitter& values, const ObjectSet& object, const Members& members, const Style& style,
               std::vector<Name> rest)
      : values_(values),
        builder_(values.builder_),
        object_(object),
        properties_(members.properties),
        style_(style),
        rest_(std::move(rest)),
        counted_(object.min > members.n_required || object.max < properties_.size() ||
                 (!rest_.empty() && object.max != kNoLimit)),
        required_from_(properties_.size() + 1, 0),
        small_from_(properties_.size() + 1, 0),
        behind_(properties_.size() + 1),
        behind_rest_(builder_.NewState()) {
    const size_t n = properties_.size();
    for (const Name& name : rest_) small_from_[n] = name.height <= members.small ? 1 : small_from_[n];
    for (size_t i = n; i-- > 0;) {
      const bool is_required = properties_[i].is_required;
      required_from_[i] = required_from_[i + 1] + (is_required ? 1 : 0);
      small_from_[i] = small_from_[i + 1] + (!is_required && properties_[i].height <= members.small ? 1 : 0);
    }
    for (uint32_t& state : behind_) state = builder_.NewState();
  }

  void Write(uint32_t from) {
    uint32_t begin = builder_.Text(from, style_.open);
    if (counted_) begin = builder_.Behind(begin, Move::Kind::kSet, ToRegister(object_.min), ToRegister(object_.max));
    Choose(begin, /*is_first=*/true);
    Choose(builder_.NewState(), /*is_first=*/false);
    Close(behind_rest_);
    ChooseRest(behind_rest_, /*is_first=*/false, /*may_need=*/false);
  }

 private:
  void Close(uint32_t state) {
    if (counted_) state = builder_.Behind(state, Move::Kind::kNeedAtMost, 0);
    builder_.Jump(builder_.Text(state, style_.close), values_.return_);
  }

  // From `state` to where the name begins.
  uint32_t Enter(uint32_t state, uint32_t height, uint32_t n_after, bool is_first) {
    state = builder_.Behind(state, Move::Kind::kFits, height);
    if (counted_) {
      state = builder_.Behind(state, Move::Kind::kRoomAtLeast, n_after + 1);
      state = builder_.Behind(state, Move::Kind::kTake);
    }
    if (!is_first) state = builder_.Text(state, style_.separator);
    return builder_.Text(state, style_.before_name);
  }

  void ChooseRest(uint32_t state, bool is_first, bool may_need) {
    if (counted_) state = builder_.Behind(state, Move::Kind::kNeedAtMost, may_need ? 1 : 0);
    for (const Name& name : rest_) {
      const uint32_t quote = Enter(state, name.height, 0, is_first);
      const uint32_t named = builder_.NewState();
      const StringForm form = style_.is_call ? StringForm::kRaw : StringForm::kQuoted;
      builder_.Chars(quote, name.dfa, form, /*counted=*/false, named);
      const uint32_t value = builder_.Text(named, style_.after_name);
      builder_.Jump(values_.EmitMemberValue(name.names->value, style_, value), behind_rest_);
    }
  }

  void Choose(uint32_t state, bool is_first) {
    for (size_t i = 0;; ++i) {
      if (!is_first) builder_.Jump(behind_[i], state);
      if (i == properties_.size()) break;
      const Members::Property& property = properties_[i];
      const uint32_t name = Enter(state, property.height, required_from_[i + 1], is_first);
      const std::string written =
          style_.is_call ? std::string(property.name) : QuotedString(property.name).substr(1, std::string::npos);
      const uint32_t value = builder_.Bytes(builder_.Bytes(name, written),
                                            style_.is_call ? style_.after_name : style_.after_name.substr(1));
      builder_.Jump(values_.EmitMemberValue(property.value, style_, value), behind_[i + 1]);
      const uint32_t without = builder_.NewState();
      if (!property.is_required) {
        const uint32_t n_left = required_from_[i + 1] + small_from_[i + 1];
        builder_.Jump(counted_ ? builder_.Behind(state, Move::Kind::kNeedAtMost, n_left) : state, without);
      }
      state = without;
    }
    Close(state);
    ChooseRest(state, is_first, /*may_need=*/true);
  }

  ValueEmitter& values_;
  ProgramBuilder& builder_;
  const ObjectSet& object_;
  const std::vector<Members::Property>& properties_;
  const Style& style_;
  const std::vector<Name> rest_;
  const bool counted_;
  // Of the properties from i on: those that must come, and optional ones that surely fit.
  std::vector<uint32_t> required_from_;
  std::vector<uint32_t> small_from_;
  std::vector<uint32_t> behind_;  // something is written, and the next one may be property i
  const uint32_t behind_rest_;
};

absl::Status ValueEmitter::EmitObject(const ObjectSet& object, const Style& style, uint32_t from) {
  const std::optional<Members> members = MembersOf(object);
  if (!members) return absl::OkStatus();
  std::vector<ObjectWriter::Name> rest;
  for (size_t i = 0; i < members->rest.size(); ++i) {
    ASSIGN_OR_RETURN(CharDfa dfa, NamesOf(*members->rest[i], style));
    if (!dfa.empty()) rest.push_back({members->rest[i], members->rest_heights[i], std::move(dfa)});
  }
  ObjectWriter(*this, object, *members, style, std::move(rest)).Write(from);
  return absl::OkStatus();
}

uint32_t ValueEmitter::FreeArguments() {
  if (free_arguments_) return *free_arguments_;
  free_arguments_ = builder_.NewState();
  const Style style = Style::Call();
  const auto names = CompilePattern(kNamePattern);
  const auto plain = names.ok() ? CharDfa::Intersect(*names, writable_) : names;
  const uint32_t behind = builder_.NewState();
  const auto parameter = [&](uint32_t state) {
    state = builder_.Text(state, style.before_name);
    state = builder_.Behind(state, Move::Kind::kSet, 1, kNameCharsMax);
    const uint32_t named = builder_.NewState();
    builder_.Chars(state, *plain, StringForm::kRaw, /*counted=*/true, named);
    builder_.Jump(EmitMemberValue(nodes_.any(), style, builder_.Text(named, style.after_name)), behind);
  };
  parameter(*free_arguments_);
  parameter(builder_.Text(behind, style.separator));
  for (const uint32_t state : {*free_arguments_, behind}) builder_.Jump(builder_.Text(state, style.close), return_);
  return *free_arguments_;
}

}  // namespace longshelf::grammar
