#include "plan/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/plan_int8.h"
#include "support/checked.h"

enum {
  kMaxSide = 1024,  // of a kernel: bounds the tables of signs
  kMaxSumsShift = 8,
  kMaxSumsTaps = 128,  // of a run of an int8 layer, whose sums are to fit int16
};

static bool HasCode(const DbfLayer* layer, size_t g) { return layer->codes[g >> 3] >> (g & 7) & 1; }

// Checks all numbers of `layer` against each other, so that P = kh·kw·C and all indices of the code
// grid are bounded by the blob of codes. Returns a message, or NULL.
static const char* CheckLayer(const DbfLayer* layer) {
  if (layer->kernel_h < 1 || layer->kernel_w < 1) return "kernel size below 1";
  if (layer->kernel_h > kMaxSide || layer->kernel_w > kMaxSide) return "kernel size above 1024";
  if (layer->stride_h < 1 || layer->stride_w < 1) return "stride below 1";
  if (layer->dilation_h < 1 || layer->dilation_w < 1) return "dilation below 1";
  if ((int64_t)(layer->kernel_h - 1) * layer->dilation_h >= INT32_MAX ||
      (int64_t)(layer->kernel_w - 1) * layer->dilation_w >= INT32_MAX) {
    return "dilation too large";
  }
  if (layer->channels < 1) return "channels below 1";
  if (layer->filters < 1) return "filters below 1";
  if (layer->activation < kDbfNone || layer->activation > kDbfRelu6) return "unknown activation";
  const size_t grid = DbfMul(DbfMul(layer->kernel_h, layer->kernel_w), layer->channels);
  if (grid > INT32_MAX) return "code grid too large";
  if (layer->codes_bytes != (grid + 7) / 8) return "codes has the wrong length";
  size_t kept = 0;
  for (size_t i = 0; i < layer->codes_bytes; ++i) kept += __builtin_popcount(layer->codes[i]);
  for (size_t g = grid; g < 8 * layer->codes_bytes; ++g) {
    if (HasCode(layer, g)) return "a code lies past the code grid";
  }
  if (kept == 0) return "no code is kept";
  if (kept != layer->num_codes) return "the number of codes differs from the columns of alpha";
  if (layer->alpha_float == NULL) {
    if ((layer->alpha_int8 == NULL && layer->alpha_int4 == NULL) || layer->alpha_scales == NULL) {
      return "no coefficients";
    }
    if (layer->num_scales != 1 && layer->num_scales != (size_t)layer->filters) {
      return "alpha has neither one scale nor one per filter";
    }
  }
  return NULL;
}

int DbfLayerInteger(const DbfLayer* layer, size_t filter, size_t column) {
  const size_t i = filter * layer->num_codes + column;
  if (layer->alpha_int8 != NULL) return layer->alpha_int8[i];
  const int half = layer->alpha_int4[i / 2] >> (i % 2 * 4) & 15;
  return half < 8 ? half : half - 16;
}

float DbfLayerScale(const DbfLayer* layer, size_t filter) {
  return layer->alpha_scales[layer->num_scales > 1 ? filter : 0];
}

static float Alpha(const DbfLayer* layer, size_t filter, size_t column) {
  if (layer->alpha_float != NULL) return layer->alpha_float[filter * layer->num_codes + column];
  return (float)DbfLayerInteger(layer, filter, column) * DbfLayerScale(layer, filter);
}

// The taps of `size` over whose runs all codes are constant whose bits are in `codes`.
static int32_t RunOf(size_t codes, int32_t size) {
  const size_t bits = codes | (size_t)size;
  return (int32_t)(bits & -bits);
}

// Checks what an int8 layer says of its sums of runs of so many taps. Returns a message, or NULL.
static const char* CheckSums(const DbfQuantized* quantized, size_t taps) {
  if (taps == 1) return "sums without runs of taps";
  if (taps > kMaxSumsTaps) return "sums of too many taps";
  if (quantized->sums_bytes != 2) return "sums has the wrong length";
  if (quantized->sums[0] > kMaxSumsShift) return "sums is out of range";
  if (quantized->input_zero < -128 || quantized->input_zero > 127) {
    return "a zero point is out of range";
  }
  return NULL;
}

