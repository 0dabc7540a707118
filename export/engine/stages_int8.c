#include <string.h>

#include "engine/stages.h"

// Projects the channels of rows: elements of full features to `raw`, `raw_pitch` apart, and partial
// channels to the rows of codes. Padding before the first row and after the last stays as it is,
// see SetPadding in conv.c; lanes that run over the end write the same.
void DbfProjectRowsInt8(const DbfConv* conv, const DbfRows* input, char* scratch, uint32_t* raw,
                        size_t raw_pitch) {
  const DbfPlan* plan = conv->plan;
  const DbfPlanInt8* int8 = plan->int8;
  const DbfKernels* kernels = plan->kernels;
  const size_t channels = plan->channels;
  const size_t vector = plan->hadamard ? 2 * (size_t)kernels->vector : (size_t)kernels->vector;
  int16_t* rows = (int16_t*)(scratch + conv->scratch.rows);
  int16_t* code_row = (int16_t*)(scratch + conv->scratch.code_row);
  for (size_t p = 0; p < conv->x.num_phases; ++p) {
    DbfWalk walk = DbfWalkPhase(conv, input, sizeof(int8_t), p);
    const int8_t* pixels[2 * kDbfMaxVector];
    size_t at;
    while (DbfWalkNext(&walk, scratch + conv->scratch.padding, vector, (const void**)pixels, &at)) {
      if (!plan->hadamard) {
        kernels->runs(pixels, channels, plan->shift, int8->input_zero, int8->runs_add,
                      int8->runs_right, raw + at, raw_pitch);
        continue;
      }
      kernels->transpose_int16(pixels, channels, int8->low, rows);
      if (int8->written < int8->rows) {
        memset(rows + int8->written * vector, 0,
               (int8->rows - int8->written) * vector * sizeof(*rows));
      }
      kernels->hadamard_int16(rows, 4 >> int8->low, int8->hadamard_rows, int8->halving);
      const size_t none = 0;
      const DbfFeatures gather = {
          .ops = int8->full_ops,
          .num_elements = int8->full_elements,
          .signs = int8->masks_w,
          .offsets = &none,
          .taps = 1,
          .src = rows,
          .src_pitch = vector,
          .dst = raw + at,
          .dst_pitch = raw_pitch,
          .width = vector,
      };
      kernels->features(&gather);
      kernels->narrow(int8->partial_ops, plan->partial, int8->bound, rows, code_row + at,
                      conv->row_pitch);
    }
  }
}

void DbfFillPaddingInt8(const DbfConv* conv, size_t out, char* scratch, size_t at) {
  const DbfPlan* plan = conv->plan;
  const DbfPlanInt8* int8 = plan->int8;
  uint32_t* raw_lines = (uint32_t*)(scratch + conv->scratch.raw_lines) + at;
  int16_t* code_lines = (int16_t*)(scratch + conv->scratch.code_lines) + at;
  for (size_t t = 0; t < conv->x.taps; ++t) {
    for (size_t e = 0; e < int8->full_elements; ++e, raw_lines += conv->line_pitch) {
      const uint32_t element = int8->padding[e];
      for (size_t x = 0; x < out; ++x) raw_lines[x] = element;
    }
  }
  for (size_t i = 0; i < plan->code_lines; ++i) {
    memset(code_lines + i * conv->line_pitch, 0, out * sizeof(*code_lines));
  }
}

void DbfMultiplyInt8(const DbfConv* conv, const DbfProduct* product, char* scratch,
                     int8_t* output) {
  const DbfPlan* plan = conv->plan;
  output += product->pixel * plan->filters;
  const DbfPlanInt8* int8 = plan->int8;
  const uint32_t* raw_lines = (const uint32_t*)(scratch + conv->scratch.raw_lines) + product->first;
  uint32_t* packed = (uint32_t*)(scratch + conv->scratch.packed);
  if (int8->feature_elements > 0) {
    for (size_t t = 0; t < conv->y.taps; ++t) product->offsets[t] = DbfTapOffset(conv, t);
    const DbfFeatures features = {
        .ops = int8->feature_ops,
        .num_elements = int8->feature_elements,
        .signs = int8->masks_h,
        .offsets = product->offsets,
        .taps = (int)conv->y.taps,
        .src = (const int16_t*)(scratch + conv->scratch.code_lines) + product->first,
        .src_pitch = conv->line_pitch,
        .dst = packed,
        .dst_pitch = conv->packed_pitch,
        .width = product->pixels,
    };
    plan->kernels->features(&features);
  }
  DbfSlice* slices = (DbfSlice*)(scratch + conv->scratch.slices);
  for (size_t i = 0; i < int8->num_slices; ++i) {
    const DbfPlanSlice* slice = &int8->slices[i];
    slices[i].depth = slice->depth;
    slices[i].shift = slice->shift;
    slices[i].a_pitch = slice->partial ? conv->packed_pitch : conv->line_pitch;
    slices[i].a = slice->partial ? packed + slice->first * conv->packed_pitch
                                 : raw_lines + slice->first * conv->line_pitch +
                                       DbfTapOffset(conv, slice->tap);
  }
  const size_t panel_columns = 2 * (size_t)plan->kernels->vector;
  for (size_t j = product->panel; j < product->end_panel; ++j) {
    const size_t k = j * panel_columns;
    const size_t width = DbfMin(plan->padded_filters - k, panel_columns);
    const DbfGemmInt8 gemm = {
        .slices = slices,
        .num_slices = int8->num_slices,
        .shifted = int8->shifted,
        .last_shift = int8->last_shift,
        .b = (const char*)int8->packed + 4 * int8->depth * k,
        .bias = int8->bias + k,
        .multiplier = int8->multiplier + k,
        .right_shift = int8->right_shift + k,
        .scale = int8->scale + k,
        .limit = int8->limit + k,
        .zero = int8->zero,
        .low = int8->low_output,
        .high = int8->high_output,
        .out = output + k,
        .out_pitch = plan->filters,
        .pixels = product->pixels,
        .vectors = (int)(width / plan->kernels->vector),
        .columns = DbfMin(plan->filters - k, width),
    };
    plan->kernels->gemm_int8(&gemm);
  }
}
