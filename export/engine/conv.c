// How an image is computed, tile of `tile_rows` output rows after tile (all buffers are planar: a
// line is one feature, its numbers are pixels):
//
//   input rows  --add------------------>  sums    of runs of taps, if the layer has them
//   these       --transpose, hadamard-->  rows    projected channels, a few rows at a time
//   rows        --combine along x------>  lines   once per input row, kept for kh rows
//   lines       --combine along y------>  tiles   in the order in which the product reads them
//   tiles       --gemm----------------->  output
//
// A line holds, for one (channel, tap x) or (channel, horizontal code), numbers of out_width pixels
// for successive rows without a gap. Pixels of a tile therefore lie side by side for every vertical
// tap. (Raw features are read from the lines as they are if only one panel of filters reads them.)
// With a stride, rows (and, of projected rows, columns) are kept apart by their remainder, their
// phase, so that steps of the output are steps of one.
//
// In Winograd's form (plan.h) a "pixel" is a patch with 2 x 2 outputs: a convolution of stride 2
// with k + 1 taps on a side, whose combinations are the patch's transform. A product for each
// number of a patch goes to a buffer, and from there back to outputs.
//
// The numbers are floats. In int8 layers, raw lines hold 32-bit elements of several features, and
// those of codes hold int16; stages_float.c and stages_int8.c do what is different.

#include "engine/conv.h"

#include <stdlib.h>
#include <string.h>

#include "engine/stages.h"
#include "support/arena.h"
#include "support/checked.h"
#include "support/threads.h"

enum {
  kTilePixels = 168,      // pixels of a product, at most: of 12 tiles of 14 or 28 of 6
  kTileFloats = 1 << 16,  // that patches of a tile take: of the second cache
  kMinTilePatches = 28,
  kMaxTilePatches = 56,
  kMaxFillRows = 8,    // rows projected at a time
  kMinWork = 1 << 19,  // multiplications that are worth a thread
  kAlignment = 64,
  kMaxScratch = 1 << 28,  // bytes per thread; more is taken for a broken model
};

// A run, which threads share.
typedef struct Part {
  const DbfConv* conv;
  const char* input;
  char* output;
  size_t number;  // bytes of a number of both
} Part;

// a rounded up to a multiple of b; SIZE_MAX if that does not fit.
static size_t RoundUp(size_t a, size_t b) { return DbfMul(DbfDivideUp(a, b), b); }

// The least pitch for `floats` that is an odd number of cache lines, so that all of the cache is
// used.
static size_t SpreadPitch(size_t floats) {
  const size_t pitch = RoundUp(floats, 16);
  return pitch / 16 % 2 == 0 ? DbfAdd(pitch, 16) : pitch;
}

static size_t GreatestDivisor(size_t a, size_t b) { return b == 0 ? a : GreatestDivisor(b, a % b); }

// The axis of a plan with `taps` taps, over sums of `run` taps of the layer or, if `sums` is false,
// over its pixels.
static bool AxisCreate(Axis* axis, int32_t taps, int32_t run, bool sums, int32_t stride,
                       int32_t dilation, int32_t patch) {
  axis->square = patch > 0 ? 2 : 1;
  if (patch > 0) taps = patch;
  axis->taps = taps;
  axis->run = run;
  axis->apart = dilation;
  axis->sum_step = sums ? GreatestDivisor(stride, (size_t)run * dilation) : 1;
  axis->stride = stride / axis->sum_step * axis->square;
  axis->dilation = (size_t)run * dilation / axis->sum_step;
  axis->remainder = DbfAllocate(taps, sizeof(size_t));
  axis->phase = DbfAllocate(taps, sizeof(size_t));
  axis->step = DbfAllocate(taps, sizeof(size_t));
  if (axis->remainder == NULL || axis->phase == NULL || axis->step == NULL) return false;
  for (size_t t = 0; t < axis->taps; ++t) {
    const size_t remainder = t * axis->dilation % axis->stride;
    size_t p = 0;
    while (p < axis->num_phases && axis->remainder[p] != remainder) ++p;
    if (p == axis->num_phases) axis->remainder[axis->num_phases++] = remainder;
    axis->phase[t] = p;
    axis->step[t] = t * axis->dilation / axis->stride;
    axis->reach = DbfMax(axis->reach, axis->step[t]);
  }
  return true;
}

