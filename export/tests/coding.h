// Writes coded layers (FORMAT.md, version 2) for tests.

#ifndef DBF_EXPORT_TESTS_CODING_H_
#define DBF_EXPORT_TESTS_CODING_H_

#include "tests/testing.h"

// How a layer is to be coded; what is not said here is random.
typedef struct Coding {
  int codes;              // kind of codes, which must fit the layer; −1: any that fits
  int exponent;           // of the steps
  const uint16_t* steps;  // [num_scales of the layer] halves
  int bias;               // kind
  const void* bias_bytes;
  int tables;     // number of tables
  int magnitude;  // largest with a frequency of its own
} Coding;

// The number that 16 bits of half precision mean.
double HalfValue(uint16_t bits);

// Codes `layer`, whose alpha_int8 are the levels. Returns the bytes, which the caller frees, and
// sets *size.
uint8_t* EncodeLayer(const DbfLayer* layer, const Coding* coding, size_t* size);

// Writes integers as a flexbuffer vector of `width` bytes each. Returns its size.
size_t WriteInts(const int64_t* values, size_t count, int width, uint8_t* buffer);

#endif  // DBF_EXPORT_TESTS_CODING_H_
