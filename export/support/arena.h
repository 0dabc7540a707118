// Scratch memory that the ops of one interpreter take turns to use: as much as the largest needs.

#ifndef DBF_EXPORT_SUPPORT_ARENA_H_
#define DBF_EXPORT_SUPPORT_ARENA_H_

#include <stddef.h>

typedef struct DbfArena DbfArena;

// Returns the memory of `owner` (any address; the ops pass their TfLiteContext), of at least
// `bytes` bytes, and counts the user. None of its users may use it meanwhile. Returns
// NULL if there is no memory. Thread-safe between owners.
DbfArena* DbfArenaAcquire(const void* owner, size_t bytes);

// Gives back what DbfArenaAcquire returned (NULL is fine). The last user frees it. Thread-safe.
void DbfArenaRelease(DbfArena* arena);

// Its memory, aligned to a cache line. The last user may have left anything in it.
char* DbfArenaMemory(const DbfArena* arena);

// Bytes of all arenas of the process.
size_t DbfArenaHeldBytes(void);

#endif  // DBF_EXPORT_SUPPORT_ARENA_H_
