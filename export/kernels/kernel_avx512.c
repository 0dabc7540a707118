// AVX-512: a vector has 16 floats, and there are 32 registers. Int8 gemms multiply int16.

#include "kernels/kernels.h"

#define DBF_VARIANT Avx512
#define DBF_NAME "avx512"

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/avx512.h"
#define DBF_SUPPORTED                                                          \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&  \
   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && \
   __builtin_cpu_supports("fma"))
#define DBF_TARGET "avx512f,avx512bw,avx512dq,avx512vl,fma"
#define DBF_PACK 2
#define DBF_DOT(acc, a, b) ((acc) + (VecI32)_mm512_madd_epi16((__m512i)(a), (__m512i)(b)))
#endif

#include "kernels/kernel.inl"
