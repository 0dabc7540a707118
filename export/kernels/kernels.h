// The micro-kernels: the inner loops of the convolution, compiled for each instruction set.
//
// All of them are compiled from kernel.inl, which includes winograd.inl and int8.inl. To add an
// instruction set, add one file kernel_<name>.c that defines its vector width and tile, and one
// line to the list below.

#ifndef DBF_EXPORT_KERNELS_KERNELS_H_
#define DBF_EXPORT_KERNELS_KERNELS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "support/require.h"

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

// One signed sum of shifted copies of a line: which line to read, and the code whose signs to use.
typedef struct DbfLineOp {
  int32_t source;
  int32_t code;
} DbfLineOp;

// Signed sums of lines, of floats or of int16. A line is read and written in `spans` of `width`
// numbers. For each op i, span s < spans and x < width:
//   dst[i * dst_pitch + s * dst_span + x] = sum over t < taps of
//       signs[ops[i].code * taps + t] *
//       src[ops[i].source * src_pitch + offsets[t] + s * src_span + x]
// The first sign of each code is +1. Whole vectors are read and written: up to one vector less one
// number past `width`.
typedef struct DbfCombine {
  const DbfLineOp* ops;
  size_t num_ops;
  const void* signs;  // of natural-order codes: floats, or for int16 DbfMasks
  const size_t* offsets;
  int taps;
  size_t spans;
  const void* src;
  size_t src_pitch, src_span;
  void* dst;
  size_t dst_pitch, dst_span;
  size_t dst_step;  // see DbfKernels.patches
  size_t width;
} DbfCombine;

// Signs for int16, [code][taps + 1] of uint32_t that hold a number in both halves: −1 for a tap
// that is subtracted, else 0; the last holds how many are subtracted.
typedef uint32_t DbfMasks;

// A gemm of `pixels` pixels of A with one panel of packed coefficients B, plus bias, activation and
// accumulation.
//   out[p * out_pitch + k] = clamp(bias[k] + sum over segments s, depths d of
//       a[segments[s] + d * a_pitch + p] * b[(s * segment_depth + d) * vectors * vector + k])
typedef struct DbfGemm {
  const float* a;
  bool packed;  // whether A is in the order in which it is read: a tile (DbfCutTiles) each
                // tile_pitch
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
  bool first;      // whether to start from the bias instead of from what is in `out`
  bool last;       // whether to clamp to [low, high]
  float low;
  float high;
} DbfGemm;

// The way from the accumulators of patches back to output squares of 2 x 2, which are clamped;
// outputs outside of the image are dropped. Patch p, counted from 0, is number first + p of an
// image whose rows have `width` patches.
typedef struct DbfOutputSquares {
  int patch;                  // side of a patch: 4 or 5
  const float* accumulators;  // [patch * patch, patches, vectors * vector]
  size_t patches, first, width;
  int vectors;
  size_t columns;  // of the panel that exist
  float* out;      // [out_h, out_w, out_pitch]
  size_t out_h, out_w, out_pitch;
  float low, high;
} DbfOutputSquares;

// How a sum of int16 lines becomes a number of fewer bits:
// clamp(clamp16(sum + add) >> shift, low, high). `add` is in two parts of one sign, each int16 in
// both halves; the second is used for sums of one tap only.
typedef struct DbfNarrow {
  DbfLineOp line;
  uint32_t add[2];
  int32_t shift;
} DbfNarrow;

// Int8 features: signed sums of int16 lines, as DbfCombine, narrowed to −128...127 and put together
// into 32-bit elements of `pack` features; element e is made by the ops from e * pack on.
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

// Elements of successive lines that enter a gemm at once, after the accumulators so far are shifted
// left by `shift`.
typedef struct DbfSlice {
  const uint32_t* a;
  size_t a_pitch;
  size_t depth;  // elements
  int shift;
} DbfSlice;

// A gemm of `pixels` pixels of int8 features with one panel of packed int8 coefficients,
// requantised as FORMAT.md says. With accumulators acc of all features times coefficients:
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
  const float* limit;  // farther than this from an integer, an accumulator times `scale` may
                       // be rounded the wrong way
  int32_t zero, low, high;
  int8_t* out;
  size_t out_pitch;
  size_t pixels;
  int vectors;
  size_t columns;
} DbfGemmInt8;

// How the pixels of a gemm are cut into tiles of at most `tile_pixels`, as even as possible: 64 =
// 13 + 13 + 13 + 13 + 12. The first `longer` tiles have a pixel more than the others.
typedef struct DbfTiles {
  uint32_t count;
  uint32_t pixels;  // of a tile that is not longer
  uint32_t longer;
  uint32_t pitch;  // pixels of the longest, rounded up to whole vectors
} DbfTiles;

