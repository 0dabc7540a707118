// What the variants for 64-bit ARM have in common; see kernel.inl and int8.inl.

#ifndef DBF_EXPORT_KERNELS_NEON_H_
#define DBF_EXPORT_KERNELS_NEON_H_

#define DBF_DEPTH 384
#define DBF_LOG2_VECTOR 2
#define DBF_TILE_PIXELS 12
#define DBF_CLAMP16(x, low, high) \
  ((VecI16)vminq_s16(vmaxq_s16((int16x8_t)(x), (int16x8_t)(low)), (int16x8_t)(high)))
#define DBF_CLAMP32(x, low, high) \
  ((VecI32)vminq_s32(vmaxq_s32((int32x4_t)(x), (int32x4_t)(low)), (int32x4_t)(high)))
#define DBF_SATURATED_ADD(a, b) ((VecI16)vqaddq_s16((int16x8_t)(a), (int16x8_t)(b)))
#define DBF_ANY(mask) (vmaxvq_u32((uint32x4_t)(mask)) != 0)
#define DBF_BY_LANE 1

#endif  // DBF_EXPORT_KERNELS_NEON_H_
