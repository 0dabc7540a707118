// Reads a coded layer (FORMAT.md, version 2), from bytes that nobody has checked: header,
// statistics and a stream of levels.

#ifndef DBF_EXPORT_PLAN_CODED_H_
#define DBF_EXPORT_PLAN_CODED_H_

#include "plan/layer.h"

// Memory that a layer points to after it was read.
typedef struct DbfCoded {
  uint8_t* codes;
  float* scales;
  void* bias;  // floats, or int32_t of an int8 layer
  int8_t* levels;
} DbfCoded;

// Finds part number `part` of a tensor of coded layers: sets where it begins in the `size` bytes at
// `data`, and its size. Returns an error message, or NULL.
const char* DbfCodedPart(const uint8_t* data, size_t size, size_t part, const uint8_t** begin,
                         size_t* bytes);

// Reads `size` bytes at `data` into a layer whose sides, channels and filters are set, and which is
// an int8 one if `quantized` is not NULL: codes, levels as alpha_int8 with their steps as scales,
// bias and, into *quantized, roundings and peaks. Every read is bounded by `size`, and so are time
// and memory (FORMAT.md says by how much). Returns an error message, or NULL. Whatever it returns,
// `coded` is to be freed; until then, and while `data` lasts, the layer may be used.
const char* DbfCodedRead(const uint8_t* data, size_t size, DbfLayer* layer, DbfQuantized* quantized,
                         DbfCoded* coded);

// Takes out of a float layer that DbfCodedRead has read the codes whose levels are all zero: those
// of whole channel codes, and others if they are so many that what is left is faster as any set
// than the layer as a product of sets (rule.h). Returns an error message, or NULL.
const char* DbfCodedDropIdle(DbfLayer* layer, DbfCoded* coded);

void DbfCodedFree(DbfCoded* coded);

#endif  // DBF_EXPORT_PLAN_CODED_H_
