// Int8 layers against the arithmetic of FORMAT.md, bit for bit, over random layers, on every
// instruction set that this processor has.

#include <math.h>
#include <string.h>

#include "engine/conv.h"
#include "tests/quantized.h"
#include "tests/testing.h"

static int32_t Clamp16(int32_t x) { return Clamp(x, -32768, 32767); }
static int32_t Round(int shift) { return shift > 0 ? 1 << (shift - 1) : 0; }
static int Sign(int i, int j) { return __builtin_parity(i & j) ? -1 : 1; }

// MultiplyByQuantizedMultiplier and QuantizeMultiplier of TFLite's reference, for multipliers below
// one, written from their description.
static int32_t Requantized(int32_t acc, double multiplier) {
  int exponent;
  const double fraction = frexp(multiplier, &exponent);
  int64_t fixed = llround(fraction * 2147483648.0);
  if (fixed == 2147483648) {
    fixed /= 2;
    ++exponent;
  }
  if (exponent < -31) fixed = exponent = 0;
  const int64_t product = acc * fixed, nudge = product >= 0 ? 1 << 30 : 1 - (1 << 30);
  const int64_t high = (product + nudge) / (1ll << 31);  // rounds towards zero
  const int64_t half = exponent < 0 ? 1ll << (-exponent - 1) : 0;
  return (int32_t)((high >= 0 ? high + half : high - half) / (1ll << -exponent));
}

// The pixel of a tap that is left, which begins at (top, x) of the image.
static void TapPixel(const DbfLayer* whole, const Left* left, const int8_t* image, int height,
                     int width, int top, int x, int8_t* pixel) {
  const DbfQuantized* q = whole->quantized;
  for (int c = 0; c < whole->channels; ++c) {
    int32_t sum = 0;
    for (int i = 0; i < left->pool_h * left->pool_w; ++i) {
      const int row = top + i / left->pool_w * whole->dilation_h;
      const int column = x + i % left->pool_w * whole->dilation_w;
      if (row < 0 || row >= height || column < 0 || column >= width) continue;
      sum += image[(row * width + column) * whole->channels + c] - q->input_zero;
    }
    const int shift = q->sums != NULL ? q->sums[0] : 0;
    pixel[c] =
        (int8_t)Clamp(left->quantized.input_zero + ((sum + Round(shift)) >> shift), -128, 127);
  }
}

// Computes p_w of a pixel, for all channel codes.
static void Project(const DbfLayer* layer, const Set* set, const int8_t* pixel, int32_t* p) {
  const int channels = layer->channels;
  int padded = 1;
  while (padded < channels) padded *= 2;
  int32_t* x = calloc(padded, sizeof(*x));
  for (int c = 0; c < channels; ++c) x[c] = pixel[c];
  if (set->group_form) {
    memset(p, 0, channels * sizeof(*p));
    for (int c = 0; c < channels; ++c) p[c >> set->m << set->m] += x[c];
  } else {
    for (int h = 1; h < padded; h *= 2) {
      for (int i = 0; i < padded; ++i) {
        if (i & h) continue;
        const int32_t a = h < 256 ? x[i] : x[i] >> 1, b = h < 256 ? x[i + h] : x[i + h] >> 1;
        x[i] = a + b;
        x[i + h] = a - b;
      }
    }
    memcpy(p, x, channels * sizeof(*p));
  }
  free(x);
}

// A layer as the definition takes it apart.
typedef struct Definition {
  const DbfLayer* whole;
  Left left;
  Set set;
  int32_t* p;               // [kh·kw, C] p_w of the pixels of all taps
  int32_t* p0;              // [C] p_w of a pixel of padding
  int8_t* pixel;            // [C] scratch
  const uint8_t** channel;  // [C] roundings of channel codes; in group form all are the same one
  const uint8_t** code;     // [P] roundings of kept partial codes
  int32_t* features;        // [n] less their zero points, shifted by their exponents
} Definition;

