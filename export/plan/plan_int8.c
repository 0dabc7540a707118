#include "plan/plan_int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/checked.h"

enum {
  kMaxShift = 8,
  kMaxRunsShift = 16,
  kMaxExponent = 15,
  kExactChannels = 256,  // butterflies over more channels halve
  kMaxAdd = 65534,
};

// How one feature is rounded, from the file.
typedef struct Feature {
  int shift, zero, exponent;
} Feature;

static Feature ReadFeature(const uint8_t* triple) {
  return (Feature){triple[0], (int8_t)triple[1], triple[2]};
}

static int32_t Rounding(int shift) { return shift > 0 ? 1 << (shift - 1) : 0; }

// Places features in slots: by descending exponent, each exponent's on a multiple of `pack`.
// end[x] becomes the slot after those of exponent x. Returns the number of slots.
static size_t PlaceFeatures(const Feature* features, size_t count, int pack, size_t* slot,
                            size_t* end) {
  size_t next = 0;
  for (int x = kMaxExponent; x >= 0; --x) {
    for (size_t i = 0; i < count; ++i) {
      if (features[i].exponent == x) slot[i] = next++;
    }
    next = (next + pack - 1) / pack * pack;
    end[x] = next;
  }
  return next;
}

static uint32_t BothHalves(int32_t x) { return (uint16_t)x * 0x10001u; }

static DbfNarrow MakeNarrow(DbfLineOp line, int32_t add, int shift) {
  const int32_t first = add / 2;
  return (DbfNarrow){line, {BothHalves(first), BothHalves(add - first)}, shift};
}

static DbfMasks* MakeMasks(int32_t taps) {
  DbfMasks* masks = DbfAllocate(DbfMul(taps, taps + 1), sizeof(*masks));
  for (int32_t i = 0; masks != NULL && i < taps; ++i) {
    DbfMasks* row = masks + (size_t)i * (taps + 1);
    for (int32_t j = 0; j < taps; ++j) {
      if (DbfSign(i, j) > 0) continue;
      row[j] = BothHalves(-1);
      row[taps] += BothHalves(1);
    }
  }
  return masks;
}

// The transform of FORMAT.md of a pixel whose channels are all `zero`: p⁰_w for w < padded.
static void TransformZero(const DbfPlan* plan, int32_t zero, int32_t* p, size_t padded) {
  for (size_t c = 0; c < padded; ++c) p[c] = c < (size_t)plan->channels ? zero : 0;
  for (size_t h = 1; h < padded; h *= 2) {
    const int half = h >= kExactChannels;
    for (size_t i = 0; i < padded; ++i) {
      if (i & h) continue;
      const int32_t a = p[i] >> half, b = p[i + h] >> half;
      p[i] = a + b;
      p[i + h] = a - b;
    }
  }
}

// What is needed only while the plan is made.
typedef struct Builder {
  DbfPlan* plan;
  DbfPlanInt8* int8;
  const DbfLayer* layer;
  const DbfColumns* columns;
  bool runs;
  Feature* full;     // [plan->full]; in runs form all alike
  Feature* partial;  // [plan->num_features], in the order of plan->feature_ops
  size_t* full_slot;
  size_t* partial_slot;
  size_t full_end[kMaxExponent + 1], partial_end[kMaxExponent + 1];
} Builder;

