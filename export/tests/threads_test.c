// The threads that ops share: every chunk is taken once, whoever comes, and processes fork at any
// time.

#define _GNU_SOURCE  // for sched_setaffinity

#include "support/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/arena.h"
#include "tests/testing.h"

// ThreadSanitizer refuses processes that start threads after a fork. What AddressSanitizer's memory
// and QEMU lock for another thread stays locked in the child, which then hangs now and then. The
// plain build on its own processor forks.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || defined(DBF_EMULATED)
enum { kForks = 0, kForksMeanwhile = 0 };
#else
enum { kForks = 1, kForksMeanwhile = 200 };
#endif

enum { kMaxTestChunks = 3000, kTestThreads = 5 };

// A job that counts.
typedef struct Count {
  atomic_int taken[kMaxTestChunks];  // how often each chunk was
  atomic_int calls[kTestThreads];    // by slot
  int work;                          // how long a chunk takes
} Count;

static void CountTask(void* argument, DbfShare* share) {
  Count* count = argument;
  atomic_fetch_add(&count->calls[share->slot], 1);
  for (int chunk, end; DbfShareTake(share, &chunk, &end);) {
    for (; chunk < end; ++chunk) {
      atomic_fetch_add(&count->taken[chunk], 1);
      for (volatile int i = 0; i < count->work; ++i) continue;
    }
  }
}

// Calls a job and checks it.
static void CheckCall(DbfThreads* threads, int shares, int chunks, int work) {
  static Count count;  // one at a time
  for (int i = 0; i < kMaxTestChunks; ++i) atomic_store(&count.taken[i], 0);
  for (int i = 0; i < kTestThreads; ++i) atomic_store(&count.calls[i], 0);
  count.work = work;
  DbfThreadsCall(threads, CountTask, &count, shares, chunks);
  for (int i = 0; i < kMaxTestChunks; ++i) {
    const int taken = atomic_load(&count.taken[i]);
    CHECK(taken == (i < chunks), "chunk %d of %d: %d times", i, chunks, taken);
  }
  for (int i = 0; i < kTestThreads; ++i) {
    const int calls = atomic_load(&count.calls[i]);
    CHECK(calls <= (i < shares) && (calls == 1 || i > 0), "slot %d: %d calls", i, calls);
  }
}

static void TestJobs(void) {
  const int sizes[] = {0, 1, 2, 3, 7, 100, kMaxTestChunks};
  CheckCall(NULL, 1, 10, 0);
  DbfThreads* threads = DbfThreadsAcquire(sizes, kTestThreads);
  for (int shares = 1; shares <= kTestThreads; ++shares) {
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); ++i) {
      for (int work = 0; work <= 3000; work += 1000) CheckCall(threads, shares, sizes[i], work);
    }
  }
  // Many small jobs without a pause, more than their numbers have bits for.
  for (int i = 0; i < 5000; ++i) CheckCall(threads, 1 + i % kTestThreads, i % 9, i % 100);
  DbfThreadsRelease(threads);
}

// A job whose caller waits for a worker, for a while.
static void MeetTask(void* argument, DbfShare* share) {
  atomic_bool* met = argument;
  if (share->slot > 0) atomic_store(met, true);
  for (int i = 0; i < 20 && !atomic_load(met); ++i) usleep(1000);
}

// Lets this thread, and those that it starts, run on one processor alone.
static void PinTo(int processor) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  CHECK(sched_setaffinity(0, sizeof(set), &set) == 0, "processor %d", processor);
#else
  (void)processor;
#endif
}

// A worker that sleeps is woken and comes if it has a processor to itself, and only then.
static void TestProcessors(void) {
#ifdef __linux__
  cpu_set_t all;
  CHECK(sched_getaffinity(0, sizeof(all), &all) == 0, "the processors");
  int processors[2], count = 0;
  for (int i = 0; i < CPU_SETSIZE && count < 2; ++i) {
    if (CPU_ISSET(i, &all)) processors[count++] = i;
  }
  for (int other = 0; other < count; ++other) {
    atomic_bool met = false;
    PinTo(processors[other]);
    DbfThreads* threads = DbfThreadsAcquire(&met, 2);
    PinTo(processors[0]);
    for (int i = 0; i < 100 && !atomic_load(&met); ++i) {
      usleep(1000);
      DbfThreadsCall(threads, MeetTask, &met, 2, 1);
    }
    CHECK(atomic_load(&met) == (other > 0), "another processor: %d", other);
    DbfThreadsRelease(threads);
  }
  CHECK(sched_setaffinity(0, sizeof(all), &all) == 0, "the processors");
#endif
}

