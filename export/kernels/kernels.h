// The inner loops of the convolution, one implementation per instruction set.
//
// All of them are compiled from kernel.inl. To add an instruction set, add one file kernel_<name>.c
// that defines its vector width and tile, and one line to the list below.

#ifndef DBF_EXPORT_KERNELS_KERNELS_H_
#define DBF_EXPORT_KERNELS_KERNELS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The variants, best first. A file for another processor architecture defines its variant as
// unsupported.
#define DBF_KERNEL_LIST(X) \
  X(Avx512)                \
  X(Avx2)                  \
  X(Neon)                  \
  X(Baseline)

enum {
  kDbfMaxVector = 16,  // floats in the widest vector; buffers have this much slack behind them
};

// One signed sum of shifted copies of a line: which line to read and which row of signs to use.
typedef struct DbfLineOp {
  int32_t source;
  int32_t code;
} DbfLineOp;

// Signed sums of lines. For each op i and each x < width:
//   dst[i * dst_pitch + x] = sum over t < taps of
//       signs[ops[i].code * taps + t] * src[ops[i].source * src_pitch + offsets[t] + x]
// The first sign of each row is +1. Whole vectors are read and written: up to one vector less one
// float past `width`.
typedef struct DbfCombine {
  const DbfLineOp* ops;
  size_t num_ops;
  const float* signs;
  const size_t* offsets;
  int taps;
  const float* src;
  size_t src_pitch;
  float* dst;
  size_t dst_pitch;
  size_t width;
} DbfCombine;

// A product of `pixels` rows of A with one panel of packed coefficients, plus bias, activation and
// accumulation.
//   out[p * out_pitch + k] = clamp(bias[k] + sum over segments s, depths d of
//       a[segments[s] + d * a_pitch + p] * b[(s * segment_depth + d) * vectors * vector + k])
// `first`: start from the bias instead of from what is in `out`. `last`: clamp to [low, high].
typedef struct DbfGemm {
  const float* a;
  size_t a_pitch;
  const size_t* segments;
  size_t num_segments;
  size_t segment_depth;
  const float* b;
  const float* bias;
  float* out;
  size_t out_pitch;
  size_t pixels;
  int vectors;     // vectors in the panel: 1 or 2
  size_t columns;  // columns of the panel that exist: 1 ... vectors * vector
  bool first;
  bool last;
  float low;
  float high;
} DbfGemm;

typedef struct DbfKernels {
  const char* name;
  bool (*supported)(void);
  int vector;  // floats per vector
  // Transposes `vector` pixels of `channels` channels each: pixels[i][c] to dst[(c >> shift) *
  // pitch + i], adding up the 2^shift neighbouring channels of a group. Writes groups = ((channels
  // - 1) >> shift) + 1 rows of one vector. If `hadamard`, does the butterflies of the group index
  // inside blocks of `vector` channels as well; then all rows of the last block are written.
  void (*transpose)(const float* const* pixels, size_t channels, int shift, bool hadamard,
                    float* dst, size_t pitch);
  // In-place butterflies between rows of one vector: of index distances first, 2 * first, ... <
  // rows.
  void (*hadamard)(float* data, size_t first, size_t rows);
  void (*combine)(const DbfCombine* args);
  void (*gemm)(const DbfGemm* args);
} DbfKernels;

#define DBF_DECLARE_KERNELS(name) extern const DbfKernels kDbfKernels##name;
DBF_KERNEL_LIST(DBF_DECLARE_KERNELS)
#undef DBF_DECLARE_KERNELS

// The best variant that this processor runs.
const DbfKernels* DbfKernelsBest(void);

// The variant of that name ("avx512", "avx2", "neon", "baseline"), or NULL if there is none or the
// processor lacks it.
const DbfKernels* DbfKernelsFind(const char* name);

// Variant `i` of the list if the processor runs it, NULL if not. Sets *more to whether `i` is in
// the list.
const DbfKernels* DbfKernelsAt(size_t i, bool* more);

#endif  // DBF_EXPORT_KERNELS_KERNELS_H_
