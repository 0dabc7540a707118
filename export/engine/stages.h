// What conv.c, which knows the geometry, and the stages of float and of int8 layers share.

#ifndef DBF_EXPORT_ENGINE_STAGES_H_
#define DBF_EXPORT_ENGINE_STAGES_H_

#include "engine/conv.h"
#include "plan/plan_int8.h"
#include "support/arena.h"
#include "support/threads.h"

// One axis of the convolution. Output i, tap t reads padded input i * stride + t * dilation, which
// is entry i + step[t] of phase phase[t].
//
// If runs of taps are added up first (plan.h), a padded input is such a sum, and the image's
// padding is in the sums.
//
// In Winograd's form, an output of the axis is a patch with `square` = 2 outputs of the layer, and
// its taps are the patch's numbers.
typedef struct Axis {
  size_t in, out;
  size_t outputs;  // of the layer
  size_t square;   // for each `out`
  size_t stride, dilation, taps, pad;
  size_t num_phases;  // phases that some tap reads
  size_t* remainder;  // [num_phases] of the padded input's index by the stride
  size_t* phase;      // [taps]
  size_t* step;       // [taps]
  size_t reach;       // largest step
  size_t run, apart;  // taps of the layer that are added up, and pixels from one to the next
  size_t sum_step;    // pixels from a sum to the next; 1 if none are added up
  size_t pixels;      // of the image: `in`, if none are added up
  size_t image_pad;   // and before it: `pad`, if none are added up
} Axis;

enum { kDbfCacheLine = 16 };  // floats

// Addresses inside the scratch memory of a thread, in bytes. Raw numbers are floats, or 32-bit
// elements of int8 features; code numbers are floats or int16.
typedef struct Scratch {
  size_t padding;      // [channels] a pixel of padding
  size_t column_sums;  // [x.pixels, channels] of a row: sums of runs along y
  size_t wide_row;     // int8 layers: [x.pixels, channels] of a row, as int16
  size_t wide_sums;    // int8 layers: [x.in, channels] of runs, before they are rounded
  size_t sums;         // [fill_rows, x.in, channels] of runs
  size_t rows;         // the transform's buffer
  size_t raw_row;      // projected rows: [raw_lines / x.taps, row_pitch]
  size_t code_row;     // and of partial channels: [partial, row_pitch]; for floats, right behind
  size_t raw_lines;    // [raw_lines, line_pitch]
  size_t code_lines;   // [code_lines, line_pitch]
  size_t packed;       // int8 layers: partial features [elements, packed_pitch]
  size_t tiles;        // float layers: what a block of the product reads, see DbfGemm
  size_t products;     // Winograd's form: [patch^2, tile_pixels, 2 vectors]
  size_t slices;       // [int8->num_slices] DbfSlice
  size_t bytes;        // all of it
} Scratch;

struct DbfConv {
  DbfPlan* plan;
  bool same_padding;
  Axis y, x;
  bool sums;         // runs of taps are added up first
  bool direct;       // one horizontal tap and no partial codes: rows are projected into their lines
  size_t code_size;  // bytes of a code number
  size_t sum_size;   // bytes of a sum of pixels, before it is rounded
  // Set by resizing.
  size_t tile_pixels;       // pixels, or patches, of a product at most
  size_t images, last_out;  // the last image may be narrower: 1 x 1 convolutions are cut into
                            // images of one row
  size_t tile_rows, tiles;  // output rows per tile, tiles per image
  size_t line_rows;         // rows of a phase that a line holds
  size_t fill_rows;         // rows that are projected at a time
  size_t row_entries;       // entries of a phase of a projected row
  size_t phase_pitch;       // numbers of a line per phase of rows
  size_t line_pitch, row_phase_pitch, row_pitch, packed_pitch;
  size_t* x_offset;  // [x.taps] where in a row of `row` a tap begins
  Scratch scratch;
  size_t*
      y_offset;  // [parts, max(y.taps, num_segments)] scratch for offsets that depend on the tile
  size_t y_offset_pitch;
  int row_parts, filter_parts;  // how the work is split
  DbfArena* arena;              // [parts, scratch.bytes]
  DbfThreads* pool;
};

