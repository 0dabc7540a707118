// The stages that both float forms have.

#ifndef DBF_EXPORT_ENGINE_FLOATS_H_
#define DBF_EXPORT_ENGINE_FLOATS_H_

#include "engine/stages.h"

void DbfAddFloat(const DbfKernels* kernels, const void* a, const void* b, void* sum, size_t count);
void DbfSetPaddingFloat(const DbfConv* conv, char* scratch);
void DbfProjectFloat(const DbfConv* conv, const DbfRows* rows, char* scratch, void* raw,
                     size_t pitch);
void DbfFillPaddingFloat(const DbfConv* conv, size_t out, char* scratch, size_t at);

// What both have in their tables of stages.
#define DBF_FLOAT_STAGES                                                            \
  .number = sizeof(float), .wide = sizeof(float), .vectors = 1, .add = DbfAddFloat, \
  .set_padding = DbfSetPaddingFloat, .project = DbfProjectFloat,                    \
  .fill_padding = DbfFillPaddingFloat

#endif  // DBF_EXPORT_ENGINE_FLOATS_H_
