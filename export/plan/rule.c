#include "plan/rule.h"

#include <stdlib.h>

#include "support/checked.h"
#include "support/require.h"

// Lines are ordered by which of the codes 0 ... 3 are kept of them, a bit each: what these have in
// common is then chosen once and not line by line (kernels/combine.inl), and branches are foreseen.
enum { kNumKeptMasks = 16 };

// The bit of one code in such a mask; codes from 4 on have none.
static uint8_t KeptBit(size_t code) { return code < 4 ? (uint8_t)(1 << code) : 0; }

// What is counted of each channel code.
typedef struct Channels {
  uint32_t* count;     // [channels] spatial codes kept with it
  uint8_t* kept_mask;  // [channels] which horizontal codes are among them
} Channels;

static bool CountChannels(const DbfLayer* layer, Channels* channels) {
  const size_t all = layer->channels, kw = layer->kernel_w, kh = layer->kernel_h;
  channels->count = DbfAllocate(all, sizeof(*channels->count));
  channels->kept_mask = DbfAllocate(all, sizeof(*channels->kept_mask));
  if (channels->count == NULL || channels->kept_mask == NULL) return false;
  for (size_t g = 0; g < kh * kw * all; ++g) {
    if (!DbfLayerKeeps(layer, g)) continue;
    ++channels->count[g % all];
    channels->kept_mask[g % all] |= KeptBit(g / all % kw);
  }
  return true;
}

// Whether Winograd's form pays for a float layer without pools.
static bool WinogradPays(const DbfLayer* layer, const Channels* channels) {
  const uint64_t side = layer->kernel_h;
  if ((side != 3 && side != 4) || layer->kernel_w != layer->kernel_h || layer->stride_h != 1 ||
      layer->stride_w != 1 || layer->dilation_h != 1 || layer->dilation_w != 1) {
    return false;
  }
  uint64_t projected = 0;
  for (int32_t w = 0; w < layer->channels; ++w) projected += channels->count[w] > 0;
  const uint64_t numbers = (side + 1) * (side + 1) * projected;
  return projected >= kDbfWinogradChannels && numbers <= 4 * layer->num_codes &&
         numbers <= side * side * layer->channels;
}

// The channel stage: groups, full and partial channel codes, and their order.
static bool PlanChannels(DbfRule* rule, const Channels* channels, int32_t* channel) {
  const uint32_t* count = channels->count;
  const uint32_t spatial =
      rule->form == kDbfFormWinograd ? 1 : (uint32_t)rule->kernel_h * rule->kernel_w;
  uint32_t any = 0;
  for (int32_t w = 0; w < rule->channels; ++w) {
    if (count[w] == 0) continue;
    any |= w;
    if (count[w] >= spatial) {
      ++rule->full;
    } else {
      ++rule->partial;
    }
  }
  int log2_padded = 0;
  while (((size_t)1 << log2_padded) < (size_t)rule->channels) ++log2_padded;
  rule->group_shift = any == 0 ? log2_padded : __builtin_ctz(any);
  rule->groups = ((size_t)(rule->channels - 1) >> rule->group_shift) + 1;
  rule->group_form = rule->partial == 0 && rule->full >= rule->groups;

  rule->gather_ops = DbfAllocate(rule->full + rule->partial, sizeof(*rule->gather_ops));
  if (rule->gather_ops == NULL) return false;
  int32_t next = 0;
  for (int32_t w = 0; w < rule->channels; ++w) channel[w] = count[w] >= spatial ? next++ : -1;
  for (int mask = 0; mask < kNumKeptMasks; ++mask) {
    for (int32_t w = 0; w < rule->channels; ++w) {
      const bool partial = count[w] > 0 && count[w] < spatial;
      if (partial && channels->kept_mask[w] == mask) channel[w] = next++;
    }
  }
  DBF_REQUIRE((size_t)next == rule->full + rule->partial, "a channel code has no place");
  for (int32_t w = 0; w < rule->channels; ++w) {
    if (count[w] == 0) continue;
    DBF_REQUIRE((size_t)(w >> rule->group_shift) < rule->groups, "no such group");
    rule->gather_ops[channel[w]].source = w >> rule->group_shift;
  }
  return true;
}

// What is counted of each (partial channel, horizontal code), some of which no kept code needs.
typedef struct Lines {
  size_t all;          // kw * partial
  size_t* features;    // [all] code features of the line
  uint8_t* kept_mask;  // [all] which vertical codes are among them
  size_t* first;       // [all] its first code feature
  int32_t* number;     // [all] its number among the lines that are needed
} Lines;

static size_t LineOf(const DbfRule* rule, size_t projected, size_t spatial) {
  return (projected - rule->full) * rule->kernel_w + spatial % rule->kernel_w;
}

static bool CountLines(const DbfRule* rule, const DbfLayer* layer, const int32_t* channel,
                       Lines* lines) {
  const size_t kh = rule->kernel_h, kw = rule->kernel_w, channels = rule->channels;
  lines->all = kw * rule->partial;
  lines->features = DbfAllocate(lines->all, sizeof(*lines->features));
  lines->kept_mask = DbfAllocate(lines->all, sizeof(*lines->kept_mask));
  lines->first = DbfAllocate(lines->all, sizeof(*lines->first));
  lines->number = DbfAllocate(lines->all, sizeof(*lines->number));
  if (!lines->features || !lines->kept_mask || !lines->first || !lines->number) return false;
  for (size_t g = 0; g < kh * kw * channels; ++g) {
    const size_t projected = channel[g % channels];
    if (!DbfLayerKeeps(layer, g) || projected < rule->full) continue;
    const size_t line = LineOf(rule, projected, g / channels);
    ++lines->features[line];
    lines->kept_mask[line] |= KeptBit(g / channels / kw);
  }
  return true;
}

