// One axis of a convolution: which inputs each output reads, and how pools and patches change that.

#ifndef DBF_EXPORT_ENGINE_AXIS_H_
#define DBF_EXPORT_ENGINE_AXIS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Output i, tap t reads padded input i * stride + t * dilation, which is entry i + step[t] of phase
// phase[t]: the padded inputs of one remainder by the stride, so that steps of the output are steps
// of one entry.
//
// If the layer has pools (plan/rule.h), a padded input is a pooled sum, and the image's padding is
// in the sums.
//
// In Winograd's form, an output of the axis is a patch with two outputs of the layer, and its taps
// are the patch's numbers.
typedef struct DbfAxis {
  // Set once.
  bool same_padding;
  size_t square;  // outputs of the layer in one output: 2, the side of an output square, or 1
  size_t stride, dilation, taps;
  size_t num_phases;     // phases that some tap reads
  size_t* remainder;     // [num_phases] of the padded input's index by the stride
  size_t* phase;         // [taps]
  size_t* step;          // [taps]
  size_t reach;          // largest step
  bool pooled;           // whether the layer has pools
  size_t pool;           // taps of a pool
  size_t pool_dilation;  // pixels from one tap of a pool to the next
  size_t pool_step;      // pixels from one pooled sum to the next; 1 without pools
  // Set for an input's size.
  size_t in, out;
  size_t outputs;    // of the layer
  size_t pad;        // inputs of padding before the first
  size_t pixels;     // of the image: `in`, without pools
  size_t image_pad;  // pixels of padding before the image: `pad`, without pools
} DbfAxis;

// How a layer goes along one axis.
typedef struct DbfAxisShape {
  int32_t taps;              // of the layer over the pooled sums
  int32_t pool;              // taps of a pool
  int32_t stride, dilation;  // of the layer
  int32_t patch;             // side of a patch in Winograd's form, else 0
  bool pooled, same_padding;
} DbfAxisShape;

// Sets up an axis, which must be zero. Returns false if there is no memory; what was taken is to be
// freed all the same.
bool DbfAxisCreate(DbfAxis* axis, const DbfAxisShape* shape);

void DbfAxisFree(DbfAxis* axis);

// Computes the layer's outputs and the padding before the image for so many pixels. Returns false
// if the kernel does not fit.
bool DbfAxisOutput(const DbfAxis* axis, size_t pixels, size_t* outputs, size_t* pad);

// Lays out the axis for so many pixels. Sizes stick at SIZE_MAX if they overflow.
void DbfAxisLayOut(DbfAxis* axis, size_t pixels);

#endif  // DBF_EXPORT_ENGINE_AXIS_H_
