// What the op takes of bionic's stdlib.h, and immintrin.h posix_memalign.
#pragma once

#include <stddef.h>

void* malloc(size_t);
void* calloc(size_t, size_t);
void free(void*);
int posix_memalign(void**, size_t, size_t);
void* realloc(void*, size_t);
int abs(int);
long long llabs(long long);
