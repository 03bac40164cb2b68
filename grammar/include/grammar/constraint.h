#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "grammar/grammar.h"
#include "grammar/vocabulary.h"

namespace longshelf::grammar {

class TokenMasks;

// One bit for each token of a vocabulary.
using TokenBits = std::vector<uint64_t>;

// A grammar and a vocabulary, and which tokens may follow where, as far as somebody has asked. Any number of sequences
// and threads share one; what it remembers is bounded, and changes no answer.
class Constraint {
 public:
  Constraint(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary);
  ~Constraint();

  const Grammar& grammar() const { return *grammar_; }
  const Vocabulary& vocabulary() const { return *vocabulary_; }
  // The tokens with which a text may go on from here, without those that end it.
  std::shared_ptr<const TokenBits> TokensAt(const Position& position);

 private:
  const std::shared_ptr<const Grammar> grammar_;
  const std::shared_ptr<const Vocabulary> vocabulary_;
  // Rows of a step are sampled at the same time, and several may share this; whoever comes first works for all.
  std::mutex mutex_;
  std::unique_ptr<TokenMasks> masks_;  // guarded by mutex_
};

// Where one sequence's output is. A function of the tokens so far, so that they can be given again elsewhere.
class OutputState {
 public:
  // end_tokens: of which each may stand where the text may end, and nowhere else.
  OutputState(std::shared_ptr<Constraint> constraint, std::vector<uint32_t> end_tokens);
  ~OutputState();

  // FAILED_PRECONDITION: the token does not follow; the state is as before.
  absl::Status Push(uint32_t token);
  // FAILED_PRECONDITION: nothing can follow, in this vocabulary.
  absl::StatusOr<TokenBits> Allowed() const;
  const Position& position() const { return *position_; }

 private:
  const std::shared_ptr<Constraint> constraint_;
  const std::vector<uint32_t> end_tokens_;
  std::unique_ptr<Position> position_;
};

// The constraints of one process, by their specifications: each is made once, and the last few are kept. Any thread.
class ConstraintCache {
 public:
  static constexpr size_t kKept = 16;
  explicit ConstraintCache(std::shared_ptr<const Vocabulary> vocabulary) : vocabulary_(std::move(vocabulary)) {}
  // `spec`: OutputSpec::Serialize's. Errors are OutputSpec::Parse's and Grammar::Compile's.
  absl::StatusOr<std::shared_ptr<Constraint>> Get(std::string_view spec);
  const Vocabulary& vocabulary() const { return *vocabulary_; }

 private:
  struct Kept {
    std::string spec;
    std::shared_ptr<Constraint> constraint;
  };
  const std::shared_ptr<const Vocabulary> vocabulary_;
  std::mutex mutex_;      // guards kept_; nothing is compiled under it
  std::list<Kept> kept_;  // last used first
};

}  // namespace longshelf::grammar
