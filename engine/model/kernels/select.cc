#include "select.h"

#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#include "self_test.h"
#include "tables.h"

namespace longshelf::engine {
namespace {

constexpr unsigned kFlushToZero = 0x8000;
constexpr unsigned kDenormalsAreZero = 0x0040;

std::vector<KernelTable> TablesOfThisMachine() {
  std::vector<KernelTable> tables;
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni") != 0;
  const bool bf16 = __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512vbmi") != 0;
  if (vnni && bf16) tables.push_back(Avx512Bf16Table());
  if (vnni) tables.push_back(Avx512VnniTable());
  if (avx512) tables.push_back(Avx512Table());
  if (avx2) tables.push_back(Avx2Table());
  tables.push_back(PortableTable());
  return tables;
}

std::vector<CheckedTable> CheckTables() {
  const char* only = std::getenv("LONGSHELF_KERNELS");
  std::vector<CheckedTable> checked;
  for (const KernelTable& table : TablesOfThisMachine()) {
    if (only != nullptr && std::strcmp(only, table.name) != 0 && std::strcmp("portable", table.name) != 0) continue;
    checked.push_back({table, SelfTest(table, kStartCases)});
  }
  return checked;
}

}  // namespace

FlushDenormals::FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlushToZero | kDenormalsAreZero); }
FlushDenormals::~FlushDenormals() { _mm_setcsr(saved_); }

const std::vector<CheckedTable>& CheckedTables() {
  static const std::vector<CheckedTable> tables = CheckTables();
  return tables;
}

const KernelTable* FindKernels(std::string_view name) {
  for (const CheckedTable& checked : CheckedTables()) {
    if (!checked.difference.empty()) continue;
    if (name.empty() || name == checked.table.name) return &checked.table;
  }
  return nullptr;
}

const KernelTable& PortableKernels() { return CheckedTables().back().table; }

}  // namespace longshelf::engine
