// The engine against the definition, over random layers, on every instruction set that this
// processor has.

#include "conv.h"

#include <math.h>
#include <string.h>

#include "testing.h"

// Runs the layer on random input and compares. The convolution is resized and run once more on the
// way, so that nothing of an earlier size may matter.
static void CheckLayer(const DbfLayer* layer, const double* filters, const DbfKernels* kernels,
                       int batch, int height, int width, int threads) {
  const char* error;
  DbfConv* conv = DbfConvCreate(layer, kernels, &error);
  CHECK(conv != NULL && error == NULL, "%s", error);
  for (int round = 0; round < 2; ++round, batch += 1, height += 3, width += 2) {
    error = DbfConvResize(conv, batch, height, width, threads, conv);
    CHECK(error == NULL, "%s", error);
    int out_h, out_w;
    int32_t conv_h, conv_w;
    float* input = RandomFloats((size_t)batch * height * width * layer->channels);
    double* expected = Reference(layer, filters, input, batch, height, width, &out_h, &out_w);
    error = DbfConvOutputSize(conv, height, width, &conv_h, &conv_w);
    CHECK(error == NULL && conv_h == out_h && conv_w == out_w, "output %d x %d, not %d x %d",
          conv_h, conv_w, out_h, out_w);
    const size_t count = (size_t)batch * out_h * out_w * layer->filters;
    float* output = malloc(count * sizeof(*output) + 1);
    double largest = 1, error_max = 0;
    for (int run = 0; run < 2; ++run) {
      memset(output, 0xff, count * sizeof(*output));  // NaN
      DbfConvRun(conv, input, output);
      for (size_t i = 0; i < count; ++i) {
        largest = fmax(largest, fabs(expected[i]));
        const double difference = fabs(output[i] - expected[i]);
        error_max = difference <= error_max ? error_max : difference;  // NaN stays
      }
    }
    CHECK(error_max <= 1e-5 * largest,
          "%s: kernel %dx%d stride %dx%d dilation %dx%d same %d channels %d filters %d codes %zu, "
          "input %dx%dx%d, "
          "%d threads: error %g of %g",
          kernels->name, layer->kernel_h, layer->kernel_w, layer->stride_h, layer->stride_w,
          layer->dilation_h, layer->dilation_w, layer->same_padding, layer->channels,
          layer->filters, layer->num_codes, batch, height, width, threads, error_max, largest);
    free(input);
    free(expected);
    free(output);
  }
  DbfConvFree(conv);
}

static void CheckOnAll(const DbfLayer* layer, int batch, int height, int width, int threads) {
  double* filters = Filters(layer);
  bool more = true;
  for (size_t i = 0; more; ++i) {
    const DbfKernels* kernels = DbfKernelsAt(i, &more);
    if (kernels != NULL) CheckLayer(layer, filters, kernels, batch, height, width, threads);
  }
  free(filters);
}

// Which codes a layer keeps.
typedef enum Kind {
  kAll,
  kSome,       // any
  kMultiples,  // all spatial codes x all multiples of a power of two
  kChannels,   // all spatial codes x any channel codes
  kLeftOver,   // such a set and a few codes more
  kOne,
  kNumKinds,
} Kind;

static bool* Codes(const DbfLayer* layer, Kind kind) {
  const int channels = layer->channels, spatial = layer->kernel_h * layer->kernel_w;
  bool* kept = calloc((size_t)spatial * channels, sizeof(*kept));
  bool* channel = calloc(channels, sizeof(*channel));
  const int step = 1 << RandomIn(0, 7), share = RandomIn(1, 8);
  for (int w = 0; w < channels; ++w) {
    channel[w] = kind == kAll || (kind == kMultiples ? w % step == 0
                                                     : (kind == kChannels || kind == kLeftOver) &&
                                                           RandomIn(1, 8) <= share);
  }
  for (int g = 0; g < spatial * channels; ++g) {
    kept[g] = channel[g % channels] || (kind == kSome && RandomIn(1, 8) <= share);
  }
  kept[RandomIn(0, spatial * channels - 1)] = true;  // never an empty set
  free(channel);
  return kept;
}