static void AxisFree(Axis* axis) {
  free(axis->remainder);
  free(axis->phase);
  free(axis->step);
}

// Computes the layer's outputs and the padding before for `in` inputs. Returns false if a kernel
// does not fit.
static bool AxisOutput(const Axis* axis, bool same_padding, size_t in, size_t* outputs,
                       size_t* pad) {
  const size_t stride = axis->stride / axis->square * axis->sum_step;
  const size_t extent = (axis->taps * axis->run - axis->square) * axis->apart + 1;
  *pad = 0;
  if (same_padding) {
    *outputs = DbfDivideUp(in, stride);
    const size_t needed = in == 0 ? 0 : (*outputs - 1) * stride + extent;
    if (needed > in) *pad = (needed - in) / 2;
    return true;
  }
  if (in < extent) return false;
  *outputs = (in - extent) / stride + 1;
  return true;
}

DbfConv* DbfConvCreate(const DbfLayer* layer, const DbfKernels* kernels, const char** error) {
  DbfPlan* plan = DbfPlanCreate(layer, kernels, error);
  if (plan == NULL) return NULL;
  DbfConv* conv = DbfAllocate(1, sizeof(*conv));
  if (conv == NULL) {
    DbfPlanFree(plan);
  } else {
    conv->plan = plan;
    conv->same_padding = layer->same_padding;
    conv->sums = plan->run_h > 1 || plan->run_w > 1;
    conv->direct = plan->kernel_w == 1 && plan->partial == 0;
    conv->code_size = conv->sum_size = plan->int8 != NULL ? sizeof(int16_t) : sizeof(float);
    conv->x_offset = DbfAllocate(DbfMax(plan->kernel_w, plan->patch), sizeof(size_t));
    if (conv->x_offset != NULL &&
        AxisCreate(&conv->y, plan->kernel_h, plan->run_h, conv->sums, layer->stride_h,
                   layer->dilation_h, plan->patch) &&
        AxisCreate(&conv->x, plan->kernel_w, plan->run_w, conv->sums, layer->stride_w,
                   layer->dilation_w, plan->patch)) {
      return conv;
    }
    DbfConvFree(conv);
  }
  *error = "out of memory";
  return NULL;
}

// Gives back what DbfConvResize took.
static void Release(DbfConv* conv) {
  free(conv->y_offset);
  DbfArenaRelease(conv->arena);
  DbfThreadsRelease(conv->pool);
  conv->arena = NULL;
  conv->y_offset = NULL;
  conv->pool = NULL;
  conv->row_parts = conv->filter_parts = 0;
}

void DbfConvFree(DbfConv* conv) {
  if (conv == NULL) return;
  Release(conv);
  free(conv->x_offset);
  AxisFree(&conv->y);
  AxisFree(&conv->x);
  DbfPlanFree(conv->plan);
  free(conv);
}

const char* DbfConvOutputSize(const DbfConv* conv, int32_t height, int32_t width,
                              int32_t* out_height, int32_t* out_width) {
  size_t out_h, out_w, pad;
  if (height < 0 || width < 0) return "negative input size";
  if (!AxisOutput(&conv->y, conv->same_padding, height, &out_h, &pad) ||
      !AxisOutput(&conv->x, conv->same_padding, width, &out_w, &pad)) {
    return "the input is smaller than the kernel";
  }
  *out_height = (int32_t)out_h;
  *out_width = (int32_t)out_w;
  return NULL;
}

