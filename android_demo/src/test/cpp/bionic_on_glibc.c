// Stands in for bionic, so that libraries built for Android run on desktop Linux in tests: linked against glibc under
// the names libc.so, libm.so, libdl.so and liblog.so, with what bionic has and glibc lacks or numbers otherwise.
// Only what libtensorflowlite_jni.so and libdbf_op.so use. Types that they share have the same layout in both C
// libraries on x86-64.

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int* __errno(void) { return &errno; }

size_t __strlen_chk(const char* text, size_t size) {
  const size_t length = strlen(text);
  if (length >= size) abort();
  return length;
}

int __system_property_get(const char* name, char* value) {
  (void)name;
  value[0] = '\0';
  return 0;
}

void android_set_abort_message(const char* message) { fprintf(stderr, "abort: %s\n", message); }

int __android_log_vprint(int priority, const char* tag, const char* format, va_list arguments) {
  (void)priority;
  flockfile(stderr);
  fprintf(stderr, "%s: ", tag);
  const int written = vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  funlockfile(stderr);
  return written;
}

// stdin, stdout and stderr are elements of an array in bionic. The last becomes a copy of glibc's, with its table of
// functions behind it.
enum { kBionicFile = 152, kGlibcFile = sizeof(FILE) + sizeof(void*) };
char __sF[2 * kBionicFile + kGlibcFile] __attribute__((aligned(8)));

__attribute__((constructor)) static void CopyStderr(void) {
  memcpy(__sF + 2 * kBionicFile, stderr, kGlibcFile);
}
