// The engine against the definition, over random layers, on every instruction set that this
// processor has.

#include "engine/conv.h"

#include <math.h>
#include <string.h>

#include "tests/testing.h"

enum { kMaxVariants = 16 };

// An input and what is expected of it.
typedef struct Expected {
  Images images;
  const float* input;
  const double* output;
  double largest;  // output before the activation
  size_t count;    // outputs
} Expected;

// Invokes a convolution of the layer twice and compares. The output is to have the bits of *first,
// or, if that is NULL, becomes it; the caller frees it.
static void CheckOutput(const DbfLayer* layer, DbfConv* conv, const char* name,
                        const Expected* expected, int threads, float** first) {
  const size_t count = expected->count;
  float* output = malloc(count * sizeof(*output) + 1);
  double error_max = 0;
  for (int time = 0; time < 2; ++time) {
    memset(output, 0xff, count * sizeof(*output));  // NaN
    SpoilScratch(conv, DbfConvScratchBytes(conv));
    DbfConvInvoke(conv, expected->input, output);
    if (*first == NULL) {
      *first = malloc(count * sizeof(*output) + 1);
      memcpy(*first, output, count * sizeof(*output));
    }
    CHECK(memcmp(output, *first, count * sizeof(*output)) == 0, "%s: other bits on %d threads",
          name, threads);
    for (size_t i = 0; i < count; ++i) {
      const double difference = fabs(output[i] - expected->output[i]);
      error_max = difference <= error_max ? error_max : difference;  // NaN stays
    }
  }
  CHECK(error_max <= 1e-5 * fmax(expected->largest, 1),
        "%s: kernel %dx%d stride %dx%d dilation %dx%d same %d channels %d filters %d codes %zu, "
        "input %dx%dx%d, %d threads: error %g of %g",
        name, layer->kernel_h, layer->kernel_w, layer->stride_h, layer->stride_w, layer->dilation_h,
        layer->dilation_w, layer->same_padding, layer->channels, layer->filters, layer->num_codes,
        expected->images.batch, expected->images.height, expected->images.width, threads, error_max,
        expected->largest);
  free(output);
}

// Runs the layer on random input, on `only` or, if that is NULL, on every instruction set, and
// compares. The convolution is resized and invoked once more on the way, so that nothing of an
// earlier size may matter. `threads` are the numbers of threads to try, and then a zero.
static void CheckLayer(const DbfLayer* layer, const DbfKernels* only, int batch, int height,
                       int width, const int* threads) {
  const char* error;
  DbfConv* convs[kMaxVariants] = {NULL};
  const char* names[kMaxVariants];
  bool more = true;
  size_t variants = 0;
  for (; more; ++variants) {
    CHECK(variants < kMaxVariants, "kMaxVariants is too small");
    const DbfKernels* kernels = DbfKernelsAt(variants, &more);
    if (kernels == NULL || (only != NULL && kernels != only)) continue;
    convs[variants] = DbfConvCreate(layer, kernels, &error);
    names[variants] = kernels->name;
    CHECK(convs[variants] != NULL && error == NULL, "%s", error);
  }
  double* filters = Filters(layer);
  for (int round = 0; round < 2; ++round, batch += 1, height += 3, width += 2) {
    int out_h, out_w;
    float* input = RandomFloats((size_t)batch * height * width * layer->channels);
    double largest;
    const Images images = {batch, height, width};
    double* output = Reference(layer, filters, input, images, &out_h, &out_w, &largest);
    const size_t count = (size_t)batch * out_h * out_w * layer->filters;
    const Expected expected = {images, input, output, largest, count};
    for (size_t i = 0; i < variants; ++i) {
      float* first = NULL;
      for (const int* t = threads; convs[i] != NULL && *t > 0; ++t) {
        error = DbfConvResize(convs[i], batch, height, width, *t, convs[i]);
        CHECK(error == NULL, "%s", error);
        int32_t conv_h, conv_w;
        error = DbfConvOutputSize(convs[i], height, width, &conv_h, &conv_w);
        CHECK(error == NULL && conv_h == out_h && conv_w == out_w, "output %d x %d, not %d x %d",
              conv_h, conv_w, out_h, out_w);
        CheckOutput(layer, convs[i], names[i], &expected, *t, &first);
      }
      free(first);
    }
    free(input);
    free(output);
  }
  free(filters);
  for (size_t i = 0; i < variants; ++i) DbfConvFree(convs[i]);
}

