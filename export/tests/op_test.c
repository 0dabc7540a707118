// The TFLite side with a made-up runtime: the registrations and the delegate on good, wrong and
// hostile models.

#include "tflite/op.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "dbf_op.h"
#include "tests/coding.h"
#include "tests/testing.h"
#include "tflite/layouts.h"

TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t num_options,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

enum { kInput, kAlpha, kBias, kOutput, kNumTensors };

// A runtime with one node. The context comes first, so that a pointer to it is a pointer to this.
typedef struct Runtime {
  TfLiteContext context;
  TfLiteTensor tensors[kNumTensors];
  TfLiteNode node;
  TfLiteRegistration registration;  // of the node: only its custom name
  TfLiteNode claimed;               // the delegate's node
  TfLiteRegistration claim;
  TfLiteAffineQuantizationParams quantization[3];
  TfLiteIntArray* plan;
  uint8_t options[2048];
  char message[256];
  int num_claims;
  void* node_at;          // NULL: `node`
  void* registration_at;  // NULL: `registration`
} Runtime;

static TfLiteIntArray* Ints(int count, ...) {
  TfLiteIntArray* list = malloc(sizeof(*list) + (size_t)count * sizeof(int));
  list->size = count;
  va_list arguments;
  va_start(arguments, count);
  for (int i = 0; i < count; ++i) list->data[i] = va_arg(arguments, int);
  va_end(arguments);
  return list;
}

// Gives the tensor memory of exactly its size.
static void Allocate(TfLiteTensor* tensor) {
  size_t count = 1;
  for (int i = 0; i < tensor->dims->size; ++i) count *= tensor->dims->data[i];
  tensor->bytes = tensor->type == kTfLiteInt4      ? (count + 1) / 2
                  : tensor->type == kTfLiteInt8    ? count
                  : tensor->type == kTfLiteUInt8   ? count
                  : tensor->type == kTfLiteFloat16 ? 2 * count
                                                   : count * sizeof(float);
  free(tensor->data);
  tensor->data = malloc(tensor->bytes > 0 ? tensor->bytes : 1);
  for (size_t i = 0; i < tensor->bytes; ++i) ((uint8_t*)tensor->data)[i] = 0;
  for (size_t i = 0; tensor->type == kTfLiteFloat32 && i < count; ++i)
    ((float*)tensor->data)[i] = RandomNormal();
}

static void SetDims(TfLiteTensor* tensor, TfLiteIntArray* dims) {
  free(tensor->dims);
  tensor->dims = dims;
  Allocate(tensor);
}

static TfLiteStatus ResizeTensor(TfLiteContext* context, TfLiteTensor* tensor,
                                 TfLiteIntArray* dims) {
  (void)context;
  size_t count = 1;
  for (int i = 0; i < dims->size; ++i) count *= dims->data[i];
  if (tensor->allocation_type == kTfLiteMmapRo || count > 1 << 24) {
    free(dims);
    return kTfLiteError;
  }
  SetDims(tensor, dims);
  return kTfLiteOk;
}

static void ReportError(TfLiteContext* context, const char* message, ...) {
  va_list arguments;
  va_start(arguments, message);
  vsnprintf(((Runtime*)context)->message, sizeof(((Runtime*)context)->message), message, arguments);
  va_end(arguments);
}

static TfLiteStatus GetExecutionPlan(TfLiteContext* context, TfLiteIntArray** plan) {
  *plan = ((Runtime*)context)->plan;
  return kTfLiteOk;
}

static TfLiteStatus GetNodeAndRegistration(TfLiteContext* context, int index, TfLiteNode** node,
                                           TfLiteRegistration** registration) {
  Runtime* runtime = (Runtime*)context;
  if (index != 0) return kTfLiteError;
  *node = runtime->node_at != NULL ? runtime->node_at : &runtime->node;
  *registration =
      runtime->registration_at != NULL ? runtime->registration_at : &runtime->registration;
  return kTfLiteOk;
}

static TfLiteStatus Replace(TfLiteContext* context, TfLiteRegistration registration,
                            const TfLiteIntArray* nodes, TfLiteDelegate* delegate) {
  Runtime* runtime = (Runtime*)context;
  TfLiteIntArray* copy = Ints(1, nodes->data[0]);
  TfLiteDelegateParams params = {delegate, copy, NULL, NULL};
  ++runtime->num_claims;
  runtime->claim = registration;
  runtime->claimed.user_data = registration.init(context, (const char*)&params, 0);
  free(copy);
  return kTfLiteOk;
}

// A good model: 3 x 3, 6 channels, 5 filters, 20 codes of 54.
typedef struct Model {
  uint8_t codes[7];
  Entry entries[16];
  size_t num_entries;
} Model;

static Model GoodModel(bool dense) {
  Model model = {.codes = {0xff, 0x0f, 0, 0, 0xaa, 0xaa, 0}};  // 20 codes
  const Entry conv[] = {
      {"version", 1, NULL, 0},    {"channels", 6, NULL, 0}, {"activation", 1, NULL, 0},
      {"codes", 0, NULL, 7},      {"kernel_h", 3, NULL, 0}, {"kernel_w", 3, NULL, 0},
      {"stride_h", 1, NULL, 0},   {"stride_w", 2, NULL, 0}, {"dilation_h", 1, NULL, 0},
      {"dilation_w", 1, NULL, 0}, {"padding", 0, NULL, 0},
  };
  const Entry fully[] = {{"version", 1, NULL, 0},
                         {"channels", 30, NULL, 0},
                         {"activation", 0, NULL, 0},
                         {"codes", 0, NULL, 4},
                         {"keep_num_dims", 0, NULL, 0}};
  model.num_entries = dense ? sizeof(fully) / sizeof(Entry) : sizeof(conv) / sizeof(Entry);
  memcpy(model.entries, dense ? fully : conv, model.num_entries * sizeof(Entry));
  return model;
}

