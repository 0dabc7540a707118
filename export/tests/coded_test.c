// Coded layers (FORMAT.md, version 2): what is decoded is what was coded; convolutions of them have
// the bits of those of version 1; damaged ones are errors, and soon.

#include "plan/coded.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "engine/conv.h"
#include "tests/coding.h"
#include "tests/quantized.h"
#include "tests/testing.h"

static double Seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// A layer of levels and all that it takes to code it. `layer` is what is to be decoded.
typedef struct TestCoded {
  TestLayer test;
  TestQuantized quantized;  // if the layer is an int8 one
  Coding coding;
  uint16_t* steps;
  uint8_t* bias_bytes;
  uint8_t* peaks;
  uint8_t* data;
  size_t size;
} TestCoded;

// About Laplace's distribution, of so large a mean.
static int8_t RandomLevel(float mean) {
  const float size = -mean * logf(((float)Random() + 1) / 4294967296.0f);
  const int level = (int)fminf(size, 127);
  return (int8_t)(RandomIn(0, 1) ? level : -level);
}

static void FillLevels(TestCoded* coded) {
  const DbfLayer* layer = &coded->test.layer;
  const float means[] = {0, 0.3f, 0.8f, 3, 30, 200}, mean = means[RandomIn(0, 5)];
  int8_t* levels = coded->test.alpha;
  int largest = 0;
  for (size_t i = 0; i < layer->filters * layer->num_codes; ++i) {
    levels[i] = RandomLevel(mean);
    if (abs(levels[i]) > largest) largest = abs(levels[i]);
  }
  const int magnitudes[] = {largest, largest / 2, 0, RandomIn(0, 127)};
  coded->coding.magnitude = magnitudes[RandomIn(0, 3)];
}

// Random steps: positive ones for an int8 layer, else any.
static void FillSteps(TestCoded* coded, bool is_int8) {
  DbfLayer* layer = &coded->test.layer;
  coded->steps = malloc(layer->num_scales * sizeof(*coded->steps));
  coded->coding.exponent = RandomIn(0, 3) ? RandomIn(-12, 0) : is_int8 ? -20 : RandomIn(-100, 30);
  for (size_t k = 0; k < layer->num_scales; ++k) {
    coded->steps[k] = (uint16_t)RandomIn(0x3000, 0x3fff);
    if (!is_int8 && RandomIn(0, 7) == 0) coded->steps[k] = (uint16_t)RandomIn(0, 0x7bff);
    if (!is_int8 && RandomIn(0, 7) == 0) coded->steps[k] |= 0x8000;
    if (!is_int8 && RandomIn(0, 15) == 0) coded->steps[k] = 0;
    coded->test.scales[k] = (float)ldexp(HalfValue(coded->steps[k]), coded->coding.exponent);
  }
  coded->coding.steps = coded->steps;
}

// A random bias of a random kind.
static void FillBias(TestCoded* coded, bool is_int8) {
  DbfLayer* layer = &coded->test.layer;
  Coding* coding = &coded->coding;
  const bool any = is_int8 ? coded->quantized.quantized.bias != NULL : layer->bias != NULL;
  coding->bias = !any ? 0 : RandomIn(0, 1) ? 3 : is_int8 ? 2 : 1;
  coding->bias_bytes = coded->bias_bytes = malloc(4 * (size_t)layer->filters);
  for (int k = 0; any && k < layer->filters; ++k) {
    uint32_t bits;
    if (is_int8) {
      bits = (uint32_t)coded->quantized.bias[k];
    } else if (coding->bias == 1) {
      bits = (uint32_t)RandomIn(0, 0x7bff) | (uint32_t)RandomIn(0, 1) << 15;
      coded->test.bias[k] = (float)HalfValue((uint16_t)bits);
    } else {
      memcpy(&bits, &coded->test.bias[k], sizeof(bits));
    }
    for (int b = 0; b <= coding->bias; ++b) {
      coded->bias_bytes[k * (coding->bias + 1) + b] = (uint8_t)(bits >> 8 * b);
    }
  }
}

static void Encode(TestCoded* coded) {
  coded->data = EncodeLayer(&coded->test.layer, &coded->coding, &coded->size);
}

