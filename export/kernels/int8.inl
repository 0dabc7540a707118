// The micro-kernels of int8 layers; kernel.inl includes this file after the float ones. A kernel
// file may define, for its instruction set:
//   DBF_PACK           4 or 2 (the default), with DBF_BIASED and DBF_PLANAR: see DbfKernels
//   DBF_DOT(acc, a, b) acc (VecI32) plus the products of element a, which is in every lane
//   (VecU32),
//                      with coefficients b (VecU32)
//   DBF_BY_LANE        1 if vectors have 4 lanes and products take one lane of a vector of A, as
//                      DBF_DOT_LANE(acc, a, b, lane) does
//   DBF_CLAMP16(x, low, high), DBF_CLAMP32   for VecI16, for VecI32
//   DBF_SATURATED_ADD(a, b)                  for VecI16
//   DBF_ANY(mask)      whether any lane of mask (VecI32) is set

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

// Vectors as large as VecF32; quarters and halves of one, which have as many int8 as VecI32 has
// int32 and as VecI16 has int16.
typedef uint32_t VecU32 __attribute__((vector_size(4 * VL)));
typedef int16_t VecI16 __attribute__((vector_size(4 * VL)));
typedef uint16_t VecU16 __attribute__((vector_size(4 * VL)));
typedef int8_t QuarterI8 __attribute__((vector_size(VL)));
typedef int8_t HalfI8 __attribute__((vector_size(2 * VL)));
typedef int16_t HalfI16 __attribute__((vector_size(2 * VL)));

