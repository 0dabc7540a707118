// Absorbing: the coefficients of raw features, from those of the codes. Full channel codes come
// with all spatial codes, and in group form all channel codes are there, so that codes and features
// span the same (rule.h).

#ifndef DBF_EXPORT_PLAN_ABSORB_H_
#define DBF_EXPORT_PLAN_ABSORB_H_

#include "plan/rule.h"

// The coefficients of one filter's raw features, and what is needed to compute them.
typedef struct DbfAbsorber {
  const DbfRule* rule;
  size_t pitch;     // of the taps: `full` rounded up to a power of two
  double* taps;     // [kh·kw, pitch] coefficients of (tap, full channel code) or (tap, group)
  double* scratch;  // [kh·kw, pitch]
} DbfAbsorber;

// Returns false if there is no memory. Whatever it returns, the absorber is to be freed.
bool DbfAbsorberCreate(DbfAbsorber* absorber, const DbfRule* rule);

// Computes the taps of a filter, from alpha or, for an int8 layer, from its integers.
void DbfAbsorb(DbfAbsorber* absorber, const DbfColumns* columns, const DbfLayer* layer,
               size_t filter);

void DbfAbsorberFree(DbfAbsorber* absorber);

#endif  // DBF_EXPORT_PLAN_ABSORB_H_
