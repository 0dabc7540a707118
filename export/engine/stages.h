// The stages of a convolution: the protocol between conv.c, which knows the geometry and drives the
// stages, and the forms (plan/rule.h), each of which is a table of stages. conv.c draws the path of
// the data.

#ifndef DBF_EXPORT_ENGINE_STAGES_H_
#define DBF_EXPORT_ENGINE_STAGES_H_

#include "engine/axis.h"
#include "engine/conv.h"
#include "plan/plan.h"
#include "support/arena.h"
#include "support/checked.h"
#include "support/threads.h"

enum {
  kDbfCacheLine = 16,     // floats
  kDbfPiecePixels = 168,  // pixels of a gemm, at most: of 12 tiles of 14 or 28 of 6
  kDbfRawBytes = 4,       // of a raw number: a float, or an element of int8 features
};

// Addresses inside the scratch memory of a thread, in bytes. Code numbers are floats or int16.
typedef struct DbfScratch {
  size_t padding;        // [channels] a pixel of padding
  size_t vertical_sums;  // [x.pixels, channels] sums of pools along y alone
  size_t wide_row;       // [x.pixels, channels] a row of the image, widened
  size_t wide_sums;      // [x.in, channels] a row of pooled sums before they are rounded
  size_t pooled_sums;    // [fill_rows, x.in, channels]
  size_t strips;         // the transform's buffer
  size_t raw_row;        // projected rows of full channels: [plan->raw, row_pitch]
  size_t code_row;       // projected rows of partial channels: [partial, row_pitch]
  size_t raw_lines;      // [x.taps · plan->raw, line_pitch]
  size_t code_lines;     // [code_lines, line_pitch]
  size_t packed;         // int8 layers: elements of code features, [feature_elements, packed_pitch]
  size_t tiles;          // float layers: what a block of the gemm reads, see DbfGemm
  size_t accumulators;   // Winograd's form: [patch^2, pixels of a piece, 2 vectors]
  size_t slices;         // int8 layers: [num_slices] DbfSlice
  size_t bytes;          // all of it
} DbfScratch;

// What a form needs of the scratch memory.
typedef struct DbfNeeds {
  size_t strip_bytes;         // of the transform's buffer
  bool code_rows_follow;      // whether the rows of partial channels follow those of full ones at
                              // their pitch
  size_t packed;              // elements
  size_t tiles, tile_floats;  // number, and size of each
  size_t accumulators;        // of a pixel
  size_t slices;
  size_t offsets;  // scratch for offsets of lines that depend on the piece
} DbfNeeds;

typedef struct DbfStages DbfStages;

struct DbfConv {
  DbfPlan* plan;
  const DbfStages* stages;
  DbfAxis y, x;
  bool pooled;  // whether the layer has pools
  bool direct;  // one horizontal tap and no partial codes: rows are projected into their lines
  // Set by resizing.
  size_t piece_pixels;      // pixels, or patches, of a gemm at most
  size_t images, last_out;  // the last image may be narrower: 1 x 1 convolutions are cut into
                            // images of one row
  size_t band_rows, bands;  // output rows per band, bands per image
  size_t line_rows;         // rows of a phase that a line holds
  size_t fill_rows;         // rows that are projected at a time
  size_t row_entries;       // entries of a phase of a projected row
  size_t phase_pitch;       // numbers of a line per phase of rows
  size_t line_pitch, row_phase_pitch, row_pitch, packed_pitch;
  size_t* x_offset;  // [x.taps] where in a projected row a tap begins
  DbfScratch scratch;
  size_t* y_offset;  // [parts, y_offset_pitch] scratch for offsets of lines
  size_t y_offset_pitch;
  int row_parts, filter_parts;  // how the work is split between threads
  int row_chunks;               // and how often its bands, so that threads take more as they can
  bool resized;                 // whether resizing has succeeded
  DbfArena* arena;              // [parts, scratch.bytes]
  DbfThreads* threads;
};