static inline DbfTiles DbfCutTiles(size_t pixels, int tile_pixels, int vector) {
  DBF_REQUIRE(pixels > 0 && pixels <= UINT32_MAX / 2, "no pixels to cut, or too many");
  const uint32_t count = ((uint32_t)pixels + tile_pixels - 1) / tile_pixels;
  const uint32_t least = (uint32_t)pixels / count;
  const uint32_t longer = (uint32_t)pixels - least * count;
  return (DbfTiles){count, least, longer, (least + (longer > 0) + vector - 1) / vector * vector};
}

typedef struct DbfKernels {
  const char* name;
  bool (*supported)(void);
  int vector;       // floats per vector
  int tile_pixels;  // pixels of a tile of a gemm, at most
  size_t depth;  // features of a float gemm at once, so that a panel of B and a tile of A stay in
                 // the first cache

  // Float layers. A strip is one vector of pixels of one channel or group.

  // sum[i] = a[i] + b[i] for i < count; `sum` may be `a` or `b`.
  void (*add)(const float* a, const float* b, float* sum, size_t count);
  // Transposes `vector` pixels of `channels` channels each: pixels[i][c] to dst[(c >> shift) *
  // pitch + i], adding up the 2^shift neighbouring channels of a group. Writes ((channels - 1) >>
  // shift) + 1 strips. If `hadamard`, does the butterflies of the group index inside blocks of
  // `vector` channels as well; then all strips of the last block are written.
  void (*transpose)(const float* const* pixels, size_t channels, int shift, bool hadamard,
                    float* dst, size_t pitch);
  // In-place butterflies between strips: of index distances first, 2 * first, ... < strips.
  void (*hadamard)(float* data, size_t first, size_t strips);
  // Copies strips ops[i].source to dst + i * pitch.
  void (*gather)(const DbfLineOp* ops, size_t num_ops, const float* src, float* dst, size_t pitch);
  void (*combine)(const DbfCombine* args);
  void (*gemm)(const DbfGemm* args);
  // Transforms the patches of Winograd's form (plan/rule.h) along one axis, of `num_ops` lines that
  // follow one another. The `taps` numbers, 4 or 5, that a patch becomes are dst_step apart.
  void (*patches)(const DbfCombine* args);
  void (*output_squares)(const DbfOutputSquares* args);

  // Int8 layers. A strip is 2 * vector int16. A 32-bit element of a line holds `pack` features.

  int pack;     // 4 bytes, or 2 int16
  bool biased;  // whether 128 is added to the bytes
  bool planar;  // packed coefficients of an element, of int8 if pack is 4, else of int16: for each
                // vector of the panel [pack][filter] if planar, else [filter][pack]
  // Group form: group sums less input_zero for each channel, of `vector` pixels, as features
  // clamp8((sum + add) >> right), to elements dst[e * pitch + i].
  void (*group_features)(const int8_t* const* pixels, size_t channels, int shift,
                         int32_t input_zero, int32_t add, int right, uint32_t* dst, size_t pitch);
  // The sums of pools: src[i] - less; then a[i] + b[i], where `sum` may be `a` or `b`; and then
  // clamp8(zero + ((sums[i] + round(shift)) >> shift), of sums of at most 32640 in size.
  void (*widen)(const int8_t* src, int32_t less, int16_t* dst, size_t count);
  void (*add_int16)(const int16_t* a, const int16_t* b, int16_t* sum, size_t count);
  void (*round_sums)(const int16_t* sums, int shift, int32_t zero, int8_t* dst, size_t count);
  // Transposes 2 * vector pixels to strips, with the butterflies of bits 0 and 1 of the channel;
  // only sums of the lowest `shift` (0, 1 or 2) of them. Channel c goes to strip c >> shift; all
  // strips of whole blocks of 4 * vector channels are written (of 16, if no more are left), where
  // channels that are not there are 0.
  void (*transpose_int16)(const int8_t* const* pixels, size_t channels, int shift, int16_t* dst);
  // In-place butterflies between strips; both terms of distances from `halving` on are halved
  // first.
  void (*hadamard_int16)(int16_t* data, size_t first, size_t strips, size_t halving);
  void (*combine_int16)(const DbfCombine* args);
  // Strips src ops[i].line.source, narrowed to −bound...bound, to dst + i * dst_pitch.
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

// Has DbfKernelsChosen return the variant of that name from now on, or the best if `name` is NULL.
// Returns false, and changes nothing, if there is none.
bool DbfKernelsChoose(const char* name);

// The variant that was chosen for this process, or else the best.
const DbfKernels* DbfKernelsChosen(void);

// Variant `i` of the list if the processor runs it, NULL if not. Sets *more to whether `i` is in
// the list.
const DbfKernels* DbfKernelsAt(size_t i, bool* more);

#endif  // DBF_EXPORT_KERNELS_KERNELS_H_
