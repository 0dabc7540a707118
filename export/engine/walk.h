// A walk over the pixels of one phase of rows, several at a time, as they lie side by side in the
// buffer of projected rows: the entries of a row, with columns of padding, then those of the next.
// The first row begins with its first entry that is a column of the image, the last ends with its
// last.

#ifndef DBF_EXPORT_ENGINE_WALK_H_
#define DBF_EXPORT_ENGINE_WALK_H_

#include "engine/stages.h"

typedef struct DbfWalk {
  const DbfConv* conv;
  const DbfRows* rows;
  size_t number;  // bytes of a number
  size_t phase;
  size_t row, entry;
  size_t at;  // where in the buffer `entry` goes
} DbfWalk;

static inline DbfWalk DbfWalkPhase(const DbfConv* conv, const DbfRows* rows, size_t number,
                                   size_t phase) {
  const DbfAxis* axis = &conv->x;
  const size_t remainder = axis->remainder[phase];
  const size_t first = remainder < axis->pad ? DbfDivideUp(axis->pad - remainder, axis->stride) : 0;
  return (DbfWalk){conv, rows, number, phase, 0, first, phase * conv->row_phase_pitch + first};
}

// Fills in the addresses of the next `count` pixels, with `padding` for those outside of the image,
// and where in the buffer they go. Returns false if there are no more.
static inline bool DbfWalkNext(DbfWalk* walk, const void* padding, size_t count,
                               const void** pixels, size_t* at) {
  const DbfConv* conv = walk->conv;
  const DbfRows* rows = walk->rows;
  const DbfAxis* axis = &conv->x;
  // A narrow image is that of a 1 x 1 convolution.
  const size_t in = rows->out < axis->out ? rows->out : axis->in;
  const size_t entries = conv->row_entries, skip = axis->pad - axis->remainder[walk->phase];
  if (walk->row + 1 >= rows->count &&
      (walk->row >= rows->count || walk->entry * axis->stride - skip >= in ||
       walk->entry >= entries)) {
    return false;
  }
  const char* input = (const char*)rows->input + walk->row * rows->stride * walk->number;
  const size_t bytes = conv->plan->rule.channels * walk->number;
  *at = walk->at;
  const size_t start = walk->entry * axis->stride - skip;
  if (walk->entry + count <= entries && start < in && in - start > (count - 1) * axis->stride) {
    const char* pixel = input + start * bytes;  // all are in this row of the image
    for (size_t lane = 0; lane < count; ++lane) pixels[lane] = pixel + lane * axis->stride * bytes;
    walk->entry += count;
    walk->at += count;
    return true;
  }
  for (size_t lane = 0; lane < count; ++lane, ++walk->entry) {
    if (walk->entry == entries) {
      walk->entry = 0;
      ++walk->row;
      input += rows->stride * walk->number;
    }
    // Entries of padding before the image wrap around to large numbers.
    const size_t column = walk->entry * axis->stride - skip;
    pixels[lane] =
        column < in && walk->row < rows->count ? (const void*)(input + column * bytes) : padding;
  }
  walk->at += count;
  return true;
}

#endif  // DBF_EXPORT_ENGINE_WALK_H_
