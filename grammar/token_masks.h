#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "grammar/constraint.h"
#include "program.h"

namespace longshelf::grammar {

// Which tokens follow where. Positions that were met, the steps between them, and the masks that were asked for are
// kept up to a bound; then all is forgotten. One thread at a time.
class TokenMasks {
 public:
  // Both must outlive this.
  TokenMasks(const Program& program, const Vocabulary& vocabulary) : program_(program), vocabulary_(vocabulary) {}
  std::shared_ptr<const TokenBits> At(const Position& position);

 private:
  static constexpr size_t kPlacesMax = 4096;
  static constexpr size_t kMasksMax = 256;
  static constexpr uint32_t kUnknown = UINT32_MAX;
  static constexpr uint32_t kDead = UINT32_MAX - 1;
  struct Place {
    Position position;
    std::array<uint32_t, kSymbols> next;
    std::shared_ptr<const TokenBits> mask;
  };
  uint32_t Intern(Position position);
  uint32_t Next(uint32_t place, Symbol symbol);
  std::shared_ptr<const TokenBits> Walk(const Position& position);
  void Forget();

  const Program& program_;
  const Vocabulary& vocabulary_;
  std::vector<std::unique_ptr<Place>> places_;
  std::unordered_map<std::string, uint32_t> ids_;  // by the bytes of the position; looked up only
  size_t n_masks_ = 0;
};

}  // namespace longshelf::grammar
