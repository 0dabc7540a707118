// 64-bit ARM: 4 floats a vector, 32 registers. NEON is part of the architecture, so there is
// nothing to ask for.

#include "kernels.h"

#define DBF_VARIANT Neon
#define DBF_NAME "neon"

#if defined(__aarch64__)
#define DBF_SUPPORTED 1
#define DBF_LOG2_VECTOR 2
#define DBF_ROWS 12
#endif

#include "kernel.inl"
