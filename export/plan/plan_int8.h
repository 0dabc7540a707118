// The part of a plan that int8 layers have to themselves: features in 32-bit elements, how they are
// rounded, and the order of the gemm.
//
// Lines of elements stand where lines of floats do, so that one geometry (engine/) serves both.
// Full channel codes, and partial codes, are ordered by descending exponent. The features of each
// exponent are padded to whole elements; the accumulators are shifted left from one exponent to the
// next.

#ifndef DBF_EXPORT_PLAN_PLAN_INT8_H_
#define DBF_EXPORT_PLAN_PLAN_INT8_H_

#include "plan/rule.h"

// Elements that enter the gemm together: lines of tap `tap`, or packed code features.
typedef struct DbfPlanSlice {
  bool partial;  // whether they are code features
  int32_t tap;
  size_t first;  // line, or element of code features
  size_t depth;  // elements
  int shift;     // bits by which the accumulators so far are shifted left first
} DbfPlanSlice;

typedef struct DbfPlanInt8 {
  // Pooled sums, if there are pools.
  int32_t image_zero;
  int sums_shift;
  // Channel stage.
  int32_t input_zero;      // zero point of the pooled sums or, without pools, of the image
  int32_t group_add;       // group form: what is added to a group sum
  int group_right;         // group form: bits by which it is then shifted right
  int transpose_shift;     // otherwise: channel c is transposed to strip c >> transpose_shift
  size_t strips;           // strips of the transform's buffer
  size_t written;          // strips that the transposition writes
  size_t hadamard_strips;  // strips that are transformed: a power of two
  size_t halving;          // distance of strips from which on butterflies halve
  size_t full_elements;    // elements of a pixel's raw features
  DbfNarrow* full_ops;     // [full_elements · pack] of strips; NULL in group form
  uint32_t* padding;       // [full_elements] an element of a pixel of padding
  int bound;               // largest number of a partial channel
  DbfNarrow* partial_ops;  // [partial] of strips
  DbfMasks* masks_w;       // [kernel_w, kernel_w + 1]
  DbfMasks* masks_h;       // [kernel_h, kernel_h + 1]
  // Feature stage.
  size_t feature_elements;  // elements of code features
  DbfNarrow* feature_ops;   // [feature_elements · pack] of code lines
  // Gemm.
  size_t num_slices;
  DbfPlanSlice* slices;
  bool shifted;     // whether any shift is not 0
  int last_shift;   // bits by which the accumulators are shifted left in the end
  size_t elements;  // depth of the gemm in elements
  void* packed;     // for each panel of 1 or 2 vectors: [elements], coefficients as DbfKernels says
  void* packed_allocation;
  int32_t* bias;  // [padded_filters], as all below; with what the features' zero points contribute
  int32_t* multiplier;
  int32_t* right_shift;
  float* scale;
  float* limit;             // see DbfGemmInt8
  int32_t zero, low, high;  // zero point and range of the output
} DbfPlanInt8;

// Makes the int8 part of a plan. Returns an error message as DbfPlanCreate sets it, or NULL.
// Whatever it returns, `plan` is to be freed. Nothing of `pooled` is kept.
const char* DbfPlanInt8Make(const DbfRule* rule, const DbfColumns* columns,
                            const DbfPooledLayer* pooled, DbfPlanInt8* plan);

// Frees what the plan points to.
void DbfPlanInt8Free(DbfPlanInt8* plan);

#endif  // DBF_EXPORT_PLAN_PLAN_INT8_H_
