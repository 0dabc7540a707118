// The inner loops of int8 layers; included by kernel.inl after the float ones. A kernel file may
// define, for its instruction set, all in terms of the vectors below:
//   DBF_PACK           4 or 2 (the default), with DBF_BIASED and DBF_PLANAR: see DbfKernels
//   DBF_DOT(acc, a, b) acc (I) + products of element a, in every lane (U), with coefficients b (U)
//   DBF_BY_LANE        1 if vectors have 4 lanes and products take one lane of a vector of A:
//                      DBF_DOT_LANE(acc, a, b, lane)
//   DBF_CLAMP16(x, low, high), DBF_CLAMP32   of H, of I
//   DBF_SATURATED_ADD  of two H
//   DBF_ANY(mask)      whether any lane of mask (I) is set

#ifndef DBF_PACK
#define DBF_PACK 2
#define DBF_PLANAR 1
#endif
#ifndef DBF_BIASED
#define DBF_BIASED 0
#endif
#ifndef DBF_PLANAR
#define DBF_PLANAR 0
#endif

typedef uint32_t U __attribute__((vector_size(4 * VL)));
typedef M I;
typedef int16_t H __attribute__((vector_size(4 * VL)));
typedef uint16_t HU __attribute__((vector_size(4 * VL)));
typedef int8_t B __attribute__((vector_size(VL)));

