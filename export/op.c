#include "op.h"

#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "conv.h"
#include "flexbuffer.h"

struct DbfOp {
  DbfOpType type;
  const DbfKernels* kernels;
  const char* error;  // what is wrong with the options, or NULL
  DbfLayer
      layer;  // codes point to `codes`; the tensors' part is filled in while the op is prepared
  uint8_t* codes;
  bool keep_num_dims;
  DbfConv* conv;
  int input, output;  // tensors
  size_t input_bytes, output_bytes;
};

bool DbfOpTypeOf(const char* name, DbfOpType* type) {
  if (name == NULL) return false;
  *type = strcmp(name, "DBFDense") == 0 ? kDbfDense : kDbfConv2D;
  return *type == kDbfDense || strcmp(name, "DBFConv2D") == 0;
}

// An integer option: its key, the ops that have it (bits 1 << DbfOpType), where it goes and its
// range.
typedef struct Option {
  const char* key;
  int ops;
  int32_t* value;
  int32_t min, max;
  bool seen;
} Option;

// Reads `size` bytes of options into `op`. Returns a message, or NULL.
static const char* ParseOptions(DbfOp* op, const void* data, size_t size) {
  enum { kConv = 1 << kDbfConv2D, kDense = 1 << kDbfDense, kBoth = kConv | kDense };
  DbfLayer* layer = &op->layer;
  int32_t version, activation, padding = 1, keep_num_dims = 0;
  Option options[] = {
      {"version", kBoth, &version, 1, 1, false},
      {"channels", kBoth, &layer->channels, 1, INT32_MAX, false},
      {"activation", kBoth, &activation, 0, 3, false},
      {"kernel_h", kConv, &layer->kernel_h, 1, INT32_MAX, false},
      {"kernel_w", kConv, &layer->kernel_w, 1, INT32_MAX, false},
      {"stride_h", kConv, &layer->stride_h, 1, INT32_MAX, false},
      {"stride_w", kConv, &layer->stride_w, 1, INT32_MAX, false},
      {"dilation_h", kConv, &layer->dilation_h, 1, INT32_MAX, false},
      {"dilation_w", kConv, &layer->dilation_w, 1, INT32_MAX, false},
      {"padding", kConv, &padding, 0, 1, false},
      {"keep_num_dims", kDense, &keep_num_dims, 0, 1, false},
  };
  const size_t num_options = sizeof(options) / sizeof(options[0]);
  const uint8_t* codes = NULL;
  DbfFlexMap map;
  if (!DbfFlexMapOpen(data, size, &map)) return "the options are not a flexbuffer map";
  for (size_t i = 0; i < map.count; ++i) {
    const char* key = DbfFlexMapKey(&map, i);
    if (key == NULL) return "the options are damaged";
    if (strcmp(key, "codes") == 0) {
      if (codes != NULL) return "an option is given twice";
      if (!DbfFlexMapBlob(&map, i, &codes, &layer->codes_bytes))
        return "option codes is not a blob";
      continue;
    }
    Option* option = options;
    while (option < options + num_options &&
           (!(option->ops >> op->type & 1) || strcmp(option->key, key) != 0)) {
      ++option;
    }
    if (option == options + num_options)
      return "unknown option: the model needs a later version of this library";
    int64_t value;
    if (option->seen) return "an option is given twice";
    if (!DbfFlexMapInt(&map, i, &value)) return "an option is not an integer";
    if (value < option->min || value > option->max) {
      return option->value == &version
                 ? "unknown version: the model needs a later version of this library"
                 : "an option is out of range";
    }
    *option->value = (int32_t)value;
    option->seen = true;
  }
  if (codes == NULL) return "option codes is missing";
  for (size_t i = 0; i < num_options; ++i) {
    if (options[i].ops >> op->type & 1 && !options[i].seen) return "an option is missing";
  }
  layer->activation = (DbfActivation)activation;
  layer->same_padding = padding == 0;
  op->keep_num_dims = keep_num_dims;
  op->codes = DbfAllocate(layer->codes_bytes, 1);
  if (op->codes == NULL) return "out of memory";
  memcpy(op->codes, codes, layer->codes_bytes);
  layer->codes = op->codes;
  return NULL;
}

DbfOp* DbfOpCreate(DbfOpType type, const void* options, size_t size, const DbfKernels* kernels) {
  DbfOp* op = DbfAllocate(1, sizeof(*op));
  if (op == NULL) return NULL;
  op->type = type;
  op->kernels = kernels;
  op->layer.kernel_h = op->layer.kernel_w = 1;  // a dense layer is a 1 x 1 convolution
  op->layer.stride_h = op->layer.stride_w = 1;
  op->layer.dilation_h = op->layer.dilation_w = 1;
  op->error = ParseOptions(op, options, size);
  return op;
}

void DbfOpFree(DbfOp* op) {
  if (op == NULL) return;
  DbfConvFree(op->conv);
  free(op->codes);
  free(op);
}

