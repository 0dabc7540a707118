#include "engine/axis.h"

#include <stdlib.h>

#include "support/checked.h"
#include "support/require.h"

static size_t GreatestDivisor(size_t a, size_t b) { return b == 0 ? a : GreatestDivisor(b, a % b); }

bool DbfAxisCreate(DbfAxis* axis, const DbfAxisShape* shape) {
  const size_t pool_taps = (size_t)shape->pool * shape->dilation;  // as pixels
  axis->same_padding = shape->same_padding;
  axis->pooled = shape->pooled;
  axis->square = shape->patch > 0 ? 2 : 1;
  axis->taps = shape->patch > 0 ? shape->patch : shape->taps;
  axis->pool = shape->pool;
  axis->pool_dilation = shape->dilation;
  axis->pool_step = shape->pooled ? GreatestDivisor(shape->stride, pool_taps) : 1;
  axis->stride = shape->stride / axis->pool_step * axis->square;
  axis->dilation = pool_taps / axis->pool_step;
  axis->remainder = DbfAllocate(axis->taps, sizeof(size_t));
  axis->phase = DbfAllocate(axis->taps, sizeof(size_t));
  axis->step = DbfAllocate(axis->taps, sizeof(size_t));
  if (axis->remainder == NULL || axis->phase == NULL || axis->step == NULL) return false;
  for (size_t t = 0; t < axis->taps; ++t) {
    const size_t remainder = t * axis->dilation % axis->stride;
    size_t p = 0;
    while (p < axis->num_phases && axis->remainder[p] != remainder) ++p;
    if (p == axis->num_phases) axis->remainder[axis->num_phases++] = remainder;
    axis->phase[t] = p;
    axis->step[t] = t * axis->dilation / axis->stride;
    if (axis->reach < axis->step[t]) axis->reach = axis->step[t];
  }
  return true;
}

void DbfAxisFree(DbfAxis* axis) {
  free(axis->remainder);
  free(axis->phase);
  free(axis->step);
}

bool DbfAxisOutput(const DbfAxis* axis, size_t pixels, size_t* outputs, size_t* pad) {
  const size_t stride = axis->stride / axis->square * axis->pool_step;
  const size_t extent = (axis->taps * axis->pool - axis->square) * axis->pool_dilation + 1;
  *pad = 0;
  if (axis->same_padding) {
    *outputs = DbfDivideUp(pixels, stride);
    const size_t needed = pixels == 0 ? 0 : (*outputs - 1) * stride + extent;
    if (needed > pixels) *pad = (needed - pixels) / 2;
    return true;
  }
  if (pixels < extent) return false;
  *outputs = (pixels - extent) / stride + 1;
  return true;
}

void DbfAxisLayOut(DbfAxis* axis, size_t pixels) {
  axis->in = axis->pixels = pixels;
  const bool fits = DbfAxisOutput(axis, pixels, &axis->outputs, &axis->pad);
  DBF_REQUIRE(fits, "the kernel does not fit");
  (void)fits;
  axis->image_pad = axis->pad;
  axis->out = DbfDivideUp(axis->outputs, axis->square);
  if (!axis->pooled) return;
  axis->pad = 0;
  axis->in = axis->outputs == 0 ? 0
                                : DbfAdd(DbfMul(axis->outputs - 1, axis->stride),
                                         (axis->taps - 1) * axis->dilation + 1);
}
