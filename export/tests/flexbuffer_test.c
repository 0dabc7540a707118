// The flexbuffer reader on good maps, and on damaged ones, where the sanitizers watch its reads.

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
  }
}

int main(void) {
  TestPython();
  TestDamage();
  printf("flexbuffer_test: %ld checks\n", num_checks);
  return 0;
}
