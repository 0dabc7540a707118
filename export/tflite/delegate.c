// The library as a TFLite external delegate: claims every DBFConv2D and DBFDense node.
//
// Each node is claimed by a call of its own, so that each becomes a delegate node of its own and
// all tensors between them stay where the runtime plans memory. (Claimed in one call, neighbours
// would be merged into one node, whose inner tensors get no memory.)

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dbf_op.h"
#include "support/checked.h"
#include "tflite/layouts.h"
#include "tflite/op.h"
#include "tflite/tflite_abi.h"

typedef struct DbfDelegate {
  TfLiteDelegate base;  // first, so that a pointer to it is a pointer to this
  const DbfKernels* kernels;
} DbfDelegate;

// The op of a claimed node and the tensors of the original node, in its order.
typedef struct Claimed {
  DbfOp* op;
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
} Claimed;

static TfLiteIntArray* Copy(const TfLiteIntArray* list) {
  const size_t bytes = sizeof(*list) + (size_t)list->size * sizeof(list->data[0]);
  TfLiteIntArray* copy = malloc(bytes);
  if (copy != NULL) memcpy(copy, list, bytes);
  return copy;
}

static void FreeClaimed(TfLiteContext* context, void* user_data) {
  (void)context;
  Claimed* claimed = user_data;
  if (claimed == NULL) return;
  DbfOpFree(claimed->op);
  free(claimed->inputs);
  free(claimed->outputs);
  free(claimed);
}

// Makes what a claimed node needs. Returns NULL if there is no memory or the runtime does not do as
// documented; preparing then fails.
static void* InitClaimed(TfLiteContext* context, const char* buffer, size_t length) {
  (void)length;
  const TfLiteDelegateParams* params = (const TfLiteDelegateParams*)buffer;
  const DbfDelegate* delegate = (const DbfDelegate*)params->delegate;
  TfLiteNode* node;
  TfLiteRegistration* registration;
  DbfOpType type;
  if (params->nodes_to_replace->size != 1 ||
      context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node,
                                      &registration) != kTfLiteOk ||
      !DbfOpTypeOf(registration->custom_name, &type)) {
    return NULL;
  }
  Claimed* claimed = DbfAllocate(1, sizeof(*claimed));
  if (claimed == NULL) return NULL;
  const size_t size =
      node->custom_initial_data_size > 0 ? (size_t)node->custom_initial_data_size : 0;
  claimed->op = DbfOpCreate(type, node->custom_initial_data, size, delegate->kernels);
  claimed->inputs = Copy(node->inputs);
  claimed->outputs = Copy(node->outputs);
  if (claimed->op != NULL && claimed->inputs != NULL && claimed->outputs != NULL) return claimed;
  FreeClaimed(context, claimed);
  return NULL;
}

static TfLiteStatus PrepareClaimed(TfLiteContext* context, TfLiteNode* node) {
  const Claimed* claimed = node->user_data;
  if (claimed == NULL) return DbfOpPrepare(NULL, context, NULL, NULL);
  return DbfOpPrepare(claimed->op, context, claimed->inputs, claimed->outputs);
}

static TfLiteStatus InvokeClaimed(TfLiteContext* context, TfLiteNode* node) {
  const Claimed* claimed = node->user_data;
  return DbfOpInvoke(claimed->op, context);
}

static const char* ProfileClaimed(const TfLiteContext* context, const TfLiteNode* node) {
  (void)context;
  const Claimed* claimed = node->user_data;
  return claimed != NULL ? DbfOpProfile(claimed->op) : "";
}

// Tells whether any node of a plan is ours, and whether each reads only what nodes before it write.
// Runtimes do not look, and read outside their own memory when they cut a plan that is otherwise.
// Returns kTfLiteError, after a report, if not or if there is no memory.
static TfLiteStatus CheckPlan(TfLiteContext* context, const TfLiteIntArray* plan, bool* ours) {
  *ours = false;
  const char* error = NULL;
  // By tensor: how many nodes of the plan come before the end of the first that writes it, or 0.
  int* written = DbfAllocate(context->tensors_size, sizeof(*written));
  if (written == NULL) error = "out of memory";
  TfLiteNode* node;
  TfLiteRegistration* registration;
  DbfOpType type;
  for (int reads = 0; reads < 2; ++reads) {
    for (int i = 0; error == NULL && i < plan->size; ++i) {
      if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) !=
          kTfLiteOk) {
        error = "the runtime does not know a node of its plan";
        break;
      }
      *ours = *ours || DbfOpTypeOf(registration->custom_name, &type);
      const TfLiteIntArray* tensors = reads ? node->inputs : node->outputs;
      for (int t = 0; error == NULL && t < tensors->size; ++t) {
        const int tensor = tensors->data[t];
        if (tensor < 0 || (size_t)tensor >= context->tensors_size) continue;
        if (!reads && written[tensor] == 0) written[tensor] = i + 1;
        if (reads && written[tensor] == i + 1) error = "the output of an op is also an input";
        if (reads && written[tensor] > i + 1) error = "an op reads what a later one writes";
      }
    }
  }
  free(written);
  if (error == NULL || !*ours) return kTfLiteOk;
  context->ReportError(context, "DBF delegate: %s. ", error);
  return kTfLiteError;
}