INLINE U LoadU(const void* p) {
  U v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

INLINE void StoreU(void* p, U v) { __builtin_memcpy(p, &v, sizeof(v)); }
INLINE U SplatU(uint32_t x) { return (U){LANES(SAME, x)}; }

// In both int16 halves of every lane.
INLINE H SplatH(int32_t x) { return (H)SplatU((uint16_t)x * 0x10001u); }
INLINE H AddH(H a, H b) { return (H)((HU)a + (HU)b); }
INLINE H SubtractH(H a, H b) { return (H)((HU)a - (HU)b); }

#ifndef DBF_CLAMP16
INLINE H Clamp16(H x, H low, H high) {
  const H below = x<low, above = x> high;
  return (x & ~(below | above)) | (low & below) | (high & above);
}
INLINE I Clamp32(I x, I low, I high) {
  const I below = x<low, above = x> high;
  return (x & ~(below | above)) | (low & below) | (high & above);
}
#define DBF_CLAMP16 Clamp16
#define DBF_CLAMP32 Clamp32
#endif

#ifndef DBF_SATURATED_ADD
INLINE H SaturatedAdd(H a, H b) {
  const H sum = AddH(a, b);
  const H overflow = ((a ^ sum) & (b ^ sum)) >> 15;  // both signs differ from the sum's
  return (sum & ~overflow) | (((a >> 15) ^ SplatH(0x7fff)) & overflow);
}
#define DBF_SATURATED_ADD SaturatedAdd
#endif

#ifndef DBF_ANY
INLINE bool Any(I mask) {
  uint64_t words[VL / 2], any = 0;
  __builtin_memcpy(words, &mask, sizeof(words));
  for (int i = 0; i < VL / 2; ++i) any |= words[i];
  return any != 0;
}
#define DBF_ANY Any
#endif

#ifndef DBF_DOT
// Two int16 features; coefficients [2][VL] of int16.
INLINE I Dot(I acc, U a, U b) {
  typedef int16_t Half __attribute__((vector_size(2 * VL)));
  Half first, second;
  __builtin_memcpy(&first, &b, sizeof(first));
  __builtin_memcpy(&second, (const char*)&b + sizeof(first), sizeof(second));
  return acc + ((I)(a << 16) >> 16) * __builtin_convertvector(first, I) +
         ((I)a >> 16) * __builtin_convertvector(second, I);
}
#define DBF_DOT Dot
#endif

// Four channels a lane from channel c on, of VL pixels, transposed: q[i] has channels c + 4 i...
// Channels that are not there are `rest_value`. Returns how many of q are set, those after that
// have no channel.
INLINE int LoadQuads(const int8_t* const* pixels, size_t stride, size_t channels, size_t c,
                     int rest_value, U* q) {
  const size_t left = channels - c;
  if (left <= 16) {  // blocks of 4 x 4 are enough
    int8_t rest[4][4 * VL];
    if (left == 16) {
      for (int i = 0; i < VL; ++i) memcpy(rest[i % 4] + i / 4 * 16, pixels[i * stride] + c, 16);
    } else {
      memset(rest, rest_value, sizeof(rest));
      for (int i = 0; i < VL; ++i) memcpy(rest[i % 4] + i / 4 * 16, pixels[i * stride] + c, left);
    }
    V r[4];
    UNROLL for (int i = 0; i < 4; ++i) r[i] = (V)LoadU(rest[i]);
    UNROLL for (int h = 1; h < 4; h *= 2) {
      UNROLL for (int i = 0; i < 4; ++i) {
        if (i & h) continue;
        const V lower = h == 1 ? SHUFFLE(r[i], r[i + h], LANES(LOWER, 1))
                               : SHUFFLE(r[i], r[i + h], LANES(LOWER, 2));
        r[i + h] = h == 1 ? SHUFFLE(r[i], r[i + h], LANES(UPPER, 1))
                          : SHUFFLE(r[i], r[i + h], LANES(UPPER, 2));
        r[i] = lower;
      }
    }
    UNROLL for (int i = 0; i < 4; ++i) q[i] = (U)r[i];
    return 4;
  }
  V r[VL];
  if (left >= 4 * VL) {
    UNROLL for (int i = 0; i < VL; ++i) r[i] = (V)LoadU(pixels[i * stride] + c);
  } else {
    int8_t rest[VL][4 * VL];
    memset(rest, rest_value, sizeof(rest));
    for (int i = 0; i < VL; ++i) memcpy(rest[i], pixels[i * stride] + c, left);
    UNROLL for (int i = 0; i < VL; ++i) r[i] = (V)LoadU(rest[i]);
  }
  STAGE(r, 1, 0, false, false)
  STAGE(r, 2, 0, false, false)
#if DBF_LOG2_VECTOR > 2
  STAGE(r, 4, 0, false, false)
#endif
#if DBF_LOG2_VECTOR > 3
  STAGE(r, 8, 0, false, false)
#endif
  UNROLL for (int i = 0; i < VL; ++i) q[i] = (U)r[i];
  return VL;
}

// Feature `lane` of an element, of numbers that fit int8.
INLINE U ToElement(U element, U feature, int lane) {
#if DBF_PACK == 4
#if DBF_BIASED
  feature += SplatU(128);
#endif
  return element | (feature & SplatU(0xff)) << (8 * lane);
#else
  return element | (feature & SplatU(0xffff)) << (16 * lane);
#endif
}

// An element that is being filled, and where it goes.
typedef struct Elements {
  U element;
  int filled;
  size_t left;  // features still to come; more are dropped
  uint32_t* dst;
  size_t pitch;
  int32_t input_zero;
  int32_t add;
  int right;
} Elements;

// `sum` is that of so many channels, with 128 added to each.
INLINE void Emit(Elements* e, U sum, int32_t channels) {
  if (e->left == 0) return;
  --e->left;
  I value = (I)(sum + SplatU((uint32_t)(e->add - (128 + e->input_zero) * channels))) >> e->right;
  value = DBF_CLAMP32(value, (I)SplatU((uint32_t)-128), (I)SplatU(127));
  e->element = ToElement(e->filled > 0 ? e->element : SplatU(0), (U)value, e->filled);
  if (++e->filled < DBF_PACK && e->left > 0) return;
  StoreU(e->dst, e->element);
  e->dst += e->pitch;
  e->filled = 0;
}

// `low` = min(shift, 2) is a compile-time constant.
INLINE void RunsOf(const int8_t* const* pixels, size_t channels, int shift, Elements e,
                   const int low) {
  const U even = SplatU(0x00ff00ff), half = SplatU(0xffff), bias = SplatU(0x80808080u);
  U sum = SplatU(0), halves = SplatU(0);
  int32_t quads = 0;
  const int32_t run = low == 2 ? shift < 24 ? 1 << (shift - 2) : 1 << 22 : 1;
  for (size_t c = 0; c < channels; c += 4 * VL) {
    U q[VL];
    const int count = LoadQuads(pixels, 1, channels, c, e.input_zero, q);
#if DBF_PACK == 4
    if (low == 0 && e.add == e.input_zero && e.right == 0) {  // the channels themselves
      for (int i = 0; i < count && c + 4 * i < channels; ++i, e.dst += e.pitch) {
        StoreU(e.dst, DBF_BIASED ? q[i] ^ bias : q[i]);
      }
      continue;
    }
#endif
    for (int i = 0; i < count && e.left > 0; ++i) {
      const U x = q[i] ^ bias;
      if (low == 0) {
        for (int b = 0; b < 4; ++b) Emit(&e, (x >> (8 * b)) & SplatU(0xff), 1);
        continue;
      }
      const U pairs = (x & even) + ((x >> 8) & even);
      if (low == 1) {
        Emit(&e, pairs & half, 2);
        Emit(&e, pairs >> 16, 2);
        continue;
      }
      halves += pairs;
      ++quads;
      if (quads % 64 == 0 || quads == run) {  // before the halves overflow
        sum += (halves & half) + (halves >> 16);
        halves = SplatU(0);
      }
      if (quads == run) {
        Emit(&e, sum, 4 * quads);
        sum = SplatU(0);
        quads = 0;
      }
    }
  }
  if (low == 2 && quads > 0) Emit(&e, sum + (halves & half) + (halves >> 16), 4 * quads);
}

// The same for runs of 4 * `run` channels, a compile-time constant, of which a vector's channels
// are whole elements.
INLINE void WholeRuns(const int8_t* const* pixels, size_t channels, Elements e, const int run) {
  const U even = SplatU(0x00ff00ff), half = SplatU(0xffff), bias = SplatU(0x80808080u);
  const U add = SplatU((uint32_t)(e.add - (128 + e.input_zero) * 4 * run));
  const I low = (I)SplatU((uint32_t)-128), high = (I)SplatU(127);
  for (size_t c = 0; c < channels; c += 4 * VL) {
    U q[VL] = {{0}};
    LoadQuads(pixels, 1, channels, c, 0, q);
    UNROLL for (int i = 0; i < VL; i += run * DBF_PACK) {
      U element = SplatU(0);
      UNROLL for (int lane = 0; lane < DBF_PACK; ++lane) {
        U halves = SplatU(0);
        UNROLL for (int j = 0; j < run; ++j) {
          const U x = q[(i + lane * run + j) % VL] ^ bias;
          halves += (x & even) + ((x >> 8) & even);
        }
        const I value = (I)((halves & half) + (halves >> 16) + add) >> e.right;
        element = ToElement(element, (U)DBF_CLAMP32(value, low, high), lane);
      }
      StoreU(e.dst, element);
      e.dst += e.pitch;
    }
  }
}

static void Runs(const int8_t* const* pixels, size_t channels, int shift, int32_t input_zero,
                 int32_t add, int right, uint32_t* dst, size_t pitch) {
  const Elements e = {SplatU(0), 0,    ((channels - 1) >> shift) + 1, dst, pitch, input_zero,
                      add,       right};
  const bool whole = channels % (4 * VL) == 0;
  if (whole && shift == 2 && DBF_PACK <= VL) return WholeRuns(pixels, channels, e, 1);
  if (whole && shift == 3 && 2 * DBF_PACK <= VL) return WholeRuns(pixels, channels, e, 2);
  if (whole && shift == 4 && 4 * DBF_PACK <= VL) return WholeRuns(pixels, channels, e, 4);
  if (shift == 0) {
    RunsOf(pixels, channels, shift, e, 0);
  } else if (shift == 1) {
    RunsOf(pixels, channels, shift, e, 1);
  } else {
    RunsOf(pixels, channels, shift, e, 2);
  }
}

INLINE void TransposeInt16Of(const int8_t* const* pixels, size_t channels, int16_t* dst,
                             const int low) {
  const U half = SplatU(0xffff);
  for (size_t c = 0; c < channels; c += 4 * VL) {
    // Even and odd pixels, so that their int16 interleave in order.
    U even[VL], odd[VL];
    const int count = LoadQuads(pixels, 2, channels, c, 0, even);
    LoadQuads(pixels + 1, 2, channels, c, 0, odd);
    for (int i = 0; i < count; ++i) {
      // Channels 0, 2 and 1, 3 of the four, sign-extended in the halves of each lane.
      const H e0 = (H)(even[i] << 8) >> 8, e1 = (H)even[i] >> 8;
      const H o0 = (H)(odd[i] << 8) >> 8, o1 = (H)odd[i] >> 8;
      const U es = (U)AddH(e0, e1), os = (U)AddH(o0, o1);
      const H s0 = (H)((es & half) | (os << 16)), s1 = (H)((es >> 16) | (os & ~half));
      StoreU(dst, (U)AddH(s0, s1));
      dst += 2 * VL;
      if (low == 2) continue;
      if (low == 0) {
        const U ed = (U)SubtractH(e0, e1), od = (U)SubtractH(o0, o1);
        const H d0 = (H)((ed & half) | (od << 16)), d1 = (H)((ed >> 16) | (od & ~half));
        StoreU(dst, (U)AddH(d0, d1));
        StoreU(dst + 4 * VL, (U)SubtractH(d0, d1));
        dst += 2 * VL;
      }
      StoreU(dst, (U)SubtractH(s0, s1));
      dst += low == 0 ? 4 * VL : 2 * VL;
    }
  }
}

static void TransposeInt16(const int8_t* const* pixels, size_t channels, int shift, int16_t* dst) {
  if (shift == 0) {
    TransposeInt16Of(pixels, channels, dst, 0);
  } else if (shift == 1) {
    TransposeInt16Of(pixels, channels, dst, 1);
  } else {
    TransposeInt16Of(pixels, channels, dst, 2);
  }
}

static void HadamardInt16(int16_t* data, size_t first, size_t rows, size_t halving) {
  size_t h = first;
  const size_t plain = rows < halving ? rows : halving;
  for (; 4 * h <= plain; h *= 4) {  // two distances in one pass
    for (size_t i = 0; i < rows; i += 4 * h) {
      for (size_t j = i; j < i + h; ++j) {
        int16_t* p = data + j * 2 * VL;
        const H a = (H)LoadU(p), b = (H)LoadU(p + h * 2 * VL), c = (H)LoadU(p + 2 * h * 2 * VL),
                d = (H)LoadU(p + 3 * h * 2 * VL);
        const H ab = AddH(a, b), ba = SubtractH(a, b), cd = AddH(c, d), dc = SubtractH(c, d);
        StoreU(p, (U)AddH(ab, cd));
        StoreU(p + h * 2 * VL, (U)AddH(ba, dc));
        StoreU(p + 2 * h * 2 * VL, (U)SubtractH(ab, cd));
        StoreU(p + 3 * h * 2 * VL, (U)SubtractH(ba, dc));
      }
    }
  }
  for (; h < rows; h *= 2) {
    const int half = h >= halving;
    for (size_t i = 0; i < rows; i += 2 * h) {
      for (size_t j = i; j < i + h; ++j) {
        int16_t* p = data + j * 2 * VL;
        const H a = (H)LoadU(p) >> half, b = (H)LoadU(p + h * 2 * VL) >> half;
        StoreU(p, (U)AddH(a, b));
        StoreU(p + h * 2 * VL, (U)SubtractH(a, b));
      }
    }
  }
}

// A sum of shifted copies of a line: `taps` is a compile-time constant up to 4, or any number if
// `many`.
typedef struct Sum {
  const int16_t* src[4];
  H mask[4];  // −1 where a tap is subtracted: −x = (x ^ −1) + 1
  H start;
  const int16_t* line;
  const DbfMasks* masks;
} Sum;

INLINE Sum MakeSum(const int16_t* src, size_t pitch, const size_t* offsets, const DbfMasks* signs,
                   int taps, DbfLineOp op, const bool many) {
  Sum sum = {.line = src + (size_t)op.source * pitch,
             .masks = signs + (size_t)op.code * (taps + 1)};
  if (many) return sum;
  UNROLL for (int t = 0; t < taps; ++t) {
    sum.src[t] = sum.line + offsets[t];
    sum.mask[t] = (H)SplatU(sum.masks[t]);
  }
  sum.start = (H)SplatU(sum.masks[taps]);
  return sum;
}

INLINE H SumAt(const Sum* sum, const size_t* offsets, int taps, size_t x, const bool many) {
  if (many) {
    H result = (H)SplatU(sum->masks[taps]);
    for (int t = 0; t < taps; ++t) {
      result = AddH(result, (H)LoadU(sum->line + offsets[t] + x) ^ (H)SplatU(sum->masks[t]));
    }
    return result;
  }
  H result = (H)LoadU(sum->src[0] + x);
  if (taps == 1) return result;
  result = AddH(result, sum->start);
  UNROLL for (int t = 1; t < taps; ++t) {
    result = AddH(result, (H)LoadU(sum->src[t] + x) ^ sum->mask[t]);
  }
  return result;
}

static void CombineInt16Many(const DbfCombine* args) {
  for (size_t i = 0; i < args->num_ops; ++i) {
    const Sum sum = MakeSum(args->src, args->src_pitch, args->offsets, args->signs, args->taps,
                            args->ops[i], true);
    int16_t* dst = (int16_t*)args->dst + i * args->dst_pitch;
    for (size_t r = 0, src = 0; r < args->rows; ++r, src += args->src_row, dst += args->dst_row) {
      for (size_t x = 0; x < args->width; x += 2 * VL) {
        StoreU(dst + x, (U)SumAt(&sum, args->offsets, args->taps, src + x, true));
      }
    }
  }
}

INLINE H LoadH(const int16_t* p) { return (H)LoadU(p); }
INLINE void StoreH(int16_t* p, H v) { StoreU(p, (U)v); }
#define COMBINE CombineInt16
#define COMBINE_MANY CombineInt16Many
#define NUMBER int16_t
#define VECTOR H
#define COUNT (2 * VL)
#define LOAD LoadH
#define STORE StoreH
#define ADD AddH
#define SUBTRACT SubtractH
#include "kernels/combine.inl"

INLINE H NarrowOne(H x, const DbfNarrow* op, const bool both, H low, H high) {
  x = DBF_SATURATED_ADD(x, (H)SplatU(op->add[0]));
  if (both) x = DBF_SATURATED_ADD(x, (H)SplatU(op->add[1]));
  return DBF_CLAMP16(x >> op->shift, low, high);
}

static void Narrow(const DbfNarrow* ops, size_t num_ops, int bound, const int16_t* src,
                   int16_t* dst, size_t dst_pitch) {
  const H low = SplatH(-bound), high = SplatH(bound);
  for (size_t i = 0; i < num_ops; ++i) {
    const H x = (H)LoadU(src + (size_t)ops[i].line.source * 2 * VL);
    StoreU(dst + i * dst_pitch, (U)NarrowOne(x, &ops[i], true, low, high));
  }
}

// As many int8 as H has int16.
typedef int8_t HB __attribute__((vector_size(2 * VL)));

static void Widen(const int8_t* src, int32_t less, int16_t* dst, size_t count) {
  size_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL) {
    HB x;
    __builtin_memcpy(&x, src + i, sizeof(x));
    StoreH(dst + i, SubtractH(__builtin_convertvector(x, H), SplatH(less)));
  }
  for (; i < count; ++i) dst[i] = (int16_t)(src[i] - less);
}