static inline size_t DbfMin(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t DbfMax(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t DbfDivideUp(size_t a, size_t b) { return a / b + (a % b != 0); }

// Where in the lines a tap of a tile begins that starts at number `first`.
static inline size_t DbfTapOffset(const DbfConv* conv, size_t tap) {
  return conv->y.phase[tap] * conv->phase_pitch + conv->y.step[tap] * conv->x.out;
}

// Successive rows of one phase of the padded input, all of them rows of the image, and where they
// go: `out` numbers from `at` on in each line, of each row x.out after the one before.
typedef struct DbfRows {
  const void* input;  // [x.in, channels] of the first row
  size_t stride;      // numbers from one to the next
  size_t count;
  size_t out;
  size_t at;
} DbfRows;

// Adds up the runs of taps of `count` rows of sums, y.stride apart, from row `y` on.
void DbfSumRows(const DbfConv* conv, const char* image, size_t y, size_t count, char* scratch);

// Projects the channels of these rows, at most conv->fill_rows, to lines at `dst`, `pitch` apart:
// numbers or elements of raw features, and the numbers of partial channels to the row of codes.
void DbfProjectRowsFloat(const DbfConv* conv, const DbfRows* rows, char* scratch, float* dst,
                         size_t pitch);
void DbfProjectRowsInt8(const DbfConv* conv, const DbfRows* rows, char* scratch, uint32_t* dst,
                        size_t pitch);

// Fills all lines of one row of padding.
void DbfFillPaddingFloat(const DbfConv* conv, size_t out, char* scratch, size_t at);
void DbfFillPaddingInt8(const DbfConv* conv, size_t out, char* scratch, size_t at);

// What a tile's product reads and writes: `pixels` successive pixels (patches), from number `first`
// of the lines and `pixel` of the image, with panels [panel, end_panel), to the image `output`.
typedef struct DbfProduct {
  size_t first, pixel, pixels;
  size_t panel, end_panel;
  size_t* offsets;  // scratch
} DbfProduct;

void DbfMultiplyFloat(const DbfConv* conv, const DbfProduct* product, char* scratch, float* output);
void DbfMultiplyWinograd(const DbfConv* conv, const DbfProduct* product, char* scratch,
                         float* output);
void DbfMultiplyInt8(const DbfConv* conv, const DbfProduct* product, char* scratch, int8_t* output);

// Walks over the pixels of one phase of rows, several at a time, as they lie side by side in the
// buffer of projected rows: the entries of a row, with columns of padding, then those of the next.
// The first row begins with its first entry that is a column of the image, the last ends with its
// last.
typedef struct DbfWalk {
  const DbfConv* conv;
  const DbfRows* rows;
  size_t number;  // bytes of a number
  size_t phase;
  size_t row, entry;
  size_t at;  // of `entry`, in the buffer
} DbfWalk;

static inline DbfWalk DbfWalkPhase(const DbfConv* conv, const DbfRows* rows, size_t number,
                                   size_t phase) {
  const Axis* axis = &conv->x;
  const size_t remainder = axis->remainder[phase];
  const size_t first = remainder < axis->pad ? DbfDivideUp(axis->pad - remainder, axis->stride) : 0;
  return (DbfWalk){conv, rows, number, phase, 0, first, phase * conv->row_phase_pitch + first};
}

// Fills in the addresses of the next `count` pixels, with `padding` for those outside of the image,
// and where in the buffer they go. Returns false if there are no more.
static inline bool DbfWalkNext(DbfWalk* walk, const void* padding, size_t count,
                               const void** pixels, size_t* at) {
  const DbfConv* conv = walk->conv;
  const DbfRows* rows = walk->rows;
  const Axis* axis = &conv->x;
  // A narrow image is that of a 1 x 1 convolution.
  const size_t in = rows->out < axis->out ? rows->out : axis->in;
  const size_t entries = conv->row_entries, skip = axis->pad - axis->remainder[walk->phase];
  if (walk->row + 1 >= rows->count &&
      (walk->row >= rows->count || walk->entry * axis->stride - skip >= in ||
       walk->entry >= entries)) {
    return false;
  }
  const char* input = (const char*)rows->input + walk->row * rows->stride * walk->number;
  const size_t bytes = conv->plan->channels * walk->number;
  *at = walk->at;
  const size_t start = walk->entry * axis->stride - skip;
  if (walk->entry + count <= entries && start < in && in - start > (count - 1) * axis->stride) {
    const char* pixel = input + start * bytes;  // all are in this row of the image
    for (size_t lane = 0; lane < count; ++lane) pixels[lane] = pixel + lane * axis->stride * bytes;
    walk->entry += count;
    walk->at += count;
    return true;
  }
  for (size_t lane = 0; lane < count; ++lane, ++walk->entry) {
    if (walk->entry == entries) {
      walk->entry = 0;
      ++walk->row;
      input += rows->stride * walk->number;
    }
    // Entries of padding before the image wrap around to large numbers.
    const size_t column = walk->entry * axis->stride - skip;
    pixels[lane] =
        column < in && walk->row < rows->count ? (const void*)(input + column * bytes) : padding;
  }
  walk->at += count;
  return true;
}

#endif  // DBF_EXPORT_ENGINE_STAGES_H_
