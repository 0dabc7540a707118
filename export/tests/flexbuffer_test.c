// The flexbuffer reader on good maps and vectors, and on damaged ones, where the sanitizers watch
// its reads.

#include "tflite/flexbuffer.h"

#include <string.h>

#include "tests/testing.h"

// Reads everything there is in a copy of exactly `size` bytes. Returns how many entries could be
// read.
static size_t ReadAll(const uint8_t* data, size_t size) {
  uint8_t* copy = malloc(size + 1);
  uint8_t* exact = realloc(copy, size > 0 ? size : 1);
  memcpy(exact, data, size);
  DbfFlexMap map;
  size_t good = 0;
  if (DbfFlexMapOpen(exact, size, &map)) {
    for (size_t i = 0; i < map.count; ++i) {
      const char* key = DbfFlexMapKey(&map, i);
      int64_t value;
      const uint8_t* blob;
      size_t blob_size, sum = key != NULL ? strlen(key) : 0;
      const bool has_int = DbfFlexMapInt(&map, i, &value);
      const bool has_blob = DbfFlexMapBlob(&map, i, &blob, &blob_size);
      for (size_t j = 0; has_blob && j < blob_size; ++j) sum += blob[j];
      good += key != NULL && (has_int || has_blob) && sum > 0;
    }
  }
  free(exact);
  return good;
}

// What Python's flexbuffers.Builder writes for {"a": 1, "b": bytes([3, 4, 5]), "c": -2, "d": 1000}:
// 2-byte values.
static void TestPython(void) {
  static const uint8_t kBytes[] = {97, 0,  98,  0,   3,   3, 4, 5,   99, 0, 100, 0,  4,
                                   13, 12, 7,   6,   0,   5, 0, 1,   0,  4, 0,   1,  0,
                                   21, 0,  254, 255, 232, 3, 5, 100, 5,  5, 12,  37, 1};
  DbfFlexMap map;
  int64_t value;
  const uint8_t* blob;
  size_t size;
  CHECK(DbfFlexMapOpen(kBytes, sizeof(kBytes), &map) && map.count == 4, "count %zu", map.count);
  CHECK(strcmp(DbfFlexMapKey(&map, 0), "a") == 0 && strcmp(DbfFlexMapKey(&map, 3), "d") == 0,
        "keys");
  CHECK(DbfFlexMapInt(&map, 0, &value) && value == 1, "a = %ld", (long)value);
  CHECK(!DbfFlexMapInt(&map, 1, &value), "b is no integer");
  CHECK(DbfFlexMapBlob(&map, 1, &blob, &size) && size == 3 && memcmp(blob, "\3\4\5", 3) == 0,
        "b has %zu", size);
  CHECK(DbfFlexMapInt(&map, 2, &value) && value == -2, "c = %ld", (long)value);
  CHECK(DbfFlexMapInt(&map, 3, &value) && value == 1000, "d = %ld", (long)value);
}

// Adds up the numbers of a vector in a copy of exactly `size` bytes. Returns false if there is
// none.
static bool SumInts(const uint8_t* data, size_t size, size_t* count, int64_t* sum) {
  uint8_t* exact = malloc(size > 0 ? size : 1);
  memcpy(exact, data, size);
  DbfFlexInts ints;
  const bool opened = DbfFlexIntsOpen(exact, size, &ints);
  *count = opened ? ints.count : 0;
  *sum = 0;
  for (size_t i = 0; i < *count; ++i) {
    int64_t value;
    if (DbfFlexIntsAt(&ints, i, &value)) *sum += value % 1000003;
  }
  free(exact);
  return opened;
}

