// Adds up runs of taps (plan.h, rule 0): floats as they are; int8 as int16 less their zero point,
// rounded to int8 as FORMAT.md says.

#include <string.h>

#include "engine/stages.h"

static void Add(const DbfConv* conv, const void* a, const void* b, void* sum, size_t count) {
  const DbfKernels* kernels = conv->plan->kernels;
  if (conv->plan->int8 != NULL) {
    kernels->add_int16(a, b, sum, count);
  } else {
    kernels->add(a, b, sum, count);
  }
}

// Adds rows of `image`, the taps of the run that begins at row `top` of the padded image, up.
// Returns their sum, in the column sums or where it is; NULL if all are padding.
static const char* SumColumns(const DbfConv* conv, const char* image, size_t top, char* scratch) {
  const DbfPlanInt8* int8 = conv->plan->int8;
  const Axis* axis = &conv->y;
  const size_t width = conv->x.pixels * conv->plan->channels;
  char* sums = scratch + conv->scratch.column_sums;
  const char* sum = NULL;
  for (size_t i = 0; i < axis->run; ++i) {
    // Rows above the image wrap around to large numbers.
    const size_t y = top + i * axis->apart - axis->image_pad;
    if (y >= axis->pixels) continue;
    const char* row = image + y * width * (int8 != NULL ? sizeof(int8_t) : sizeof(float));
    if (int8 != NULL) {
      char* wide = sum == NULL ? sums : scratch + conv->scratch.wide_row;
      conv->plan->kernels->widen((const int8_t*)row, int8->image_zero, (int16_t*)wide, width);
      row = wide;
    }
    if (sum != NULL) Add(conv, sum, row, sums, width);
    sum = sum == NULL ? row : sums;
  }
  return sum;
}

// Adds up the runs along x of a row of the image, [x.pixels, channels], to [x.in, channels].
static void SumRow(const DbfConv* conv, const char* row, char* sums) {
  const Axis* axis = &conv->x;
  const size_t channels = conv->plan->channels, step = axis->sum_step;
  const size_t pixel = channels * conv->sum_size;
  memset(sums, 0, axis->in * pixel);
  for (size_t i = 0; i < axis->run && row != NULL; ++i) {
    // Sum x takes pixel x * step + offset - pad; in [begin, end) that is one of the image.
    const size_t offset = i * axis->apart, pad = axis->image_pad;
    const size_t begin = offset < pad ? DbfDivideUp(pad - offset, step) : 0;
    const size_t behind = axis->pixels + pad;  // pixels of the padded image
    const size_t end = offset < behind ? DbfMin(DbfDivideUp(behind - offset, step), axis->in) : 0;
    const size_t together = step == 1 && begin < end ? end - begin : 1;
    for (size_t x = begin; x < end; x += together) {
      char* sum = sums + x * pixel;
      Add(conv, sum, row + (x * step + offset - pad) * pixel, sum, together * channels);
    }
  }
}

void DbfSumRows(const DbfConv* conv, const char* image, size_t y, size_t count, char* scratch) {
  const DbfPlanInt8* int8 = conv->plan->int8;
  const size_t numbers = conv->x.in * conv->plan->channels;  // of a row of sums
  char* sums = scratch + conv->scratch.sums;
  for (size_t i = 0; i < count; ++i) {
    const size_t top = (y + i * conv->y.stride) * conv->y.sum_step;
    const char* row = SumColumns(conv, image, top, scratch);
    if (int8 == NULL) {
      SumRow(conv, row, sums + i * numbers * sizeof(float));
    } else {
      char* wide = scratch + conv->scratch.wide_sums;
      SumRow(conv, row, wide);
      conv->plan->kernels->narrow_sums((const int16_t*)wide, int8->sums_right, int8->input_zero,
                                       (int8_t*)sums + i * numbers, numbers);
    }
  }
}
