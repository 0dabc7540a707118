#include "tflite/op.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dbf_op.h"
#include "engine/conv.h"
#include "plan/coded.h"
#include "support/arena.h"
#include "support/checked.h"
#include "support/require.h"
#include "tflite/flexbuffer.h"

enum { kBlobs = 3 };  // options that are blobs: codes, features and sums

struct DbfOp {
  DbfOpType type;
  const DbfKernels* kernels;
  const char* error;       // what is wrong with the options, or NULL
  DbfLayer layer;          // the tensors' part is filled in while the op is prepared
  DbfQuantized quantized;  // of int8 layers
  uint8_t* blobs[kBlobs];  // copies, to which these two point
  bool keep_num_dims;
  bool coded;    // version 2: the layer is a part of one tensor
  int32_t part;  // which one
  DbfConv* conv;
  int input, output;  // tensors
  size_t input_bytes, output_bytes;
  size_t packed_bytes;  // as counted in held_packed
  char profile[96];
};

// Bytes of coefficients that all ops of the process hold.
static atomic_size_t held_packed;

void dbf_memory(size_t* packed, size_t* scratch) {
  *packed = atomic_load(&held_packed);
  *scratch = DbfArenaHeldBytes();
}

static void CountMemory(DbfOp* op) {
  const size_t packed = op->conv != NULL ? DbfConvPackedBytes(op->conv) : 0;
  atomic_fetch_add(&held_packed, packed - op->packed_bytes);  // modulo the type's size
  op->packed_bytes = packed;
}

bool DbfOpTypeOf(const char* name, DbfOpType* type) {
  if (name == NULL) return false;
  *type = strcmp(name, "DBFDense") == 0 ? kDbfDense : kDbfConv2D;
  return *type == kDbfDense || strcmp(name, "DBFConv2D") == 0;
}

// An integer option.
typedef struct Option {
  const char* key;
  int ops;  // those that have it, a bit 1 << DbfOpType each
  int32_t* value;
  int32_t min, max;
  bool seen;
} Option;

// An option that is a blob.
typedef struct Blob {
  const char *key, *error;  // error: if it is none
  const uint8_t** data;
  size_t* size;
} Blob;

// Where the options of an op go.
typedef struct Options {
  Option* integers;
  size_t num_integers;
  const Blob* blobs;  // [kBlobs]
} Options;

// Stores the value of an option. Returns an error message, or NULL.
static const char* SetOption(Option* option, int64_t value) {
  if (value < option->min || value > option->max) {
    return strcmp(option->key, "version") == 0
               ? "unknown version: the model needs a later version of this library"
               : "an option is out of range";
  }
  *option->value = (int32_t)value;
  option->seen = true;
  return NULL;
}

// Reads entry `i` of a map, whose key is `key`. Returns an error message, or NULL.
static const char* ReadOption(const Options* options, DbfOpType type, const DbfFlexMap* map,
                              size_t i, const char* key) {
  for (const Blob* blob = options->blobs; blob < options->blobs + kBlobs; ++blob) {
    if (strcmp(key, blob->key) != 0) continue;
    if (*blob->data != NULL) return "an option is given twice";
    return DbfFlexMapBlob(map, i, blob->data, blob->size) ? NULL : blob->error;
  }
  Option *option = options->integers, *end = options->integers + options->num_integers;
  while (option < end && (!(option->ops >> type & 1) || strcmp(option->key, key) != 0)) ++option;
  if (option == end) return "unknown option: the model needs a later version of this library";
  int64_t value;
  if (option->seen) return "an option is given twice";
  if (!DbfFlexMapInt(map, i, &value)) return "an option is not an integer";
  return SetOption(option, value);
}

// Reads the options of version 1, a map.
static const char* ReadMap(const Options* options, DbfOpType type, const DbfFlexMap* map) {
  for (size_t i = 0; i < map->count; ++i) {
    const char* key = DbfFlexMapKey(map, i);
    if (key == NULL) return "the options are damaged";
    const char* error = ReadOption(options, type, map, i, key);
    if (error != NULL) return error;
  }
  if (*options->blobs[0].data == NULL) return "option codes is missing";
  for (size_t i = 0; i < options->num_integers; ++i) {
    const Option* option = &options->integers[i];
    if (option->ops >> type & 1 && !option->seen) return "an option is missing";
  }
  return NULL;
}

