#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "grammar/output_spec.h"

namespace longshelf::grammar {

class Program;
class Position;

// The texts that follow a specification, as an automaton over bytes. Immutable; any thread.
class Grammar {
 public:
  // INVALID_ARGUMENT: names what cannot be enforced: the keyword, where it stands and why, behind "answer_schema: " or
  // "tools[2].parameters: ". RESOURCE_EXHAUSTED: the same, of what takes too many states or steps. Bounded in time and
  // memory, whatever the specification.
  static absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const OutputSpec& spec);
  ~Grammar();

  const Program& program() const { return *program_; }
  // Behind what is given.
  const Position& start() const { return *start_; }
  size_t n_states() const;

 private:
  Grammar(std::unique_ptr<const Program> program, std::unique_ptr<const Position> start);

  const std::unique_ptr<const Program> program_;
  const std::unique_ptr<const Position> start_;
};

}  // namespace longshelf::grammar