// Lays out an axis of `pixels` pixels.
static void SetAxis(Axis* axis, bool same_padding, bool sums, size_t pixels) {
  axis->in = axis->pixels = pixels;
  AxisOutput(axis, same_padding, pixels, &axis->outputs, &axis->pad);
  axis->image_pad = axis->pad;
  axis->out = DbfDivideUp(axis->outputs, axis->square);
  if (!sums) return;
  axis->pad = 0;
  axis->in = axis->outputs == 0 ? 0
                                : DbfAdd(DbfMul(axis->outputs - 1, axis->stride),
                                         (axis->taps - 1) * axis->dilation + 1);
}

// Lays out the images. A 1 x 1 convolution sees one long line of pixels, which is cut into images
// of one row.
static void SetImages(DbfConv* conv, size_t batch, size_t height, size_t width) {
  conv->images = batch;
  const bool pointwise = !conv->sums && conv->y.taps == 1 && conv->x.taps == 1 &&
                         conv->y.stride == 1 && conv->x.stride == 1;
  const size_t pixels = DbfMul(DbfMul(batch, height), width);
  if (pointwise && pixels > 0 && pixels < SIZE_MAX) {
    width = DbfDivideUp(pixels, DbfDivideUp(pixels, kTilePixels));
    height = 1;
    conv->images = DbfDivideUp(pixels, width);
  }
  SetAxis(&conv->y, conv->same_padding, conv->sums, height);
  SetAxis(&conv->x, conv->same_padding, conv->sums, width);
  if (conv->images == 0 || conv->y.out == 0 || conv->x.out == 0) conv->images = 0;
  conv->last_out = pointwise && pixels > 0 ? pixels - (conv->images - 1) * conv->x.in : conv->x.out;
}

// Sets how many rows are projected at a time: the number that wastes the least of the vectors.
static void SetFillRows(DbfConv* conv) {
  const DbfPlan* plan = conv->plan;
  const size_t int16s = plan->int8 != NULL && plan->hadamard ? 2 : 1;
  const size_t vector = int16s * plan->kernels->vector;
  const size_t columns = DbfMin(DbfDivideUp(conv->x.in, conv->x.stride), conv->x.out);
  conv->row_entries = DbfAdd(conv->x.out, conv->direct ? 0 : conv->x.reach);
  conv->fill_rows = 1;
  size_t least = DbfDivideUp(columns, vector);  // vectors
  for (size_t rows = 2; rows <= DbfMin(conv->tile_rows, kMaxFillRows); ++rows) {
    const size_t vectors =
        DbfDivideUp(DbfAdd(DbfMul(rows - 1, conv->row_entries), columns), vector);
    if (DbfMul(vectors, conv->fill_rows) < DbfMul(least, rows)) {
      conv->fill_rows = rows;
      least = vectors;
    }
  }
}

// Cuts the output into tiles of equally many rows.
static void SetTiles(DbfConv* conv) {
  const size_t height = conv->y.out;
  conv->tile_pixels = kTilePixels;
  if (conv->plan->patch > 0) {
    const size_t fit = kTileFloats / conv->plan->depth;
    conv->tile_pixels = DbfMax(DbfMin(fit, kMaxTilePatches), kMinTilePatches);
  }
  const size_t fit = DbfMin(DbfMax(conv->tile_pixels / conv->x.out, 1), height);
  conv->tiles = DbfDivideUp(height, fit);
  conv->tile_rows = DbfDivideUp(height, conv->tiles);
  conv->tiles = DbfDivideUp(height, conv->tile_rows);
}

// The most pixels of a tile.
static size_t TilePixels(const DbfConv* conv) {
  return DbfMin(DbfMul(conv->tile_rows, conv->x.out), conv->tile_pixels);
}

// How many numbers a store may write past those in use: int16 are stored by twice as many, and
// tiles of up to 14 pixels are copied by whole vectors.
static size_t Slack(const DbfConv* conv) { return DbfMax(2 * conv->plan->kernels->vector, 16); }

