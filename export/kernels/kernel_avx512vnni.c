// AVX-512 with VNNI: as avx512, int8 by products of bytes.

#include "kernels.h"

#define DBF_VARIANT Avx512Vnni
#define DBF_NAME "avx512vnni"

#if defined(__x86_64__)
#include <immintrin.h>
#define DBF_SUPPORTED                                                          \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&  \
   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && \
   __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma"))
#define DBF_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma"
#define DBF_DEPTH 384
#define DBF_LOG2_VECTOR 4
#define DBF_ROWS 14
#define DBF_PACK 4
#define DBF_BIASED 1  // the instruction multiplies unsigned by signed bytes
#define DBF_DOT(acc, a, b) ((I)_mm512_dpbusd_epi32((__m512i)(acc), (__m512i)(a), (__m512i)(b)))
#define DBF_CLAMP16(x, low, high) \
  ((H)_mm512_min_epi16(_mm512_max_epi16((__m512i)(x), (__m512i)(low)), (__m512i)(high)))
#define DBF_CLAMP32(x, low, high) \
  ((I)_mm512_min_epi32(_mm512_max_epi32((__m512i)(x), (__m512i)(low)), (__m512i)(high)))
#define DBF_SATURATED_ADD(a, b) ((H)_mm512_adds_epi16((__m512i)(a), (__m512i)(b)))
#define DBF_ANY(mask) (_mm512_test_epi32_mask((__m512i)(mask), (__m512i)(mask)) != 0)
#endif

#include "kernel.inl"
