// The layout of a convolution for an input's size: images, bands, lines, scratch memory and parts.

#ifndef DBF_EXPORT_ENGINE_LAYOUT_H_
#define DBF_EXPORT_ENGINE_LAYOUT_H_

#include "engine/stages.h"

// Lays out inputs [batch, height, width, C], into which the kernel fits, for at most `threads`
// threads. Takes no memory. Sets conv->images to 0, and little else, if there is nothing to
// compute. Returns an error message, or NULL.
const char* DbfLayOut(DbfConv* conv, size_t batch, size_t height, size_t width, int threads);

#endif  // DBF_EXPORT_ENGINE_LAYOUT_H_
