// Signed sums of lines (DbfCombine) of one type of number. A file that includes this defines
// before, and this undefines: COMBINE, the function's name; NUMBER, VECTOR of COUNT numbers, LOAD,
// STORE, ADD, SUBTRACT; COMBINE_MANY, the function for more than 4 taps.
//
// Ops of one line that follow one another share its loads. Their codes, a bit each in `mask`, and
// the number of taps are compile-time constants.

#define CODES DBF_CONCAT(COMBINE, Codes)
#define TAPS DBF_CONCAT(COMBINE, Taps)
#define VECTORS DBF_CONCAT(COMBINE, Vectors)

// Computes one vector of each code's line.
INLINE void VECTORS(const NUMBER* const* src, NUMBER* const* dst, size_t from, size_t to,
                    const int taps, const int mask) {
  const VECTOR a = LOAD(src[0] + from);
  if (taps == 1) {
    STORE(dst[0] + to, a);
    return;
  }
  const VECTOR b = LOAD(src[1] + from);
  const VECTOR sum = ADD(a, b), difference = SUBTRACT(a, b);
  if (taps == 2) {
    if (mask & 1) STORE(dst[0] + to, sum);
    if (mask & 2) STORE(dst[1] + to, difference);
    return;
  }
  const VECTOR c = LOAD(src[2] + from);
  if (taps == 3) {
    if (mask & 1) STORE(dst[0] + to, ADD(sum, c));
    if (mask & 2) STORE(dst[1] + to, ADD(difference, c));
    if (mask & 4) STORE(dst[2] + to, SUBTRACT(sum, c));
    return;
  }
  const VECTOR d = LOAD(src[3] + from);
  const VECTOR sum2 = ADD(c, d), difference2 = SUBTRACT(c, d);
  if (mask & 1) STORE(dst[0] + to, ADD(sum, sum2));
  if (mask & 2) STORE(dst[1] + to, ADD(difference, difference2));
  if (mask & 4) STORE(dst[2] + to, SUBTRACT(sum, sum2));
  if (mask & 8) STORE(dst[3] + to, SUBTRACT(difference, difference2));
}

INLINE void CODES(const DbfCombine* args, const NUMBER* src, NUMBER* const* dst, const int taps,
                  const int mask) {
  // Stores might change args, for all that the compiler knows.
  const size_t spans = args->spans, width = args->width;
  const size_t src_span = args->src_span, dst_span = args->dst_span;
  const NUMBER* from[4];
  NUMBER* to[4];
  UNROLL for (int t = 0; t < taps; ++t) from[t] = src + args->offsets[t];
  UNROLL for (int u = 0; u < taps; ++u) to[u] = dst[u];
  if (width <= COUNT) {
    for (size_t s = 0; s < spans; ++s) VECTORS(from, to, s * src_span, s * dst_span, taps, mask);
    return;
  }
  for (size_t s = 0; s < spans; ++s) {
    for (size_t x = 0; x < width; x += COUNT) {
      VECTORS(from, to, s * src_span + x, s * dst_span + x, taps, mask);
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
    if (taps == 1) {
      dst[0] = next;
      next += dst_pitch;
      ++op;
      CODES(args, src, dst, 1, 1);
      continue;
    }
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
#undef VECTORS
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
