#include "support/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

// How often a thread looks for work, or the caller for the end of it, before it sleeps: at most
// some hundred microseconds, the time that another layer takes.
enum { kSpins = 2000 };

typedef struct Worker {
  DbfThreads* pool;
  pthread_t thread;
  int index;
} Worker;

struct DbfThreads {
  const void* owner;
  int threads;
  int users;         // guarded by registry_mutex
  DbfThreads* next;  // likewise
  pthread_mutex_t mutex;
  pthread_cond_t wake, done;
  atomic_uint generation;               // counts jobs; written under mutex
  atomic_int running;                   // workers that have not finished their part
  void (*task)(void* argument, int i);  // the job; written under mutex
  void* argument;
  int tasks;
  bool quit;
  Worker workers[];
};

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static DbfThreads* registry = NULL;

static void Pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

static void* Work(void* argument) {
  const Worker* worker = argument;
  DbfThreads* pool = worker->pool;
  unsigned seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && atomic_load(&pool->generation) == seen; ++i) Pause();
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
    seen = atomic_load(&pool->generation);
    const bool quit = pool->quit, takes_part = worker->index < pool->tasks;
    pthread_mutex_unlock(&pool->mutex);
    if (quit) return NULL;
    if (!takes_part) continue;
    pool->task(pool->argument, worker->index);
    if (atomic_fetch_sub(&pool->running, 1) == 1) {
      pthread_mutex_lock(&pool->mutex);
      pthread_cond_signal(&pool->done);
      pthread_mutex_unlock(&pool->mutex);
    }
  }
}

// Starts a job on workers 1 ... tasks - 1. Those that take no part may see it late or never.
static void Publish(DbfThreads* pool, void (*task)(void* argument, int i), void* argument,
                    int tasks, bool quit) {
  pthread_mutex_lock(&pool->mutex);
  pool->task = task;
  pool->argument = argument;
  pool->tasks = tasks;
  pool->quit = quit;
  atomic_store(&pool->running, tasks - 1);
  atomic_fetch_add(&pool->generation, 1);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
}

// Ends the workers and frees the pool, which nobody uses any more.
static void Destroy(DbfThreads* pool) {
  Publish(pool, NULL, NULL, 1, true);
  for (int i = 1; i < pool->threads; ++i) pthread_join(pool->workers[i].thread, NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_cond_destroy(&pool->done);
  pthread_mutex_destroy(&pool->mutex);
  free(pool);
}

static DbfThreads* Create(const void* owner, int threads) {
  DbfThreads* pool = calloc(1, sizeof(*pool) + (size_t)threads * sizeof(pool->workers[0]));
  if (pool == NULL) return NULL;
  pool->owner = owner;
  pool->threads = 1;
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pthread_cond_init(&pool->done, NULL);
  for (int i = 1; i < threads; ++i) {
    Worker* worker = &pool->workers[i];
    worker->pool = pool;
    worker->index = i;
    if (pthread_create(&worker->thread, NULL, Work, worker) != 0) break;
    ++pool->threads;
  }
  if (pool->threads == threads) return pool;
  Destroy(pool);
  return NULL;
}

DbfThreads* DbfThreadsAcquire(const void* owner, int threads) {
  pthread_mutex_lock(&registry_mutex);
  DbfThreads* pool = registry;
  while (pool != NULL && (pool->owner != owner || pool->threads < threads)) pool = pool->next;
  if (pool == NULL) {
    pool = Create(owner, threads);
    if (pool != NULL) {
      pool->next = registry;
      registry = pool;
    }
  }
  if (pool != NULL) ++pool->users;
  pthread_mutex_unlock(&registry_mutex);
  return pool;
}

void DbfThreadsRelease(DbfThreads* pool) {
  if (pool == NULL) return;
  pthread_mutex_lock(&registry_mutex);
  const bool last = --pool->users == 0;
  if (last) {
    DbfThreads** link = &registry;
    while (*link != pool) link = &(*link)->next;
    *link = pool->next;
  }
  pthread_mutex_unlock(&registry_mutex);
  if (last) Destroy(pool);
}

void DbfThreadsCall(DbfThreads* pool, void (*task)(void* argument, int i), void* argument,
                    int tasks) {
  Publish(pool, task, argument, tasks, false);
  task(argument, 0);
  for (int i = 0; i < kSpins && atomic_load(&pool->running) > 0; ++i) Pause();
  pthread_mutex_lock(&pool->mutex);
  while (atomic_load(&pool->running) > 0) pthread_cond_wait(&pool->done, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
}