static void RandomCoded(TestCoded* coded, bool is_int8) {
  memset(coded, 0, sizeof(*coded));
  RandomLayer(&coded->test, true);
  DbfLayer* layer = &coded->test.layer;
  FillLevels(coded);
  FillSteps(coded, is_int8);
  if (is_int8) {
    free(coded->test.bias);
    layer->bias = coded->test.bias = NULL;
    FillQuantized(layer, &coded->quantized);
    coded->quantized.quantized.levels = true;
    coded->peaks = malloc(layer->filters);
    for (int k = 0; k < layer->filters; ++k) coded->peaks[k] = (uint8_t)RandomIn(0, 127);
    if (RandomIn(0, 1)) coded->quantized.quantized.peaks = coded->peaks;
  }
  FillBias(coded, is_int8);
  coded->coding.codes = -1;
  coded->coding.tables = RandomIn(0, 2) ? RandomIn(1, 16) : 1;
  Encode(coded);
}

static void FreeCoded(TestCoded* coded) {
  if (coded->test.layer.quantized != NULL) FreeQuantized(&coded->quantized);
  FreeLayer(&coded->test);
  free(coded->steps);
  free(coded->bias_bytes);
  free(coded->peaks);
  free(coded->data);
}

// What is known of a layer before its coded tensor is read.
static DbfLayer Blank(const DbfLayer* layer) {
  DbfLayer blank = *layer;
  blank.codes = NULL;
  blank.codes_bytes = blank.num_scales = blank.num_codes = 0;
  blank.alpha_int8 = NULL;
  blank.alpha_scales = NULL;
  blank.bias = NULL;
  blank.quantized = NULL;
  return blank;
}

static DbfQuantized BlankQuantized(const DbfLayer* layer) {
  if (layer->quantized == NULL) return (DbfQuantized){0};
  return (DbfQuantized){.input_scale = layer->quantized->input_scale,
                        .output_scale = layer->quantized->output_scale,
                        .input_zero = layer->quantized->input_zero,
                        .output_zero = layer->quantized->output_zero};
}

// A layer that was read, and what it points to.
typedef struct Read {
  DbfLayer layer;
  DbfQuantized quantized;
  DbfCoded coded;
} Read;

static const char* ReadLayer(const DbfLayer* like, const uint8_t* data, size_t size, Read* read) {
  read->layer = Blank(like);
  read->quantized = BlankQuantized(like);
  return DbfCodedRead(data, size, &read->layer, like->quantized != NULL ? &read->quantized : NULL,
                      &read->coded);
}

static void CheckBlob(const uint8_t* got, size_t got_bytes, const uint8_t* wanted, size_t bytes,
                      const char* name) {
  CHECK((got != NULL) == (wanted != NULL), "%s", name);
  if (wanted == NULL) return;
  CHECK(got_bytes == bytes && memcmp(got, wanted, bytes) == 0, "%s of %zu bytes", name, bytes);
}

// What was read against what was coded.
static void CheckRead(const DbfLayer* got, const DbfLayer* wanted) {
  const size_t filters = wanted->filters;
  CHECK(got->num_codes == wanted->num_codes, "%zu codes, not %zu", got->num_codes,
        wanted->num_codes);
  CheckBlob(got->codes, got->codes_bytes, wanted->codes, wanted->codes_bytes, "codes");
  CHECK(memcmp(got->alpha_int8, wanted->alpha_int8, filters * wanted->num_codes) == 0, "levels");
  CHECK(got->num_scales == (filters > 1 ? wanted->num_scales : 1), "%zu steps", got->num_scales);
  CHECK(memcmp(got->alpha_scales, wanted->alpha_scales, got->num_scales * sizeof(float)) == 0,
        "steps");
  CheckBlob((const uint8_t*)got->bias, 4 * filters, (const uint8_t*)wanted->bias, 4 * filters,
            "bias");
  const DbfQuantized *q = got->quantized, *r = wanted->quantized;
  CHECK((q != NULL) == (r != NULL), "the type");
  if (r == NULL) return;
  CheckBlob((const uint8_t*)q->bias, 4 * filters, (const uint8_t*)r->bias, 4 * filters, "bias");
  CheckBlob(q->features, q->features_bytes, r->features, r->features_bytes, "features");
  CheckBlob(q->sums, q->sums_bytes, r->sums, r->sums_bytes, "sums");
  CheckBlob(q->peaks, filters, r->peaks, filters, "peaks");
  CHECK(q->levels, "they are levels");
}

