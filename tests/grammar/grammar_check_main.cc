// Answers for tests/grammar/schema_suite_test.py which texts an answer's schema allows. One JSON object a line in and
// out: {"schema": "...", "texts": ["...", ...]} gives {"allows": [true, ...]}, or {"error": "..."}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "grammar/grammar.h"
#include "program.h"

namespace longshelf::grammar {
namespace {

using nlohmann::json;

json Answer(const json& question) {
  OutputSpec spec;
  spec.answer_schema = question.at("schema");
  const auto grammar = Grammar::Compile(spec);
  if (!grammar.ok()) return {{"error", std::string(grammar.status().message())}};
  json allows = json::array();
  for (const json& text : question.at("texts")) {
    const Position end = (*grammar)->program().Next((*grammar)->start(), text.get<std::string>());
    allows.push_back(end.may_end());
  }
  return {{"allows", std::move(allows)}, {"states", (*grammar)->n_states()}};
}

}  // namespace
}  // namespace longshelf::grammar

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << longshelf::grammar::Answer(nlohmann::json::parse(line)).dump() << std::endl;
  }
  return 0;
}