// Successive rows of one phase of the padded input, all of them rows of the image or of pooled
// sums, and where they go: `out` numbers from `at` on in each line, those of each row x.out after
// those of the row before.
typedef struct DbfRows {
  const void* input;  // [x.in, channels] of the first row
  size_t stride;      // numbers from one to the next
  size_t count;
  size_t out;
  size_t at;
} DbfRows;

// What a gemm reads and writes: `pixels` successive pixels (patches), from number `first` of the
// lines and `pixel` of the image's outputs, with panels [panel, end_panel), to the image `output`.
typedef struct DbfPiece {
  size_t first, pixel, pixels;
  size_t panel, end_panel;
  size_t* offsets;  // scratch
  void* output;
} DbfPiece;

// A table of stages. Its functions get the scratch memory of their thread.
struct DbfStages {
  size_t number;   // bytes of a number of the input and of the output
  size_t wide;     // bytes of a code number, and of a sum of pixels before it is rounded
  size_t vectors;  // vectors of pixels in a strip of the transform

  // Returns the most pixels, or patches, of a gemm.
  size_t (*piece_pixels)(const DbfConv* conv);
  // Says what the form needs, when all pitches are set and at most `pixels` pixels are multiplied
  // at a time.
  DbfNeeds (*measure)(const DbfConv* conv, size_t pixels);

  // Sums of pixels (pooling.c). `widen` and `round_sums` are NULL if pixels are added as they are:
  // otherwise they make a row of `count` pixels' numbers wide, and pooled sums narrow again.
  void (*widen)(const DbfConv* conv, const void* row, void* wide, size_t count);
  void (*add)(const DbfKernels* kernels, const void* a, const void* b, void* sum, size_t count);
  void (*round_sums)(const DbfConv* conv, const void* wide, void* sums, size_t count);

  // Fills in what invoking does not write in the scratch memory, which other layers have used: a
  // pixel of padding and, unless conv->direct, what is left and right of projected rows.
  void (*set_padding)(const DbfConv* conv, char* scratch);
  // Projects the channels of rows, at most conv->fill_rows: raw features to lines at `raw`, `pitch`
  // numbers apart, and partial channels to the code rows.
  void (*project)(const DbfConv* conv, const DbfRows* rows, char* scratch, void* raw, size_t pitch);
  // Makes the lines of projected rows; not called if conv->direct.
  void (*combine)(const DbfConv* conv, const DbfRows* rows, char* scratch);
  // Fills `out` numbers from `at` on of all lines with those of padding.
  void (*fill_padding)(const DbfConv* conv, size_t out, char* scratch, size_t at);
  // Multiplies a piece with the coefficients and writes its outputs.
  void (*multiply)(const DbfConv* conv, const DbfPiece* piece, char* scratch);
};

extern const DbfStages kDbfStagesFloat, kDbfStagesWinograd, kDbfStagesInt8;

// The stages of a form.
const DbfStages* DbfStagesOf(DbfForm form);

// Makes the lines of projected rows: copies raw features, for all horizontal taps, and combines
// partial channels along x, with `signs`, by the micro-kernel `combine`.
void DbfCombineRows(const DbfConv* conv, const DbfRows* rows, char* scratch, const void* signs,
                    void (*combine)(const DbfCombine*));

// Adds up the pixels under the pools (pooling.c): `count` rows of pooled sums, y.stride apart, from
// row `y` on.
void DbfPoolRows(const DbfConv* conv, const char* image, size_t y, size_t count, char* scratch);

// Panels of filters: the packed coefficients of two vectors of filters, of the last panel of one or
// two.
static inline size_t DbfPanelColumns(const DbfRule* rule) {
  return 2 * (size_t)rule->kernels->vector;
}
static inline size_t DbfPanels(const DbfRule* rule) {
  return DbfDivideUp(rule->padded_filters, DbfPanelColumns(rule));
}

// Where in the lines a tap of a band begins that starts at number `first`.
static inline size_t DbfTapOffset(const DbfConv* conv, size_t tap) {
  return conv->y.phase[tap] * conv->phase_pitch + conv->y.step[tap] * conv->x.out;
}

#endif  // DBF_EXPORT_ENGINE_STAGES_H_
