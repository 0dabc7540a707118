// The library as an accelerator of LiteRT 2, whose CompiledModel takes no external delegates.
//
// An accelerator makes a delegate for each CompiledModel of an environment. Ours makes that of
// delegate.c, and says that it is for processors (kLiteRtHwAcceleratorCpu), next to LiteRT's own.
//
// Nothing here is linked to LiteRT: its functions are found when they are needed, in whatever
// LiteRT the process has loaded. The functions that an accelerator is made of have changed their
// parameters between releases. Which they have is known by what else the runtime exports:
//
//   releases      known by                                what creates a delegate takes
//   2.0           no LiteRtWrapDelegate                   accelerator, options, &delegate
//   2.1.0–2.1.2   that, no …StaticLinkedAcceleratorCpuDef accelerator, options, &wrapper
//   2.1.3–2.1.5   that, no LiteRtDestroyDelegateWrapper   context, environment, accelerator,
//                                                         options, &wrapper
//   from 2.1.6    that                                    the same; no function that destroys
//
// What LiteRT passes is compared with what it was given, so that a later release that differs again
// is refused instead of read wrongly.

#define _GNU_SOURCE  // dladdr

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "dbf_op.h"
#include "support/checked.h"
#include "tflite/tflite_abi.h"

typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtAcceleratorT* LiteRtAccelerator;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtDelegateWrapperT* LiteRtDelegateWrapper;
typedef struct LiteRtRuntimeContext LiteRtRuntimeContext;

typedef int LiteRtStatus;
enum {
  kLiteRtStatusOk = 0,
  kLiteRtStatusErrorRuntimeFailure = 3,
  kLiteRtStatusErrorUnsupported = 5
};

enum { kLiteRtHwAcceleratorCpu = 1 };

typedef struct LiteRtApiVersion {
  int major, minor, patch;
} LiteRtApiVersion;

// How a release hands on delegates, see the table above.
typedef enum Generation { kBare, kWrapped, kWithContext, kWithDeleter } Generation;

// The functions of LiteRT that are called. `SetDelegateFunction` and `WrapDelegate` have one
// parameter more or less by generation.
typedef struct LiteRt {
  Generation generation;
  LiteRtStatus (*CreateAccelerator)(LiteRtAccelerator*);
  LiteRtStatus (*DestroyAccelerator)(LiteRtAccelerator);
  LiteRtStatus (*RegisterAccelerator)(LiteRtEnvironment, LiteRtAccelerator, void*, void (*)(void*));
  LiteRtStatus (*SetAcceleratorGetName)(LiteRtAccelerator,
                                        LiteRtStatus (*)(LiteRtAccelerator, const char**));
  LiteRtStatus (*SetAcceleratorGetVersion)(LiteRtAccelerator,
                                           LiteRtStatus (*)(LiteRtAccelerator, LiteRtApiVersion*));
  LiteRtStatus (*SetAcceleratorGetHardwareSupport)(LiteRtAccelerator,
                                                   LiteRtStatus (*)(LiteRtAccelerator, int*));
  LiteRtStatus (*SetIsAcceleratorDelegateResponsibleForJitCompilation)(
      LiteRtAccelerator, LiteRtStatus (*)(LiteRtAccelerator, bool*));
  union {
    LiteRtStatus (*bare)(LiteRtAccelerator,
                         LiteRtStatus (*)(LiteRtAccelerator, LiteRtOptions, void**),
                         void (*)(void*));
    LiteRtStatus (*wrapped)(LiteRtAccelerator,
                            LiteRtStatus (*)(LiteRtAccelerator, LiteRtOptions,
                                             LiteRtDelegateWrapper*),
                            void (*)(LiteRtDelegateWrapper));
    LiteRtStatus (*with_context)(LiteRtAccelerator,
                                 LiteRtStatus (*)(LiteRtRuntimeContext*, LiteRtEnvironment,
                                                  LiteRtAccelerator, LiteRtOptions,
                                                  LiteRtDelegateWrapper*),
                                 void (*)(LiteRtRuntimeContext*, LiteRtDelegateWrapper));
    LiteRtStatus (*with_deleter)(LiteRtAccelerator,
                                 LiteRtStatus (*)(LiteRtRuntimeContext*, LiteRtEnvironment,
                                                  LiteRtAccelerator, LiteRtOptions,
                                                  LiteRtDelegateWrapper*));
  } SetDelegateFunction;
  union {
    LiteRtStatus (*plain)(TfLiteDelegate*, LiteRtDelegateWrapper*);
    LiteRtStatus (*with_deleter)(TfLiteDelegate*, void (*)(TfLiteDelegate*),
                                 LiteRtDelegateWrapper*);
  } WrapDelegate;
  LiteRtStatus (*UnwrapDelegate)(LiteRtDelegateWrapper, TfLiteDelegate**);
} LiteRt;