// What Python's flexbuffers.Builder.TypedVectorFromElements writes, at each width.
static void TestPythonInts(void) {
  static const struct {
    uint8_t bytes[52];
    size_t size, count;
    int64_t sum;
  } cases[] = {
      {{11, 2, 64, 64, 1, 3, 3, 1, 1, 1, 1, 0, 11, 44, 1}, 15, 11, 141},
      {{3, 0, 2, 0, 0, 2, 255, 255, 6, 45, 1}, 11, 3, 513},  // 2, 512, −1
      {{5, 0, 0, 0, 2, 0, 0, 0, 160, 134, 1, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 20, 46, 1},
       27,
       5,
       100014},
      {{5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0,  0,  7, 0,
        0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 40, 47, 1},
       51,
       5,
       11 + (1LL << 40) % 1000003},
      {{5, 2, 200, 3, 1, 1, 5, 48, 1}, 9, 5, 207},  // unsigned
  };
  size_t count;
  int64_t sum;
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
    CHECK(SumInts(cases[i].bytes, cases[i].size, &count, &sum) == (cases[i].count > 0), "%zu", i);
    CHECK(count == cases[i].count && sum == cases[i].sum, "case %zu: %zu numbers, sum %ld", i,
          count, (long)sum);
    for (size_t size = 0; size < cases[i].size; ++size) {
      SumInts(cases[i].bytes, size, &count, &sum);
    }
    for (size_t at = 0; at < cases[i].size; ++at) {  // every value of every byte
      for (int value = 0; value < 256; ++value) {
        uint8_t bad[52];
        memcpy(bad, cases[i].bytes, cases[i].size);
        bad[at] = (uint8_t)value;
        SumInts(bad, cases[i].size, &count, &sum);
      }
    }
  }
  // Not a map, nor is a map one of them.
  DbfFlexMap map;
  CHECK(!DbfFlexMapOpen(cases[0].bytes, cases[0].size, &map), "a vector is no map");
  uint8_t buffer[256];
  const size_t size = WriteMap(&(Entry){"version", 2, NULL, 0}, 1, buffer);
  CHECK(!SumInts(buffer, size, &count, &sum), "a map is no vector");
}

static void TestDamage(void) {
  static const uint8_t kBlob[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const Entry entries[] = {
      {"version", 1, NULL, 0}, {"codes", 0, kBlob, sizeof(kBlob)}, {"channels", -7, NULL, 0}};
  uint8_t good[2048], bad[2048];
  const size_t size = WriteMap(entries, 3, good);
  CHECK(ReadAll(good, size) == 3, "the undamaged map");
  for (size_t length = 0; length < size; ++length)
    CHECK(ReadAll(good, length) <= 3, "cut at %zu", length);
  for (size_t i = 0; i < size; ++i) {  // every value of every byte
    for (int value = 0; value < 256; ++value) {
      memcpy(bad, good, size);
      bad[i] = (uint8_t)value;
      CHECK(ReadAll(bad, size) <= 255, "byte %zu = %d", i, value);
    }
  }
  for (int round = 0; round < 100000; ++round) {  // a few bytes, biased to extremes
    memcpy(bad, good, size);
    for (int n = RandomIn(1, 4); n > 0; --n)
      bad[RandomIn(0, (int)size - 1)] = (uint8_t)(RandomIn(0, 1) ? Random() : 0xff);
    ReadAll(bad, (size_t)RandomIn(0, 9) == 0 ? (size_t)RandomIn(0, (int)size) : size);
  }
  for (int round = 0; round < 100000; ++round) {  // noise
    const size_t length = (size_t)RandomIn(0, 64);
    for (size_t i = 0; i < length; ++i)
      bad[i] = (uint8_t)(RandomIn(0, 2) ? Random() % 13 : Random());
    if (length > 2 && RandomIn(0, 3)) {
      bad[length - 1] = (uint8_t)(1 << RandomIn(0, 3));
      bad[length - 2] = (uint8_t)(9 << 2 | RandomIn(0, 3));
    }
    ReadAll(bad, length);
    size_t count;
    int64_t sum;
    if (length > 2 && RandomIn(0, 1)) bad[length - 2] = (uint8_t)(11 << 2 | RandomIn(0, 3));
    SumInts(bad, length, &count, &sum);
  }
}

int main(void) {
  TestPython();
  TestPythonInts();
  TestDamage();
  printf("flexbuffer_test: %ld checks\n", num_checks);
  return 0;
}
