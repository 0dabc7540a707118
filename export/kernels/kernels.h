// The inner loops of the convolution, one implementation per instruction set.
//
// All of them are compiled from kernel.inl, which includes winograd.inl and int8.inl. To add an
// instruction set, add one file kernel_<name>.c that defines its vector width and tile, and one
// line to the list below.

#ifndef DBF_EXPORT_KERNELS_KERNELS_H_
#define DBF_EXPORT_KERNELS_KERNELS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The variants, best first. A file for another processor architecture defines its variant as
// unsupported.
#define DBF_KERNEL_LIST(X) \
  X(Avx512Vnni)            \
  X(Avx512)                \
  X(Avx2)                  \
  X(NeonDot)               \
  X(Neon)                  \
  X(Baseline)

enum {
  kDbfMaxVector = 16,  // floats in the widest vector
};

// One signed sum of shifted copies of a line: which line to read and which row of signs to use.
typedef struct DbfLineOp {
  int32_t source;
  int32_t code;
} DbfLineOp;

// Signed sums of lines, of floats or of int16. For each op i, row r < rows and x < width:
//   dst[i * dst_pitch + r * dst_row + x] = sum over t < taps of
//       signs[ops[i].code * taps + t] * src[ops[i].source * src_pitch + offsets[t] + r * src_row +
//       x]
// The first sign of each row of signs is +1. Whole vectors are read and written: up to one vector
// less one number past `width`.
typedef struct DbfCombine {
  const DbfLineOp* ops;
  size_t num_ops;
  const void* signs;  // of natural-order codes: floats, or for int16 DbfMasks
  const size_t* offsets;
  int taps;
  size_t rows;
  const void* src;
  size_t src_pitch, src_row;
  void* dst;
  size_t dst_pitch, dst_row;
  size_t dst_step;  // see DbfKernels.patches
  size_t width;
} DbfCombine;

// Signs for int16, [code][taps + 1] of uint32_t that hold a number in both halves: −1 for a tap
// that is subtracted, else 0; last, how many are.
typedef uint32_t DbfMasks;

