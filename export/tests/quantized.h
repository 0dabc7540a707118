// Random int8 layers for tests, and what FORMAT.md says of their codes.

#ifndef DBF_EXPORT_TESTS_QUANTIZED_H_
#define DBF_EXPORT_TESTS_QUANTIZED_H_

#include "tests/testing.h"

int32_t Clamp(int32_t x, int32_t low, int32_t high);

// Whether the layer keeps grid code g.
bool Kept(const DbfLayer* layer, int g);

// What FORMAT.md says of a code set; the caller frees the arrays.
typedef struct Set {
  int m;  // log2 of the channels in a group
  bool group_form;
  bool* occurs;  // [C]
  bool* full;
} Set;

Set SetOf(const DbfLayer* layer);

// What is left of a layer over its pooled sums, if it has the option `sums`; else the layer. The
// caller frees `codes`.
typedef struct Left {
  DbfLayer layer;
  DbfQuantized quantized;
  uint8_t* codes;
  int pool_h, pool_w;
} Left;

Left LeftOf(const DbfLayer* layer);

// What an int8 layer has besides, together with the memory that it points to.
typedef struct TestQuantized {
  DbfQuantized quantized;
  int32_t* bias;
  uint8_t* features;
  uint8_t sums[2];
} TestQuantized;

// Fills in what a layer of integers and positive scales has to have besides, and points it there.
void FillQuantized(DbfLayer* layer, TestQuantized* random);

void FreeQuantized(TestQuantized* random);

// Scales of int8 layers are positive.
void MakeScalesPositive(TestLayer* test);

#endif  // DBF_EXPORT_TESTS_QUANTIZED_H_
