// What a layer computes at each pixel, chosen from its code set, and its coefficients packed
// accordingly.
//
// A plan does not depend on the input's size. It rests on
// b_(u,v,w)[y, x, c] = h_u(y) h_v(x) h_w(c): the codes act on the activations, one axis at a time,
// and no filter is ever built. THE RULE, in order:
//
//  0. Let 2^a x 2^b be the largest powers of two that divide all vertical and all horizontal codes
//     of the set, and kh and kw. All codes are constant over runs of 2^a x 2^b neighbouring taps,
//     so the pixels of each run are added up first. What follows is the layer that is left over
//     these sums: kh / 2^a x kw / 2^b taps, 2^a and 2^b apart. (Int8 layers: if their options say
//     how to round the sums.)
//  1. Let W be the channel codes that occur in the set and 2^shift the largest power of two that
//     divides them all. Their codes are constant over runs of 2^shift neighbouring channels, so
//     each run is added up first.
//  2. A channel code is *full* if all kh x kw spatial codes occur with it. They then span what the
//     kh x kw taps span, so its features are the projected channel's raw taps and the spatial codes
//     are absorbed into its coefficients. The other channel codes are *partial*: each kept code is
//     computed, along x once per input row, along y while packing.
//  3. If all codes of W are full and W is *every* multiple of 2^shift below C, then they span what
//     the runs span. The runs themselves are the features and the channel codes are absorbed as
//     well. Otherwise a fast Hadamard transform over the runs gives the projections.
//
// Absorbing replaces coefficients one for one: there are never more packed numbers than
// coefficients, but for the padding of the last few filters to a whole vector. "All spatial codes x
// a channel set" is thus a dense convolution on |W| channels; a set with a few codes left over is
// that plus the left-over codes; any other set is all transforms.
//
// WINOGRAD'S FORM. A float layer of 3 x 3 or 4 x 4 taps, k on a side, with strides and dilations of
// one and without runs of taps, is computed by Winograd's minimal filtering F(2 x 2, k x k) (Lavin
// and Gray, arXiv:1509.09308) on the |W| projected channels, codes that are not kept being zero, if
// that
//  - takes no more multiplications than the kept codes: (k + 1)^2 |W| for each 4 outputs, where the
//    rule above takes 4 times their number;
//  - packs no more numbers than the filters have: (k + 1)^2 |W| <= k^2 C;
//  - has enough channels that the transforms of its patches do not eat up what it saves:
//    |W| >= kDbfWinogradChannels.
// Its points are 0, 1, -1, infinity and, for 4 x 4, 2, so that rounding errors grow but little. (An
// infinite input makes NaN of all outputs of its patches.) All channel codes count as full then.
// Stride 2, as four phases with F(2, 2), was tried: 3 x 3 was slower, 4 x 4 hardly faster.
//
// Int8 layers follow the same rule. Their coefficients are absorbed already in the file
// (FORMAT.md); see plan_int8.h.

#ifndef DBF_EXPORT_PLAN_PLAN_H_
#define DBF_EXPORT_PLAN_PLAN_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

typedef enum DbfActivation {
  kDbfNone = 0,
  kDbfRelu = 1,
  kDbfReluN1To1 = 2,
  kDbfRelu6 = 3,
} DbfActivation;

// What a layer with int8 input and output has besides, as in FORMAT.md.
typedef struct DbfQuantized {
  float input_scale, output_scale;
  int32_t input_zero, output_zero;
  const uint8_t* features;  // triples of bytes
  size_t features_bytes;
  const uint8_t* sums;  // two bytes, or NULL
  size_t sums_bytes;
  const int32_t* bias;  // [filters], or NULL
} DbfQuantized;

// A layer, as in FORMAT.md. A dense layer is a 1 x 1 convolution.
typedef struct DbfLayer {
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t channels;
  int32_t filters;
  bool same_padding;
  DbfActivation activation;
  const uint8_t* codes;  // bit set over the code grid
  size_t codes_bytes;
  const float* alpha_float;  // [filters, num_codes], or NULL if alpha_int8 or alpha_int4 is given
  const int8_t* alpha_int8;
  const uint8_t* alpha_int4;  // two numbers a byte
  const float* alpha_scales;  // for integers: one per filter, or one in all
  size_t num_scales;
  size_t num_codes;
  const float* bias;              // [filters], or NULL
  const DbfQuantized* quantized;  // NULL for a float layer
} DbfLayer;

