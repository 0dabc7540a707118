#include "support/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "support/require.h"

// How often a thread looks for work, or the caller for the end of it, before it sleeps: at most
// some hundred microseconds, the time that another layer takes.
enum { kSpins = 2000 };

typedef struct Worker {
  DbfThreads* threads;
  pthread_t thread;
  int index;
} Worker;

struct DbfThreads {
  const void* owner;
  int count;         // of all threads, the caller's included
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
  DbfThreads* threads = worker->threads;
  unsigned seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && atomic_load(&threads->generation) == seen; ++i) Pause();
    pthread_mutex_lock(&threads->mutex);
    while (atomic_load(&threads->generation) == seen)
      pthread_cond_wait(&threads->wake, &threads->mutex);
    seen = atomic_load(&threads->generation);
    const bool quit = threads->quit, takes_part = worker->index < threads->tasks;
    pthread_mutex_unlock(&threads->mutex);
    if (quit) return NULL;
    if (!takes_part) continue;
    threads->task(threads->argument, worker->index);
    if (atomic_fetch_sub(&threads->running, 1) == 1) {
      pthread_mutex_lock(&threads->mutex);
      pthread_cond_signal(&threads->done);
      pthread_mutex_unlock(&threads->mutex);
    }
  }
}

// Starts a job on workers 1 ... tasks - 1. Those that take no part may see it late or never.
static void Publish(DbfThreads* threads, void (*task)(void* argument, int i), void* argument,
                    int tasks, bool quit) {
  pthread_mutex_lock(&threads->mutex);
  threads->task = task;
  threads->argument = argument;
  threads->tasks = tasks;
  threads->quit = quit;
  atomic_store(&threads->running, tasks - 1);
  atomic_fetch_add(&threads->generation, 1);
  pthread_cond_broadcast(&threads->wake);
  pthread_mutex_unlock(&threads->mutex);
}

// Ends the workers, which nobody uses any more.
static void Destroy(DbfThreads* threads) {
  Publish(threads, NULL, NULL, 1, true);
  for (int i = 1; i < threads->count; ++i) pthread_join(threads->workers[i].thread, NULL);
  pthread_cond_destroy(&threads->wake);
  pthread_cond_destroy(&threads->done);
  pthread_mutex_destroy(&threads->mutex);
  free(threads);
}

static DbfThreads* Create(const void* owner, int count) {
  DbfThreads* threads = calloc(1, sizeof(*threads) + (size_t)count * sizeof(threads->workers[0]));
  if (threads == NULL) return NULL;
  threads->owner = owner;
  threads->count = 1;
  pthread_mutex_init(&threads->mutex, NULL);
  pthread_cond_init(&threads->wake, NULL);
  pthread_cond_init(&threads->done, NULL);
  for (int i = 1; i < count; ++i) {
    Worker* worker = &threads->workers[i];
    worker->threads = threads;
    worker->index = i;
    if (pthread_create(&worker->thread, NULL, Work, worker) != 0) break;
    ++threads->count;
  }
  if (threads->count == count) return threads;
  Destroy(threads);
  return NULL;
}

DbfThreads* DbfThreadsAcquire(const void* owner, int count) {
  pthread_mutex_lock(&registry_mutex);
  DbfThreads* threads = registry;
  while (threads != NULL && (threads->owner != owner || threads->count < count))
    threads = threads->next;
  if (threads == NULL) {
    threads = Create(owner, count);
    if (threads != NULL) {
      threads->next = registry;
      registry = threads;
    }
  }
  if (threads != NULL) ++threads->users;
  pthread_mutex_unlock(&registry_mutex);
  return threads;
}

void DbfThreadsRelease(DbfThreads* threads) {
  if (threads == NULL) return;
  pthread_mutex_lock(&registry_mutex);
  const bool last = --threads->users == 0;
  if (last) {
    DbfThreads** link = &registry;
    while (*link != threads) link = &(*link)->next;
    *link = threads->next;
  }
  pthread_mutex_unlock(&registry_mutex);
  if (last) Destroy(threads);
}

void DbfThreadsCall(DbfThreads* threads, void (*task)(void* argument, int i), void* argument,
                    int tasks) {
  DBF_REQUIRE(tasks >= 1 && tasks <= threads->count, "more tasks than threads");
  Publish(threads, task, argument, tasks, false);
  task(argument, 0);
  for (int i = 0; i < kSpins && atomic_load(&threads->running) > 0; ++i) Pause();
  pthread_mutex_lock(&threads->mutex);
  while (atomic_load(&threads->running) > 0) pthread_cond_wait(&threads->done, &threads->mutex);
  pthread_mutex_unlock(&threads->mutex);
}
