#include "plan/coded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/rule.h"
#include "support/checked.h"

// Limits of FORMAT.md.
enum {
  kMaxExponent = 100,
  kMaxTables = 16,
  kMaxTabledCodes = 256,  // spatial codes, if there are several tables
  kMaxGridPerByte = 1 << 12,
  kMaxWorkPerByte = 1 << 16,
  kWorkOfLevel = 6,  // besides that of absorbing, which is the sum of the kernel's sides
  kMaxLevels = 1 << 28,
  kLeastFilters = 16,  // so many take memory and time, even if there are fewer
};

// The coder's numbers of bits and what follows from them.
enum {
  kRangeBits = 12,
  kRange = 1 << kRangeBits,
  kByteBits = kRangeBits - 8,  // a symbol of 256 has so wide a range
  kLeastState = 1 << 16,
  kEscape = -128,  // stands for an escape, as no level is as low
};

enum { kGridCodes = 0, kSeparableCodes = 1, kListedCodes = 2 };
enum { kNoBias = 0, kHalfBias = 1, kThreeByteBias = 2, kWideBias = 3 };

// The first byte, taken apart.
typedef struct Flags {
  int codes, bias;  // their kinds
  bool one_step, int8, sums, peaks;
} Flags;

// Bytes that are left to read. What takes bytes fails if there are not enough.
typedef struct Reader {
  const uint8_t *next, *end;
  bool failed;
} Reader;

// Takes so many bytes. Returns where they begin, or NULL.
static const uint8_t* Take(Reader* reader, size_t count) {
  if (reader->failed || count > (size_t)(reader->end - reader->next)) {
    reader->failed = true;
    return NULL;
  }
  const uint8_t* taken = reader->next;
  reader->next += count;
  return taken;
}

// Takes a byte, 0 if there is none.
static uint8_t TakeByte(Reader* reader) {
  const uint8_t* byte = Take(reader, 1);
  return byte != NULL ? *byte : 0;
}

static uint16_t Read16(const uint8_t* bytes) { return (uint16_t)(bytes[0] | bytes[1] << 8); }

static uint32_t Read32(const uint8_t* bytes) {
  return Read16(bytes) | (uint32_t)Read16(bytes + 2) << 16;
}

static bool HasBit(const uint8_t* bits, size_t i) { return bits[i >> 3] >> (i & 7) & 1; }

// Whether a set of bits has none from `count` on, in its last byte.
static bool EndsAt(const uint8_t* bits, size_t count) {
  return count % 8 == 0 || bits[count / 8] >> count % 8 == 0;
}

// What is known of a layer while it is read.
typedef struct Parts {
  Flags flags;
  int exponent;
  size_t spatial, channels, grid;  // codes that there are
  size_t occurring;                // spatial codes that occur among the kept codes
  const uint8_t* steps;            // halves
  const uint8_t* bias;
  size_t num_tables;
  const uint8_t* table_of;            // [occurring] half bytes; NULL if there is one table
  const uint8_t* tables[kMaxTables];  // the byte with M
} Parts;

// Takes the codes and makes them a set over the grid.
static const char* ReadCodes(Reader* reader, const Parts* parts, DbfLayer* layer, DbfCoded* coded) {
  const size_t channels = parts->channels, grid = parts->grid;
  layer->codes_bytes = DbfDivideUp(grid, 8);
  if (parts->flags.codes == kListedCodes) {
    layer->codes = Take(reader, layer->codes_bytes);
    return reader->failed || EndsAt(layer->codes, grid) ? NULL : "a code lies past the code grid";
  }
  const uint8_t *spatial_bits = NULL, *channel_bits = NULL;
  if (parts->flags.codes == kSeparableCodes) {
    spatial_bits = Take(reader, DbfDivideUp(parts->spatial, 8));
    channel_bits = Take(reader, DbfDivideUp(channels, 8));
    if (reader->failed) return NULL;
    if (!EndsAt(spatial_bits, parts->spatial) || !EndsAt(channel_bits, channels)) {
      return "a code lies past the code grid";
    }
  }
  layer->codes = coded->codes = DbfAllocate(layer->codes_bytes, 1);
  if (coded->codes == NULL) return "out of memory";
  for (size_t s = 0; s < parts->spatial; ++s) {
    if (spatial_bits != NULL && !HasBit(spatial_bits, s)) continue;
    for (size_t w = 0; w < channels; ++w) {
      const size_t g = s * channels + w;
      if (channel_bits == NULL || HasBit(channel_bits, w)) coded->codes[g >> 3] |= 1 << (g & 7);
    }
  }
  return NULL;
}