static void AddInt16(const int16_t* a, const int16_t* b, int16_t* sum, size_t count) {
  size_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL) StoreH(sum + i, AddH(LoadH(a + i), LoadH(b + i)));
  for (; i < count; ++i) sum[i] = (int16_t)(a[i] + b[i]);
}

static void NarrowSums(const int16_t* sums, int shift, int32_t zero, int8_t* dst, size_t count) {
  const int round = shift > 0, floor = shift - round;
  const int32_t low = -128 - zero, high = 127 - zero;
  size_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL) {
    const H x = AddH(LoadH(sums + i) >> floor, SplatH(round)) >> round;
    const H clamped = AddH(DBF_CLAMP16(x, SplatH(low), SplatH(high)), SplatH(zero));
    const HB bytes = __builtin_convertvector(clamped, HB);
    __builtin_memcpy(dst + i, &bytes, sizeof(bytes));
  }
  for (; i < count; ++i) {
    const int32_t x = ((sums[i] >> floor) + round) >> round;
    dst[i] = (int8_t)((x < low ? low : x > high ? high : x) + zero);
  }
}

// The lanes of two vectors alternating: of their first halves, and of their second halves.
#define ZIP_FIRST(h, lane) ((lane) / 2 + (lane) % 2 * VL)
#define ZIP_SECOND(h, lane) (VL / 2 + (lane) / 2 + (lane) % 2 * VL)

