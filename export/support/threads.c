#define _GNU_SOURCE  // for sched_getcpu

#include "support/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "support/checked.h"
#include "support/require.h"

enum {
  // How long a worker looks for another job, or the caller for the end of this one, before it
  // sleeps. A round takes a microsecond or a few, so that all take as long as another layer does.
  // As each round gives its processor away, they cost little where others want it.
  kSpinRounds = 60,
  kSpinsPerRound = 64,
  // Rounds that one counts for if it is spent on the processor of the caller, who needs it.
  kCrowdedRounds = 8,
  // For how many jobs at most nobody is woken, after those who were woken came too late.
  kMaxSkips = 63,
};

// What all threads know of the current job, in one number that changes at once:
//
//   bits 0-9    workers that have joined it and not left
//   bits 10-19  workers that may yet join it
//   bit 20      whether it is open: the caller still finds chunks. Nobody joins after that
//   bits 21-31  its number, which tells it from the last one
enum {
  kOneActive = 1,
  kOneFree = 1 << 10,
  kOpen = 1 << 20,
  kOneJob = 1 << 21,
};
_Static_assert((int)kDbfMaxShares <= (int)kOneFree, "more workers than the bits can count");
static int Active(unsigned state) { return state % kOneFree; }
static int Free(unsigned state) { return state % kOpen / kOneFree; }
static unsigned JobOf(unsigned state) { return state / kOneJob; }

// A range of chunks that a thread has to take: the first in the lower half, the end in the upper.
static unsigned Range(unsigned begin, unsigned end) { return begin | end << 16; }
static unsigned Begin(unsigned range) { return range & 0xffff; }
static unsigned End(unsigned range) { return range >> 16; }

// A range, on a cache line of its own.
typedef struct Slot {
  _Alignas(64) atomic_uint range;
} Slot;

struct DbfThreads {
  const void* owner;
  void* allocation;  // what is to be freed
  int count;         // of all threads, the caller's included
  int users;         // guarded by registry_mutex
  DbfThreads* next;  // likewise
  unsigned forks;    // when the workers were started
  pthread_t* workers;
  int num_workers;
  pthread_mutex_t mutex;
  pthread_cond_t wake, done;
  int wakes;            // how many workers are to wake up; guarded by mutex
  atomic_int sleepers;  // workers that sleep; written under mutex
  atomic_bool waiting;  // whether the caller sleeps; written under mutex
  atomic_bool quit;     // likewise
  // Only the caller uses these: for how many jobs nobody is woken, how many that were the last
  // time, how many workers were awake when others were woken, and `looks` at the last job.
  int skips, last_skips, awake;
  unsigned last_looks;
  // The job. A worker reads it after it has joined.
  DbfTask* task;
  void* argument;
  int shares;
  atomic_int processor;  // of the caller, or -1
  atomic_uint looks;     // counts looks of workers, on other processors, for a job
  _Alignas(64) atomic_uint state;
  Slot slots[];
};

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static DbfThreads* registry = NULL;
static unsigned forks = 0;  // between the first process and this one

// A fork waits until nobody else holds the registry, which the child would otherwise find locked.
static void LockRegistry(void) { pthread_mutex_lock(&registry_mutex); }
static void UnlockRegistry(void) { pthread_mutex_unlock(&registry_mutex); }
static void UnlockInChild(void) {
  ++forks;
  UnlockRegistry();
}
static void WatchForks(void) {
#if !defined(_WIN32) && !defined(__ANDROID__)  // Apps are not forked once they run.
  pthread_atfork(LockRegistry, UnlockRegistry, UnlockInChild);
#else
  (void)UnlockInChild;
#endif
}