// The kept codes of a spatial code.
static size_t CountCodes(const DbfLayer* layer, size_t spatial) {
  const size_t channels = layer->channels;
  size_t count = 0;
  for (size_t w = 0; w < channels; ++w) count += DbfLayerKeeps(layer, spatial * channels + w);
  return count;
}

// Reads flags, exponent and codes, and counts the codes. What they ask for is bounded then.
static const char* ReadShape(Reader* reader, size_t size, DbfLayer* layer, Parts* parts,
                             DbfCoded* coded) {
  const uint8_t flags = TakeByte(reader);
  parts->exponent = (int8_t)TakeByte(reader);
  if (reader->failed) return NULL;
  parts->flags = (Flags){
      .codes = flags & 3,
      .one_step = flags >> 2 & 1,
      .bias = flags >> 3 & 3,
      .int8 = flags >> 5 & 1,
      .sums = flags >> 6 & 1,
      .peaks = flags >> 7 & 1,
  };
  if (parts->flags.codes > kListedCodes) return "unknown kind of codes";
  if (abs(parts->exponent) > kMaxExponent) return "the exponent of the steps is out of range";
  parts->channels = layer->channels;
  parts->spatial = DbfMul(layer->kernel_h, layer->kernel_w);
  parts->grid = DbfMul(parts->spatial, parts->channels);
  // A product that overflows is refused also where sizes have but 32 bits.
  if (parts->grid > DbfMin(DbfMul(size, kMaxGridPerByte), INT32_MAX))
    return "more codes than a layer of so few bytes may have";
  const char* error = ReadCodes(reader, parts, layer, coded);
  if (error != NULL || reader->failed) return error;
  layer->num_codes = 0;
  for (size_t s = 0; s < parts->spatial; ++s) {
    const size_t count = CountCodes(layer, s);
    layer->num_codes += count;
    parts->occurring += count > 0;
  }
  if (layer->num_codes == 0) return "no code is kept";
  const size_t levels = DbfMul(DbfMax(layer->filters, kLeastFilters), layer->num_codes);
  const size_t work = (size_t)layer->kernel_h + (size_t)layer->kernel_w + kWorkOfLevel;
  if (levels > kMaxLevels) return "more levels than a layer may have";
  if (DbfMul(levels, work) > DbfMul(size, kMaxWorkPerByte)) {
    return "more levels than a layer of so few bytes may have";
  }
  return NULL;
}

// Reads the length and the option `features`.
static void ReadFeatures(Reader* reader, DbfQuantized* quantized) {
  enum { kMaxLengthBytes = 3 };
  uint8_t byte = 0x80;
  for (int i = 0; i < kMaxLengthBytes && byte >> 7; ++i) {
    byte = TakeByte(reader);
    quantized->features_bytes |= (size_t)(byte & 0x7f) << 7 * i;
  }
  if (byte >> 7) reader->failed = true;
  quantized->features = Take(reader, quantized->features_bytes);
}

// Takes the parts between the codes and the statistics.
static const char* ReadHeader(Reader* reader, const DbfLayer* layer, Parts* parts,
                              DbfQuantized* quantized) {
  const Flags* flags = &parts->flags;
  const size_t filters = layer->filters;
  static const uint8_t kBiasBytes[] = {0, 2, 3, 4};
  if (flags->int8 != (quantized != NULL)) {
    return flags->int8 ? "the coded layer is one for int8" : "the coded layer is not one for int8";
  }
  if ((flags->sums || flags->peaks) && !flags->int8) return "sums and peaks are for int8 only";
  if (flags->bias == (flags->int8 ? kHalfBias : kThreeByteBias)) return "a bias of the wrong kind";
  parts->steps = Take(reader, DbfMul(flags->one_step ? 1 : filters, 2));
  const uint8_t* peaks = flags->peaks ? Take(reader, filters) : NULL;
  parts->bias = Take(reader, DbfMul(filters, kBiasBytes[flags->bias]));
  if (!flags->int8) return NULL;
  quantized->levels = true;
  quantized->peaks = peaks;
  for (size_t k = 0; peaks != NULL && k < filters; ++k) {
    if (peaks[k] > 127) return "a peak is out of range";
  }
  quantized->sums_bytes = flags->sums ? 2 : 0;
  quantized->sums = flags->sums ? Take(reader, quantized->sums_bytes) : NULL;
  quantized->features_bytes = 0;
  ReadFeatures(reader, quantized);
  return NULL;
}

