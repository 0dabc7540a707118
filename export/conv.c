// How an image is computed, tile of `tile_rows` output rows after tile (all buffers are planar: a
// line is one feature, its numbers are pixels):
//
//   input row       --transpose, hadamard-->  `row`     projected channels, once per input row
//   row             --combine along x------>  lines     once per input row, kept for kh rows
//   lines           --combine along y------>  packed    of partial codes only
//   lines, packed   --gemm----------------->  output
//
// A line holds, for one (channel, tap x) or (channel, horizontal code), numbers of out_width pixels
// for successive rows without a gap. Pixels of a tile therefore lie side by side for every vertical
// tap, and the matrix product reads raw features from the lines as they are. With a stride, rows
// (and in `row`, columns) are kept apart by their remainder, their phase, so that steps of the
// output are steps of one.

#include "conv.h"

#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "threadpool.h"

enum {
  kTilePixels = 112,   // pixels packed at a time
  kMinWork = 1 << 19,  // multiplications that are worth a thread
  kAlignment = 64,
  kMaxScratch = 1 << 28,  // bytes per thread; more is taken for a broken model
};

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

// Addresses inside the scratch memory of a thread, in floats.
typedef struct Scratch {
  size_t zeros;   // [channels] a pixel of padding
  size_t rows;    // [plan->rows, vector]
  size_t row;     // [full + partial, row_pitch]
  size_t lines;   // [raw_lines + code_lines, line_pitch]
  size_t packed;  // [max_block, packed_pitch]
  size_t floats;  // all of it
} Scratch;

struct DbfConv {
  DbfPlan* plan;
  bool same_padding;
  Axis y, x;
  // Set by resizing.
  size_t images, last_out;  // the last image may be narrower: 1 x 1 convolutions are cut into
                            // images of one row
  size_t tile_rows, tiles;  // output rows per tile, tiles per image
  size_t line_rows;         // rows of a phase that a line holds
  size_t phase_pitch;       // floats of a line per phase of rows
  size_t line_pitch, row_phase_pitch, row_pitch, packed_pitch;
  size_t* x_offset;  // [x.taps] where in a row of `row` a tap begins
  Scratch scratch;
  size_t*
      y_offset;  // [parts, max(y.taps, num_segments)] scratch for offsets that depend on the tile
  size_t y_offset_pitch;
  int row_parts, filter_parts;  // how the work is split
  float* memory;                // [parts, scratch.floats], aligned
  void* allocation;
  DbfPool* pool;
};

// What a thread does: tiles [tile, end_tile) counted through all images, panels [panel, end_panel).
typedef struct Part {
  const DbfConv* conv;
  const float* input;
  float* output;
} Part;

static size_t Min(size_t a, size_t b) { return a < b ? a : b; }
static size_t Max(size_t a, size_t b) { return a > b ? a : b; }
static size_t DivideUp(size_t a, size_t b) { return a / b + (a % b != 0); }

// a rounded up to a multiple of b; SIZE_MAX if that does not fit.
static size_t RoundUp(size_t a, size_t b) { return DbfMul(DivideUp(a, b), b); }

// The least pitch for `floats` that is an odd number of cache lines, so that all of the cache is
// used.
static size_t SpreadPitch(size_t floats) {
  const size_t pitch = RoundUp(floats, 16);
  return pitch / 16 % 2 == 0 ? DbfAdd(pitch, 16) : pitch;
}

static bool AxisCreate(Axis* axis, int32_t taps, int32_t stride, int32_t dilation) {
  axis->taps = taps;
  axis->stride = stride;
  axis->dilation = dilation;
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
    axis->reach = Max(axis->reach, axis->step[t]);
  }
  return true;
}

static void AxisFree(Axis* axis) {
  free(axis->remainder);
  free(axis->phase);
  free(axis->step);
}