static const char* ReadFeatures(Builder* b) {
  const DbfQuantized* quantized = b->layer->quantized;
  const DbfPlan* plan = b->plan;
  const size_t channels = b->runs ? 1 : plan->full + plan->partial;
  if (quantized->features_bytes != DbfMul(3, DbfAdd(channels, plan->num_features))) {
    return "features has the wrong length";
  }
  const uint8_t* next = quantized->features;
  if (b->runs) {
    const Feature feature = ReadFeature(next);
    if (feature.shift > kMaxRunsShift || feature.exponent > kMaxExponent) {
      return "features is out of range";
    }
    for (size_t j = 0; j < plan->full; ++j) b->full[j] = feature;
    b->int8->runs_add = Rounding(feature.shift) + feature.zero * (1 << feature.shift);
    b->int8->runs_right = feature.shift;
    return NULL;
  }
  // Channel codes ascend in the file.
  for (int32_t w = 0; w < plan->channels; ++w) {
    const int32_t j = b->columns->channel[w];
    if (j < 0) continue;
    const bool is_full = (size_t)j < plan->full;
    const Feature feature = ReadFeature(next);
    next += 3;
    if (feature.shift > kMaxShift || feature.exponent > kMaxExponent ||
        (!is_full && (feature.zero != 0 || feature.exponent != 0))) {
      return "features is out of range";
    }
    if (is_full) {
      b->full[j] = feature;
    } else {
      b->int8->partial_ops[j - plan->full].shift = feature.shift;
    }
  }
  // Partial codes ascend in the file by grid index, as their columns do.
  size_t* order = DbfAllocate(b->layer->num_codes, sizeof(*order));  // 1 + feature, by column
  if (order == NULL) return "out of memory";
  for (size_t f = 0; f < plan->num_features; ++f) order[b->columns->partial[f]] = f + 1;
  const char* error = NULL;
  for (size_t column = 0; column < b->layer->num_codes; ++column) {
    if (order[column] == 0) continue;
    const Feature feature = ReadFeature(next);
    next += 3;
    if (feature.shift > kMaxShift || feature.exponent > kMaxExponent) {
      error = "features is out of range";
    }
    b->partial[order[column] - 1] = feature;
  }
  free(order);
  return error;
}

// The ops of the channel and feature stages.
static const char* PlanOps(Builder* b) {
  const DbfPlan* plan = b->plan;
  DbfPlanInt8* int8 = b->int8;
  const int pack = plan->kernels->pack;
  int8->full_elements = PlaceFeatures(b->full, plan->full, pack, b->full_slot, b->full_end) / pack;
  int8->feature_elements =
      PlaceFeatures(b->partial, plan->num_features, pack, b->partial_slot, b->partial_end) / pack;
  const size_t slots = int8->full_elements * pack;
  int8->padding = DbfAllocate(int8->full_elements, sizeof(*int8->padding));
  int8->full_ops = b->runs ? NULL : DbfAllocate(slots, sizeof(*int8->full_ops));
  int8->feature_ops = DbfAllocate(int8->feature_elements * pack, sizeof(*int8->feature_ops));
  size_t padded = 1;
  while (padded < (size_t)plan->channels) padded *= 2;
  int32_t* zeros = DbfAllocate(padded, sizeof(*zeros));
  const char* error = NULL;
  if (int8->padding == NULL || (!b->runs && int8->full_ops == NULL) || int8->feature_ops == NULL ||
      zeros == NULL) {
    free(zeros);
    return "out of memory";
  }
  for (size_t j = 0; j < plan->full; ++j) {
    const uint32_t bits = 32 / pack, slot = (uint32_t)(b->full_slot[j] % pack);
    const int zero = b->full[j].zero + (plan->kernels->biased ? 128 : 0);
    int8->padding[b->full_slot[j] / pack] |= ((uint32_t)zero & ((1ull << bits) - 1))
                                             << (bits * slot);
  }
  if (!b->runs) {
    TransformZero(plan, int8->input_zero, zeros, padded);
    const int drop = plan->shift - int8->low;  // gather_ops count rows of c >> plan->shift
    for (size_t j = 0; j < plan->full + plan->partial; ++j) {
      const DbfLineOp line = {plan->gather_ops[j].source << drop, 0};
      int32_t add = -zeros[(size_t)line.source << int8->low];
      DbfNarrow* partial = &int8->partial_ops[j < plan->full ? 0 : j - plan->full];
      const Feature feature = j < plan->full ? b->full[j] : (Feature){partial->shift, 0, 0};
      add += Rounding(feature.shift) + feature.zero * (1 << feature.shift);
      *(j < plan->full ? &int8->full_ops[b->full_slot[j]] : partial) =
          MakeNarrow(line, add, feature.shift);
      if (add > kMaxAdd || add < -kMaxAdd) error = "features is out of range";
    }
  }
  for (size_t f = 0; f < plan->num_features; ++f) {
    const Feature* feature = &b->partial[f];
    const int32_t add = Rounding(feature->shift) + feature->zero * (1 << feature->shift);
    // Always int16, so that one part is enough.
    int8->feature_ops[b->partial_slot[f]] =
        (DbfNarrow){plan->feature_ops[f], {BothHalves(add), 0}, feature->shift};
  }
  free(zeros);
  return error;
}

