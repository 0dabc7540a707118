// The convolution engine, independent of TensorFlow Lite: a plan (plan/plan.h), invoked on inputs
// of a given size.

#ifndef DBF_EXPORT_ENGINE_CONV_H_
#define DBF_EXPORT_ENGINE_CONV_H_

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "plan/layer.h"

typedef struct DbfConv DbfConv;

// Makes a convolution from a layer. Sets *error to NULL, or on failure returns NULL and sets *error
// to a constant message; see DbfPlanCreate.
DbfConv* DbfConvCreate(const DbfLayer* layer, const DbfKernels* kernels, const char** error);

// Computes the output's height and width for an input of height x width. Returns an error message,
// or NULL.
const char* DbfConvOutputSize(const DbfConv* conv, int32_t height, int32_t width,
                              int32_t* out_height, int32_t* out_width);

// Prepares for inputs [batch, height, width, C] on at most `threads` threads: all memory and the
// threads of `owner` (see support/threads.h) are taken here. May be called again. Returns an error
// message, or NULL; after an error the convolution must be resized before it is invoked.
const char* DbfConvResize(DbfConv* conv, int32_t batch, int32_t height, int32_t width, int threads,
                          const void* owner);

// Computes output [batch, out_height, out_width, K] from input [batch, height, width, C]. Both are
// contiguous and as large as the last DbfConvResize, which has succeeded, says: floats, or int8 for
// an int8 layer. Allocates nothing.
void DbfConvInvoke(const DbfConv* conv, const void* input, void* output);

// Bytes of the packed coefficients, and of the scratch memory of all threads.
size_t DbfConvPackedBytes(const DbfConv* conv);
size_t DbfConvScratchBytes(const DbfConv* conv);

void DbfConvFree(DbfConv* conv);

#endif  // DBF_EXPORT_ENGINE_CONV_H_