// Sets the pitches of rows, lines and packed features. Sizes stick at SIZE_MAX if they overflow,
// here and below.
static void SetPitches(DbfConv* conv) {
  const size_t slack = Slack(conv);
  // Rows are moved to the front of the lines when the lines are full: every second tile.
  conv->line_rows = DbfAdd(2 * conv->tile_rows, conv->y.reach);
  conv->phase_pitch = DbfAdd(DbfMul(conv->line_rows, conv->x.out), slack);
  conv->line_pitch = SpreadPitch(DbfMul(conv->y.num_phases, conv->phase_pitch));
  // A combined line reads a vector too many, a transposed one writes a vector too many.
  conv->row_phase_pitch =
      DbfAdd(RoundUp(DbfMul(conv->fill_rows, conv->row_entries), slack), 2 * slack);
  conv->row_pitch = DbfMul(conv->x.num_phases, conv->row_phase_pitch);
  // Whole vectors are stored per tile.
  conv->packed_pitch = SpreadPitch(RoundUp(TilePixels(conv), slack));
}

// A part of the scratch: `count` times `pitch` numbers of `size` bytes. Its offset goes to
// `address`.
typedef struct {
  size_t* address;
  size_t count, pitch, size;
} Buffer;

// The features as the float multiplication reads them.
static Buffer TileBuffer(DbfConv* conv) {
  const DbfPlan* plan = conv->plan;
  const size_t vector = plan->kernels->vector, rows = plan->kernels->rows;
  size_t count = DbfDivideUp(TilePixels(conv), rows), pitch = RoundUp(rows, vector);
  size_t depth = DbfMin(plan->depth, plan->kernels->depth);
  if (plan->patch > 0) {
    count = DbfMul((size_t)plan->patch * plan->patch, count);
    depth = plan->full;
  } else if (plan->int8 != NULL) {
    count = 0;
  } else if (plan->padded_filters <= 2 * vector) {  // one panel
    count = plan->num_features > 0;
    pitch = conv->packed_pitch;
  }
  pitch = DbfAdd(DbfMul(depth, pitch), kDbfCacheLine);
  return (Buffer){&conv->scratch.tiles, count, pitch, sizeof(float)};
}

// Lays out a thread's scratch.
static void SetScratch(DbfConv* conv) {
  const DbfPlan* plan = conv->plan;
  const DbfPlanInt8* int8 = plan->int8;
  const size_t vector = plan->kernels->vector;
  const size_t rows = int8 == NULL ? plan->rows * vector * sizeof(float)
                                   : int8->rows * 2 * vector * sizeof(int16_t);
  const size_t packed = int8 == NULL ? 0 : int8->feature_elements;
  // Float rows of partial channels follow those of full ones.
  const size_t row_lines = conv->direct   ? 0
                           : int8 == NULL ? plan->full + plan->partial
                                          : int8->full_elements;
  const size_t number = int8 == NULL ? sizeof(float) : sizeof(int8_t);
  const bool wide = conv->sums && int8 != NULL;
  const size_t products = (size_t)plan->patch * plan->patch * 2 * vector;
  Scratch* scratch = &conv->scratch;
  const Buffer buffers[] = {
      {&scratch->padding, 1, plan->channels, number},
      {&scratch->column_sums, conv->sums ? conv->x.pixels : 0, plan->channels, conv->sum_size},
      {&scratch->wide_row, wide ? conv->x.pixels : 0, plan->channels, sizeof(int16_t)},
      {&scratch->wide_sums, wide ? conv->x.in : 0, plan->channels, sizeof(int16_t)},
      {&scratch->sums, conv->sums ? conv->fill_rows : 0, DbfMul(conv->x.in, plan->channels),
       number},
      {&scratch->rows, plan->hadamard ? 1 : 0, rows, 1},
      {&scratch->raw_row, row_lines, conv->row_pitch, 4},
      {&scratch->code_row, int8 == NULL ? 0 : plan->partial, conv->row_pitch, conv->code_size},
      {&scratch->raw_lines, plan->raw_lines, conv->line_pitch, 4},
      {&scratch->code_lines, plan->code_lines, conv->line_pitch, conv->code_size},
      {&scratch->packed, packed, conv->packed_pitch, 4},
      TileBuffer(conv),
      {&scratch->products, products, TilePixels(conv), sizeof(float)},
      {&scratch->slices, int8 == NULL ? 0 : int8->num_slices, 1, sizeof(DbfSlice)},
  };
  size_t end = 0;
  for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); ++i) {
    *buffers[i].address = end;
    const size_t count = DbfAdd(DbfMul(buffers[i].count, buffers[i].pitch), Slack(conv));
    end = RoundUp(DbfAdd(end, DbfMul(count, buffers[i].size)), kAlignment);
  }
  scratch->bytes = DbfAdd(end, kAlignment);
  if (int8 == NULL) scratch->code_row = scratch->raw_row + plan->full * conv->row_pitch * 4;
}