static Entry* Find(Model* model, const char* key) {
  for (size_t i = 0; i < model->num_entries; ++i) {
    if (strcmp(model->entries[i].key, key) == 0) return &model->entries[i];
  }
  CHECK(false, "no option %s", key);
  return NULL;
}

// Makes a runtime for the model; tensors as FORMAT.md says. To be changed by the tests before
// Prepare.
static Runtime* NewRuntime(Model* model, bool dense) {
  Runtime* runtime = calloc(1, sizeof(*runtime));
  const int codes = dense ? 12 : 20;  // bits of the first 4 or 7 bytes
  runtime->context = (TfLiteContext){
      .tensors_size = kNumTensors,
      .GetExecutionPlan = GetExecutionPlan,
      .tensors = runtime->tensors,
      .ResizeTensor = ResizeTensor,
      .ReportError = ReportError,
      .GetNodeAndRegistration = GetNodeAndRegistration,
      .ReplaceNodeSubsetsWithDelegateKernels = Replace,
      .recommended_num_threads = 1,
  };
  for (int i = 0; i < kNumTensors; ++i) runtime->tensors[i].type = kTfLiteFloat32;
  SetDims(&runtime->tensors[kInput], dense ? Ints(3, 2, 2, 30) : Ints(4, 2, 7, 8, 6));
  SetDims(&runtime->tensors[kAlpha], Ints(2, 5, codes));
  SetDims(&runtime->tensors[kBias], Ints(1, 5));
  SetDims(&runtime->tensors[kOutput], Ints(1, 1));
  runtime->tensors[kInput].allocation_type = runtime->tensors[kOutput].allocation_type =
      kTfLiteArenaRw;
  runtime->tensors[kAlpha].allocation_type = runtime->tensors[kBias].allocation_type =
      kTfLiteMmapRo;
  runtime->node.inputs = Ints(3, kInput, kAlpha, kBias);
  runtime->node.outputs = Ints(1, kOutput);
  runtime->registration.custom_name = dense ? "DBFDense" : "DBFConv2D";
  runtime->registration.builtin_code = 32;
  runtime->registration.version = 1;
  runtime->plan = Ints(1, 0);
  for (size_t i = 0; i < model->num_entries; ++i) {
    if (model->entries[i].blob_size > 0 && model->entries[i].blob == NULL) {
      model->entries[i].blob = model->codes;
    }
  }
  runtime->node.custom_initial_data_size =
      (int)WriteMap(model->entries, model->num_entries, runtime->options);
  runtime->node.custom_initial_data = runtime->options;
  return runtime;
}

static void FreeRuntime(Runtime* runtime) {
  for (int i = 0; i < kNumTensors; ++i) {
    free(runtime->tensors[i].data);
    free(runtime->tensors[i].dims);
  }
  free(runtime->node.inputs);
  free(runtime->node.outputs);
  free(runtime->plan);
  for (int i = 0; i < 3; ++i) {
    free(runtime->quantization[i].scale);
    free(runtime->quantization[i].zero_point);
  }
  free(runtime);
}

// Prepares and invokes the node through its registration, with options in memory of exactly their
// size.
static TfLiteStatus TryNode(Runtime* runtime) {
  const size_t size = (size_t)runtime->node.custom_initial_data_size;
  char* options = malloc(size > 0 ? size : 1);
  memcpy(options, runtime->node.custom_initial_data, size);
  const TfLiteRegistration* registration =
      strcmp(runtime->registration.custom_name, "DBFDense") == 0 ? dbf_dense_registration()
                                                                 : dbf_conv2d_registration();
  TfLiteContext* context = &runtime->context;
  TfLiteNode node = runtime->node;
  node.user_data = registration->init(context, options, size);
  free(options);  // nothing may point to them any more
  TfLiteStatus status = registration->prepare(context, &node);
  if (status == kTfLiteOk) status = registration->invoke(context, &node);
  registration->free(context, node.user_data);
  CHECK((status == kTfLiteOk) == (runtime->message[0] == 0), "status %d, message %s", status,
        runtime->message);
  return status;
}

// The output against the definition.
static void CheckOutput(const Runtime* runtime, bool dense, int rank) {
  TestLayer test = {.layer = {3, 3, 1, 2, 1, 1, 6, 5, true, kDbfRelu, .bias = NULL}};
  Model model = GoodModel(dense);
  if (dense) {
    test.layer = (DbfLayer){1, 1, 1, 1, 1, 1, 30, 5, true, kDbfNone, .bias = NULL};
  }
  const TfLiteTensor* input = &runtime->tensors[kInput];
  const TfLiteTensor* output = &runtime->tensors[kOutput];
  test.layer.codes = model.codes;
  test.layer.num_codes = dense ? 12 : 20;
  test.layer.alpha_float = runtime->tensors[kAlpha].data;
  test.layer.bias = runtime->tensors[kBias].data;
  const Images images = dense ? (Images){1, 1, 4} : (Images){2, 7, 8};
  int out_h, out_w;
  double largest;
  double* filters = Filters(&test.layer);
  double* expected = Reference(&test.layer, filters, input->data, images, &out_h, &out_w, &largest);
  CHECK(output->dims->size == rank, "rank %d", output->dims->size);
  CHECK(output->bytes == sizeof(float) * images.batch * out_h * out_w * 5, "%zu bytes",
        output->bytes);
  for (size_t i = 0; i < output->bytes / sizeof(float); ++i) {
    const double difference = fabs(((const float*)output->data)[i] - expected[i]);
    CHECK(difference < 1e-4, "output %zu: error %g", i, difference);
  }
  free(filters);
  free(expected);
}