static Definition Define(const DbfLayer* whole) {
  Definition d = {.whole = whole, .left = LeftOf(whole)};
  const DbfLayer* layer = &d.left.layer;
  const int channels = layer->channels, spatial = layer->kernel_h * layer->kernel_w;
  d.set = SetOf(layer);
  d.p = malloc(sizeof(*d.p) * channels * spatial);
  d.p0 = malloc(sizeof(*d.p0) * channels);
  d.pixel = malloc(channels);
  d.features = malloc(layer->num_codes * sizeof(*d.features));
  memset(d.pixel, d.left.quantized.input_zero, channels);
  Project(layer, &d.set, d.pixel, d.p0);
  d.channel = calloc(channels, sizeof(*d.channel));
  d.code = calloc(spatial * channels, sizeof(*d.code));
  const uint8_t* next = d.left.quantized.features;
  for (int w = 0; w < channels; ++w) {
    if (!d.set.occurs[w]) continue;
    d.channel[w] = next;
    if (!d.set.group_form) next += 3;
  }
  for (int g = 0; g < spatial * channels; ++g) {
    if (!Kept(layer, g) || d.set.full[g % channels]) continue;
    d.code[g] = next;
    next += 3;
  }
  return d;
}

static void FreeDefinition(Definition* d) {
  free(d->p);
  free(d->p0);
  free(d->pixel);
  free(d->left.codes);
  free((void*)d->channel);
  free((void*)d->code);
  free(d->features);
  free(d->set.occurs);
  free(d->set.full);
}

// The feature of kept code g, from d->p.
__attribute__((no_sanitize("address", "thread"))) static int32_t FeatureOf(const Definition* d,
                                                                           int g) {
  const DbfLayer* layer = &d->left.layer;
  const int kw = layer->kernel_w, spatial = layer->kernel_h * kw, channels = layer->channels;
  const int w = g % channels, u = g / channels / kw, v = g / channels % kw;
  const bool full = d->set.full[w];
  const int bound = 32767 / spatial;
  const uint8_t* rounding = full ? d->channel[w] : d->code[g];
  int32_t sum = 0;
  for (int t = 0; t < spatial; ++t) {
    if (full && t != u * kw + v) continue;
    const int32_t value = d->p[t * channels + w] - d->p0[w];
    if (full) {
      sum = value;
    } else {
      const int a = d->channel[w][0];
      sum +=
          Sign(u, t / kw) * Sign(v, t % kw) * Clamp(Clamp16(value + Round(a)) >> a, -bound, bound);
    }
  }
  const int s = rounding[0], z = (int8_t)rounding[1];
  sum += Round(s) + z * (1 << s);
  if (!d->set.group_form) sum = Clamp16(sum);
  return (Clamp(sum >> s, -128, 127) - z) * (1 << rounding[2]);
}

// The output of filter k, from d->features.
__attribute__((no_sanitize("address", "thread"))) static int8_t OutputOf(const Definition* d,
                                                                         int k) {
  const DbfLayer* layer = &d->left.layer;
  const DbfQuantized* q = &d->left.quantized;
  int64_t acc = q->bias != NULL ? q->bias[k] : 0;
  for (size_t j = 0; j < layer->num_codes; ++j) {
    acc += (int64_t)layer->alpha_int8[k * layer->num_codes + j] * d->features[j];
  }
  const double multiplier = (double)q->input_scale *
                            (double)layer->alpha_scales[layer->num_scales > 1 ? k : 0] /
                            (double)q->output_scale;
  int32_t low = -128, high = 127;
  const float step = q->output_scale;
  if (layer->activation == kDbfRelu || layer->activation == kDbfRelu6) low = q->output_zero;
  if (layer->activation == kDbfReluN1To1) {
    low = (int32_t)fmax(low, q->output_zero + roundf(-1 / step));
  }
  const float top_value = layer->activation == kDbfRelu6 ? 6 : 1;
  if (layer->activation == kDbfRelu6 || layer->activation == kDbfReluN1To1) {
    high = (int32_t)fmin(high, q->output_zero + roundf(top_value / step));
  }
  return (int8_t)Clamp(q->output_zero + Requantized((int32_t)acc, multiplier), low, high);
}

// The padding before an image of `in` pixels, along one axis.
static int PaddingBefore(bool same, int in, int out, int kernel, int stride, int dilation) {
  const int needed = (out - 1) * stride + (kernel - 1) * dilation + 1 - in;
  return same && needed > 0 ? needed / 2 : 0;
}