// Users share the threads of an owner, or get more if they need more.
static void TestUsers(void) {
  int owners[2];
  DbfThreads* first = DbfThreadsAcquire(&owners[0], 3);
  CHECK(DbfThreadsAcquire(&owners[0], 2) == first, "the same");
  DbfThreads* more = DbfThreadsAcquire(&owners[0], 4);
  DbfThreads* other = DbfThreadsAcquire(&owners[1], 2);
  CHECK(more != first && other != first && other != more, "others");
  DbfThreadsRelease(first);
  CheckCall(first, 3, 100, 100);
  CheckCall(more, 4, 100, 100);
  CheckCall(other, 2, 100, 100);
  DbfThreadsRelease(first);
  DbfThreadsRelease(more);
  DbfThreadsRelease(other);
  DbfThreadsRelease(NULL);
}

// Forks, and returns true in the child. In the parent, waits until the child has ended well.
static bool InChild(void) {
  fflush(NULL);
  const pid_t child = fork();
  CHECK(child >= 0, "fork");
  if (child == 0) {
    alarm(60);  // ends a child that hangs
    return true;
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with %d", status);
  return false;
}

static void TestForks(void) {
  int owners[2];
  DbfThreads* threads = DbfThreadsAcquire(owners, 3);
  CheckCall(threads, 3, 100, 100);
  if (InChild()) _exit(0);
  if (InChild()) exit(0);
  if (InChild()) {
    DbfThreadsRelease(threads);
    _exit(0);
  }
  if (InChild()) {
    for (int i = 0; i < 100; ++i) CheckCall(threads, 3, 100, 100);
    // Another user of the same threads, and new ones.
    CHECK(DbfThreadsAcquire(owners, 2) == threads, "the same");
    DbfThreads* other = DbfThreadsAcquire(&owners[1], 2);
    CheckCall(other, 2, 100, 100);
    // A child of the child, whose workers are gone again.
    if (InChild()) {
      CheckCall(other, 2, 100, 100);
      DbfThreadsRelease(threads);
      CheckCall(threads, 3, 100, 100);
      DbfThreadsRelease(threads);
      exit(0);
    }
    CheckCall(threads, 3, 100, 100);
    DbfThreadsRelease(threads);
    DbfThreadsRelease(threads);
    DbfThreadsRelease(other);
    exit(0);
  }
  for (int i = 0; i < 100; ++i) CheckCall(threads, 3, 100, 100);
  DbfThreadsRelease(threads);
}

// Another thread that takes threads and memory, calls jobs and gives all back, until *argument.
static void* UseThreads(void* argument) {
  static Count count;
  atomic_bool* stop = argument;
  while (!atomic_load(stop)) {
    DbfThreads* threads = DbfThreadsAcquire(stop, 2);
    DbfArena* arena = DbfArenaAcquire(stop, 100);
    for (int j = 0; j < 20; ++j) {
      for (int i = 0; i < kTestThreads; ++i) atomic_store(&count.calls[i], 0);
      DbfThreadsCall(threads, CountTask, &count, 2, 50);
    }
    DbfThreadsRelease(threads);
    DbfArenaRelease(arena);
  }
  return NULL;
}

// Forks while another thread is anywhere in the middle of something.
static void TestForksMeanwhile(void) {
  int owner;
  atomic_bool stop = false;
  DbfThreads* threads = DbfThreadsAcquire(&owner, 2);
  pthread_t user;
  CHECK(pthread_create(&user, NULL, UseThreads, &stop) == 0, "a thread");
  for (int i = 0; i < kForksMeanwhile; ++i) {
    if (InChild()) {
      CheckCall(threads, 2, 20, 100);
      DbfArenaRelease(DbfArenaAcquire(&owner, 1000));
      DbfThreads* other = DbfThreadsAcquire(&stop, 2);  // those in the middle of something, or new
      CheckCall(other, 2, 20, 100);
      DbfThreadsRelease(other);
      DbfThreadsRelease(threads);
      _exit(0);
    }
  }
  atomic_store(&stop, true);
  pthread_join(user, NULL);
  CheckCall(threads, 2, 20, 100);
  DbfThreadsRelease(threads);
}

int main(void) {
  TestJobs();
  TestProcessors();
  TestUsers();
  if (kForks) TestForks();
  TestForksMeanwhile();
  printf("threads_test: %ld checks\n", num_checks);
  return 0;
}