static void TestGood(void) {
  for (int dense = 0; dense < 2; ++dense) {
    Model model = GoodModel(dense);
    Runtime* runtime = NewRuntime(&model, dense);
    CHECK(TryNode(runtime) == kTfLiteOk, "%s", runtime->message);
    CheckOutput(runtime, dense, dense ? 2 : 4);
    FreeRuntime(runtime);
  }
  Model model = GoodModel(true);
  Find(&model, "keep_num_dims")->value = 1;
  Runtime* runtime = NewRuntime(&model, true);
  CHECK(TryNode(runtime) == kTfLiteOk, "%s", runtime->message);
  CheckOutput(runtime, true, 3);
  FreeRuntime(runtime);
}

static void TestDelegate(void) {
  CHECK(dbf_set_isa("baseline") && !dbf_set_isa("mmx") && dbf_set_isa(NULL), "dbf_set_isa");
  char *isa = "isa", *baseline = "baseline", *other = "other";
  CHECK(tflite_plugin_create_delegate(&isa, &other, 1, NULL) == NULL, "an unknown instruction set");
  CHECK(tflite_plugin_create_delegate(&other, &baseline, 1, NULL) == NULL, "an unknown option");
  TfLiteDelegate* delegate = tflite_plugin_create_delegate(&isa, &baseline, 1, NULL);
  CHECK(delegate != NULL && delegate->flags & kTfLiteDelegateFlagsAllowDynamicTensors, "flags");
  Model model = GoodModel(false);
  Runtime* runtime = NewRuntime(&model, false);
  runtime->registration.custom_name = "Other";
  CHECK(delegate->Prepare(&runtime->context, delegate) == kTfLiteOk && runtime->num_claims == 0,
        "not ours");
  runtime->registration.custom_name = NULL;
  CHECK(delegate->Prepare(&runtime->context, delegate) == kTfLiteOk && runtime->num_claims == 0,
        "no name");
  runtime->registration.custom_name = "DBFConv2D";
  CHECK(delegate->Prepare(&runtime->context, delegate) == kTfLiteOk && runtime->num_claims == 1,
        "ours");
  // Ours, but it reads what it writes, which the runtime's own cutting of plans cannot bear.
  int* inputs = runtime->node.inputs->data;
  for (int i = 0; i < 3; ++i) {
    const int kept = inputs[i];
    inputs[i] = kOutput;
    runtime->message[0] = 0;
    CHECK(delegate->Prepare(&runtime->context, delegate) == kTfLiteError &&
              runtime->message[0] != 0 && runtime->num_claims == 1,
          "input %d is the output", i);
    inputs[i] = kept;
  }
  runtime->message[0] = 0;
  // Resized between invokes.
  TfLiteContext* context = &runtime->context;
  CHECK(runtime->claim.prepare(context, &runtime->claimed) == kTfLiteOk, "%s", runtime->message);
  SetDims(&runtime->tensors[kInput], Ints(4, 1, 3, 3, 6));
  CHECK(runtime->claim.invoke(context, &runtime->claimed) == kTfLiteError,
        "resized but not prepared");
  for (int round = 0; round < 2; ++round) {
    CHECK(runtime->claim.prepare(context, &runtime->claimed) == kTfLiteOk, "%s", runtime->message);
    CHECK(runtime->claim.invoke(context, &runtime->claimed) == kTfLiteOk, "%s", runtime->message);
    SetDims(&runtime->tensors[kInput], Ints(4, 2, 7, 8, 6));
  }
  CHECK(runtime->claim.prepare(context, &runtime->claimed) == kTfLiteOk, "%s", runtime->message);
  CHECK(runtime->claim.invoke(context, &runtime->claimed) == kTfLiteOk, "%s", runtime->message);
  CheckOutput(runtime, false, 4);
  size_t packed, scratch;
  dbf_memory(&packed, &scratch);
  CHECK(packed == sizeof(float) * 20 * 8, "5 filters take two vectors of 4: %zu bytes", packed);
  char expected[96];
  snprintf(expected, sizeof(expected), "DBFConv2D baseline float32 packed=%zu scratch=%zu", packed,
           scratch);
  const char* profile = runtime->claim.profiling_string(context, &runtime->claimed);
  CHECK(strcmp(profile, expected) == 0, "%s", profile);
  runtime->claim.free(context, runtime->claimed.user_data);
  dbf_memory(&packed, &scratch);
  CHECK(packed == 0 && scratch == 0, "%zu, %zu bytes are not given back", packed, scratch);
  tflite_plugin_destroy_delegate(delegate);
  FreeRuntime(runtime);
}

// One thing wrong with the options.
// A copy of a struct behind a field that a later release might put first.
static void* Shifted(const void* original, size_t size, uintptr_t field) {
  char* copy = malloc(sizeof(field) + size);
  memcpy(copy, &field, sizeof(field));
  memcpy(copy + sizeof(field), original, size);
  return copy;
}