// The order of the product: by descending exponent; of one exponent the raw features, then the
// partial ones.
static bool PlanSlices(Builder* b) {
  DbfPlan* plan = b->plan;
  DbfPlanInt8* int8 = b->int8;
  const int pack = plan->kernels->pack;
  const size_t kh = plan->kernel_h, kw = plan->kernel_w;
  plan->raw_lines = kw * int8->full_elements;
  int8->depth = kh * plan->raw_lines + int8->feature_elements;
  size_t groups = 0;
  for (int x = 0; x <= kMaxExponent; ++x) {
    const size_t before = x < kMaxExponent ? b->full_end[x + 1] : 0;
    groups += b->full_end[x] > before;
  }
  int8->slices =
      DbfAllocate(DbfAdd(DbfMul(groups, kh * kw), kMaxExponent + 1), sizeof(*int8->slices));
  if (int8->slices == NULL) return false;
  int exponent = -1;  // of the last slice
  for (int x = kMaxExponent; x >= 0; --x) {
    const size_t full = x < kMaxExponent ? b->full_end[x + 1] / pack : 0;
    const size_t full_depth = b->full_end[x] / pack - full;
    const size_t partial = x < kMaxExponent ? b->partial_end[x + 1] / pack : 0;
    const size_t partial_depth = b->partial_end[x] / pack - partial;
    if (full_depth + partial_depth == 0) continue;
    const size_t start = int8->num_slices;
    // The lines of one exponent are side by side for all horizontal taps if it is the only one.
    const size_t parts = full_depth == int8->full_elements ? 1 : kw;
    for (size_t tap = 0; tap < kh && full_depth > 0; ++tap) {
      for (size_t t = 0; t < parts; ++t) {
        int8->slices[int8->num_slices++] = (DbfPlanSlice){
            false, (int32_t)tap, t * int8->full_elements + full, full_depth * (kw / parts), 0};
      }
    }
    if (partial_depth > 0) {
      int8->slices[int8->num_slices++] = (DbfPlanSlice){true, 0, partial, partial_depth, 0};
    }
    if (exponent >= 0) {
      int8->slices[start].shift = exponent - x;
      int8->shifted = true;
    }
    exponent = x;
  }
  int8->last_shift = exponent;
  int8->shifted |= exponent > 0;
  return true;
}

// Stores coefficient `value` of the feature in `slot` of a slice that begins at element `depth`.
static void PackOne(Builder* b, size_t element, size_t lane, size_t filter, int value) {
  const DbfKernels* kernels = b->plan->kernels;
  const size_t vector = kernels->vector, pack = kernels->pack;
  const size_t k0 = filter / (2 * vector) * (2 * vector);
  const size_t rest = b->plan->padded_filters - k0;
  const size_t width = rest < 2 * vector ? rest : 2 * vector;
  const size_t in_panel = filter - k0;
  // In elements of 4 bytes: the vector's; then the number's place among its `pack` * vector.
  const size_t at = b->int8->depth * k0 + element * width + in_panel / vector * vector;
  const size_t column = in_panel % vector;
  const size_t number = kernels->planar ? lane * vector + column : column * pack + lane;
  if (pack == 4) {
    ((int8_t*)b->int8->packed)[4 * at + number] = (int8_t)value;
  } else {
    ((int16_t*)b->int8->packed)[2 * at + number] = (int16_t)value;
  }
}

// What packing one filter's coefficients adds up.
typedef struct Sums {
  int64_t offset;  // what the features' zero points contribute
  int64_t bound;   // largest sum
} Sums;

static void PackFeature(Builder* b, const Feature* feature, size_t element, size_t lane,
                        size_t filter, size_t column, Sums* sums) {
  const int value = DbfLayerInteger(b->layer, filter, column);
  PackOne(b, element, lane, filter, value);
  const int stored_zero = feature->zero + (b->plan->kernels->biased ? 128 : 0);
  sums->offset += (int64_t)value * stored_zero * (1 << feature->exponent);
  sums->bound += (int64_t)abs(value) * 255 * (1 << feature->exponent);
}