// Coefficients of an int8 layer, from its levels as FORMAT.md says; the caller frees them.
static int8_t* Coefficients(const DbfLayer* whole) {
  const Left left = LeftOf(whole);
  const DbfLayer* layer = &left.layer;
  const DbfQuantized* q = whole->quantized;
  const Set set = SetOf(layer);
  const int kw = layer->kernel_w, spatial = layer->kernel_h * kw, channels = layer->channels;
  const size_t columns = layer->num_codes;
  int8_t* coefficients = calloc(layer->filters, columns);
  // By grid code: the level, what it is over the taps, and what it is over the groups too.
  double* level = calloc((size_t)spatial * channels, sizeof(*level));
  double* tap = calloc((size_t)spatial * channels, sizeof(*tap));
  double* d = malloc(columns * sizeof(*d));
  for (int k = 0; k < layer->filters; ++k) {
    const int8_t* row = layer->alpha_int8 + k * columns;
    for (int g = 0; g < spatial * channels; ++g) level[g] = Kept(layer, g) ? *row++ : 0;
    for (int g = 0; g < spatial * channels; ++g) {
      const int y = g / channels / kw, x = g / channels % kw;
      tap[g] = 0;
      for (int s = 0; s < spatial; ++s) {
        const int sign = __builtin_parity(s / kw & y) != __builtin_parity(s % kw & x) ? -1 : 1;
        tap[g] += sign * level[s * channels + g % channels];
      }
    }
    const uint8_t *first = q->features, *code = first;
    for (int w = 0; w < channels && !set.group_form; ++w) code += set.occurs[w] ? 3 : 0;
    size_t column = 0;
    double largest = 0;
    for (int g = 0; g < spatial * channels; ++g) {
      const int w = g % channels;
      if (!Kept(layer, g)) continue;
      const uint8_t* channel = first;
      for (int i = 0; i < w && !set.group_form; ++i) channel += set.occurs[i] ? 3 : 0;
      double number = set.full[w] ? tap[g] : level[g];
      int shift = channel[0] - channel[2];
      if (set.group_form) {
        number = 0;
        for (int i = 0; i < channels; i += 1 << set.m) {
          const int sign = __builtin_parity((i >> set.m) & (w >> set.m)) ? -1 : 1;
          number += sign * tap[g - w + i];
        }
      } else if (!set.full[w]) {
        shift = code[0] - code[2] + channel[0];
        code += 3;
      }
      d[column] = number * exp2(shift);
      largest = fmax(largest, fabs(d[column++]));
    }
    const double peak = q->peaks != NULL ? q->peaks[k] : 127;
    for (size_t j = 0; j < columns && largest > 0; ++j) {
      coefficients[k * columns + j] = (int8_t)nearbyint(peak * d[j] / largest);
    }
  }
  free(level);
  free(tap);
  free(d);
  free(left.codes);
  free(set.occurs);
  free(set.full);
  return coefficients;
}

// Invokes a convolution of the layer on `image`, whose output is returned; the caller frees it.
static char* Invoke(const DbfLayer* layer, const DbfKernels* kernels, Images images,
                    const void* image, size_t* bytes) {
  const char* error;
  DbfConv* conv = DbfConvCreate(layer, kernels, &error);
  CHECK(conv != NULL, "%s", error);
  error = DbfConvResize(conv, images.batch, images.height, images.width, 1, conv);
  CHECK(error == NULL, "%s", error);
  int32_t out_h, out_w;
  CHECK(DbfConvOutputSize(conv, images.height, images.width, &out_h, &out_w) == NULL, "size");
  *bytes = (size_t)images.batch * out_h * out_w * layer->filters *
           (layer->quantized != NULL ? 1 : sizeof(float));
  char* output = malloc(*bytes + 1);
  DbfConvInvoke(conv, image, output);
  DbfConvFree(conv);
  return output;
}

// A coded layer against the same layer in version 1.
static void CheckLayer(const TestCoded* coded) {
  const DbfLayer* layer = &coded->test.layer;
  Read read;
  const char* error = ReadLayer(layer, coded->data, coded->size, &read);
  CHECK(error == NULL, "%s", error);
  CheckRead(&read.layer, layer);
  const Images images = {
      .batch = RandomIn(1, 2),
      .height = (layer->kernel_h - 1) * layer->dilation_h + 1 + RandomIn(0, 5),
      .width = (layer->kernel_w - 1) * layer->dilation_w + 1 + RandomIn(0, 5),
  };
  const size_t count = (size_t)images.batch * images.height * images.width * layer->channels;
  void* image = RandomFloats(count);
  DbfLayer old = *layer;
  DbfQuantized quantized;
  int8_t* coefficients = NULL;
  if (layer->quantized != NULL) {
    for (size_t i = 0; i < count; ++i) ((int8_t*)image)[i] = (int8_t)Random();
    quantized = *layer->quantized;
    quantized.levels = false;
    quantized.peaks = NULL;
    old.quantized = &quantized;
    old.alpha_int8 = coefficients = Coefficients(layer);
  }
  bool more = true;
  for (size_t v = 0; more; ++v) {
    const DbfKernels* kernels = DbfKernelsAt(v, &more);
    if (kernels == NULL) continue;
    size_t bytes, old_bytes;
    char* output = Invoke(&read.layer, kernels, images, image, &bytes);
    char* wanted = Invoke(&old, kernels, images, image, &old_bytes);
    CHECK(bytes == old_bytes && memcmp(output, wanted, bytes) == 0, "%s: other bits",
          kernels->name);
    free(output);
    free(wanted);
  }
  free(coefficients);
  free(image);
  DbfCodedFree(&read.coded);
}