INLINE VecU32 LoadU32(const void* p) {
  VecU32 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

INLINE void StoreU32(void* p, VecU32 v) { __builtin_memcpy(p, &v, sizeof(v)); }
INLINE VecU32 SplatU32(uint32_t x) { return (VecU32){LANES(SAME, x)}; }

// x in both int16 halves of every lane.
INLINE VecI16 SplatI16(int32_t x) { return (VecI16)SplatU32((uint16_t)x * 0x10001u); }
INLINE VecI16 AddI16(VecI16 a, VecI16 b) { return (VecI16)((VecU16)a + (VecU16)b); }
INLINE VecI16 SubtractI16(VecI16 a, VecI16 b) { return (VecI16)((VecU16)a - (VecU16)b); }

#ifndef DBF_CLAMP16
INLINE VecI16 Clamp16(VecI16 x, VecI16 low, VecI16 high) {
  const VecI16 below = x<low, above = x> high;
  return (x & ~(below | above)) | (low & below) | (high & above);
}
INLINE VecI32 Clamp32(VecI32 x, VecI32 low, VecI32 high) {
  const VecI32 below = x<low, above = x> high;
  return (x & ~(below | above)) | (low & below) | (high & above);
}
#define DBF_CLAMP16 Clamp16
#define DBF_CLAMP32 Clamp32
#endif

#ifndef DBF_SATURATED_ADD
INLINE VecI16 SaturatedAdd(VecI16 a, VecI16 b) {
  const VecI16 sum = AddI16(a, b);
  const VecI16 overflow = ((a ^ sum) & (b ^ sum)) >> 15;  // both signs differ from the sum's
  return (sum & ~overflow) | (((a >> 15) ^ SplatI16(0x7fff)) & overflow);
}
#define DBF_SATURATED_ADD SaturatedAdd
#endif

#ifndef DBF_ANY
INLINE bool Any(VecI32 mask) {
  uint64_t words[VL / 2], any = 0;
  __builtin_memcpy(words, &mask, sizeof(words));
  for (int i = 0; i < VL / 2; ++i) any |= words[i];
  return any != 0;
}
#define DBF_ANY Any
#endif

#ifndef DBF_DOT
// The products of two int16 features with coefficients [2][VL] of int16.
INLINE VecI32 Dot(VecI32 acc, VecU32 a, VecU32 b) {
  HalfI16 first, second;
  __builtin_memcpy(&first, &b, sizeof(first));
  __builtin_memcpy(&second, (const char*)&b + sizeof(first), sizeof(second));
  return acc + ((VecI32)(a << 16) >> 16) * __builtin_convertvector(first, VecI32) +
         ((VecI32)a >> 16) * __builtin_convertvector(second, VecI32);
}
#define DBF_DOT Dot
#endif

// Loads four channels a lane from channel c on, of VL pixels, transposed: q[i] has the channels
// from c + 4 i on. Channels that are not there are `rest_value`. Returns how many of q are set;
// those after that have no channel.
INLINE int LoadQuads(const int8_t* const* pixels, size_t stride, size_t channels, size_t c,
                     int rest_value, VecU32* q) {
  const size_t left = channels - c;
  if (left <= 16) {  // blocks of 4 x 4 are enough
    int8_t rest[4][4 * VL];
    if (left == 16) {
      for (int i = 0; i < VL; ++i) memcpy(rest[i % 4] + i / 4 * 16, pixels[i * stride] + c, 16);
    } else {
      memset(rest, rest_value, sizeof(rest));
      for (int i = 0; i < VL; ++i) memcpy(rest[i % 4] + i / 4 * 16, pixels[i * stride] + c, left);
    }
    VecF32 r[4];
    UNROLL for (int i = 0; i < 4; ++i) r[i] = (VecF32)LoadU32(rest[i]);
    UNROLL for (int h = 1; h < 4; h *= 2) {
      UNROLL for (int i = 0; i < 4; ++i) {
        if (i & h) continue;
        const VecF32 lower = h == 1 ? SHUFFLE(r[i], r[i + h], LANES(LOWER, 1))
                                    : SHUFFLE(r[i], r[i + h], LANES(LOWER, 2));
        r[i + h] = h == 1 ? SHUFFLE(r[i], r[i + h], LANES(UPPER, 1))
                          : SHUFFLE(r[i], r[i + h], LANES(UPPER, 2));
        r[i] = lower;
      }
    }
    UNROLL for (int i = 0; i < 4; ++i) q[i] = (VecU32)r[i];
    return 4;
  }
  VecF32 r[VL];
  if (left >= 4 * VL) {
    UNROLL for (int i = 0; i < VL; ++i) r[i] = (VecF32)LoadU32(pixels[i * stride] + c);
  } else {
    int8_t rest[VL][4 * VL];
    memset(rest, rest_value, sizeof(rest));
    for (int i = 0; i < VL; ++i) memcpy(rest[i], pixels[i * stride] + c, left);
    UNROLL for (int i = 0; i < VL; ++i) r[i] = (VecF32)LoadU32(rest[i]);
  }
  STAGE(r, 1, 0, false, false)
  STAGE(r, 2, 0, false, false)
#if DBF_LOG2_VECTOR > 2
  STAGE(r, 4, 0, false, false)
#endif
#if DBF_LOG2_VECTOR > 3
  STAGE(r, 8, 0, false, false)
#endif
  UNROLL for (int i = 0; i < VL; ++i) q[i] = (VecU32)r[i];
  return VL;
}

// The element with one more feature, number `lane`, which fits int8.
INLINE VecU32 ToElement(VecU32 element, VecU32 feature, int lane) {
#if DBF_PACK == 4
#if DBF_BIASED
  feature += SplatU32(128);
#endif
  return element | (feature & SplatU32(0xff)) << (8 * lane);
#else
  return element | (feature & SplatU32(0xffff)) << (16 * lane);
#endif
}

// An element of group sums that is being filled, and where it and those after it go.
typedef struct Elements {
  VecU32 element;
  int filled;   // features that it has
  size_t left;  // features still to come; more are dropped
  uint32_t* dst;
  size_t pitch;
  int32_t input_zero;
  int32_t add;
  int right;
} Elements;

// Makes a feature of a group sum, that of so many channels with 128 added to each.
INLINE void PutGroup(Elements* e, VecU32 sum, int32_t channels) {
  if (e->left == 0) return;
  --e->left;
  VecI32 value =
      (VecI32)(sum + SplatU32((uint32_t)(e->add - (128 + e->input_zero) * channels))) >> e->right;
  value = DBF_CLAMP32(value, (VecI32)SplatU32((uint32_t)-128), (VecI32)SplatU32(127));
  e->element = ToElement(e->filled > 0 ? e->element : SplatU32(0), (VecU32)value, e->filled);
  if (++e->filled < DBF_PACK && e->left > 0) return;
  StoreU32(e->dst, e->element);
  e->dst += e->pitch;
  e->filled = 0;
}

// Group features for groups of any size. `low` = min(shift, 2) is a compile-time constant.
INLINE void GroupFeaturesOf(const int8_t* const* pixels, size_t channels, int shift, Elements e,
                            const int low) {
  const VecU32 even = SplatU32(0x00ff00ff), half = SplatU32(0xffff), bias = SplatU32(0x80808080u);
  VecU32 sum = SplatU32(0), halves = SplatU32(0);
  int32_t quads = 0;
  const int32_t group_quads = low == 2 ? shift < 24 ? 1 << (shift - 2) : 1 << 22 : 1;
  for (size_t c = 0; c < channels; c += 4 * VL) {
    VecU32 q[VL];
    const int count = LoadQuads(pixels, 1, channels, c, e.input_zero, q);
#if DBF_PACK == 4
    if (low == 0 && e.add == e.input_zero && e.right == 0) {  // the channels themselves
      for (int i = 0; i < count && c + 4 * i < channels; ++i, e.dst += e.pitch) {
        StoreU32(e.dst, DBF_BIASED ? q[i] ^ bias : q[i]);
      }
      continue;
    }
#endif
    for (int i = 0; i < count && e.left > 0; ++i) {
      const VecU32 x = q[i] ^ bias;
      if (low == 0) {
        for (int b = 0; b < 4; ++b) PutGroup(&e, (x >> (8 * b)) & SplatU32(0xff), 1);
        continue;
      }
      const VecU32 pairs = (x & even) + ((x >> 8) & even);
      if (low == 1) {
        PutGroup(&e, pairs & half, 2);
        PutGroup(&e, pairs >> 16, 2);
        continue;
      }
      halves += pairs;
      ++quads;
      if (quads % 64 == 0 || quads == group_quads) {  // before the halves overflow
        sum += (halves & half) + (halves >> 16);
        halves = SplatU32(0);
      }
      if (quads == group_quads) {
        PutGroup(&e, sum, 4 * quads);
        sum = SplatU32(0);
        quads = 0;
      }
    }
  }
  if (low == 2 && quads > 0) PutGroup(&e, sum + (halves & half) + (halves >> 16), 4 * quads);
}

// Group features for groups of 4 * `quads` channels, a compile-time constant, so few that a
// vector's channels are whole elements.
INLINE void WholeGroups(const int8_t* const* pixels, size_t channels, Elements e, const int quads) {
  const VecU32 even = SplatU32(0x00ff00ff), half = SplatU32(0xffff), bias = SplatU32(0x80808080u);
  const VecU32 add = SplatU32((uint32_t)(e.add - (128 + e.input_zero) * 4 * quads));
  const VecI32 low = (VecI32)SplatU32((uint32_t)-128), high = (VecI32)SplatU32(127);
  for (size_t c = 0; c < channels; c += 4 * VL) {
    VecU32 q[VL] = {{0}};
    LoadQuads(pixels, 1, channels, c, 0, q);
    UNROLL for (int i = 0; i < VL; i += quads * DBF_PACK) {
      VecU32 element = SplatU32(0);
      UNROLL for (int lane = 0; lane < DBF_PACK; ++lane) {
        VecU32 halves = SplatU32(0);
        UNROLL for (int j = 0; j < quads; ++j) {
          const VecU32 x = q[(i + lane * quads + j) % VL] ^ bias;
          halves += (x & even) + ((x >> 8) & even);
        }
        const VecI32 value = (VecI32)((halves & half) + (halves >> 16) + add) >> e.right;
        element = ToElement(element, (VecU32)DBF_CLAMP32(value, low, high), lane);
      }
      StoreU32(e.dst, element);
      e.dst += e.pitch;
    }
  }
}

static void GroupFeatures(const int8_t* const* pixels, size_t channels, int shift,
                          int32_t input_zero, int32_t add, int right, uint32_t* dst, size_t pitch) {
  DBF_REQUIRE(right >= 0 && right <= 16, "shift out of range");
  const Elements e = {SplatU32(0), 0,    ((channels - 1) >> shift) + 1, dst, pitch, input_zero,
                      add,         right};
  const bool whole = channels % (4 * VL) == 0;
  if (whole && shift == 2 && DBF_PACK <= VL) return WholeGroups(pixels, channels, e, 1);
  if (whole && shift == 3 && 2 * DBF_PACK <= VL) return WholeGroups(pixels, channels, e, 2);
  if (whole && shift == 4 && 4 * DBF_PACK <= VL) return WholeGroups(pixels, channels, e, 4);
  if (shift == 0) {
    GroupFeaturesOf(pixels, channels, shift, e, 0);
  } else if (shift == 1) {
    GroupFeaturesOf(pixels, channels, shift, e, 1);
  } else {
    GroupFeaturesOf(pixels, channels, shift, e, 2);
  }
}

// Transposes as transpose_int16 says. `low` = its shift is a compile-time constant.
INLINE void TransposeInt16Of(const int8_t* const* pixels, size_t channels, int16_t* dst,
                             const int low) {
  const VecU32 half = SplatU32(0xffff);
  for (size_t c = 0; c < channels; c += 4 * VL) {
    // Even and odd pixels, so that their int16 interleave in order.
    VecU32 even[VL], odd[VL];
    const int count = LoadQuads(pixels, 2, channels, c, 0, even);
    LoadQuads(pixels + 1, 2, channels, c, 0, odd);
    for (int i = 0; i < count; ++i) {
      // Channels 0, 2 and 1, 3 of the four, sign-extended in the halves of each lane.
      const VecI16 e0 = (VecI16)(even[i] << 8) >> 8, e1 = (VecI16)even[i] >> 8;
      const VecI16 o0 = (VecI16)(odd[i] << 8) >> 8, o1 = (VecI16)odd[i] >> 8;
      const VecU32 es = (VecU32)AddI16(e0, e1), os = (VecU32)AddI16(o0, o1);
      const VecI16 s0 = (VecI16)((es & half) | (os << 16)),
                   s1 = (VecI16)((es >> 16) | (os & ~half));
      StoreU32(dst, (VecU32)AddI16(s0, s1));
      dst += 2 * VL;
      if (low == 2) continue;
      if (low == 0) {
        const VecU32 ed = (VecU32)SubtractI16(e0, e1), od = (VecU32)SubtractI16(o0, o1);
        const VecI16 d0 = (VecI16)((ed & half) | (od << 16)),
                     d1 = (VecI16)((ed >> 16) | (od & ~half));
        StoreU32(dst, (VecU32)AddI16(d0, d1));
        StoreU32(dst + 4 * VL, (VecU32)SubtractI16(d0, d1));
        dst += 2 * VL;
      }
      StoreU32(dst, (VecU32)SubtractI16(s0, s1));
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

static void HadamardInt16(int16_t* data, size_t first, size_t strips, size_t halving) {
  size_t h = first;
  const size_t plain = strips < halving ? strips : halving;
  for (; 4 * h <= plain; h *= 4) {  // two distances in one pass
    for (size_t i = 0; i < strips; i += 4 * h) {
      for (size_t j = i; j < i + h; ++j) {
        int16_t* p = data + j * 2 * VL;
        const VecI16 a = (VecI16)LoadU32(p), b = (VecI16)LoadU32(p + h * 2 * VL),
                     c = (VecI16)LoadU32(p + 2 * h * 2 * VL),
                     d = (VecI16)LoadU32(p + 3 * h * 2 * VL);
        const VecI16 ab = AddI16(a, b), ba = SubtractI16(a, b), cd = AddI16(c, d),
                     dc = SubtractI16(c, d);
        StoreU32(p, (VecU32)AddI16(ab, cd));
        StoreU32(p + h * 2 * VL, (VecU32)AddI16(ba, dc));
        StoreU32(p + 2 * h * 2 * VL, (VecU32)SubtractI16(ab, cd));
        StoreU32(p + 3 * h * 2 * VL, (VecU32)SubtractI16(ba, dc));
      }
    }
  }
  for (; h < strips; h *= 2) {
    const int half = h >= halving;
    for (size_t i = 0; i < strips; i += 2 * h) {
      for (size_t j = i; j < i + h; ++j) {
        int16_t* p = data + j * 2 * VL;
        const VecI16 a = (VecI16)LoadU32(p) >> half, b = (VecI16)LoadU32(p + h * 2 * VL) >> half;
        StoreU32(p, (VecU32)AddI16(a, b));
        StoreU32(p + h * 2 * VL, (VecU32)SubtractI16(a, b));
      }
    }
  }
}

// A signed sum of shifted copies of a line. `taps` is a compile-time constant up to 4, or any
// number if `many`.
typedef struct SignedSum {
  const int16_t* src[4];
  VecI16 mask[4];  // −1 where a tap is subtracted: −x = (x ^ −1) + 1
  VecI16 start;
  const int16_t* line;
  const DbfMasks* masks;
} SignedSum;

INLINE SignedSum MakeSignedSum(const int16_t* src, size_t pitch, const size_t* offsets,
                               const DbfMasks* signs, int taps, DbfLineOp op, const bool many) {
  SignedSum sum = {.line = src + (size_t)op.source * pitch,
                   .masks = signs + (size_t)op.code * (taps + 1)};
  if (many) return sum;
  UNROLL for (int t = 0; t < taps; ++t) {
    sum.src[t] = sum.line + offsets[t];
    sum.mask[t] = (VecI16)SplatU32(sum.masks[t]);
  }
  sum.start = (VecI16)SplatU32(sum.masks[taps]);
  return sum;
}

INLINE VecI16 SignedSumAt(const SignedSum* sum, const size_t* offsets, int taps, size_t x,
                          const bool many) {
  if (many) {
    VecI16 result = (VecI16)SplatU32(sum->masks[taps]);
    for (int t = 0; t < taps; ++t) {
      result = AddI16(
          result, (VecI16)LoadU32(sum->line + offsets[t] + x) ^ (VecI16)SplatU32(sum->masks[t]));
    }
    return result;
  }
  VecI16 result = (VecI16)LoadU32(sum->src[0] + x);
  if (taps == 1) return result;
  result = AddI16(result, sum->start);
  UNROLL for (int t = 1; t < taps; ++t) {
    result = AddI16(result, (VecI16)LoadU32(sum->src[t] + x) ^ sum->mask[t]);
  }
  return result;
}

static void CombineInt16Many(const DbfCombine* args) {
  for (size_t i = 0; i < args->num_ops; ++i) {
    const SignedSum sum = MakeSignedSum(args->src, args->src_pitch, args->offsets, args->signs,
                                        args->taps, args->ops[i], true);
    int16_t* dst = (int16_t*)args->dst + i * args->dst_pitch;
    for (size_t s = 0, src = 0; s < args->spans;
         ++s, src += args->src_span, dst += args->dst_span) {
      for (size_t x = 0; x < args->width; x += 2 * VL) {
        StoreU32(dst + x, (VecU32)SignedSumAt(&sum, args->offsets, args->taps, src + x, true));
      }
    }
  }
}

INLINE VecI16 LoadI16(const int16_t* p) { return (VecI16)LoadU32(p); }
INLINE void StoreI16(int16_t* p, VecI16 v) { StoreU32(p, (VecU32)v); }
#define COMBINE CombineInt16
#define COMBINE_MANY CombineInt16Many
#define NUMBER int16_t
#define VECTOR VecI16
#define COUNT (2 * VL)
#define LOAD LoadI16
#define STORE StoreI16
#define ADD AddI16
#define SUBTRACT SubtractI16
#include "kernels/combine.inl"

// One vector of sums, narrowed; the second part of what is added counts if `both`.
INLINE VecI16 NarrowOne(VecI16 x, const DbfNarrow* op, const bool both, VecI16 low, VecI16 high) {
  x = DBF_SATURATED_ADD(x, (VecI16)SplatU32(op->add[0]));
  if (both) x = DBF_SATURATED_ADD(x, (VecI16)SplatU32(op->add[1]));
  return DBF_CLAMP16(x >> op->shift, low, high);
}

static void Narrow(const DbfNarrow* ops, size_t num_ops, int bound, const int16_t* src,
                   int16_t* dst, size_t dst_pitch) {
  const VecI16 low = SplatI16(-bound), high = SplatI16(bound);
  for (size_t i = 0; i < num_ops; ++i) {
    const VecI16 x = (VecI16)LoadU32(src + (size_t)ops[i].line.source * 2 * VL);
    StoreU32(dst + i * dst_pitch, (VecU32)NarrowOne(x, &ops[i], true, low, high));
  }
}

static void Widen(const int8_t* src, int32_t less, int16_t* dst, size_t count) {
  size_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL) {
    HalfI8 x;
    __builtin_memcpy(&x, src + i, sizeof(x));
    StoreI16(dst + i, SubtractI16(__builtin_convertvector(x, VecI16), SplatI16(less)));
  }
  for (; i < count; ++i) dst[i] = (int16_t)(src[i] - less);
}

static void AddArraysInt16(const int16_t* a, const int16_t* b, int16_t* sum, size_t count) {
  size_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL)
    StoreI16(sum + i, AddI16(LoadI16(a + i), LoadI16(b + i)));
  for (; i < count; ++i) sum[i] = (int16_t)(a[i] + b[i]);
}

static void RoundSums(const int16_t* sums, int shift, int32_t zero, int8_t* dst, size_t count) {
  DBF_REQUIRE(shift >= 0 && shift <= 8, "shift out of range");
  const int round = shift > 0, floor = shift - round;
  const int32_t low = -128 - zero, high = 127 - zero;
  size_t i = 0;
  for (; i + 2 * VL <= count; i += 2 * VL) {
    const VecI16 x = AddI16(LoadI16(sums + i) >> floor, SplatI16(round)) >> round;
    const VecI16 clamped = AddI16(DBF_CLAMP16(x, SplatI16(low), SplatI16(high)), SplatI16(zero));
    const HalfI8 bytes = __builtin_convertvector(clamped, HalfI8);
    __builtin_memcpy(dst + i, &bytes, sizeof(bytes));
  }
  for (; i < count; ++i) {
    const int32_t x = ((sums[i] >> floor) + round) >> round;
    dst[i] = (int8_t)((x < low ? low : x > high ? high : x) + zero);
  }
}

// The lanes that alternate those of two vectors, of their first halves and of their second halves.
#define ZIP_FIRST(h, lane) ((lane) / 2 + (lane) % 2 * VL)
#define ZIP_SECOND(h, lane) (VL / 2 + (lane) / 2 + (lane) % 2 * VL)

INLINE void FeaturesOf(const DbfFeatures* args, const int taps, const bool many) {
  const VecU32 half = SplatU32(0xffff);
  const VecI16 low = SplatI16(-128), high = SplatI16(127);
  for (size_t e = 0; e < args->num_elements; ++e) {
    const DbfNarrow* op = args->ops + e * DBF_PACK;
    SignedSum sum[DBF_PACK];
    UNROLL for (int i = 0; i < DBF_PACK; ++i) {
      sum[i] = MakeSignedSum(args->src, args->src_pitch, args->offsets, args->signs, taps,
                             op[i].line, many);
    }
    uint32_t* dst = args->dst + e * args->dst_pitch;
    for (size_t x = 0; x < args->width; x += 2 * VL) {
      VecI16 f[DBF_PACK];
      UNROLL for (int i = 0; i < DBF_PACK; ++i) {
        f[i] = NarrowOne(SignedSumAt(&sum[i], args->offsets, taps, x, many), &op[i], taps == 1, low,
                         high);
      }
#if DBF_PACK == 4
#if DBF_BIASED
      UNROLL for (int i = 0; i < DBF_PACK; ++i) f[i] = AddI16(f[i], SplatI16(128));
#endif
      const VecU32 bytes = SplatU32(0x00ff00ff);
      const VecU32 first = ((VecU32)f[0] & bytes) | (VecU32)((VecU16)f[1] << 8);
      const VecU32 second = ((VecU32)f[2] & bytes) | (VecU32)((VecU16)f[3] << 8);
#else
      const VecU32 first = (VecU32)f[0], second = (VecU32)f[1];
#endif
      const VecU32 even = (first & half) | (second << 16), odd = (first >> 16) | (second & ~half);
      StoreU32(dst + x, (VecU32)SHUFFLE((VecF32)even, (VecF32)odd, LANES(ZIP_FIRST, 0)));
      StoreU32(dst + x + VL, (VecU32)SHUFFLE((VecF32)even, (VecF32)odd, LANES(ZIP_SECOND, 0)));
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

// Computes TFLite's MultiplyByQuantizedMultiplier for multipliers below 1: the product is rounded
// to 31 bits, halves up, then to the result, halves away from zero.
static int32_t Requantize(int32_t acc, int32_t multiplier, int32_t right_shift) {
  const int32_t high = (int32_t)(((int64_t)acc * multiplier + (1 << 30)) >> 31);
  const int32_t mask = (int32_t)((1ll << right_shift) - 1);
  const int32_t threshold = (mask >> 1) + (high < 0);
  return (high >> right_shift) + ((high & mask) > threshold);
}

// Requantises exactly those lanes of a vector of accumulators that are too close to a tie, where
// `near` is negative.
static __attribute__((noinline)) void RequantizeExactly(const DbfGemmInt8* g, VecI32 acc,
                                                        VecI32 near, size_t k, int8_t* out) {
  for (int i = 0; i < VL; ++i) {
    if (near[i] >= 0) continue;
    int32_t value = g->zero + Requantize(acc[i], g->multiplier[k + i], g->right_shift[k + i]);
    value = value < g->low ? g->low : value;
    out[i] = (int8_t)(value > g->high ? g->high : value);
  }
}

// Requantises the accumulators `acc` [pixels, vectors * VL] of a tile to `out`. They are rounded as
// floats: adding 1.5 * 2^23 leaves the integer in the low bits. Lanes for which that is too close
// to a tie are rounded once more, exactly.
static __attribute__((noinline)) void RequantizeTile(const DbfGemmInt8* g, const int32_t* acc,
                                                     int pixels, int8_t* out, size_t out_pitch) {
  const float start = 12582912.0f;
  const VecF32 magic = SplatF32(start + (float)g->zero);
  const VecI32 low = (VecI32)SplatF32(start + (float)g->low),
               high = (VecI32)SplatF32(start + (float)g->high);
  const VecI32 absolute = (VecI32)SplatU32(0x7fffffff);
  // Stores might change *g, for all that the compiler knows.
  const size_t width = (size_t)g->vectors * VL;
  const int last_shift = g->last_shift;
  const bool shifted = g->shifted;
  for (size_t k = 0; k < width; k += VL) {
    const VecF32 scale = (VecF32)LoadU32(g->scale + k);
    const VecI32 limit = (VecI32)LoadU32(g->limit + k);  // as bits, which order like the numbers
    const VecI32 bias = (VecI32)LoadU32(g->bias + k);
    const int32_t* from = acc + k;
    int8_t* to = out + k;
    for (int i = pixels; i > 0; --i, from += width, to += out_pitch) {
      VecI32 total = (VecI32)LoadU32(from);
      if (shifted) total = (total << last_shift) + bias;
      const VecF32 value = __builtin_convertvector(total, VecF32);
      const VecF32 rounded = value * scale + magic;
      const VecF32 distance = value * scale - (rounded - magic);
      const VecI32 near = limit - ((VecI32)distance & absolute);  // negative if too close
      const QuarterI8 narrow =
          __builtin_convertvector(DBF_CLAMP32((VecI32)rounded, low, high), QuarterI8);
      __builtin_memcpy(to, &narrow, sizeof(narrow));
      if (__builtin_expect(DBF_ANY(near & ~absolute), 0)) RequantizeExactly(g, total, near, k, to);
    }
  }
}

// One tile of an int8 gemm from pixel `pixel` on. `pixels`, `vectors` and `shifted` are
// compile-time constants.
INLINE void TileInt8(const DbfGemmInt8* g, size_t pixel, int8_t* out, size_t out_pitch,
                     const int pixels, const int vectors, const bool shifted) {
  const bool two = vectors > 1;
  VecI32 acc0[DBF_TILE_PIXELS], acc1[DBF_TILE_PIXELS];
  UNROLL for (int i = 0; i < pixels; ++i) {
    acc0[i] = shifted ? (VecI32)SplatU32(0) : (VecI32)LoadU32(g->bias);
    if (two) acc1[i] = shifted ? (VecI32)SplatU32(0) : (VecI32)LoadU32(g->bias + VL);
  }
  const char* b = g->b;
  for (const DbfSlice* slice = g->slices; slice < g->slices + g->num_slices; ++slice) {
    if (shifted) {
      UNROLL for (int i = 0; i < pixels; ++i) {
        acc0[i] <<= slice->shift;
        if (two) acc1[i] <<= slice->shift;
      }
    }
    const uint32_t* a = slice->a + pixel;
    for (size_t d = slice->depth; d > 0; --d) {
      const VecU32 b0 = LoadU32(b), b1 = two ? LoadU32(b + 4 * VL) : b0;
      VecU32 several = b0;
      UNROLL for (int i = 0; i < pixels; ++i) {
        if (DBF_BY_LANE && i % VL == 0) several = LoadU32(a + i);
        const VecU32 x = DBF_BY_LANE ? several : SplatU32(a[i]);
        acc0[i] = DBF_DOT_LANE(acc0[i], x, b0, i % VL);
        if (two) acc1[i] = DBF_DOT_LANE(acc1[i], x, b1, i % VL);
      }
      a += slice->a_pitch;
      b += vectors * 4 * VL;
    }
  }
  int32_t acc[DBF_TILE_PIXELS * 2 * VL] __attribute__((aligned(4 * VL)));
  UNROLL for (int i = 0; i < pixels; ++i) {
    StoreU32(acc + i * vectors * VL, (VecU32)acc0[i]);
    if (two) StoreU32(acc + i * vectors * VL + VL, (VecU32)acc1[i]);
  }
  RequantizeTile(g, acc, pixels, out, out_pitch);
}

// Shifts are a case of their own: where there are none, the compiler keeps all accumulators in
// registers.
#define TILE_INT8_OF(pixels, vectors)                                                       \
  static void TileInt8##pixels##x##vectors(const DbfGemmInt8* g, size_t pixel, int8_t* out, \
                                           size_t out_pitch) {                              \
    if (g->shifted) {                                                                       \
      TileInt8(g, pixel, out, out_pitch, pixels, vectors, true);                            \
    } else {                                                                                \
      TileInt8(g, pixel, out, out_pitch, pixels, vectors, false);                           \
    }                                                                                       \
  }
#define TILE_INT8(pixels) TILE_INT8_OF(pixels, 1) TILE_INT8_OF(pixels, 2)
#define TILE_INT8_ENTRY(pixels) {TileInt8##pixels##x1, TileInt8##pixels##x2},

TILES(TILE_INT8)

typedef void TileInt8Function(const DbfGemmInt8* g, size_t pixel, int8_t* out, size_t out_pitch);
static TileInt8Function* const kTilesInt8[DBF_TILE_PIXELS][2] = {TILES(TILE_INT8_ENTRY)};

static void GemmInt8(const DbfGemmInt8* g) {
  DBF_REQUIRE(g->vectors == 1 || g->vectors == 2, "a panel has 1 or 2 vectors");
  DBF_REQUIRE(g->columns >= 1 && g->columns <= (size_t)g->vectors * VL, "columns out of range");
  DBF_REQUIRE(g->last_shift >= 0 && g->last_shift <= 15, "shift out of range");
  const DbfTiles tiles = DbfCutTiles(g->pixels, DBF_TILE_PIXELS, VL);
  for (size_t t = 0, p = 0; t < tiles.count; ++t) {
    const size_t pixels = tiles.pixels + (t < tiles.longer);
    TileInt8Function* tile = kTilesInt8[pixels - 1][g->vectors - 1];
    int8_t* out = g->out + p * g->out_pitch;
    if (g->columns == (size_t)g->vectors * VL) {
      tile(g, p, out, g->out_pitch);
    } else {  // the last panel goes through a buffer of whole vectors
      int8_t buffer[DBF_TILE_PIXELS][2 * VL];
      tile(g, p, buffer[0], 2 * VL);
      for (size_t i = 0; i < pixels; ++i) memcpy(out + i * g->out_pitch, buffer[i], g->columns);
    }
    p += pixels;
  }
}
