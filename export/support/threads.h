// A small pool of threads that the ops of one interpreter share. They run one after the other, so
// one job at a time.

#ifndef DBF_EXPORT_SUPPORT_THREADS_H_
#define DBF_EXPORT_SUPPORT_THREADS_H_

#include <stddef.h>

typedef struct DbfThreads DbfThreads;

// Returns the pool of `owner` (any address; the ops pass their TfLiteContext) with at least
// `threads` threads, the caller's included, and counts the user. NULL if there is no memory or no
// thread. Thread-safe.
DbfThreads* DbfThreadsAcquire(const void* owner, int threads);

// Gives back what DbfThreadsAcquire returned (NULL is fine). The last user ends the threads.
// Thread-safe.
void DbfThreadsRelease(DbfThreads* pool);

// Calls task(argument, i) for all i < tasks, each on a thread of its own, the caller's for i = 0,
// and waits for them. `tasks` is at most the number of threads acquired.
void DbfThreadsCall(DbfThreads* pool, void (*task)(void* argument, int i), void* argument,
                    int tasks);

#endif  // DBF_EXPORT_SUPPORT_THREADS_H_