// Takes the runs of taps out of `layer`, whose sums are then its taps, and says how long they are.
// `codes` gets the memory of its codes, to be freed, and `summed` is what an int8 layer has besides
// over its sums. Returns a message, or NULL.
static const char* TakeRuns(DbfLayer* layer, int32_t* run_h, int32_t* run_w, uint8_t** codes,
                            DbfQuantized* summed) {
  const size_t channels = layer->channels, kw = layer->kernel_w;
  const size_t grid = layer->kernel_h * kw * channels;
  const DbfQuantized* quantized = layer->quantized;
  size_t vertical = 0, horizontal = 0;
  for (size_t g = 0; g < grid; ++g) {
    if (!HasCode(layer, g)) continue;
    vertical |= g / channels / kw;
    horizontal |= g / channels % kw;
  }
  *run_h = *run_w = 1;
  *codes = NULL;
  if (quantized != NULL && quantized->sums == NULL) return NULL;
  *run_h = RunOf(vertical, layer->kernel_h);
  *run_w = RunOf(horizontal, layer->kernel_w);
  if (quantized != NULL) {
    const char* error = CheckSums(quantized, (size_t)*run_h * *run_w);
    if (error != NULL) return error;
    *summed = *quantized;
    summed->input_scale = ldexpf(quantized->input_scale, quantized->sums[0]);
    summed->input_zero = (int8_t)quantized->sums[1];
    layer->quantized = summed;
  }
  if (*run_h == 1 && *run_w == 1) return NULL;
  DbfLayer left = *layer;
  left.kernel_h /= *run_h;
  left.kernel_w /= *run_w;
  left.codes_bytes = (grid / *run_h / *run_w + 7) / 8;
  left.codes = *codes = DbfAllocate(left.codes_bytes, 1);
  if (*codes == NULL) return "out of memory";
  for (size_t g = 0; g < grid; ++g) {
    if (!HasCode(layer, g)) continue;
    const size_t u = g / channels / kw / *run_h, v = g / channels % kw / *run_w;
    const size_t to = (u * left.kernel_w + v) * channels + g % channels;
    (*codes)[to >> 3] |= 1 << (to & 7);
  }
  *layer = left;
  return NULL;
}

// The side of a patch if the layer is computed in Winograd's form, else 0. See plan.h.
static int32_t PatchOf(const DbfLayer* layer, const uint32_t* count) {
  const uint64_t side = layer->kernel_h;
  if (layer->quantized != NULL || (side != 3 && side != 4) || layer->kernel_w != layer->kernel_h ||
      layer->stride_h != 1 || layer->stride_w != 1 || layer->dilation_h != 1 ||
      layer->dilation_w != 1) {
    return 0;
  }
  uint64_t channels = 0;
  for (int32_t w = 0; w < layer->channels; ++w) channels += count[w] > 0;
  const uint64_t numbers = (side + 1) * (side + 1) * channels;
  const bool pays = channels >= kDbfWinogradChannels && numbers <= 4 * layer->num_codes &&
                    numbers <= side * side * layer->channels;
  return pays ? (int32_t)side + 1 : 0;
}

// Lines are ordered by which of the codes 0 ... 3 are kept of them, a bit each: what they have in
// common is then chosen once, not line by line (combine.inl), and branches are foreseen.
enum { kOrders = 16 };

static uint8_t Order(size_t code) { return code < 4 ? (uint8_t)(1 << code) : 0; }