// The output of an int8 layer; the caller frees it. Every feature of every pixel is computed anew.
static int8_t* ReferenceInt8(const DbfLayer* whole, const int8_t* input, Images images, int out_h,
                             int out_w) {
  Definition d = Define(whole);
  const DbfLayer* layer = &d.left.layer;
  const int kw = layer->kernel_w, spatial = layer->kernel_h * kw, channels = layer->channels;
  const int top = PaddingBefore(whole->same_padding, images.height, out_h, whole->kernel_h,
                                whole->stride_h, whole->dilation_h);
  const int before = PaddingBefore(whole->same_padding, images.width, out_w, whole->kernel_w,
                                   whole->stride_w, whole->dilation_w);
  const int pixels = images.batch * out_h * out_w;
  int8_t* output = malloc((size_t)pixels * layer->filters + 1);
  int8_t* out = output;
  for (int i = 0; i < pixels; ++i) {
    const int n = i / (out_h * out_w), oy = i / out_w % out_h, ox = i % out_w;
    const int8_t* image = input + (size_t)n * images.height * images.width * channels;
    for (int t = 0; t < spatial; ++t) {
      const int y = oy * layer->stride_h + t / kw * d.left.pool_h * layer->dilation_h - top;
      const int x = ox * layer->stride_w + t % kw * d.left.pool_w * layer->dilation_w - before;
      TapPixel(whole, &d.left, image, images.height, images.width, y, x, d.pixel);
      Project(layer, &d.set, d.pixel, d.p + t * channels);
    }
    size_t column = 0;
    for (int g = 0; g < spatial * channels; ++g) {
      if (Kept(layer, g)) d.features[column++] = FeatureOf(&d, g);
    }
    for (int k = 0; k < layer->filters; ++k) *out++ = OutputOf(&d, k);
  }
  FreeDefinition(&d);
  return output;
}

static void CheckLayer(const DbfLayer* layer, const DbfKernels* kernels, int batch, int height,
                       int width, int threads) {
  const char* error;
  DbfConv* conv = DbfConvCreate(layer, kernels, &error);
  CHECK(conv != NULL, "%s", error);
  for (int round = 0; round < 2; ++round, batch += 1, height += 3, width += 2) {
    error = DbfConvResize(conv, batch, height, width, threads, conv);
    CHECK(error == NULL, "%s", error);
    int32_t out_h, out_w;
    CHECK(DbfConvOutputSize(conv, height, width, &out_h, &out_w) == NULL, "output size");
    const size_t count = (size_t)batch * height * width * layer->channels;
    int8_t* input = malloc(count + 1);
    const int low = RandomIn(0, 1) ? -128 : layer->quantized->input_zero - RandomIn(0, 30);
    for (size_t i = 0; i < count; ++i) {
      input[i] = (int8_t)Clamp((int)(40 * RandomNormal()) + layer->quantized->input_zero,
                               Clamp(low, -128, 127), 127);
    }
    int8_t* expected = ReferenceInt8(layer, input, (Images){batch, height, width}, out_h, out_w);
    const size_t outputs = (size_t)batch * out_h * out_w * layer->filters;
    int8_t* output = malloc(outputs + 1);
    for (int time = 0; time < 2; ++time) {
      memset(output, 0x55, outputs);
      SpoilScratch(conv, DbfConvScratchBytes(conv));
      DbfConvInvoke(conv, input, output);
      for (size_t i = 0; i < outputs; ++i) {
        CHECK(output[i] == expected[i],
              "%s: kernel %dx%d stride %dx%d dilation %dx%d same %d channels %d filters %d codes "
              "%zu, input %dx%dx%d, %d threads: %d, not %d, at %zu",
              kernels->name, layer->kernel_h, layer->kernel_w, layer->stride_h, layer->stride_w,
              layer->dilation_h, layer->dilation_w, layer->same_padding, layer->channels,
              layer->filters, layer->num_codes, batch, height, width, threads, output[i],
              expected[i], i);
      }
    }
    free(input);
    free(expected);
    free(output);
  }
  DbfConvFree(conv);
}

static void TestRandomLayers(int count) {
  for (int i = 0; i < count; ++i) {
    RandomSeed(i);
    TestLayer test;
    TestQuantized random;
    RandomLayer(&test, true);
    MakeScalesPositive(&test);
    FillQuantized(&test.layer, &random);
    const DbfLayer* layer = &test.layer;
    const int least_h = layer->same_padding ? 1 : (layer->kernel_h - 1) * layer->dilation_h + 1;
    const int least_w = layer->same_padding ? 1 : (layer->kernel_w - 1) * layer->dilation_w + 1;
    const int height = least_h + RandomIn(0, 9), width = least_w + RandomIn(0, 20);
    const int batch = RandomIn(1, 2), threads = RandomIn(1, 3);
    bool more = true;
    for (size_t v = 0; more; ++v) {
      const DbfKernels* kernels = DbfKernelsAt(v, &more);
      if (kernels != NULL) CheckLayer(layer, kernels, batch, height, width, threads);
    }
    FreeQuantized(&random);
    FreeLayer(&test);
  }
}

