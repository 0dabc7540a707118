// AVX-512 with VNNI: as avx512, but int8 gemms multiply bytes.

#include "kernels/kernels.h"

#define DBF_VARIANT Avx512Vnni
#define DBF_NAME "avx512vnni"

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/avx512.h"
#define DBF_SUPPORTED                                                          \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&  \
   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && \
   __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma"))
#define DBF_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma"
#define DBF_PACK 4
#define DBF_BIASED 1  // the instruction multiplies unsigned by signed bytes
#define DBF_DOT(acc, a, b) ((VecI32)_mm512_dpbusd_epi32((__m512i)(acc), (__m512i)(a), (__m512i)(b)))
#endif

#include "kernels/kernel.inl"