// Reads the options of version 2, integers in the order of the table.
static const char* ReadNumbers(const Options* options, DbfOpType type, const DbfFlexInts* ints) {
  size_t next = 0;
  for (size_t i = 0; i < options->num_integers; ++i) {
    Option* option = &options->integers[i];
    if (!(option->ops >> type & 1)) continue;
    int64_t value;
    if (next == ints->count) return "an option is missing";
    if (!DbfFlexIntsAt(ints, next++, &value)) return "an option is out of range";
    const char* error = SetOption(option, value);
    if (error != NULL) return error;
  }
  return next < ints->count ? "there are more options than this library knows" : NULL;
}

// Copies the blobs that are given, as the buffer that they are read from does not last.
static const char* CopyBlobs(DbfOp* op, const Blob* blobs) {
  for (size_t b = 0; b < kBlobs; ++b) {
    if (*blobs[b].data == NULL) continue;
    op->blobs[b] = DbfAllocate(*blobs[b].size, 1);
    if (op->blobs[b] == NULL) return "out of memory";
    memcpy(op->blobs[b], *blobs[b].data, *blobs[b].size);
    *blobs[b].data = op->blobs[b];
  }
  return NULL;
}

// Reads `size` bytes of options into `op`. Returns an error message, or NULL.
static const char* ParseOptions(DbfOp* op, const void* data, size_t size) {
  enum { kConv = 1 << kDbfConv2D, kDense = 1 << kDbfDense, kBoth = kConv | kDense };
  DbfLayer* layer = &op->layer;
  DbfQuantized* quantized = &op->quantized;
  DbfFlexInts ints;
  op->coded = DbfFlexIntsOpen(data, size, &ints);
  const int32_t known = op->coded ? 2 : 1;
  int32_t version, activation, padding = 1, keep_num_dims = 0;
  Option integers[] = {
      {"version", kBoth, &version, known, known, false},
      {"filters", op->coded ? kBoth : 0, &layer->filters, 1, INT32_MAX, false},
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
      {"part", op->coded ? kBoth : 0, &op->part, 0, INT32_MAX, false},
  };
  const Blob blobs[kBlobs] = {
      {"codes", "option codes is not a blob", &layer->codes, &layer->codes_bytes},
      {"features", "option features is not a blob", &quantized->features,
       &quantized->features_bytes},
      {"sums", "option sums is not a blob", &quantized->sums, &quantized->sums_bytes},
  };
  const Options options = {integers, sizeof(integers) / sizeof(integers[0]), blobs};
  DbfFlexMap map;
  const char* error = op->coded ? ReadNumbers(&options, op->type, &ints)
                      : DbfFlexMapOpen(data, size, &map)
                          ? ReadMap(&options, op->type, &map)
                          : "the options are neither a flexbuffer map nor a vector of integers";
  if (error != NULL) return error;
  layer->activation = (DbfActivation)activation;
  layer->same_padding = padding == 0;
  op->keep_num_dims = keep_num_dims;
  return CopyBlobs(op, blobs);
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
  op->conv = NULL;
  CountMemory(op);
  for (size_t b = 0; b < kBlobs; ++b) free(op->blobs[b]);
  free(op);
}

// The tensor of entry `i`, or NULL if there is none.
static TfLiteTensor* TensorAt(TfLiteContext* context, const TfLiteIntArray* list, int i) {
  if (list == NULL || i >= list->size) return NULL;
  const int index = list->data[i];
  return index >= 0 && (size_t)index < context->tensors_size ? &context->tensors[index] : NULL;
}

// Returns the number of elements, SIZE_MAX if it overflows or a dimension is negative.
static size_t Elements(const TfLiteTensor* tensor) {
  size_t count = 1;
  for (int i = 0; i < tensor->dims->size; ++i) {
    count = DbfMul(count, tensor->dims->data[i] < 0 ? SIZE_MAX : (size_t)tensor->dims->data[i]);
  }
  return count;
}

