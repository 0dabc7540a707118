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

// Reads `size` bytes at `data` into a layer whose sides, channels and filters are set, and which is
// an int8 one if `quantized` is not NULL: codes, levels as alpha_int8 with their steps as scales,
// bias and, into *quantized, roundings and peaks. Every read is bounded by `size`, and so are time
// and memory (FORMAT.md says by how much). Returns an error message, or NULL. Whatever it returns,
// `coded` is to be freed; until then, and while `data` lasts, the layer may be used.
const char* DbfCodedRead(const uint8_t* data, size_t size, DbfLayer* layer, DbfQuantized* quantized,
                         DbfCoded* coded);

void DbfCodedFree(DbfCoded* coded);

#endif  // DBF_EXPORT_PLAN_CODED_H_
