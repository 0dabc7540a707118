// The accelerator with a made-up LiteRT 2. Built once for each generation of its functions
// (tflite/litert.c), by what this exports: GENERATION is 0 to 3, or -1 for none at all.

#include <pthread.h>
#include <string.h>

#include "dbf_op.h"
#include "tests/testing.h"
#include "tflite/tflite_abi.h"

#define EXPORTED __attribute__((visibility("default")))

typedef struct LiteRtAcceleratorT Accelerator;
typedef struct LiteRtEnvironmentT Environment;

// An accelerator, with the functions of all generations.
struct LiteRtAcceleratorT {
  Environment* environment;
  void* data;
  void (*release)(void*);
  int (*get_name)(Accelerator*, const char**);
  int (*get_version)(Accelerator*, int*);
  int (*get_hardware)(Accelerator*, int*);
  int (*compiles)(Accelerator*, bool*);
  int (*create)();
  void (*destroy)();
};

struct LiteRtEnvironmentT {
  Accelerator* accelerators[4];
  int count;
  bool full;  // takes no more
};

#if GENERATION >= 0

static int num_accelerators = 0;  // that exist

EXPORTED int LiteRtCreateAccelerator(Accelerator** accelerator) {
  *accelerator = calloc(1, sizeof(**accelerator));
  __atomic_fetch_add(&num_accelerators, 1, __ATOMIC_RELAXED);
  return 0;
}

EXPORTED int LiteRtDestroyAccelerator(Accelerator* accelerator) {
  if (accelerator->release != NULL) accelerator->release(accelerator->data);
  free(accelerator);
  __atomic_fetch_sub(&num_accelerators, 1, __ATOMIC_RELAXED);
  return 0;
}

EXPORTED int LiteRtRegisterAccelerator(Environment* environment, Accelerator* accelerator,
                                       void* data, void (*release)(void*)) {
  accelerator->environment = environment;
  accelerator->data = data;
  accelerator->release = release;
  if (environment->full) {
    LiteRtDestroyAccelerator(accelerator);
    return 1;
  }
  environment->accelerators[environment->count++] = accelerator;
  return 0;
}

#define SETTER(name, field)                                             \
  EXPORTED int name(Accelerator* accelerator, void* function) {         \
    memcpy(&accelerator->field, &function, sizeof(accelerator->field)); \
    return 0;                                                           \
  }
SETTER(LiteRtSetAcceleratorGetName, get_name)
SETTER(LiteRtSetAcceleratorGetVersion, get_version)
SETTER(LiteRtSetAcceleratorGetHardwareSupport, get_hardware)
SETTER(LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation, compiles)

#if GENERATION == 3
SETTER(LiteRtSetDelegateFunction, create)
#else
EXPORTED int LiteRtSetDelegateFunction(Accelerator* accelerator, int (*create)(),
                                       void (*destroy)()) {
  accelerator->create = create;
  accelerator->destroy = destroy;
  return 0;
}
#endif

// What wraps a delegate.
typedef struct Wrapper {
  TfLiteDelegate* delegate;
  void (*deleter)(TfLiteDelegate*);
} Wrapper;