// The tensor of entry `i`, or NULL if there is none.
static TfLiteTensor* TensorAt(TfLiteContext* context, const TfLiteIntArray* list, int i) {
  if (list == NULL || i >= list->size) return NULL;
  const int index = list->data[i];
  return index >= 0 && (size_t)index < context->tensors_size ? &context->tensors[index] : NULL;
}

// The number of elements, SIZE_MAX if it overflows or a dimension is negative.
static size_t Elements(const TfLiteTensor* tensor) {
  size_t count = 1;
  for (int i = 0; i < tensor->dims->size; ++i) {
    count = DbfMul(count, tensor->dims->data[i] < 0 ? SIZE_MAX : (size_t)tensor->dims->data[i]);
  }
  return count;
}

// Whether the tensor is a constant with all of its data there.
static bool IsConstant(const TfLiteTensor* tensor, size_t element_size) {
  return tensor->allocation_type == kTfLiteMmapRo && tensor->data != NULL &&
         tensor->bytes == DbfMul(Elements(tensor), element_size);
}

// Points op->layer to the scales of an int8 alpha.
static const char* ReadScales(DbfOp* op, const TfLiteTensor* alpha) {
  const TfLiteAffineQuantizationParams* params = alpha->quantization.params;
  if (alpha->quantization.type != kTfLiteAffineQuantization || params == NULL ||
      params->scale == NULL) {
    return "int8 alpha has no scales";
  }
  if (params->scale->size != 1 &&
      (params->scale->size != op->layer.filters || params->quantized_dimension != 0)) {
    return "int8 alpha needs one scale, or one per filter along dimension 0";
  }
  for (int i = 0; params->zero_point != NULL && i < params->zero_point->size; ++i) {
    if (params->zero_point->data[i] != 0) return "int8 alpha needs zero points of 0";
  }
  op->layer.alpha_int8 = alpha->data;
  op->layer.alpha_scales = params->scale->data;
  op->layer.num_scales = params->scale->size;
  return NULL;
}

// Packs the coefficients. Tensors alpha [K, n] and, unless NULL, bias [K].
static const char* CreateConv(DbfOp* op, const TfLiteTensor* alpha, const TfLiteTensor* bias) {
  DbfLayer* layer = &op->layer;
  const bool is_int8 = alpha->type == kTfLiteInt8;
  if (!is_int8 && alpha->type != kTfLiteFloat32) return "alpha is neither float32 nor int8";
  if (alpha->dims->size != 2) return "alpha is not a matrix";
  if (!IsConstant(alpha, is_int8 ? sizeof(int8_t) : sizeof(float))) return "alpha is not constant";
  layer->filters = alpha->dims->data[0];
  layer->num_codes = alpha->dims->data[1];
  const char* error = NULL;
  if (is_int8) {
    error = ReadScales(op, alpha);
  } else {
    layer->alpha_float = alpha->data;
  }
  if (error == NULL && bias != NULL) {
    layer->bias = bias->data;
    if (bias->type != kTfLiteFloat32)
      error = "bias is not float32";
    else if (bias->dims->size != 1 || bias->dims->data[0] != layer->filters)
      error = "bias does not have one number per filter";
    else if (!IsConstant(bias, sizeof(float)))
      error = "bias is not constant";
  }
  if (error == NULL) op->conv = DbfConvCreate(layer, op->kernels, &error);
  return error;
}

// Resizes the convolution for `input` and sets the output's dimensions, in an array of
// input->dims->size entries.
static const char* ResizeConv(DbfOp* op, TfLiteContext* context, const TfLiteTensor* input,
                              TfLiteIntArray* dims) {
  const int32_t* in = input->dims->data;
  const int rank = input->dims->size;
  const int32_t channels = op->layer.channels;
  if (op->type == kDbfConv2D) {
    if (rank != 4) return "the input is not [batch, height, width, channels]";
    if (in[3] != channels) return "the input has the wrong number of channels";
    dims->data[0] = in[0];
    dims->data[3] = op->layer.filters;
    const char* error = DbfConvOutputSize(op->conv, in[1], in[2], &dims->data[1], &dims->data[2]);
    if (error != NULL) return error;
    return DbfConvResize(op->conv, in[0], in[1], in[2], context->recommended_num_threads, context);
  }
  const size_t elements = Elements(input);
  if (rank < 1 || elements == SIZE_MAX || elements % channels != 0 ||
      (op->keep_num_dims && in[rank - 1] != channels)) {
    return "the input does not have the right number of channels";
  }
  if (elements / channels > INT32_MAX) return "the input is too large";
  const int32_t pixels = (int32_t)(elements / channels);
  if (op->keep_num_dims) {
    memcpy(dims->data, in, rank * sizeof(in[0]));
  } else {
    dims->size = 2;
    dims->data[0] = pixels;
  }
  dims->data[dims->size - 1] = op->layer.filters;
  return DbfConvResize(op->conv, 1, 1, pixels, context->recommended_num_threads, context);
}

