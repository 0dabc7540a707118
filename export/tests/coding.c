#include "tests/coding.h"

#include <math.h>
#include <string.h>

#include "tests/quantized.h"

double HalfValue(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -size : size;
}

// Bytes that grow at the end.
typedef struct Bytes {
  uint8_t* data;
  size_t size, capacity;
} Bytes;

static void Append(Bytes* bytes, const void* data, size_t count) {
  if (bytes->size + count > bytes->capacity) {
    bytes->capacity = 2 * (bytes->size + count);
    bytes->data = realloc(bytes->data, bytes->capacity);
  }
  if (count > 0) memcpy(bytes->data + bytes->size, data, count);
  bytes->size += count;
}

static void AppendByte(Bytes* bytes, int byte) { Append(bytes, &(uint8_t){(uint8_t)byte}, 1); }

// The kind of codes, and for kind 1 the two sets of bits, zeroed before.
static int KindOf(const DbfLayer* layer, uint8_t* spatial_bits, uint8_t* channel_bits) {
  const size_t channels = layer->channels;
  const size_t spatial = (size_t)layer->kernel_h * layer->kernel_w;
  size_t spatial_count = 0, channel_count = 0;
  for (size_t g = 0; g < spatial * channels; ++g) {
    if (!Kept(layer, (int)g)) continue;
    const size_t s = g / channels, w = g % channels;
    spatial_count += !(spatial_bits[s / 8] >> s % 8 & 1);
    channel_count += !(channel_bits[w / 8] >> w % 8 & 1);
    spatial_bits[s / 8] |= 1 << s % 8;
    channel_bits[w / 8] |= 1 << w % 8;
  }
  if (layer->num_codes == spatial * channels) return 0;
  return layer->num_codes == spatial_count * channel_count ? 1 : 2;
}

// Appends the codes. Returns their kind.
static int AppendCodes(const DbfLayer* layer, int kind, Bytes* bytes) {
  const size_t spatial = (size_t)layer->kernel_h * layer->kernel_w;
  const size_t spatial_bytes = (spatial + 7) / 8, channel_bytes = (layer->channels + 7) / 8;
  uint8_t *spatial_bits = calloc(spatial_bytes, 1), *channel_bits = calloc(channel_bytes, 1);
  const int least = KindOf(layer, spatial_bits, channel_bits);
  if (kind < 0) kind = RandomIn(0, 3) ? least : RandomIn(least, 2);
  CHECK(kind >= least, "codes of kind %d, not %d", least, kind);
  if (kind == 1) {
    Append(bytes, spatial_bits, spatial_bytes);
    Append(bytes, channel_bits, channel_bytes);
  } else if (kind == 2) {
    Append(bytes, layer->codes, layer->codes_bytes);
  }
  free(spatial_bits);
  free(channel_bits);
  return kind;
}

static int FrequencyOf(int byte) { return (16 + (byte & 15)) * (1 << (byte >> 4)) / 16; }

// The byte of the largest frequency that is at most `wanted`.
static int ByteOf(int wanted) {
  int byte = 0;
  while (byte < 191 && FrequencyOf(byte + 1) <= wanted) ++byte;
  return byte;
}

// Ranges of symbols in 4096: of the levels and, at index 256, of the escape.
typedef struct Table {
  int first[257], frequency[257];
} Table;

enum { kEscapeSymbol = 256 };

static size_t SymbolOf(int level) { return (size_t)(level + 128); }

// Makes a table for so many levels of each symbol and appends it.
static Table MakeTable(const long* counts, int magnitude, Bytes* bytes) {
  Table table = {{0}, {0}};
  long all = 1, above = 0;
  for (int level = -128; level <= 127; ++level) {
    all += counts[SymbolOf(level)];
    if (abs(level) > magnitude) above += counts[SymbolOf(level)];
  }
  const bool escape = above > 0 || RandomIn(0, 1);
  const int room = 4096 - 257;  // every symbol has at least 1, level 0 too
  AppendByte(bytes, magnitude | (escape ? 128 : 0));
  int sum = 0;
  for (int m = 1; m <= magnitude; ++m) {
    const long both = counts[SymbolOf(m)] + counts[SymbolOf(-m)];
    const int byte = ByteOf((int)(room * both / (2 * all)));
    table.frequency[SymbolOf(m)] = table.frequency[SymbolOf(-m)] = FrequencyOf(byte);
    sum += 2 * FrequencyOf(byte);
    AppendByte(bytes, byte);
  }
  if (escape) {
    const int byte = ByteOf((int)(room * above / all));
    table.frequency[kEscapeSymbol] = FrequencyOf(byte);
    sum += FrequencyOf(byte);
    AppendByte(bytes, byte);
  }
  CHECK(sum <= 4096, "the frequencies are %d", sum);
  table.frequency[SymbolOf(0)] = 4096 - sum;
  int next = 4096 - sum;
  for (int m = 1; m <= magnitude; ++m) {
    table.first[SymbolOf(m)] = next;
    table.first[SymbolOf(-m)] = next + table.frequency[SymbolOf(m)];
    next += 2 * table.frequency[SymbolOf(m)];
  }
  table.first[kEscapeSymbol] = next;
  return table;
}

// A symbol's range, as it is coded.
typedef struct Range {
  int first, frequency;
} Range;

// Appends a stream of symbols: coded from the last to the first, as decoding undoes it.
static void AppendStream(const Range* ranges, size_t count, Bytes* bytes) {
  uint64_t state = 1 << 16;
  Bytes words = {0};  // from the last to the first
  while (count-- > 0) {
    const uint64_t frequency = (uint64_t)ranges[count].frequency;
    CHECK(frequency > 0, "a symbol without a range");
    if (state >= frequency << 20) {
      AppendByte(&words, (int)(state >> 8 & 255));
      AppendByte(&words, (int)(state & 255));
      state >>= 16;
    }
    state = (state / frequency << 12) + state % frequency + (uint64_t)ranges[count].first;
  }
  for (int i = 0; i < 4; ++i) AppendByte(bytes, (int)(state >> 8 * i & 255));
  while (words.size > 0) AppendByte(bytes, words.data[--words.size]);
  free(words.data);
}

