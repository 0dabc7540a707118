#include "kernels/kernels.h"

#include <stdatomic.h>
#include <string.h>

#define DBF_ADDRESS(name) &kDbfKernels##name,
static const DbfKernels* const kVariants[] = {DBF_KERNEL_LIST(DBF_ADDRESS)};
#undef DBF_ADDRESS

const DbfKernels* DbfKernelsAt(size_t i, bool* more) {
  *more = i < sizeof(kVariants) / sizeof(kVariants[0]);
  return *more && kVariants[i]->supported() ? kVariants[i] : NULL;
}

const DbfKernels* DbfKernelsBest(void) {
  const DbfKernels* best = NULL;
  bool more = true;
  for (size_t i = 0; best == NULL && more; ++i) best = DbfKernelsAt(i, &more);
  return best;
}

const DbfKernels* DbfKernelsFind(const char* name) {
  bool more = true;
  for (size_t i = 0; more; ++i) {
    const DbfKernels* kernels = DbfKernelsAt(i, &more);
    if (kernels != NULL && strcmp(kernels->name, name) == 0) return kernels;
  }
  return NULL;
}

static _Atomic(const DbfKernels*) chosen = NULL;  // NULL: the best

bool DbfKernelsChoose(const char* name) {
  const DbfKernels* kernels = name != NULL ? DbfKernelsFind(name) : NULL;
  if (name != NULL && kernels == NULL) return false;
  chosen = kernels;
  return true;
}

const DbfKernels* DbfKernelsChosen(void) { return chosen != NULL ? chosen : DbfKernelsBest(); }