// Splits the work: tiles first, then panels of filters.
static void SetParts(DbfConv* conv, int threads) {
  const DbfPlan* plan = conv->plan;
  const size_t panels = DbfDivideUp(plan->padded_filters, 2 * (size_t)plan->kernels->vector);
  const size_t tiles = DbfMul(conv->images, conv->tiles);
  const size_t work = DbfMul(DbfMul(DbfMul(conv->images, conv->y.out), conv->x.out),
                             DbfMul(plan->depth, plan->padded_filters));
  const size_t useful = DbfMax(DbfMin(threads > 0 ? threads : 1, work / kMinWork), 1);
  conv->row_parts = (int)DbfMax(DbfMin(useful, tiles), 1);
  conv->filter_parts = (int)DbfMin(useful / conv->row_parts, panels);
}

// Fills in what a run does not write in the scratch memory of a thread, which other layers have
// used: a pixel of padding and what is left and right of projected rows.
static void SetPadding(const DbfConv* conv, char* scratch) {
  const DbfPlan* plan = conv->plan;
  const DbfPlanInt8* int8 = plan->int8;
  char* padding = scratch + conv->scratch.padding;
  if (int8 == NULL) {
    memset(padding, 0, plan->channels * sizeof(float));
  } else {
    memset(padding, (uint8_t)int8->input_zero, plan->channels);
  }
  if (conv->direct) return;
  const size_t partial = plan->partial * conv->row_pitch * conv->code_size;
  memset(scratch + conv->scratch.code_row, 0, partial);
  float* raw_row = (float*)(scratch + conv->scratch.raw_row);
  if (int8 == NULL) memset(raw_row, 0, plan->full * conv->row_pitch * sizeof(float));
  for (size_t e = 0; int8 != NULL && e < int8->full_elements; ++e) {
    uint32_t* row = (uint32_t*)raw_row + e * conv->row_pitch;
    for (size_t i = 0; i < conv->row_pitch; ++i) row[i] = int8->padding[e];
  }
}

const char* DbfConvResize(DbfConv* conv, int32_t batch, int32_t height, int32_t width, int threads,
                          const void* owner) {
  int32_t out_height, out_width;
  const char* error = DbfConvOutputSize(conv, height, width, &out_height, &out_width);
  if (error != NULL) return error;
  if (batch < 0) return "negative batch";
  Release(conv);
  SetImages(conv, batch, height, width);
  if (conv->images == 0) return NULL;
  SetTiles(conv);
  SetFillRows(conv);
  SetPitches(conv);
  SetScratch(conv);
  SetParts(conv, threads);
  for (size_t t = 0; t < conv->x.taps; ++t) {
    conv->x_offset[t] = conv->x.phase[t] * conv->row_phase_pitch + conv->x.step[t];
  }
  const size_t parts = (size_t)conv->row_parts * conv->filter_parts;
  const size_t bytes = conv->scratch.bytes;
  if (bytes > kMaxScratch) return "the layer is too large";
  conv->y_offset_pitch = DbfMax(conv->y.taps, conv->plan->num_segments);
  conv->y_offset = DbfAllocate(DbfMul(parts, conv->y_offset_pitch), sizeof(size_t));
  conv->arena = DbfArenaAcquire(owner, DbfMul(parts, bytes));
  if (conv->arena == NULL || conv->y_offset == NULL) return "out of memory";
  if (parts > 1) {
    conv->pool = DbfThreadsAcquire(owner, threads);
    if (conv->pool == NULL) return "cannot start threads";
  }
  return NULL;
}