// The channel stage of the rule above. count[w] is the number of spatial codes kept with channel
// code w, order[w] the order of its lines.
static bool PlanChannels(DbfPlan* plan, const uint32_t* count, const uint8_t* order,
                         int32_t* channel) {
  const uint32_t spatial = plan->patch > 0 ? 1 : (uint32_t)plan->kernel_h * plan->kernel_w;
  uint32_t any = 0;
  for (int32_t w = 0; w < plan->channels; ++w) {
    if (count[w] == 0) continue;
    any |= w;
    if (count[w] >= spatial) {
      ++plan->full;
    } else {
      ++plan->partial;
    }
  }
  size_t padded = 1;
  int log2_padded = 0;
  for (; padded < (size_t)plan->channels; padded *= 2) ++log2_padded;
  plan->shift = any == 0 ? log2_padded : __builtin_ctz(any);
  plan->runs = ((size_t)(plan->channels - 1) >> plan->shift) + 1;
  plan->hadamard = plan->partial > 0 || plan->full < plan->runs;
  if (padded < (size_t)plan->kernels->vector) padded = plan->kernels->vector;
  plan->rows = padded >> plan->shift;
  if (plan->rows == 0) plan->rows = 1;

  plan->gather_ops = DbfAllocate(plan->full + plan->partial, sizeof(*plan->gather_ops));
  if (plan->gather_ops == NULL) return false;
  int32_t next = 0;
  for (int32_t w = 0; w < plan->channels; ++w) channel[w] = count[w] >= spatial ? next++ : -1;
  for (int i = 0; i < kOrders; ++i) {
    for (int32_t w = 0; w < plan->channels; ++w) {
      if (count[w] > 0 && count[w] < spatial && order[w] == i) channel[w] = next++;
    }
  }
  for (int32_t w = 0; w < plan->channels; ++w) {
    if (count[w] > 0) plan->gather_ops[channel[w]].source = w >> plan->shift;
  }
  return true;
}

static float* SignTable(int32_t size) {
  float* signs = DbfAllocate(DbfMul(size, size), sizeof(*signs));
  for (int32_t i = 0; signs != NULL && i < size; ++i) {
    for (int32_t j = 0; j < size; ++j) signs[(size_t)i * size + j] = (float)DbfSign(i, j);
  }
  return signs;
}

// The line and feature stages: the ops of the partial codes, ordered by line, and the columns of
// all codes.
static bool PlanLines(DbfPlan* plan, const DbfLayer* layer, DbfColumns* columns) {
  const int32_t* channel = columns->channel;
  const size_t kh = plan->kernel_h, kw = plan->kernel_w, channels = plan->channels;
  plan->raw_lines = (plan->patch > 0 ? (size_t)plan->patch : kw) * plan->full;
  plan->num_features = plan->patch > 0 ? 0 : plan->depth - kh * plan->raw_lines;
  plan->raw_ops = DbfAllocate(plan->raw_lines, sizeof(*plan->raw_ops));
  plan->line_ops = DbfAllocate(kw * plan->partial, sizeof(*plan->line_ops));
  plan->feature_ops = DbfAllocate(plan->num_features, sizeof(*plan->feature_ops));
  plan->signs_h = SignTable(plan->kernel_h);
  plan->signs_w = SignTable(plan->kernel_w);
  columns->full = DbfAllocate(kh * kw * plan->full, sizeof(*columns->full));
  columns->partial = DbfAllocate(plan->num_features, sizeof(*columns->partial));
  // The line of (partial channel, horizontal code), counted from 1; 0 if no code needs it.
  uint32_t* lines = DbfAllocate(kw * plan->partial, sizeof(*lines));
  // The first feature of each line, and the line's order.
  size_t* first = DbfAllocate(kw * plan->partial, sizeof(*first));
  uint8_t* order = DbfAllocate(kw * plan->partial, sizeof(*order));
  const bool ok = plan->raw_ops && plan->line_ops && plan->feature_ops && plan->signs_h &&
                  plan->signs_w && columns->full && columns->partial && lines && first && order;
  if (ok) {
    for (size_t j = 0; j < plan->raw_lines; ++j) plan->raw_ops[j].source = (int32_t)j;
    for (size_t i = 0; i < kh * kw * plan->full; ++i) columns->full[i] = SIZE_MAX;
    for (size_t g = 0; g < kh * kw * channels; ++g) {  // how many features has each line?
      const size_t w = g % channels, v = g / channels % kw;
      if (!HasCode(layer, g) || (size_t)channel[w] < plan->full) continue;
      const size_t line = (channel[w] - plan->full) * kw + v;
      ++lines[line];
      order[line] |= Order(g / channels / kw);
    }
    size_t features = 0;
    for (int k = 0; k < kOrders; ++k) {
      for (size_t i = 0; i < kw * plan->partial; ++i) {
        if (lines[i] == 0 || order[i] != k) continue;
        first[i] = features;
        features += lines[i];
      }
    }
    for (size_t i = 0; i < kw * plan->partial; ++i) {
      if (lines[i] == 0) continue;
      plan->line_ops[plan->code_lines] = (DbfLineOp){(int32_t)(i / kw), (int32_t)(i % kw)};
      lines[i] = (uint32_t)plan->code_lines++;
    }
    size_t column = 0;
    for (size_t g = 0; g < kh * kw * channels; ++g) {
      if (!HasCode(layer, g)) continue;
      const size_t w = g % channels, spatial = g / channels, j = channel[w];
      if (j < plan->full) {
        columns->full[spatial * plan->full + j] = column;
      } else {
        const size_t line = (j - plan->full) * kw + spatial % kw;
        const size_t feature = first[line]++;
        plan->feature_ops[feature] = (DbfLineOp){(int32_t)lines[line], (int32_t)(spatial / kw)};
        columns->partial[feature] = column;
      }
      ++column;
    }
  }
  free(lines);
  free(first);
  free(order);
  return ok;
}

