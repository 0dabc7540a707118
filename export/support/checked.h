// Arithmetic on sizes. Those that come from a file may overflow: a product or sum that does not fit
// sticks at SIZE_MAX, and allocating that many elements fails.

#ifndef DBF_EXPORT_SUPPORT_CHECKED_H_
#define DBF_EXPORT_SUPPORT_CHECKED_H_

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static inline size_t DbfMul(size_t a, size_t b) {
  size_t product;
  return a == SIZE_MAX || b == SIZE_MAX || __builtin_mul_overflow(a, b, &product) ? SIZE_MAX
                                                                                  : product;
}

static inline size_t DbfAdd(size_t a, size_t b) {
  size_t sum;
  return __builtin_add_overflow(a, b, &sum) ? SIZE_MAX : sum;
}

static inline size_t DbfMin(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t DbfMax(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t DbfDivideUp(size_t a, size_t b) { return a / b + (a % b != 0); }

// a rounded up to a multiple of b; SIZE_MAX if that does not fit.
static inline size_t DbfRoundUp(size_t a, size_t b) { return DbfMul(DbfDivideUp(a, b), b); }

// Allocates `count` zeroed elements of `size` bytes. Returns NULL only if there is no memory, also
// for count 0.
static inline void* DbfAllocate(size_t count, size_t size) {
  const size_t bytes = DbfMul(count, size);
  return bytes > PTRDIFF_MAX ? NULL : calloc(bytes > 0 ? bytes : 1, 1);
}

// Allocates likewise, aligned to a cache line. *allocation is what is to be freed.
static inline void* DbfAllocateAligned(size_t count, size_t size, void** allocation) {
  enum { kCacheLine = 64 };
  *allocation = DbfAllocate(DbfAdd(DbfMul(count, size), kCacheLine), 1);
  if (*allocation == NULL) return NULL;
  return (void*)(((uintptr_t)*allocation + kCacheLine - 1) / kCacheLine * kCacheLine);
}

#endif  // DBF_EXPORT_SUPPORT_CHECKED_H_
