// What the op takes of bionic's dlfcn.h, of its 64-bit ABIs.
#pragma once

#define RTLD_LAZY 0x00001
#define RTLD_NOLOAD 0x00004
#define RTLD_GLOBAL 0x00100
#define RTLD_DEFAULT ((void*)0)

typedef struct {
  const char* dli_fname;
  void* dli_fbase;
  const char* dli_sname;
  void* dli_saddr;
} Dl_info;

void* dlopen(const char*, int);
int dlclose(void*);
void* dlsym(void*, const char*);
int dladdr(const void*, Dl_info*);