// An accelerator that is registered. LiteRT releases it together with its environment.
typedef struct Registered {
  LiteRtEnvironment environment;
  LiteRtAccelerator accelerator;
  struct Registered* next;
} Registered;

// Guards all that follows it.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Registered* all;
static LiteRt litert;  // found with the first environment; a process has one

static void Release(void* data) {
  pthread_mutex_lock(&lock);
  for (Registered** place = &all; *place != NULL; place = &(*place)->next) {
    if (*place == data) {
      *place = (*place)->next;
      break;
    }
  }
  pthread_mutex_unlock(&lock);
  free(data);
}

static bool IsRegistered(LiteRtEnvironment environment) {
  for (const Registered* each = all; each != NULL; each = each->next) {
    if (each->environment == environment) return true;
  }
  return false;
}

// Makes a delegate for an accelerator of ours, of an environment unless that is NULL. Returns NULL
// if it is not ours: then this release passes other arguments than those before it.
static TfLiteDelegate* DelegateFor(LiteRtEnvironment environment, LiteRtAccelerator accelerator) {
  bool ours = false;
  pthread_mutex_lock(&lock);
  for (const Registered* each = all; each != NULL && !ours; each = each->next) {
    ours = each->accelerator == accelerator &&
           (environment == NULL || each->environment == environment);
  }
  pthread_mutex_unlock(&lock);
  return ours ? dbf_delegate_create() : NULL;
}

static LiteRtStatus CreateBare(LiteRtAccelerator accelerator, LiteRtOptions options,
                               void** delegate) {
  (void)options;
  *delegate = DelegateFor(NULL, accelerator);
  return *delegate != NULL ? kLiteRtStatusOk : kLiteRtStatusErrorRuntimeFailure;
}

static void DestroyBare(void* delegate) { dbf_delegate_destroy(delegate); }

static LiteRtStatus Wrap(TfLiteDelegate* delegate, LiteRtDelegateWrapper* wrapper) {
  if (delegate == NULL) return kLiteRtStatusErrorRuntimeFailure;
  const LiteRtStatus status =
      litert.generation == kWithDeleter
          ? litert.WrapDelegate.with_deleter(delegate, dbf_delegate_destroy, wrapper)
          : litert.WrapDelegate.plain(delegate, wrapper);
  if (status != kLiteRtStatusOk) dbf_delegate_destroy(delegate);
  return status;
}

static LiteRtStatus CreateWrapped(LiteRtAccelerator accelerator, LiteRtOptions options,
                                  LiteRtDelegateWrapper* wrapper) {
  (void)options;
  return Wrap(DelegateFor(NULL, accelerator), wrapper);
}

static void DestroyWrapped(LiteRtDelegateWrapper wrapper) {
  TfLiteDelegate* delegate = NULL;
  if (litert.UnwrapDelegate(wrapper, &delegate) == kLiteRtStatusOk) dbf_delegate_destroy(delegate);
}

static LiteRtStatus CreateWithContext(LiteRtRuntimeContext* context, LiteRtEnvironment environment,
                                      LiteRtAccelerator accelerator, LiteRtOptions options,
                                      LiteRtDelegateWrapper* wrapper) {
  (void)context;
  (void)options;
  return Wrap(environment != NULL ? DelegateFor(environment, accelerator) : NULL, wrapper);
}

static void DestroyWithContext(LiteRtRuntimeContext* context, LiteRtDelegateWrapper wrapper) {
  (void)context;
  DestroyWrapped(wrapper);
}

