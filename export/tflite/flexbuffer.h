// Reads a flexbuffer whose root is a map of integers and blobs, or a vector of integers, from bytes
// that nobody has checked.
//
// Every access is bounded by the buffer, so arbitrary bytes give an error and never a read outside
// of it.

#ifndef DBF_EXPORT_TFLITE_FLEXBUFFER_H_
#define DBF_EXPORT_TFLITE_FLEXBUFFER_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A map inside a buffer that the caller keeps alive. Positions are offsets from `data`.
typedef struct DbfFlexMap {
  const uint8_t* data;
  size_t size;
  size_t count;        // entries
  size_t values;       // position of the first value
  size_t value_width;  // bytes of a value: 1, 2, 4 or 8
  size_t keys;         // position of the first key
  size_t key_width;
} DbfFlexMap;

// Opens the root map of `size` bytes at `data`. Returns false if there is none or it leaves the
// buffer.
bool DbfFlexMapOpen(const void* data, size_t size, DbfFlexMap* map);

// The zero-terminated key of entry `i` < count, or NULL if it leaves the buffer.
const char* DbfFlexMapKey(const DbfFlexMap* map, size_t i);

// Reads entry `i` < count as a signed integer. Returns false if it is anything else or leaves the
// buffer.
bool DbfFlexMapInt(const DbfFlexMap* map, size_t i, int64_t* value);

// Reads entry `i` < count as a blob inside the buffer. Returns false if it is anything else or
// leaves the buffer.
bool DbfFlexMapBlob(const DbfFlexMap* map, size_t i, const uint8_t** blob, size_t* size);

// A vector of integers inside a buffer that the caller keeps alive.
typedef struct DbfFlexInts {
  const uint8_t* first;
  size_t count;
  size_t width;  // bytes of a number: 1, 2, 4 or 8
  bool is_signed;
} DbfFlexInts;

// Opens the root vector of `size` bytes at `data`, whose type must be a vector of integers. Returns
// false if there is none or it leaves the buffer.
bool DbfFlexIntsOpen(const void* data, size_t size, DbfFlexInts* ints);

// Reads number `i` < count. Returns false if it is above INT64_MAX.
bool DbfFlexIntsAt(const DbfFlexInts* ints, size_t i, int64_t* value);

#endif  // DBF_EXPORT_TFLITE_FLEXBUFFER_H_
