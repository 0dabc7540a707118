// Preconditions: what a caller has promised. Debug and sanitizer builds check them and abort with
// the message; release builds, which define NDEBUG, trust the caller.

#ifndef DBF_EXPORT_SUPPORT_REQUIRE_H_
#define DBF_EXPORT_SUPPORT_REQUIRE_H_

#ifdef NDEBUG
#define DBF_REQUIRE(condition, message) ((void)0)
#else
#include <assert.h>
#define DBF_REQUIRE(condition, message) assert((condition) && (message))
#endif

#endif  // DBF_EXPORT_SUPPORT_REQUIRE_H_