#if GENERATION > 0
#if GENERATION == 3
EXPORTED int LiteRtWrapDelegate(TfLiteDelegate* delegate, void (*deleter)(TfLiteDelegate*),
                                Wrapper** wrapper) {
#else
EXPORTED int LiteRtWrapDelegate(TfLiteDelegate* delegate, Wrapper** wrapper) {
  void (*deleter)(TfLiteDelegate*) = NULL;
#endif
  *wrapper = malloc(sizeof(**wrapper));
  **wrapper = (Wrapper){delegate, deleter};
  return 0;
}

EXPORTED int LiteRtUnwrapDelegate(Wrapper* wrapper, TfLiteDelegate** delegate) {
  *delegate = wrapper->delegate;
  return 0;
}
#endif
#if GENERATION == 1
EXPORTED int (*LiteRtRegisterStaticLinkedAcceleratorWebNn)(Environment*) = NULL;

static int AnotherLibrary(Environment* environment) { return environment->count; }
#endif
#if GENERATION >= 2
EXPORTED const void* LiteRtStaticLinkedAcceleratorCpuDef = NULL;
#endif
#if GENERATION == 3
EXPORTED void LiteRtDestroyDelegateWrapper(Wrapper* wrapper) {
  wrapper->deleter(wrapper->delegate);
  free(wrapper);
}
#endif

// Has an accelerator make a delegate, as a release of this generation asks for it, and free it.
// Returns the status; `environment` and `accelerator` are what it is told.
static int Compile(Environment* environment, Accelerator* accelerator) {
  Accelerator* ours = environment->accelerators[0];
  TfLiteDelegate* delegate = NULL;
#if GENERATION == 0
  void* made = NULL;
  const int status = ((int (*)(Accelerator*, void*, void**))ours->create)(accelerator, NULL, &made);
  delegate = made;
  if (status != 0) return status;
  if (delegate->Prepare == NULL) return -1;
  ((void (*)(void*))ours->destroy)(made);
#else
  Wrapper* wrapper = NULL;
#if GENERATION == 1
  const int status =
      ((int (*)(Accelerator*, void*, Wrapper**))ours->create)(accelerator, NULL, &wrapper);
#else
  const int status = ((int (*)(void*, Environment*, Accelerator*, void*, Wrapper**))ours->create)(
      NULL, environment, accelerator, NULL, &wrapper);
#endif
  if (status != 0) return status;
  LiteRtUnwrapDelegate(wrapper, &delegate);
  if (delegate->Prepare == NULL) return -1;
#if GENERATION == 3
  LiteRtDestroyDelegateWrapper(wrapper);
#elif GENERATION == 2
  ((void (*)(void*, Wrapper*))ours->destroy)(NULL, wrapper);
  free(wrapper);
#else
  ((void (*)(Wrapper*))ours->destroy)(wrapper);
  free(wrapper);
#endif
#endif
  return status;
}

static void FreeAccelerators(Environment* environment) {
  for (int i = 0; i < environment->count; ++i) {
    LiteRtDestroyAccelerator(environment->accelerators[i]);
  }
  environment->count = 0;
}

// Environments that come and go, as threads make them. Returns how many had no delegate.
static void* ManyEnvironments(void* unused) {
  (void)unused;
  uintptr_t failed = 0;
  for (int i = 0; i < 1000; ++i) {
    Environment environment = {{NULL}, 0, false};
    failed += dbf_register_litert(&environment) != NULL || environment.count != 1 ||
              Compile(&environment, environment.accelerators[0]) != 0;
    FreeAccelerators(&environment);
  }
  return (void*)failed;
}

static void TestRegistration(void) {
  Environment environment = {{NULL}, 0, false}, other = {{NULL}, 0, false};
  CHECK(dbf_register_litert(&environment) == NULL, "registration");
  CHECK(dbf_register_litert(&environment) == NULL && environment.count == 1, "once more");
  CHECK(dbf_register_litert(&other) == NULL && other.count == 1, "another environment");
  Accelerator* ours = environment.accelerators[0];
  const char* name = NULL;
  int version[3] = {0}, hardware = 0;
  bool compiles = true;
  CHECK(ours->get_name(ours, &name) == 0 && strcmp(name, "DBF") == 0, "%s", name);
  CHECK(ours->get_version(ours, version) == 0 && version[0] == 1, "version %d", version[0]);
  CHECK(ours->get_hardware(ours, &hardware) == 0 && hardware == 1, "hardware %d", hardware);
  CHECK(ours->compiles(ours, &compiles) == 0 && !compiles, "compiles models");
  CHECK(Compile(&environment, ours) == 0, "no delegate");

  // A release that passes other things is refused.
  CHECK(Compile(&environment, (Accelerator*)&environment) != 0, "a stranger's accelerator");
  CHECK(Compile(&environment, NULL) != 0, "no accelerator");
#if GENERATION >= 2
  CHECK(((int (*)(void*, Environment*, Accelerator*, void*, Wrapper**))ours->create)(
            NULL, &other, ours, NULL, NULL) != 0,
        "another environment's accelerator");
#endif
  FreeAccelerators(&environment);
  FreeAccelerators(&other);

  Environment full = {{NULL}, 0, true};
  CHECK(dbf_register_litert(&full) != NULL, "an environment that takes no more");
  full.full = false;
  CHECK(dbf_register_litert(&full) == NULL && full.count == 1, "the same, later");
  FreeAccelerators(&full);
}

// What LiteRT finds by itself.
static void TestDoor(void) {
  int LiteRtRegisterGpuAccelerator(Environment*);
  Environment environment = {{NULL}, 0, false};
  CHECK(LiteRtRegisterGpuAccelerator(&environment) != 0, "it is none for GPUs");
  CHECK(environment.count == 1, "%d accelerators", environment.count);
  FreeAccelerators(&environment);
  CHECK(dbf_register_litert(NULL) == NULL, "all environments");
  CHECK(dbf_register_litert(NULL) == NULL, "all environments, again");
#if GENERATION == 1
  CHECK(LiteRtRegisterStaticLinkedAcceleratorWebNn(&environment) != 0, "it is none for browsers");
  CHECK(environment.count == 1, "%d accelerators", environment.count);
  FreeAccelerators(&environment);
  LiteRtRegisterStaticLinkedAcceleratorWebNn = AnotherLibrary;
  CHECK(dbf_register_litert(NULL) != NULL, "a hook that another library has taken");
#endif
}

int main(void) {
  TestRegistration();
  TestDoor();
  pthread_t threads[4];
  for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, ManyEnvironments, NULL);
  for (int i = 0; i < 4; ++i) {
    void* failed;
    pthread_join(threads[i], &failed);
    CHECK(failed == NULL, "%zu environments of thread %d", (size_t)failed, i);
  }
  CHECK(num_accelerators == 0, "%d accelerators are left", num_accelerators);
  printf("litert_test: %ld checks\n", num_checks);
  return 0;
}

#else  // a process without LiteRT

int main(void) {
  Environment environment = {{NULL}, 0, false};
  const char* error = dbf_register_litert(&environment);
  CHECK(error != NULL && strstr(error, "LiteRT") != NULL, "%s", error);
  CHECK(dbf_register_litert(NULL) != NULL, "all environments");
  CHECK(environment.count == 0, "%d accelerators", environment.count);
  printf("litert_test: %ld checks\n", num_checks);
  return 0;
}

#endif