INLINE void FeaturesOf(const DbfFeatures* args, const int taps, const bool many) {
  const U half = SplatU(0xffff);
  const H low = SplatH(-128), high = SplatH(127);
  for (size_t e = 0; e < args->num_elements; ++e) {
    const DbfNarrow* op = args->ops + e * DBF_PACK;
    Sum sum[DBF_PACK];
    UNROLL for (int i = 0; i < DBF_PACK; ++i) {
      sum[i] =
          MakeSum(args->src, args->src_pitch, args->offsets, args->signs, taps, op[i].line, many);
    }
    uint32_t* dst = args->dst + e * args->dst_pitch;
    for (size_t x = 0; x < args->width; x += 2 * VL) {
      H f[DBF_PACK];
      UNROLL for (int i = 0; i < DBF_PACK; ++i) {
        f[i] =
            NarrowOne(SumAt(&sum[i], args->offsets, taps, x, many), &op[i], taps == 1, low, high);
      }
#if DBF_PACK == 4
#if DBF_BIASED
      UNROLL for (int i = 0; i < DBF_PACK; ++i) f[i] = AddH(f[i], SplatH(128));
#endif
      const U bytes = SplatU(0x00ff00ff);
      const U first = ((U)f[0] & bytes) | (U)((HU)f[1] << 8);
      const U second = ((U)f[2] & bytes) | (U)((HU)f[3] << 8);
#else
      const U first = (U)f[0], second = (U)f[1];
#endif
      const U even = (first & half) | (second << 16), odd = (first >> 16) | (second & ~half);
      StoreU(dst + x, (U)SHUFFLE((V)even, (V)odd, LANES(ZIP_FIRST, 0)));
      StoreU(dst + x + VL, (U)SHUFFLE((V)even, (V)odd, LANES(ZIP_SECOND, 0)));
    }
  }
}