// Computes the output's size and the padding before for `in` inputs. Returns false if a kernel does
// not fit.
static bool AxisOutput(const Axis* axis, bool same_padding, size_t in, size_t* out, size_t* pad) {
  const size_t extent = (axis->taps - 1) * axis->dilation + 1;
  *pad = 0;
  if (same_padding) {
    *out = DivideUp(in, axis->stride);
    const size_t needed = in == 0 ? 0 : (*out - 1) * axis->stride + extent;
    if (needed > in) *pad = (needed - in) / 2;
    return true;
  }
  if (in < extent) return false;
  *out = (in - extent) / axis->stride + 1;
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
    conv->x_offset = DbfAllocate(layer->kernel_w, sizeof(size_t));
    if (conv->x_offset != NULL &&
        AxisCreate(&conv->y, layer->kernel_h, layer->stride_h, layer->dilation_h) &&
        AxisCreate(&conv->x, layer->kernel_w, layer->stride_w, layer->dilation_w)) {
      return conv;
    }
    DbfConvFree(conv);
  }
  *error = "out of memory";
  return NULL;
}

// Gives back what DbfConvResize took.
static void Release(DbfConv* conv) {
  free(conv->allocation);
  free(conv->y_offset);
  DbfPoolRelease(conv->pool);
  conv->allocation = NULL;
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

// Lays out the images. A 1 x 1 convolution sees one long line of pixels, which is cut into images
// of one row.
static void SetImages(DbfConv* conv, size_t batch, size_t height, size_t width) {
  conv->images = batch;
  conv->y.in = height;
  conv->x.in = width;
  const bool pointwise =
      conv->y.taps == 1 && conv->x.taps == 1 && conv->y.stride == 1 && conv->x.stride == 1;
  const size_t pixels = DbfMul(DbfMul(batch, height), width);
  if (pointwise && pixels > 0 && pixels < SIZE_MAX) {
    conv->x.in = DivideUp(pixels, DivideUp(pixels, kTilePixels));
    conv->y.in = 1;
    conv->images = DivideUp(pixels, conv->x.in);
  }
  AxisOutput(&conv->y, conv->same_padding, conv->y.in, &conv->y.out, &conv->y.pad);
  AxisOutput(&conv->x, conv->same_padding, conv->x.in, &conv->x.out, &conv->x.pad);
  if (conv->images == 0 || conv->y.out == 0 || conv->x.out == 0) conv->images = 0;
  conv->last_out = pointwise && pixels > 0 ? pixels - (conv->images - 1) * conv->x.in : conv->x.out;
}

// Sets tile_rows and tiles, and the pitches of all buffers. The sizes stick at SIZE_MAX if they
// overflow.
static void SetBuffers(DbfConv* conv) {
  const DbfPlan* plan = conv->plan;
  const size_t slack = plan->kernels->vector;
  const size_t height = conv->y.out, width = conv->x.out;
  const size_t fit = Min(Max(kTilePixels / width, 1), height);
  conv->tiles = DivideUp(height, fit);
  conv->tile_rows = DivideUp(height, conv->tiles);
  conv->tiles = DivideUp(height, conv->tile_rows);

  // Rows are moved to the front of the lines when the lines are full: every second tile.
  conv->line_rows = DbfAdd(2 * conv->tile_rows, conv->y.reach);
  conv->phase_pitch = DbfAdd(DbfMul(conv->line_rows, width), slack);
  conv->line_pitch = SpreadPitch(DbfMul(conv->y.num_phases, conv->phase_pitch));
  // A combined line reads a vector too many, a transposed one writes a vector too many.
  conv->row_phase_pitch = DbfAdd(RoundUp(DbfAdd(width, conv->x.reach), slack), 2 * slack);
  conv->row_pitch = DbfMul(conv->x.num_phases, conv->row_phase_pitch);
  conv->packed_pitch = SpreadPitch(Min(DbfMul(conv->tile_rows, width), kTilePixels));

  Scratch* scratch = &conv->scratch;
  size_t end = 0;
  const struct {
    size_t* address;
    size_t count, pitch;
  } buffers[] = {
      {&scratch->zeros, 1, plan->channels},
      {&scratch->rows, plan->hadamard ? plan->rows : 0, plan->kernels->vector},
      {&scratch->row, plan->full + plan->partial, conv->row_pitch},
      {&scratch->lines, plan->raw_lines + plan->code_lines, conv->line_pitch},
      {&scratch->packed, plan->max_block, conv->packed_pitch},
  };
  for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); ++i) {
    *buffers[i].address = end;
    end = RoundUp(DbfAdd(end, DbfAdd(DbfMul(buffers[i].count, buffers[i].pitch), slack)), 16);
  }
  scratch->floats = DbfAdd(end, 16);
}

