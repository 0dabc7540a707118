// The stages of float layers, unless they are in Winograd's form.

#include "engine/floats.h"
#include "engine/tiles.h"

static size_t PiecePixels(const DbfConv* conv) {
  (void)conv;
  return kDbfPiecePixels;
}

static DbfNeeds Measure(const DbfConv* conv, size_t pixels) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfKernels* kernels = rule->kernels;
  const size_t depth = DbfMin(rule->depth, kernels->depth);
  const bool one_panel = DbfPanels(rule) == 1;  // then raw features are not packed, pixels not cut
  return (DbfNeeds){
      .strip_bytes = conv->plan->floats.strips * kernels->vector * sizeof(float),
      .code_rows_follow = true,
      .tiles = one_panel ? rule->num_code_features > 0 : DbfDivideUp(pixels, kernels->tile_pixels),
      .tile_floats =
          DbfTileFloats(depth, one_panel ? conv->packed_pitch
                                         : DbfRoundUp(kernels->tile_pixels, kernels->vector)),
      .offsets = conv->plan->floats.num_segments,
  };
}

static void Combine(const DbfConv* conv, const DbfRows* rows, char* scratch) {
  DbfCombineRows(conv, rows, scratch, conv->plan->floats.signs_w,
                 conv->plan->rule.kernels->combine);
}

// The features of one block of the gemm.
typedef struct BlockFeatures {
  DbfTileSet tiles;
  bool packed;            // whether they are in tiles
  const float* a;         // the tiles, or the lines
  const size_t* offsets;  // of its segments
  size_t num_segments, depth;
} BlockFeatures;

// Computes the code features of a block, into tiles.
static void CombineBlock(const DbfConv* conv, const DbfBlock* block, const DbfPiece* piece,
                         char* scratch, const BlockFeatures* features) {
  const DbfRule* rule = &conv->plan->rule;
  for (size_t t = 0; t < conv->y.taps; ++t) piece->offsets[t] = DbfTapOffset(conv, t);
  const DbfCombine combine = {
      .ops = rule->feature_ops + block->first,
      .num_ops = block->depth,
      .signs = conv->plan->floats.signs_h,
      .offsets = piece->offsets,
      .taps = (int)conv->y.taps,
      .src = (const float*)(scratch + conv->scratch.code_lines) + piece->first,
      .src_pitch = conv->line_pitch,
  };
  DbfFillTiles(&features->tiles, rule->kernels->combine, combine, 0,
               (float*)(scratch + conv->scratch.tiles));
}

// Copies the raw features of a block, whose segments have these offsets, into tiles.
static void CopyBlock(const DbfConv* conv, const DbfBlock* block, const float* raw_lines,
                      const size_t* offsets, char* scratch, const BlockFeatures* features) {
  for (size_t s = 0; s < block->num_segments; ++s) {
    const DbfCombine copy = {
        .ops = conv->plan->copy_ops,
        .num_ops = block->depth,
        .offsets = &offsets[s],
        .taps = 1,
        .src = raw_lines,
        .src_pitch = conv->line_pitch,
    };
    DbfFillTiles(&features->tiles, conv->plan->rule.kernels->combine, copy, s * block->depth,
                 (float*)(scratch + conv->scratch.tiles));
  }
}

// Makes the features of a block ready for the gemm. They are in tiles if several panels read them,
// and in one tile of all pixels if they are code features that one panel reads.
static BlockFeatures FillBlock(const DbfConv* conv, const DbfBlock* block, const DbfPiece* piece,
                               char* scratch) {
  static const size_t kZero = 0;
  const bool several = DbfPanels(&conv->plan->rule) > 1;
  const size_t depth = block->num_segments * block->depth;
  BlockFeatures features = {
      .tiles = several ? DbfMakeTiles(conv->plan->rule.kernels, piece->pixels, depth)
                       : (DbfTileSet){{1, piece->pixels, 0, conv->packed_pitch}, 0},
      .packed = several,
      .a = (const float*)(scratch + conv->scratch.tiles),
      .offsets = &kZero,
      .num_segments = 1,
      .depth = depth,
  };
  if (block->partial) {
    CombineBlock(conv, block, piece, scratch, &features);
    return features;
  }
  const float* raw_lines = (const float*)(scratch + conv->scratch.raw_lines) + piece->first;
  for (size_t s = 0; s < block->num_segments; ++s) {
    const DbfSegment* segment = &conv->plan->floats.segments[block->first + s];
    DBF_REQUIRE(segment->line + block->depth <= conv->x.taps * conv->plan->raw,
                "a segment is out of range");
    piece->offsets[s] = segment->line * conv->line_pitch + DbfTapOffset(conv, segment->tap);
  }
  if (several) {
    CopyBlock(conv, block, raw_lines, piece->offsets, scratch, &features);
    return features;
  }
  features.tiles.cut.pitch = conv->line_pitch;
  features.a = raw_lines;
  features.offsets = piece->offsets;
  features.num_segments = block->num_segments;
  features.depth = block->depth;
  return features;
}

static void Multiply(const DbfConv* conv, const DbfPiece* piece, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfPlanFloat* plan = &conv->plan->floats;
  const DbfKernels* kernels = rule->kernels;
  const size_t columns = DbfPanelColumns(rule);
  float* output = (float*)piece->output + piece->pixel * rule->filters;
  const float* packed = plan->packed;
  for (size_t i = 0; i < plan->num_blocks; ++i) {
    const DbfBlock* block = &plan->blocks[i];
    const BlockFeatures features = FillBlock(conv, block, piece, scratch);
    DbfGemm gemm = {
        .a = features.a,
        .packed = features.packed,
        .a_pitch = features.tiles.cut.pitch,
        .tile_pitch = features.tiles.pitch,
        .segments = features.offsets,
        .num_segments = features.num_segments,
        .segment_depth = features.depth,
        .out_pitch = rule->filters,
        .pixels = piece->pixels,
        .first = i == 0,
        .last = i + 1 == plan->num_blocks,
        .low = plan->low,
        .high = plan->high,
    };
    const size_t depth = block->num_segments * block->depth;
    for (size_t j = piece->panel; j < piece->end_panel; ++j) {
      const size_t k = j * columns;
      const size_t width = DbfMin(rule->padded_filters - k, columns);
      gemm.b = packed + k * depth;
      gemm.bias = plan->bias + k;
      gemm.out = output + k;
      gemm.vectors = (int)(width / kernels->vector);
      gemm.columns = DbfMin(rule->filters - k, width);
      kernels->gemm(&gemm);
    }
    packed += depth * rule->padded_filters;
  }
}

const DbfStages kDbfStagesFloat = {
    DBF_FLOAT_STAGES,   .piece_pixels = PiecePixels, .measure = Measure,
    .combine = Combine, .multiply = Multiply,
};