// The processor that runs this thread, or -1 if that is not known.
static int Processor(void) {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

static void Pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

// Waits for the state to change, for a microsecond or a few, and lets others run.
static void SpinRound(const DbfThreads* threads, unsigned state) {
  for (int i = 0; i < kSpinsPerRound; ++i) {
    if (atomic_load(&threads->state) != state) return;
    Pause();
  }
  sched_yield();
}

bool DbfShareTake(DbfShare* share, int* chunk, int* end) {
  DbfThreads* threads = share->threads;
  if (threads == NULL) {
    *chunk = 0;
    *end = share->chunks;
    share->chunks = 0;
    return *end > 0;
  }
  atomic_uint* own = &threads->slots[share->slot].range;
  for (;;) {
    unsigned range = atomic_load(own);
    while (Begin(range) < End(range)) {
      if (atomic_compare_exchange_weak(own, &range, Range(Begin(range) + 1, End(range)))) {
        *chunk = (int)Begin(range);
        *end = *chunk + 1;
        return true;
      }
    }
    // The longest range of another slot: all of it if nobody has joined for that slot, and else the
    // half that its thread would come to last.
    int from = 0;
    for (int i = 0; i < threads->shares; ++i) {
      const unsigned other = atomic_load(&threads->slots[i].range);
      if (End(other) - Begin(other) <= End(range) - Begin(range)) continue;
      range = other;
      from = i;
    }
    if (Begin(range) == End(range)) return false;
    const bool joined = from == 0 || from > Free(atomic_load(&threads->state));
    const unsigned last = End(range),
                   middle = Begin(range) + (joined ? (last - Begin(range)) / 2 : 0);
    if (atomic_compare_exchange_strong(&threads->slots[from].range, &range,
                                       Range(Begin(range), middle))) {
      atomic_store(own, Range(middle, last));
    }
  }
}

// Joins the current job, unless it is job *seen, and works for it. Returns false if there is none.
static bool Join(DbfThreads* threads, unsigned* seen) {
  unsigned state = atomic_load(&threads->state);
  do {
    if (!(state & kOpen) || Free(state) == 0 || JobOf(state) == *seen) return false;
  } while (!atomic_compare_exchange_weak(&threads->state, &state, state - kOneFree + kOneActive));
  *seen = JobOf(state);
  DbfShare share = {.threads = threads, .slot = Free(state)};  // the last slot first
  threads->task(threads->argument, &share);
  state = atomic_fetch_sub(&threads->state, kOneActive);
  // From here on, the job may be another.
  if (Active(state) == 1 && atomic_load(&threads->waiting)) {
    pthread_mutex_lock(&threads->mutex);
    pthread_cond_signal(&threads->done);
    pthread_mutex_unlock(&threads->mutex);
  }
  return true;
}

// Sleeps until it is woken.
static void Sleep(DbfThreads* threads) {
  pthread_mutex_lock(&threads->mutex);
  atomic_fetch_add(&threads->sleepers, 1);
  while (threads->wakes == 0 && !atomic_load(&threads->quit))
    pthread_cond_wait(&threads->wake, &threads->mutex);
  if (threads->wakes > 0) --threads->wakes;
  atomic_fetch_sub(&threads->sleepers, 1);
  pthread_mutex_unlock(&threads->mutex);
}

static void* Work(void* argument) {
  DbfThreads* threads = argument;
  unsigned seen = 0;
  int rounds = kSpinRounds;
  while (!atomic_load(&threads->quit)) {
    const int processor = Processor();
    const bool crowded = processor >= 0 && processor == atomic_load(&threads->processor);
    const unsigned state = atomic_load(&threads->state);
    if (!crowded && Join(threads, &seen)) {
      rounds = kSpinRounds;
    } else if (rounds > 0 && crowded) {
      rounds -= kCrowdedRounds;
      sched_yield();
    } else if (rounds > 0) {
      --rounds;
      atomic_fetch_add(&threads->looks, 1);
      SpinRound(threads, state);
    } else {
      Sleep(threads);
      rounds = kSpinRounds;
    }
  }
  return NULL;
}

// Starts the workers, as many as there can be.
static void Start(DbfThreads* threads) {
  threads->forks = forks;
  pthread_mutex_init(&threads->mutex, NULL);
  pthread_cond_init(&threads->wake, NULL);
  pthread_cond_init(&threads->done, NULL);
  threads->wakes = threads->skips = threads->last_skips = threads->awake = 0;
  threads->last_looks = 0;
  atomic_store(&threads->sleepers, 0);
  atomic_store(&threads->waiting, false);
  atomic_store(&threads->quit, false);
  atomic_store(&threads->processor, -1);
  atomic_store(&threads->looks, 0);
  atomic_store(&threads->state, 0);
  int* started = &threads->num_workers;
  for (*started = 0; *started < threads->count - 1; ++*started) {
    if (pthread_create(&threads->workers[*started], NULL, Work, threads) != 0) break;
  }
}

// Frees threads that nobody uses any more. The workers of another process are not here to end.
static void Destroy(DbfThreads* threads) {
  if (threads->forks == forks) {
    pthread_mutex_lock(&threads->mutex);
    atomic_store(&threads->quit, true);
    pthread_cond_broadcast(&threads->wake);
    pthread_mutex_unlock(&threads->mutex);
    for (int i = 0; i < threads->num_workers; ++i) pthread_join(threads->workers[i], NULL);
    pthread_cond_destroy(&threads->wake);
    pthread_cond_destroy(&threads->done);
    pthread_mutex_destroy(&threads->mutex);
  }
  free(threads->workers);
  free(threads->allocation);
}

static DbfThreads* Create(const void* owner, int count) {
  const size_t bytes = DbfAdd(sizeof(DbfThreads), DbfMul(count, sizeof(Slot)));
  void* allocation;
  DbfThreads* threads = DbfAllocateAligned(1, bytes, &allocation);
  if (threads == NULL) return NULL;
  threads->allocation = allocation;
  threads->owner = owner;
  threads->count = count;
  threads->workers = DbfAllocate(count, sizeof(threads->workers[0]));
  if (threads->workers == NULL) {
    free(allocation);
    return NULL;
  }
  Start(threads);
  if (threads->num_workers == count - 1) return threads;
  Destroy(threads);
  return NULL;
}

DbfThreads* DbfThreadsAcquire(const void* owner, int count) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, WatchForks);
  LockRegistry();
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
  UnlockRegistry();
  return threads;
}

