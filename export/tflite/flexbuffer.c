#include "tflite/flexbuffer.h"

#include <string.h>

// Type numbers of the flexbuffer format.
enum {
  kTypeInt = 1,
  kTypeUInt = 2,
  kTypeIndirectInt = 6,
  kTypeIndirectUInt = 7,
  kTypeMap = 9,
  kTypeInts = 11,
  kTypeUInts = 12,
  kTypeBlob = 25,
};

// Reads an unsigned little-endian number of `width` bytes at `at`. False if it leaves the buffer.
static bool ReadUnsigned(const DbfFlexMap* map, size_t at, size_t width, uint64_t* value) {
  if (at > map->size || width > map->size - at) return false;
  *value = 0;
  for (size_t i = 0; i < width; ++i) *value |= (uint64_t)map->data[at + i] << (8 * i);
  return true;
}

// Follows the backward offset of `width` bytes stored at `at`.
static bool Follow(const DbfFlexMap* map, size_t at, size_t width, size_t* target) {
  uint64_t offset;
  if (!ReadUnsigned(map, at, width, &offset) || offset > at) return false;
  *target = at - (size_t)offset;
  return true;
}

// Reads a number stored `back` bytes before `at`.
static bool ReadBefore(const DbfFlexMap* map, size_t at, size_t back, size_t width,
                       uint64_t* value) {
  return at >= back && ReadUnsigned(map, at - back, width, value);
}

static bool IsWidth(uint64_t width) { return width == 1 || width == 2 || width == 4 || width == 8; }

// Whether `count` elements of `width` bytes from `at` lie inside the buffer.
static bool Contains(const DbfFlexMap* map, size_t at, uint64_t count, size_t width) {
  return at <= map->size && count <= (map->size - at) / width;
}

// The packed type byte of entry `i`: type << 2 | log2 of the width of what it points to.
static uint8_t PackedType(const DbfFlexMap* map, size_t i) {
  return map->data[map->values + map->count * map->value_width + i];
}

// Finds the values of the root, whose type goes to *type. Returns false if they are outside.
static bool OpenRoot(DbfFlexMap* map, const void* data, size_t size, int* type) {
  memset(map, 0, sizeof(*map));
  map->data = data;
  map->size = size;
  if (data == NULL || size < 3) return false;
  const size_t root_width = map->data[size - 1];
  const uint8_t root_type = map->data[size - 2];
  *type = root_type >> 2;
  map->value_width = (size_t)1 << (root_type & 3);
  return IsWidth(root_width) && root_width <= size - 2 &&
         Follow(map, size - 2 - root_width, root_width, &map->values);
}

// The signed number that `width` bytes hold.
static int64_t Signed(uint64_t bits, size_t width) {
  if (width < 8 && bits >> (8 * width - 1) != 0) bits |= ~(uint64_t)0 << (8 * width);
  int64_t value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

bool DbfFlexMapOpen(const void* data, size_t size, DbfFlexMap* map) {
  int type;
  if (!OpenRoot(map, data, size, &type) || type != kTypeMap) return false;

  // Before the values: [offset to the keys] [width of the keys] [count].
  const size_t width = map->value_width;
  uint64_t count, key_count, key_width;
  if (!ReadBefore(map, map->values, width, width, &count)) return false;
  if (!ReadBefore(map, map->values, 2 * width, width, &key_width) || !IsWidth(key_width))
    return false;
  if (map->values < 3 * width || !Follow(map, map->values - 3 * width, width, &map->keys))
    return false;
  map->key_width = (size_t)key_width;
  if (!ReadBefore(map, map->keys, map->key_width, map->key_width, &key_count)) return false;
  if (key_count != count) return false;

  // The values are followed by a type byte each.
  if (!Contains(map, map->values, count, width + 1)) return false;
  if (!Contains(map, map->keys, count, map->key_width)) return false;
  map->count = (size_t)count;
  return true;
}

const char* DbfFlexMapKey(const DbfFlexMap* map, size_t i) {
  size_t at;
  if (!Follow(map, map->keys + i * map->key_width, map->key_width, &at)) return NULL;
  if (at >= map->size || memchr(map->data + at, 0, map->size - at) == NULL) return NULL;
  return (const char*)map->data + at;
}

bool DbfFlexMapInt(const DbfFlexMap* map, size_t i, int64_t* value) {
  const uint8_t packed = PackedType(map, i);
  const int type = packed >> 2;
  size_t at = map->values + i * map->value_width;
  size_t width = map->value_width;
  if (type == kTypeIndirectInt || type == kTypeIndirectUInt) {
    if (!Follow(map, at, width, &at)) return false;
    width = (size_t)1 << (packed & 3);
  } else if (type != kTypeInt && type != kTypeUInt) {
    return false;
  }
  uint64_t bits;
  if (!ReadUnsigned(map, at, width, &bits)) return false;
  const bool is_signed = type == kTypeInt || type == kTypeIndirectInt;
  if (!is_signed && bits > INT64_MAX) return false;
  *value = Signed(bits, is_signed ? width : 8);
  return true;
}

bool DbfFlexMapBlob(const DbfFlexMap* map, size_t i, const uint8_t** blob, size_t* size) {
  const uint8_t packed = PackedType(map, i);
  const size_t width = (size_t)1 << (packed & 3);
  size_t at;
  uint64_t length;
  if (packed >> 2 != kTypeBlob) return false;
  if (!Follow(map, map->values + i * map->value_width, map->value_width, &at)) return false;
  if (!ReadBefore(map, at, width, width, &length) || !Contains(map, at, length, 1)) return false;
  *blob = map->data + at;
  *size = (size_t)length;
  return true;
}

bool DbfFlexIntsOpen(const void* data, size_t size, DbfFlexInts* ints) {
  DbfFlexMap root;
  int type;
  uint64_t count;
  if (!OpenRoot(&root, data, size, &type) || (type != kTypeInts && type != kTypeUInts))
    return false;
  const size_t width = root.value_width;
  if (!ReadBefore(&root, root.values, width, width, &count)) return false;
  if (!Contains(&root, root.values, count, width)) return false;
  *ints = (DbfFlexInts){root.data + root.values, (size_t)count, width, type == kTypeInts};
  return true;
}

bool DbfFlexIntsAt(const DbfFlexInts* ints, size_t i, int64_t* value) {
  uint64_t bits = 0;
  for (size_t b = 0; b < ints->width; ++b) {
    bits |= (uint64_t)ints->first[i * ints->width + b] << (8 * b);
  }
  if (!ints->is_signed && bits > INT64_MAX) return false;
  *value = Signed(bits, ints->is_signed ? ints->width : 8);
  return true;
}