// Takes the idle codes out of a layer that was read: the rest of it stays, and its outputs are the
// same but for rounding. Returns how many codes are left.
static size_t CheckIdle(Read* read) {
  DbfLayer* layer = &read->layer;
  const DbfLayer before = *layer;
  const size_t filters = layer->filters, columns = layer->num_codes;
  int8_t* levels = malloc(filters * columns);
  uint8_t* codes = malloc(layer->codes_bytes);
  memcpy(levels, layer->alpha_int8, filters * columns);
  memcpy(codes, layer->codes, layer->codes_bytes);
  const char* error = DbfCodedDropIdle(layer, &read->coded);
  CHECK(error == NULL, "%s", error);
  DbfLayer whole = before;
  whole.codes = codes;
  whole.alpha_int8 = levels;
  size_t old = 0, new = 0;
  for (size_t g = 0; g < 8 * layer->codes_bytes; ++g) {
    const bool kept = DbfLayerKeeps(layer, g);
    if (!DbfLayerKeeps(&whole, g)) {
      CHECK(!kept, "a code that was none");
      continue;
    }
    for (size_t k = 0; k < filters; ++k) {
      const int level = levels[k * columns + old];
      CHECK(level == (kept ? layer->alpha_int8[k * layer->num_codes + new] : 0), "code %zu", g);
    }
    new += kept;
    ++old;
  }
  CHECK(new == layer->num_codes && old == columns, "%zu of %zu codes", new, old);
  const Images images = {.batch = 1, .height = 9, .width = 9};
  float* image = RandomFloats(81 * (size_t)layer->channels);
  size_t bytes, old_bytes;
  float* output = (float*)Invoke(layer, DbfKernelsBest(), images, image, &bytes);
  float* wanted = (float*)Invoke(&whole, DbfKernelsBest(), images, image, &old_bytes);
  CHECK(bytes == old_bytes, "the size");
  float largest = 1;
  for (size_t i = 0; i < bytes / sizeof(float); ++i) largest = fmaxf(largest, fabsf(wanted[i]));
  for (size_t i = 0; i < bytes / sizeof(float); ++i) {
    CHECK(fabsf(output[i] - wanted[i]) <= 1e-5f * largest, "%g, not %g", output[i], wanted[i]);
  }
  free(output);
  free(wanted);
  free(image);
  free(levels);
  free(codes);
  return new;
}

static void TestRandomLayers(int count) {
  for (int i = 0; i < 2 * count; ++i) {
    RandomSeed(i);
    TestCoded coded;
    RandomCoded(&coded, i % 2);
    CheckLayer(&coded);
    if (i % 2 == 0 && coded.test.layer.same_padding) {
      Read read;
      CHECK(ReadLayer(&coded.test.layer, coded.data, coded.size, &read) == NULL, "a float layer");
      CheckIdle(&read);
      DbfCodedFree(&read.coded);
    }
    FreeCoded(&coded);
  }
}

// A layer of `side` x `side` taps that keeps all codes, its levels of this mean.
static void MakeLayer(TestCoded* coded, bool is_int8, int side, int channels, int filters,
                      float mean) {
  memset(coded, 0, sizeof(*coded));
  coded->test.layer =
      (DbfLayer){side, side, 1, 1, 1, 1, channels, filters, true, kDbfNone, .bias = NULL};
  DbfLayer* layer = &coded->test.layer;
  FillLayer(&coded->test, NULL, true, true, false);
  const size_t count = layer->filters * layer->num_codes;
  for (size_t i = 0; i < count; ++i) ((int8_t*)coded->test.alpha)[i] = RandomLevel(mean);
  FillSteps(coded, true);
  if (is_int8) {
    FillQuantized(layer, &coded->quantized);
    coded->quantized.quantized.levels = true;
  }
  FillBias(coded, is_int8);
  coded->coding.magnitude = 12;
  coded->coding.tables = 1;
  Encode(coded);
}

