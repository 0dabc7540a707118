#include "support/arena.h"

#include <pthread.h>
#include <stdbool.h>

#include "support/checked.h"

struct DbfArena {
  const void* owner;
  int users;
  size_t bytes;
  char* memory;  // inside `allocation`
  void* allocation;
  DbfArena* next;
};

// Guards the registry and all that its arenas have but for the memory's content.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static DbfArena* registry = NULL;
static size_t held_bytes = 0;

// A fork waits until nobody else holds the mutex, which the child would otherwise find locked.
static void Lock(void) { pthread_mutex_lock(&mutex); }
static void Unlock(void) { pthread_mutex_unlock(&mutex); }
static void WatchForks(void) {
#if !defined(_WIN32) && !defined(__ANDROID__)  // Apps are not forked once they run.
  pthread_atfork(Lock, Unlock, Unlock);
#endif
}

static bool Grow(DbfArena* arena, size_t bytes) {
  if (bytes <= arena->bytes) return true;
  void* allocation;
  char* memory = DbfAllocateAligned(1, bytes, &allocation);
  if (memory == NULL) return false;
  free(arena->allocation);
  held_bytes += bytes - arena->bytes;
  arena->allocation = allocation;
  arena->memory = memory;
  arena->bytes = bytes;
  return true;
}

// Takes an arena without users out of the registry and frees it.
static void Destroy(DbfArena* arena) {
  DbfArena** link = &registry;
  while (*link != arena) link = &(*link)->next;
  *link = arena->next;
  held_bytes -= arena->bytes;
  free(arena->allocation);
  free(arena);
}

DbfArena* DbfArenaAcquire(const void* owner, size_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, WatchForks);
  Lock();
  DbfArena* arena = registry;
  while (arena != NULL && arena->owner != owner) arena = arena->next;
  if (arena == NULL) {
    arena = DbfAllocate(1, sizeof(*arena));
    if (arena != NULL) {
      arena->owner = owner;
      arena->next = registry;
      registry = arena;
    }
  }
  if (arena != NULL) {
    if (Grow(arena, bytes)) {
      ++arena->users;
    } else {
      if (arena->users == 0) Destroy(arena);
      arena = NULL;
    }
  }
  Unlock();
  return arena;
}

void DbfArenaRelease(DbfArena* arena) {
  if (arena == NULL) return;
  Lock();
  if (--arena->users == 0) Destroy(arena);
  Unlock();
}

char* DbfArenaMemory(const DbfArena* arena) { return arena->memory; }

size_t DbfArenaHeldBytes(void) {
  Lock();
  const size_t held = held_bytes;
  Unlock();
  return held;
}
