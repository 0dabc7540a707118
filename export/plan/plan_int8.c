#include "plan/plan_int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/absorb.h"
#include "support/checked.h"
#include "support/require.h"

// Limits of FORMAT.md.
enum {
  kMaxShift = 8,
  kMaxGroupShift = 16,  // group form
  kMaxExponent = 15,
  kExactChannels = 256,  // butterflies over more channels halve
  kMaxAdd = 65534,       // that two int16 make
};

enum { kRoundingBytes = 3 };

// How a feature is made 8 bits, from the file. (A partial channel has but a shift.)
typedef struct Rounding {
  int shift, zero, exponent;
} Rounding;

static Rounding ReadRounding(const uint8_t* bytes) {
  return (Rounding){bytes[0], (int8_t)bytes[1], bytes[2]};
}

// What is added before the shift: half a unit of the result, and the zero point.
static int32_t RoundingAdd(Rounding rounding) {
  const int32_t half = rounding.shift > 0 ? 1 << (rounding.shift - 1) : 0;
  return half + rounding.zero * (1 << rounding.shift);
}

// Where features go: slots in order of descending exponent, those of each exponent from a multiple
// of `pack` on.
typedef struct Slots {
  Rounding* rounding;            // [count] of each feature
  size_t* slot;                  // [count]
  size_t end[kMaxExponent + 2];  // of an exponent: the slot after its last; 0 for kMaxExponent + 1
  size_t count;
} Slots;

static bool SlotsCreate(Slots* slots, size_t count) {
  slots->count = count;
  slots->rounding = DbfAllocate(count, sizeof(*slots->rounding));
  slots->slot = DbfAllocate(count, sizeof(*slots->slot));
  return slots->rounding != NULL && slots->slot != NULL;
}

static void SlotsFree(Slots* slots) {
  free(slots->rounding);
  free(slots->slot);
}

// Places all features whose roundings are set. Returns the number of slots, a multiple of `pack`.
static size_t PlaceFeatures(Slots* slots, int pack) {
  size_t next = 0;
  for (int x = kMaxExponent; x >= 0; --x) {
    for (size_t i = 0; i < slots->count; ++i) {
      if (slots->rounding[i].exponent == x) slots->slot[i] = next++;
    }
    next = (next + pack - 1) / pack * pack;
    slots->end[x] = next;
  }
  DBF_REQUIRE(next >= slots->count, "a feature has no slot");
  return next;
}

static uint32_t BothHalves(int32_t x) { return (uint16_t)x * 0x10001u; }

static DbfNarrow MakeNarrow(DbfLineOp line, int32_t add, int shift) {
  DBF_REQUIRE(shift >= 0 && shift <= kMaxShift, "shift out of range");
  const int32_t first = add / 2;
  return (DbfNarrow){line, {BothHalves(first), BothHalves(add - first)}, shift};
}

static DbfMasks* MakeMasks(int32_t taps) {
  DbfMasks* masks = DbfAllocate(DbfMul(taps, taps + 1), sizeof(*masks));
  for (int32_t i = 0; masks != NULL && i < taps; ++i) {
    DbfMasks* code = masks + (size_t)i * (taps + 1);
    for (int32_t j = 0; j < taps; ++j) {
      if (DbfSign(i, j) > 0) continue;
      code[j] = BothHalves(-1);
      code[taps] += BothHalves(1);
    }
  }
  return masks;
}

