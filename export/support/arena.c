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
  pthread_mutex_lock(&mutex);
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
  pthread_mutex_unlock(&mutex);
  return arena;
}

void DbfArenaRelease(DbfArena* arena) {
  if (arena == NULL) return;
  pthread_mutex_lock(&mutex);
  if (--arena->users == 0) Destroy(arena);
  pthread_mutex_unlock(&mutex);
}

char* DbfArenaMemory(const DbfArena* arena) { return arena->memory; }

size_t DbfArenaHeldBytes(void) {
  pthread_mutex_lock(&mutex);
  const size_t held = held_bytes;
  pthread_mutex_unlock(&mutex);
  return held;
}