// The multiplier of a filter, as TFLite's QuantizeMultiplier. Returns false unless it is below 1.
static bool SetMultiplier(DbfPlanInt8* int8, const DbfLayer* layer, size_t filter) {
  const double multiplier = (double)layer->quantized->input_scale *
                            (double)DbfLayerScale(layer, filter) /
                            (double)layer->quantized->output_scale;
  if (!(multiplier > 0 && multiplier < 1)) return false;
  int exponent;
  int64_t fixed = (int64_t)round(frexp(multiplier, &exponent) * (double)(1ll << 31));
  if (fixed == 1ll << 31) {
    fixed /= 2;
    ++exponent;
  }
  if (exponent > 0) return false;
  if (exponent < -31) fixed = exponent = 0;
  int8->multiplier[filter] = (int32_t)fixed;
  int8->right_shift[filter] = -exponent;
  int8->scale[filter] = (float)ldexp((double)fixed, exponent - 31);
  // Rounding twice moves a result by as much as half a unit of the first rounding; the float
  // product is off by less than 2^-14 where it matters.
  const float limit = 0.5f - ldexpf(1, exponent - 1) - ldexpf(1, -14);
  int8->limit[filter] = limit > 0 ? limit : 0;
  return true;
}

static const char* Pack(Builder* b) {
  DbfPlan* plan = b->plan;
  DbfPlanInt8* int8 = b->int8;
  const size_t kh = plan->kernel_h, kw = plan->kernel_w, padded = plan->padded_filters;
  const int pack = plan->kernels->pack;
  int8->packed = DbfAllocateAligned(DbfMul(int8->depth, padded), 4, &int8->packed_allocation);
  int8->bias = DbfAllocate(padded, sizeof(*int8->bias));
  int8->multiplier = DbfAllocate(padded, sizeof(*int8->multiplier));
  int8->right_shift = DbfAllocate(padded, sizeof(*int8->right_shift));
  int8->scale = DbfAllocate(padded, sizeof(*int8->scale));
  int8->limit = DbfAllocate(padded, sizeof(*int8->limit));
  if (int8->packed == NULL || int8->bias == NULL || int8->multiplier == NULL ||
      int8->right_shift == NULL || int8->scale == NULL || int8->limit == NULL) {
    return "out of memory";
  }
  // Of slice lines and packed partial elements: their place in the product.
  size_t* raw_place = DbfAllocate(DbfMul(kh, plan->raw_lines), sizeof(*raw_place));
  size_t* partial_place = DbfAllocate(int8->feature_elements, sizeof(*partial_place));
  const char* error = raw_place == NULL || partial_place == NULL ? "out of memory" : NULL;
  size_t place = 0;
  for (size_t i = 0; error == NULL && i < int8->num_slices; ++i) {
    const DbfPlanSlice* slice = &int8->slices[i];
    for (size_t d = 0; d < slice->depth; ++d, ++place) {
      if (slice->partial) {
        partial_place[slice->first + d] = place;
      } else {
        raw_place[slice->tap * plan->raw_lines + slice->first + d] = place;
      }
    }
  }
  for (size_t k = plan->filters; k < padded; ++k) int8->limit[k] = 1;  // never too close
  for (size_t k = 0; error == NULL && k < (size_t)plan->filters; ++k) {
    const int32_t bias = b->layer->quantized->bias != NULL ? b->layer->quantized->bias[k] : 0;
    Sums sums = {0, llabs((int64_t)bias)};
    for (size_t s = 0; s < kh * kw; ++s) {
      for (size_t j = 0; j < plan->full; ++j) {
        const size_t slot = b->full_slot[j];
        const size_t line = s % kw * int8->full_elements + slot / pack;
        PackFeature(b, &b->full[j], raw_place[s / kw * plan->raw_lines + line], slot % pack, k,
                    b->columns->full[s * plan->full + j], &sums);
      }
    }
    for (size_t f = 0; f < plan->num_features; ++f) {
      const size_t slot = b->partial_slot[f];
      PackFeature(b, &b->partial[f], partial_place[slot / pack], slot % pack, k,
                  b->columns->partial[f], &sums);
    }
    if (sums.bound > INT32_MAX) error = "the sums of a filter may overflow";
    int8->bias[k] = (int32_t)(uint32_t)(bias - sums.offset);  // modulo 2^32, as the sums are
    if (!SetMultiplier(int8, b->layer, k)) error = "the scales of a filter are out of range";
  }
  free(raw_place);
  free(partial_place);
  return error;
}

