// The stages of int8 layers.

#include <string.h>

#include "engine/stages.h"
#include "engine/walk.h"
#include "support/require.h"

static size_t PiecePixels(const DbfConv* conv) {
  (void)conv;
  return kDbfPiecePixels;
}

static DbfNeeds Measure(const DbfConv* conv, size_t pixels) {
  (void)pixels;
  const DbfPlanInt8* plan = &conv->plan->int8;
  const size_t strip = 2 * (size_t)conv->plan->rule.kernels->vector;
  return (DbfNeeds){
      .strip_bytes = plan->strips * strip * sizeof(int16_t),
      .packed = plan->feature_elements,
      .slices = plan->num_slices,
  };
}

static void Widen(const DbfConv* conv, const void* row, void* wide, size_t count) {
  conv->plan->rule.kernels->widen(row, conv->plan->int8.image_zero, wide, count);
}

static void Add(const DbfKernels* kernels, const void* a, const void* b, void* sum, size_t count) {
  kernels->add_int16(a, b, sum, count);
}

static void RoundSums(const DbfConv* conv, const void* wide, void* sums, size_t count) {
  const DbfPlanInt8* plan = &conv->plan->int8;
  conv->plan->rule.kernels->round_sums(wide, plan->sums_shift, plan->input_zero, sums, count);
}

static void SetPadding(const DbfConv* conv, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfPlanInt8* plan = &conv->plan->int8;
  memset(scratch + conv->scratch.padding, (uint8_t)plan->input_zero, rule->channels);
  if (conv->direct) return;
  memset(scratch + conv->scratch.code_row, 0, rule->partial * conv->row_pitch * sizeof(int16_t));
  uint32_t* raw_row = (uint32_t*)(scratch + conv->scratch.raw_row);
  for (size_t e = 0; e < plan->full_elements; ++e, raw_row += conv->row_pitch) {
    for (size_t i = 0; i < conv->row_pitch; ++i) raw_row[i] = plan->padding[e];
  }
}

// Projects strips of pixels that are transposed and transformed: elements of full channels to `raw`
// and partial channels to the code rows, from number `at` on.
static void ProjectStrips(const DbfConv* conv, const int8_t* const* pixels, char* scratch,
                          uint32_t* raw, size_t pitch, size_t at) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfPlanInt8* plan = &conv->plan->int8;
  const DbfKernels* kernels = rule->kernels;
  const size_t strip = 2 * (size_t)kernels->vector, none = 0;
  int16_t* strips = (int16_t*)(scratch + conv->scratch.strips);
  int16_t* code_row = (int16_t*)(scratch + conv->scratch.code_row);
  kernels->transpose_int16(pixels, rule->channels, plan->transpose_shift, strips);
  if (plan->written < plan->strips) {
    memset(strips + plan->written * strip, 0,
           (plan->strips - plan->written) * strip * sizeof(*strips));
  }
  kernels->hadamard_int16(strips, 4 >> plan->transpose_shift, plan->hadamard_strips, plan->halving);
  const DbfFeatures gather = {
      .ops = plan->full_ops,
      .num_elements = plan->full_elements,
      .signs = plan->masks_w,
      .offsets = &none,
      .taps = 1,
      .src = strips,
      .src_pitch = strip,
      .dst = raw + at,
      .dst_pitch = pitch,
      .width = strip,
  };
  kernels->features(&gather);
  kernels->narrow(plan->partial_ops, rule->partial, plan->bound, strips, code_row + at,
                  conv->row_pitch);
}

// Padding before the first row and after the last stays as SetPadding has left it: lanes that go
// over the end write the same.
static void Project(const DbfConv* conv, const DbfRows* rows, char* scratch, void* raw,
                    size_t pitch) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfPlanInt8* plan = &conv->plan->int8;
  const size_t vector = rule->kernels->vector, count = rule->group_form ? vector : 2 * vector;
  for (size_t p = 0; p < conv->x.num_phases; ++p) {
    DbfWalk walk = DbfWalkPhase(conv, rows, sizeof(int8_t), p);
    const int8_t* pixels[2 * kDbfMaxVector];
    size_t at;
    while (DbfWalkNext(&walk, scratch + conv->scratch.padding, count, (const void**)pixels, &at)) {
      if (rule->group_form) {
        rule->kernels->group_features(pixels, rule->channels, rule->group_shift, plan->input_zero,
                                      plan->group_add, plan->group_right, (uint32_t*)raw + at,
                                      pitch);
      } else {
        ProjectStrips(conv, pixels, scratch, raw, pitch, at);
      }
    }
  }
}