size_t DbfConvPackedBytes(const DbfConv* conv) { return DbfPlanPackedBytes(conv->plan); }

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
    const DbfPlan* plan = conv->plan;
    MoveRows(conv, row, *filled, *base, scratch + conv->scratch.raw_lines, plan->raw_lines, 4);
    MoveRows(conv, row, *filled, *base, scratch + conv->scratch.code_lines, plan->code_lines,
             conv->code_size);
  }
  *base = row;
  *filled = DbfMax(*filled, row);
}

// Computes all lines of rows of the image.
static void FillImageLines(const DbfConv* conv, const DbfRows* rows, char* scratch) {
  const DbfPlan* plan = conv->plan;
  char* raw_lines = scratch + conv->scratch.raw_lines + rows->at * 4;
  char* raw_row = conv->direct ? raw_lines : scratch + conv->scratch.raw_row;
  const size_t pitch = conv->direct ? conv->line_pitch : conv->row_pitch;
  if (plan->int8 != NULL) {
    DbfProjectRowsInt8(conv, rows, scratch, (uint32_t*)raw_row, pitch);
  } else {
    DbfProjectRowsFloat(conv, rows, scratch, (float*)raw_row, pitch);
  }
  if (conv->direct) return;
  if (plan->patch > 0) {
    const DbfCombine patches = {
        .num_ops = plan->full,
        .taps = plan->patch,
        .rows = rows->count,
        .src = raw_row,
        .src_pitch = conv->row_pitch,
        .src_row = conv->row_entries,
        .offsets = conv->x_offset,
        .dst = raw_lines,
        .dst_pitch = conv->line_pitch,
        .dst_row = conv->x.out,
        .dst_step = plan->full * conv->line_pitch,
        .width = rows->out,
    };
    plan->kernels->patches(&patches);
    return;
  }
  DbfCombine combine = {
      .ops = plan->raw_ops,
      .num_ops = plan->raw_lines / conv->x.taps,
      .taps = 1,  // a copy of 4 bytes, whatever they are
      .rows = rows->count,
      .src = raw_row,
      .src_pitch = conv->row_pitch,
      .src_row = conv->row_entries,
      .dst_pitch = conv->line_pitch,
      .dst_row = conv->x.out,
      .width = rows->out,
  };
  for (size_t t = 0; t < conv->x.taps && combine.num_ops > 0; ++t) {
    combine.offsets = &conv->x_offset[t];
    combine.dst = raw_lines + t * combine.num_ops * conv->line_pitch * 4;
    plan->kernels->combine(&combine);
  }
  combine.ops = plan->line_ops;
  combine.num_ops = plan->code_lines;
  combine.offsets = conv->x_offset;
  combine.taps = (int)conv->x.taps;
  combine.src = scratch + conv->scratch.code_row;
  combine.dst = scratch + conv->scratch.code_lines + rows->at * conv->code_size;
  if (plan->int8 != NULL) {
    combine.signs = plan->int8->masks_w;
    plan->kernels->combine_int16(&combine);
  } else {
    combine.signs = plan->signs_w;
    plan->kernels->combine(&combine);
  }
}

// Computes all lines of rows [row, end) of phase `phase` of the padded input, at `at`.
static void FillLines(const DbfConv* conv, const char* image, size_t phase, size_t row, size_t end,
                      size_t out, char* scratch, size_t at, size_t number) {
  const Axis* axis = &conv->y;
  const bool int8 = conv->plan->int8 != NULL;
  while (row < end) {
    // Rows above the image wrap around to large numbers.
    const size_t y = row * axis->stride + axis->remainder[phase] - axis->pad;
    DbfRows rows = {.stride = axis->stride * conv->x.in * conv->plan->channels,
                    .count = 1,
                    .out = out,
                    .at = at};
    if (y < axis->in) {
      rows.count =
          DbfMin(DbfMin(end - row, conv->fill_rows), DbfDivideUp(axis->in - y, axis->stride));
      rows.input = image + y * conv->x.in * conv->plan->channels * number;
      if (conv->sums) {
        DbfSumRows(conv, image, y, rows.count, scratch);
        rows.input = scratch + conv->scratch.sums;
        rows.stride = conv->x.in * conv->plan->channels;
      }
      FillImageLines(conv, &rows, scratch);
    } else if (int8) {
      DbfFillPaddingInt8(conv, out, scratch, at);
    } else {
      DbfFillPaddingFloat(conv, out, scratch, at);
    }
    row += rows.count;
    at += rows.count * conv->x.out;
  }
}