static void TestRandomLayers(int count) {
  for (int i = 0; i < count; ++i) {
    RandomSeed(i);
    TestLayer test;
    RandomLayer(&test, RandomIn(0, 1));
    const DbfLayer* layer = &test.layer;
    const int least_h = layer->same_padding ? 1 : (layer->kernel_h - 1) * layer->dilation_h + 1;
    const int least_w = layer->same_padding ? 1 : (layer->kernel_w - 1) * layer->dilation_w + 1;
    const int height = least_h + RandomIn(0, 9), width = least_w + RandomIn(0, 20);
    CheckLayer(layer, NULL, RandomIn(1, 2), height, width, (const int[]){RandomIn(1, 3), 0});
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
      {3, 1, 32, 32, 1, 32, 32, kSomeCodes},      {3, 1, 64, 48, 2, 14, 14, kMultiplesCodes},
      {4, 2, 24, 40, 1, 40, 30, kLeftOverCodes},  {3, 1, 64, 200, 1, 4, 4, kSomeCodes},
      {1, 1, 256, 130, 1, 1, 3, kChannelsCodes},  {1, 1, 64, 70, 3, 20, 17, kSomeCodes},
      {3, 1, 4, 9, 1, 3, 500, kSomeCodes},        {3, 1, 140, 17, 1, 9, 9, kAllCodes},
      {5, 1, 40, 33, 1, 9, 9, kSomeCodes},        {3, 1, 64, 70, 2, 15, 40, kMultiplesCodes},
      {4, 1, 128, 130, 1, 5, 7, kMultiplesCodes},
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
    CheckLayer(&test.layer, DbfKernelsBest(), cases[i].batch, cases[i].height, cases[i].width,
               (const int[]){1, 3, 5, 0});
    free(kept);
    FreeLayer(&test);
  }
}

// The packed numbers are as many as the coefficients, rounded up to whole vectors of filters.
// Winograd's form has more, but never more than the filters.
static void TestPackedBytes(void) {
  for (int stride = 1; stride <= 2; ++stride) {
    for (CodeSet kind = 0; kind < kNumCodeSets; ++kind) {
      TestLayer test = {
          .layer = {3, 3, stride, stride, 1, 1, 64, 32, true, kDbfNone, .bias = NULL}};
      bool* kept = RandomCodes(&test.layer, kind);
      FillLayer(&test, kept, false, false, false);
      const char* error;
      DbfConv* conv = DbfConvCreate(&test.layer, DbfKernelsBest(), &error);
      CHECK(conv != NULL, "%s", error);
      const size_t packed = DbfConvPackedBytes(conv) / sizeof(float);
      CHECK(packed <= 32 * 9 * 64, "kind %d: %zu", kind, packed);
      CHECK(stride == 1 || packed == 32 * test.layer.num_codes, "kind %d: %zu", kind, packed);
      DbfConvFree(conv);
      free(kept);
      FreeLayer(&test);
    }
  }
}

// Winograd's form is chosen by the rule in plan/rule.h, and only by it.
static void TestWinogradRule(void) {
  const struct {
    int kernel, stride, dilation, channels, step, left_out;
    int patch;
  } cases[] = {
      {3, 1, 1, 64, 2, 0, 4},   // 16 * 32 numbers instead of 9 * 32, of 9 * 64
      {4, 1, 1, 64, 2, 0, 5},   //
      {3, 1, 1, 64, 1, 0, 0},   // more numbers than the filters have
      {3, 1, 1, 32, 2, 32, 4},  // 16 * 16 for each 4 outputs, and 4 * 112 otherwise
      {3, 1, 1, 32, 2, 80, 4},  // as many: 4 * 64
      {3, 1, 1, 32, 2, 81, 0}, {3, 1, 1, 20, 2, 0, 0},  // few channels
      {3, 2, 1, 64, 2, 0, 0},  {3, 1, 2, 64, 2, 0, 0}, {5, 1, 1, 64, 2, 0, 0},
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    const int kernel = cases[i].kernel, stride = cases[i].stride, dilation = cases[i].dilation;
    TestLayer test = {.layer = {kernel, kernel, stride, stride, dilation, dilation,
                                cases[i].channels, 8, true, kDbfNone, .bias = NULL}};
    const int grid = kernel * kernel * cases[i].channels;
    bool* kept = calloc(grid, sizeof(*kept));
    for (int g = 0; g < grid; ++g) kept[g] = g % cases[i].channels % cases[i].step == 0;
    // One spatial code of each channel code stays kept.
    for (int g = cases[i].channels, left = cases[i].left_out; left > 0; ++g) {
      left -= kept[g];
      kept[g] = false;
    }
    FillLayer(&test, kept, false, false, false);
    const char* error;
    DbfPlan* plan = DbfPlanCreate(&test.layer, DbfKernelsBest(), &error);
    CHECK(plan != NULL, "%s", error);
    CHECK(plan->rule.patch == cases[i].patch, "case %zu: %d", i, plan->rule.patch);
    DbfPlanFree(plan);
    free(kept);
    FreeLayer(&test);
  }
}

