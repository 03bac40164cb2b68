// References, and keywords that combine schemas.
#include <algorithm>
#include <utility>

#include "schema_nodes.h"
#include "schema_nodes_impl.h"

namespace longshelf::grammar {
namespace {

using JsonKind = SchemaTree::JsonKind;

}  // namespace

absl::StatusOr<SchemaNodes::Schema> SchemaNodes::TargetOf(const Schema& schema) const {
  const uint32_t value = *Member(schema, "$ref");
  const SchemaTree::Value& ref = tree(schema.tree).at(value);
  if (ref.kind != JsonKind::kString) return Refuse(schema.tree, value, "must be a string");
  const absl::StatusOr<uint32_t> target = tree(schema.tree).Resolve(ref.text);
  if (!target.ok()) return Annotated(target.status(), schema.tree, value);
  return Schema{schema.tree, *target};
}

absl::Status SchemaNodes::ApplyRef(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const Schema target, TargetOf(schema));
  return Apply({Literal::Kind::kSchema, false, target.tree, target.value}, out);
}

absl::Status SchemaNodes::NegateRef(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const Schema target, TargetOf(schema));
  return Apply({Literal::Kind::kSchema, true, target.tree, target.value}, out);
}

absl::StatusOr<std::vector<uint32_t>> SchemaNodes::BranchesOf(const Schema& schema, std::string_view keyword) const {
  const uint32_t value = *Member(schema, keyword);
  const std::vector<uint32_t>& branches = tree(schema.tree).at(value).elements;
  if (branches.empty()) return Refuse(schema.tree, value, "must be a list of schemas");
  return branches;
}

absl::Status SchemaNodes::ApplyAllOf(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<uint32_t> branches, BranchesOf(schema, "allOf"));
  for (const uint32_t branch : branches) {
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, branch}, out));
  }
  return absl::OkStatus();
}

absl::Status SchemaNodes::NegateAllOf(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<uint32_t> branches, BranchesOf(schema, "allOf"));
  Alternatives all;
  for (const uint32_t branch : branches) {
    Alternatives copy = out;
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, true, schema.tree, branch}, copy));
    RETURN_IF_ERROR(Append(std::move(copy), all));
  }
  out = std::move(all);
  return absl::OkStatus();
}

absl::Status SchemaNodes::ApplyAnyOf(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<uint32_t> branches, BranchesOf(schema, "anyOf"));
  Alternatives all;
  for (const uint32_t branch : branches) {
    Alternatives copy = out;
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, branch}, copy));
    RETURN_IF_ERROR(Append(std::move(copy), all));
  }
  out = std::move(all);
  return absl::OkStatus();
}

absl::Status SchemaNodes::NegateAnyOf(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<uint32_t> branches, BranchesOf(schema, "anyOf"));
  for (const uint32_t branch : branches) {
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, true, schema.tree, branch}, out));
  }
  return absl::OkStatus();
}

// Where two branches may both hold, each goes without the values of the other; where they cannot, it is anyOf.
absl::Status SchemaNodes::ApplyOneOf(const Schema& schema, Alternatives& out) {
  ASSIGN_OR_RETURN(const std::vector<uint32_t> branches, BranchesOf(schema, "oneOf"));
  std::vector<Alternatives> own(branches.size(), out);
  for (size_t i = 0; i < branches.size(); ++i) {
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, branches[i]}, own[i]));
  }
  Alternatives all;
  for (size_t i = 0; i < branches.size(); ++i) {
    Alternatives only = own[i];
    for (size_t k = 0; k < branches.size(); ++k) {
      if (k == i) continue;
      Alternatives both = only;
      RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, branches[k]}, both));
      ASSIGN_OR_RETURN(const bool overlap, MayExist(both));
      if (!overlap) continue;
      const absl::Status status = Apply({Literal::Kind::kSchema, true, schema.tree, branches[k]}, only);
      if (!status.ok()) {
        return Refuse(schema.tree, *Member(schema, "oneOf"),
                      absl::StrCat("has branches ", i, " and ", k, ", of which some value may follow both, and ",
                                   status.message(), "; use anyOf, or tell them apart by a const"));
      }
    }
    RETURN_IF_ERROR(Append(std::move(only), all));
  }
  out = std::move(all);
  return absl::OkStatus();
}

