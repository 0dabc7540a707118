// How an image is computed, band of `band_rows` output rows after band. All buffers are planar: a
// line is one feature, its numbers are pixels.
//
//   input rows  --add-------------------> pooled sums  of the pixels under pools, if there are any
//   these       --transpose, hadamard---> projected rows  of channels, a few rows at a time
//   these       --combine along x-------> lines        once per input row, kept for kh rows
//   lines       --combine along y-------> tiles        in the order in which the gemm reads them
//   tiles       --gemm------------------> output       piece of at most `piece_pixels` after piece
//
// A line holds, for one (channel, tap x) or (channel, horizontal code), numbers of out_width pixels
// for successive rows without a gap. Pixels of a band therefore lie side by side for every vertical
// tap. (Raw features are read from the lines as they are if only one panel of filters reads them.)
// With a stride, rows (and, of projected rows, columns) are kept apart by their remainder, their
// phase, so that steps of the output are steps of one.
//
// In Winograd's form (plan/rule.h) a "pixel" is a patch with 2 x 2 outputs: a convolution of stride
// 2 with k + 1 taps on a side, whose combinations are the patch's transform. A gemm for each number
// of a patch goes to a buffer of accumulators, and from there back to outputs.
//
// The numbers are floats. In int8 layers, raw lines hold 32-bit elements of several features, and
// those of codes hold int16. What is different is in the tables of stages (stages.h).

#include "engine/conv.h"

#include <stdlib.h>
#include <string.h>

#include "engine/layout.h"
#include "engine/stages.h"
#include "plan/plan.h"
#include "support/arena.h"
#include "support/checked.h"
#include "support/require.h"
#include "support/threads.h"

// Sets up all that does not depend on the input's size. Returns false if there is no memory.
static bool SetUp(DbfConv* conv, const DbfLayer* layer) {
  const DbfRule* rule = &conv->plan->rule;
  conv->stages = DbfStagesOf(rule->form);
  conv->pooled = rule->pool_h > 1 || rule->pool_w > 1;
  conv->direct = rule->kernel_w == 1 && rule->partial == 0;
  conv->x_offset = DbfAllocate(DbfMax(rule->kernel_w, rule->patch), sizeof(size_t));
  DbfAxisShape y = {
      .taps = rule->kernel_h,
      .pool = rule->pool_h,
      .stride = layer->stride_h,
      .dilation = layer->dilation_h,
      .patch = rule->patch,
      .pooled = conv->pooled,
      .same_padding = layer->same_padding,
  };
  DbfAxisShape x = y;
  x.taps = rule->kernel_w;
  x.pool = rule->pool_w;
  x.stride = layer->stride_w;
  x.dilation = layer->dilation_w;
  return conv->x_offset != NULL && DbfAxisCreate(&conv->y, &y) && DbfAxisCreate(&conv->x, &x);
}

DbfConv* DbfConvCreate(const DbfLayer* layer, const DbfKernels* kernels, const char** error) {
  DbfPlan* plan = DbfPlanCreate(layer, kernels, error);
  if (plan == NULL) return NULL;
  DbfConv* conv = DbfAllocate(1, sizeof(*conv));
  if (conv == NULL) {
    DbfPlanFree(plan);
  } else {
    conv->plan = plan;
    if (SetUp(conv, layer)) return conv;
    DbfConvFree(conv);
  }
  *error = "out of memory";
  return NULL;
}

// Gives back what DbfConvResize took.
static void Release(DbfConv* conv) {
  free(conv->y_offset);
  DbfArenaRelease(conv->arena);
  DbfThreadsRelease(conv->threads);
  conv->arena = NULL;
  conv->y_offset = NULL;
  conv->threads = NULL;
  conv->row_parts = conv->filter_parts = 0;
  conv->resized = false;
}

void DbfConvFree(DbfConv* conv) {
  if (conv == NULL) return;
  Release(conv);
  free(conv->x_offset);
  DbfAxisFree(&conv->y);
  DbfAxisFree(&conv->x);
  DbfPlanFree(conv->plan);
  free(conv);
}

const char* DbfConvOutputSize(const DbfConv* conv, int32_t height, int32_t width,
                              int32_t* out_height, int32_t* out_width) {
  size_t out_h, out_w, pad;
  if (height < 0 || width < 0) return "negative input size";
  if (!DbfAxisOutput(&conv->y, height, &out_h, &pad) ||
      !DbfAxisOutput(&conv->x, width, &out_w, &pad)) {
    return "the input is smaller than the kernel";
  }
  *out_height = (int32_t)out_h;
  *out_width = (int32_t)out_w;
  return NULL;
}

