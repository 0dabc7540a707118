// Threads that the ops of one interpreter share. These ops are invoked one after the other, so the
// threads have one job at a time.

#ifndef DBF_EXPORT_SUPPORT_THREADS_H_
#define DBF_EXPORT_SUPPORT_THREADS_H_

typedef struct DbfThreads DbfThreads;

// Returns the threads of `owner` (any address; the ops pass their TfLiteContext), at least `count`,
// the caller's included, and counts the user. Returns NULL if there is no memory or no thread.
// Thread-safe.
DbfThreads* DbfThreadsAcquire(const void* owner, int count);

// Gives back what DbfThreadsAcquire returned (NULL is fine). The last user ends the threads.
// Thread-safe.
void DbfThreadsRelease(DbfThreads* threads);

// Calls task(argument, i) for all i < tasks, each on a thread of its own, the caller's for i = 0,
// and waits for them. `tasks` is at most the number of threads acquired.
void DbfThreadsCall(DbfThreads* threads, void (*task)(void* argument, int i), void* argument,
                    int tasks);

#endif  // DBF_EXPORT_SUPPORT_THREADS_H_