static TfLiteStatus PrepareDelegate(TfLiteContext* context, TfLiteDelegate* delegate) {
  const TfLiteRegistration registration = {
      .init = InitClaimed,
      .free = FreeClaimed,
      .prepare = PrepareClaimed,
      .invoke = InvokeClaimed,
      .profiling_string = ProfileClaimed,
      .custom_name = "DBFDelegate",
      .version = 1,
  };
  const char* strange = DbfLayoutError(context);
  if (strange != NULL) {
    static const char kMessage[] =
        "DBF delegate: the %s of this runtime is not laid out as in TensorFlow Lite up to 2.21 and "
        "LiteRT up to 2.3; use one of these. ";
    if (strcmp(strange, "TfLiteContext") != 0) {
      context->ReportError(context, kMessage, strange);
    } else {  // Its function for errors may lie elsewhere.
      dprintf(2, kMessage, strange);
    }
    return kTfLiteError;
  }
  TfLiteIntArray* plan;
  bool ours;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  if (CheckPlan(context, plan, &ours) != kTfLiteOk) return kTfLiteError;
  if (!ours) return kTfLiteOk;
  plan = Copy(plan);  // the runtime changes its own while nodes are claimed
  TfLiteIntArray* one = malloc(sizeof(*one) + sizeof(one->data[0]));
  TfLiteStatus status = plan != NULL && one != NULL ? kTfLiteOk : kTfLiteError;
  for (int i = 0; status == kTfLiteOk && i < plan->size; ++i) {
    TfLiteNode* node;
    TfLiteRegistration* node_registration;
    DbfOpType type;
    status = context->GetNodeAndRegistration(context, plan->data[i], &node, &node_registration);
    if (status != kTfLiteOk || !DbfOpTypeOf(node_registration->custom_name, &type)) continue;
    one->size = 1;
    one->data[0] = plan->data[i];
    status = context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, one, delegate);
  }
  free(plan);
  free(one);
  return status;
}

static TfLiteDelegate* Create(const DbfKernels* kernels) {
  DbfDelegate* delegate = DbfAllocate(1, sizeof(*delegate));
  if (delegate == NULL) return NULL;
  delegate->base.Prepare = PrepareDelegate;
  delegate->base.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  delegate->kernels = kernels;
  return &delegate->base;
}

TfLiteDelegate* dbf_delegate_create(void) { return Create(DbfKernelsChosen()); }

void dbf_delegate_destroy(TfLiteDelegate* delegate) { free(delegate); }

// The functions that runtimes look for in libraries of external delegates.

// Makes a delegate. The one option is "isa": the instruction set to use, see dbf_set_isa. Returns
// NULL, after report_error (if not NULL), for other options or an instruction set that this
// processor lacks.
DBF_EXPORT TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values,
                                                         size_t num_options,
                                                         void (*report_error)(const char*));
DBF_EXPORT void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*)) {
  const char* error = NULL;
  const DbfKernels* kernels = DbfKernelsChosen();
  for (size_t i = 0; i < num_options; ++i) {
    if (strcmp(keys[i], "isa") != 0) {
      error = "unknown option: the DBF delegate knows only isa";
    } else if ((kernels = DbfKernelsFind(values[i])) == NULL) {
      error =
          "isa is unknown or this processor lacks it: use avx512vnni, avx512, avx2, neondot, neon "
          "or "
          "baseline";
    }
  }
  TfLiteDelegate* delegate = error == NULL ? Create(kernels) : NULL;
  if (delegate == NULL && report_error != NULL) {
    report_error(error != NULL ? error : "out of memory");
  }
  return delegate;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) { dbf_delegate_destroy(delegate); }