// Runtimes whose structs are laid out otherwise.
static void TestLayouts(void) {
  TfLiteDelegate* delegate = dbf_delegate_create();
  Model model = GoodModel(false);
  Runtime* runtime = NewRuntime(&model, false);
  TfLiteContext* context = &runtime->context;
  CHECK(DbfLayoutError(context) == NULL, "%s", DbfLayoutError(context));
  const uintptr_t fields[] = {0, 1, 64, (uintptr_t)"a string", (uintptr_t)context};
  for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); ++i) {
    TfLiteContext* shifted = Shifted(context, sizeof(*context), fields[i]);
    const char* error = DbfLayoutError(shifted);
    CHECK(error != NULL && strcmp(error, "TfLiteContext") == 0, "context, field %zu", i);
    CHECK(delegate->Prepare(shifted, delegate) == kTfLiteError, "context, field %zu", i);
    free(shifted);

    runtime->node_at = Shifted(&runtime->node, sizeof(runtime->node), fields[i]);
    error = DbfLayoutError(context);
    CHECK(error != NULL && strcmp(error, "TfLiteNode") == 0, "node, field %zu", i);
    free(runtime->node_at);
    runtime->node_at = NULL;

    runtime->registration_at =
        Shifted(&runtime->registration, sizeof(runtime->registration), fields[i]);
    error = DbfLayoutError(context);
    CHECK(error != NULL && strcmp(error, "TfLiteRegistration") == 0, "registration, field %zu", i);
    CHECK(delegate->Prepare(context, delegate) == kTfLiteError &&
              strstr(runtime->message, "the TfLiteRegistration of this runtime is not") != NULL,
          "%s", runtime->message);
    free(runtime->registration_at);
    runtime->registration_at = NULL;

    // Tensors that are longer by a field: all but the first are found where they are not.
    const size_t size = sizeof(TfLiteTensor) + sizeof(fields[i]);
    char* tensors = malloc(kNumTensors * size);
    for (int t = 0; t < kNumTensors; ++t) {
      memcpy(tensors + t * size, &runtime->tensors[t], sizeof(TfLiteTensor));
      memcpy(tensors + t * size + sizeof(TfLiteTensor), &fields[i], sizeof(fields[i]));
    }
    context->tensors = (TfLiteTensor*)tensors;
    error = DbfLayoutError(context);
    CHECK(error != NULL && strcmp(error, "TfLiteTensor") == 0, "tensors, field %zu", i);
    context->tensors = runtime->tensors;
    free(tensors);
  }
  CHECK(delegate->Prepare(context, delegate) == kTfLiteOk, "%s", runtime->message);
  runtime->claim.free(context, runtime->claimed.user_data);
  FreeRuntime(runtime);
  dbf_delegate_destroy(delegate);
}

static void TestBadOptions(void) {
  const struct {
    const char* key;
    int64_t value;
  } bad[] = {
      {"version", 0},          {"version", 2},
      {"channels", 0},         {"channels", 5},
      {"channels", -6},        {"channels", 1LL << 40},
      {"activation", 4},       {"activation", -1},
      {"kernel_h", 0},         {"kernel_h", 2},
      {"kernel_w", INT32_MAX}, {"kernel_w", 1LL << 32 | 3},
      {"stride_h", 0},         {"stride_w", -1},
      {"dilation_h", 0},       {"dilation_w", INT32_MAX},
      {"dilation_h", 1 << 30}, {"padding", 2},
      {"padding", INT64_MIN},
  };
  for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
    Model model = GoodModel(false);
    Find(&model, bad[i].key)->value = bad[i].value;
    Runtime* runtime = NewRuntime(&model, false);
    CHECK(TryNode(runtime) == kTfLiteError, "%s = %lld", bad[i].key, (long long)bad[i].value);
    FreeRuntime(runtime);
  }
  for (int dense = 0; dense < 2; ++dense) {
    const Model good = GoodModel(dense);
    for (size_t i = 0; i < good.num_entries; ++i) {
      for (int change = 0; change < 4;
           ++change) {  // a missing, doubled, unknown or mistyped option
        Model model = good;
        if (change == 0) model.entries[i] = model.entries[--model.num_entries];
        if (change == 1) model.entries[model.num_entries++] = model.entries[i];
        if (change == 2) model.entries[i].key = dense ? "padding" : "keep_num_dims";
        if (change == 3) model.entries[i].blob_size = model.entries[i].blob_size == 0 ? 1 : 0;
        Runtime* runtime = NewRuntime(&model, dense);
        CHECK(TryNode(runtime) == kTfLiteError, "change %d of %s", change, good.entries[i].key);
        FreeRuntime(runtime);
      }
    }
  }
  Model model = GoodModel(false);
  model.codes[6] = 0x80;  // past the grid, instead of another
  model.codes[0] = 0x7f;
  Runtime* runtime = NewRuntime(&model, false);
  CHECK(TryNode(runtime) == kTfLiteError, "a code past the grid");
  FreeRuntime(runtime);
}

// One thing wrong with the tensors. `Change` number i of a runtime; returns its name, or NULL if
// there is none.
static const char* Change(Runtime* runtime, int i) {
  TfLiteTensor *input = &runtime->tensors[kInput], *alpha = &runtime->tensors[kAlpha],
               *bias = &runtime->tensors[kBias];
  int* inputs = runtime->node.inputs->data;
  switch (i) {
    case 0:
      return SetDims(input, Ints(3, 7, 8, 6)), "rank 3";
    case 1:
      return SetDims(input, Ints(4, 2, 7, 8, 5)), "5 channels";
    case 2:
      return SetDims(input, Ints(0)), "a scalar";
    case 3:
      return input->type = kTfLiteInt8, "int8 input";
    case 4:
      return runtime->tensors[kOutput].type = kTfLiteInt8, "int8 output";
    case 5:
      return SetDims(alpha, Ints(2, 5, 19)), "too few columns";
    case 6:
      return SetDims(alpha, Ints(2, 0, 20)), "no filters";
    case 7:
      return SetDims(alpha, Ints(1, 100)), "alpha of rank 1";
    case 8:
      return alpha->bytes -= 4, "a short buffer";
    case 9:
      return alpha->allocation_type = kTfLiteMemNone, "alpha computed";
    case 10:
      return alpha->type = kTfLiteNoType, "alpha of no type";
    case 11:
      return SetDims(bias, Ints(1, 4)), "a short bias";
    case 12:
      return SetDims(bias, Ints(2, 1, 5)), "a bias of rank 2";
    case 13:
      return bias->type = kTfLiteInt8, "int8 bias";
    case 14:
      return bias->allocation_type = kTfLiteMemNone, "bias computed";
    case 15:
      return inputs[0] = -1, "no input";
    case 16:
      return inputs[1] = kNumTensors, "alpha out of range";
    case 17:
      return inputs[2] = -2, "bias out of range";
    case 18:
      return runtime->node.inputs->size = 1, "one input";
    case 19:
      return runtime->node.outputs->size = 0, "no output";
    case 20:
      return runtime->node.outputs->data[0] = kAlpha, "output over alpha";
    case 21:
      return runtime->node.custom_initial_data_size = 0, "no options";
    case 22:
      return alpha->type = kTfLiteInt8, Allocate(alpha), "int8 alpha without scales";
    case 23:
      return input->dims->data[1] = -7, "a negative size";
    default:
      return NULL;
  }
}

