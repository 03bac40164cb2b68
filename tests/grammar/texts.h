#pragma once

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/constraint.h"
#include "grammar/grammar.h"
#include "grammar/vocabulary.h"
#include "program.h"

namespace longshelf::grammar::testing {

// Every byte, and the two markers.
inline std::shared_ptr<const Vocabulary> ByteVocabulary() {
  std::vector<Vocabulary::Token> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back({std::string(1, static_cast<char>(byte)), false});
  tokens.push_back({"｜DSML｜", true});
  tokens.push_back({"</think>", true});
  return std::make_shared<const Vocabulary>(tokens);
}

inline std::shared_ptr<const Grammar> CompileSchema(const std::string& schema) {
  OutputSpec spec;
  spec.answer_schema = schema;
  auto grammar = Grammar::Compile(spec);
  return grammar.ok() ? *std::move(grammar) : nullptr;
}

// The refusal of a schema; "" when it is not refused.
inline std::string Refusal(const std::string& schema) {
  OutputSpec spec;
  spec.answer_schema = schema;
  return std::string(Grammar::Compile(spec).status().message());
}

inline bool Allows(const Grammar& grammar, std::string_view text) {
  return grammar.program().Next(grammar.start(), text).may_end();
}

// A text that `constraint` allows, each byte drawn from those that may follow; no more than `n_max` bytes are free,
// then it ends as soon as it may. False when it comes to where nothing may follow, which must never be.
inline bool RandomText(Constraint& constraint, std::mt19937_64& random, size_t n_max, std::string& text) {
  text.clear();
  Position position = constraint.grammar().start();
  constexpr std::string_view kEnds = "\"}],0: abx<>/\n";
  while (true) {
    const bool is_long = text.size() >= n_max;
    if (position.may_end() && (is_long || position.ways().empty() || random() % 4 == 0)) return true;
    const auto bits = constraint.TokensAt(position);
    std::vector<Symbol> symbols;
    for (Symbol symbol = 0; symbol < kSymbols; ++symbol) {
      if (((*bits)[symbol / 64] >> (symbol % 64) & 1) != 0) symbols.push_back(symbol);
    }
    if (symbols.empty() || text.size() > n_max + 20000) return false;
    Symbol next = symbols[random() % symbols.size()];
    if (is_long && symbols.back() >= kDsmlSymbol && random() % 2 == 0) {
      next = symbols.back();
    } else if (random() % 3 < (is_long ? 2 : 1)) {
      std::erase_if(symbols, [&](Symbol symbol) {
        return symbol >= 128 || kEnds.find(static_cast<char>(symbol)) == std::string_view::npos;
      });
      if (!symbols.empty()) next = symbols[random() % symbols.size()];
    }
    position = constraint.grammar().program().Next(position, next);
    if (next == kDsmlSymbol) {
      text += "｜DSML｜";
    } else if (next == kThinkEndSymbol) {
      text += "</think>";
    } else {
      text += static_cast<char>(next);
    }
  }
}

}  // namespace longshelf::grammar::testing