// Numbers the lines that are needed, and places their code features by mask.
static void PlaceLines(DbfRule* rule, Lines* lines) {
  const size_t kw = rule->kernel_w;
  size_t features = 0;
  for (int mask = 0; mask < kNumKeptMasks; ++mask) {
    for (size_t i = 0; i < lines->all; ++i) {
      if (lines->features[i] == 0 || lines->kept_mask[i] != mask) continue;
      lines->first[i] = features;
      features += lines->features[i];
    }
  }
  DBF_REQUIRE(features == rule->num_code_features, "a code feature has no place");
  for (size_t i = 0; i < lines->all; ++i) {
    if (lines->features[i] == 0) continue;
    rule->line_ops[rule->code_lines] = (DbfLineOp){(int32_t)(i / kw), (int32_t)(i % kw)};
    lines->number[i] = (int32_t)rule->code_lines++;
  }
}

// Sets the ops of all code features, and the columns of all codes.
static void PlaceCodes(DbfRule* rule, const DbfLayer* layer, Lines* lines, DbfColumns* columns) {
  const size_t kh = rule->kernel_h, kw = rule->kernel_w, channels = rule->channels;
  for (size_t i = 0; i < kh * kw * rule->full; ++i) columns->full[i] = SIZE_MAX;
  size_t column = 0;
  for (size_t g = 0; g < kh * kw * channels; ++g) {
    if (!DbfLayerKeeps(layer, g)) continue;
    const size_t spatial = g / channels, projected = columns->channel[g % channels];
    if (projected < rule->full) {
      columns->full[spatial * rule->full + projected] = column;
    } else {
      const size_t line = LineOf(rule, projected, spatial);
      const size_t feature = lines->first[line]++;
      rule->feature_ops[feature] = (DbfLineOp){lines->number[line], (int32_t)(spatial / kw)};
      columns->partial[feature] = column;
    }
    ++column;
  }
}

// The line and feature stages: the ops of the partial codes, ordered by line, and the columns.
static bool PlanLines(DbfRule* rule, const DbfLayer* layer, DbfColumns* columns) {
  const size_t taps = (size_t)rule->kernel_h * rule->kernel_w;
  rule->num_code_features =
      rule->form == kDbfFormWinograd ? 0 : layer->num_codes - taps * rule->full;
  rule->line_ops = DbfAllocate(rule->kernel_w * rule->partial, sizeof(*rule->line_ops));
  rule->feature_ops = DbfAllocate(rule->num_code_features, sizeof(*rule->feature_ops));
  columns->full = DbfAllocate(taps * rule->full, sizeof(*columns->full));
  columns->partial = DbfAllocate(rule->num_code_features, sizeof(*columns->partial));
  Lines lines = {0};
  const bool ok = rule->line_ops && rule->feature_ops && columns->full && columns->partial &&
                  CountLines(rule, layer, columns->channel, &lines);
  if (ok) {
    PlaceLines(rule, &lines);
    PlaceCodes(rule, layer, &lines, columns);
  }
  free(lines.features);
  free(lines.kept_mask);
  free(lines.first);
  free(lines.number);
  return ok;
}

bool DbfRuleApply(const DbfPooledLayer* pooled, const DbfKernels* kernels, DbfRule* rule,
                  DbfColumns* columns) {
  const DbfLayer* layer = &pooled->layer;
  const size_t filters = layer->filters, vector = kernels->vector;
  *rule = (DbfRule){
      .kernels = kernels,
      .channels = layer->channels,
      .filters = layer->filters,
      .padded_filters = (filters + vector - 1) / vector * vector,
      .pool_h = pooled->pool_h,
      .pool_w = pooled->pool_w,
      .kernel_h = layer->kernel_h,
      .kernel_w = layer->kernel_w,
      .depth = layer->num_codes,
  };
  *columns = (DbfColumns){.channel = DbfAllocate(layer->channels, sizeof(*columns->channel))};
  Channels channels = {0};
  bool ok = CountChannels(layer, &channels) && columns->channel != NULL;
  if (ok) {
    if (layer->quantized != NULL) {
      rule->form = kDbfFormInt8;
    } else if (pooled->codes == NULL && WinogradPays(layer, &channels)) {
      rule->form = kDbfFormWinograd;
      rule->patch = layer->kernel_h + 1;
    }
    ok = PlanChannels(rule, &channels, columns->channel) && PlanLines(rule, layer, columns);
  }
  if (rule->form == kDbfFormWinograd) rule->depth = (size_t)rule->patch * rule->patch * rule->full;
  free(channels.count);
  free(channels.kept_mask);
  return ok;
}

void DbfRuleFree(DbfRule* rule) {
  free(rule->gather_ops);
  free(rule->line_ops);
  free(rule->feature_ops);
}

void DbfColumnsFree(DbfColumns* columns) {
  free(columns->full);
  free(columns->partial);
  free(columns->channel);
}