// Transforms a pixel whose channels are all `zero` as FORMAT.md says: p⁰_w for w < padded.
static void TransformZero(size_t channels, int32_t zero, int32_t* p, size_t padded) {
  for (size_t c = 0; c < padded; ++c) p[c] = c < channels ? zero : 0;
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

// The number of channels rounded up to a power of two.
static size_t PaddedChannels(const DbfRule* rule) {
  size_t padded = 1;
  while (padded < (size_t)rule->channels) padded *= 2;
  return padded;
}

// What is needed only while the plan is made.
typedef struct Builder {
  const DbfRule* rule;
  const DbfColumns* columns;
  const DbfLayer* layer;
  DbfPlanInt8* plan;
  Slots full;            // raw features of a pixel: one of each full channel code
  Slots partial;         // code features
  int8_t* coefficients;  // [num_codes] of one filter
  // Layers of levels:
  DbfAbsorber absorber;
  double* numbers;  // [num_codes] what the levels of one filter have become
} Builder;

// The one rounding that the group form has for all features.
static const char* ReadGroupRounding(Builder* b, Rounding rounding) {
  if (rounding.shift > kMaxGroupShift || rounding.exponent > kMaxExponent) {
    return "features is out of range";
  }
  for (size_t j = 0; j < b->full.count; ++j) b->full.rounding[j] = rounding;
  b->plan->group_add = RoundingAdd(rounding);
  b->plan->group_right = rounding.shift;
  return NULL;
}

// The roundings of channel codes, which ascend in the file. Moves *next behind them.
static const char* ReadChannelRoundings(Builder* b, const uint8_t** next) {
  const DbfRule* rule = b->rule;
  for (int32_t w = 0; w < rule->channels; ++w) {
    const int32_t projected = b->columns->channel[w];
    if (projected < 0) continue;
    const bool is_full = (size_t)projected < rule->full;
    const Rounding rounding = ReadRounding(*next);
    *next += kRoundingBytes;
    if (rounding.shift > kMaxShift || rounding.exponent > kMaxExponent ||
        (!is_full && (rounding.zero != 0 || rounding.exponent != 0))) {
      return "features is out of range";
    }
    if (is_full) {
      b->full.rounding[projected] = rounding;
    } else {
      b->plan->partial_ops[projected - rule->full].shift = rounding.shift;
    }
  }
  return NULL;
}

// The roundings of partial codes, which ascend in the file by grid index, as their columns do.
static const char* ReadCodeRoundings(Builder* b, const uint8_t* next) {
  const size_t columns = b->layer->num_codes;
  size_t* feature = DbfAllocate(columns, sizeof(*feature));  // [columns] 1 + code feature, or 0
  if (feature == NULL) return "out of memory";
  for (size_t f = 0; f < b->partial.count; ++f) feature[b->columns->partial[f]] = f + 1;
  const char* error = NULL;
  for (size_t column = 0; column < columns; ++column) {
    if (feature[column] == 0) continue;
    const Rounding rounding = ReadRounding(next);
    next += kRoundingBytes;
    if (rounding.shift > kMaxShift || rounding.exponent > kMaxExponent) {
      error = "features is out of range";
    }
    b->partial.rounding[feature[column] - 1] = rounding;
  }
  free(feature);
  return error;
}

static const char* ReadRoundings(Builder* b) {
  const DbfQuantized* quantized = b->layer->quantized;
  const DbfRule* rule = b->rule;
  const size_t channels = rule->group_form ? 1 : rule->full + rule->partial;
  if (quantized->features_bytes !=
      DbfMul(kRoundingBytes, DbfAdd(channels, rule->num_code_features))) {
    return "features has the wrong length";
  }
  const uint8_t* next = quantized->features;
  if (rule->group_form) return ReadGroupRounding(b, ReadRounding(next));
  const char* error = ReadChannelRoundings(b, &next);
  return error != NULL ? error : ReadCodeRoundings(b, next);
}

// The ops of the channel stage, unless the layer is in group form.
static const char* PlanChannelOps(Builder* b) {
  const DbfRule* rule = b->rule;
  DbfPlanInt8* plan = b->plan;
  const size_t padded = PaddedChannels(rule);
  int32_t* zeros = DbfAllocate(padded, sizeof(*zeros));
  plan->full_ops = DbfAllocate(plan->full_elements * rule->kernels->pack, sizeof(*plan->full_ops));
  if (zeros == NULL || plan->full_ops == NULL) {
    free(zeros);
    return "out of memory";
  }
  TransformZero(rule->channels, plan->input_zero, zeros, padded);
  const char* error = NULL;
  // Sources of gather_ops are groups, of which each has several strips.
  const int strips_shift = rule->group_shift - plan->transpose_shift;
  for (size_t j = 0; j < rule->full + rule->partial; ++j) {
    const DbfLineOp line = {rule->gather_ops[j].source << strips_shift, 0};
    DBF_REQUIRE((size_t)line.source < plan->strips, "no such strip");
    const bool is_full = j < rule->full;
    DbfNarrow* op = is_full ? &plan->full_ops[b->full.slot[j]] : &plan->partial_ops[j - rule->full];
    const Rounding rounding = is_full ? b->full.rounding[j] : (Rounding){op->shift, 0, 0};
    const int32_t add = RoundingAdd(rounding) - zeros[(size_t)line.source << plan->transpose_shift];
    *op = MakeNarrow(line, add, rounding.shift);
    if (add > kMaxAdd || add < -kMaxAdd) error = "features is out of range";
  }
  free(zeros);
  return error;
}

// Places all features in elements and makes the ops of the channel and feature stages.
static const char* PlanOps(Builder* b) {
  const DbfRule* rule = b->rule;
  DbfPlanInt8* plan = b->plan;
  const int pack = rule->kernels->pack;
  plan->full_elements = PlaceFeatures(&b->full, pack) / pack;
  plan->feature_elements = PlaceFeatures(&b->partial, pack) / pack;
  plan->padding = DbfAllocate(plan->full_elements, sizeof(*plan->padding));
  plan->feature_ops = DbfAllocate(plan->feature_elements * pack, sizeof(*plan->feature_ops));
  if (plan->padding == NULL || plan->feature_ops == NULL) return "out of memory";
  for (size_t j = 0; j < b->full.count; ++j) {
    const uint32_t bits = 32 / pack, lane = (uint32_t)(b->full.slot[j] % pack);
    const int zero = b->full.rounding[j].zero + (rule->kernels->biased ? 128 : 0);
    plan->padding[b->full.slot[j] / pack] |= ((uint32_t)zero & ((1ull << bits) - 1))
                                             << (bits * lane);
  }
  for (size_t f = 0; f < b->partial.count; ++f) {
    const Rounding rounding = b->partial.rounding[f];
    // It always fits int16, so that one part is enough.
    plan->feature_ops[b->partial.slot[f]] =
        (DbfNarrow){rule->feature_ops[f], {BothHalves(RoundingAdd(rounding)), 0}, rounding.shift};
  }
  return rule->group_form ? NULL : PlanChannelOps(b);
}

// The order of the gemm: by descending exponent; of one exponent the raw features, then the code
// features. Returns false if there is no memory.
static bool PlanSlices(Builder* b) {
  const DbfRule* rule = b->rule;
  DbfPlanInt8* plan = b->plan;
  const int pack = rule->kernels->pack;
  const size_t kh = rule->kernel_h, kw = rule->kernel_w;
  plan->elements = kh * kw * plan->full_elements + plan->feature_elements;
  size_t exponents = 0;  // that raw features have
  for (int x = 0; x <= kMaxExponent; ++x) exponents += b->full.end[x] > b->full.end[x + 1];
  plan->slices =
      DbfAllocate(DbfAdd(DbfMul(exponents, kh * kw), kMaxExponent + 1), sizeof(*plan->slices));
  if (plan->slices == NULL) return false;
  int exponent = -1;  // of the last slice
  for (int x = kMaxExponent; x >= 0; --x) {
    const size_t full = b->full.end[x + 1] / pack;
    const size_t full_depth = b->full.end[x] / pack - full;
    const size_t partial = b->partial.end[x + 1] / pack;
    const size_t partial_depth = b->partial.end[x] / pack - partial;
    if (full_depth + partial_depth == 0) continue;
    const size_t start = plan->num_slices;
    // The lines of one exponent are side by side for all horizontal taps if it is the only one.
    const size_t parts = full_depth == plan->full_elements ? 1 : kw;
    for (size_t tap = 0; tap < kh && full_depth > 0; ++tap) {
      for (size_t t = 0; t < parts; ++t) {
        plan->slices[plan->num_slices++] = (DbfPlanSlice){
            false, (int32_t)tap, t * plan->full_elements + full, full_depth * (kw / parts), 0};
      }
    }
    if (partial_depth > 0) {
      plan->slices[plan->num_slices++] = (DbfPlanSlice){true, 0, partial, partial_depth, 0};
    }
    if (exponent >= 0) {
      plan->slices[start].shift = exponent - x;
      plan->shifted = true;
    }
    exponent = x;
  }
  plan->last_shift = exponent;
  plan->shifted |= exponent > 0;
  return true;
}

// Where the gemm reads each element, counted in elements from its first.
typedef struct Places {
  size_t* raw;      // [kernel_h, kernel_w · full_elements] of lines
  size_t* partial;  // [feature_elements] of code features
} Places;

static bool FindPlaces(const Builder* b, Places* places) {
  const DbfPlanInt8* plan = b->plan;
  const size_t lines = b->rule->kernel_w * plan->full_elements;
  places->raw = DbfAllocate(DbfMul(b->rule->kernel_h, lines), sizeof(*places->raw));
  places->partial = DbfAllocate(plan->feature_elements, sizeof(*places->partial));
  if (places->raw == NULL || places->partial == NULL) return false;
  size_t place = 0;
  for (size_t i = 0; i < plan->num_slices; ++i) {
    const DbfPlanSlice* slice = &plan->slices[i];
    for (size_t d = 0; d < slice->depth; ++d, ++place) {
      if (slice->partial) {
        places->partial[slice->first + d] = place;
      } else {
        places->raw[slice->tap * lines + slice->first + d] = place;
      }
    }
  }
  DBF_REQUIRE(place == plan->elements, "the slices are not all elements");
  return true;
}

// Where a filter's coefficients are packed: which of a panel's numbers are its own.
typedef struct FilterPlace {
  size_t panel;   // first element of the panel
  size_t width;   // columns of the panel
  size_t vector;  // first column of the filter's vector
  size_t column;  // the filter's in its vector
} FilterPlace;

static FilterPlace PlaceFilter(const Builder* b, size_t filter) {
  const size_t vector = b->rule->kernels->vector;
  const size_t k0 = filter / (2 * vector) * (2 * vector);
  const size_t rest = b->rule->padded_filters - k0;
  const size_t in_panel = filter - k0;
  return (FilterPlace){
      .panel = b->plan->elements * k0,
      .width = rest < 2 * vector ? rest : 2 * vector,
      .vector = in_panel / vector * vector,
      .column = in_panel % vector,
  };
}

// Stores coefficient `value` of the feature in lane `lane` of the element at `place`.
static void PackOne(const Builder* b, const FilterPlace* filter, size_t place, size_t lane,
                    int value) {
  const DbfKernels* kernels = b->rule->kernels;
  const size_t vector = kernels->vector, pack = kernels->pack;
  DBF_REQUIRE(place < b->plan->elements && lane < pack, "packed out of range");
  // In elements of 4 bytes: the vector's; then the number's place among its `pack` * vector.
  const size_t at = filter->panel + place * filter->width + filter->vector;
  const size_t number =
      kernels->planar ? lane * vector + filter->column : filter->column * pack + lane;
  if (pack == 4) {
    ((int8_t*)b->plan->packed)[4 * at + number] = (int8_t)value;
  } else {
    ((int16_t*)b->plan->packed)[2 * at + number] = (int16_t)value;
  }
}

// The scale of a feature's numbers d of FORMAT.md. `channel_shift` is that of a partial channel
// code.
static double UnitOf(Rounding rounding, int channel_shift) {
  return ldexp(1, rounding.shift - rounding.exponent + channel_shift);
}

// Sets the coefficients of one filter to its numbers d of FORMAT.md: what its levels have become,
// in units of their features. Returns the largest of their sizes.
static double ScaleLevels(Builder* b, size_t filter) {
  const DbfRule* rule = b->rule;
  const size_t spatial = (size_t)rule->kernel_h * rule->kernel_w;
  double largest = 0;
  DbfAbsorb(&b->absorber, b->columns, b->layer, filter);
  for (size_t j = 0; j < rule->full; ++j) {
    const double unit = UnitOf(b->full.rounding[j], 0);
    for (size_t s = 0; s < spatial; ++s) {
      const double number = b->absorber.taps[s * b->absorber.pitch + j] * unit;
      b->numbers[b->columns->full[s * rule->full + j]] = number;
      if (fabs(number) > largest) largest = fabs(number);
    }
  }
  for (size_t f = 0; f < b->partial.count; ++f) {
    const size_t channel = rule->line_ops[rule->feature_ops[f].source].source;
    const double unit = UnitOf(b->partial.rounding[f], b->plan->partial_ops[channel].shift);
    const size_t column = b->columns->partial[f];
    const double number = DbfLayerInteger(b->layer, filter, column) * unit;
    b->numbers[column] = number;
    if (fabs(number) > largest) largest = fabs(number);
  }
  return largest;
}

// Reads the coefficients of one filter, or computes them from its levels.
static void SetCoefficients(Builder* b, size_t filter) {
  const DbfQuantized* quantized = b->layer->quantized;
  const size_t columns = b->layer->num_codes;
  if (!quantized->levels) {
    for (size_t i = 0; i < columns; ++i) {
      b->coefficients[i] = (int8_t)DbfLayerInteger(b->layer, filter, i);
    }
    return;
  }
  const double peak = quantized->peaks != NULL ? quantized->peaks[filter] : 127;
  const double largest = ScaleLevels(b, filter);
  for (size_t i = 0; i < columns; ++i) {
    // The product is exact. Excess precision of the quotient, as of the x87, could matter only if
    // `largest` took more than 44 bits.
    b->coefficients[i] = (int8_t)(largest > 0 ? lrint(peak * b->numbers[i] / largest) : 0);
  }
}

// What packing adds up for one filter.
typedef struct Totals {
  int64_t offset;  // what the features' zero points contribute to an accumulator
  int64_t bound;   // largest size of an accumulator
} Totals;

// Packs the coefficient in a column, which is that of feature `i` of `slots`, whose element the
// gemm reads at `place`.
static void PackFeature(const Builder* b, const FilterPlace* filter, const Slots* slots, size_t i,
                        size_t place, size_t column, Totals* totals) {
  const DbfKernels* kernels = b->rule->kernels;
  const Rounding rounding = slots->rounding[i];
  const int value = b->coefficients[column];
  PackOne(b, filter, place, slots->slot[i] & (size_t)(kernels->pack - 1), value);
  const int stored_zero = rounding.zero + (kernels->biased ? 128 : 0);
  totals->offset += (int64_t)value * stored_zero * (1 << rounding.exponent);
  totals->bound += (int64_t)abs(value) * 255 * (1 << rounding.exponent);
}

// Packs all coefficients of one filter. Returns what they add up to, with the bias.
static Totals PackFilter(Builder* b, const Places* places, size_t filter, int32_t bias) {
  const DbfRule* rule = b->rule;
  const int log2_pack = __builtin_ctz((unsigned)rule->kernels->pack);
  const size_t spatial = (size_t)rule->kernel_h * rule->kernel_w;
  const FilterPlace own = PlaceFilter(b, filter);
  Totals totals = {0, llabs((int64_t)bias)};
  SetCoefficients(b, filter);
  for (size_t s = 0; s < spatial; ++s) {
    const size_t* raw = places->raw + s * b->plan->full_elements;
    for (size_t j = 0; j < b->full.count; ++j) {
      PackFeature(b, &own, &b->full, j, raw[b->full.slot[j] >> log2_pack],
                  b->columns->full[s * rule->full + j], &totals);
    }
  }
  for (size_t f = 0; f < b->partial.count; ++f) {
    PackFeature(b, &own, &b->partial, f, places->partial[b->partial.slot[f] >> log2_pack],
                b->columns->partial[f], &totals);
  }
  return totals;
}

// Sets the multiplier of a filter, as TFLite's QuantizeMultiplier does. Returns false unless it is
// below 1.
static bool SetMultiplier(DbfPlanInt8* plan, const DbfLayer* layer, size_t filter) {
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
  plan->multiplier[filter] = (int32_t)fixed;
  plan->right_shift[filter] = -exponent;
  plan->scale[filter] = (float)ldexp((double)fixed, exponent - 31);
  // Rounding twice moves a result by as much as half a unit of the first rounding; the product of
  // floats is off by less than 2^-14 where it matters.
  const float limit = 0.5f - ldexpf(1, exponent - 1) - ldexpf(1, -14);
  plan->limit[filter] = limit > 0 ? limit : 0;
  return true;
}

static bool AllocatePacked(Builder* b) {
  DbfPlanInt8* plan = b->plan;
  const size_t padded = b->rule->padded_filters;
  plan->packed = DbfAllocateAligned(DbfMul(plan->elements, padded), 4, &plan->packed_allocation);
  plan->bias = DbfAllocate(padded, sizeof(*plan->bias));
  plan->multiplier = DbfAllocate(padded, sizeof(*plan->multiplier));
  plan->right_shift = DbfAllocate(padded, sizeof(*plan->right_shift));
  plan->scale = DbfAllocate(padded, sizeof(*plan->scale));
  plan->limit = DbfAllocate(padded, sizeof(*plan->limit));
  b->coefficients = DbfAllocate(b->layer->num_codes, sizeof(*b->coefficients));
  if (b->layer->quantized->levels) {
    b->numbers = DbfAllocate(b->layer->num_codes, sizeof(*b->numbers));
    if (!DbfAbsorberCreate(&b->absorber, b->rule) || b->numbers == NULL) return false;
  }
  return b->coefficients != NULL && plan->packed != NULL && plan->bias != NULL &&
         plan->multiplier != NULL && plan->right_shift != NULL && plan->scale != NULL &&
         plan->limit != NULL;
}

static const char* Pack(Builder* b) {
  DbfPlanInt8* plan = b->plan;
  const size_t filters = b->rule->filters;
  Places places = {0};
  const char* error = AllocatePacked(b) && FindPlaces(b, &places) ? NULL : "out of memory";
  for (size_t k = filters; error == NULL && k < b->rule->padded_filters; ++k) {
    plan->limit[k] = 1;  // so that these filters are never too close to a tie
  }
  for (size_t k = 0; error == NULL && k < filters; ++k) {
    const int32_t bias = b->layer->quantized->bias != NULL ? b->layer->quantized->bias[k] : 0;
    const Totals totals = PackFilter(b, &places, k, bias);
    if (totals.bound > INT32_MAX) error = "the accumulators of a filter may overflow";
    plan->bias[k] = (int32_t)(uint32_t)(bias - totals.offset);  // modulo 2^32, as accumulators are
    if (!SetMultiplier(plan, b->layer, k)) error = "the scales of a filter are out of range";
  }
  free(places.raw);
  free(places.partial);
  return error;
}

// Sets the zero points, and the activation's range in the output's quantisation as TFLite's
// CalculateActivationRange does.
static const char* SetOutput(DbfPlanInt8* plan, const DbfLayer* layer) {
  const DbfQuantized* quantized = layer->quantized;
  if (!(quantized->input_scale > 0 && isfinite(quantized->input_scale)) ||
      !(quantized->output_scale > 0 && isfinite(quantized->output_scale))) {
    return "a scale is not positive";
  }
  if (quantized->input_zero < -128 || quantized->input_zero > 127 ||
      quantized->output_zero < -128 || quantized->output_zero > 127) {
    return "a zero point is out of range";
  }
  plan->input_zero = quantized->input_zero;
  plan->zero = quantized->output_zero;
  plan->low = -128;
  plan->high = 127;
  const float one = roundf(1 / quantized->output_scale), six = roundf(6 / quantized->output_scale);
  if (layer->activation == kDbfRelu || layer->activation == kDbfRelu6) plan->low = plan->zero;
  if (layer->activation == kDbfRelu6 && six < 127 - plan->zero) {
    plan->high = plan->zero + (int32_t)six;
  }
  if (layer->activation == kDbfReluN1To1) {
    if (one < plan->zero + 128) plan->low = plan->zero - (int32_t)one;
    if (one < 127 - plan->zero) plan->high = plan->zero + (int32_t)one;
  }
  return NULL;
}

static void SetTransform(const DbfRule* rule, DbfPlanInt8* plan) {
  const size_t chunk = 4 * (size_t)rule->kernels->vector, channels = rule->channels;
  plan->transpose_shift = rule->group_shift < 2 ? rule->group_shift : 2;
  const size_t last = channels % chunk;
  const size_t last_chunk = last == 0 ? 0 : last <= 16 ? 16 : chunk;
  plan->written = (channels - last + last_chunk) >> plan->transpose_shift;
  plan->hadamard_strips = PaddedChannels(rule) >> plan->transpose_shift;
  plan->strips = plan->written > plan->hadamard_strips ? plan->written : plan->hadamard_strips;
  plan->halving = kExactChannels >> plan->transpose_shift;
  plan->bound = 32767 / (rule->kernel_h * rule->kernel_w);
}

static const char* Build(Builder* b) {
  DbfPlanInt8* plan = b->plan;
  const DbfRule* rule = b->rule;
  plan->masks_w = MakeMasks(rule->kernel_w);
  plan->masks_h = MakeMasks(rule->kernel_h);
  plan->partial_ops = DbfAllocate(rule->partial, sizeof(*plan->partial_ops));
  if (!SlotsCreate(&b->full, rule->full) || !SlotsCreate(&b->partial, rule->num_code_features) ||
      plan->masks_w == NULL || plan->masks_h == NULL || plan->partial_ops == NULL) {
    return "out of memory";
  }
  const char* error = SetOutput(plan, b->layer);
  if (error == NULL && b->layer->alpha_int8 == NULL && b->layer->alpha_int4 == NULL) {
    error = "int8 layers need integer alpha";
  }
  SetTransform(rule, plan);
  if (error == NULL) error = ReadRoundings(b);
  if (error == NULL) error = PlanOps(b);
  if (error == NULL && !PlanSlices(b)) error = "out of memory";
  return error != NULL ? error : Pack(b);
}

const char* DbfPlanInt8Make(const DbfRule* rule, const DbfColumns* columns,
                            const DbfPooledLayer* pooled, DbfPlanInt8* plan) {
  DBF_REQUIRE(rule->form == kDbfFormInt8, "a float layer has no int8 plan");
  *plan = (DbfPlanInt8){.image_zero = pooled->image_zero, .sums_shift = pooled->sums_shift};
  Builder b = {.rule = rule, .columns = columns, .layer = &pooled->layer, .plan = plan};
  const char* error = Build(&b);
  SlotsFree(&b.full);
  SlotsFree(&b.partial);
  DbfAbsorberFree(&b.absorber);
  free(b.coefficients);
  free(b.numbers);
  return error;
}

void DbfPlanInt8Free(DbfPlanInt8* plan) {
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
}
