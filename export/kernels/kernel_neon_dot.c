// 64-bit ARM with the dot product of bytes (ARMv8.2, optional before 8.4): as neon, but int8 gemms
// multiply bytes by that. Clang before 16 has no name for this target.

#include "kernels/kernels.h"

#define DBF_VARIANT NeonDot
#define DBF_NAME "neondot"

#if defined(__aarch64__) && defined(__linux__) && (!defined(__clang__) || __clang_major__ >= 16)
#include <arm_neon.h>
#include <sys/auxv.h>

#include "kernels/neon.h"
#define DBF_SUPPORTED ((getauxval(AT_HWCAP) & (1ul << 20)) != 0)  // HWCAP_ASIMDDP
#define DBF_TARGET "arch=armv8.2-a+dotprod"
#define DBF_PACK 4
#define DBF_DOT_LANE(acc, a, b, lane) DotLane(acc, (int8x16_t)(a), (int8x16_t)(b), lane)

static inline __attribute__((always_inline, target("arch=armv8.2-a+dotprod"))) int32x4_t
DotLane(int32x4_t acc, int8x16_t a, int8x16_t b, int lane) {
  return lane == 0   ? vdotq_laneq_s32(acc, b, a, 0)
         : lane == 1 ? vdotq_laneq_s32(acc, b, a, 1)
         : lane == 2 ? vdotq_laneq_s32(acc, b, a, 2)
                     : vdotq_laneq_s32(acc, b, a, 3);
}
#endif

#include "kernels/kernel.inl"