// Splits the work: tiles first, then panels of filters.
static void SetParts(DbfConv* conv, int threads) {
  const DbfPlan* plan = conv->plan;
  const size_t panels = DivideUp(plan->padded_filters, 2 * (size_t)plan->kernels->vector);
  const size_t tiles = DbfMul(conv->images, conv->tiles);
  const size_t work = DbfMul(DbfMul(DbfMul(conv->images, conv->y.out), conv->x.out),
                             DbfMul(plan->depth, plan->padded_filters));
  const size_t useful = Max(Min(threads > 0 ? threads : 1, work / kMinWork), 1);
  conv->row_parts = (int)Max(Min(useful, tiles), 1);
  conv->filter_parts = (int)Min(useful / conv->row_parts, panels);
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
  SetBuffers(conv);
  SetParts(conv, threads);
  for (size_t t = 0; t < conv->x.taps; ++t) {
    conv->x_offset[t] = conv->x.phase[t] * conv->row_phase_pitch + conv->x.step[t];
  }
  const size_t parts = (size_t)conv->row_parts * conv->filter_parts;
  const size_t bytes = DbfMul(conv->scratch.floats, sizeof(float));
  if (bytes > kMaxScratch) return "the layer is too large";
  conv->y_offset_pitch = Max(conv->y.taps, conv->plan->num_segments);
  conv->y_offset = DbfAllocate(DbfMul(parts, conv->y_offset_pitch), sizeof(size_t));
  conv->allocation = DbfAllocate(DbfAdd(DbfMul(parts, bytes), kAlignment), 1);
  if (conv->allocation == NULL || conv->y_offset == NULL) return "out of memory";
  conv->memory = (float*)(((uintptr_t)conv->allocation + kAlignment - 1) / kAlignment * kAlignment);
  if (parts > 1) {
    conv->pool = DbfPoolAcquire(owner, threads);
    if (conv->pool == NULL) return "cannot start threads";
  }
  return NULL;
}

size_t DbfConvPackedBytes(const DbfConv* conv) {
  return conv->plan->depth * conv->plan->padded_filters * sizeof(float);
}

size_t DbfConvScratchBytes(const DbfConv* conv) {
  return (size_t)conv->row_parts * conv->filter_parts * conv->scratch.floats * sizeof(float);
}

// Projects the channels of one input row: `input` [in, channels] to `row`. Padding in `row` stays
// zero: it has been from the start, and vectors that run over the row's end write zeros.
static void ProjectRow(const DbfConv* conv, const float* input, size_t in, float* scratch) {
  const DbfPlan* plan = conv->plan;
  const DbfKernels* kernels = plan->kernels;
  const Axis* axis = &conv->x;
  const size_t channels = plan->channels, vector = kernels->vector;
  const float* zeros = scratch + conv->scratch.zeros;
  float* rows = scratch + conv->scratch.rows;
  const size_t written =
      ((channels + vector - 1) / vector * vector - 1) / ((size_t)1 << plan->shift) + 1;
  for (size_t p = 0; p < axis->num_phases; ++p) {
    // Entry i of the phase is column i * stride + remainder - pad of the input.
    const size_t remainder = axis->remainder[p];
    const size_t first = remainder < axis->pad ? DivideUp(axis->pad - remainder, axis->stride) : 0;
    const size_t end = axis->out + axis->reach;
    for (size_t i = first; i < end; i += vector) {
      const size_t column = i * axis->stride + remainder - axis->pad;
      if (column >= in) break;
      const float* pixels[kDbfMaxVector];
      for (size_t lane = 0; lane < vector; ++lane) {
        const size_t c = column + lane * axis->stride;
        pixels[lane] = c < in ? input + c * channels : zeros;
      }
      float* row = scratch + conv->scratch.row + p * conv->row_phase_pitch + i;
      if (!plan->hadamard) {
        kernels->transpose(pixels, channels, plan->shift, false, row, conv->row_pitch);
        continue;
      }
      kernels->transpose(pixels, channels, plan->shift, true, rows, vector);
      if (written < plan->rows)
        memset(rows + written * vector, 0, (plan->rows - written) * vector * sizeof(float));
      kernels->hadamard(rows, Max(vector >> plan->shift, 1), plan->rows);
      const size_t none = 0;
      const DbfCombine gather = {
          .ops = plan->gather_ops,
          .num_ops = plan->full + plan->partial,
          .signs = plan->signs_w,
          .offsets = &none,
          .taps = 1,
          .src = rows,
          .src_pitch = vector,
          .dst = row,
          .dst_pitch = conv->row_pitch,
          .width = vector,
      };
      kernels->combine(&gather);
    }
  }
}