static void Features(const DbfFeatures* args) {
  switch (args->taps) {
    case 1:
      return FeaturesOf(args, 1, false);
    case 2:
      return FeaturesOf(args, 2, false);
    case 3:
      return FeaturesOf(args, 3, false);
    case 4:
      return FeaturesOf(args, 4, false);
    default:
      return FeaturesOf(args, args->taps, true);
  }
}

// TFLite's MultiplyByQuantizedMultiplier for multipliers below 1: the product is rounded to 31
// bits, halves up, then to the result, halves away from zero.
static int32_t Requantize(int32_t acc, int32_t multiplier, int32_t right_shift) {
  const int32_t high = (int32_t)(((int64_t)acc * multiplier + (1 << 30)) >> 31);
  const int32_t mask = (int32_t)((1ll << right_shift) - 1);
  const int32_t threshold = (mask >> 1) + (high < 0);
  return (high >> right_shift) + ((high & mask) > threshold);
}

// The lanes of a vector of sums that are too close to a tie (`near` is negative), exactly.
static __attribute__((noinline)) void RequantizeExactly(const DbfGemmInt8* g, I sum, I near,
                                                        size_t k, int8_t* out) {
  for (int i = 0; i < VL; ++i) {
    if (near[i] >= 0) continue;
    int32_t value = g->zero + Requantize(sum[i], g->multiplier[k + i], g->right_shift[k + i]);
    value = value < g->low ? g->low : value;
    out[i] = (int8_t)(value > g->high ? g->high : value);
  }
}