// The activation's range in the output's quantisation, as TFLite's CalculateActivationRange.
static const char* SetOutput(DbfPlanInt8* int8, const DbfLayer* layer) {
  const DbfQuantized* quantized = layer->quantized;
  if (!(quantized->input_scale > 0 && isfinite(quantized->input_scale)) ||
      !(quantized->output_scale > 0 && isfinite(quantized->output_scale))) {
    return "a scale is not positive";
  }
  if (quantized->input_zero < -128 || quantized->input_zero > 127 ||
      quantized->output_zero < -128 || quantized->output_zero > 127) {
    return "a zero point is out of range";
  }
  int8->input_zero = quantized->input_zero;
  int8->zero = quantized->output_zero;
  int8->low_output = -128;
  int8->high_output = 127;
  const float one = roundf(1 / quantized->output_scale), six = roundf(6 / quantized->output_scale);
  if (layer->activation == kDbfRelu || layer->activation == kDbfRelu6)
    int8->low_output = int8->zero;
  if (layer->activation == kDbfRelu6 && six < 127 - int8->zero) {
    int8->high_output = int8->zero + (int32_t)six;
  }
  if (layer->activation == kDbfReluN1To1) {
    if (one < int8->zero + 128) int8->low_output = int8->zero - (int32_t)one;
    if (one < 127 - int8->zero) int8->high_output = int8->zero + (int32_t)one;
  }
  return NULL;
}

static void SetTransform(const DbfPlan* plan, DbfPlanInt8* int8) {
  const size_t chunk = 4 * (size_t)plan->kernels->vector, channels = plan->channels;
  size_t padded = 1;
  while (padded < channels) padded *= 2;
  int8->low = plan->shift < 2 ? plan->shift : 2;
  const size_t last = channels % chunk;
  const size_t last_chunk = last == 0 ? 0 : last <= 16 ? 16 : chunk;
  int8->written = (channels - last + last_chunk) >> int8->low;
  int8->hadamard_rows = padded >> int8->low;
  int8->rows = int8->written > int8->hadamard_rows ? int8->written : int8->hadamard_rows;
  int8->halving = kExactChannels >> int8->low;
  int8->bound = 32767 / (plan->kernel_h * plan->kernel_w);
}

DbfPlanInt8* DbfPlanInt8Create(DbfPlan* plan, const DbfLayer* layer, const DbfColumns* columns,
                               const char** error) {
  Builder b = {.plan = plan, .layer = layer, .columns = columns, .runs = !plan->hadamard};
  *error = "out of memory";
  b.int8 = DbfAllocate(1, sizeof(*b.int8));
  if (b.int8 == NULL) return NULL;
  b.full = DbfAllocate(plan->full, sizeof(*b.full));
  b.partial = DbfAllocate(plan->num_features, sizeof(*b.partial));
  b.full_slot = DbfAllocate(plan->full, sizeof(*b.full_slot));
  b.partial_slot = DbfAllocate(plan->num_features, sizeof(*b.partial_slot));
  b.int8->masks_w = MakeMasks(plan->kernel_w);
  b.int8->masks_h = MakeMasks(plan->kernel_h);
  b.int8->partial_ops = DbfAllocate(plan->partial, sizeof(*b.int8->partial_ops));
  if (b.full != NULL && b.partial != NULL && b.full_slot != NULL && b.partial_slot != NULL &&
      b.int8->masks_w != NULL && b.int8->masks_h != NULL && b.int8->partial_ops != NULL) {
    *error = SetOutput(b.int8, layer);
    if (*error == NULL && layer->alpha_float != NULL) *error = "int8 layers need integer alpha";
    SetTransform(plan, b.int8);
    if (*error == NULL) *error = ReadFeatures(&b);
    if (*error == NULL) *error = PlanOps(&b);
    if (*error == NULL) *error = PlanSlices(&b) ? Pack(&b) : "out of memory";
  }
  free(b.full);
  free(b.partial);
  free(b.full_slot);
  free(b.partial_slot);
  if (*error == NULL) return b.int8;
  DbfPlanInt8Free(b.int8);
  return NULL;
}

void DbfPlanInt8Free(DbfPlanInt8* plan) {
  if (plan == NULL) return;
  free(plan->full_ops);
  free(plan->padding);
  free(plan->masks_w);
  free(plan->masks_h);
  free(plan->partial_ops);
  free(plan->feature_ops);
  free(plan->slices);
  free(plan->packed_allocation);
  free(plan->bias);
  free(plan->multiplier);
  free(plan->right_shift);
  free(plan->scale);
  free(plan->limit);
  free(plan);
}