// A layer of 3 x 3 taps and 8 channels with idle codes.
static void TestIdleCodes(void) {
  // Codes are idle that are multiples of `every`, and those of channel codes from `channels` on.
  static const struct {
    int every, channels;
    size_t left;
  } cases[] = {{0, 8, 72}, {0, 5, 45}, {0, 6, 54}, {2, 8, 36}, {2, 6, 27},
               {5, 8, 72}, {3, 8, 72}, {5, 7, 63}, {1, 8, 72}};
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    TestCoded coded;
    MakeLayer(&coded, false, 3, 8, 5, 1);
    for (int j = 0; j < 5 * 72; ++j) {
      const int code = j % 72;
      int8_t* level = (int8_t*)coded.test.alpha + j;
      if (*level == 0) *level = 1;
      const bool is_multiple = cases[i].every > 0 && code % cases[i].every == 0;
      if (is_multiple || code % 8 >= cases[i].channels) *level = 0;
    }
    free(coded.data);
    Encode(&coded);
    Read read;
    const char* error = ReadLayer(&coded.test.layer, coded.data, coded.size, &read);
    CHECK(error == NULL, "%s", error);
    const size_t left = CheckIdle(&read);
    CHECK(left == cases[i].left, "case %zu: %zu codes", i, left);
    DbfCodedFree(&read.coded);
    FreeCoded(&coded);
  }
}

// More spatial codes than several tables can have.
static void TestManySpatialCodes(void) {
  TestCoded coded;
  MakeLayer(&coded, false, 17, 2, 3, 1);
  CheckLayer(&coded);
  free(coded.data);
  coded.coding.tables = 2;
  Encode(&coded);
  Read read;
  const char* error = ReadLayer(&coded.test.layer, coded.data, coded.size, &read);
  CHECK(error != NULL && strcmp(error, "the number of tables is out of range") == 0, "2 tables");
  DbfCodedFree(&read.coded);
  FreeCoded(&coded);
}

// The least seconds that it takes to make a convolution of the layer.
static double SecondsToMake(const DbfLayer* layer) {
  double least = INFINITY;
  for (int time = 0; time < 5; ++time) {
    const char* error;
    const double start = Seconds();
    DbfConv* convolution = DbfConvCreate(layer, DbfKernelsBest(), &error);
    CHECK(convolution != NULL, "%s", error);
    least = fmin(least, Seconds() - start);
    DbfConvFree(convolution);
  }
  return least;
}

// How fast levels are decoded, and what a coded layer takes more until there is a convolution.
static void MeasureSpeed(void) {
  for (int i = 0; i < 6; ++i) {
    TestCoded coded;
    const float means[] = {0.01f, 0.75f, 8};
    MakeLayer(&coded, i % 2, 3, 256, 512, means[i / 2]);
    const DbfLayer* layer = &coded.test.layer;
    const double levels = 512.0 * 9 * 256;
    double least = INFINITY, made = 0;
    for (int time = 0; time < 5; ++time) {
      Read read;
      const double start = Seconds();
      CHECK(ReadLayer(layer, coded.data, coded.size, &read) == NULL, "speed");
      least = fmin(least, Seconds() - start);
      if (time == 4) made = SecondsToMake(&read.layer);
      DbfCodedFree(&read.coded);
    }
    coded.quantized.quantized.levels = false;
    const double old = SecondsToMake(layer);
    printf(
        "%s, %.2f bits a level: %.0f million levels a second; %.1f ms, then %.1f (uncoded %.1f)\n",
        i % 2 ? "int8" : "float32", 8 * (double)coded.size / levels, 1e-6 * levels / least,
        1e3 * least, 1e3 * made, 1e3 * old);
    FreeCoded(&coded);
  }
}

