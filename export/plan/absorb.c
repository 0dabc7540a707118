#include "plan/absorb.h"

#include <stdlib.h>
#include <string.h>

#include "support/checked.h"

bool DbfAbsorberCreate(DbfAbsorber* absorber, const DbfRule* rule) {
  const size_t kh = rule->kernel_h, kw = rule->kernel_w;
  *absorber = (DbfAbsorber){.rule = rule, .pitch = 1};
  while (absorber->pitch < rule->full) absorber->pitch *= 2;
  const size_t count = DbfMul(kh * kw, absorber->pitch);
  absorber->taps = DbfAllocate(count, sizeof(*absorber->taps));
  absorber->scratch = DbfAllocate(count, sizeof(*absorber->scratch));
  return absorber->taps != NULL && absorber->scratch != NULL;
}

// Applies h_i(j) along an axis: to[o, j, k] = sum of h_i(j) from[o, i, k] over i, from the first
// on, for o < outer; i, j < size; k < inner.
static void TransformAxis(const double* from, double* to, size_t outer, size_t size, size_t inner) {
  for (size_t o = 0; o < outer; ++o, from += size * inner) {
    for (size_t j = 0; j < size; ++j, to += inner) {
      for (size_t k = 0; k < inner; ++k) to[k] = 0;
      for (size_t i = 0; i < size; ++i) {
        const double sign = DbfSign(i, j);
        for (size_t k = 0; k < inner; ++k) to[k] += sign * from[i * inner + k];
      }
    }
  }
}

// Applies h_i(j) to the `pitch` numbers of each of `taps` taps by butterflies; `pitch` is a power
// of two.
static void TransformChannels(double* data, size_t taps, size_t pitch) {
  for (size_t t = 0; t < taps; ++t, data += pitch) {
    for (size_t h = 1; h < pitch; h *= 2) {
      for (size_t first = 0; first < pitch; first += 2 * h) {
        for (size_t i = first; i < first + h; ++i) {
          const double a = data[i], b = data[i + h];
          data[i] = a + b;
          data[i + h] = a - b;
        }
      }
    }
  }
}

void DbfAbsorb(DbfAbsorber* absorber, const DbfColumns* columns, const DbfLayer* layer,
               size_t filter) {
  const DbfRule* rule = absorber->rule;
  const size_t kh = rule->kernel_h, kw = rule->kernel_w, full = rule->full;
  const size_t pitch = absorber->pitch;
  double* taps = absorber->taps;
  if (full == 0) return;
  memset(taps, 0, kh * kw * pitch * sizeof(*taps));
  for (size_t s = 0; s < kh * kw; ++s) {
    for (size_t j = 0; j < full; ++j) {
      const size_t from = columns->full[s * full + j];
      if (from == SIZE_MAX) continue;
      taps[s * pitch + j] = layer->quantized != NULL ? DbfLayerInteger(layer, filter, from)
                                                     : DbfLayerAlpha(layer, filter, from);
    }
  }
  TransformAxis(taps, absorber->scratch, 1, kh, kw * pitch);
  TransformAxis(absorber->scratch, taps, kh, kw, pitch);
  if (rule->group_form) TransformChannels(taps, kh * kw, pitch);
}

void DbfAbsorberFree(DbfAbsorber* absorber) {
  free(absorber->taps);
  free(absorber->scratch);
}
