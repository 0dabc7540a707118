// AVX2 with FMA: a vector has 8 floats, and there are 16 registers. Int8 gemms multiply int16, as
// products of bytes saturate.

#include "kernels/kernels.h"

#define DBF_VARIANT Avx2
#define DBF_NAME "avx2"

#if defined(__x86_64__)
#include <immintrin.h>
#define DBF_SUPPORTED (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define DBF_TARGET "avx2,fma"
#define DBF_DEPTH 320
#define DBF_LOG2_VECTOR 3
#define DBF_TILE_PIXELS 6
#define DBF_PACK 2
#define DBF_DOT(acc, a, b) ((acc) + (VecI32)_mm256_madd_epi16((__m256i)(a), (__m256i)(b)))
#define DBF_CLAMP16(x, low, high) \
  ((VecI16)_mm256_min_epi16(_mm256_max_epi16((__m256i)(x), (__m256i)(low)), (__m256i)(high)))
#define DBF_CLAMP32(x, low, high) \
  ((VecI32)_mm256_min_epi32(_mm256_max_epi32((__m256i)(x), (__m256i)(low)), (__m256i)(high)))
#define DBF_SATURATED_ADD(a, b) ((VecI16)_mm256_adds_epi16((__m256i)(a), (__m256i)(b)))
#define DBF_ANY(mask) (!_mm256_testz_si256((__m256i)(mask), (__m256i)(mask)))
#endif

#include "kernels/kernel.inl"
