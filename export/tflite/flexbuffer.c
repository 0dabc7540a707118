#include "tflite/flexbuffer.h"

#include <string.h>

// Type numbers of the flexbuffer format.
enum {
  kTypeInt = 1,
  kTypeUInt = 2,
  kTypeIndirectInt = 6,
  kTypeIndirectUInt = 7,
  kTypeMap = 9,
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

bool DbfFlexMapOpen(const void* data, size_t size, DbfFlexMap* map) {
  memset(map, 0, sizeof(*map));
  map->data = data;
  map->size = size;
  if (data == NULL || size < 3) return false;
  const size_t root_width = map->data[size - 1];
  const uint8_t root_type = map->data[size - 2];
  if (!IsWidth(root_width) || root_width > size - 2 || root_type >> 2 != kTypeMap) return false;
  map->value_width = (size_t)1 << (root_type & 3);
  if (!Follow(map, size - 2 - root_width, root_width, &map->values)) return false;

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
  if (type == kTypeUInt || type == kTypeIndirectUInt) {
    if (bits > INT64_MAX) return false;
  } else if (width < 8 && bits >> (8 * width - 1) != 0) {
    bits |= ~(uint64_t)0 << (8 * width);  // sign extension
  }
  memcpy(value, &bits, sizeof(bits));
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
