#include "plan/layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/checked.h"
#include "support/require.h"

enum {
  kMaxSide = 1024,  // taps along a side of a kernel; bounds the tables of signs
  kMaxSumsShift = 8,
  kMaxPoolTaps = 128,  // taps of an int8 layer's pool, whose sums are to fit int16
};

// Checks the blob of codes against the grid's size and the number of columns.
static const char* CheckCodes(const DbfLayer* layer, size_t grid) {
  if (layer->codes_bytes != (grid + 7) / 8) return "codes has the wrong length";
  size_t kept = 0;
  for (size_t i = 0; i < layer->codes_bytes; ++i) kept += __builtin_popcount(layer->codes[i]);
  for (size_t g = grid; g < 8 * layer->codes_bytes; ++g) {
    if (DbfLayerKeeps(layer, g)) return "a code lies past the code grid";
  }
  if (kept == 0) return "no code is kept";
  if (kept != layer->num_codes) return "the number of codes differs from the columns of alpha";
  return NULL;
}

const char* DbfLayerCheck(const DbfLayer* layer) {
  if (layer->kernel_h < 1 || layer->kernel_w < 1) return "kernel size below 1";
  if (layer->kernel_h > kMaxSide || layer->kernel_w > kMaxSide) return "kernel size above 1024";
  if (layer->stride_h < 1 || layer->stride_w < 1) return "stride below 1";
  if (layer->dilation_h < 1 || layer->dilation_w < 1) return "dilation below 1";
  if ((int64_t)(layer->kernel_h - 1) * layer->dilation_h >= INT32_MAX ||
      (int64_t)(layer->kernel_w - 1) * layer->dilation_w >= INT32_MAX) {
    return "dilation too large";
  }
  if (layer->channels < 1) return "channels below 1";
  if (layer->filters < 1) return "filters below 1";
  if (layer->activation < kDbfNone || layer->activation > kDbfRelu6) return "unknown activation";
  const size_t grid = DbfMul(DbfMul(layer->kernel_h, layer->kernel_w), layer->channels);
  if (grid > INT32_MAX) return "code grid too large";
  const char* error = CheckCodes(layer, grid);
  if (error != NULL) return error;
  if (layer->alpha_float == NULL && layer->alpha_float16 == NULL) {
    if ((layer->alpha_int8 == NULL && layer->alpha_int4 == NULL) || layer->alpha_scales == NULL) {
      return "no coefficients";
    }
    if (layer->num_scales != 1 && layer->num_scales != (size_t)layer->filters) {
      return "alpha has neither one scale nor one per filter";
    }
  }
  return NULL;
}

int DbfLayerInteger(const DbfLayer* layer, size_t filter, size_t column) {
  DBF_REQUIRE(filter < (size_t)layer->filters && column < layer->num_codes, "no such coefficient");
  const size_t i = filter * layer->num_codes + column;
  if (layer->alpha_int8 != NULL) return layer->alpha_int8[i];
  const int half = layer->alpha_int4[i / 2] >> (i % 2 * 4) & 15;
  return half < 8 ? half : half - 16;
}

float DbfLayerScale(const DbfLayer* layer, size_t filter) {
  return layer->alpha_scales[layer->num_scales > 1 ? filter : 0];
}

float DbfFromFloat16(uint16_t bits) {
  const uint32_t rest = bits & 0x7fff;
  float value;
  if (rest < 0x0400) {  // zero or subnormal
    value = (float)rest * 0x1p-24f;
  } else {
    // The exponent's bias grows from 15 to 127, but for that of infinity and NaN, which is all
    // ones.
    const uint32_t wide = (rest << 13) + ((rest < 0x7c00 ? 127 - 15 : 255 - 31) << 23);
    memcpy(&value, &wide, sizeof(value));
  }
  return bits & 0x8000 ? -value : value;
}