// Computes part `index` of the work: some tiles of the images, for some panels of filters.
static void RunPart(void* argument, int index) {
  const Part* part = argument;
  const DbfConv* conv = part->conv;
  const DbfPlan* plan = conv->plan;
  const size_t row_part = index / conv->filter_parts, filter_part = index % conv->filter_parts;
  const size_t tiles = conv->images * conv->tiles;
  const size_t panels = DbfDivideUp(plan->padded_filters, 2 * (size_t)plan->kernels->vector);
  const size_t end_tile = tiles * (row_part + 1) / conv->row_parts;
  DbfProduct product = {
      .panel = panels * filter_part / conv->filter_parts,
      .end_panel = panels * (filter_part + 1) / conv->filter_parts,
      .offsets = conv->y_offset + (size_t)index * conv->y_offset_pitch,
  };
  char* scratch = DbfArenaMemory(conv->arena) + (size_t)index * conv->scratch.bytes;
  SetPadding(conv, scratch);
  const size_t image_in = conv->y.pixels * conv->x.pixels * plan->channels * part->number;
  const size_t image_out = conv->y.outputs * conv->x.outputs * plan->filters;
  size_t base = 0, filled = 0;
  for (size_t tile = tiles * row_part / conv->row_parts, begin = tile; tile < end_tile; ++tile) {
    const size_t image = tile / conv->tiles;
    const size_t row = tile % conv->tiles * conv->tile_rows;
    const size_t rows = DbfMin(conv->y.out - row, conv->tile_rows);
    const size_t width = image + 1 < conv->images ? conv->x.out : conv->last_out;
    const char* input = part->input + image * image_in;
    if (tile == begin || row == 0) base = filled = row;  // another image
    MoveLines(conv, row, rows + conv->y.reach, &filled, &base, scratch);
    const size_t end = row + rows + conv->y.reach;
    for (size_t p = 0; p < conv->y.num_phases; ++p) {
      FillLines(conv, input, p, filled, end, width, scratch,
                p * conv->phase_pitch + (filled - base) * conv->x.out, part->number);
    }
    filled = DbfMax(filled, end);
    const size_t pixels = rows * width;
    const size_t pieces = DbfDivideUp(pixels, conv->tile_pixels);
    for (size_t i = 0; i < pieces; ++i) {
      const size_t first = pixels * i / pieces, end = pixels * (i + 1) / pieces;
      product.first = (row - base) * conv->x.out + first;
      product.pixel = row * conv->x.out + first;
      product.pixels = end - first;
      if (plan->int8 != NULL) {
        DbfMultiplyInt8(conv, &product, scratch, (int8_t*)part->output + image * image_out);
      } else if (plan->patch > 0) {
        DbfMultiplyWinograd(conv, &product, scratch, (float*)part->output + image * image_out);
      } else {
        DbfMultiplyFloat(conv, &product, scratch, (float*)part->output + image * image_out);
      }
    }
  }
}

void DbfConvInvoke(const DbfConv* conv, const void* input, void* output) {
  if (conv->images == 0) return;
  const size_t number = conv->plan->int8 != NULL ? sizeof(int8_t) : sizeof(float);
  Part part = {conv, input, output, number};
  const int parts = conv->row_parts * conv->filter_parts;
  if (parts > 1) {
    DbfThreadsCall(conv->pool, RunPart, &part, parts);
  } else {
    RunPart(&part, 0);
  }
}
