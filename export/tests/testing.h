// What the C tests share: checks, random numbers, a layer's definition in double precision, and a
// writer of options.

#ifndef DBF_EXPORT_TESTS_TESTING_H_
#define DBF_EXPORT_TESTS_TESTING_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "plan/plan.h"

// Counts a check, and ends the test with a message if it fails.
#define CHECK(condition, ...)                                         \
  do {                                                                \
    ++num_checks;                                                     \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                   \
      fprintf(stderr, "\n");                                          \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

extern long num_checks;

// A reproducible random number, uniform in [0, 2^32), in [low, high], or about normal.
uint32_t Random(void);
int32_t RandomIn(int32_t low, int32_t high);
float RandomNormal(void);
void RandomSeed(uint64_t seed);

// `count` random numbers; the caller frees them.
float* RandomFloats(size_t count);

// A layer together with the memory that it points to.
typedef struct TestLayer {
  DbfLayer layer;
  uint8_t* codes;
  void* alpha;
  float* scales;
  float* bias;
} TestLayer;

// Fills in codes (kept[g] for each of the grid; NULL: all), coefficients (int8 or float), scales
// and bias of a layer whose other numbers are set.
void FillLayer(TestLayer* test, const bool* kept, bool is_int8, bool per_filter, bool bias);

// Which codes a layer keeps.
typedef enum CodeSet {
  kAllCodes,
  kSomeCodes,       // any
  kMultiplesCodes,  // all spatial codes x all multiples of a power of two
  kChannelsCodes,   // all spatial codes x any channel codes
  kLeftOverCodes,   // such a set and a few codes more
  kOneCodes,
  kPoolCodes,  // some of those that are constant over pools
  kNumCodeSets,
} CodeSet;

// Random codes [P] of the layer, at least one; the caller frees them.
bool* RandomCodes(const DbfLayer* layer, CodeSet set);

// A random layer, small enough for the reference.
void RandomLayer(TestLayer* test, bool is_int8);

void FreeLayer(TestLayer* test);

// The filters [K, P] that the layer's coefficients stand for, by the definition in FORMAT.md; the
// caller frees them.
double* Filters(const DbfLayer* layer);

// The size of an input.
typedef struct Images {
  int batch, height, width;
} Images;

// The output of `layer` with these filters; the caller frees it. *out_h and *out_w are set, and
// *largest to the largest absolute output before the activation.
double* Reference(const DbfLayer* layer, const double* filters, const float* input, Images images,
                  int* out_h, int* out_w, double* largest);

// Overwrites the scratch memory of `owner`, as other layers would.
void SpoilScratch(const void* owner, size_t bytes);

// An entry of a flexbuffer map: an integer, or a blob if `blob` is not NULL.
typedef struct Entry {
  const char* key;
  int64_t value;
  const uint8_t* blob;
  size_t blob_size;
} Entry;

// Writes the map as a flexbuffer of 8-byte numbers. Returns its size, at most 1024 + 64 * count +
// all blobs.
size_t WriteMap(const Entry* entries, size_t count, uint8_t* buffer);

#endif  // DBF_EXPORT_TESTS_TESTING_H_
