// Invokes one layer some times, for a tool that counts instructions.
//
//   instructions ISA TYPE SET KERNEL CHANNELS FILTERS SIZE SHARE TIMES
//
// TYPE is float32 or int8; SET is ovsf (all spatial codes times every SHARE-th channel code) or
// random (any, one in SHARE); the image is SIZE x SIZE, stride 1, SAME. Prints the multiply-adds of
// one invocation.

#include <string.h>

#include "engine/conv.h"
#include "tests/testing.h"

// Features of an int8 layer: 3 bytes for each channel code, or in group form one for all, and for
// each code that is left over. What they hold does not matter here.
static size_t CountFeatures(const DbfLayer* layer, const bool* kept, bool group_form) {
  const int spatial = layer->kernel_h * layer->kernel_w;
  size_t count = group_form;
  for (int w = 0; w < layer->channels && !group_form; ++w) {
    int codes = 0;
    for (int s = 0; s < spatial; ++s) codes += kept[s * layer->channels + w];
    count += (codes > 0) + (codes < spatial ? codes : 0);
  }
  return count;
}

int main(int argc, char** argv) {
  CHECK(argc == 10, "needs 9 arguments");
  const DbfKernels* kernels = DbfKernelsFind(argv[1]);
  CHECK(kernels != NULL, "this processor has no %s", argv[1]);
  const bool int8 = strcmp(argv[2], "int8") == 0, ovsf = strcmp(argv[3], "ovsf") == 0;
  const int kernel = atoi(argv[4]), channels = atoi(argv[5]), filters = atoi(argv[6]),
            size = atoi(argv[7]);
  const int share = atoi(argv[8]), times = atoi(argv[9]);
  TestLayer test = {
      .layer = {kernel, kernel, 1, 1, 1, 1, channels, filters, true, kDbfRelu, .bias = NULL}};
  bool* kept = calloc(kernel * kernel * channels, sizeof(*kept));
  RandomSeed(0);
  for (int g = 0; g < kernel * kernel * channels; ++g) {
    kept[g] = g == 0 || (ovsf ? g % channels % share : RandomIn(0, share - 1)) == 0;
  }
  FillLayer(&test, kept, int8, true, !int8);
  DbfQuantized quantized = {.input_scale = 1, .output_scale = 1e6f};
  int32_t* bias = calloc(filters, sizeof(*bias));
  uint8_t* features = NULL;
  if (int8) {
    for (int k = 0; k < filters; ++k) test.scales[k] = 1;
    quantized.features_bytes = 3 * CountFeatures(&test.layer, kept, ovsf);
    quantized.features = features = calloc(quantized.features_bytes, 1);
    for (size_t i = 0; i < quantized.features_bytes; i += 3) features[i] = 3;  // the shift
    quantized.bias = bias;
    test.layer.quantized = &quantized;
  }
  const char* error;
  DbfConv* conv = DbfConvCreate(&test.layer, kernels, &error);
  CHECK(conv != NULL, "%s", error);
  error = DbfConvResize(conv, 1, size, size, 1, NULL);
  CHECK(error == NULL, "%s", error);
  const size_t inputs = (size_t)size * size * channels;
  float* input = RandomFloats(inputs);
  for (size_t i = 0; int8 && i < inputs; ++i) ((int8_t*)input)[i] = (int8_t)RandomIn(-128, 127);
  float* output = malloc((size_t)size * size * filters * sizeof(*output));
  for (int i = 0; i < times; ++i) DbfConvInvoke(conv, input, output);
  printf("%zu\n", (size_t)size * size * filters * test.layer.num_codes);
  DbfConvFree(conv);
  FreeLayer(&test);
  free(features);
  free(bias);
  free(input);
  free(output);
  free(kept);
  return 0;
}