// The frequency in 4096 that a byte of a table means.
static uint32_t Frequency(uint8_t byte) { return (16u + (byte & 15)) << (byte >> 4) >> 4; }

// Takes a table's bytes. Returns an error message, or NULL.
static const char* CheckTable(Reader* reader, const uint8_t** table) {
  *table = reader->next;
  const uint8_t first = TakeByte(reader);
  const size_t magnitudes = first & 0x7f, escape = first >> 7;
  const uint8_t* bytes = Take(reader, magnitudes + escape);
  if (bytes == NULL) return NULL;
  uint32_t sum = 0;
  for (size_t m = 0; m < magnitudes + escape; ++m) {
    if (bytes[m] >= 192) return "a frequency is out of range";
    sum += Frequency(bytes[m]) * (m < magnitudes ? 2 : 1);
  }
  return sum > kRange ? "the frequencies are more than a table has" : NULL;
}

static const char* ReadTables(Reader* reader, Parts* parts) {
  const size_t occurring = parts->occurring;
  parts->num_tables = TakeByte(reader);
  if (reader->failed) return NULL;
  if (parts->num_tables < 1 || parts->num_tables > kMaxTables ||
      (parts->num_tables > 1 && occurring > kMaxTabledCodes)) {
    return "the number of tables is out of range";
  }
  if (parts->num_tables > 1) {
    parts->table_of = Take(reader, DbfDivideUp(occurring, 2));
    if (reader->failed) return NULL;
    for (size_t i = 0; i < 2 * DbfDivideUp(occurring, 2); ++i) {
      const size_t table = parts->table_of[i / 2] >> i % 2 * 4 & 15;
      if (table >= (i < occurring ? parts->num_tables : 1)) return "no such table";
    }
  }
  for (size_t t = 0; t < parts->num_tables; ++t) {
    const char* error = CheckTable(reader, &parts->tables[t]);
    if (error != NULL || reader->failed) return error;
  }
  return NULL;
}

// Converts steps and bias, which are not aligned in the file.
static const char* ConvertNumbers(const Parts* parts, DbfLayer* layer, DbfQuantized* quantized,
                                  DbfCoded* coded) {
  const size_t filters = layer->filters;
  layer->num_scales = parts->flags.one_step ? 1 : filters;
  layer->alpha_scales = coded->scales = DbfAllocate(layer->num_scales, sizeof(*coded->scales));
  if (coded->scales == NULL) return "out of memory";
  for (size_t k = 0; k < layer->num_scales; ++k) {
    coded->scales[k] = ldexpf(DbfFromFloat16(Read16(parts->steps + 2 * k)), parts->exponent);
    if (!isfinite(coded->scales[k])) return "a step is not finite";
  }
  if (parts->flags.bias == kNoBias) return NULL;
  coded->bias = DbfAllocate(filters, 4);
  if (coded->bias == NULL) return "out of memory";
  for (size_t k = 0; k < filters; ++k) {
    const uint8_t* three = parts->bias + 3 * k;
    switch (parts->flags.bias) {
      case kHalfBias:
        ((float*)coded->bias)[k] = DbfFromFloat16(Read16(parts->bias + 2 * k));
        break;
      case kThreeByteBias:
        ((int32_t*)coded->bias)[k] = (int8_t)three[2] * 65536 + Read16(three);
        break;
      default:
        ((uint32_t*)coded->bias)[k] = Read32(parts->bias + 4 * k);
    }
  }
  if (quantized != NULL) {
    quantized->bias = coded->bias;
  } else {
    layer->bias = coded->bias;
  }
  return NULL;
}

// What a state's lower bits decode to: level, frequency less 1, and offset in the symbol's range,
// in 8, 12 and 12 bits from the highest.
typedef uint32_t Slot;