// Computes all lines of one row of the padded input, at `lines` + position. `y` is its row in the
// image if it has one.
static void FillLines(const DbfConv* conv, const float* image, size_t y, size_t out, float* scratch,
                      float* lines) {
  const DbfPlan* plan = conv->plan;
  if (y >= conv->y.in) {
    for (size_t i = 0; i < plan->raw_lines + plan->code_lines; ++i) {
      memset(lines + i * conv->line_pitch, 0, out * sizeof(float));
    }
    return;
  }
  const size_t in =
      out < conv->x.out ? out : conv->x.in;  // a narrow image is that of a 1 x 1 convolution
  ProjectRow(conv, image + y * conv->x.in * plan->channels, in, scratch);
  DbfCombine combine = {
      .ops = plan->raw_ops,
      .num_ops = plan->full,
      .signs = plan->signs_w,
      .taps = 1,
      .src = scratch + conv->scratch.row,
      .src_pitch = conv->row_pitch,
      .dst_pitch = conv->line_pitch,
      .width = out,
  };
  for (size_t t = 0; t < conv->x.taps && plan->full > 0; ++t) {
    combine.offsets = &conv->x_offset[t];
    combine.dst = lines + t * plan->full * conv->line_pitch;
    plan->kernels->combine(&combine);
  }
  combine.ops = plan->line_ops;
  combine.num_ops = plan->code_lines;
  combine.taps = (int)conv->x.taps;
  combine.offsets = conv->x_offset;
  combine.dst = lines + plan->raw_lines * conv->line_pitch;
  plan->kernels->combine(&combine);
}

// Multiplies `pixels` successive pixels, from pixel `first` of the lines, with panels [panel,
// end_panel).
static void Multiply(const DbfConv* conv, size_t first, size_t pixels, size_t panel,
                     size_t end_panel, size_t* offsets, float* scratch, float* output) {
  const DbfPlan* plan = conv->plan;
  const size_t panel_columns = 2 * (size_t)plan->kernels->vector;
  const float* lines = scratch + conv->scratch.lines;
  float* packed = scratch + conv->scratch.packed;
  const size_t zero = 0;
  size_t depth_before = 0;
  for (size_t i = 0; i < plan->num_blocks; ++i) {
    const DbfBlock* block = &plan->blocks[i];
    const size_t depth = block->num_segments * block->depth;
    DbfGemm gemm = {
        .a = block->partial ? packed : lines + first,
        .a_pitch = block->partial ? conv->packed_pitch : conv->line_pitch,
        .segments = block->partial ? &zero : offsets,
        .num_segments = block->num_segments,
        .segment_depth = block->depth,
        .out_pitch = plan->filters,
        .pixels = pixels,
        .first = i == 0,
        .last = i + 1 == plan->num_blocks,
        .low = plan->low,
        .high = plan->high,
    };
    if (block->partial) {
      for (size_t t = 0; t < conv->y.taps; ++t) {
        offsets[t] = conv->y.phase[t] * conv->phase_pitch + conv->y.step[t] * conv->x.out;
      }
      const DbfCombine combine = {
          .ops = plan->feature_ops + block->first,
          .num_ops = block->depth,
          .signs = plan->signs_h,
          .offsets = offsets,
          .taps = (int)conv->y.taps,
          .src = lines + first,
          .src_pitch = conv->line_pitch,
          .dst = packed,
          .dst_pitch = conv->packed_pitch,
          .width = pixels,
      };
      plan->kernels->combine(&combine);
    } else {
      for (size_t s = 0; s < block->num_segments; ++s) {
        const DbfSegment* segment = &plan->segments[block->first + s];
        offsets[s] = segment->line * conv->line_pitch +
                     conv->y.phase[segment->tap] * conv->phase_pitch +
                     conv->y.step[segment->tap] * conv->x.out;
      }
    }
    for (size_t j = panel; j < end_panel; ++j) {
      const size_t k = j * panel_columns;
      const size_t width = Min(plan->padded_filters - k, panel_columns);
      gemm.b = plan->packed + depth_before * plan->padded_filters + k * depth;
      gemm.bias = plan->bias + k;
      gemm.out = output + k;
      gemm.vectors = (int)(width / plan->kernels->vector);
      gemm.columns = Min(plan->filters - k, width);
      plan->kernels->gemm(&gemm);
    }
    depth_before += depth;
  }
}

