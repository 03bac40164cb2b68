#pragma once

#include "kernel_table.h"

// One function per instruction set, each in a file compiled for it; call one only on a machine that has it.
namespace longshelf::engine {

KernelTable PortableTable();    // plain C++, the definition the others are held to
KernelTable Avx2Table();        // AVX2, FMA
KernelTable Avx512Table();      // AVX-512 F, BW, DQ, VL
KernelTable Avx512VnniTable();  // and VNNI
KernelTable Avx512Bf16Table();  // and BF16, VBMI

}  // namespace longshelf::engine