// Sets the slots of a symbol from `at` on. Returns where the next begins.
static uint32_t SetSlots(Slot* slots, uint32_t at, uint32_t frequency, int level) {
  const Slot first = (uint32_t)(uint8_t)level << 24 | ((frequency - 1) & (kRange - 1)) << 12;
  for (uint32_t i = 0; i < frequency; ++i) slots[at + i] = first | i;
  return at + frequency;
}

// Sets all slots of a table, which CheckTable has passed.
static void SetTable(const uint8_t* table, Slot* slots) {
  const int magnitudes = table[0] & 0x7f;
  const uint32_t escape = table[0] >> 7 ? Frequency(table[1 + magnitudes]) : 0;
  uint32_t zero = kRange - escape;
  for (int m = 1; m <= magnitudes; ++m) zero -= 2 * Frequency(table[m]);
  uint32_t at = SetSlots(slots, 0, zero, 0);
  for (int m = 1; m <= magnitudes; ++m) {
    at = SetSlots(slots, at, Frequency(table[m]), m);
    at = SetSlots(slots, at, Frequency(table[m]), -m);
  }
  SetSlots(slots, at, escape, kEscape);
}

// The range decoder (asymmetric numeral system).
typedef struct Decoder {
  uint32_t state;
  const uint8_t *next, *end;
} Decoder;

// Makes the state large again. Returns false if there are no bytes left for that.
static inline bool Refill(Decoder* decoder) {
  if (decoder->state >= kLeastState) return true;
  if (decoder->end - decoder->next < 2) return false;
  decoder->state = decoder->state << 16 | Read16(decoder->next);
  decoder->next += 2;
  return true;
}

// Decodes `count` levels. Returns false if the stream is damaged.
static bool DecodeLevels(Decoder* decoder, const Slot* slots, size_t count, int8_t* levels) {
  Decoder d = *decoder;
  for (size_t i = 0; i < count; ++i) {
    const Slot slot = slots[d.state & (kRange - 1)];
    d.state = ((slot >> 12 & (kRange - 1)) + 1) * (d.state >> kRangeBits) + (slot & (kRange - 1));
    if (!Refill(&d)) return false;
    int8_t level = (int8_t)(slot >> 24);
    if (level == kEscape) {
      const uint32_t rest = d.state & (kRange - 1);
      level = (int8_t)(rest >> kByteBits);
      d.state = (d.state >> kRangeBits << kByteBits) + (rest & ((1 << kByteBits) - 1));
      if (level == kEscape || !Refill(&d)) return false;
    }
    levels[i] = level;
  }
  *decoder = d;
  return true;
}

// Decodes all levels [filters, num_codes].
static const char* ReadLevels(Reader* reader, const Parts* parts, DbfLayer* layer,
                              DbfCoded* coded) {
  const size_t filters = layer->filters, columns = layer->num_codes;
  const uint8_t* state = Take(reader, 4);
  if (state == NULL) return NULL;
  Decoder decoder = {Read32(state), reader->next, reader->end};
  if (decoder.state < kLeastState) return "the levels are damaged";
  layer->alpha_int8 = coded->levels = DbfAllocate(DbfMul(filters, columns), 1);
  if (coded->levels == NULL) return "out of memory";
  Slot slots[kRange];
  size_t last = kMaxTables, column = 0, occurring = 0;
  for (size_t s = 0; s < parts->spatial; ++s) {
    const size_t count = CountCodes(layer, s);
    if (count == 0) continue;
    const size_t i = occurring++;
    const size_t table = parts->table_of != NULL ? parts->table_of[i / 2] >> i % 2 * 4 & 15 : 0;
    if (table != last) SetTable(parts->tables[table], slots);
    last = table;
    for (size_t k = 0; k < filters; ++k) {
      if (!DecodeLevels(&decoder, slots, count, coded->levels + k * columns + column)) {
        return "the levels are damaged";
      }
    }
    column += count;
  }
  if (decoder.next != decoder.end || decoder.state != kLeastState) {
    return "the levels do not end with the tensor";
  }
  return NULL;
}