// The sums `acc` [rows, vectors * VL] of a tile to `out`. They are rounded as floats: adding 1.5 *
// 2^23 leaves the integer in the low bits. Where that is too close to a tie, once more exactly.
static __attribute__((noinline)) void RequantizeTile(const DbfGemmInt8* g, const int32_t* acc,
                                                     int rows, int8_t* out, size_t out_pitch) {
  const float start = 12582912.0f;
  const V magic = Splat(start + (float)g->zero);
  const I low = (I)Splat(start + (float)g->low), high = (I)Splat(start + (float)g->high);
  const I absolute = (I)SplatU(0x7fffffff);
  // Stores might change *g, for all that the compiler knows.
  const size_t width = (size_t)g->vectors * VL;
  const int last_shift = g->last_shift;
  const bool shifted = g->shifted;
  for (size_t k = 0; k < width; k += VL) {
    const V scale = (V)LoadU(g->scale + k);
    const I limit = (I)LoadU(g->limit + k);  // as bits, which order like the numbers
    const I bias = (I)LoadU(g->bias + k);
    const int32_t* from = acc + k;
    int8_t* to = out + k;
    for (int i = rows; i > 0; --i, from += width, to += out_pitch) {
      I sum = (I)LoadU(from);
      if (shifted) sum = (sum << last_shift) + bias;
      const V value = __builtin_convertvector(sum, V);
      const V rounded = value * scale + magic;
      const V distance = value * scale - (rounded - magic);
      const I near = limit - ((I)distance & absolute);  // negative if too close
      const B narrow = __builtin_convertvector(DBF_CLAMP32((I)rounded, low, high), B);
      __builtin_memcpy(to, &narrow, sizeof(narrow));
      if (__builtin_expect(DBF_ANY(near & ~absolute), 0)) RequantizeExactly(g, sum, near, k, to);
    }
  }
}

