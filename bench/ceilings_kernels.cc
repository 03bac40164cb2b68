#include "ceilings_kernels.h"

#include <immintrin.h>

namespace longshelf::bench {
namespace {

// Independent chains: enough to cover a latency of four or five cycles at two instructions a cycle, and few enough for
// sixteen registers.
constexpr size_t kChains = 12;
constexpr int kSteps = 20'000;

// The compiler has to believe that a register holds something it does not know, and that somebody reads it.
#define LONGSHELF_OPAQUE(x) asm volatile("" : "+v"(x))

__attribute__((target("avx2"))) double ReadAvx2(std::span<const unsigned char> data) {
  __m256i sums[kChains] = {};
  size_t i = 0;
  for (; i + 8 * 32 <= data.size(); i += 8 * 32) {
#pragma GCC unroll 8
    for (size_t k = 0; k < 8; ++k) {
      const __m256i loaded = _mm256_load_si256(reinterpret_cast<const __m256i*>(data.data() + i + 32 * k));
      sums[k] = _mm256_xor_si256(sums[k], loaded);
    }
  }
#pragma GCC unroll 8
  for (size_t k = 0; k < 8; ++k) asm volatile("" : "+x"(sums[k]));
  return static_cast<double>(i);
}

__attribute__((target("avx512f"))) double ReadAvx512(std::span<const unsigned char> data) {
  __m512i sums[kChains] = {};
  size_t i = 0;
  for (; i + 8 * 64 <= data.size(); i += 8 * 64) {
#pragma GCC unroll 8
    for (size_t k = 0; k < 8; ++k) {
      sums[k] = _mm512_xor_si512(sums[k], _mm512_load_si512(data.data() + i + 64 * k));
    }
  }
#pragma GCC unroll 8
  for (size_t k = 0; k < 8; ++k) LONGSHELF_OPAQUE(sums[k]);
  return static_cast<double>(i);
}

__attribute__((target("avx2,fma"))) double FmaAvx2(std::span<const unsigned char>) {
  __m256 sums[kChains] = {};
  __m256 a = _mm256_set1_ps(1.0F);
  __m256 b = _mm256_set1_ps(0.5F);
  asm volatile("" : "+x"(a), "+x"(b));
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (size_t k = 0; k < kChains; ++k) {
      sums[k] = _mm256_fmadd_ps(a, b, sums[k]);
      asm volatile("" : "+x"(sums[k]));
    }
  }
  return 2.0 * 8 * kChains * kSteps;
}

__attribute__((target("avx512f"))) double FmaAvx512(std::span<const unsigned char>) {
  __m512 sums[kChains] = {};
  __m512 a = _mm512_set1_ps(1.0F);
  __m512 b = _mm512_set1_ps(0.5F);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (size_t k = 0; k < kChains; ++k) {
      sums[k] = _mm512_fmadd_ps(a, b, sums[k]);
      LONGSHELF_OPAQUE(sums[k]);
    }
  }
  return 2.0 * 16 * kChains * kSteps;
}

__attribute__((target("avx512f,avx512bf16"))) double Bf16Avx512(std::span<const unsigned char>) {
  __m512 sums[kChains] = {};
  __m512i ones = _mm512_set1_epi16(0x3F80);  // 1.0
  LONGSHELF_OPAQUE(ones);
  const auto a = reinterpret_cast<__m512bh>(ones);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (size_t k = 0; k < kChains; ++k) {
      sums[k] = _mm512_dpbf16_ps(sums[k], a, a);
      LONGSHELF_OPAQUE(sums[k]);
    }
  }
  return 2.0 * 32 * kChains * kSteps;
}

__attribute__((target("avx512f,avx512vnni"))) double Int8Avx512Vnni(std::span<const unsigned char>) {
  __m512i sums[kChains] = {};
  __m512i a = _mm512_set1_epi8(1);
  LONGSHELF_OPAQUE(a);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (size_t k = 0; k < kChains; ++k) {
      sums[k] = _mm512_dpbusd_epi32(sums[k], a, a);
      LONGSHELF_OPAQUE(sums[k]);
    }
  }
  return 2.0 * 64 * kChains * kSteps;
}

__attribute__((target("avx2,avxvnni"))) double Int8AvxVnni(std::span<const unsigned char>) {
  __m256i sums[kChains] = {};
  __m256i a = _mm256_set1_epi8(1);
  asm volatile("" : "+x"(a));
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (size_t k = 0; k < kChains; ++k) {
      sums[k] = _mm256_dpbusd_avx_epi32(sums[k], a, a);
      asm volatile("" : "+x"(sums[k]));
    }
  }
  return 2.0 * 32 * kChains * kSteps;
}

// Without VNNI a dot product of bytes into 32 bits takes three instructions.
__attribute__((target("avx2"))) double Int8Avx2(std::span<const unsigned char>) {
  __m256i sums[kChains] = {};
  __m256i a = _mm256_set1_epi8(1);
  __m256i ones = _mm256_set1_epi16(1);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (size_t k = 0; k < kChains; ++k) {
      asm volatile("" : "+x"(a), "+x"(ones));
      sums[k] = _mm256_add_epi32(sums[k], _mm256_madd_epi16(_mm256_maddubs_epi16(a, a), ones));
      asm volatile("" : "+x"(sums[k]));
    }
  }
  return 2.0 * 32 * kChains * kSteps;
}

#undef LONGSHELF_OPAQUE

}  // namespace

std::vector<CeilingKernel> AvailableCeilings() {
  __builtin_cpu_init();
  std::vector<CeilingKernel> all;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return all;
  const bool avx512 = __builtin_cpu_supports("avx512f");
  all.push_back(avx512 ? CeilingKernel{"read", "avx512", "GB/s", &ReadAvx512}
                       : CeilingKernel{"read", "avx2", "GB/s", &ReadAvx2});
  // Not every core with the wider instructions does more with them.
  all.push_back({"fp32 fma", "avx2", "GFLOP/s", &FmaAvx2});
  if (avx512) all.push_back({"fp32 fma", "avx512", "GFLOP/s", &FmaAvx512});
  if (avx512 && __builtin_cpu_supports("avx512bf16")) {
    all.push_back({"bf16 dot", "avx512-bf16", "GFLOP/s", &Bf16Avx512});
  }
  if (avx512 && __builtin_cpu_supports("avx512vnni")) {
    all.push_back({"int8 dot", "avx512-vnni", "GOP/s", &Int8Avx512Vnni});
  } else if (__builtin_cpu_supports("avxvnni")) {
    all.push_back({"int8 dot", "avx-vnni", "GOP/s", &Int8AvxVnni});
  } else {
    all.push_back({"int8 dot", "avx2", "GOP/s", &Int8Avx2});
  }
  return all;
}

}  // namespace longshelf::bench
