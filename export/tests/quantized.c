#include "tests/quantized.h"

#include <math.h>

int32_t Clamp(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

bool Kept(const DbfLayer* layer, int g) { return layer->codes[g >> 3] >> (g & 7) & 1; }

Set SetOf(const DbfLayer* layer) {
  const int channels = layer->channels, spatial = layer->kernel_h * layer->kernel_w;
  Set set = {.occurs = calloc(channels, 1), .full = calloc(channels, 1), .group_form = true};
  int any = 0;
  for (int w = 0; w < channels; ++w) {
    int count = 0;
    for (int s = 0; s < spatial; ++s) count += Kept(layer, s * channels + w);
    set.occurs[w] = count > 0;
    set.full[w] = count == spatial;
    if (count > 0) any |= w;
  }
  while ((1 << set.m) < channels && !(any >> set.m & 1)) ++set.m;
  for (int w = 0; w < channels; ++w) {
    if (w % (1 << set.m) == 0 ? !set.full[w] : set.occurs[w]) set.group_form = false;
  }
  return set;
}

// The largest power of two that divides a number, here all of those in `bits`.
static int Divisor(int bits) { return bits & -bits; }

Left LeftOf(const DbfLayer* layer) {
  const int kh = layer->kernel_h, kw = layer->kernel_w, channels = layer->channels;
  Left left = {*layer, *layer->quantized, NULL, 1, 1};
  int vertical = kh, horizontal = kw;
  for (int g = 0; g < kh * kw * channels; ++g) {
    if (!Kept(layer, g)) continue;
    vertical |= g / channels / kw;
    horizontal |= g / channels % kw;
  }
  if (layer->quantized->sums != NULL) {
    left.pool_h = Divisor(vertical);
    left.pool_w = Divisor(horizontal);
    left.quantized.input_zero = (int8_t)layer->quantized->sums[1];
    left.quantized.input_scale *= (float)(1 << layer->quantized->sums[0]);
  }
  left.layer.kernel_h = kh / left.pool_h;
  left.layer.kernel_w = kw / left.pool_w;
  left.codes = calloc(layer->codes_bytes, 1);
  for (int g = 0; g < kh * kw * channels; ++g) {
    if (!Kept(layer, g)) continue;
    const int u = g / channels / kw / left.pool_h, v = g / channels % kw / left.pool_w;
    const int to = (u * left.layer.kernel_w + v) * channels + g % channels;
    left.codes[to >> 3] |= 1 << (to & 7);
  }
  left.layer.codes = left.codes;
  return left;
}

// Features whose shifts fit a random input, so that few saturate, and exponents that stay within
// the bound of accumulators.
static void FillFeatures(const DbfLayer* whole, uint8_t* features, size_t* bytes) {
  const Left left = LeftOf(whole);
  const DbfLayer* layer = &left.layer;
  const Set set = SetOf(layer);
  const int spatial = layer->kernel_h * layer->kernel_w;
  const int mean = (int)(log2(layer->channels) / 2), spread = (int)(log2(spatial) / 2);
  uint8_t* next = features;
  const bool exponents = RandomIn(0, 1);
#define PUT(shift, limit, zero, exponent)                          \
  do {                                                             \
    *next++ = (uint8_t)Clamp((shift) + RandomIn(-1, 2), 0, limit); \
    *next++ = (uint8_t)(zero);                                     \
    *next++ = (uint8_t)(exponent);                                 \
  } while (0)
  const int w_end = set.group_form ? 1 : layer->channels;
  for (int w = 0; w < w_end; ++w) {
    if (!set.occurs[w] && !set.group_form) continue;
    if (set.group_form && RandomIn(0, 1)) {  // the common case: nothing is lost
      *next++ = (uint8_t)set.m;
      *next++ = (uint8_t)left.quantized.input_zero;
      *next++ = 0;
    } else if (set.full[w]) {
      PUT(set.group_form ? set.m : mean, set.group_form ? 16 : 8, RandomIn(-128, 127),
          exponents ? RandomIn(0, 2) : 0);
    } else {
      PUT(mean - 2, 8, 0, 0);
    }
  }
  for (int g = 0; g < spatial * layer->channels; ++g) {
    if (Kept(layer, g) && !set.full[g % layer->channels]) {
      PUT(2 + spread, 8, RandomIn(0, 3) ? 0 : RandomIn(-128, 127), exponents ? RandomIn(0, 2) : 0);
    }
  }
#undef PUT
  *bytes = next - features;
  free(left.codes);
  free(set.occurs);
  free(set.full);
}

void MakeScalesPositive(TestLayer* test) {
  for (size_t i = 0; i < test->layer.num_scales; ++i) {
    test->scales[i] = fabsf(test->scales[i]) + 1e-6f;
  }
}

void FillQuantized(DbfLayer* layer, TestQuantized* random) {
  *random = (TestQuantized){
      .quantized =
          {
              .input_scale = expf(RandomNormal()),
              .input_zero = RandomIn(0, 1) ? -128 : RandomIn(-128, 127),
              .output_zero = RandomIn(0, 1) ? -128 : RandomIn(-128, 127),
          },
      .sums = {(uint8_t)RandomIn(0, 4), (uint8_t)RandomIn(-128, 127)},
      .bias = malloc(layer->filters * sizeof(*random->bias)),
      .features = malloc(3 * (layer->channels + layer->num_codes)),
  };
  DbfQuantized* quantized = &random->quantized;
  layer->quantized = quantized;
  for (int k = 0; k < layer->filters; ++k) random->bias[k] = RandomIn(-3000, 3000);
  if (RandomIn(0, 3)) quantized->bias = random->bias;
  quantized->sums = random->sums;
  quantized->sums_bytes = sizeof(random->sums);
  const Left left = LeftOf(layer);
  if (left.pool_h * left.pool_w == 1 || RandomIn(0, 3) == 0) quantized->sums = NULL;
  free(left.codes);
  FillFeatures(layer, random->features, &quantized->features_bytes);
  quantized->features = random->features;
  // Sums of about this size become outputs of about 60.
  const double sums = 60 * 60 * sqrt((double)layer->num_codes);
  float largest = 0;
  for (size_t k = 0; k < layer->num_scales; ++k) {
    largest = fmaxf(largest, layer->alpha_scales[k]);
  }
  quantized->output_scale = quantized->input_scale *
                            (quantized->sums != NULL ? 1 << random->sums[0] : 1) * largest *
                            (float)fmax(1.1, sums / 60 * exp(RandomNormal() / 2));
}

void FreeQuantized(TestQuantized* random) {
  free(random->features);
  free(random->bias);
}
