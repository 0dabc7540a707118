// The part of a plan that int8 layers have to themselves: features in 32-bit elements, their
// rounding, and the order of the product.
//
// Lines of elements stand where lines of floats do, so that one geometry (conv.c) serves both. Full
// channel codes, and partial codes, are ordered by descending exponent. Each exponent's group is
// padded to whole elements; the sums are shifted left from group to group.

#ifndef DBF_EXPORT_PLAN_PLAN_INT8_H_
#define DBF_EXPORT_PLAN_PLAN_INT8_H_

#include "plan/plan.h"

// Elements that enter the product together: lines of tap `tap`, or packed partial features.
typedef struct DbfPlanSlice {
  bool partial;
  int32_t tap;
  size_t first;  // line, or partial element
  size_t depth;
  int shift;  // of the sums so far
} DbfPlanSlice;

typedef struct DbfPlanInt8 {
  // Sums of runs of taps, if there are any.
  int32_t image_zero;
  int sums_right;
  // Channel stage.
  int32_t input_zero;  // of the sums or, without, of the image
  int32_t runs_add;    // runs form
  int runs_right;
  int low;               // channels are transposed to rows c >> low
  size_t rows;           // of the transform's buffer
  size_t written;        // rows that the transposition writes
  size_t hadamard_rows;  // a power of two
  size_t halving;        // row distance from which on butterflies halve
  size_t full_elements;
  DbfNarrow* full_ops;  // [full_elements * pack] of rows; NULL in runs form
  uint32_t* padding;    // [full_elements] an element of a pixel of padding
  DbfMasks* masks_w;    // [kernel_w, kernel_w + 1]
  DbfMasks* masks_h;
  int bound;
  DbfNarrow* partial_ops;  // [plan->partial] of rows
  // Feature stage.
  size_t feature_elements;
  DbfNarrow* feature_ops;  // [feature_elements * pack] of code lines
  // Product.
  size_t num_slices;
  DbfPlanSlice* slices;
  bool shifted;  // whether any shift is not 0
  int last_shift;
  size_t depth;  // elements
  void* packed;  // for each panel of 1 or 2 vectors: [depth], coefficients as DbfKernels says
  void* packed_allocation;
  int32_t* bias;  // [padded_filters], as all below; with the zero points' part
  int32_t* multiplier;
  int32_t* right_shift;
  float* scale;
  float* limit;  // see DbfGemmInt8
  int32_t zero, low_output, high_output;
} DbfPlanInt8;

// Makes the int8 part of `plan`, whose channel and line stages are planned. Sets plan->raw_lines to
// lines of elements. Returns NULL and sets *error as DbfPlanCreate does.
DbfPlanInt8* DbfPlanInt8Create(DbfPlan* plan, const DbfLayer* layer, const DbfColumns* columns,
                               const char** error);

void DbfPlanInt8Free(DbfPlanInt8* plan);

#endif  // DBF_EXPORT_PLAN_PLAN_INT8_H_