float DbfLayerAlpha(const DbfLayer* layer, size_t filter, size_t column) {
  DBF_REQUIRE(filter < (size_t)layer->filters && column < layer->num_codes, "no such coefficient");
  const size_t i = filter * layer->num_codes + column;
  if (layer->alpha_float != NULL) return layer->alpha_float[i];
  if (layer->alpha_float16 != NULL) return DbfFromFloat16(layer->alpha_float16[i]);
  return (float)DbfLayerInteger(layer, filter, column) * DbfLayerScale(layer, filter);
}

// The side of a pool along an axis of `size` taps, where `bits` are the bits of all kept codes: the
// largest power of two that divides them all.
static int32_t PoolSide(size_t bits, int32_t size) {
  const size_t all = bits | (size_t)size;
  return (int32_t)(all & -all);
}

// Checks the option `sums` of an int8 layer whose pools have so many taps. Returns an error
// message, or NULL.
static const char* CheckSums(const DbfQuantized* quantized, size_t pool_taps) {
  if (pool_taps == 1) return "sums without pools";
  if (pool_taps > kMaxPoolTaps) return "sums of too many taps";
  if (quantized->sums_bytes != 2) return "sums has the wrong length";
  if (quantized->sums[0] > kMaxSumsShift) return "sums is out of range";
  if (quantized->input_zero < -128 || quantized->input_zero > 127) {
    return "a zero point is out of range";
  }
  return NULL;
}

// Sets the sides of the pools that the kept codes allow.
static void FindPools(const DbfLayer* whole, DbfPooledLayer* pooled) {
  const size_t channels = whole->channels, kw = whole->kernel_w;
  size_t vertical = 0, horizontal = 0;
  for (size_t g = 0; g < whole->kernel_h * kw * channels; ++g) {
    if (!DbfLayerKeeps(whole, g)) continue;
    vertical |= g / channels / kw;
    horizontal |= g / channels % kw;
  }
  pooled->pool_h = PoolSide(vertical, whole->kernel_h);
  pooled->pool_w = PoolSide(horizontal, whole->kernel_w);
}

const char* DbfTakePools(const DbfLayer* whole, DbfPooledLayer* pooled) {
  *pooled = (DbfPooledLayer){.layer = *whole, .pool_h = 1, .pool_w = 1};
  const DbfQuantized* quantized = whole->quantized;
  if (quantized != NULL && quantized->sums == NULL) return NULL;
  FindPools(whole, pooled);
  const int32_t pool_h = pooled->pool_h, pool_w = pooled->pool_w;
  DbfLayer* left = &pooled->layer;
  if (quantized != NULL) {
    const char* error = CheckSums(quantized, (size_t)pool_h * pool_w);
    if (error != NULL) return error;
    pooled->image_zero = quantized->input_zero;
    pooled->sums_shift = quantized->sums[0];
    pooled->quantized = *quantized;
    pooled->quantized.input_scale = ldexpf(quantized->input_scale, quantized->sums[0]);
    pooled->quantized.input_zero = (int8_t)quantized->sums[1];
    left->quantized = &pooled->quantized;
  }
  if (pool_h == 1 && pool_w == 1) return NULL;
  const size_t channels = whole->channels, kw = whole->kernel_w;
  const size_t grid = whole->kernel_h * kw * channels;
  left->kernel_h /= pool_h;
  left->kernel_w /= pool_w;
  left->codes_bytes = (grid / pool_h / pool_w + 7) / 8;
  left->codes = pooled->codes = DbfAllocate(left->codes_bytes, 1);
  if (pooled->codes == NULL) return "out of memory";
  for (size_t g = 0; g < grid; ++g) {
    if (!DbfLayerKeeps(whole, g)) continue;
    const size_t u = g / channels / kw / pool_h, v = g / channels % kw / pool_w;
    const size_t to = (u * left->kernel_w + v) * channels + g % channels;
    pooled->codes[to >> 3] |= 1 << (to & 7);
  }
  return NULL;
}

void DbfPooledLayerFree(DbfPooledLayer* pooled) { free(pooled->codes); }