// Numbers that contradict each other.
static void TestBadLayers(void) {
  TestLayer test = {.layer = {3, 3, 1, 1, 1, 1, 8, 4, true, kDbfNone, .bias = NULL}};
  bool kept[72] = {false};
  for (int g = 0; g < 72; g += 5) kept[g] = true;
  FillLayer(&test, kept, true, true, false);
  MakeScalesPositive(&test);
  const size_t channels = 8, codes = test.layer.num_codes;
  uint8_t features[3 * 80] = {0};
  int32_t bias[4] = {0};
  const DbfQuantized good = {.input_scale = 0.5f,
                             .output_scale = 4.0f,
                             .input_zero = 3,
                             .output_zero = -5,
                             .features = features,
                             .features_bytes = 3 * (channels + codes),
                             .bias = bias};
  const char* error;
#define TRY(condition, field, value)                                      \
  do {                                                                    \
    DbfQuantized quantized = good;                                        \
    quantized.field = value;                                              \
    test.layer.quantized = &quantized;                                    \
    DbfConv* conv = DbfConvCreate(&test.layer, DbfKernelsBest(), &error); \
    CHECK((conv != NULL) == condition, #field " = " #value ": %s",        \
          error != NULL ? error : "made");                                \
    CHECK((conv == NULL) == (error != NULL), #field);                     \
    DbfConvFree(conv);                                                    \
  } while (0)
  TRY(true, input_zero, 3);
  TRY(false, input_zero, 128);
  TRY(false, output_zero, -129);
  TRY(false, input_scale, 0);
  TRY(false, output_scale, NAN);
  TRY(false, output_scale, 1e-9f);  // a multiplier above 1
  TRY(false, features_bytes, good.features_bytes - 3);
  features[0] = 9;  // the shift of a channel code
  TRY(false, input_zero, 3);
  features[0] = 0;
  features[1] = 1;  // a partial channel code has no zero point
  TRY(false, input_zero, 3);
  features[1] = 0;
  features[3 * channels + 2] = 16;  // the exponent of a feature
  TRY(false, input_zero, 3);
  features[3 * channels + 2] = 15;
  ((int8_t*)test.alpha)[0] = 127;
  TRY(true, input_zero, 3);
  bias[0] = INT32_MAX;  // the accumulators overflow
  TRY(false, input_zero, 3);
#undef TRY
  FreeLayer(&test);
}

// Sums that contradict the layer.
static void TestBadSums(void) {
  const uint8_t sums[] = {2, 5, 0}, far[] = {9, 5};
  uint8_t features[3] = {0, 5, 0};
  const DbfQuantized good = {.input_scale = 0.5f,
                             .output_scale = 4.0f,
                             .features = features,
                             .features_bytes = sizeof(features),
                             .sums = sums,
                             .sums_bytes = 2};
  const struct {
    DbfQuantized quantized;
    int side, kept;
    const char* error;
  } cases[] = {
      {good, 2, 0, NULL},
      {good, 2, 3, "sums without pools"},
      {good, 16, 0, "sums of too many taps"},
      {{.sums = far, .sums_bytes = 2}, 2, 0, "sums is out of range"},
      {{.sums = sums, .sums_bytes = 3}, 2, 0, "sums has the wrong length"},
      {{.sums = sums, .sums_bytes = 2, .input_zero = 200}, 2, 0, "a zero point is out of range"},
      {{.sums = sums, .sums_bytes = 2}, 2, 0, "a scale is not positive"},
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    const int side = cases[i].side;
    TestLayer test = {.layer = {side, side, 1, 1, 1, 1, 1, 4, true, kDbfNone, .bias = NULL}};
    bool kept[256] = {false};
    kept[cases[i].kept] = true;
    FillLayer(&test, kept, true, true, false);
    MakeScalesPositive(&test);
    for (size_t k = 0; k < test.layer.num_scales; ++k) test.scales[k] = fminf(test.scales[k], 1);
    test.layer.quantized = &cases[i].quantized;
    const char* error;
    DbfConvFree(DbfConvCreate(&test.layer, DbfKernelsBest(), &error));
    const char* wanted = cases[i].error;
    CHECK(error == wanted || (error != NULL && wanted != NULL && strcmp(error, wanted) == 0),
          "case %zu: %s", i, error != NULL ? error : "made");
    FreeLayer(&test);
  }
}

int main(int argc, char** argv) {
  TestBadLayers();
  TestBadSums();
  TestRandomLayers(argc > 1 ? atoi(argv[1]) : 200);
  printf("int8_test: %ld checks\n", num_checks);
  return 0;
}