// Makes room for `needed` rows from output row `row` on, by moving those of [row, filled) to the
// front of the lines, which begin at row *base.
static void MoveLines(const DbfConv* conv, size_t row, size_t needed, size_t* filled, size_t* base,
                      float* lines) {
  const DbfPlan* plan = conv->plan;
  if (row + needed - *base <= conv->line_rows) return;
  const size_t width = conv->x.out;
  for (size_t i = 0; i < plan->raw_lines + plan->code_lines; ++i) {
    for (size_t p = 0; p < conv->y.num_phases; ++p) {
      float* line = lines + i * conv->line_pitch + p * conv->phase_pitch;
      if (*filled > row)
        memmove(line, line + (row - *base) * width, (*filled - row) * width * sizeof(float));
    }
  }
  *base = row;
  *filled = Max(*filled, row);
}

// Computes part `index` of the work: some tiles of the images, for some panels of filters.
static void RunPart(void* argument, int index) {
  const Part* part = argument;
  const DbfConv* conv = part->conv;
  const DbfPlan* plan = conv->plan;
  const size_t row_part = index / conv->filter_parts, filter_part = index % conv->filter_parts;
  const size_t tiles = conv->images * conv->tiles;
  const size_t panels = DivideUp(plan->padded_filters, 2 * (size_t)plan->kernels->vector);
  const size_t end_tile = tiles * (row_part + 1) / conv->row_parts;
  const size_t panel = panels * filter_part / conv->filter_parts;
  const size_t end_panel = panels * (filter_part + 1) / conv->filter_parts;
  float* scratch = conv->memory + (size_t)index * conv->scratch.floats;
  float* lines = scratch + conv->scratch.lines;
  size_t* offsets = conv->y_offset + (size_t)index * conv->y_offset_pitch;
  const size_t image_in = conv->y.in * conv->x.in * plan->channels;
  const size_t image_out = conv->y.out * conv->x.out * plan->filters;
  size_t base = 0, filled = 0;
  for (size_t tile = tiles * row_part / conv->row_parts, begin = tile; tile < end_tile; ++tile) {
    const size_t image = tile / conv->tiles;
    const size_t row = tile % conv->tiles * conv->tile_rows;
    const size_t rows = Min(conv->y.out - row, conv->tile_rows);
    const size_t width = image + 1 < conv->images ? conv->x.out : conv->last_out;
    const float* input = part->input + image * image_in;
    if (tile == begin || row == 0) base = filled = row;  // another image
    MoveLines(conv, row, rows + conv->y.reach, &filled, &base, lines);
    for (; filled < row + rows + conv->y.reach; ++filled) {
      for (size_t p = 0; p < conv->y.num_phases; ++p) {
        // Rows above the image wrap around to large numbers.
        const size_t y = filled * conv->y.stride + conv->y.remainder[p] - conv->y.pad;
        FillLines(conv, input, y, width, scratch,
                  lines + p * conv->phase_pitch + (filled - base) * conv->x.out);
      }
    }
    const size_t pixels = rows * width;
    const size_t pieces = DivideUp(pixels, kTilePixels);
    for (size_t i = 0; i < pieces; ++i) {
      const size_t first = pixels * i / pieces, end = pixels * (i + 1) / pieces;
      float* output =
          part->output + image * image_out + (row * conv->x.out + first) * plan->filters;
      Multiply(conv, (row - base) * conv->x.out + first, end - first, panel, end_panel, offsets,
               scratch, output);
    }
  }
}

void DbfConvRun(const DbfConv* conv, const float* input, float* output) {
  if (conv->images == 0) return;
  Part part = {conv, input, output};
  const int parts = conv->row_parts * conv->filter_parts;
  if (parts > 1) {
    DbfPoolRun(conv->pool, RunPart, &part, parts);
  } else {
    RunPart(&part, 0);
  }
}