static void TestBadTensors(void) {
  for (int i = 0;; ++i) {
    Model model = GoodModel(false);
    Runtime* runtime = NewRuntime(&model, false);
    const char* name = Change(runtime, i);
    if (name != NULL) CHECK(TryNode(runtime) == kTfLiteError, "%s", name);
    FreeRuntime(runtime);
    if (name == NULL) break;
  }
}

// float16 alpha, which has no scales; whole, and cut short.
static void TestFloat16(void) {
  for (int cut = 0; cut < 2; ++cut) {
    Model model = GoodModel(false);
    Runtime* runtime = NewRuntime(&model, false);
    TfLiteTensor* alpha = &runtime->tensors[kAlpha];
    alpha->type = kTfLiteFloat16;
    Allocate(alpha);
    alpha->bytes -= cut;
    CHECK((TryNode(runtime) == kTfLiteOk) == !cut, "cut by %d: %s", cut, runtime->message);
    FreeRuntime(runtime);
  }
}

// int8 and int4 alpha: scales and zero points, good and bad.
static void TestQuantized(void) {
  const struct {
    int scales, dimension, zero_point;
    bool good;
  } cases[] = {{1, 0, 0, true},  {5, 0, 0, true},  {5, 1, 0, false},
               {4, 0, 0, false}, {0, 0, 0, false}, {1, 0, 3, false}};
  for (size_t j = 0; j < 2 * sizeof(cases) / sizeof(cases[0]); ++j) {
    const size_t i = j / 2;
    Model model = GoodModel(false);
    Runtime* runtime = NewRuntime(&model, false);
    TfLiteTensor* alpha = &runtime->tensors[kAlpha];
    alpha->type = j % 2 ? kTfLiteInt4 : kTfLiteInt8;
    Allocate(alpha);
    TfLiteFloatArray* scale = calloc(1, sizeof(*scale) + 8 * sizeof(float));
    scale->size = cases[i].scales;
    runtime->quantization[0] =
        (TfLiteAffineQuantizationParams){scale, Ints(1, cases[i].zero_point), cases[i].dimension};
    alpha->quantization = (TfLiteQuantization){kTfLiteAffineQuantization, runtime->quantization};
    CHECK((TryNode(runtime) == kTfLiteOk) == cases[i].good, "case %zu: %s", i, runtime->message);
    FreeRuntime(runtime);
  }
}

// A quantisation of one scale and zero point; the caller frees the arrays.
static TfLiteAffineQuantizationParams OneScale(float value, int zero_point) {
  TfLiteFloatArray* scale = malloc(sizeof(*scale) + sizeof(float));
  scale->size = 1;
  scale->data[0] = value;
  return (TfLiteAffineQuantizationParams){scale, Ints(1, zero_point), 0};
}

// Makes the tensors those of an int8 op, or, if `floats`, of a float op with int8 alpha.
static void Quantize(Runtime* runtime, bool floats) {
  const int tensors[] = {kInput, kAlpha, kOutput};
  runtime->quantization[0] = OneScale(0.1f, 3);
  runtime->quantization[1] = OneScale(0.01f, 0);
  runtime->quantization[2] = OneScale(1, -5);
  for (int t = 0; t < 3; ++t) {
    TfLiteTensor* tensor = &runtime->tensors[tensors[t]];
    if (!floats || t == 1) tensor->type = kTfLiteInt8;
    Allocate(tensor);
    tensor->quantization =
        (TfLiteQuantization){kTfLiteAffineQuantization, &runtime->quantization[t]};
  }
  if (!floats) runtime->tensors[kBias].type = kTfLiteInt32;
  Allocate(&runtime->tensors[kBias]);
}

// Int8 ops: what they need besides, one thing wrong at a time.
static void TestInt8(void) {
  enum {
    kGood,
    kNoFeatures,
    kShortFeatures,
    kSumsOfNothing,
    kFloatInput,
    kFloatSums,
    kFloatBias,
    kNoScale,
    kCutAlpha,
    kCases
  };
  const uint8_t sums[2] = {0, 0};
  const uint8_t features[3 * (6 + 20)] = {0};  // all channel codes are partial
  for (int i = 0; i < kCases; ++i) {
    Model model = GoodModel(false);
    const bool floats = i == kFloatInput || i == kFloatSums;
    if (i == kSumsOfNothing || i == kFloatSums) {
      model.entries[model.num_entries++] = (Entry){"sums", 0, sums, sizeof(sums)};
    }
    if (i != kNoFeatures && i != kFloatSums) {
      model.entries[model.num_entries++] =
          (Entry){"features", 0, features, sizeof(features) - (i == kShortFeatures ? 3 : 0)};
    }
    Runtime* runtime = NewRuntime(&model, false);
    Quantize(runtime, floats);
    if (i == kNoScale) runtime->tensors[kInput].quantization = (TfLiteQuantization){0};
    if (i == kFloatBias) runtime->tensors[kBias].type = kTfLiteFloat32;
    if (i == kCutAlpha) --runtime->tensors[kAlpha].bytes;
    CHECK((TryNode(runtime) == kTfLiteOk) == (i == kGood), "case %d: %s", i, runtime->message);
    // Coefficients and bias are 0, so that the output is its zero point, by ReLU the least.
    const TfLiteTensor* output = &runtime->tensors[kOutput];
    for (size_t j = 0; i == kGood && j < output->bytes; ++j) {
      CHECK(((const int8_t*)output->data)[j] == -5, "output %zu", j);
    }
    FreeRuntime(runtime);
  }
}