static size_t DivideUp(size_t a, size_t b) { return (a + b - 1) / b; }

// Cuts the depth into blocks of at most kernels->depth features.
static bool PlanBlocks(DbfPlan* plan) {
  const size_t lines = plan->raw_lines, kh = plan->kernel_h, max_depth = plan->kernels->depth;
  const size_t chunks = DivideUp(lines, max_depth);  // per vertical tap
  const size_t chunk = chunks > 0 ? DivideUp(lines, chunks) : 0;
  const size_t blocks = DivideUp(plan->num_features, max_depth);
  const size_t block = blocks > 0 ? DivideUp(plan->num_features, blocks) : 0;
  plan->segments = DbfAllocate(kh * chunks, sizeof(*plan->segments));
  plan->blocks = DbfAllocate(kh * chunks + blocks, sizeof(*plan->blocks));
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
  for (size_t f = 0; f < plan->num_features; f += block) {
    const size_t depth = plan->num_features - f < block ? plan->num_features - f : block;
    plan->blocks[plan->num_blocks++] = (DbfBlock){true, f, 1, depth};
  }
  return true;
}

// Applies h_i(j) along an axis: data[o, i, k] for o < outer, i < size, k < inner, in place.
static void TransformAxis(double* data, double* column, size_t outer, size_t size, size_t inner) {
  for (size_t o = 0; o < outer; ++o) {
    for (size_t k = 0; k < inner; ++k) {
      double* d = data + o * size * inner + k;
      for (size_t j = 0; j < size; ++j) {
        column[j] = 0;
        for (size_t i = 0; i < size; ++i) column[j] += DbfSign(i, j) * d[i * inner];
      }
      for (size_t j = 0; j < size; ++j) d[j * inner] = column[j];
    }
  }
}

// Applies h_i(j) to `size` rows of the padded length `pitch`, a power of two, by butterflies.
static void TransformRows(double* data, size_t rows, size_t pitch) {
  for (size_t r = 0; r < rows; ++r, data += pitch) {
    for (size_t h = 1; h < pitch; h *= 2) {
      for (size_t i = 0; i < pitch; ++i) {
        if (i & h) continue;
        const double a = data[i], b = data[i + h];
        data[i] = a + b;
        data[i + h] = a - b;
      }
    }
  }
}