const char* DbfConvResize(DbfConv* conv, int32_t batch, int32_t height, int32_t width, int threads,
                          const void* owner) {
  int32_t out_height, out_width;
  const char* error = DbfConvOutputSize(conv, height, width, &out_height, &out_width);
  if (error != NULL) return error;
  if (batch < 0) return "negative batch";
  Release(conv);
  error = DbfLayOut(conv, batch, height, width, threads);
  if (error != NULL) return error;
  if (conv->images > 0) {
    const size_t parts = (size_t)conv->row_parts * conv->filter_parts;
    conv->y_offset = DbfAllocate(DbfMul(parts, conv->y_offset_pitch), sizeof(size_t));
    conv->arena = DbfArenaAcquire(owner, DbfMul(parts, conv->scratch.bytes));
    if (conv->arena == NULL || conv->y_offset == NULL) return "out of memory";
    if (parts > 1) {
      conv->threads = DbfThreadsAcquire(owner, threads);
      if (conv->threads == NULL) return "cannot start threads";
    }
  }
  conv->resized = true;
  return NULL;
}

size_t DbfConvPackedBytes(const DbfConv* conv) { return conv->plan->packed_bytes; }

size_t DbfConvScratchBytes(const DbfConv* conv) {
  return (size_t)conv->row_parts * conv->filter_parts * conv->scratch.bytes;
}

// Moves rows [row, filled) of `count` lines, which begin at row `base`, to their front.
static void MoveRows(const DbfConv* conv, size_t row, size_t filled, size_t base, char* lines,
                     size_t count, size_t size) {
  const size_t width = conv->x.out * size;
  for (size_t i = 0; i < count; ++i) {
    for (size_t p = 0; p < conv->y.num_phases; ++p) {
      char* line = lines + (i * conv->line_pitch + p * conv->phase_pitch) * size;
      memmove(line, line + (row - base) * width, (filled - row) * width);
    }
  }
}

// Makes room for `needed` rows from output row `row` on, by moving those of [row, filled) to the
// front of the lines, which begin at row *base.
static void MoveLines(const DbfConv* conv, size_t row, size_t needed, size_t* filled, size_t* base,
                      char* scratch) {
  if (row + needed - *base <= conv->line_rows) return;
  if (*filled > row) {
    MoveRows(conv, row, *filled, *base, scratch + conv->scratch.raw_lines,
             conv->x.taps * conv->plan->raw, kDbfRawBytes);
    MoveRows(conv, row, *filled, *base, scratch + conv->scratch.code_lines,
             conv->plan->rule.code_lines, conv->stages->wide);
  }
  *base = row;
  *filled = DbfMax(*filled, row);
}

// Computes all lines of rows of the image.
static void FillImageLines(const DbfConv* conv, const DbfRows* rows, char* scratch) {
  DBF_REQUIRE(rows->count <= conv->fill_rows && rows->out <= conv->x.out, "too many rows at once");
  if (conv->direct) {
    char* raw_lines = scratch + conv->scratch.raw_lines + rows->at * kDbfRawBytes;
    conv->stages->project(conv, rows, scratch, raw_lines, conv->line_pitch);
  } else {
    conv->stages->project(conv, rows, scratch, scratch + conv->scratch.raw_row, conv->row_pitch);
    conv->stages->combine(conv, rows, scratch);
  }
}

// Rows of the padded input that a band needs, and where they go.
typedef struct Fill {
  const char* image;
  size_t phase;
  size_t row, end;  // rows of that phase
  size_t out;       // numbers of each row
  size_t at;        // where in the lines the first begins
} Fill;

// Computes all lines of these rows.
static void FillLines(const DbfConv* conv, Fill fill, char* scratch) {
  const DbfAxis* axis = &conv->y;
  const size_t numbers = conv->x.in * conv->plan->rule.channels;  // of an input row
  while (fill.row < fill.end) {
    // Rows above the image wrap around to large numbers.
    const size_t y = fill.row * axis->stride + axis->remainder[fill.phase] - axis->pad;
    DbfRows rows = {.stride = axis->stride * numbers, .count = 1, .out = fill.out, .at = fill.at};
    if (y < axis->in) {
      rows.count = DbfMin(DbfMin(fill.end - fill.row, conv->fill_rows),
                          DbfDivideUp(axis->in - y, axis->stride));
      rows.input = fill.image + y * numbers * conv->stages->number;
      if (conv->pooled) {
        DbfPoolRows(conv, fill.image, y, rows.count, scratch);
        rows.input = scratch + conv->scratch.pooled_sums;
        rows.stride = numbers;
      }
      FillImageLines(conv, &rows, scratch);
    } else {
      conv->stages->fill_padding(conv, fill.out, scratch, fill.at);
    }
    fill.row += rows.count;
    fill.at += rows.count * conv->x.out;
  }
}

// What the threads of one invocation share.
typedef struct Job {
  const DbfConv* conv;
  const char* input;
  char* output;
} Job;

// Which rows of an image the lines of a thread hold.
typedef struct Lines {
  size_t band;          // the last one computed of all images', or SIZE_MAX
  size_t base, filled;  // rows that the lines begin with, and that they hold so far
} Lines;

