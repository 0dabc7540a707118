// The stages of float layers in Winograd's form. A pixel is a patch; its taps are its numbers.

#include "engine/floats.h"
#include "engine/tiles.h"

enum {
  kTileFloats = 1 << 16,  // that the patches of a piece take: of the second cache
  kMinPatches = 28,       // of a piece
  kMaxPatches = 56,
};

static size_t PiecePatches(const DbfConv* conv) {
  const size_t fit = kTileFloats / conv->plan->rule.depth;
  return DbfMax(DbfMin(fit, kMaxPatches), kMinPatches);
}

static DbfNeeds Measure(const DbfConv* conv, size_t patches) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfKernels* kernels = rule->kernels;
  const size_t numbers = (size_t)rule->patch * rule->patch;
  return (DbfNeeds){
      .strip_bytes = conv->plan->floats.strips * kernels->vector * sizeof(float),
      .code_rows_follow = true,
      .tiles = DbfMul(numbers, DbfDivideUp(patches, kernels->tile_pixels)),
      .tile_floats = DbfTileFloats(rule->full, DbfRoundUp(kernels->tile_pixels, kernels->vector)),
      .accumulators = numbers * DbfPanelColumns(rule),
  };
}

// Transforms the patches along x.
static void Combine(const DbfConv* conv, const DbfRows* rows, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfCombine patches = {
      .num_ops = rule->full,
      .taps = rule->patch,
      .spans = rows->count,
      .src = scratch + conv->scratch.raw_row,
      .src_pitch = conv->row_pitch,
      .src_span = conv->row_entries,
      .offsets = conv->x_offset,
      .dst = scratch + conv->scratch.raw_lines + rows->at * sizeof(float),
      .dst_pitch = conv->line_pitch,
      .dst_span = conv->x.out,
      .dst_step = rule->full * conv->line_pitch,
      .width = rows->out,
  };
  rule->kernels->patches(&patches);
}

// Transforms the patches along y, into tiles: [patch, patch] of them, `plane` floats apart.
static void FillPatches(const DbfConv* conv, const DbfPiece* piece, const DbfTileSet* tiles,
                        size_t plane, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  const size_t patch = rule->patch;
  float* dst = (float*)(scratch + conv->scratch.tiles);
  for (size_t t = 0; t < patch; ++t) piece->offsets[t] = DbfTapOffset(conv, t);
  for (size_t v = 0; v < patch; ++v) {
    const DbfCombine patches = {
        .num_ops = rule->full,
        .offsets = piece->offsets,
        .taps = rule->patch,
        .src = (const float*)(scratch + conv->scratch.raw_lines) + piece->first +
               v * rule->full * conv->line_pitch,
        .src_pitch = conv->line_pitch,
        .dst_step = patch * plane,
    };
    DbfFillTiles(tiles, rule->kernels->patches, patches, 0, dst + v * plane);
  }
}

// A gemm for each number of a patch, then back to outputs. The bias enters with the number of point
// (1, 1), which every output of the patch takes once.
static void Multiply(const DbfConv* conv, const DbfPiece* piece, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfPlanFloat* plan = &conv->plan->floats;
  const DbfKernels* kernels = rule->kernels;
  const size_t patch = rule->patch, full = rule->full, patches = piece->pixels;
  const size_t columns = DbfPanelColumns(rule), none = 0;
  const DbfTileSet tiles = DbfMakeTiles(kernels, patches, full);
  const size_t plane = tiles.cut.count * tiles.pitch;
  const float no_bias[2 * kDbfMaxVector] = {0};
  const float* a = (const float*)(scratch + conv->scratch.tiles);
  float* accumulators = (float*)(scratch + conv->scratch.accumulators);
  FillPatches(conv, piece, &tiles, plane, scratch);
  for (size_t j = piece->panel; j < piece->end_panel; ++j) {
    const size_t k = j * columns;
    const size_t width = DbfMin(rule->padded_filters - k, columns);
    DbfGemm gemm = {
        .packed = true,
        .a_pitch = tiles.cut.pitch,
        .tile_pitch = tiles.pitch,
        .segments = &none,
        .num_segments = 1,
        .segment_depth = full,
        .out_pitch = width,
        .pixels = patches,
        .vectors = (int)(width / kernels->vector),
        .columns = width,
        .first = true,
    };
    for (size_t e = 0; e < patch * patch; ++e) {
      gemm.a = a + e * plane;
      gemm.b = plan->packed + rule->depth * k + e * full * width;
      gemm.bias = e == patch + 1 ? plan->bias + k : no_bias;
      gemm.out = accumulators + e * patches * width;
      kernels->gemm(&gemm);
    }
    const DbfOutputSquares squares = {
        .patch = rule->patch,
        .accumulators = accumulators,
        .patches = patches,
        .first = piece->pixel,
        .width = conv->x.out,
        .vectors = gemm.vectors,
        .columns = DbfMin(rule->filters - k, width),
        .out = (float*)piece->output + k,
        .out_h = conv->y.outputs,
        .out_w = conv->x.outputs,
        .out_pitch = rule->filters,
        .low = plan->low,
        .high = plan->high,
    };
    kernels->output_squares(&squares);
  }
}

const DbfStages kDbfStagesWinograd = {
    DBF_FLOAT_STAGES,   .piece_pixels = PiecePatches, .measure = Measure,
    .combine = Combine, .multiply = Multiply,
};