static void Combine(const DbfConv* conv, const DbfRows* rows, char* scratch) {
  DbfCombineRows(conv, rows, scratch, conv->plan->int8.masks_w,
                 conv->plan->rule.kernels->combine_int16);
}

static void FillPadding(const DbfConv* conv, size_t out, char* scratch, size_t at) {
  const DbfPlanInt8* plan = &conv->plan->int8;
  const size_t taps = conv->x.taps, elements = plan->full_elements, pitch = conv->line_pitch;
  const size_t code_lines = conv->plan->rule.code_lines;
  uint32_t* raw_line = (uint32_t*)(scratch + conv->scratch.raw_lines) + at;
  int16_t* code_line = (int16_t*)(scratch + conv->scratch.code_lines) + at;
  for (size_t t = 0; t < taps; ++t) {
    for (size_t e = 0; e < elements; ++e, raw_line += pitch) {
      const uint32_t element = plan->padding[e];
      for (size_t x = 0; x < out; ++x) raw_line[x] = element;
    }
  }
  for (size_t i = 0; i < code_lines; ++i) {
    memset(code_line + i * pitch, 0, out * sizeof(*code_line));
  }
}

// Computes the code features of a piece.
static void PackFeatures(const DbfConv* conv, const DbfPiece* piece, char* scratch,
                         uint32_t* packed) {
  const DbfPlanInt8* plan = &conv->plan->int8;
  for (size_t t = 0; t < conv->y.taps; ++t) piece->offsets[t] = DbfTapOffset(conv, t);
  const DbfFeatures features = {
      .ops = plan->feature_ops,
      .num_elements = plan->feature_elements,
      .signs = plan->masks_h,
      .offsets = piece->offsets,
      .taps = (int)conv->y.taps,
      .src = (const int16_t*)(scratch + conv->scratch.code_lines) + piece->first,
      .src_pitch = conv->line_pitch,
      .dst = packed,
      .dst_pitch = conv->packed_pitch,
      .width = piece->pixels,
  };
  conv->plan->rule.kernels->features(&features);
}

static void Multiply(const DbfConv* conv, const DbfPiece* piece, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfPlanInt8* plan = &conv->plan->int8;
  int8_t* output = (int8_t*)piece->output + piece->pixel * rule->filters;
  const uint32_t* raw_lines = (const uint32_t*)(scratch + conv->scratch.raw_lines) + piece->first;
  uint32_t* packed = (uint32_t*)(scratch + conv->scratch.packed);
  if (plan->feature_elements > 0) PackFeatures(conv, piece, scratch, packed);
  DbfSlice* slices = (DbfSlice*)(scratch + conv->scratch.slices);
  for (size_t i = 0; i < plan->num_slices; ++i) {
    const DbfPlanSlice* slice = &plan->slices[i];
    slices[i].depth = slice->depth;
    slices[i].shift = slice->shift;
    slices[i].a_pitch = slice->partial ? conv->packed_pitch : conv->line_pitch;
    slices[i].a = slice->partial ? packed + slice->first * conv->packed_pitch
                                 : raw_lines + slice->first * conv->line_pitch +
                                       DbfTapOffset(conv, slice->tap);
  }
  const size_t columns = DbfPanelColumns(rule);
  for (size_t j = piece->panel; j < piece->end_panel; ++j) {
    const size_t k = j * columns;
    const size_t width = DbfMin(rule->padded_filters - k, columns);
    const DbfGemmInt8 gemm = {
        .slices = slices,
        .num_slices = plan->num_slices,
        .shifted = plan->shifted,
        .last_shift = plan->last_shift,
        .b = (const char*)plan->packed + kDbfRawBytes * plan->elements * k,
        .bias = plan->bias + k,
        .multiplier = plan->multiplier + k,
        .right_shift = plan->right_shift + k,
        .scale = plan->scale + k,
        .limit = plan->limit + k,
        .zero = plan->zero,
        .low = plan->low,
        .high = plan->high,
        .out = output + k,
        .out_pitch = rule->filters,
        .pixels = piece->pixels,
        .vectors = (int)(width / rule->kernels->vector),
        .columns = DbfMin(rule->filters - k, width),
    };
    rule->kernels->gemm_int8(&gemm);
  }
}

const DbfStages kDbfStagesInt8 = {
    .number = sizeof(int8_t),
    .wide = sizeof(int16_t),
    .vectors = 2,
    .piece_pixels = PiecePixels,
    .measure = Measure,
    .widen = Widen,
    .add = Add,
    .round_sums = RoundSums,
    .set_padding = SetPadding,
    .project = Project,
    .combine = Combine,
    .fill_padding = FillPadding,
    .multiply = Multiply,
};