// Writes the options of version 2 of a good model.
static void WriteCodedOptions(Runtime* runtime, bool dense) {
  const int64_t conv[] = {2, 5, 6, 1, 3, 3, 1, 2, 1, 1, 0, 1}, fully[] = {2, 5, 30, 0, 0, 1};
  runtime->node.custom_initial_data_size =
      (int)WriteInts(dense ? fully : conv, dense ? 6 : 12, 1, runtime->options);
}

// Puts the coded layer of levels that int8 alpha holds in alpha's place, after a part without
// bytes, with the bias that is there and steps of 0.01 or so, which become alpha's scales too. The
// runtime has the tensors of an int8 op if `quantized` is not NULL.
static void CodeAlpha(Runtime* runtime, const Model* model, bool dense,
                      const DbfQuantized* quantized) {
  const uint16_t step = 0x211f;  // a half
  TfLiteTensor *alpha = &runtime->tensors[kAlpha], *bias = &runtime->tensors[kBias];
  const float scale = (float)HalfValue(step);
  DbfLayer layer = {3, 3, 1, 1, 1, 1, 6, 5, true, kDbfRelu, .bias = NULL};
  if (dense) layer = (DbfLayer){1, 1, 1, 1, 1, 1, 30, 5, true, kDbfNone, .bias = NULL};
  layer.codes = model->codes;
  layer.codes_bytes = dense ? 4 : 7;
  layer.num_codes = dense ? 12 : 20;
  layer.alpha_int8 = alpha->data;
  layer.alpha_scales = &scale;
  layer.num_scales = 1;
  layer.quantized = quantized;
  const Coding coding = {.codes = -1,
                         .steps = &step,
                         .bias = 3,
                         .bias_bytes = bias->data,
                         .tables = 1,
                         .magnitude = 3};
  size_t size;
  uint8_t* data = EncodeLayer(&layer, &coding, &size);
  alpha->type = kTfLiteUInt8;
  SetDims(alpha, Ints(1, (int)size + 8));
  const uint32_t starts[] = {8, 8};
  memcpy(alpha->data, starts, sizeof(starts));
  memcpy((uint8_t*)alpha->data + sizeof(starts), data, size);
  free(data);
  runtime->node.inputs->size = 2;
  WriteCodedOptions(runtime, dense);
}

// A good runtime with int8 alpha of small random levels; of version 2 if `coded`.
static Runtime* CodedRuntime(bool dense, bool coded, uint64_t seed) {
  Model model = GoodModel(dense);
  Runtime* runtime = NewRuntime(&model, dense);
  RandomSeed(seed);
  Quantize(runtime, true);
  for (int t = 0; t < kNumTensors; ++t) {  // the same numbers in both versions
    if (t != kAlpha) Allocate(&runtime->tensors[t]);
  }
  runtime->quantization[1].scale->data[0] = (float)HalfValue(0x211f);
  int8_t* levels = runtime->tensors[kAlpha].data;
  for (size_t i = 0; i < runtime->tensors[kAlpha].bytes; ++i) levels[i] = (int8_t)RandomIn(-5, 5);
  if (coded) CodeAlpha(runtime, &model, dense, NULL);
  return runtime;
}

// Both versions give the same bits.
static void TestCoded(void) {
  for (int dense = 0; dense < 2; ++dense) {
    Runtime* runtimes[2];
    for (int coded = 0; coded < 2; ++coded) {
      runtimes[coded] = CodedRuntime(dense, coded, 3);
      CHECK(TryNode(runtimes[coded]) == kTfLiteOk, "%s", runtimes[coded]->message);
    }
    const TfLiteTensor *old = &runtimes[0]->tensors[kOutput], *new = &runtimes[1]->tensors[kOutput];
    CHECK(old->bytes == new->bytes && memcmp(old->data, new->data, old->bytes) == 0, "other bits");
    FreeRuntime(runtimes[0]);
    FreeRuntime(runtimes[1]);
  }
}

// An int8 op, and coded layers of the other type.
static void TestCodedInt8(void) {
  static const uint8_t features[3 * (6 + 20)] = {0};
  const DbfQuantized quantized = {.features = features, .features_bytes = sizeof(features)};
  for (int i = 0; i < 4; ++i) {
    const bool int8_layer = i & 1, int8_op = i >> 1;
    Model model = GoodModel(false);
    Runtime* runtime = NewRuntime(&model, false);
    Quantize(runtime, !int8_op);
    for (int k = 0; k < 5; ++k) ((int32_t*)runtime->tensors[kBias].data)[k] = 0;
    CodeAlpha(runtime, &model, false, int8_layer ? &quantized : NULL);
    CHECK((TryNode(runtime) == kTfLiteOk) == (int8_layer == int8_op), "case %d: %s", i,
          runtime->message);
    const TfLiteTensor* output = &runtime->tensors[kOutput];
    for (size_t j = 0; int8_layer && int8_op && j < output->bytes; ++j) {
      CHECK(((const int8_t*)output->data)[j] == -5, "output %zu", j);
    }
    FreeRuntime(runtime);
  }
}