// Stores the coefficient of feature `depth` of `block`, whose packed numbers start at `base`.
static void PackOne(DbfPlan* plan, float* base, size_t block_depth, size_t depth, size_t filter,
                    double value) {
  const size_t panel = 2 * (size_t)plan->kernels->vector;
  const size_t k0 = filter / panel * panel;
  const size_t width = plan->padded_filters - k0 < panel ? plan->padded_filters - k0 : panel;
  base[k0 * block_depth + depth * width + filter - k0] = (float)value;
}

// The coefficients' transform of Winograd's form along one axis, of taps g: see
// kernels/winograd.inl.
static void FilterTransform(const double* g, size_t pitch, size_t taps, double* t) {
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

// Packs the coefficients taps [kh·kw, pitch] of one filter in Winograd's form.
static void PackPatch(DbfPlan* plan, const double* taps, size_t pitch, size_t filter) {
  const size_t side = plan->kernel_h, patch = plan->patch;
  double rows[4][5], column[5];
  for (size_t j = 0; j < plan->full; ++j) {
    for (size_t y = 0; y < side; ++y) {
      FilterTransform(taps + y * side * pitch + j, pitch, side, rows[y]);
    }
    for (size_t v = 0; v < patch; ++v) {
      FilterTransform(&rows[0][v], 5, side, column);
      for (size_t u = 0; u < patch; ++u) {
        PackOne(plan, plan->packed, plan->depth, (u * patch + v) * plan->full + j, filter,
                column[u]);
      }
    }
  }
}

// Absorbs codes into the coefficients and packs them.
static bool Pack(DbfPlan* plan, const DbfLayer* layer, const DbfColumns* columns) {
  const size_t kh = plan->kernel_h, kw = plan->kernel_w, full = plan->full;
  size_t pitch = 1;
  while (pitch < full) pitch *= 2;
  double* taps = DbfAllocate(DbfMul(kh * kw, pitch), sizeof(*taps));
  double* column = DbfAllocate(kh > kw ? kh : kw, sizeof(*column));
  plan->packed = DbfAllocateAligned(DbfMul(plan->depth, plan->padded_filters),
                                    sizeof(*plan->packed), &plan->packed_allocation);
  plan->bias = DbfAllocate(plan->padded_filters, sizeof(*plan->bias));
  if (taps == NULL || column == NULL || plan->packed == NULL || plan->bias == NULL) {
    free(taps);
    free(column);
    return false;
  }
  for (size_t k = 0; k < (size_t)plan->filters; ++k) {
    if (full > 0) {
      memset(taps, 0, kh * kw * pitch * sizeof(*taps));
      for (size_t s = 0; s < kh * kw; ++s) {
        for (size_t j = 0; j < full; ++j) {
          const size_t from = columns->full[s * full + j];
          if (from != SIZE_MAX) taps[s * pitch + j] = Alpha(layer, k, from);
        }
      }
      TransformAxis(taps, column, 1, kh, kw * pitch);
      TransformAxis(taps, column, kh, kw, pitch);
      if (!plan->hadamard) TransformRows(taps, kh * kw, pitch);
    }
    if (plan->patch > 0) {
      PackPatch(plan, taps, pitch, k);
      continue;
    }
    float* base = plan->packed;
    for (const DbfBlock* block = plan->blocks; block < plan->blocks + plan->num_blocks; ++block) {
      const size_t depth = block->num_segments * block->depth;
      for (size_t d = 0; d < depth; ++d) {
        double value;
        if (block->partial) {
          value = Alpha(layer, k, columns->partial[block->first + d]);
        } else {
          const DbfSegment* segment = &plan->segments[block->first + d / block->depth];
          const size_t line = segment->line + d % block->depth;  // (tap x, full channel)
          value = taps[(segment->tap * kw + line / full) * pitch + line % full];
        }
        PackOne(plan, base, depth, d, k, value);
      }
      base += depth * plan->padded_filters;
    }
  }
  if (layer->bias != NULL) memcpy(plan->bias, layer->bias, layer->filters * sizeof(*plan->bias));
  free(taps);
  free(column);
  return true;
}

static void SetActivation(DbfPlan* plan, DbfActivation activation) {
  plan->low = activation == kDbfNone ? -INFINITY : activation == kDbfReluN1To1 ? -1.0f : 0.0f;
  plan->high = activation == kDbfRelu6 ? 6.0f : activation == kDbfReluN1To1 ? 1.0f : INFINITY;
}

DbfPlan* DbfPlanCreate(const DbfLayer* whole, const DbfKernels* kernels, const char** error) {
  *error = CheckLayer(whole);
  if (*error != NULL) return NULL;
  DbfLayer left = *whole;
  const DbfLayer* layer = &left;
  int32_t run_h, run_w;
  uint8_t* codes;
  DbfQuantized summed;
  *error = TakeRuns(&left, &run_h, &run_w, &codes, &summed);
  if (*error != NULL) return NULL;
  *error = "out of memory";
  const size_t channels = layer->channels;
  const size_t grid = (size_t)layer->kernel_h * layer->kernel_w * channels;
  DbfPlan* plan = DbfAllocate(1, sizeof(*plan));
  uint32_t* count = DbfAllocate(channels, sizeof(*count));
  uint8_t* order = DbfAllocate(channels, sizeof(*order));
  DbfColumns columns = {NULL, NULL, DbfAllocate(channels, sizeof(*columns.channel))};
  bool ok = plan != NULL && count != NULL && order != NULL && columns.channel != NULL;
  if (ok) {
    plan->kernels = kernels;
    plan->channels = layer->channels;
    plan->filters = layer->filters;
    plan->run_h = run_h;
    plan->run_w = run_w;
    plan->kernel_h = layer->kernel_h;
    plan->kernel_w = layer->kernel_w;
    plan->depth = layer->num_codes;
    plan->padded_filters = DivideUp(layer->filters, kernels->vector) * kernels->vector;
    SetActivation(plan, layer->activation);
    for (size_t g = 0; g < grid; ++g) {
      if (!HasCode(layer, g)) continue;
      ++count[g % channels];
      order[g % channels] |= Order(g / channels % layer->kernel_w);
    }
    plan->patch = codes == NULL ? PatchOf(layer, count) : 0;
    ok = PlanChannels(plan, count, order, columns.channel) && PlanLines(plan, layer, &columns);
    if (ok && layer->quantized != NULL) {
      plan->int8 = DbfPlanInt8Create(plan, layer, &columns, error);
      ok = plan->int8 != NULL;
      if (ok && codes != NULL) {
        plan->int8->image_zero = whole->quantized->input_zero;
        plan->int8->sums_right = whole->quantized->sums[0];
      }
    } else if (ok) {
      if (plan->patch > 0) plan->depth = (size_t)plan->patch * plan->patch * plan->full;
      ok = (plan->patch > 0 || PlanBlocks(plan)) && Pack(plan, layer, &columns);
    }
  }
  free(codes);
  free(count);
  free(order);
  free(columns.full);
  free(columns.partial);
  free(columns.channel);
  if (ok) {
    *error = NULL;
    return plan;
  }
  DbfPlanFree(plan);
  return NULL;
}

void DbfPlanFree(DbfPlan* plan) {
  if (plan == NULL) return;
  DbfPlanInt8Free(plan->int8);
  free(plan->gather_ops);
  free(plan->raw_ops);
  free(plan->line_ops);
  free(plan->feature_ops);
  free(plan->signs_h);
  free(plan->signs_w);
  free(plan->blocks);
  free(plan->segments);
  free(plan->packed_allocation);
  free(plan->bias);
  free(plan);
}

size_t DbfPlanPackedBytes(const DbfPlan* plan) {
  const size_t depth = plan->int8 != NULL ? plan->int8->depth : plan->depth;
  return depth * plan->padded_filters * sizeof(float);  // an element of int8 is as large
}