// Reads damaged bytes, in memory of exactly their size, and runs the layer if there is one. Returns
// whether there is. *longest is the longest time until there is a convolution.
static bool Try(const DbfLayer* like, const uint8_t* data, size_t size, double* longest) {
  uint8_t* exact = malloc(size > 0 ? size : 1);
  memcpy(exact, data, size);
  Read read;
  const double start = Seconds();
  const char* error = ReadLayer(like, exact, size, &read);
  DbfConv* convolution = NULL;
  if (error == NULL && like->quantized == NULL) error = DbfCodedDropIdle(&read.layer, &read.coded);
  if (error == NULL) convolution = DbfConvCreate(&read.layer, DbfKernelsBest(), &error);
  const double seconds = Seconds() - start;
  if (seconds > *longest) *longest = seconds;
  CHECK((convolution != NULL) == (error == NULL), "a convolution or an error");
  DbfCodedFree(&read.coded);
  free(exact);
  const int side = 9;
  int32_t out_h, out_w;
  if (convolution != NULL && DbfConvResize(convolution, 1, side, side, 1, convolution) == NULL &&
      DbfConvOutputSize(convolution, side, side, &out_h, &out_w) == NULL) {
    void* input = calloc((size_t)side * side * like->channels, sizeof(float));
    void* output = malloc((size_t)out_h * out_w * like->filters * sizeof(float) + 1);
    DbfConvInvoke(convolution, input, output);
    free(input);
    free(output);
  }
  DbfConvFree(convolution);
  return error == NULL;
}

// Damages bytes in one of many ways, some of them also the options. `data` has room for 64 more.
static void Damage(DbfLayer* layer, uint8_t* data, size_t* size) {
  static const uint8_t kExtremes[] = {0, 1, 2, 127, 128, 176, 191, 192, 254, 255};
  const int header = (int)*size < 12 ? (int)*size : 12;
  switch (RandomIn(0, 7)) {
    case 0:
      *size = (size_t)RandomIn(0, (int)*size - 1);
      break;
    case 1:
      for (int n = RandomIn(1, 64); n > 0; --n) data[(*size)++] = (uint8_t)Random();
      break;
    case 2:
      data[RandomIn(0, (int)*size - 1)] = (uint8_t)Random();
      break;
    case 3:
      data[RandomIn(0, header - 1)] = kExtremes[RandomIn(0, 9)];
      break;
    case 4:
      data[RandomIn(0, (int)*size - 1)] = kExtremes[RandomIn(0, 9)];
      break;
    case 5:
      for (size_t i = (size_t)RandomIn(0, header); i < *size; ++i) data[i] = (uint8_t)Random();
      break;
    case 6: {
      int32_t* numbers[] = {&layer->kernel_h, &layer->kernel_w, &layer->channels, &layer->filters};
      const int32_t values[] = {1, 2, 3, 1000, 1 << 20, INT32_MAX, RandomIn(1, 100)};
      *numbers[RandomIn(0, 3)] = values[RandomIn(0, 6)];
      break;
    }
    default:
      data[RandomIn(0, (int)*size - 1)] ^= (uint8_t)(1 << RandomIn(0, 7));
  }
}

static void TestDamage(int rounds) {
  enum { kLayers = 40 };
  double longest = 0;
  long runs = 0;
  for (int i = 0; i < kLayers; ++i) {
    RandomSeed(1000 + i);
    TestCoded coded;
    RandomCoded(&coded, i % 2);
    uint8_t* data = malloc(coded.size + 1024);
    for (int round = 0; round < rounds / kLayers; ++round) {
      DbfLayer layer = coded.test.layer;
      size_t size = coded.size;
      memcpy(data, coded.data, size);
      for (int n = RandomIn(1, 2); n > 0 && size > 0; --n) Damage(&layer, data, &size);
      runs += Try(&layer, data, size, &longest);
    }
    // Cut everywhere.
    for (size_t size = 0; size < coded.size; size += 1 + coded.size / 500) {
      CHECK(!Try(&coded.test.layer, coded.data, size, &longest), "cut at %zu", size);
    }
    free(data);
    FreeCoded(&coded);
  }
  printf("damaged layers: %d, of which %ld ran; the longest took %.1f ms\n", rounds, runs,
         1e3 * longest);
}

// The example of FORMAT.md.
static void TestExample(void) {
  static const uint8_t kData[] = {0x09, 0xf1, 0x05, 0x03, 0x00, 0x74, 0x00, 0x72, 0x00, 0x3c, 0x00,
                                  0xc0, 0x01, 0x81, 0x90, 0xa0, 0x20, 0x0c, 0x40, 0x40, 0x50, 0xd2};
  static const int8_t kLevels[] = {2, 0, 0, -1, 1, 0, 5, 0};
  const DbfLayer layer = {2, 2, 1, 1, 1, 1, 2, 2, true, kDbfNone, .bias = NULL};
  Read read;
  const char* error = ReadLayer(&layer, kData, sizeof(kData), &read);
  CHECK(error == NULL, "%s", error);
  CHECK(read.layer.num_codes == 4 && memcmp(read.layer.alpha_int8, kLevels, 8) == 0, "levels");
  CHECK(read.layer.codes[0] == 0x33, "codes");
  CHECK(read.layer.alpha_scales[0] == 0.5f && read.layer.alpha_scales[1] == 0.375f, "steps");
  CHECK(read.layer.bias[0] == 1 && read.layer.bias[1] == -2, "bias");
  DbfCodedFree(&read.coded);
}

