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

static void TestRandomLayers(int count) {
  for (int i = 0; i < count; ++i) {
    RandomSeed(i);
    TestLayer test;
    RandomLayer(&test, RandomIn(0, 1));
    const DbfLayer* layer = &test.layer;
    const int least_h = layer->same_padding ? 1 : (layer->kernel_h - 1) * layer->dilation_h + 1;
    const int least_w = layer->same_padding ? 1 : (layer->kernel_w - 1) * layer->dilation_w + 1;
    CheckOnAll(layer, RandomIn(1, 2), least_h + RandomIn(0, 9), least_w + RandomIn(0, 20),
               RandomIn(1, 3));
    FreeLayer(&test);
  }
}

// Layers with work for several threads: many tiles, one tile and many filters, wide rows, blocks of
// all kinds.
static void TestThreads(void) {
  const struct {
    int kernel, stride, channels, filters, batch, height, width;
    CodeSet kind;
  } cases[] = {
      {3, 1, 32, 32, 1, 32, 32, kSomeCodes},     {3, 1, 64, 48, 2, 14, 14, kMultiplesCodes},
      {4, 2, 24, 40, 1, 40, 30, kLeftOverCodes}, {3, 1, 64, 200, 1, 4, 4, kSomeCodes},
      {1, 1, 256, 130, 1, 1, 3, kChannelsCodes}, {1, 1, 64, 70, 3, 20, 17, kSomeCodes},
      {3, 1, 4, 9, 1, 3, 500, kSomeCodes},       {3, 1, 140, 17, 1, 9, 9, kAllCodes},
      {5, 1, 40, 33, 1, 9, 9, kSomeCodes},
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
    bool* kept = RandomCodes(&test.layer, cases[i].kind);
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
  for (CodeSet kind = 0; kind < kNumCodeSets; ++kind) {
    TestLayer test = {.layer = {3, 3, 1, 1, 1, 1, 64, 32, true, kDbfNone, .bias = NULL}};
    bool* kept = RandomCodes(&test.layer, kind);
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