// Pools are as large as rule 0 of plan/rule.h says.
static void TestPoolRule(void) {
  const struct {
    int kernel_h, kernel_w, step_u, step_v;
    int pool_h, pool_w;
  } cases[] = {
      {4, 4, 1, 1, 1, 1}, {4, 4, 2, 1, 2, 1}, {4, 4, 2, 2, 2, 2},
      {4, 4, 4, 2, 4, 2}, {3, 4, 2, 2, 1, 2},  // pools of two do not fill three taps
      {6, 1, 2, 1, 2, 1}, {6, 2, 4, 2, 2, 2},
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    const int kh = cases[i].kernel_h, kw = cases[i].kernel_w, channels = 5;
    TestLayer test = {.layer = {kh, kw, 1, 1, 1, 1, channels, 8, true, kDbfNone, .bias = NULL}};
    bool* kept = calloc(kh * kw * channels, sizeof(*kept));
    for (int g = 0; g < kh * kw * channels; ++g) {
      const int u = g / channels / kw, v = g / channels % kw;
      kept[g] = u % cases[i].step_u == 0 && v % cases[i].step_v == 0;
    }
    FillLayer(&test, kept, false, false, false);
    const char* error;
    DbfPlan* plan = DbfPlanCreate(&test.layer, DbfKernelsBest(), &error);
    CHECK(plan != NULL, "%s", error);
    CHECK(plan->rule.pool_h == cases[i].pool_h && plan->rule.pool_w == cases[i].pool_w,
          "case %zu: %d x %d", i, plan->rule.pool_h, plan->rule.pool_w);
    CHECK(plan->rule.kernel_h == kh / plan->rule.pool_h &&
              plan->rule.kernel_w == kw / plan->rule.pool_w,
          "case %zu", i);
    DbfPlanFree(plan);
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
  DbfConvInvoke(conv, &unused, &unused);
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
  DbfConvInvoke(conv, &unused, &unused);
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

// Coefficients of half precision: zero, the subnormals' ends, and the normal numbers' ends.
static void TestFloat16(void) {
  const uint16_t alpha[] = {0x0000, 0x0001, 0x83ff, 0x0400, 0x3c00, 0xc100, 0x7bff, 0xfbff};
  const float expected[] = {0, 0x1p-24f, -0x1.ff8p-15f, 0x1p-14f, 1, -2.5f, 65504, -65504};
  const DbfLayer layer = {.filters = 2, .num_codes = 4, .alpha_float16 = alpha};
  for (int i = 0; i < 8; ++i) {
    const float value = DbfLayerAlpha(&layer, i / 4, i % 4);
    CHECK(value == expected[i], "%04x is %g, got %g", alpha[i], expected[i], value);
  }
  const uint16_t ends[] = {0x7c00, 0xfc00, 0x7e00};
  const DbfLayer end = {.filters = 1, .num_codes = 3, .alpha_float16 = ends};
  CHECK(DbfLayerAlpha(&end, 0, 0) == INFINITY, "infinity");
  CHECK(DbfLayerAlpha(&end, 0, 1) == -INFINITY, "minus infinity");
  CHECK(isnan(DbfLayerAlpha(&end, 0, 2)), "not a number");
}

int main(int argc, char** argv) {
  TestFloat16();
  TestBadLayers();
  TestSizes();
  TestPackedBytes();
  TestWinogradRule();
  TestPoolRule();
  TestThreads();
  TestRandomLayers(argc > 1 ? atoi(argv[1]) : 200);
  printf("conv_test: %ld checks\n", num_checks);
  return 0;
}
