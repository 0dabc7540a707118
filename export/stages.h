// What conv.c, which knows the geometry, and the stages of float and of int8 layers share.

#ifndef DBF_EXPORT_STAGES_H_
#define DBF_EXPORT_STAGES_H_

#include "conv.h"
#include "plan_int8.h"
#include "threadpool.h"

// One axis of the convolution. Output i, tap t reads padded input i * stride + t * dilation, which
// is entry i + step[t] of phase phase[t].
typedef struct Axis {
  size_t in, out;
  size_t stride, dilation, taps, pad;
  size_t num_phases;  // phases that some tap reads
  size_t* remainder;  // [num_phases] of the padded input's index by the stride
  size_t* phase;      // [taps]
  size_t* step;       // [taps]
  size_t reach;       // largest step
} Axis;

// Addresses inside the scratch memory of a thread, in bytes. Raw numbers are floats, or 32-bit
// elements of int8 features; code numbers are floats or int16.
typedef struct Scratch {
  size_t padding;     // [channels] a pixel of padding
  size_t rows;        // the transform's buffer
  size_t raw_row;     // a projected row: [full + partial, row_pitch], or elements
  size_t code_row;    // int8 layers: [partial, row_pitch]
  size_t raw_lines;   // [raw_lines, line_pitch]
  size_t code_lines;  // [code_lines, line_pitch]
  size_t packed;      // [packed_lines, packed_pitch]
  size_t slices;      // [int8->num_slices] DbfSlice
  size_t bytes;       // all of it
} Scratch;

struct DbfConv {
  DbfPlan* plan;
  bool same_padding;
  Axis y, x;
  bool direct;       // one horizontal tap and no partial codes: rows are projected into their lines
  size_t code_size;  // bytes of a code number
  // Set by resizing.
  size_t images, last_out;  // the last image may be narrower: 1 x 1 convolutions are cut into
                            // images of one row
  size_t tile_rows, tiles;  // output rows per tile, tiles per image
  size_t line_rows;         // rows of a phase that a line holds
  size_t phase_pitch;       // numbers of a line per phase of rows
  size_t line_pitch, row_phase_pitch, row_pitch, packed_pitch;
  size_t* x_offset;  // [x.taps] where in a row of `row` a tap begins
  Scratch scratch;
  size_t*
      y_offset;  // [parts, max(y.taps, num_segments)] scratch for offsets that depend on the tile
  size_t y_offset_pitch;
  int row_parts, filter_parts;  // how the work is split
  char* memory;                 // [parts, scratch.bytes], aligned
  void* allocation;
  DbfPool* pool;
};

static inline size_t DbfMin(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t DbfMax(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t DbfDivideUp(size_t a, size_t b) { return a / b + (a % b != 0); }

// Where in the lines a tap of a tile begins that starts at number `first`.
static inline size_t DbfTapOffset(const DbfConv* conv, size_t tap) {
  return conv->y.phase[tap] * conv->phase_pitch + conv->y.step[tap] * conv->x.out;
}

// Computes all lines of one row of the padded input, `out` numbers at `at` of each line. `input` is
// the row [x.in, channels] of the image, or NULL for a row of padding.
void DbfFillLinesFloat(const DbfConv* conv, const float* input, size_t out, char* scratch,
                       size_t at);
void DbfFillLinesInt8(const DbfConv* conv, const int8_t* input, size_t out, char* scratch,
                      size_t at);

// What a tile's product reads and writes: `pixels` successive pixels, from number `first` of the
// lines, with panels [panel, end_panel), to `output`.
typedef struct DbfProduct {
  size_t first, pixels;
  size_t panel, end_panel;
  size_t* offsets;  // scratch
} DbfProduct;

void DbfMultiplyFloat(const DbfConv* conv, const DbfProduct* product, char* scratch, float* output);
void DbfMultiplyInt8(const DbfConv* conv, const DbfProduct* product, char* scratch, int8_t* output);

// Where the columns of a phase of a row are: entries i in [first, end), in steps of `step` entries,
// are columns i * stride + remainder − pad. Fills in the addresses of `count` pixels from entry i
// on, with `padding` for those that are not there; returns false if none is.
static inline bool DbfRowPixels(const DbfConv* conv, size_t phase, size_t i, size_t in,
                                const void* input, size_t pixel_bytes, const void* padding,
                                size_t count, const void** pixels) {
  const Axis* axis = &conv->x;
  const size_t column = i * axis->stride + axis->remainder[phase] - axis->pad;
  if (column >= in) return false;
  for (size_t lane = 0; lane < count; ++lane) {
    const size_t c = column + lane * axis->stride;
    pixels[lane] = c < in ? (const char*)input + c * pixel_bytes : padding;
  }
  return true;
}

// The first entry of a phase that is a column of the image.
static inline size_t DbfFirstEntry(const Axis* axis, size_t phase) {
  const size_t remainder = axis->remainder[phase];
  return remainder < axis->pad ? DbfDivideUp(axis->pad - remainder, axis->stride) : 0;
}

#endif  // DBF_EXPORT_STAGES_H_
