#include <string.h>

#include "engine/stages.h"

// Projects the channels of rows to lines at `dst`, `pitch` apart; partial ones follow the full
// ones. Padding before the first row and after the last stays zero: vectors that run over the end
// write zeros.
void DbfProjectRowsFloat(const DbfConv* conv, const DbfRows* input, char* scratch, float* dst,
                         size_t pitch) {
  const DbfPlan* plan = conv->plan;
  const DbfKernels* kernels = plan->kernels;
  const size_t channels = plan->channels, vector = kernels->vector;
  float* rows = (float*)(scratch + conv->scratch.rows);
  const size_t written =
      ((channels + vector - 1) / vector * vector - 1) / ((size_t)1 << plan->shift) + 1;
  for (size_t p = 0; p < conv->x.num_phases; ++p) {
    DbfWalk walk = DbfWalkPhase(conv, input, sizeof(float), p);
    const float* pixels[kDbfMaxVector];
    size_t at;
    while (DbfWalkNext(&walk, scratch + conv->scratch.padding, vector, (const void**)pixels, &at)) {
      if (!plan->hadamard) {
        kernels->transpose(pixels, channels, plan->shift, false, dst + at, pitch);
        continue;
      }
      kernels->transpose(pixels, channels, plan->shift, true, rows, vector);
      if (written < plan->rows) {
        memset(rows + written * vector, 0, (plan->rows - written) * vector * sizeof(float));
      }
      kernels->hadamard(rows, DbfMax(vector >> plan->shift, 1), plan->rows);
      kernels->gather(plan->gather_ops, plan->full + plan->partial, rows, dst + at, pitch);
    }
  }
}

void DbfFillPaddingFloat(const DbfConv* conv, size_t out, char* scratch, size_t at) {
  const DbfPlan* plan = conv->plan;
  float* raw_lines = (float*)(scratch + conv->scratch.raw_lines) + at;
  float* code_lines = (float*)(scratch + conv->scratch.code_lines) + at;
  for (size_t i = 0; i < plan->raw_lines; ++i) {
    memset(raw_lines + i * conv->line_pitch, 0, out * sizeof(float));
  }
  for (size_t i = 0; i < plan->code_lines; ++i) {
    memset(code_lines + i * conv->line_pitch, 0, out * sizeof(float));
  }
}

// Tiles of a product; if only one panel reads them, all pixels are one.
typedef struct Tiles {
  DbfTiles cut;
  size_t pitch;  // floats from a tile to the next
} Tiles;

// Tiles are a cache line farther apart than they need be: a power of two between them would have
// them in the same few sets of the cache, and they are written side by side.
static Tiles MakeTiles(const DbfKernels* kernels, size_t pixels, size_t depth) {
  const DbfTiles cut = DbfCutTiles(pixels, kernels->rows, kernels->vector);
  return (Tiles){cut, depth * cut.pitch + kDbfCacheLine};
}

// Fills the tiles, from number `first` of their depth on: with `function` of lines as `combine`
// says.
static void FillTiles(const Tiles* tiles, void (*function)(const DbfCombine*), DbfCombine combine,
                      size_t first, float* dst) {
  const DbfTiles* cut = &tiles->cut;
  const float* src = combine.src;
  dst += first * cut->pitch;
  combine.dst_pitch = cut->pitch;
  combine.dst_row = tiles->pitch;
  for (size_t longer = 2; longer-- > 0;) {
    combine.rows = longer ? cut->longer : cut->count - cut->longer;
    combine.width = combine.src_row = cut->rows + longer;
    combine.src = src;
    combine.dst = dst;
    if (combine.rows > 0) function(&combine);
    src += combine.rows * combine.width;
    dst += combine.rows * combine.dst_row;
  }
}

