#include "engine/floats.h"

#include <string.h>

#include "engine/walk.h"
#include "support/require.h"

void DbfAddFloat(const DbfKernels* kernels, const void* a, const void* b, void* sum, size_t count) {
  kernels->add(a, b, sum, count);
}

void DbfSetPaddingFloat(const DbfConv* conv, char* scratch) {
  const DbfRule* rule = &conv->plan->rule;
  memset(scratch + conv->scratch.padding, 0, rule->channels * sizeof(float));
  if (conv->direct) return;
  const size_t rows = rule->full + rule->partial;
  memset(scratch + conv->scratch.raw_row, 0, rows * conv->row_pitch * sizeof(float));
}

// Partial channels follow the full ones. Padding before the first row and after the last stays
// zero: vectors that go over the end write zeros.
void DbfProjectFloat(const DbfConv* conv, const DbfRows* rows, char* scratch, void* raw,
                     size_t pitch) {
  const DbfRule* rule = &conv->plan->rule;
  const DbfPlanFloat* plan = &conv->plan->floats;
  const DbfKernels* kernels = rule->kernels;
  const size_t channels = rule->channels, vector = kernels->vector;
  const size_t projected = rule->full + rule->partial;
  float* strips = (float*)(scratch + conv->scratch.strips);
  for (size_t p = 0; p < conv->x.num_phases; ++p) {
    DbfWalk walk = DbfWalkPhase(conv, rows, sizeof(float), p);
    const float* pixels[kDbfMaxVector];
    size_t at;
    while (DbfWalkNext(&walk, scratch + conv->scratch.padding, vector, (const void**)pixels, &at)) {
      float* dst = (float*)raw + at;
      if (rule->group_form) {
        kernels->transpose(pixels, channels, rule->group_shift, false, dst, pitch);
        continue;
      }
      kernels->transpose(pixels, channels, rule->group_shift, true, strips, vector);
      if (plan->written < plan->strips) {
        memset(strips + plan->written * vector, 0,
               (plan->strips - plan->written) * vector * sizeof(float));
      }
      kernels->hadamard(strips, DbfMax(vector >> rule->group_shift, 1), plan->strips);
      kernels->gather(rule->gather_ops, projected, strips, dst, pitch);
    }
  }
}

// Fills `count` lines, `pitch` floats apart, with `out` zeros each.
static void ZeroLines(float* lines, size_t count, size_t pitch, size_t out) {
  for (size_t i = 0; i < count; ++i) memset(lines + i * pitch, 0, out * sizeof(float));
}

void DbfFillPaddingFloat(const DbfConv* conv, size_t out, char* scratch, size_t at) {
  ZeroLines((float*)(scratch + conv->scratch.raw_lines) + at, conv->x.taps * conv->plan->raw,
            conv->line_pitch, out);
  ZeroLines((float*)(scratch + conv->scratch.code_lines) + at, conv->plan->rule.code_lines,
            conv->line_pitch, out);
}