static LiteRtStatus GetName(LiteRtAccelerator accelerator, const char** name) {
  (void)accelerator;
  *name = "DBF";
  return kLiteRtStatusOk;
}

static LiteRtStatus GetVersion(LiteRtAccelerator accelerator, LiteRtApiVersion* version) {
  (void)accelerator;
  *version = (LiteRtApiVersion){1, 0, 0};
  return kLiteRtStatusOk;
}

static LiteRtStatus GetHardwareSupport(LiteRtAccelerator accelerator, int* hardware) {
  (void)accelerator;
  *hardware = kLiteRtHwAcceleratorCpu;
  return kLiteRtStatusOk;
}

static LiteRtStatus CompilesModels(LiteRtAccelerator accelerator, bool* compiles) {
  (void)accelerator;
  *compiles = false;
  return kLiteRtStatusOk;
}

// Finds a symbol of LiteRT: one that the process shows to all its libraries, or its library's.
static void* Find(const char* symbol) {
  static const char* const libraries[] = {"libLiteRt.so", "libLiteRtRuntimeCApi.so",
                                          "libLiteRt.dylib"};
  void* found = dlsym(RTLD_DEFAULT, symbol);
  for (size_t i = 0; found == NULL && i < sizeof(libraries) / sizeof(libraries[0]); ++i) {
    void* library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL) continue;
    found = dlsym(library, symbol);
    dlclose(library);
  }
  return found;
}

// Finds the functions of the LiteRT that this process has loaded. Returns whether it has them all.
static bool FindLiteRt(LiteRt* found) {
  *found = (LiteRt){
      .generation = Find("LiteRtWrapDelegate") == NULL                    ? kBare
                    : Find("LiteRtDestroyDelegateWrapper") != NULL        ? kWithDeleter
                    : Find("LiteRtStaticLinkedAcceleratorCpuDef") != NULL ? kWithContext
                                                                          : kWrapped,
  };
  const struct {
    const char* name;
    void* place;
  } functions[] = {
      {"LiteRtCreateAccelerator", &found->CreateAccelerator},
      {"LiteRtDestroyAccelerator", &found->DestroyAccelerator},
      {"LiteRtRegisterAccelerator", &found->RegisterAccelerator},
      {"LiteRtSetAcceleratorGetName", &found->SetAcceleratorGetName},
      {"LiteRtSetAcceleratorGetVersion", &found->SetAcceleratorGetVersion},
      {"LiteRtSetAcceleratorGetHardwareSupport", &found->SetAcceleratorGetHardwareSupport},
      {"LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation",
       &found->SetIsAcceleratorDelegateResponsibleForJitCompilation},
      {"LiteRtSetDelegateFunction", &found->SetDelegateFunction},
      {"LiteRtWrapDelegate", &found->WrapDelegate},
      {"LiteRtUnwrapDelegate", &found->UnwrapDelegate},
  };
  const size_t wanted =
      sizeof(functions) / sizeof(functions[0]) - (found->generation == kBare ? 2 : 0);
  for (size_t i = 0; i < wanted; ++i) {
    void* function = Find(functions[i].name);
    if (function == NULL) return false;
    memcpy(functions[i].place, &function, sizeof(function));
  }
  return true;
}

static LiteRtStatus SetDelegateFunction(LiteRtAccelerator accelerator) {
  switch (litert.generation) {
    case kBare:
      return litert.SetDelegateFunction.bare(accelerator, CreateBare, DestroyBare);
    case kWrapped:
      return litert.SetDelegateFunction.wrapped(accelerator, CreateWrapped, DestroyWrapped);
    case kWithContext:
      return litert.SetDelegateFunction.with_context(accelerator, CreateWithContext,
                                                     DestroyWithContext);
    case kWithDeleter:
      break;
  }
  return litert.SetDelegateFunction.with_deleter(accelerator, CreateWithContext);
}

static const char kNoLiteRt[] =
    "this process has loaded no LiteRT that takes accelerators: use libLiteRt of LiteRT 2, or the "
    "classic interpreter with dbf_delegate_create";

