#pragma once

#include <string>

#include "common/shutdown.h"

namespace longshelf::cli {

// Lines from standard input, without blocking signals out.
class LineReader {
 public:
  enum class Result { kLine, kEnd, kSignal };

  explicit LineReader(ShutdownSignals& signals) : signals_(signals) {}

  // kSignal: a signal arrived and was taken; ask `signals` which.
  Result Read(std::string* line);
  // Everything up to the end of input.
  Result ReadAll(std::string* text);

 private:
  Result Fill();

  ShutdownSignals& signals_;
  std::string buffer_;
  bool at_end_ = false;
};

}  // namespace longshelf::cli