// One thing wrong with the example, or with a layer like it.
static void TestRefusals(void) {
#define ALL_ZERO 1, 0, 0, 0, 1, 0  // a table without magnitudes; a state and no more
  static const struct {
    bool is_int8;
    uint8_t data[20];
    size_t size;
    const char* error;
  } cases[] = {
      {false, {4, 0, 0, 0x3c, ALL_ZERO}, 10, NULL},
      {false, {7, 0, 0, 0x3c, ALL_ZERO}, 10, "unknown kind of codes"},
      {false, {4, 101, 0, 0x3c, ALL_ZERO}, 10, "the exponent of the steps is out of range"},
      {false, {4, 155, 0, 0x3c, ALL_ZERO}, 10, "the exponent of the steps is out of range"},
      {false, {5, 0, 3, 15, 0, 0x3c, ALL_ZERO}, 12, "a code lies past the code grid"},
      {false, {5, 0, 1, 31, 0, 0x3c, ALL_ZERO}, 12, "a code lies past the code grid"},
      {false, {5, 0, 1, 0, 0, 0x3c, ALL_ZERO}, 12, "no code is kept"},
      {false, {5, 0, 1, 4, 0, 0x3c, ALL_ZERO}, 12, NULL},
      {false, {6, 0, 31, 0, 0x3c, ALL_ZERO}, 11, "a code lies past the code grid"},
      {false, {6, 0, 0, 0, 0x3c, ALL_ZERO}, 11, "no code is kept"},
      {false, {6, 0, 9, 0, 0x3c, ALL_ZERO}, 11, NULL},
      {false, {36, 0, 0, 0x3c, 0, ALL_ZERO}, 11, "the coded layer is one for int8"},
      {false, {68, 0, 0, 0x3c, 0, 0, ALL_ZERO}, 12, "sums and peaks are for int8 only"},
      {false, {132, 0, 0, 0x3c, 1, 1, ALL_ZERO}, 12, "sums and peaks are for int8 only"},
      {false, {20, 0, 0, 0x3c, 1, 0, 0, 1, 0, 0, ALL_ZERO}, 16, "a bias of the wrong kind"},
      {false, {4, 0, 0, 0x7c, ALL_ZERO}, 10, "a step is not finite"},
      {false, {4, 0, 1, 0xfc, ALL_ZERO}, 10, "a step is not finite"},
      {false, {4, 0, 0, 0x3c, 0, 0, 0, 0, 1, 0}, 10, "the number of tables is out of range"},
      {false, {4, 0, 0, 0x3c, 17, 0, 0, 0, 1, 0}, 10, "the number of tables is out of range"},
      {false, {4, 0, 0, 0x3c, 2, 1, 0, 0, 0, 0, 1, 0}, 12, NULL},
      {false, {4, 0, 0, 0x3c, 2, 2, 0, 0, 0, 0, 1, 0}, 12, "no such table"},
      {false, {4, 0, 0, 0x3c, 2, 16, 0, 0, 0, 0, 1, 0}, 12, "no such table"},
      {false, {4, 0, 0, 0x3c, 1, 1, 192, 0, 0, 1, 0}, 11, "a frequency is out of range"},
      {false, {4, 0, 0, 0x3c, 1, 128, 192, 0, 0, 1, 0}, 11, "a frequency is out of range"},
      {false,
       {4, 0, 0, 0x3c, 1, 1, 177, 0, 0, 1, 0},
       11,
       "the frequencies are more than a table has"},
      {false, {4, 0, 0, 0x3c, 1, 0, 1, 0, 0, 0, 0, 0}, 12, "the levels are damaged"},
      {false, {4, 0, 0, 0x3c, 1, 0, 1, 0, 1, 0}, 10, "the levels do not end with the tensor"},
      {false, {4, 0, 0, 0x3c, ALL_ZERO, 0}, 11, "the levels do not end with the tensor"},
      {false, {4, 0, 0, 0x3c, ALL_ZERO}, 9, "the coded layer is cut short"},
      {false, {4, 0, 0, 0x3c, 1}, 5, "the coded layer is cut short"},
      {false, {0}, 0, "the coded layer is cut short"},
      {true, {4, 0, 0, 0x3c, ALL_ZERO}, 10, "the coded layer is not one for int8"},
      {true, {36, 0, 0, 0x3c, 0, ALL_ZERO}, 11, NULL},
      {true, {228, 0, 0, 0x3c, 0, 127, 9, 9, 1, 9, ALL_ZERO}, 16, NULL},
      {true, {164, 0, 0, 0x3c, 0, 128, 0, ALL_ZERO}, 13, "a peak is out of range"},
      {true, {44, 0, 0, 0x3c, 0, 0, 0, 0, 0, ALL_ZERO}, 15, "a bias of the wrong kind"},
      {true, {36, 0, 0, 0x3c, 128, 128, 0, ALL_ZERO}, 13, NULL},
      {true, {36, 0, 0, 0x3c, 128, 128, 128, 0, ALL_ZERO}, 14, "the coded layer is cut short"},
      {true, {36, 0, 0, 0x3c, 20, ALL_ZERO}, 11, "the coded layer is cut short"},
  };
#undef ALL_ZERO
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    const DbfQuantized quantized = {0};
    const DbfLayer layer = {
        1, 1, 1, 1, 1, 1, 4, 2, true, kDbfNone, .quantized = cases[i].is_int8 ? &quantized : NULL};
    Read read;
    const char *error = ReadLayer(&layer, cases[i].data, cases[i].size, &read),
               *wanted = cases[i].error;
    CHECK(error == wanted || (error != NULL && wanted != NULL && strcmp(error, wanted) == 0),
          "case %zu: %s", i, error != NULL ? error : "read");
    DbfCodedFree(&read.coded);
  }
  // A level of −128, which only an escape could hold.
  TestCoded coded;
  MakeLayer(&coded, false, 3, 2, 3, 1);
  free(coded.data);
  ((int8_t*)coded.test.alpha)[20] = -128;
  Encode(&coded);
  Read read;
  const char* error = ReadLayer(&coded.test.layer, coded.data, coded.size, &read);
  CHECK(error != NULL && strcmp(error, "the levels are damaged") == 0, "a level of -128");
  DbfCodedFree(&read.coded);
  FreeCoded(&coded);
}

