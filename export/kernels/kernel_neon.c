// 64-bit ARM: a vector has 4 floats, and there are 32 registers. NEON is part of the architecture,
// so there is nothing to ask for. Int8 gemms multiply int16.

#include "kernels/kernels.h"

#define DBF_VARIANT Neon
#define DBF_NAME "neon"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels/neon.h"
#define DBF_SUPPORTED 1
#define DBF_PACK 2
#define DBF_PLANAR 1
#define DBF_DOT_LANE(acc, a, b, lane) DotLane(acc, (int16x8_t)(a), (int16x8_t)(b), lane)

// acc plus the products of element `lane` of `a`, which is two features, with coefficients [2][4].
#define PAIR(lane) \
  vmlal_high_laneq_s16(vmlal_laneq_s16(acc, vget_low_s16(b), a, 2 * (lane)), b, a, 2 * (lane) + 1)
static inline __attribute__((always_inline)) int32x4_t DotLane(int32x4_t acc, int16x8_t a,
                                                               int16x8_t b, int lane) {
  return lane == 0 ? PAIR(0) : lane == 1 ? PAIR(1) : lane == 2 ? PAIR(2) : PAIR(3);
}
#endif

#include "kernels/kernel.inl"