const char* DbfCodedPart(const uint8_t* data, size_t size, size_t part, const uint8_t** begin,
                         size_t* bytes) {
  const size_t parts = size < 4 ? 0 : Read32(data) / 4;
  if (parts > size / 4 || part >= parts) return "the coded layers have no such part";
  const size_t from = Read32(data + 4 * part);
  const size_t to = part + 1 < parts ? Read32(data + 4 * (part + 1)) : size;
  if (from > to || to > size) return "a part of the coded layers lies outside of them";
  *begin = data + from;
  *bytes = to - from;
  return NULL;
}

const char* DbfCodedRead(const uint8_t* data, size_t size, DbfLayer* layer, DbfQuantized* quantized,
                         DbfCoded* coded) {
  *coded = (DbfCoded){0};
  layer->quantized = quantized;
  layer->bias = NULL;
  if (quantized != NULL) quantized->bias = NULL;
  Reader reader = {data, data + size, false};
  Parts parts = {0};
  const char* error = ReadShape(&reader, size, layer, &parts, coded);
  if (error == NULL && !reader.failed) error = ReadHeader(&reader, layer, &parts, quantized);
  if (error == NULL && !reader.failed) error = ReadTables(&reader, &parts);
  if (error == NULL && !reader.failed) error = ConvertNumbers(&parts, layer, quantized, coded);
  if (error == NULL && !reader.failed) error = ReadLevels(&reader, &parts, layer, coded);
  return error == NULL && reader.failed ? "the coded layer is cut short" : error;
}

// Sets the columns of which any level is not zero, and the channel codes of those. Returns how many
// columns there are.
static size_t FindUsed(const DbfLayer* layer, const int8_t* levels, uint8_t* columns,
                       uint8_t* channels) {
  for (size_t k = 0; k < (size_t)layer->filters; ++k) {
    for (size_t j = 0; j < layer->num_codes; ++j) columns[j] |= levels[k * layer->num_codes + j];
  }
  size_t used = 0, j = 0;
  for (size_t g = 0; j < layer->num_codes; ++g) {
    if (!DbfLayerKeeps(layer, g)) continue;
    if (columns[j] != 0) channels[g % layer->channels] = 1;
    used += columns[j++] != 0;
  }
  return used;
}

// Takes away codes: those of columns that are not used, or with `whole` only those of channel codes
// that are not.
static void TakeAway(DbfLayer* layer, DbfCoded* coded, const uint8_t* columns,
                     const uint8_t* channels, bool whole) {
  const size_t before = layer->num_codes, channel_codes = layer->channels;
  size_t kept = 0, j = 0;
  for (size_t g = 0; j < before; ++g) {
    if (!DbfLayerKeeps(layer, g)) continue;
    if (whole ? channels[g % channel_codes] : columns[j] != 0) {
      // Columns change places with their filters still `before` apart; none overtakes another.
      for (size_t k = 0; k < (size_t)layer->filters; ++k) {
        coded->levels[k * before + kept] = coded->levels[k * before + j];
      }
      ++kept;
    } else {
      coded->codes[g >> 3] &= (uint8_t)~(1 << (g & 7));
    }
    ++j;
  }
  for (size_t k = 1; k < (size_t)layer->filters; ++k) {
    memmove(coded->levels + k * kept, coded->levels + k * before, kept);
  }
  layer->num_codes = kept;
}

const char* DbfCodedDropIdle(DbfLayer* layer, DbfCoded* coded) {
  uint8_t* columns = DbfAllocate(layer->num_codes, 1);
  uint8_t* channels = DbfAllocate(layer->channels, 1);
  const char* error = columns == NULL || channels == NULL ? "out of memory" : NULL;
  const size_t used = error == NULL ? FindUsed(layer, coded->levels, columns, channels) : 0;
  if (used > 0 && used < layer->num_codes) {
    if (coded->codes == NULL) {
      coded->codes = DbfAllocate(layer->codes_bytes, 1);
      if (coded->codes != NULL) memcpy(coded->codes, layer->codes, layer->codes_bytes);
    }
    if (coded->codes == NULL) {
      error = "out of memory";
    } else {
      layer->codes = coded->codes;
      const bool whole = 100 * used > kDbfAnySetPercent * layer->num_codes;
      TakeAway(layer, coded, columns, channels, whole);
    }
  }
  free(columns);
  free(channels);
  return error;
}

void DbfCodedFree(DbfCoded* coded) {
  free(coded->codes);
  free(coded->scales);
  free(coded->bias);
  free(coded->levels);
  *coded = (DbfCoded){0};
}
