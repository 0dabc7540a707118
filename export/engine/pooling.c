// Adds up the pixels under the pools (rule 0 of plan/rule.h): floats as they are; int8 as int16
// less their zero point, rounded to int8 as FORMAT.md says.

#include <string.h>

#include "engine/stages.h"

// Adds up the rows of `image` under the pools that begin at row `top` of the padded image. Returns
// their sum, in the vertical sums or where it is already; NULL if all rows are padding.
static const char* AddRows(const DbfConv* conv, const char* image, size_t top, char* scratch) {
  const DbfStages* stages = conv->stages;
  const DbfAxis* axis = &conv->y;
  const size_t width = conv->x.pixels * conv->plan->rule.channels;
  char* sums = scratch + conv->scratch.vertical_sums;
  const char* sum = NULL;
  for (size_t i = 0; i < axis->pool; ++i) {
    // Rows above the image wrap around to large numbers.
    const size_t y = top + i * axis->pool_dilation - axis->image_pad;
    if (y >= axis->pixels) continue;
    const char* row = image + y * width * stages->number;
    if (stages->widen != NULL) {
      char* wide = sum == NULL ? sums : scratch + conv->scratch.wide_row;
      stages->widen(conv, row, wide, width);
      row = wide;
    }
    if (sum != NULL) stages->add(conv->plan->rule.kernels, sum, row, sums, width);
    sum = sum == NULL ? row : sums;
  }
  return sum;
}

// Adds up a row of vertical sums, [x.pixels, channels], along x to pooled sums [x.in, channels].
static void AddColumns(const DbfConv* conv, const char* row, char* sums) {
  const DbfAxis* axis = &conv->x;
  const size_t channels = conv->plan->rule.channels, step = axis->pool_step;
  const size_t pixel = channels * conv->stages->wide;
  memset(sums, 0, axis->in * pixel);
  for (size_t i = 0; i < axis->pool && row != NULL; ++i) {
    // Sum x takes pixel x * step + offset - pad; in [begin, end) that is one of the image.
    const size_t offset = i * axis->pool_dilation, pad = axis->image_pad;
    const size_t begin = offset < pad ? DbfDivideUp(pad - offset, step) : 0;
    const size_t behind = axis->pixels + pad;  // pixels of the padded image
    const size_t end = offset < behind ? DbfMin(DbfDivideUp(behind - offset, step), axis->in) : 0;
    const size_t together = step == 1 && begin < end ? end - begin : 1;
    for (size_t x = begin; x < end; x += together) {
      char* sum = sums + x * pixel;
      conv->stages->add(conv->plan->rule.kernels, sum, row + (x * step + offset - pad) * pixel, sum,
                        together * channels);
    }
  }
}

void DbfPoolRows(const DbfConv* conv, const char* image, size_t y, size_t count, char* scratch) {
  const DbfStages* stages = conv->stages;
  const size_t numbers = conv->x.in * conv->plan->rule.channels;  // of a row of pooled sums
  char* sums = scratch + conv->scratch.pooled_sums;
  for (size_t i = 0; i < count; ++i, sums += numbers * stages->number) {
    const size_t top = (y + i * conv->y.stride) * conv->y.pool_step;
    const char* row = AddRows(conv, image, top, scratch);
    if (stages->round_sums == NULL) {
      AddColumns(conv, row, sums);
    } else {
      char* wide = scratch + conv->scratch.wide_sums;
      AddColumns(conv, row, wide);
      stages->round_sums(conv, wide, sums, numbers);
    }
  }
}