// All-zero levels, which take no bytes: the limits that bound what few bytes can ask for.
static void TestLimits(void) {
  const struct {
    int kernel_h, kernel_w, channels, filters;
    const char* error;
  } cases[] = {
      {1, 1, 5120, 1, NULL},
      {1, 1, 5121, 1, "more levels than a layer of so few bytes may have"},
      {1, 1, 1 << 16, 1, "more codes than a layer of so few bytes may have"},
      {3, 3, 64, 64, NULL},
      {3, 3, 512, 512, "more levels than a layer of so few bytes may have"},
      {64, 64, 1, 1, "more levels than a layer of so few bytes may have"},
      {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX,
       "more codes than a layer of so few bytes may have"},
  };
  // All codes, one step, no bias; one table without magnitudes; a state and no more.
  static const uint8_t kData[] = {4, 0, 0, 0x3c, 1, 0, 0, 0, 1, 0};
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    DbfLayer layer = {cases[i].kernel_h, cases[i].kernel_w, 1,    1,        1,           1,
                      cases[i].channels, cases[i].filters,  true, kDbfNone, .bias = NULL};
    Read read;
    const char* error = ReadLayer(&layer, kData, sizeof(kData), &read);
    const char* wanted = cases[i].error;
    CHECK(error == wanted || (error != NULL && wanted != NULL && strcmp(error, wanted) == 0),
          "case %zu: %s", i, error != NULL ? error : "read");
    for (size_t j = 0; error == NULL && j < layer.filters * read.layer.num_codes; ++j) {
      CHECK(read.layer.alpha_int8[j] == 0, "level %zu", j);
    }
    DbfCodedFree(&read.coded);
  }
}

int main(int argc, char** argv) {
  TestExample();
  TestRefusals();
  TestLimits();
  TestManySpatialCodes();
  TestIdleCodes();
  TestRandomLayers(argc > 1 ? atoi(argv[1]) : 200);
  TestDamage(argc > 2 ? atoi(argv[2]) : 20000);
  MeasureSpeed();
  printf("coded_test: %ld checks\n", num_checks);
  return 0;
}
