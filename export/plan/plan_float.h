// The part of a plan that float layers have to themselves: coefficients into which codes are
// absorbed, packed in the order in which the gemm reads them.

#ifndef DBF_EXPORT_PLAN_PLAN_FLOAT_H_
#define DBF_EXPORT_PLAN_PLAN_FLOAT_H_

#include "plan/rule.h"

// A step of the gemm: `depth` features of each segment. The raw features of one vertical tap lie in
// successive lines, so a segment is (tap, first line). Code features are packed for the block and
// are a single segment.
typedef struct DbfBlock {
  bool partial;         // whether its features are code features
  size_t first;         // index of the first segment, or of the first code feature
  size_t num_segments;  // 1 if partial
  size_t depth;
} DbfBlock;

typedef struct DbfSegment {
  int32_t tap;
  size_t line;
} DbfSegment;

typedef struct DbfPlanFloat {
  size_t strips;      // strips of the transform's buffer: a power of two
  size_t written;     // strips that the transposition writes
  float* signs_h;     // [kernel_h, kernel_h] h_u(y)
  float* signs_w;     // [kernel_w, kernel_w] h_v(x)
  size_t num_blocks;  // none in Winograd's form
  DbfBlock* blocks;
  size_t num_segments;
  DbfSegment* segments;
  float* packed;  // for each block, for each panel of 2 (the last: 1 or 2) vectors: [depth, panel].
                  // Winograd's form is a single block, [patch^2, full]
  void* packed_allocation;
  float* bias;      // [padded_filters]
  float low, high;  // the activation's range
} DbfPlanFloat;

// Makes the float part of a plan. Returns false if there is no memory. Whatever it returns, `plan`
// is to be freed. Nothing of `layer` is kept.
bool DbfPlanFloatMake(const DbfRule* rule, const DbfColumns* columns, const DbfLayer* layer,
                      DbfPlanFloat* plan);

// Frees what the plan points to.
void DbfPlanFloatFree(DbfPlanFloat* plan);

#endif  // DBF_EXPORT_PLAN_PLAN_FLOAT_H_