// A layer's levels in the order of the stream.
typedef struct Order {
  size_t count;
  int* level;    // [count]
  int* spatial;  // [count] number of the spatial code, of those that occur
  int occurring;
} Order;

static Order OrderOf(const DbfLayer* layer) {
  const int channels = layer->channels, spatial = layer->kernel_h * layer->kernel_w;
  const size_t columns = layer->num_codes, all = layer->filters * columns;
  Order order = {0, malloc(all * sizeof(int)), malloc(all * sizeof(int)), 0};
  size_t column = 0;
  for (int s = 0; s < spatial; ++s) {
    size_t kept = 0;
    for (int w = 0; w < channels; ++w) kept += Kept(layer, s * channels + w);
    if (kept == 0) continue;
    for (int k = 0; k < layer->filters; ++k) {
      for (size_t j = 0; j < kept; ++j) {
        order.level[order.count] = layer->alpha_int8[k * columns + column + j];
        order.spatial[order.count++] = order.occurring;
      }
    }
    ++order.occurring;
    column += kept;
  }
  return order;
}

static void AppendLevels(const DbfLayer* layer, const Coding* coding, Bytes* bytes) {
  const Order order = OrderOf(layer);
  uint8_t* table_of = calloc(order.occurring + 1, 1);
  AppendByte(bytes, coding->tables);
  for (int i = 0; i < order.occurring; ++i) {
    table_of[i] = (uint8_t)RandomIn(0, coding->tables - 1);
  }
  for (int i = 0; coding->tables > 1 && i < order.occurring; i += 2) {
    AppendByte(bytes, table_of[i] | table_of[i + 1] << 4);
  }
  Table tables[16];
  for (int t = 0; t < coding->tables; ++t) {
    long counts[256] = {0};
    for (size_t i = 0; i < order.count; ++i) {
      counts[SymbolOf(order.level[i])] += table_of[order.spatial[i]] == t;
    }
    tables[t] = MakeTable(counts, coding->magnitude, bytes);
  }
  Range* ranges = malloc((2 * order.count + 1) * sizeof(*ranges));
  size_t count = 0;
  for (size_t i = 0; i < order.count; ++i) {
    const Table* table = &tables[table_of[order.spatial[i]]];
    const int level = order.level[i];
    // Levels with a range of their own may be escaped all the same.
    const bool escapes = table->frequency[kEscapeSymbol] > 0 && RandomIn(0, 99) == 0;
    const bool has_range = table->frequency[SymbolOf(level)] > 0 && !escapes;
    const size_t symbol = has_range ? SymbolOf(level) : kEscapeSymbol;
    ranges[count++] = (Range){table->first[symbol], table->frequency[symbol]};
    if (!has_range) ranges[count++] = (Range){16 * (uint8_t)level, 16};
  }
  AppendStream(ranges, count, bytes);
  free(ranges);
  free(table_of);
  free(order.level);
  free(order.spatial);
}

uint8_t* EncodeLayer(const DbfLayer* layer, const Coding* coding, size_t* size) {
  const DbfQuantized* quantized = layer->quantized;
  const bool one_step = layer->num_scales == 1 && layer->filters > 1;
  const uint8_t* peaks = quantized != NULL ? quantized->peaks : NULL;
  const uint8_t* sums = quantized != NULL ? quantized->sums : NULL;
  Bytes bytes = {0};
  AppendByte(&bytes, 0);
  AppendByte(&bytes, coding->exponent);
  const int kind = AppendCodes(layer, coding->codes, &bytes);
  bytes.data[0] = (uint8_t)(kind | one_step << 2 | coding->bias << 3 | (quantized != NULL) << 5 |
                            (sums != NULL) << 6 | (peaks != NULL) << 7);
  for (size_t k = 0; k < layer->num_scales; ++k) {
    AppendByte(&bytes, coding->steps[k] & 255);
    AppendByte(&bytes, coding->steps[k] >> 8);
  }
  if (peaks != NULL) Append(&bytes, peaks, layer->filters);
  Append(&bytes, coding->bias_bytes,
         layer->filters * (size_t)(coding->bias > 0 ? coding->bias + 1 : 0));
  if (sums != NULL) Append(&bytes, sums, 2);
  if (quantized != NULL) {
    size_t length = quantized->features_bytes;
    for (; length > 127; length >>= 7) AppendByte(&bytes, (int)(length & 127) | 128);
    AppendByte(&bytes, (int)length);
    Append(&bytes, quantized->features, quantized->features_bytes);
  }
  AppendLevels(layer, coding, &bytes);
  *size = bytes.size;
  return realloc(bytes.data, bytes.size);  // so that sanitizers see reads past the end
}

size_t WriteInts(const int64_t* values, size_t count, int width, uint8_t* buffer) {
  size_t at = 0;
  const uint64_t length = count;
  for (size_t i = 0; i <= count; ++i) {
    const uint64_t value = i == 0 ? length : (uint64_t)values[i - 1];
    for (int b = 0; b < width; ++b) buffer[at++] = (uint8_t)(value >> 8 * b);
  }
  buffer[at] = (uint8_t)(count * (size_t)width);  // back to the first
  buffer[at + 1] = (uint8_t)(11 << 2 | __builtin_ctz((unsigned)width));
  buffer[at + 2] = 1;
  return at + 3;
}
