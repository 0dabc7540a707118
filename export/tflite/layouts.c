#include "tflite/layouts.h"

#include <stdbool.h>
#include <stdint.h>

#include "tflite/op.h"

// More than any runtime has: tensors or nodes of a model, inputs of a node, dimensions, threads,
// and numbers of types, kinds of memory, versions and built-in ops.
enum {
  kMostTensors = 1 << 24,
  kMostInputs = 1 << 16,
  kMostDims = 8,
  kMostThreads = 1 << 16,
  kMostKinds = 1 << 10
};

// No object lies in the first page of memory, nor at an odd address.
static bool IsPointer(const void* pointer) {
  return (uintptr_t)pointer >= 4096 && (uintptr_t)pointer % sizeof(int) == 0;
}

// Functions may lie anywhere but there.
static bool IsFunction(void (*function)(void)) { return (uintptr_t)function >= 4096; }

static bool IsContext(const TfLiteContext* context) {
  return context->tensors_size <= kMostTensors &&
         (context->tensors_size == 0 || IsPointer(context->tensors)) &&
         context->recommended_num_threads >= -1 &&
         context->recommended_num_threads <= kMostThreads &&
         IsFunction((void (*)(void))context->GetExecutionPlan) &&
         IsFunction((void (*)(void))context->ResizeTensor) &&
         IsFunction((void (*)(void))context->ReportError) &&
         IsFunction((void (*)(void))context->GetNodeAndRegistration) &&
         IsFunction((void (*)(void))context->ReplaceNodeSubsetsWithDelegateKernels);
}

static bool IsTensor(const TfLiteTensor* tensor) {
  return (unsigned)tensor->type < kMostKinds && (unsigned)tensor->allocation_type < kMostKinds &&
         (tensor->dims == NULL || (IsPointer(tensor->dims) && tensor->dims->size >= 0 &&
                                   tensor->dims->size <= kMostDims)) &&
         (tensor->name == NULL || (uintptr_t)tensor->name >= 4096);
}

// Whether a list is one of a node's tensors, and these, if the node is ours, are tensors.
static bool AreTensors(const TfLiteContext* context, const TfLiteIntArray* list, bool ours) {
  if (!IsPointer(list) || list->size < 0 || list->size > kMostInputs) return false;
  for (int i = 0; ours && i < list->size; ++i) {
    const int tensor = list->data[i];
    if (tensor >= 0 && (size_t)tensor < context->tensors_size &&
        !IsTensor(&context->tensors[tensor])) {
      return false;
    }
  }
  return true;
}

const char* DbfLayoutError(TfLiteContext* context) {
  if (!IsContext(context)) return "TfLiteContext";
  TfLiteIntArray* plan = NULL;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return NULL;  // an error of its own
  if (!IsPointer(plan) || plan->size < 0 || plan->size > kMostTensors) return "TfLiteIntArray";
  for (int i = 0; i < plan->size; ++i) {
    TfLiteNode* node = NULL;
    TfLiteRegistration* registration = NULL;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) !=
        kTfLiteOk) {
      return NULL;
    }
    if (!IsPointer(registration) || (uint32_t)registration->builtin_code >= kMostKinds ||
        (uint32_t)registration->version >= kMostKinds ||
        (registration->custom_name != NULL && (uintptr_t)registration->custom_name < 4096)) {
      return "TfLiteRegistration";
    }
    DbfOpType type;
    const bool ours = DbfOpTypeOf(registration->custom_name, &type);
    if (!IsPointer(node) || !AreTensors(context, node->inputs, false) ||
        !AreTensors(context, node->outputs, false) ||
        (ours &&
         (node->custom_initial_data_size < 0 ||
          (node->custom_initial_data_size > 0 && (uintptr_t)node->custom_initial_data < 4096)))) {
      return "TfLiteNode";
    }
    if (!AreTensors(context, node->inputs, ours) || !AreTensors(context, node->outputs, ours)) {
      return "TfLiteTensor";
    }
  }
  return NULL;
}
