#include "engine/layout.h"

#include "support/checked.h"

enum {
  kMaxFillRows = 8,    // rows projected at a time
  kMinWork = 1 << 19,  // multiplications that are worth a thread
  kAlignment = 64,
  kMaxScratch = 1 << 28,  // bytes per thread; more is taken for a broken model
};

// The least pitch for so many numbers of 4 bytes that is an odd number of cache lines, so that all
// of the cache is used.
static size_t SpreadPitch(size_t numbers) {
  const size_t pitch = DbfRoundUp(numbers, kDbfCacheLine);
  return pitch / kDbfCacheLine % 2 == 0 ? DbfAdd(pitch, kDbfCacheLine) : pitch;
}

// Lays out the images. A 1 x 1 convolution sees one long line of pixels, which is cut into images
// of one row.
static void SetImages(DbfConv* conv, size_t batch, size_t height, size_t width) {
  conv->images = batch;
  const bool pointwise = !conv->pooled && conv->y.taps == 1 && conv->x.taps == 1 &&
                         conv->y.stride == 1 && conv->x.stride == 1;
  const size_t pixels = DbfMul(DbfMul(batch, height), width);
  if (pointwise && pixels > 0 && pixels < SIZE_MAX) {
    width = DbfDivideUp(pixels, DbfDivideUp(pixels, kDbfPiecePixels));
    height = 1;
    conv->images = DbfDivideUp(pixels, width);
  }
  DbfAxisLayOut(&conv->y, height);
  DbfAxisLayOut(&conv->x, width);
  if (conv->images == 0 || conv->y.out == 0 || conv->x.out == 0) conv->images = 0;
  conv->last_out = pointwise && pixels > 0 ? pixels - (conv->images - 1) * conv->x.in : conv->x.out;
}

// Cuts the output into bands of equally many rows, as many as fit one gemm.
static void SetBands(DbfConv* conv) {
  const size_t height = conv->y.out;
  conv->piece_pixels = conv->stages->piece_pixels(conv);
  const size_t fit = DbfMin(DbfMax(conv->piece_pixels / conv->x.out, 1), height);
  conv->bands = DbfDivideUp(height, fit);
  conv->band_rows = DbfDivideUp(height, conv->bands);
  conv->bands = DbfDivideUp(height, conv->band_rows);
}

// Sets how many rows are projected at a time: the number that wastes the least of the vectors.
static void SetFillRows(DbfConv* conv) {
  const DbfRule* rule = &conv->plan->rule;
  const size_t vectors = rule->group_form ? 1 : conv->stages->vectors;
  const size_t strip = vectors * rule->kernels->vector;
  const size_t columns = DbfMin(DbfDivideUp(conv->x.in, conv->x.stride), conv->x.out);
  conv->row_entries = DbfAdd(conv->x.out, conv->direct ? 0 : conv->x.reach);
  conv->fill_rows = 1;
  size_t least = DbfDivideUp(columns, strip);  // strips
  for (size_t rows = 2; rows <= DbfMin(conv->band_rows, kMaxFillRows); ++rows) {
    const size_t strips = DbfDivideUp(DbfAdd(DbfMul(rows - 1, conv->row_entries), columns), strip);
    if (DbfMul(strips, conv->fill_rows) < DbfMul(least, rows)) {
      conv->fill_rows = rows;
      least = strips;
    }
  }
}

// The most pixels of a piece.
static size_t PiecePixels(const DbfConv* conv) {
  return DbfMin(DbfMul(conv->band_rows, conv->x.out), conv->piece_pixels);
}

// How many numbers a store may write past those in use: int16 are stored by twice as many, and
// tiles of up to 14 pixels are copied by whole vectors.
static size_t Slack(const DbfConv* conv) {
  return DbfMax(2 * conv->plan->rule.kernels->vector, 16);
}

// Sets the pitches of rows, lines and packed features. Sizes stick at SIZE_MAX if they overflow,
// here and below.
static void SetPitches(DbfConv* conv) {
  const size_t slack = Slack(conv);
  // Rows are moved to the front of the lines when the lines are full: every second band.
  conv->line_rows = DbfAdd(2 * conv->band_rows, conv->y.reach);
  conv->phase_pitch = DbfAdd(DbfMul(conv->line_rows, conv->x.out), slack);
  conv->line_pitch = SpreadPitch(DbfMul(conv->y.num_phases, conv->phase_pitch));
  // A combined line reads a vector too many, a transposed one writes a vector too many.
  conv->row_phase_pitch =
      DbfAdd(DbfRoundUp(DbfMul(conv->fill_rows, conv->row_entries), slack), 2 * slack);
  conv->row_pitch = DbfMul(conv->x.num_phases, conv->row_phase_pitch);
  // Whole vectors are stored per piece.
  conv->packed_pitch = SpreadPitch(DbfRoundUp(PiecePixels(conv), slack));
  for (size_t t = 0; t < conv->x.taps; ++t) {
    conv->x_offset[t] = conv->x.phase[t] * conv->row_phase_pitch + conv->x.step[t];
  }
}

