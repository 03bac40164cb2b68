#pragma once

#include <string>

#include "supervised.h"

namespace longshelf::testing {

struct ProbeAnswer {
  int status = 0;  // 0: no answer
  std::string body;
};
// GET from the supervisor's own admin port, whose address its log names.
ProbeAnswer Probe(const SupervisedWorker& worker, const std::string& path);
// The first answer with these words in its body, or the last one of ten seconds.
ProbeAnswer AwaitProbe(const SupervisedWorker& worker, const std::string& path, const std::string& words);

}  // namespace longshelf::testing