// Makes the lines hold what a band needs, the one after the last or any other.
static void FillBand(const Job* job, size_t band, Lines* lines, char* scratch) {
  const DbfConv* conv = job->conv;
  if (band == lines->band) return;
  const size_t image = band / conv->bands, row = band % conv->bands * conv->band_rows;
  const size_t needed = DbfMin(conv->y.out - row, conv->band_rows) + conv->y.reach;
  const size_t width = image + 1 < conv->images ? conv->x.out : conv->last_out;
  const size_t image_in =
      conv->y.pixels * conv->x.pixels * conv->plan->rule.channels * conv->stages->number;
  if (band != lines->band + 1 || row == 0) lines->base = lines->filled = row;  // another image
  MoveLines(conv, row, needed, &lines->filled, &lines->base, scratch);
  DBF_REQUIRE(row + needed - lines->base <= conv->line_rows, "the lines are too short");
  for (size_t p = 0; p < conv->y.num_phases; ++p) {
    const size_t at = p * conv->phase_pitch + (lines->filled - lines->base) * conv->x.out;
    FillLines(conv,
              (Fill){job->input + image * image_in, p, lines->filled, row + needed, width, at},
              scratch);
  }
  lines->filled = DbfMax(lines->filled, row + needed);
  lines->band = band;
}

// Multiplies a band, whose lines are filled, with the panels of `piece`.
static void MultiplyBand(const Job* job, size_t band, const Lines* lines, DbfPiece piece,
                         char* scratch) {
  const DbfConv* conv = job->conv;
  const size_t image = band / conv->bands, row = band % conv->bands * conv->band_rows;
  const size_t width = image + 1 < conv->images ? conv->x.out : conv->last_out;
  const size_t image_out =
      conv->y.outputs * conv->x.outputs * conv->plan->rule.filters * conv->stages->number;
  piece.output = job->output + image * image_out;
  const size_t pixels = DbfMin(conv->y.out - row, conv->band_rows) * width;
  const size_t pieces = DbfDivideUp(pixels, conv->piece_pixels);
  for (size_t i = 0; i < pieces; ++i) {
    const size_t first = pixels * i / pieces;
    piece.first = (row - lines->base) * conv->x.out + first;
    piece.pixel = row * conv->x.out + first;
    piece.pixels = pixels * (i + 1) / pieces - first;
    DBF_REQUIRE(piece.pixels > 0 && piece.pixels <= conv->packed_pitch, "a pitch is too small");
    conv->stages->multiply(conv, &piece, scratch);
  }
}

// Computes a thread's share of a job. A chunk is some bands of the images, for some panels of
// filters. Those of the same bands follow one another, so that a thread keeps the lines.
static void ComputeShare(void* argument, DbfShare* share) {
  const Job* job = argument;
  const DbfConv* conv = job->conv;
  const size_t bands = conv->images * conv->bands, panels = DbfPanels(&conv->plan->rule);
  char* scratch = DbfArenaMemory(conv->arena) + (size_t)share->slot * conv->scratch.bytes;
  DBF_REQUIRE((uintptr_t)scratch % 64 == 0, "the scratch memory is not aligned");
  conv->stages->set_padding(conv, scratch);
  DbfPiece piece = {.offsets = conv->y_offset + (size_t)share->slot * conv->y_offset_pitch};
  Lines lines = {.band = SIZE_MAX};
  for (int chunk, end; DbfShareTake(share, &chunk, &end);) {
    while (chunk < end) {
      const size_t rows = chunk / conv->filter_parts, filters = chunk % conv->filter_parts;
      const size_t end_filters = DbfMin(filters + (size_t)(end - chunk), conv->filter_parts);
      const size_t end_band = bands * (rows + 1) / conv->row_chunks;
      piece.panel = panels * filters / conv->filter_parts;
      piece.end_panel = panels * end_filters / conv->filter_parts;
      DBF_REQUIRE(piece.panel < piece.end_panel && piece.end_panel <= panels, "no such panels");
      for (size_t band = bands * rows / conv->row_chunks; band < end_band; ++band) {
        FillBand(job, band, &lines, scratch);
        MultiplyBand(job, band, &lines, piece, scratch);
      }
      chunk += (int)(end_filters - filters);
    }
  }
}

void DbfConvInvoke(const DbfConv* conv, const void* input, void* output) {
  DBF_REQUIRE(conv->resized, "invoked without a successful resize");
  if (conv->images == 0) return;
  DBF_REQUIRE(input != NULL && output != NULL, "no input or output");
  DBF_REQUIRE((uintptr_t)input % conv->stages->number == 0, "the input is not aligned");
  DBF_REQUIRE((uintptr_t)output % conv->stages->number == 0, "the output is not aligned");
  Job job = {conv, input, output};
  DbfThreadsCall(conv->threads, ComputeShare, &job, conv->row_parts * conv->filter_parts,
                 conv->row_chunks * conv->filter_parts);
}