// One thing wrong with a coded op. Returns its name, or NULL if there is none.
static const char* ChangeCoded(Runtime* runtime, int i) {
  TfLiteTensor* alpha = &runtime->tensors[kAlpha];
  int64_t numbers[13] = {2, 5, 6, 1, 3, 3, 1, 2, 1, 1, 0, 1, 0};
  size_t count = 12;
  Model model = GoodModel(false);
  switch (i) {
    case 0:
      return runtime->node.inputs->size = 3, "a bias";
    case 1:
      return runtime->node.inputs->size = 3, runtime->node.inputs->data[2] = -1, "a third input";
    case 2:
      return alpha->type = kTfLiteInt8, "int8 bytes";
    case 3:
      return SetDims(alpha, Ints(2, 1, alpha->dims->data[0])), "bytes of rank 2";
    case 4:
      return alpha->allocation_type = kTfLiteArenaRw, "bytes that are computed";
    case 5:
      return alpha->bytes -= 1, "a short buffer";
    case 6:
      return alpha->sparsity = runtime, "sparse bytes";
    case 7:
      return --alpha->bytes, --alpha->dims->data[0], "bytes cut short";
    case 8:
      return ((uint8_t*)alpha->data)[8] |= 3, "a damaged layer";
    case 9:
      for (size_t e = 0; e < model.num_entries; ++e) {
        if (model.entries[e].blob_size > 0) model.entries[e].blob = model.codes;
      }
      runtime->node.custom_initial_data_size =
          (int)WriteMap(model.entries, model.num_entries, runtime->options);
      return "options of version 1";
    case 10:
      return SetDims(alpha, Ints(1, 0)), "no bytes";
    case 11:
      return ((uint32_t*)alpha->data)[0] = 4, "fewer parts";
    case 12:
      return ((uint32_t*)alpha->data)[0] = UINT32_MAX, "more parts than bytes";
    case 13:
      return ((uint32_t*)alpha->data)[1] = (uint32_t)alpha->bytes + 1, "a part outside";
    case 14:
      return ((uint32_t*)alpha->data)[1] = UINT32_MAX, "a part far outside";
    default:
      break;
  }
  static const struct {
    int at;
    int64_t value;
  } bad[] = {{0, 1},         {0, 3},  {1, 0},  {1, 4},   {1, INT32_MAX}, {2, 5},
             {2, 1LL << 40}, {3, 4},  {4, 0},  {5, 2},   {6, -1},        {8, INT32_MAX},
             {10, 2},        {11, 0}, {11, 2}, {11, -1}, {11, INT32_MAX}};
  const int cases = sizeof(bad) / sizeof(bad[0]);
  i -= 15;
  if (i > cases + 1) return NULL;
  if (i < cases) numbers[bad[i].at] = bad[i].value;
  if (i >= cases) count = i == cases ? 11 : 13;
  runtime->node.custom_initial_data_size = (int)WriteInts(numbers, count, 8, runtime->options);
  return i < cases ? "a number of the options" : "too few or too many numbers";
}

static void TestBadCoded(void) {
  for (int i = 0;; ++i) {
    Runtime* runtime = CodedRuntime(false, true, i);
    const char* name = ChangeCoded(runtime, i);
    if (name != NULL) CHECK(TryNode(runtime) == kTfLiteError, "%d: %s", i, name);
    FreeRuntime(runtime);
    if (name == NULL) break;
  }
  // Coded bytes under options of version 1, and a key that only version 2 has a place for.
  Model model = GoodModel(false);
  Runtime* runtime = NewRuntime(&model, false);
  runtime->tensors[kAlpha].type = kTfLiteUInt8;
  Allocate(&runtime->tensors[kAlpha]);
  CHECK(TryNode(runtime) == kTfLiteError, "uint8 alpha of version 1");
  FreeRuntime(runtime);
  model.entries[model.num_entries++] = (Entry){"filters", 5, NULL, 0};
  runtime = NewRuntime(&model, false);
  CHECK(TryNode(runtime) == kTfLiteError, "filters in version 1");
  FreeRuntime(runtime);
}

// What is changed about how the tensors are held. Change i of a runtime; returns its name, or NULL
// if there is none. *good is whether the op still has to run.
static const char* ChangeHolding(Runtime* runtime, int i, bool* good) {
  TfLiteTensor *input = &runtime->tensors[kInput], *alpha = &runtime->tensors[kAlpha],
               *bias = &runtime->tensors[kBias], *output = &runtime->tensors[kOutput];
  int *inputs = runtime->node.inputs->data, *outputs = runtime->node.outputs->data;
  *good = i < 6;
  switch (i) {
    case 0:
      return "nothing";
    case 1:
      return input->allocation_type = kTfLiteMmapRo, "a constant input";
    case 2:
      return input->allocation_type = kTfLiteArenaRwPersistent, input->is_variable = true,
             "a variable as input";
    case 3:
      return input->allocation_type = output->allocation_type = kTfLiteDynamic, "dynamic tensors";
    case 4:
      return input->allocation_type = output->allocation_type = kTfLiteCustom, "memory of the app";
    case 5:
      return inputs[2] = -1, "no bias";
    case 6:
      return output->allocation_type = kTfLiteMmapRo, "a constant output";
    case 7:
      return output->allocation_type = kTfLitePersistentRo, "a persistent output";
    case 8:
      return output->allocation_type = kTfLiteArenaRwPersistent, output->is_variable = true,
             "a variable as output";
    case 9:
      return output->allocation_type = kTfLiteMemNone, "an output without memory";
    case 10:
      return output->allocation_type = (TfLiteAllocationType)8, "an output elsewhere";
    case 11:
      return outputs[0] = kInput, "input and output in one";
    case 12:
      return inputs[0] = kOutput, "output and input in one";
    case 13:
      return outputs[0] = kAlpha, alpha->allocation_type = kTfLiteArenaRw, "alpha as output";
    case 14:
      return outputs[0] = kBias, bias->allocation_type = kTfLiteArenaRw, "bias as output";
    case 15:
      return inputs[2] = kOutput, "output as bias";
    case 16:
      return input->sparsity = runtime, "a sparse input";
    case 17:
      return alpha->sparsity = runtime, "sparse alpha";
    case 18:
      return bias->sparsity = runtime, "a sparse bias";
    case 19:
      return output->sparsity = runtime, "a sparse output";
    case 20:
      return alpha->allocation_type = kTfLiteArenaRw, "alpha computed";
    case 21:
      return alpha->allocation_type = kTfLiteCustom, "alpha of the app";
    case 22:
      return alpha->allocation_type = kTfLiteArenaRwPersistent, alpha->is_variable = true,
             "a variable as alpha";
    case 23:
      return bias->allocation_type = kTfLiteDynamic, "bias computed";
    case 24:
      return free(alpha->data), alpha->data = NULL, "alpha without a buffer";
    case 25:
      return free(bias->data), bias->data = NULL, "bias without a buffer";
    case 26:
      return alpha->bytes += 1, "a long buffer";
    case 27:
      return bias->bytes -= 1, "a short bias buffer";
    default:
      return NULL;
  }
}