// Returns the bytes of so many elements of a type that the ops know, SIZE_MAX for other types.
static size_t BytesOf(size_t elements, TfLiteType type) {
  switch (type) {
    case kTfLiteFloat32:
    case kTfLiteInt32:
      return DbfMul(elements, 4);
    case kTfLiteFloat16:
      return DbfMul(elements, 2);
    case kTfLiteInt8:
    case kTfLiteUInt8:
      return elements;
    case kTfLiteInt4:
      return elements / 2 + elements % 2;
    default:
      return SIZE_MAX;
  }
}

// Whether the tensor is a constant with all of its data there.
static bool IsConstant(const TfLiteTensor* tensor) {
  return tensor->allocation_type == kTfLiteMmapRo && tensor->data != NULL &&
         tensor->bytes == BytesOf(Elements(tensor), tensor->type);
}

// Whether an op may write to the tensor: the runtime or the app has given it memory of its own.
static bool IsComputed(const TfLiteTensor* tensor) {
  return !tensor->is_variable &&
         (tensor->allocation_type == kTfLiteArenaRw || tensor->allocation_type == kTfLiteDynamic ||
          tensor->allocation_type == kTfLiteCustom);
}

// The tensor's scales and zero points, or NULL if it has none.
static const TfLiteAffineQuantizationParams* Quantization(const TfLiteTensor* tensor) {
  const TfLiteAffineQuantizationParams* params = tensor->quantization.params;
  return tensor->quantization.type == kTfLiteAffineQuantization && params != NULL &&
                 params->scale != NULL
             ? params
             : NULL;
}

// Points op->layer to the scales of an integer alpha.
static const char* ReadScales(DbfOp* op, const TfLiteTensor* alpha) {
  const TfLiteAffineQuantizationParams* params = Quantization(alpha);
  if (params == NULL) return "integer alpha has no scales";
  if (params->scale->size != 1 &&
      (params->scale->size != op->layer.filters || params->quantized_dimension != 0)) {
    return "integer alpha needs one scale, or one per filter along dimension 0";
  }
  for (int i = 0; params->zero_point != NULL && i < params->zero_point->size; ++i) {
    if (params->zero_point->data[i] != 0) return "integer alpha needs zero points of 0";
  }
  if (alpha->type == kTfLiteInt8) {
    op->layer.alpha_int8 = alpha->data;
  } else {
    op->layer.alpha_int4 = alpha->data;
  }
  op->layer.alpha_scales = params->scale->data;
  op->layer.num_scales = params->scale->size;
  return NULL;
}

// Reads the one scale and zero point of an int8 input or output.
static const char* ReadActivation(const TfLiteTensor* tensor, float* scale, int32_t* zero) {
  const TfLiteAffineQuantizationParams* params = Quantization(tensor);
  if (params == NULL || params->scale->size != 1 || params->zero_point == NULL ||
      params->zero_point->size != 1) {
    return "an int8 input or output needs one scale and zero point";
  }
  *scale = params->scale->data[0];
  *zero = params->zero_point->data[0];
  return NULL;
}

// Points op->layer to what an int8 layer has besides its coefficients.
static const char* ReadQuantized(DbfOp* op, const TfLiteTensor* input, const TfLiteTensor* output) {
  DbfQuantized* quantized = &op->quantized;
  op->layer.quantized = quantized;
  const char* error = ReadActivation(input, &quantized->input_scale, &quantized->input_zero);
  if (error != NULL) return error;
  return ReadActivation(output, &quantized->output_scale, &quantized->output_zero);
}

// Points op->layer to bias [K].
static const char* ReadBias(DbfOp* op, const TfLiteTensor* bias) {
  DbfLayer* layer = &op->layer;
  if (bias->type != (layer->quantized != NULL ? kTfLiteInt32 : kTfLiteFloat32)) {
    return "bias is not float32, or int32 for an int8 op";
  }
  if (bias->dims->size != 1 || bias->dims->data[0] != layer->filters) {
    return "bias does not have one number per filter";
  }
  if (!IsConstant(bias)) return "bias is not constant";
  if (layer->quantized != NULL) {
    op->quantized.bias = bias->data;
  } else {
    layer->bias = bias->data;
  }
  return NULL;
}

