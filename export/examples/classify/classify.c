// Prints the class that a network of float32 images finds in an image, a binary portable graymap or
// pixmap of the size that the network takes.

#include <dbf_op.h>
#include <stdio.h>
#include <stdlib.h>

#include "litert.h"

static void Check(int failed, const char* what) {
  if (!failed) return;
  fprintf(stderr, "classify: %s\n", what);
  exit(1);
}

// A buffer of so many float32; LiteRT wants its memory to be aligned to 64 bytes.
static LiteRtTensorBuffer Buffer(LiteRtRankedTensorType type, size_t bytes, float** memory) {
  LiteRtTensorBuffer buffer;
  *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  Check(*memory == NULL ||
            LiteRtCreateTensorBufferFromHostMemory(&type, *memory, bytes, free, &buffer),
        "a buffer cannot be made");
  return buffer;
}

int main(int argc, char** argv) {
  Check(argc != 3, "usage: classify model.tflite image.pgm");
  LiteRtEnvironment environment;
  Check(LiteRtCreateEnvironment(0, NULL, &environment), "no LiteRT");
  const char* error = dbf_register_litert(environment);
  Check(error != NULL, error);

  LiteRtModel model;
  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  Check(LiteRtCreateModelFromFile(environment, argv[1], &model), "the model cannot be read");
  Check(LiteRtCreateOptions(&options), "no options");
  Check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "no processor");
  Check(LiteRtCreateCompiledModel(environment, model, options, &compiled), "the model is refused");

  int width, height, most;
  char kind;
  FILE* file = fopen(argv[2], "rb");
  Check(file == NULL, "the image cannot be read");
  Check(fscanf(file, "P%c %d %d %d%*c", &kind, &width, &height, &most) != 4 || width < 1 ||
            height < 1 || (kind != '5' && kind != '6'),
        "the image is no binary portable graymap or pixmap");
  const int channels = kind == '5' ? 1 : 3;

  size_t wanted, bytes;
  LiteRtTensorBufferRequirements requirements;
  Check(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &requirements) ||
            LiteRtGetTensorBufferRequirementsBufferSize(requirements, &wanted),
        "no input");
  const size_t pixels = (size_t)width * height * channels;
  Check(pixels * sizeof(float) != wanted, "the network takes images of another size");
  Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &requirements) ||
            LiteRtGetTensorBufferRequirementsBufferSize(requirements, &bytes),
        "no output");
  const int classes = (int)(bytes / sizeof(float));

  float *image, *scores;
  LiteRtTensorBuffer input =
      Buffer((LiteRtRankedTensorType){kLiteRtElementTypeFloat32,
                                      {4, 0, {1, height, width, channels}, {0}}},
             wanted, &image);
  LiteRtTensorBuffer output =
      Buffer((LiteRtRankedTensorType){kLiteRtElementTypeFloat32, {2, 0, {1, classes}, {0}}}, bytes,
             &scores);
  for (size_t i = 0; i < pixels; ++i) image[i] = (float)getc(file);
  Check(feof(file), "the image ends early");
  fclose(file);
  Check(LiteRtRunCompiledModel(compiled, 0, 1, &input, 1, &output), "the model does not run");
  int best = 0;
  for (int i = 1; i < classes; ++i) best = scores[i] > scores[best] ? i : best;
  printf("class %d, score %.4f\n", best, scores[best]);

  LiteRtDestroyTensorBuffer(input);
  LiteRtDestroyTensorBuffer(output);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  return 0;
}