// A part of the scratch memory: `count` times `pitch` numbers of `size` bytes, whose offset goes to
// `address`.
typedef struct Buffer {
  size_t* address;
  size_t count, pitch, size;
} Buffer;

// Lays out a thread's scratch memory.
static void SetScratch(DbfConv* conv) {
  const DbfPlan* plan = conv->plan;
  const DbfStages* stages = conv->stages;
  const size_t channels = plan->rule.channels, partial = plan->rule.partial;
  const size_t pixels = PiecePixels(conv);
  const DbfNeeds needs = stages->measure(conv, pixels);
  const size_t raw_rows = conv->direct ? 0 : plan->raw + (needs.code_rows_follow ? partial : 0);
  const bool widened = conv->pooled && stages->widen != NULL;
  DbfScratch* scratch = &conv->scratch;
  const Buffer buffers[] = {
      {&scratch->padding, 1, channels, stages->number},
      {&scratch->vertical_sums, conv->pooled ? conv->x.pixels : 0, channels, stages->wide},
      {&scratch->wide_row, widened ? conv->x.pixels : 0, channels, sizeof(int16_t)},
      {&scratch->wide_sums, widened ? conv->x.in : 0, channels, sizeof(int16_t)},
      {&scratch->pooled_sums, conv->pooled ? conv->fill_rows : 0, DbfMul(conv->x.in, channels),
       stages->number},
      {&scratch->strips, plan->rule.group_form ? 0 : 1, needs.strip_bytes, 1},
      {&scratch->raw_row, raw_rows, conv->row_pitch, kDbfRawBytes},
      {&scratch->code_row, needs.code_rows_follow ? 0 : partial, conv->row_pitch, stages->wide},
      {&scratch->raw_lines, conv->x.taps * plan->raw, conv->line_pitch, kDbfRawBytes},
      {&scratch->code_lines, plan->rule.code_lines, conv->line_pitch, stages->wide},
      {&scratch->packed, needs.packed, conv->packed_pitch, kDbfRawBytes},
      {&scratch->tiles, needs.tiles, needs.tile_floats, sizeof(float)},
      {&scratch->accumulators, needs.accumulators, pixels, sizeof(float)},
      {&scratch->slices, needs.slices, 1, sizeof(DbfSlice)},
  };
  size_t end = 0;
  for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); ++i) {
    *buffers[i].address = end;
    const size_t count = DbfAdd(DbfMul(buffers[i].count, buffers[i].pitch), Slack(conv));
    end = DbfRoundUp(DbfAdd(end, DbfMul(count, buffers[i].size)), kAlignment);
  }
  scratch->bytes = DbfAdd(end, kAlignment);
  if (needs.code_rows_follow) {
    scratch->code_row = scratch->raw_row + plan->raw * conv->row_pitch * kDbfRawBytes;
  }
  conv->y_offset_pitch = DbfMax(conv->y.taps, needs.offsets);
}

// Splits the work: bands first, then panels of filters.
static void SetParts(DbfConv* conv, int threads) {
  const DbfRule* rule = &conv->plan->rule;
  const size_t bands = DbfMul(conv->images, conv->bands);
  const size_t work = DbfMul(DbfMul(DbfMul(conv->images, conv->y.out), conv->x.out),
                             DbfMul(rule->depth, rule->padded_filters));
  const size_t most = DbfMin(threads > 0 ? threads : 1, kDbfMaxShares);
  const size_t useful = DbfMax(DbfMin(most, work / kMinWork), 1);
  conv->row_parts = (int)DbfMax(DbfMin(useful, bands), 1);
  conv->filter_parts = (int)DbfMin(useful / conv->row_parts, DbfPanels(rule));
  conv->row_chunks = (int)DbfMin(bands, kDbfMaxChunks / conv->filter_parts);
}

const char* DbfLayOut(DbfConv* conv, size_t batch, size_t height, size_t width, int threads) {
  SetImages(conv, batch, height, width);
  if (conv->images == 0) return NULL;
  SetBands(conv);
  SetFillRows(conv);
  SetPitches(conv);
  SetScratch(conv);
  SetParts(conv, threads);
  return conv->scratch.bytes > kMaxScratch ? "the layer is too large" : NULL;
}