void DbfThreadsRelease(DbfThreads* threads) {
  if (threads == NULL) return;
  LockRegistry();
  const bool last = --threads->users == 0;
  if (last) {
    DbfThreads** link = &registry;
    while (*link != threads) link = &(*link)->next;
    *link = threads->next;
  }
  UnlockRegistry();
  if (last) Destroy(threads);
}

// Whether the caller had better work alone: nobody has looked for a job since the last, and nobody
// is to be woken.
static bool Skip(DbfThreads* threads) {
  const unsigned looks = atomic_load(&threads->looks);
  const bool quiet = looks == threads->last_looks;
  threads->last_looks = looks;
  if (threads->skips == 0 || !quiet) return false;
  --threads->skips;
  return true;
}

// Wakes as many workers as `helpers` lacks of those that are awake. Returns whether there were any.
static bool Wake(DbfThreads* threads, int helpers) {
  const int sleepers = atomic_load(&threads->sleepers), awake = threads->num_workers - sleepers;
  const int wanted = helpers - awake < sleepers ? helpers - awake : sleepers;
  if (wanted <= 0) return false;
  if (threads->skips > 0) {
    --threads->skips;
    return false;
  }
  threads->awake = awake;
  pthread_mutex_lock(&threads->mutex);
  for (; threads->wakes < wanted; ++threads->wakes) pthread_cond_signal(&threads->wake);
  pthread_mutex_unlock(&threads->mutex);
  return true;
}

// Draws a conclusion from how many have joined, and whether any were woken for it: where there is
// no processor for them, to wake workers is a waste of time.
static void Judge(DbfThreads* threads, int joined, bool woken) {
  if (joined > threads->awake) {
    threads->skips = threads->last_skips = 0;
  } else if (woken) {
    threads->last_skips = 2 * threads->last_skips + 1;
    if (threads->last_skips > kMaxSkips) threads->last_skips = kMaxSkips;
    threads->skips = threads->last_skips;
  }
}

// Waits until all workers that have joined have left. The job is closed.
static void WaitForWorkers(DbfThreads* threads) {
  unsigned state = atomic_load(&threads->state);
  for (int i = 0; i < kSpinRounds && Active(state) > 0; ++i) {
    SpinRound(threads, state);
    state = atomic_load(&threads->state);
  }
  if (Active(state) == 0) return;
  pthread_mutex_lock(&threads->mutex);
  atomic_store(&threads->waiting, true);
  while (Active(atomic_load(&threads->state)) > 0)
    pthread_cond_wait(&threads->done, &threads->mutex);
  atomic_store(&threads->waiting, false);
  pthread_mutex_unlock(&threads->mutex);
}

void DbfThreadsCall(DbfThreads* threads, DbfTask* task, void* argument, int shares, int chunks) {
  DBF_REQUIRE(chunks >= 0 && chunks <= kDbfMaxChunks, "too many chunks");
  DBF_REQUIRE(shares >= 1 && shares <= (threads != NULL ? threads->count : 1), "too many shares");
  DBF_REQUIRE(shares <= kDbfMaxShares, "too many shares");
  if (threads != NULL && threads->forks != forks) Start(threads);
  if (threads == NULL || shares == 1 || threads->num_workers == 0 || Skip(threads)) {
    task(argument, &(DbfShare){.chunks = chunks});
    return;
  }
  const int helpers = shares - 1;
  threads->task = task;
  threads->argument = argument;
  threads->shares = shares;
  for (int i = 0; i < shares; ++i) {
    const int64_t begin = (int64_t)chunks * i / shares, end = (int64_t)chunks * (i + 1) / shares;
    atomic_store(&threads->slots[i].range, Range((unsigned)begin, (unsigned)end));
  }
  atomic_store(&threads->processor, Processor());
  const unsigned job = JobOf(atomic_load(&threads->state)) + 1;
  atomic_store(&threads->state, job * kOneJob + kOpen + (unsigned)helpers * kOneFree);
  const bool woken = Wake(threads, helpers);
  task(argument, &(DbfShare){.threads = threads});
  const unsigned state = atomic_fetch_and(&threads->state, ~(unsigned)kOpen);
  Judge(threads, helpers - Free(state), woken);
  WaitForWorkers(threads);
}
