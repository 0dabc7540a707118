// What a layer computes at each pixel, and its coefficients packed for that. A plan does not depend
// on the input's size. This is the one place that asks for a layer's type: layer.h says what the
// file holds, rule.h which form a layer takes, plan_float.h and plan_int8.h what the types need.

#ifndef DBF_EXPORT_PLAN_PLAN_H_
#define DBF_EXPORT_PLAN_PLAN_H_

#include "plan/layer.h"
#include "plan/plan_float.h"
#include "plan/plan_int8.h"
#include "plan/rule.h"

typedef struct DbfPlan {
  DbfRule rule;
  union {  // rule.form says which of them there is
    DbfPlanFloat floats;
    DbfPlanInt8 int8;
  };
  size_t raw;           // raw features of a pixel: 32-bit numbers, of which an int8 layer's hold
                        // several features
  DbfLineOp* copy_ops;  // the identity of all raw lines
  size_t packed_bytes;  // of the packed coefficients
} DbfPlan;

// Makes the plan of a layer. Sets *error to NULL, or on failure returns NULL and sets *error to a
// constant message: sizes out of range or overflowing, codes that do not match num_codes, no
// memory. Nothing of `layer` is kept.
DbfPlan* DbfPlanCreate(const DbfLayer* layer, const DbfKernels* kernels, const char** error);

void DbfPlanFree(DbfPlan* plan);

#endif  // DBF_EXPORT_PLAN_PLAN_H_
