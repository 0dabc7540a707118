// What the variants for AVX-512 have in common; see kernel.inl and int8.inl.

#ifndef DBF_EXPORT_KERNELS_AVX512_H_
#define DBF_EXPORT_KERNELS_AVX512_H_

#define DBF_DEPTH 384
#define DBF_LOG2_VECTOR 4
#define DBF_TILE_PIXELS 14
#define DBF_CLAMP16(x, low, high) \
  ((VecI16)_mm512_min_epi16(_mm512_max_epi16((__m512i)(x), (__m512i)(low)), (__m512i)(high)))
#define DBF_CLAMP32(x, low, high) \
  ((VecI32)_mm512_min_epi32(_mm512_max_epi32((__m512i)(x), (__m512i)(low)), (__m512i)(high)))
#define DBF_SATURATED_ADD(a, b) ((VecI16)_mm512_adds_epi16((__m512i)(a), (__m512i)(b)))
#define DBF_ANY(mask) (_mm512_test_epi32_mask((__m512i)(mask), (__m512i)(mask)) != 0)

#endif  // DBF_EXPORT_KERNELS_AVX512_H_
