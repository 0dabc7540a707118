#include "plan/plan_float.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/absorb.h"
#include "support/checked.h"
#include "support/require.h"

static size_t DivideUp(size_t a, size_t b) { return (a + b - 1) / b; }

static float* SignTable(int32_t size) {
  float* signs = DbfAllocate(DbfMul(size, size), sizeof(*signs));
  for (int32_t i = 0; signs != NULL && i < size; ++i) {
    for (int32_t j = 0; j < size; ++j) signs[(size_t)i * size + j] = (float)DbfSign(i, j);
  }
  return signs;
}

// Sets the size of the transform's buffer.
static void SetTransform(const DbfRule* rule, DbfPlanFloat* plan) {
  const size_t channels = rule->channels, vector = rule->kernels->vector;
  size_t padded = 1;
  while (padded < channels || padded < vector) padded *= 2;
  plan->strips = padded >> rule->group_shift;
  if (plan->strips == 0) plan->strips = 1;
  DBF_REQUIRE(rule->groups <= plan->strips, "a group has no strip");
  plan->written = ((DivideUp(channels, vector) * vector - 1) >> rule->group_shift) + 1;
}

// Cuts the depth of the gemm into blocks of at most kernels->depth features, so that what a block
// reads stays in the first cache.
static bool PlanBlocks(const DbfRule* rule, DbfPlanFloat* plan) {
  const size_t kh = rule->kernel_h, lines = rule->kernel_w * rule->full;
  const size_t max_depth = rule->kernels->depth, features = rule->num_code_features;
  const size_t chunks = DivideUp(lines, max_depth);  // per vertical tap
  const size_t chunk = chunks > 0 ? DivideUp(lines, chunks) : 0;
  const size_t code_blocks = DivideUp(features, max_depth);
  const size_t code_block = code_blocks > 0 ? DivideUp(features, code_blocks) : 0;
  plan->segments = DbfAllocate(kh * chunks, sizeof(*plan->segments));
  plan->blocks = DbfAllocate(kh * chunks + code_blocks, sizeof(*plan->blocks));
  if (plan->segments == NULL || plan->blocks == NULL) return false;

  size_t merge = lines > 0 ? max_depth / lines : 1;  // whole taps in one block
  if (merge < 1) merge = 1;
  merge = DivideUp(kh, DivideUp(kh, merge));
  for (size_t tap = 0; tap < kh; ++tap) {
    for (size_t line = 0; line < lines; line += chunk) {
      const size_t depth = lines - line < chunk ? lines - line : chunk;
      if (chunks > 1 || tap % merge == 0) {
        plan->blocks[plan->num_blocks++] = (DbfBlock){false, plan->num_segments, 0, depth};
      }
      ++plan->blocks[plan->num_blocks - 1].num_segments;
      plan->segments[plan->num_segments++] = (DbfSegment){(int32_t)tap, line};
    }
  }
  for (size_t f = 0; f < features; f += code_block) {
    const size_t depth = features - f < code_block ? features - f : code_block;
    plan->blocks[plan->num_blocks++] = (DbfBlock){true, f, 1, depth};
  }
  DBF_REQUIRE(plan->num_segments == kh * chunks, "a segment is missing");
  DBF_REQUIRE(plan->num_blocks <= kh * chunks + code_blocks, "too many blocks");
  return true;
}

// What packing needs of the rule and the layer.
typedef struct Packer {
  const DbfRule* rule;
  const DbfColumns* columns;
  const DbfLayer* layer;
  DbfPlanFloat* plan;
  DbfAbsorber absorber;  // of the filter that is packed
} Packer;

// Stores the coefficient of feature `depth` of a block of `block_depth`, whose packed numbers start
// at `base`.
static void PackOne(const DbfRule* rule, float* base, size_t block_depth, size_t depth,
                    size_t filter, double value) {
  DBF_REQUIRE(depth < block_depth && filter < rule->padded_filters, "packed out of range");
  const size_t panel = 2 * (size_t)rule->kernels->vector;
  const size_t k0 = filter / panel * panel;
  const size_t width = rule->padded_filters - k0 < panel ? rule->padded_filters - k0 : panel;
  base[k0 * block_depth + depth * width + filter - k0] = (float)value;
}

// Transforms coefficients g of taps along one axis to the numbers t of a patch, as Winograd's form
// does; the transforms of patches and of outputs are in kernels/winograd.inl.
static void TapTransform(const double* g, size_t pitch, size_t taps, double* t) {
  const double even = g[0] + g[2 * pitch], odd = g[pitch] + (taps > 3 ? g[3 * pitch] : 0);
  if (taps == 3) {
    t[0] = g[0];
    t[1] = (even + odd) / 2;
    t[2] = (even - odd) / 2;
    t[3] = g[2 * pitch];
  } else {
    t[0] = g[0] / 2;
    t[1] = -(even + odd) / 2;
    t[2] = -(even - odd) / 6;
    t[3] = (g[0] + 2 * g[pitch] + 4 * g[2 * pitch] + 8 * g[3 * pitch]) / 6;
    t[4] = g[3 * pitch];
  }
}