absl::Status SchemaNodes::ApplyNot(const Schema& schema, Alternatives& out) {
  return Apply({Literal::Kind::kSchema, true, schema.tree, *Member(schema, "not")}, out);
}

absl::Status SchemaNodes::NegateNot(const Schema& schema, Alternatives& out) {
  return Apply({Literal::Kind::kSchema, false, schema.tree, *Member(schema, "not")}, out);
}

absl::Status SchemaNodes::ApplyIf(const Schema& schema, Alternatives& out) {
  const uint32_t condition = *Member(schema, "if");
  const auto yes = Member(schema, "then");
  const auto no = Member(schema, "else");
  if (!yes && !no) return absl::OkStatus();
  Alternatives with = out;
  RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, condition}, with));
  if (yes) RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, *yes}, with));
  RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, true, schema.tree, condition}, out));
  if (no) RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, *no}, out));
  return Append(std::move(with), out);
}

absl::Status SchemaNodes::NegateIf(const Schema& schema, Alternatives& out) {
  const uint32_t condition = *Member(schema, "if");
  const auto yes = Member(schema, "then");
  const auto no = Member(schema, "else");
  Alternatives with;
  if (yes) {
    with = out;
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, condition}, with));
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, true, schema.tree, *yes}, with));
  }
  if (no) {
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, true, schema.tree, condition}, out));
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, true, schema.tree, *no}, out));
  } else {
    out.clear();
  }
  return Append(std::move(with), out);
}

// For each name: either it is not there, or what depends on it holds.
absl::Status SchemaNodes::ApplyDependentRequired(const Schema& schema, Alternatives& out) {
  if (!Has<ObjectSet>(out)) return absl::OkStatus();
  const uint32_t value = *Member(schema, "dependentRequired");
  if (tree(schema.tree).at(value).kind != JsonKind::kObject) {
    return Refuse(schema.tree, value, "must be an object");
  }
  for (const auto& [name, list] : tree(schema.tree).at(value).members) {
    ASSIGN_OR_RETURN(const std::vector<std::string> names, StringsAt(schema.tree, list));
    Alternatives with = out;
    Keep<ObjectSet>(with);
    ObjectSet present = FreeObject();
    present.properties.push_back({name, true, any_});
    for (const std::string& each : names) {
      if (each != name) present.properties.push_back({each, true, any_});
    }
    RETURN_IF_ERROR(NarrowObjects(present, with));
    ObjectSet absent = FreeObject();
    absent.properties.push_back({name, false, never_});
    RETURN_IF_ERROR(NarrowObjects(absent, out));
    RETURN_IF_ERROR(Append(std::move(with), out));
  }
  return absl::OkStatus();
}

absl::Status SchemaNodes::ApplyDependentSchemas(const Schema& schema, Alternatives& out) {
  if (!Has<ObjectSet>(out)) return absl::OkStatus();
  const uint32_t value = *Member(schema, "dependentSchemas");
  if (tree(schema.tree).at(value).kind != JsonKind::kObject) {
    return Refuse(schema.tree, value, "must be an object");
  }
  for (const auto& [name, dependent] : tree(schema.tree).at(value).members) {
    Alternatives with = out;
    Keep<ObjectSet>(with);
    ObjectSet present = FreeObject();
    present.properties.push_back({name, true, any_});
    RETURN_IF_ERROR(NarrowObjects(present, with));
    RETURN_IF_ERROR(Apply({Literal::Kind::kSchema, false, schema.tree, dependent}, with));
    ObjectSet absent = FreeObject();
    absent.properties.push_back({name, false, never_});
    RETURN_IF_ERROR(NarrowObjects(absent, out));
    RETURN_IF_ERROR(Append(std::move(with), out));
  }
  return absl::OkStatus();
}

}  // namespace longshelf::grammar