// Points op->layer to tensors alpha [K, n] and, unless NULL, bias [K] of version 1.
static const char* ReadAlpha(DbfOp* op, const TfLiteTensor* input, const TfLiteTensor* alpha,
                             const TfLiteTensor* bias) {
  DbfLayer* layer = &op->layer;
  if (alpha->type == kTfLiteUInt8) return "alpha is coded, but the options are of version 1";
  if (alpha->type != kTfLiteFloat32 && alpha->type != kTfLiteFloat16 &&
      alpha->type != kTfLiteInt8 && alpha->type != kTfLiteInt4) {
    return "alpha is not float32, float16, int8 or int4";
  }
  if (alpha->dims->size != 2) return "alpha is not a matrix";
  if (!IsConstant(alpha)) return "alpha is not constant";
  layer->filters = alpha->dims->data[0];
  layer->num_codes = alpha->dims->data[1];
  const char* error = NULL;
  if (alpha->type == kTfLiteFloat32) {
    layer->alpha_float = alpha->data;
  } else if (alpha->type == kTfLiteFloat16) {
    layer->alpha_float16 = alpha->data;
  } else {
    error = ReadScales(op, alpha);
  }
  if (error != NULL) return error;
  if (input->type == kTfLiteInt8 && op->quantized.features == NULL) {
    return "option features is missing";
  }
  if (input->type == kTfLiteFloat32 &&
      (op->quantized.features != NULL || op->quantized.sums != NULL)) {
    return "options features and sums are for int8 inputs only";
  }
  return bias != NULL ? ReadBias(op, bias) : NULL;
}

// Reads the op's part of the coded layers of version 2 into op->layer and `coded`.
static const char* ReadCoded(DbfOp* op, const TfLiteTensor* layers, DbfCoded* coded) {
  if (layers->type != kTfLiteUInt8) return "the options are of version 2, but alpha is not uint8";
  if (layers->dims->size != 1) return "the coded layers are not a row of bytes";
  if (!IsConstant(layers)) return "the coded layers are not constant";
  const uint8_t* data;
  size_t bytes;
  const char* error = DbfCodedPart(layers->data, layers->bytes, (size_t)op->part, &data, &bytes);
  if (error != NULL) return error;
  const bool is_int8 = op->layer.quantized != NULL;
  error = DbfCodedRead(data, bytes, &op->layer, is_int8 ? &op->quantized : NULL, coded);
  return error != NULL || is_int8 ? error : DbfCodedDropIdle(&op->layer, coded);
}

// Packs the coefficients of the tensors; bias may be NULL.
static const char* CreateConv(DbfOp* op, const TfLiteTensor* input, const TfLiteTensor* alpha,
                              const TfLiteTensor* bias, const TfLiteTensor* output) {
  DbfCoded coded = {0};
  const char* error = NULL;
  op->layer.quantized = NULL;
  if (input->type == kTfLiteInt8) error = ReadQuantized(op, input, output);
  if (error == NULL) {
    error = op->coded ? ReadCoded(op, alpha, &coded) : ReadAlpha(op, input, alpha, bias);
  }
  if (error == NULL) op->conv = DbfConvCreate(&op->layer, op->kernels, &error);
  DbfCodedFree(&coded);
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
  // No pixels are no image, for an image without pixels has no output.
  return DbfConvResize(op->conv, pixels > 0, 1, pixels > 0 ? pixels : 1,
                       context->recommended_num_threads, context);
}

