// AVX2 with FMA: 8 floats a vector, 16 registers.

#include "kernels.h"

#define DBF_VARIANT Avx2
#define DBF_NAME "avx2"

#if defined(__x86_64__)
#define DBF_SUPPORTED (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define DBF_TARGET "avx2,fma"
#define DBF_LOG2_VECTOR 3
#define DBF_ROWS 6
#endif

#include "kernel.inl"