// Packs the taps of one filter in Winograd's form.
static void PackPatches(const Packer* p, size_t filter) {
  const DbfRule* rule = p->rule;
  const size_t side = rule->kernel_h, patch = rule->patch, pitch = p->absorber.pitch;
  const double* taps = p->absorber.taps;
  DBF_REQUIRE(side == 3 || side == 4, "Winograd's form has 3 x 3 or 4 x 4 taps");
  double along_x[4][5], column[5];
  for (size_t j = 0; j < rule->full; ++j) {
    for (size_t y = 0; y < side; ++y) {
      TapTransform(taps + y * side * pitch + j, pitch, side, along_x[y]);
    }
    for (size_t v = 0; v < patch; ++v) {
      TapTransform(&along_x[0][v], 5, side, column);
      for (size_t u = 0; u < patch; ++u) {
        PackOne(rule, p->plan->packed, rule->depth, (u * patch + v) * rule->full + j, filter,
                column[u]);
      }
    }
  }
}

// Packs the coefficients of one filter for all blocks of the gemm.
static void PackBlocks(const Packer* p, size_t filter) {
  const DbfRule* rule = p->rule;
  const DbfPlanFloat* plan = p->plan;
  const size_t kw = rule->kernel_w, full = rule->full;
  float* base = plan->packed;
  for (size_t i = 0; i < plan->num_blocks; ++i) {
    const DbfBlock* block = &plan->blocks[i];
    const size_t depth = block->num_segments * block->depth;
    for (size_t d = 0; d < depth; ++d) {
      double value;
      if (block->partial) {
        value = DbfLayerAlpha(p->layer, filter, p->columns->partial[block->first + d]);
      } else {
        const DbfSegment* segment = &plan->segments[block->first + d / block->depth];
        const size_t line = segment->line + d % block->depth;  // (tap x, full channel)
        value =
            p->absorber.taps[(segment->tap * kw + line / full) * p->absorber.pitch + line % full];
      }
      PackOne(rule, base, depth, d, filter, value);
    }
    base += depth * rule->padded_filters;
  }
}

static bool Pack(Packer* p) {
  const DbfRule* rule = p->rule;
  const bool ok = DbfAbsorberCreate(&p->absorber, rule);
  for (size_t k = 0; ok && k < (size_t)rule->filters; ++k) {
    DbfAbsorb(&p->absorber, p->columns, p->layer, k);
    if (rule->form == kDbfFormWinograd) {
      PackPatches(p, k);
    } else {
      PackBlocks(p, k);
    }
  }
  DbfAbsorberFree(&p->absorber);
  return ok;
}

static void SetActivation(DbfPlanFloat* plan, DbfActivation activation) {
  plan->low = activation == kDbfNone ? -INFINITY : activation == kDbfReluN1To1 ? -1.0f : 0.0f;
  plan->high = activation == kDbfRelu6 ? 6.0f : activation == kDbfReluN1To1 ? 1.0f : INFINITY;
}

bool DbfPlanFloatMake(const DbfRule* rule, const DbfColumns* columns, const DbfLayer* layer,
                      DbfPlanFloat* plan) {
  DBF_REQUIRE(rule->form != kDbfFormInt8, "an int8 layer has no float plan");
  *plan = (DbfPlanFloat){0};
  SetTransform(rule, plan);
  SetActivation(plan, layer->activation);
  plan->signs_h = SignTable(rule->kernel_h);
  plan->signs_w = SignTable(rule->kernel_w);
  plan->bias = DbfAllocate(rule->padded_filters, sizeof(*plan->bias));
  plan->packed = DbfAllocateAligned(DbfMul(rule->depth, rule->padded_filters),
                                    sizeof(*plan->packed), &plan->packed_allocation);
  if (plan->signs_h == NULL || plan->signs_w == NULL || plan->bias == NULL ||
      plan->packed == NULL) {
    return false;
  }
  if (layer->bias != NULL) memcpy(plan->bias, layer->bias, layer->filters * sizeof(*plan->bias));
  if (rule->form != kDbfFormWinograd && !PlanBlocks(rule, plan)) return false;
  DBF_REQUIRE((uintptr_t)plan->packed % 64 == 0, "packed coefficients are not aligned");
  Packer packer = {.rule = rule, .columns = columns, .layer = layer, .plan = plan};
  return Pack(&packer);
}

void DbfPlanFloatFree(DbfPlanFloat* plan) {
  free(plan->signs_h);
  free(plan->signs_w);
  free(plan->blocks);
  free(plan->segments);
  free(plan->packed_allocation);
  free(plan->bias);
}
