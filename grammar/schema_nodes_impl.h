#pragma once

#include <utility>
#include <variant>

#include "common/status.h"
#include "schema_nodes.h"

namespace longshelf::grammar {

template <typename T, typename Fn>
absl::Status SchemaNodes::Narrow(Alternatives& alternatives, Fn fn) {
  Alternatives out;
  for (Alternative& each : alternatives) {
    if (auto* set = std::get_if<T>(&each)) {
      ASSIGN_OR_RETURN(const bool is_left, fn(*set));
      if (!is_left) continue;
    }
    out.push_back(std::move(each));
  }
  alternatives = std::move(out);
  return absl::OkStatus();
}

template <typename T>
void SchemaNodes::Keep(Alternatives& alternatives) {
  std::erase_if(alternatives, [](const Alternative& each) { return !std::holds_alternative<T>(each); });
}

template <typename T>
bool SchemaNodes::Has(const Alternatives& alternatives) {
  for (const Alternative& each : alternatives) {
    if (std::holds_alternative<T>(each)) return true;
  }
  return false;
}

}  // namespace longshelf::grammar
