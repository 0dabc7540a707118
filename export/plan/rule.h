// THE RULE: which computation a layer takes, chosen from its code set, and the stages that float
// and int8 layers plan alike.
//
// It rests on b_(u,v,w)[y, x, c] = h_u(y) h_v(x) h_w(c): the codes act on the activations, one axis
// at a time, and no filter is ever built. The rule, in order:
//
//  0. Let 2^a x 2^b be the largest powers of two that divide all vertical and all horizontal codes
//     of the set, and kh and kw. All codes are constant over pools of 2^a x 2^b neighbouring taps,
//     so the pixels under each pool are added up first (layer.h). What follows is the layer that
//     is left over the pooled sums: kh / 2^a x kw / 2^b taps, 2^a and 2^b apart. (Int8 layers have
//     pools only if their options say how to round the sums.)
//  1. Let W be the channel codes that occur in the set and 2^m the largest power of two that
//     divides them all. They are constant over groups of 2^m neighbouring channels, so the channels
//     of each group are added up first.
//  2. A channel code is *full* if all kh x kw spatial codes occur with it. They then span what the
//     kh x kw taps span, so its features are the projected channel's raw taps and the spatial codes
//     are absorbed into its coefficients. The other channel codes are *partial*: each kept code is
//     computed, along x once per input row, along y while the gemm's features are packed.
//  3. If all codes of W are full and W is *every* multiple of 2^m below C, then they span what the
//     groups span. The group sums themselves are the features and the channel codes are absorbed
//     as well: the *group form*. Otherwise a fast Hadamard transform over the groups gives the
//     projections.
//
// Absorbing replaces coefficients one for one: there are never more packed numbers than
// coefficients, but for the padding of the last few filters to a whole vector. "All spatial codes x
// a channel set" is thus a dense convolution on |W| channels; a set with a few codes left over is
// that plus the left-over codes; any other set is all transforms.
//
// WINOGRAD'S FORM. A float layer of 3 x 3 or 4 x 4 taps, k on a side, with strides and dilations of
// one and without pools, is computed by Winograd's minimal filtering F(2 x 2, k x k) (Lavin and
// Gray, arXiv:1509.09308) on the |W| projected channels, codes that are not kept being zero, if
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
// (FORMAT.md).

#ifndef DBF_EXPORT_PLAN_RULE_H_
#define DBF_EXPORT_PLAN_RULE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "plan/layer.h"

// Winograd's form pays from so many projected channels on.
enum { kDbfWinogradChannels = 12 };

// A float layer of which so many percent of the codes have coefficients other than zero is faster
// with these alone, although they are then any set (benchmarks/idle_codes.py). Int8 layers are not.
enum { kDbfAnySetPercent = 65 };

// How a layer is computed, which also says what its numbers are.
typedef enum DbfForm {
  kDbfFormFloat,
  kDbfFormWinograd,  // floats as well
  kDbfFormInt8,
  kDbfNumForms
} DbfForm;

// What the rule says of a layer. It does not depend on the input's size.
typedef struct DbfRule {
  const DbfKernels* kernels;
  DbfForm form;
  int32_t channels, filters;
  size_t padded_filters;       // filters rounded up to a vector
  int32_t pool_h, pool_w;      // taps of a pool; 1 x 1 for none
  int32_t kernel_h, kernel_w;  // taps of the layer that is left over the pooled sums
  int32_t patch;               // Winograd's form: side of a patch, k + 1; else 0
  size_t depth;                // features of a pixel, each multiplied with a coefficient of every
                               // filter: as many as codes; in Winograd's form, the numbers of a
                               // patch, patch^2 of each full channel code
  // Channel stage.
  int group_shift;        // log2 of the channels in a group
  size_t groups;          // groups of channels
  bool group_form;        // whether group sums are the features; else they are transformed
  size_t full;            // full channel codes
  size_t partial;         // partial channel codes
  DbfLineOp* gather_ops;  // [full + partial] the group index whose transform each projected channel
                          // is, in `source`
  // Line stage: the lines of partial channels, (partial channel, horizontal code).
  size_t code_lines;
  DbfLineOp* line_ops;  // [code_lines]
  // Feature stage: one op (code line, vertical code) for each kept partial code.
  size_t num_code_features;
  DbfLineOp* feature_ops;
} DbfRule;

// Where the coefficients of the kept codes are, as columns of alpha. It is needed only while a plan
// is made.
typedef struct DbfColumns {
  size_t* full;      // [kh·kw, full] column of (spatial code, full channel code); SIZE_MAX if that
                     // code is not kept
  size_t* partial;   // [num_code_features]
  int32_t* channel;  // [channels] projected channel of a channel code, −1 if it does not occur: the
                     // full ones come first
} DbfColumns;

// Applies the rule to a layer. Returns false if there is no memory. Whatever it returns, `rule` and
// `columns` are to be freed.
bool DbfRuleApply(const DbfPooledLayer* pooled, const DbfKernels* kernels, DbfRule* rule,
                  DbfColumns* columns);

void DbfRuleFree(DbfRule* rule);
void DbfColumnsFree(DbfColumns* columns);

#endif  // DBF_EXPORT_PLAN_RULE_H_
