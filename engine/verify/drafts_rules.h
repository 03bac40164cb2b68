#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comparison.h"
#include "report.h"

// The rules by which a DSpark draft module is judged beside those of logits. Pure functions of figures.
namespace longshelf::engine {

// Drafted blocks, ours and the reference's: [blocks, n_each].
struct DraftedTokens {
  std::span<const uint32_t> ours;
  std::span<const uint32_t> reference;
  int64_t n_each = 0;

  // Whether all tokens of its block before place i are the reference's: only then what is made of them compares.
  bool SameBefore(int64_t i) const;
  int64_t CountEqual() const;
};

// How far confidences are from the reference's where the tokens before agree: absolutely, and as shares of max(1,
// value).
struct ConfidenceFigures {
  std::vector<double> absolute;
  std::vector<double> scaled;
};
ConfidenceFigures CompareConfidence(std::span<const float> ours, std::span<const float> reference,
                                    const DraftedTokens& tokens);

// Whole runs: fp32; native, where a short file is judged place by place.
void JudgeDraftFp32(const ConfidenceFigures& confidence, const DraftedTokens& tokens, Report& report);
void JudgeDraftNative(const ConfidenceFigures& confidence, bool is_short, double floor, Report& report);

// Every part alone on the reference's input.
void JudgeMainHidden(const RowComparison& rows, Report& report);
// Rows of main_x (max 5e-2) and of draft.hidden (1e-2).
void JudgeProjection(const std::string& name, const RowComparison& rows, double max, Report& report);
void JudgeStage(const std::string& name, const RowComparison& rows, Report& report);
void JudgeChosenAlone(const DraftedTokens& tokens, Report& report);
void JudgeConfidenceAlone(const ConfidenceFigures& confidence, Report& report);

}  // namespace longshelf::engine
