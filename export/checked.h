// Arithmetic on sizes that come from a file: a product or sum that does not fit sticks at SIZE_MAX,
// and allocating that many elements fails.

#ifndef DBF_EXPORT_CHECKED_H_
#define DBF_EXPORT_CHECKED_H_

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

// `count` zeroed elements of `size` bytes, never NULL for count = 0. NULL if there is no memory.
static inline void* DbfAllocate(size_t count, size_t size) {
  const size_t bytes = DbfMul(count, size);
  return bytes > PTRDIFF_MAX ? NULL : calloc(bytes > 0 ? bytes : 1, 1);
}

#endif  // DBF_EXPORT_CHECKED_H_
