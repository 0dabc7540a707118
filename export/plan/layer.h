// A layer as the file describes it (FORMAT.md): its numbers, checked against each other, and the
// layer that is left when its pools are taken out.

#ifndef DBF_EXPORT_PLAN_LAYER_H_
#define DBF_EXPORT_PLAN_LAYER_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum DbfActivation {
  kDbfNone = 0,
  kDbfRelu = 1,
  kDbfReluN1To1 = 2,
  kDbfRelu6 = 3,
} DbfActivation;

// What a layer with int8 input and output has besides.
typedef struct DbfQuantized {
  float input_scale, output_scale;
  int32_t input_zero, output_zero;
  const uint8_t* features;  // option `features`: a rounding is three bytes
  size_t features_bytes;
  const uint8_t* sums;  // option `sums`: two bytes; NULL if the layer does not have it
  size_t sums_bytes;
  const int32_t* bias;   // [filters], or NULL
  bool levels;           // whether the numbers of alpha are levels, from which coefficients follow
  const uint8_t* peaks;  // [filters] largest coefficients, if there are levels; NULL: all are 127
} DbfQuantized;

// A dense layer is a 1 x 1 convolution.
typedef struct DbfLayer {
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t channels;
  int32_t filters;
  bool same_padding;
  DbfActivation activation;
  const uint8_t* codes;  // bit set over the code grid
  size_t codes_bytes;
  // [filters, num_codes], in one of these types; the others are NULL.
  const float* alpha_float;
  const uint16_t* alpha_float16;  // IEEE half precision
  const int8_t* alpha_int8;
  const uint8_t* alpha_int4;  // two numbers a byte
  const float* alpha_scales;  // for integers: one per filter, or one in all
  size_t num_scales;
  size_t num_codes;
  const float* bias;              // [filters], or NULL
  const DbfQuantized* quantized;  // NULL for a float layer
} DbfLayer;

// Checks all numbers of a layer against each other, so that the number of taps and all indices of
// the code grid are bounded by the blob of codes. Returns an error message, or NULL.
const char* DbfLayerCheck(const DbfLayer* layer);

// Whether the layer keeps grid code g.
static inline bool DbfLayerKeeps(const DbfLayer* layer, size_t g) {
  return layer->codes[g >> 3] >> (g & 7) & 1;
}

// The number that 16 bits of half precision mean.
float DbfFromFloat16(uint16_t bits);

// The coefficient in a column of `filter`, without its scale; the coefficients must be integers.
int DbfLayerInteger(const DbfLayer* layer, size_t filter, size_t column);

// The scale of a filter's coefficients, which must be integers.
float DbfLayerScale(const DbfLayer* layer, size_t filter);

// The coefficient in a column of `filter`, of any type.
float DbfLayerAlpha(const DbfLayer* layer, size_t filter, size_t column);

// What is left of a layer when its pools are taken out: the pooled sums are its pixels. It points
// to itself and to the whole layer, so it is not to be copied nor to outlive that.
typedef struct DbfPooledLayer {
  DbfLayer layer;          // the layer over the pooled sums; without pools, the whole layer
  int32_t pool_h, pool_w;  // taps of a pool; 1 x 1 if there are no pools
  int32_t image_zero;      // int8 layers: the image's zero point
  int sums_shift;          // int8 layers: bits by which pooled sums are shifted right
  DbfQuantized quantized;  // where layer.quantized points, if pooled sums are rounded
  uint8_t* codes;          // where layer.codes points, if there are pools; else NULL
} DbfPooledLayer;

// Takes the pools out of `whole`, which DbfLayerCheck has passed. Pools are the largest windows of
// 2^a x 2^b neighbouring taps that all kept codes are constant over and that divide the kernel; an
// int8 layer has them only if its option `sums` says how to round their sums. Returns an error
// message, with nothing to free, or NULL.
const char* DbfTakePools(const DbfLayer* whole, DbfPooledLayer* pooled);

void DbfPooledLayerFree(DbfPooledLayer* pooled);

// (−1)^popcount(i & j): an entry of a Hadamard matrix in natural order.
static inline int DbfSign(uint32_t i, uint32_t j) { return __builtin_parity(i & j) ? -1 : 1; }

#endif  // DBF_EXPORT_PLAN_LAYER_H_
