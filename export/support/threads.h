// Threads that the ops of one interpreter share. These ops are invoked one after the other, so the
// threads have one job at a time. A job is cut into chunks: the caller takes some, and so do those
// workers that have a processor to themselves in time. No other worker is waited for.

#ifndef DBF_EXPORT_SUPPORT_THREADS_H_
#define DBF_EXPORT_SUPPORT_THREADS_H_

#include <stdbool.h>

enum { kDbfMaxShares = 1024, kDbfMaxChunks = 65535 };  // of a job

typedef struct DbfThreads DbfThreads;

// Returns the threads of `owner` (any address; the ops pass their TfLiteContext), at least `count`,
// the caller's included, and counts the user. Returns NULL if there is no memory or no thread.
// Thread-safe. In a child of fork(), which has no thread but the one that forked, the first job
// starts the workers anew.
DbfThreads* DbfThreadsAcquire(const void* owner, int count);

// Gives back what DbfThreadsAcquire returned (NULL is fine). The last user ends the threads.
// Thread-safe.
void DbfThreadsRelease(DbfThreads* threads);

// What a thread takes of a job.
typedef struct DbfShare {
  DbfThreads* threads;  // NULL if the caller works alone
  int slot;             // less than the job's number of shares, 0 for the caller; no other thread's
  int chunks;           // of a caller that works alone, which takes them all at once
} DbfShare;

typedef void DbfTask(void* argument, DbfShare* share);

// Calls task(argument, share) on the caller's thread and on up to `shares` - 1 others, and waits
// until all that were called have returned. Each is to take chunks until there are none: together
// they take every number from 0 to `chunks` - 1 once. `shares` is at most the number of threads
// acquired; NULL is the caller's thread alone.
void DbfThreadsCall(DbfThreads* threads, DbfTask* task, void* argument, int shares, int chunks);

// Takes chunks [*chunk, *end): those after its last where possible, and only as many as leave some
// to others. Returns false if none is left.
bool DbfShareTake(DbfShare* share, int* chunk, int* end);

#endif  // DBF_EXPORT_SUPPORT_THREADS_H_