// Coefficient of column `column` of `filter`, without its scale. Only for integer coefficients.
int DbfLayerInteger(const DbfLayer* layer, size_t filter, size_t column);

// The scale of a filter's integer coefficients.
float DbfLayerScale(const DbfLayer* layer, size_t filter);

// Winograd's form pays from so many projected channels on.
enum { kDbfWinogradChannels = 12 };

// Where the coefficients of the kept codes are: columns of alpha. Needed while a plan is made.
typedef struct DbfColumns {
  size_t* full;      // [kh·kw, plan->full] column of (spatial code, full channel code); SIZE_MAX if
                     // that code is not kept
  size_t* partial;   // [plan->num_features]
  int32_t* channel;  // [channels] projected channel of a channel code, −1 if it does not occur:
                     // full ones first
} DbfColumns;

// A step of the matrix product: `depth` features a segment. Raw features of one vertical tap lie in
// successive lines, so a segment is (tap, first line). Partial features are packed for the block
// and are a single segment.
typedef struct DbfBlock {
  bool partial;
  size_t first;         // index of the first segment, or of the first partial feature
  size_t num_segments;  // 1 if partial
  size_t depth;
} DbfBlock;

typedef struct DbfSegment {
  int32_t tap;
  size_t line;
} DbfSegment;

typedef struct DbfPlan {
  const DbfKernels* kernels;
  int32_t channels, filters;
  int32_t run_h, run_w;        // taps that are added up first; 1 for none
  int32_t kernel_h, kernel_w;  // of the layer that is left over their sums
  int32_t patch;               // side of a patch of Winograd's form: k + 1; 0 in the usual form
  // Channel stage.
  int shift;
  bool hadamard;
  size_t runs;            // groups of 2^shift channels
  size_t rows;            // rows of the Hadamard transform's buffer: a power of two, at least what
                          // `transpose` writes
  size_t full;            // full channel codes
  size_t partial;         // partial channel codes
  DbfLineOp* gather_ops;  // [full + partial] which row of the transform each projected channel is
  // Line stage: raw lines (tap x, or number of a patch, full channel), then lines (partial channel,
  // horizontal code).
  size_t raw_lines;
  DbfLineOp* raw_ops;  // [raw_lines]: the identity
  size_t code_lines;
  DbfLineOp* line_ops;  // [code_lines], of the partial channels
  // Feature stage: one op (code line, vertical code) per partial code.
  size_t num_features;
  DbfLineOp* feature_ops;
  float* signs_h;  // [kernel_h, kernel_h] h_u(y)
  float* signs_w;  // [kernel_w, kernel_w]
  // Matrix product.
  size_t num_blocks;
  DbfBlock* blocks;
  size_t num_segments;
  DbfSegment* segments;
  size_t depth;           // all features: the number of codes; patch^2 times `full`
  size_t padded_filters;  // filters rounded up to a vector
  float* packed;  // for each block, for each panel of 2 (the last: 1 or 2) vectors: [depth, panel];
                  // patches are one block, [patch^2, full]
  void* packed_allocation;
  float* bias;      // [padded_filters]
  float low, high;  // activation
  // For int8 layers: takes the place of raw lines' count, blocks and packed numbers; else NULL.
  struct DbfPlanInt8* int8;
} DbfPlan;

// (−1)^popcount(i & j): entry of a Hadamard matrix in natural order.
static inline int DbfSign(uint32_t i, uint32_t j) { return __builtin_parity(i & j) ? -1 : 1; }

// Makes the plan of a layer. Sets *error to NULL, or on failure returns NULL and sets *error to a
// constant message: sizes out of range or overflowing, codes that do not match num_codes, no
// memory. Nothing of `layer` is kept.
DbfPlan* DbfPlanCreate(const DbfLayer* layer, const DbfKernels* kernels, const char** error);

void DbfPlanFree(DbfPlan* plan);

// Bytes of the packed coefficients.
size_t DbfPlanPackedBytes(const DbfPlan* plan);

#endif  // DBF_EXPORT_PLAN_PLAN_H_
