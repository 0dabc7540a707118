// Any processor: a vector has 4 floats, whatever the compiler makes of that (SSE2 on x86-64).

#include "kernels/kernels.h"

#define DBF_VARIANT Baseline
#define DBF_NAME "baseline"
#define DBF_SUPPORTED 1
#define DBF_DEPTH 384
#define DBF_LOG2_VECTOR 2
#define DBF_TILE_PIXELS 6

#include "kernels/kernel.inl"