static const char* Prepare(DbfOp* op, TfLiteContext* context, const TfLiteIntArray* inputs,
                           const TfLiteIntArray* outputs) {
  if (op == NULL) return "out of memory";
  if (op->error != NULL) return op->error;
  const TfLiteTensor* input = TensorAt(context, inputs, 0);
  const TfLiteTensor* alpha = TensorAt(context, inputs, 1);
  const TfLiteTensor* bias = TensorAt(context, inputs, 2);
  TfLiteTensor* output = TensorAt(context, outputs, 0);
  if (input == NULL || alpha == NULL || output == NULL || inputs->size > 3 || outputs->size != 1) {
    return "expected 2 or 3 inputs and 1 output";
  }
  if (bias == NULL && inputs->size == 3 && inputs->data[2] != kTfLiteOptionalTensor)
    return "bad index of bias";
  if (input->type != kTfLiteFloat32 || output->type != kTfLiteFloat32)
    return "input and output must be float32";
  if (input->dims == NULL || alpha->dims == NULL || (bias != NULL && bias->dims == NULL))
    return "a tensor has no shape";
  op->input = inputs->data[0];
  op->output = outputs->data[0];
  if (op->conv == NULL) {
    const char* error = CreateConv(op, alpha, bias);
    if (error != NULL) return error;
  }
  const int rank = input->dims->size > 2 ? input->dims->size : 2;
  TfLiteIntArray* dims = malloc(sizeof(*dims) + (size_t)rank * sizeof(dims->data[0]));
  if (dims == NULL) return "out of memory";
  dims->size = input->dims->size;
  op->input_bytes = DbfMul(Elements(input), sizeof(float));
  const char* error = ResizeConv(op, context, input, dims);
  if (error != NULL) {
    free(dims);
    return error;
  }
  // ResizeTensor takes over `dims` whatever happens.
  if (context->ResizeTensor(context, output, dims) != kTfLiteOk) return "cannot resize the output";
  op->output_bytes = DbfMul(Elements(&context->tensors[op->output]), sizeof(float));
  return NULL;
}

TfLiteStatus DbfOpPrepare(DbfOp* op, TfLiteContext* context, const TfLiteIntArray* inputs,
                          const TfLiteIntArray* outputs) {
  if (op != NULL) op->input_bytes = SIZE_MAX;  // no invoke unless this succeeds
  const char* error = Prepare(op, context, inputs, outputs);
  if (error == NULL) return kTfLiteOk;
  if (op != NULL) op->input_bytes = SIZE_MAX;
  context->ReportError(context, "%s: %s",
                       op != NULL && op->type == kDbfDense ? "DBFDense" : "DBFConv2D", error);
  return kTfLiteError;
}

TfLiteStatus DbfOpInvoke(DbfOp* op, TfLiteContext* context) {
  const TfLiteTensor* input = &context->tensors[op->input];
  TfLiteTensor* output = &context->tensors[op->output];
  if (input->bytes != op->input_bytes || output->bytes != op->output_bytes ||
      (input->data == NULL && op->input_bytes > 0) ||
      (output->data == NULL && op->output_bytes > 0)) {
    context->ReportError(context, "DBF op: the tensors have changed since the op was prepared");
    return kTfLiteError;
  }
  DbfConvRun(op->conv, input->data, output->data);
  return kTfLiteOk;
}

// The registrations.

static const DbfKernels* registered_kernels = NULL;  // NULL: the best

bool dbf_set_isa(const char* isa) {
  const DbfKernels* kernels = isa != NULL ? DbfKernelsFind(isa) : NULL;
  if (isa != NULL && kernels == NULL) return false;
  registered_kernels = kernels;
  return true;
}

static DbfOp* Init(DbfOpType type, const char* buffer, size_t length) {
  return DbfOpCreate(type, buffer, length,
                     registered_kernels != NULL ? registered_kernels : DbfKernelsBest());
}

static void* InitConv2D(TfLiteContext* context, const char* buffer, size_t length) {
  (void)context;
  return Init(kDbfConv2D, buffer, length);
}

static void* InitDense(TfLiteContext* context, const char* buffer, size_t length) {
  (void)context;
  return Init(kDbfDense, buffer, length);
}

static void FreeNode(TfLiteContext* context, void* user_data) {
  (void)context;
  DbfOpFree(user_data);
}

static TfLiteStatus PrepareNode(TfLiteContext* context, TfLiteNode* node) {
  return DbfOpPrepare(node->user_data, context, node->inputs, node->outputs);
}

static TfLiteStatus InvokeNode(TfLiteContext* context, TfLiteNode* node) {
  return DbfOpInvoke(node->user_data, context);
}

const TfLiteRegistration* dbf_conv2d_registration(void) {
  static const TfLiteRegistration registration = {
      .init = InitConv2D,
      .free = FreeNode,
      .prepare = PrepareNode,
      .invoke = InvokeNode,
      .custom_name = "DBFConv2D",
      .version = 1,
  };
  return &registration;
}

const TfLiteRegistration* dbf_dense_registration(void) {
  static const TfLiteRegistration registration = {
      .init = InitDense,
      .free = FreeNode,
      .prepare = PrepareNode,
      .invoke = InvokeNode,
      .custom_name = "DBFDense",
      .version = 1,
  };
  return &registration;
}