static int OneOf(const int* values, int count) { return values[RandomIn(0, count - 1)]; }
#define ONE_OF(...) \
  OneOf((const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

static void TestRandomLayers(int count) {
  for (int i = 0; i < count; ++i) {
    RandomSeed(i);
    TestLayer test = {
        .layer = {
            .kernel_h = ONE_OF(1, 1, 2, 3, 3, 4, 4, 5, 7),
            .kernel_w = ONE_OF(1, 1, 2, 3, 3, 4, 4, 5, 7),
            .stride_h = ONE_OF(1, 1, 1, 2, 3),
            .stride_w = ONE_OF(1, 1, 1, 2, 3),
            .dilation_h = ONE_OF(1, 1, 1, 2, 3),
            .dilation_w = ONE_OF(1, 1, 1, 2, 3),
            .channels = ONE_OF(1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 20, 24, 32, 33, 48, 64, 70),
            .filters = ONE_OF(1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 65),
            .same_padding = RandomIn(0, 1),
            .activation = RandomIn(0, 3),
        }};
    DbfLayer* layer = &test.layer;
    while (layer->kernel_h * layer->kernel_w * layer->channels > 1000)
      layer->channels /= 2;  // or the reference is slow
    bool* kept = Codes(layer, RandomIn(0, kNumKinds - 1));
    FillLayer(&test, kept, RandomIn(0, 1), RandomIn(0, 1), RandomIn(0, 1));
    const int least_h = layer->same_padding ? 1 : (layer->kernel_h - 1) * layer->dilation_h + 1;
    const int least_w = layer->same_padding ? 1 : (layer->kernel_w - 1) * layer->dilation_w + 1;
    CheckOnAll(layer, RandomIn(1, 2), least_h + RandomIn(0, 9), least_w + RandomIn(0, 20),
               RandomIn(1, 3));
    free(kept);
    FreeLayer(&test);
  }
}

// Layers with work for several threads: many tiles, one tile and many filters, wide rows, blocks of
// all kinds.
static void TestThreads(void) {
  const struct {
    int kernel, stride, channels, filters, batch, height, width;
    Kind kind;
  } cases[] = {
      {3, 1, 32, 32, 1, 32, 32, kSome},     {3, 1, 64, 48, 2, 14, 14, kMultiples},
      {4, 2, 24, 40, 1, 40, 30, kLeftOver}, {3, 1, 64, 200, 1, 4, 4, kSome},
      {1, 1, 256, 130, 1, 1, 3, kChannels}, {1, 1, 64, 70, 3, 20, 17, kSome},
      {3, 1, 4, 9, 1, 3, 500, kSome},       {3, 1, 140, 17, 1, 9, 9, kAll},
      {5, 1, 40, 33, 1, 9, 9, kSome},
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    RandomSeed(1000 + i);
    TestLayer test = {.layer = {
                          .kernel_h = cases[i].kernel,
                          .kernel_w = cases[i].kernel,
                          .stride_h = cases[i].stride,
                          .stride_w = cases[i].stride,
                          .dilation_h = 1,
                          .dilation_w = 1,
                          .channels = cases[i].channels,
                          .filters = cases[i].filters,
                          .same_padding = true,
                      }};
    bool* kept = Codes(&test.layer, cases[i].kind);
    FillLayer(&test, kept, false, false, true);
    double* filters = Filters(&test.layer);
    for (int threads = 1; threads <= 5; threads += 2) {
      CheckLayer(&test.layer, filters, DbfKernelsBest(), cases[i].batch, cases[i].height,
                 cases[i].width, threads);
    }
    free(filters);
    free(kept);
    FreeLayer(&test);
  }
}

// The packed numbers are never more than the coefficients, rounded up to whole vectors of filters.
static void TestPackedBytes(void) {
  for (Kind kind = 0; kind < kNumKinds; ++kind) {
    TestLayer test = {.layer = {3, 3, 1, 1, 1, 1, 64, 32, true, kDbfNone, .bias = NULL}};
    bool* kept = Codes(&test.layer, kind);
    FillLayer(&test, kept, false, false, false);
    const char* error;
    DbfConv* conv = DbfConvCreate(&test.layer, DbfKernelsBest(), &error);
    CHECK(conv != NULL, "%s", error);
    CHECK(DbfConvPackedBytes(conv) == 32 * test.layer.num_codes * sizeof(float), "kind %d", kind);
    DbfConvFree(conv);
    free(kept);
    FreeLayer(&test);
  }
}

// Sizes of zero compute nothing; sizes that do not fit are errors.
static void TestSizes(void) {
  TestLayer test = {.layer = {3, 3, 1, 1, 1, 1, 4, 4, false, kDbfNone, .bias = NULL}};
  FillLayer(&test, NULL, false, false, false);
  const char* error;
  float unused = 0;
  DbfConv* conv = DbfConvCreate(&test.layer, DbfKernelsBest(), &error);
  CHECK(DbfConvResize(conv, 0, 8, 8, 1, NULL) == NULL, "an empty batch");
  DbfConvRun(conv, &unused, &unused);
  CHECK(DbfConvResize(conv, 1, 2, 8, 1, NULL) != NULL, "a kernel that does not fit");
  CHECK(DbfConvResize(conv, -1, 8, 8, 1, NULL) != NULL, "a negative batch");
  CHECK(DbfConvResize(conv, 1, 8, -8, 1, NULL) != NULL, "a negative width");
  CHECK(DbfConvResize(conv, 1, 8, INT32_MAX, 1, NULL) != NULL, "too wide");
  DbfConvFree(conv);
  test.layer.same_padding = true;
  test.layer.dilation_h = 1 << 29;
  conv = DbfConvCreate(&test.layer, DbfKernelsBest(), &error);
  CHECK(conv != NULL && DbfConvResize(conv, 1, 8, 8, 1, NULL) != NULL, "too much scratch memory");
  CHECK(DbfConvResize(conv, 1, 0, 8, 1, NULL) == NULL, "an empty image");
  DbfConvRun(conv, &unused, &unused);
  DbfConvFree(conv);
  FreeLayer(&test);
}

// Layers whose numbers contradict each other.
static void TestBadLayers(void) {
  TestLayer test = {.layer = {3, 3, 1, 1, 1, 1, 5, 4, true, kDbfNone, .bias = NULL}};
  FillLayer(&test, NULL, false, false, false);
  const DbfLayer good = test.layer;
#define BAD(field, value)                                                                  \
  do {                                                                                     \
    DbfLayer bad = good;                                                                   \
    bad.field = value;                                                                     \
    const char* error = NULL;                                                              \
    CHECK(DbfConvCreate(&bad, DbfKernelsBest(), &error) == NULL && error != NULL, #field); \
  } while (0)
  BAD(kernel_h, 0);
  BAD(kernel_h, 2);
  BAD(kernel_w, -3);
  BAD(kernel_w, INT32_MAX);
  BAD(stride_h, 0);
  BAD(stride_w, -1);
  BAD(dilation_h, 0);
  BAD(dilation_w, INT32_MAX);
  BAD(channels, 0);
  BAD(channels, INT32_MAX);
  BAD(filters, 0);
  BAD(activation, 4);
  BAD(codes_bytes, good.codes_bytes - 1);
  BAD(codes_bytes, 0);
  BAD(num_codes, good.num_codes - 1);
  BAD(alpha_float, NULL);
  test.codes[good.codes_bytes - 1] |= 0x80;  // P = 45: the last byte has 5 codes
  BAD(num_codes, good.num_codes);
  memset(test.codes, 0, good.codes_bytes);
  BAD(num_codes, 0);
  FreeLayer(&test);
}

int main(int argc, char** argv) {
  TestBadLayers();
  TestSizes();
  TestPackedBytes();
  TestThreads();
  TestRandomLayers(argc > 1 ? atoi(argv[1]) : 200);
  printf("conv_test: %ld checks\n", num_checks);
  return 0;
}