// Tensors that may be read or written, and those that may not, in both ops and both types.
static void TestHolding(void) {
  static const uint8_t features[3 * (6 + 20)] = {0};  // a dense layer has no more than 12 codes
  for (int kind = 0; kind < 4; ++kind) {
    const bool dense = kind / 2, int8 = kind % 2;
    for (int i = 0;; ++i) {
      Model model = GoodModel(dense);
      if (int8) {
        model.entries[model.num_entries++] =
            (Entry){"features", 0, features, dense ? 3 * 12 : sizeof(features)};
      }
      Runtime* runtime = NewRuntime(&model, dense);
      if (int8) Quantize(runtime, false);
      bool good;
      const char* name = ChangeHolding(runtime, i, &good);
      if (name != NULL) {
        CHECK((TryNode(runtime) == kTfLiteOk) == good, "kind %d, %s: %s", kind, name,
              runtime->message);
      }
      FreeRuntime(runtime);
      if (name == NULL) break;
    }
  }
}

// What changes between preparing and invoking.
static void TestChangedHolding(void) {
  for (int i = 0; i < 4; ++i) {
    Model model = GoodModel(true);
    Runtime* runtime = NewRuntime(&model, true);
    TfLiteContext* context = &runtime->context;
    const TfLiteRegistration* registration = dbf_dense_registration();
    TfLiteNode node = runtime->node;
    node.user_data = registration->init(context, node.custom_initial_data,
                                        (size_t)node.custom_initial_data_size);
    CHECK(registration->prepare(context, &node) == kTfLiteOk, "%s", runtime->message);
    TfLiteTensor *input = &runtime->tensors[kInput], *output = &runtime->tensors[kOutput];
    void* own = output->data;
    if (i == 1) output->allocation_type = kTfLitePersistentRo;
    if (i == 2) output->data = (char*)input->data + input->bytes - sizeof(float);
    if (i == 3) output->data = NULL;
    CHECK((registration->invoke(context, &node) == kTfLiteOk) == (i == 0), "case %d: %s", i,
          runtime->message);
    output->data = own;
    if (i == 3) {
      input->type = output->type = kTfLiteInt8;
      CHECK(registration->prepare(context, &node) == kTfLiteError, "another type");
    }
    registration->free(context, node.user_data);
    FreeRuntime(runtime);
  }
}

// Options cut short, and with random bytes changed: an error or a result, never a crash.
static void DamageOptions(Runtime* runtime, int rounds) {
  const int size = runtime->node.custom_initial_data_size;
  for (int length = 0; length < size; ++length) {
    runtime->node.custom_initial_data_size = length;
    runtime->message[0] = 0;
    CHECK(TryNode(runtime) == kTfLiteError, "cut at %d", length);
  }
  runtime->node.custom_initial_data_size = size;
  uint8_t good[sizeof(runtime->options)];
  memcpy(good, runtime->options, sizeof(good));
  for (int round = 0; round < rounds; ++round) {
    memcpy(runtime->options, good, sizeof(good));
    for (int n = RandomIn(1, 3); n > 0; --n) {
      runtime->options[RandomIn(0, size - 1)] =
          (uint8_t)(RandomIn(0, 1) ? Random() : Random() % 10);
    }
    runtime->message[0] = 0;
    TryNode(runtime);
    SetDims(&runtime->tensors[kInput], Ints(4, 2, 7, 8, 6));
  }
}

static void TestDamagedOptions(int rounds) {
  Model model = GoodModel(false);
  Runtime* runtime = NewRuntime(&model, false);
  DamageOptions(runtime, rounds);
  FreeRuntime(runtime);
  runtime = CodedRuntime(false, true, 1);
  DamageOptions(runtime, rounds);
  FreeRuntime(runtime);
}

int main(int argc, char** argv) {
  TestGood();
  TestDelegate();
  TestLayouts();
  TestBadOptions();
  TestBadTensors();
  TestFloat16();
  TestQuantized();
  TestInt8();
  TestCoded();
  TestCodedInt8();
  TestBadCoded();
  TestHolding();
  TestChangedHolding();
  TestDamagedOptions(argc > 1 ? atoi(argv[1]) : 10000);
  printf("op_test: %ld checks\n", num_checks);
  return 0;
}
