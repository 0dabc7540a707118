// 64-bit ARM: 4 floats a vector, 32 registers. NEON is part of the architecture, so there is
// nothing to ask for. Int8 by products of int16.

#include "kernels.h"

#define DBF_VARIANT Neon
#define DBF_NAME "neon"

#if defined(__aarch64__)
#include <arm_neon.h>
#define DBF_SUPPORTED 1
#define DBF_DEPTH 384
#define DBF_LOG2_VECTOR 2
#define DBF_ROWS 12
#define DBF_PACK 2
#define DBF_PLANAR 1
#define DBF_BY_LANE 1
#define DBF_DOT_LANE(acc, a, b, lane) DotLane(acc, (int16x8_t)(a), (int16x8_t)(b), lane)
#define DBF_CLAMP16(x, low, high) \
  ((H)vminq_s16(vmaxq_s16((int16x8_t)(x), (int16x8_t)(low)), (int16x8_t)(high)))
#define DBF_CLAMP32(x, low, high) \
  ((I)vminq_s32(vmaxq_s32((int32x4_t)(x), (int32x4_t)(low)), (int32x4_t)(high)))
#define DBF_SATURATED_ADD(a, b) ((H)vqaddq_s16((int16x8_t)(a), (int16x8_t)(b)))
#define DBF_ANY(mask) (vmaxvq_u32((uint32x4_t)(mask)) != 0)

// Element `lane` of `a`, two features, with coefficients [2][4].
#define PAIR(lane) \
  vmlal_high_laneq_s16(vmlal_laneq_s16(acc, vget_low_s16(b), a, 2 * (lane)), b, a, 2 * (lane) + 1)
static inline __attribute__((always_inline)) int32x4_t DotLane(int32x4_t acc, int16x8_t a,
                                                               int16x8_t b, int lane) {
  return lane == 0 ? PAIR(0) : lane == 1 ? PAIR(1) : lane == 2 ? PAIR(2) : PAIR(3);
}
#endif

#include "kernel.inl"
