#pragma once

#include "absl/status/status.h"
#include "draft_vectors.h"
#include "engine/model/model.h"
#include "engine/verify/verify.h"
#include "report.h"
#include "run_sequence.h"
#include "vectors.h"

// One function per kind of vectors file. INVALID_ARGUMENT: the file does not fit the model.
namespace longshelf::engine {

absl::Status VerifyLogits(Model& model, const Vectors& vectors, const VerifyOptions& options, Report& report,
                          Dump& dump);
absl::Status VerifyTaps(Model& model, const Vectors& vectors, Report& report, Dump& dump);
// The draft module's tensors in such files; the model runs it.
absl::Status JudgeDraftRun(const Model& model, const Vectors& vectors, const DraftVectors& reference, bool is_short,
                           const SequenceOutput& ours, Report& report, Dump& dump);
absl::Status VerifyDraftTaps(Model& model, const Vectors& vectors, const std::vector<uint32_t>& tokens, Report& report,
                             Dump& dump);
absl::Status VerifyKernels(const Vectors& vectors, const std::string& kernels, Report& report, Dump& dump);

}  // namespace longshelf::engine