INLINE void TileInt8(const DbfGemmInt8* g, size_t pixel, int8_t* out, size_t out_pitch,
                     const int rows, const int vectors, const bool shifted) {
  const bool two = vectors > 1;
  I sum0[DBF_ROWS], sum1[DBF_ROWS];
  UNROLL for (int i = 0; i < rows; ++i) {
    sum0[i] = shifted ? (I)SplatU(0) : (I)LoadU(g->bias);
    if (two) sum1[i] = shifted ? (I)SplatU(0) : (I)LoadU(g->bias + VL);
  }
  const char* b = g->b;
  for (const DbfSlice* slice = g->slices; slice < g->slices + g->num_slices; ++slice) {
    if (shifted) {
      UNROLL for (int i = 0; i < rows; ++i) {
        sum0[i] <<= slice->shift;
        if (two) sum1[i] <<= slice->shift;
      }
    }
    const uint32_t* a = slice->a + pixel;
    for (size_t d = slice->depth; d > 0; --d) {
      const U b0 = LoadU(b), b1 = two ? LoadU(b + 4 * VL) : b0;
      U several = b0;
      UNROLL for (int i = 0; i < rows; ++i) {
        if (DBF_BY_LANE && i % VL == 0) several = LoadU(a + i);
        const U x = DBF_BY_LANE ? several : SplatU(a[i]);
        sum0[i] = DBF_DOT_LANE(sum0[i], x, b0, i % VL);
        if (two) sum1[i] = DBF_DOT_LANE(sum1[i], x, b1, i % VL);
      }
      a += slice->a_pitch;
      b += vectors * 4 * VL;
    }
  }
  int32_t acc[DBF_ROWS * 2 * VL] __attribute__((aligned(4 * VL)));
  UNROLL for (int i = 0; i < rows; ++i) {
    StoreU(acc + i * vectors * VL, (U)sum0[i]);
    if (two) StoreU(acc + i * vectors * VL + VL, (U)sum1[i]);
  }
  RequantizeTile(g, acc, rows, out, out_pitch);
}

// Shifts are a case of their own: where there are none, the compiler keeps all sums in registers.
#define TILE_INT8_OF(rows, vectors)                                                       \
  static void TileInt8##rows##x##vectors(const DbfGemmInt8* g, size_t pixel, int8_t* out, \
                                         size_t out_pitch) {                              \
    if (g->shifted) {                                                                     \
      TileInt8(g, pixel, out, out_pitch, rows, vectors, true);                            \
    } else {                                                                              \
      TileInt8(g, pixel, out, out_pitch, rows, vectors, false);                           \
    }                                                                                     \
  }
#define TILE_INT8(rows) TILE_INT8_OF(rows, 1) TILE_INT8_OF(rows, 2)
#define TILE_INT8_ENTRY(rows) {TileInt8##rows##x1, TileInt8##rows##x2},

TILES(TILE_INT8)

typedef void TileInt8Function(const DbfGemmInt8* g, size_t pixel, int8_t* out, size_t out_pitch);
static TileInt8Function* const kTilesInt8[DBF_ROWS][2] = {TILES(TILE_INT8_ENTRY)};

static void GemmInt8(const DbfGemmInt8* g) {
  const DbfTiles tiles = DbfCutTiles(g->pixels, DBF_ROWS, VL);
  for (size_t t = 0, p = 0; t < tiles.count; ++t) {
    const size_t rows = tiles.rows + (t < tiles.longer);
    TileInt8Function* tile = kTilesInt8[rows - 1][g->vectors - 1];
    int8_t* out = g->out + p * g->out_pitch;
    if (g->columns == (size_t)g->vectors * VL) {
      tile(g, p, out, g->out_pitch);
    } else {  // the last panel goes through a buffer of whole vectors
      int8_t buffer[DBF_ROWS][2 * VL];
      tile(g, p, buffer[0], 2 * VL);
      for (size_t i = 0; i < rows; ++i) memcpy(out + i * g->out_pitch, buffer[i], g->columns);
    }
    p += rows;
  }
}
