// AVX-512: 16 floats a vector, 32 registers.

#include "kernels.h"

#define DBF_VARIANT Avx512
#define DBF_NAME "avx512"

#if defined(__x86_64__)
#define DBF_SUPPORTED                                                          \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&  \
   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && \
   __builtin_cpu_supports("fma"))
#define DBF_TARGET "avx512f,avx512bw,avx512dq,avx512vl,fma"
#define DBF_LOG2_VECTOR 4
#define DBF_ROWS 14
#endif

#include "kernel.inl"
