#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernel_table.h"

namespace longshelf::engine {

// While it lives, this thread treats denormals as zero on input and output, which every table takes for granted.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
};

// A table of this machine and what its self-test said: empty when it computes the portable table's bits, else where it
// does not.
struct CheckedTable {
  KernelTable table;
  std::string difference;
};

// The tables this machine has instructions for, best first, the portable one last; each compared once with the portable
// one on some thousand hard cases (self_test.h). LONGSHELF_KERNELS in the environment names the only one to consider
// beside it: for tests.
const std::vector<CheckedTable>& CheckedTables();

// The best table that passed, or the one named. Null when the name is unknown here or the table differs.
const KernelTable* FindKernels(std::string_view name);
const KernelTable& PortableKernels();

}  // namespace longshelf::engine