// Checks how the tensors are held, `bias` unless it is NULL. Their numbers are checked later.
static const char* CheckTensors(const TfLiteTensor* input, const TfLiteTensor* alpha,
                                const TfLiteTensor* bias, const TfLiteTensor* output) {
  if (input->type != output->type ||
      (input->type != kTfLiteFloat32 && input->type != kTfLiteInt8)) {
    return "input and output must both be float32 or both int8";
  }
  if (input->dims == NULL || alpha->dims == NULL || (bias != NULL && bias->dims == NULL))
    return "a tensor has no shape";
  if (input->sparsity != NULL || alpha->sparsity != NULL || output->sparsity != NULL ||
      (bias != NULL && bias->sparsity != NULL)) {
    return "a tensor is sparse: only dense ones can be read";
  }
  if (output == input || output == alpha || output == bias) return "the output is also an input";
  if (output->allocation_type == kTfLiteMmapRo || output->allocation_type == kTfLitePersistentRo)
    return "the output is a constant, which cannot be written";
  if (output->is_variable) return "the output is a variable, which only an input may be";
  return IsComputed(output) ? NULL : "the output has no memory that may be written";
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
  if (op->coded && inputs->size != 2) return "expected 2 inputs, as a coded layer holds its bias";
  if (bias == NULL && inputs->size == 3 && inputs->data[2] != kTfLiteOptionalTensor)
    return "bad index of bias";
  const char* error = CheckTensors(input, alpha, bias, output);
  if (error != NULL) return error;
  op->input = inputs->data[0];
  op->output = outputs->data[0];
  if (op->conv == NULL) {
    error = CreateConv(op, input, alpha, bias, output);
    if (error != NULL) return error;
  } else if ((input->type == kTfLiteInt8) != (op->layer.quantized != NULL)) {
    return "the input has another type than before";
  }
  const int rank = input->dims->size > 2 ? input->dims->size : 2;
  TfLiteIntArray* dims = malloc(sizeof(*dims) + (size_t)rank * sizeof(dims->data[0]));
  if (dims == NULL) return "out of memory";
  dims->size = input->dims->size;
  op->input_bytes = BytesOf(Elements(input), input->type);
  error = ResizeConv(op, context, input, dims);
  if (error != NULL) {
    free(dims);
    return error;
  }
  // ResizeTensor takes over `dims` whatever happens.
  if (context->ResizeTensor(context, output, dims) != kTfLiteOk) return "cannot resize the output";
  output = &context->tensors[op->output];
  op->output_bytes = BytesOf(Elements(output), output->type);
  return NULL;
}

TfLiteStatus DbfOpPrepare(DbfOp* op, TfLiteContext* context, const TfLiteIntArray* inputs,
                          const TfLiteIntArray* outputs) {
  if (op != NULL) op->input_bytes = SIZE_MAX;  // no invoke unless this succeeds
  const char* error = Prepare(op, context, inputs, outputs);
  if (op != NULL) CountMemory(op);
  if (error == NULL) return kTfLiteOk;
  if (op != NULL) op->input_bytes = SIZE_MAX;
  context->ReportError(context, "%s: %s. ",
                       op != NULL && op->type == kDbfDense ? "DBFDense" : "DBFConv2D", error);
  return kTfLiteError;
}

// Whether the tensors share memory.
static bool Overlap(const TfLiteTensor* a, const TfLiteTensor* b) {
  const uintptr_t first = (uintptr_t)a->data, second = (uintptr_t)b->data;
  return first < second + b->bytes && second < first + a->bytes;
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
  if (!IsComputed(output) || Overlap(input, output)) {
    context->ReportError(context, "DBF op: the output may not be written, or is the input");
    return kTfLiteError;
  }
  DBF_REQUIRE(op->conv != NULL, "invoked before it was prepared");
  DbfConvInvoke(op->conv, input->data, output->data);
  return kTfLiteOk;
}

const char* DbfOpProfile(DbfOp* op) {
  snprintf(op->profile, sizeof(op->profile), "%s %s %s packed=%zu scratch=%zu",
           op->type == kDbfDense ? "DBFDense" : "DBFConv2D", op->kernels->name,
           op->layer.quantized != NULL ? "int8" : "float32", op->packed_bytes,
           op->conv != NULL ? DbfConvScratchBytes(op->conv) : 0);
  return op->profile;
}

// The registrations.

bool dbf_set_isa(const char* isa) { return DbfKernelsChoose(isa); }

static DbfOp* Init(DbfOpType type, const char* buffer, size_t length) {
  return DbfOpCreate(type, buffer, length, DbfKernelsChosen());
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

static const char* ProfileNode(const TfLiteContext* context, const TfLiteNode* node) {
  (void)context;
  return node->user_data != NULL ? DbfOpProfile(node->user_data) : "";
}

const TfLiteRegistration* dbf_conv2d_registration(void) {
  static const TfLiteRegistration registration = {
      .init = InitConv2D,
      .free = FreeNode,
      .prepare = PrepareNode,
      .invoke = InvokeNode,
      .profiling_string = ProfileNode,
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
      .profiling_string = ProfileNode,
      .custom_name = "DBFDense",
      .version = 1,
  };
  return &registration;
}