void DbfMultiplyFloat(const DbfConv* conv, const DbfProduct* product, char* scratch,
                      float* output) {
  const DbfPlan* plan = conv->plan;
  const DbfKernels* kernels = plan->kernels;
  output += product->pixel * plan->filters;
  const size_t panel_columns = 2 * (size_t)kernels->vector;
  const float* raw_lines = (const float*)(scratch + conv->scratch.raw_lines) + product->first;
  const float* code_lines = (const float*)(scratch + conv->scratch.code_lines) + product->first;
  float* packed = (float*)(scratch + conv->scratch.tiles);
  const bool several = plan->padded_filters > panel_columns;
  const size_t zero = 0;
  size_t* offsets = product->offsets;
  size_t depth_before = 0;
  for (size_t i = 0; i < plan->num_blocks; ++i) {
    const DbfBlock* block = &plan->blocks[i];
    const size_t depth = block->num_segments * block->depth;
    const Tiles tiles = several ? MakeTiles(kernels, product->pixels, depth)
                                : (Tiles){{1, product->pixels, 0, conv->packed_pitch}, 0};
    DbfGemm gemm = {
        .a = packed,
        .packed = several,
        .a_pitch = tiles.cut.pitch,
        .tile_pitch = tiles.pitch,
        .segments = &zero,
        .num_segments = 1,
        .segment_depth = depth,
        .out_pitch = plan->filters,
        .pixels = product->pixels,
        .first = i == 0,
        .last = i + 1 == plan->num_blocks,
        .low = plan->low,
        .high = plan->high,
    };
    if (block->partial) {
      for (size_t t = 0; t < conv->y.taps; ++t) offsets[t] = DbfTapOffset(conv, t);
      const DbfCombine combine = {
          .ops = plan->feature_ops + block->first,
          .num_ops = block->depth,
          .signs = plan->signs_h,
          .offsets = offsets,
          .taps = (int)conv->y.taps,
          .src = code_lines,
          .src_pitch = conv->line_pitch,
      };
      FillTiles(&tiles, kernels->combine, combine, 0, packed);
    } else {
      for (size_t s = 0; s < block->num_segments; ++s) {
        const DbfSegment* segment = &plan->segments[block->first + s];
        offsets[s] = segment->line * conv->line_pitch + DbfTapOffset(conv, segment->tap);
      }
      if (several) {
        for (size_t s = 0; s < block->num_segments; ++s) {
          const DbfCombine copy = {
              .ops = plan->raw_ops,
              .num_ops = block->depth,
              .offsets = &offsets[s],
              .taps = 1,
              .src = raw_lines,
              .src_pitch = conv->line_pitch,
          };
          FillTiles(&tiles, kernels->combine, copy, s * block->depth, packed);
        }
      } else {
        gemm.a = raw_lines;
        gemm.packed = false;
        gemm.a_pitch = conv->line_pitch;
        gemm.segments = offsets;
        gemm.num_segments = block->num_segments;
        gemm.segment_depth = block->depth;
      }
    }
    for (size_t j = product->panel; j < product->end_panel; ++j) {
      const size_t k = j * panel_columns;
      const size_t width = DbfMin(plan->padded_filters - k, panel_columns);
      gemm.b = plan->packed + depth_before * plan->padded_filters + k * depth;
      gemm.bias = plan->bias + k;
      gemm.out = output + k;
      gemm.vectors = (int)(width / kernels->vector);
      gemm.columns = DbfMin(plan->filters - k, width);
      kernels->gemm(&gemm);
    }
    depth_before += depth;
  }
}

// One product for each number of a patch, then back to outputs. The bias enters with the number of
// point (1, 1), which every output of the patch takes once.
void DbfMultiplyWinograd(const DbfConv* conv, const DbfProduct* product, char* scratch,
                         float* output) {
  const DbfPlan* plan = conv->plan;
  const DbfKernels* kernels = plan->kernels;
  const size_t patch = plan->patch, full = plan->full, pixels = product->pixels;
  const size_t panel_columns = 2 * (size_t)kernels->vector, none = 0;
  const Tiles tiles = MakeTiles(kernels, pixels, full);
  const size_t plane = tiles.cut.count * tiles.pitch;
  const float no_bias[2 * kDbfMaxVector] = {0};
  float* packed = (float*)(scratch + conv->scratch.tiles);
  float* products = (float*)(scratch + conv->scratch.products);
  for (size_t t = 0; t < patch; ++t) product->offsets[t] = DbfTapOffset(conv, t);
  for (size_t v = 0; v < patch; ++v) {
    const DbfCombine patches = {
        .num_ops = full,
        .offsets = product->offsets,
        .taps = plan->patch,
        .src = (const float*)(scratch + conv->scratch.raw_lines) + product->first +
               v * full * conv->line_pitch,
        .src_pitch = conv->line_pitch,
        .dst_step = patch * plane,
    };
    FillTiles(&tiles, kernels->patches, patches, 0, packed + v * plane);
  }
  for (size_t j = product->panel; j < product->end_panel; ++j) {
    const size_t k = j * panel_columns;
    const size_t width = DbfMin(plan->padded_filters - k, panel_columns);
    DbfGemm gemm = {
        .packed = true,
        .a_pitch = tiles.cut.pitch,
        .tile_pitch = tiles.pitch,
        .segments = &none,
        .num_segments = 1,
        .segment_depth = full,
        .out_pitch = width,
        .pixels = pixels,
        .vectors = (int)(width / kernels->vector),
        .columns = width,
        .first = true,
    };
    for (size_t e = 0; e < patch * patch; ++e) {
      gemm.a = packed + e * plane;
      gemm.b = plan->packed + plan->depth * k + e * full * width;
      gemm.bias = e == patch + 1 ? plan->bias + k : no_bias;
      gemm.out = products + e * pixels * width;
      kernels->gemm(&gemm);
    }
    const DbfSquares squares = {
        .taps = plan->patch,
        .products = products,
        .patches = pixels,
        .first = product->pixel,
        .width = conv->x.out,
        .vectors = gemm.vectors,
        .columns = DbfMin(plan->filters - k, width),
        .out = output + k,
        .out_h = conv->y.outputs,
        .out_w = conv->x.outputs,
        .out_pitch = plan->filters,
        .low = plan->low,
        .high = plan->high,
    };
    kernels->squares(&squares);
  }
}