// A product of `pixels` rows of A with one panel of packed coefficients, plus bias, activation and
// accumulation.
//   out[p * out_pitch + k] = clamp(bias[k] + sum over segments s, depths d of
//       a[segments[s] + d * a_pitch + p] * b[(s * segment_depth + d) * vectors * vector + k])
// `first`: start from the bias instead of from what is in `out`. `last`: clamp to [low, high].
// `packed`: A is in the order in which it is read, a tile (DbfCutTiles) each tile_pitch.
typedef struct DbfGemm {
  const float* a;
  bool packed;
  size_t a_pitch, tile_pitch;
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

// From the products of patches back to squares of 2 x 2 outputs, clamped; those outside of the
// output are dropped. Patch p, counted from 0, is number first + p of an image whose rows have
// `width` patches.
typedef struct DbfSquares {
  int taps;
  const float* products;  // [taps * taps, patches, vectors * vector]
  size_t patches, first, width;
  int vectors;
  size_t columns;  // of the panel that exist
  float* out;      // [out_h, out_w, out_pitch]
  size_t out_h, out_w, out_pitch;
  float low, high;
} DbfSquares;

// How a sum of int16 lines becomes a number of fewer bits:
// clamp(clamp16(sum + add) >> shift, low, high). `add` is in two parts of one sign, each int16 in
// both halves; the second is used for sums of one tap only.
typedef struct DbfNarrow {
  DbfLineOp line;
  uint32_t add[2];
  int32_t shift;
} DbfNarrow;

// Int8 features: signed sums of int16 lines, as DbfCombine, narrowed to −128...127 and put together
// into 32-bit elements of `pack` features, element e from ops e * pack...
typedef struct DbfFeatures {
  const DbfNarrow* ops;
  size_t num_elements;
  const DbfMasks* signs;
  const size_t* offsets;
  int taps;
  const int16_t* src;
  size_t src_pitch;
  uint32_t* dst;
  size_t dst_pitch;
  size_t width;
} DbfFeatures;

// Elements of successive lines that go into a product at once, after the sums so far are shifted
// left.
typedef struct DbfSlice {
  const uint32_t* a;
  size_t a_pitch;
  size_t depth;  // elements
  int shift;
} DbfSlice;

// A product of `pixels` rows of int8 features with one panel of packed int8 coefficients,
// requantised as FORMAT.md says. With sums acc of all features times coefficients:
//   out[p * out_pitch + k] = clamp(zero + requantised(bias[k] + (acc << last_shift)), low, high)
typedef struct DbfGemmInt8 {
  const DbfSlice* slices;
  size_t num_slices;
  bool shifted;  // whether any shift is not 0
  int last_shift;
  const void* b;
  const int32_t* bias;
  const int32_t* multiplier;   // Q31
  const int32_t* right_shift;  // 0 ... 31
  const float* scale;          // multiplier / 2^(31 + right_shift), about
  const float* limit;          // farther than this from an integer, rounding the product with
                               // `scale` may be wrong
  int32_t zero, low, high;
  int8_t* out;
  size_t out_pitch;
  size_t pixels;
  int vectors;
  size_t columns;
} DbfGemmInt8;

// How pixels are cut into tiles of a micro-kernel of `rows`, as even as possible: 64 = 13 + 13 + 13
// + 13 + 12. The first `longer` tiles have a pixel more than the others. `pitch` is the longest
// rounded up to whole vectors.
typedef struct DbfTiles {
  uint32_t count, rows, longer, pitch;
} DbfTiles;

static inline DbfTiles DbfCutTiles(size_t pixels, int rows, int vector) {
  const uint32_t count = ((uint32_t)pixels + rows - 1) / rows;
  const uint32_t least = (uint32_t)pixels / count;
  const uint32_t longer = (uint32_t)pixels - least * count;
  return (DbfTiles){count, least, longer, (least + (longer > 0) + vector - 1) / vector * vector};
}

typedef struct DbfKernels {
  const char* name;
  bool (*supported)(void);
  int vector;    // floats per vector
  int rows;      // pixels of a tile of the product, at most
  size_t depth;  // features of a float product at once: so that a panel of B and a tile of A stay
                 // in the first cache
  // sum[i] = a[i] + b[i] for i < count; `sum` may be `a` or `b`.
  void (*add)(const float* a, const float* b, float* sum, size_t count);
  // Transposes `vector` pixels of `channels` channels each: pixels[i][c] to dst[(c >> shift) *
  // pitch + i], adding up the 2^shift neighbouring channels of a group. Writes groups = ((channels
  // - 1) >> shift) + 1 rows of one vector. If `hadamard`, does the butterflies of the group index
  // inside blocks of `vector` channels as well; then all rows of the last block are written.
  void (*transpose)(const float* const* pixels, size_t channels, int shift, bool hadamard,
                    float* dst, size_t pitch);
  // In-place butterflies between rows of one vector: of index distances first, 2 * first, ... <
  // rows.
  void (*hadamard)(float* data, size_t first, size_t rows);
  // Copies rows ops[i].source of one vector to dst + i * pitch.
  void (*gather)(const DbfLineOp* ops, size_t num_ops, const float* src, float* dst, size_t pitch);
  void (*combine)(const DbfCombine* args);
  void (*gemm)(const DbfGemm* args);
  // The transforms of the patches of Winograd's form (see plan.h) along one axis, of `num_ops`
  // lines that follow one another. The `taps` numbers, 4 or 5, that a patch becomes are dst_step
  // apart.
  void (*patches)(const DbfCombine* args);
  void (*squares)(const DbfSquares* args);

  // The same for int8. A 32-bit element of a line holds `pack` features: 4 bytes, with 128 added if
  // `biased`, or 2 int16. Packed coefficients of an element: for each vector of the panel, either
  // [filter][pack] or, if `planar`, [pack][filter], of int8 if pack is 4, else of int16.
  int pack;
  bool biased, planar;
  // Runs form: sums of 2^shift neighbouring channels less input_zero, of `vector` pixels, as
  // features clamp8((sum + add) >> right), to elements dst[e * pitch + i].
  void (*runs)(const int8_t* const* pixels, size_t channels, int shift, int32_t input_zero,
               int32_t add, int right, uint32_t* dst, size_t pitch);
  // Sums of pixels: src[i] - less; a[i] + b[i], `sum` may be `a` or `b`; and clamp8(zero +
  // ((sums[i]
  // + round(shift)) >> shift), of sums of at most 32640 in size.
  void (*widen)(const int8_t* src, int32_t less, int16_t* dst, size_t count);
  void (*add_int16)(const int16_t* a, const int16_t* b, int16_t* sum, size_t count);
  void (*narrow_sums)(const int16_t* sums, int shift, int32_t zero, int8_t* dst, size_t count);
  // Transposes 2 * vector pixels to int16 rows of as many numbers, with the butterflies of bits 0
  // and 1 of the channel; only sums of the lowest `shift` (0, 1 or 2) of them. Row c >> shift; all
  // rows of whole blocks of 4 * vector channels are written (of 16, if no more are left), channels
  // that are not there are 0.
  void (*transpose_int16)(const int8_t* const* pixels, size_t channels, int shift, int16_t* dst);
  // In-place butterflies between rows of 2 * vector int16; both terms of distances from `halving`
  // on are halved first.
  void (*hadamard_int16)(int16_t* data, size_t first, size_t rows, size_t halving);
  void (*combine_int16)(const DbfCombine* args);
  // Row i of 2 * vector numbers: src row ops[i].line.source, narrowed to −bound...bound.
  void (*narrow)(const DbfNarrow* ops, size_t num_ops, int bound, const int16_t* src, int16_t* dst,
                 size_t dst_pitch);
  void (*features)(const DbfFeatures* args);
  void (*gemm_int8)(const DbfGemmInt8* args);
} DbfKernels;

#define DBF_DECLARE_KERNELS(name) extern const DbfKernels kDbfKernels##name;
DBF_KERNEL_LIST(DBF_DECLARE_KERNELS)
#undef DBF_DECLARE_KERNELS

// The best variant that this processor runs.
const DbfKernels* DbfKernelsBest(void);

// The variant of that name ("avx512vnni", "avx512", "avx2", "neondot", "neon", "baseline"), or NULL
// if there is none or the processor lacks it.
const DbfKernels* DbfKernelsFind(const char* name);

// Variant `i` of the list if the processor runs it, NULL if not. Sets *more to whether `i` is in
// the list.
const DbfKernels* DbfKernelsAt(size_t i, bool* more);

#endif  // DBF_EXPORT_KERNELS_KERNELS_H_
