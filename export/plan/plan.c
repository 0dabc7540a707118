#include "plan/plan.h"

#include <stdlib.h>

#include "support/checked.h"

// Makes the part of the plan that depends on the layer's type. Returns an error message, or NULL.
static const char* PlanType(DbfPlan* plan, const DbfColumns* columns,
                            const DbfPooledLayer* pooled) {
  const DbfRule* rule = &plan->rule;
  size_t depth;  // of the gemm, in numbers of 4 bytes
  if (rule->form == kDbfFormInt8) {
    const char* error = DbfPlanInt8Make(rule, columns, pooled, &plan->int8);
    if (error != NULL) return error;
    plan->raw = plan->int8.full_elements;
    depth = plan->int8.elements;
  } else {
    if (!DbfPlanFloatMake(rule, columns, &pooled->layer, &plan->floats)) return "out of memory";
    plan->raw = rule->full;
    depth = rule->depth;
  }
  plan->packed_bytes = depth * rule->padded_filters * sizeof(float);
  const size_t raw_lines = (rule->patch > 0 ? rule->patch : rule->kernel_w) * plan->raw;
  plan->copy_ops = DbfAllocate(raw_lines, sizeof(*plan->copy_ops));
  if (plan->copy_ops == NULL) return "out of memory";
  for (size_t i = 0; i < raw_lines; ++i) plan->copy_ops[i].source = (int32_t)i;
  return NULL;
}

DbfPlan* DbfPlanCreate(const DbfLayer* layer, const DbfKernels* kernels, const char** error) {
  *error = DbfLayerCheck(layer);
  if (*error != NULL) return NULL;
  DbfPooledLayer pooled;
  *error = DbfTakePools(layer, &pooled);
  if (*error != NULL) return NULL;
  *error = "out of memory";
  DbfPlan* plan = DbfAllocate(1, sizeof(*plan));
  if (plan != NULL) {
    DbfColumns columns;
    if (DbfRuleApply(&pooled, kernels, &plan->rule, &columns)) {
      *error = PlanType(plan, &columns, &pooled);
    }
    DbfColumnsFree(&columns);
  }
  DbfPooledLayerFree(&pooled);
  if (*error == NULL) return plan;
  DbfPlanFree(plan);
  return NULL;
}

void DbfPlanFree(DbfPlan* plan) {
  if (plan == NULL) return;
  if (plan->rule.form == kDbfFormInt8) {
    DbfPlanInt8Free(&plan->int8);
  } else {
    DbfPlanFloatFree(&plan->floats);
  }
  free(plan->copy_ops);
  DbfRuleFree(&plan->rule);
  free(plan);
}
