// What the op takes of bionic's stdio.h. <jni.h> includes it for nothing.
#pragma once

#include <stdarg.h>
#include <stddef.h>

int dprintf(int, const char*, ...);
int snprintf(char*, size_t, const char*, ...);
