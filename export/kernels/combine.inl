// Signed sums of lines (DbfCombine) of one type of number. Defined before it is included, and
// undefined by it: COMBINE, the function's name; NUMBER, VECTOR of COUNT numbers, LOAD, STORE, ADD,
// SUBTRACT; COMBINE_MANY, the function for more than 4 taps.
//
// Ops of one line that follow one another share its loads. Which codes they are, a bit each in
// `mask`, and the number of taps are compile-time constants.

#define CODES DBF_CONCAT(COMBINE, Codes)
#define TAPS DBF_CONCAT(COMBINE, Taps)

INLINE void CODES(const DbfCombine* args, const NUMBER* src, NUMBER* const* dst, const int taps,
                  const int mask) {
  // Stores might change args, for all that the compiler knows.
  const size_t rows = args->rows, width = args->width;
  const size_t src_row = args->src_row, dst_row = args->dst_row;
  const NUMBER *src0 = src + args->offsets[0], *src1 = taps > 1 ? src + args->offsets[1] : NULL,
               *src2 = taps > 2 ? src + args->offsets[2] : NULL,
               *src3 = taps > 3 ? src + args->offsets[3] : NULL;
  NUMBER *dst0 = dst[0], *dst1 = dst[1], *dst2 = dst[2], *dst3 = dst[3];
  for (size_t r = 0, from = 0, to = 0; r < rows; ++r, from += src_row, to += dst_row) {
    for (size_t x = 0; x < width; x += COUNT) {
      const VECTOR a = LOAD(src0 + from + x);
      if (taps == 1) {
        STORE(dst0 + to + x, a);
        continue;
      }
      const VECTOR b = LOAD(src1 + from + x);
      const VECTOR sum = ADD(a, b), difference = SUBTRACT(a, b);
      if (taps == 2) {
        if (mask & 1) STORE(dst0 + to + x, sum);
        if (mask & 2) STORE(dst1 + to + x, difference);
        continue;
      }
      const VECTOR c = LOAD(src2 + from + x);
      if (taps == 3) {
        if (mask & 1) STORE(dst0 + to + x, ADD(sum, c));
        if (mask & 2) STORE(dst1 + to + x, ADD(difference, c));
        if (mask & 4) STORE(dst2 + to + x, SUBTRACT(sum, c));
        continue;
      }
      const VECTOR d = LOAD(src3 + from + x);
      const VECTOR sum2 = ADD(c, d), difference2 = SUBTRACT(c, d);
      if (mask & 1) STORE(dst0 + to + x, ADD(sum, sum2));
      if (mask & 2) STORE(dst1 + to + x, ADD(difference, difference2));
      if (mask & 4) STORE(dst2 + to + x, SUBTRACT(sum, sum2));
      if (mask & 8) STORE(dst3 + to + x, SUBTRACT(difference, difference2));
    }
  }
}

#define MASK(m)                                        \
  case m:                                              \
    if (m < 1 << taps) CODES(args, src, dst, taps, m); \
    break;

INLINE void TAPS(const DbfCombine* args, const int taps) {
  const DbfLineOp *op = args->ops, *end = args->ops + args->num_ops;
  NUMBER* next = args->dst;
  const size_t src_pitch = args->src_pitch, dst_pitch = args->dst_pitch;
  while (op < end) {
    const int32_t source = op->source;
    const NUMBER* src = (const NUMBER*)args->src + (size_t)source * src_pitch;
    NUMBER* dst[4] = {NULL};
    int mask = 0;
    for (; op < end && op->source == source && !(mask >> op->code & 1); ++op) {
      mask |= 1 << op->code;
      dst[op->code] = next;
      next += dst_pitch;
    }
    switch (mask) {
      MASK(1)
      MASK(2)
      MASK(3)
      MASK(4)
      MASK(5)
      MASK(6)
      MASK(7)
      MASK(8)
      MASK(9)
      MASK(10)
      MASK(11)
      MASK(12)
      MASK(13)
      MASK(14)
      MASK(15)
    }
  }
}

static void COMBINE(const DbfCombine* args) {
  switch (args->taps) {
    case 1:
      return TAPS(args, 1);
    case 2:
      return TAPS(args, 2);
    case 3:
      return TAPS(args, 3);
    case 4:
      return TAPS(args, 4);
    default:
      return COMBINE_MANY(args);
  }
}

#undef CODES
#undef TAPS
#undef MASK
#undef COMBINE
#undef COMBINE_MANY
#undef NUMBER
#undef VECTOR
#undef COUNT
#undef LOAD
#undef STORE
#undef ADD
#undef SUBTRACT