// Whether LiteRT is found; `lock` is held.
static bool IsFound(void) {
  LiteRt found;
  if (litert.CreateAccelerator == NULL && FindLiteRt(&found)) litert = found;
  return litert.CreateAccelerator != NULL;
}

// Makes an accelerator for an environment that has none; `lock` is held. Returns what is wrong, or
// NULL.
static const char* MakeFor(LiteRtEnvironment environment) {
  if (IsRegistered(environment)) return NULL;
  if (!IsFound()) return kNoLiteRt;
  Registered* registered = DbfAllocate(1, sizeof(*registered));
  LiteRtAccelerator accelerator = NULL;
  if (registered == NULL || litert.CreateAccelerator(&accelerator) != kLiteRtStatusOk) {
    free(registered);
    return "out of memory";
  }
  if (litert.SetAcceleratorGetName(accelerator, GetName) != kLiteRtStatusOk ||
      litert.SetAcceleratorGetVersion(accelerator, GetVersion) != kLiteRtStatusOk ||
      litert.SetAcceleratorGetHardwareSupport(accelerator, GetHardwareSupport) != kLiteRtStatusOk ||
      litert.SetIsAcceleratorDelegateResponsibleForJitCompilation(accelerator, CompilesModels) !=
          kLiteRtStatusOk ||
      SetDelegateFunction(accelerator) != kLiteRtStatusOk) {
    litert.DestroyAccelerator(accelerator);
    free(registered);
    return "LiteRT refuses the functions of an accelerator";
  }
  *registered = (Registered){environment, accelerator, all};
  all = registered;
  return NULL;
}

// Registers an accelerator with an environment; `lock` is not held. Returns what is wrong, or NULL.
static const char* RegisterWith(LiteRtEnvironment environment) {
  pthread_mutex_lock(&lock);
  const Registered* before = all;
  const char* error = MakeFor(environment);
  Registered* made = all;
  pthread_mutex_unlock(&lock);
  if (error != NULL || made == before) return error;
  // On failure LiteRT releases what it was given.
  return litert.RegisterAccelerator(environment, made->accelerator, made, Release) ==
                 kLiteRtStatusOk
             ? NULL
             : "LiteRT refuses another accelerator";
}

// The function that LiteRT looks for among all symbols that the process shows, when it makes an
// environment and finds no library for GPUs. By answering that this has no accelerator for GPUs it
// leaves the search for those as it is.
DBF_EXPORT LiteRtStatus LiteRtRegisterGpuAccelerator(LiteRtEnvironment environment);

LiteRtStatus LiteRtRegisterGpuAccelerator(LiteRtEnvironment environment) {
  RegisterWith(environment);
  return kLiteRtStatusErrorUnsupported;
}

// Has LiteRT call LiteRtRegisterGpuAccelerator for all environments that it makes from now on.
static const char* RegisterWithAll(void) {
  pthread_mutex_lock(&lock);
  const bool found = IsFound();
  pthread_mutex_unlock(&lock);
  if (!found) return kNoLiteRt;
  Dl_info self;
  // A library that an app has loaded for itself; one that is part of the app is shown already.
  if (dladdr(kNoLiteRt, &self) != 0) dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_GLOBAL);
  LiteRtStatus (*shown)(LiteRtEnvironment) = NULL;
  void* symbol = dlsym(RTLD_DEFAULT, "LiteRtRegisterGpuAccelerator");
  memcpy(&shown, &symbol, sizeof(shown));
  if (shown != LiteRtRegisterGpuAccelerator) {
    return "another library answers LiteRT's question for accelerators; register with each "
           "environment";
  }
  if (litert.generation == kWrapped) {
    // These look in files only, but for browsers' GPUs, of which a wheel has none, they call this.
    LiteRtStatus (**hook)(LiteRtEnvironment) = Find("LiteRtRegisterStaticLinkedAcceleratorWebNn");
    if (hook == NULL || (*hook != NULL && *hook != LiteRtRegisterGpuAccelerator)) {
      return "this release of LiteRT asks no other library; register with each environment";
    }
    *hook = LiteRtRegisterGpuAccelerator;
  }
  return NULL;
}

const char* dbf_register_litert(LiteRtEnvironment environment) {
  return environment != NULL ? RegisterWith(environment) : RegisterWithAll();
}
