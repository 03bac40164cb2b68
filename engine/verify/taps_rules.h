#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "comparison.h"
#include "report.h"

// The rules by which a layer run alone on the reference's input is judged. Pure functions of figures.
namespace longshelf::engine {

// How many rows of a cache tensor may differ, and by how much.
struct CacheRule {
  int64_t permille;
  double rel;
};
CacheRule RuleOfCache(std::string_view tensor);  // "window", "rows", "entries", "index_keys"
void JudgeCache(const std::string& name, const RowComparison& rows, CacheRule rule, Report& report);

// What a layer's queries read: comparisons of what it stored.
struct StoredRows {
  RowComparison rows;        // [T]
  RowComparison entries;     // [T / ratio]; empty without compression
  RowComparison index_keys;  // [T / 4] of a ratio 4 layer
  int ratio = 0;
  int64_t window = 128;

  // Whether every row, entry and key that the query at `position` sees is bit-equal.
  bool SeesOnlyEqual(int64_t position) const;
  // Whether every index key it sees is.
  bool SeesEqualKeys(int64_t position) const;
  int64_t Visible(int64_t position) const { return ratio == 0 ? 0 : (position + 1) / ratio; }
};

// Positions below kWindowStart where nothing differs yet; true when there were enough of them to judge.
inline constexpr int64_t kWindowStart = 128;
inline constexpr int64_t kCleanPositions = 24;
bool JudgeCleanPositions(const std::string& name, const RowComparison& streams, const StoredRows& stored,
                         Report& report);
void JudgeAllPositions(const std::string& name, const RowComparison& streams, const std::string& floor, Report& report);
// chosen, reference: per position the entries, in any order. Positions that see no more than top_k are not judged.
void JudgeIndexer(const std::string& name, const std::vector<std::vector<int64_t>>& chosen,
                  const std::vector<std::vector<int64_t>>& reference, const StoredRows& stored, int64_t top_k,
                  Report& report);
// Layers that had enough clean positions: a third of them must.
void JudgeCleanLayers(int64_t n_judged, int64_t n_layers, Report& report);
void JudgeHead(const std::string& name, const RowComparison& logits, Report& report);

}  // namespace longshelf::engine
