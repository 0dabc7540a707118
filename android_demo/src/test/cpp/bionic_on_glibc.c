// Stands in for bionic, so that libraries built for Android run on desktop Linux in tests: linked
// against glibc under the names libc.so, libm.so, libdl.so and liblog.so, with what bionic has and
// glibc lacks or numbers otherwise. Only what libtensorflowlite_jni.so and libdbf_op.so use. Types
// that they share have the same layout in both C libraries on x86-64.

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

// TensorFlow Lite uses XNNPACK where it finds itself on a newer Android than 4.4.
int __system_property_get(const char* name, char* value) {
  strcpy(value, strcmp(name, "ro.build.version.sdk") == 0 ? "34" : "");
  return (int)strlen(value);
}

// In its build for Android, XNNPACK aligns to 32 bytes what its AVX-512 kernels load as if aligned
// to 64: on a processor with AVX-512, int8 models crash. For this, the library is preloaded.
void* memalign(size_t alignment, size_t size) {
  void* memory;
  return posix_memalign(&memory, alignment < 64 ? 64 : alignment, size) == 0 ? memory : NULL;
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

// stdin, stdout and stderr are elements of an array in bionic. The last becomes a copy of glibc's,
// with its table of functions behind it.
enum { kBionicFile = 152, kGlibcFile = sizeof(FILE) + sizeof(void*) };
char __sF[2 * kBionicFile + kGlibcFile] __attribute__((aligned(8)));

__attribute__((constructor)) static void CopyStderr(void) {
  memcpy(__sF + 2 * kBionicFile, stderr, kGlibcFile);
}
