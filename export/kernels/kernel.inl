// The micro-kernels, in C with the vector extensions of GCC and Clang. A file kernel_<name>.c
// defines
//   DBF_VARIANT, DBF_NAME   the name, as an identifier and as users write it
//   DBF_SUPPORTED           whether this processor runs it; left undefined on other architectures
//   DBF_TARGET              target attributes to compile for, if not those of the command line
//   DBF_DEPTH               features of a gemm at once, see DbfKernels
//   DBF_LOG2_VECTOR         log2 of the floats in a vector: 2, 3 or 4
//   DBF_TILE_PIXELS         pixels in a tile of a gemm, at most 14: 2 accumulators of each, 2
//   vectors
//                           of B and one of A are to fit the registers
// and includes this file; what it may define for int8 is in int8.inl.

#include <string.h>

#define DBF_CONCAT2(a, b) a##b
#define DBF_CONCAT(a, b) DBF_CONCAT2(a, b)
#define DBF_KERNELS DBF_CONCAT(kDbfKernels, DBF_VARIANT)

#ifndef DBF_SUPPORTED

static bool Supported(void) { return false; }

const DbfKernels DBF_KERNELS = {.name = DBF_NAME, .supported = Supported};

#else

static bool Supported(void) { return DBF_SUPPORTED; }

#ifdef DBF_TARGET
#define DBF_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define DBF_PUSH_TARGET(t) \
  DBF_PRAGMA(clang attribute push(__attribute__((target(t))), apply_to = function))
#define DBF_POP_TARGET DBF_PRAGMA(clang attribute pop)
#else
#define DBF_PUSH_TARGET(t) DBF_PRAGMA(GCC push_options) DBF_PRAGMA(GCC target(t))
#define DBF_POP_TARGET DBF_PRAGMA(GCC pop_options)
#endif
#else
#define DBF_PUSH_TARGET(t)
#define DBF_POP_TARGET
#endif

#define VL (1 << DBF_LOG2_VECTOR)
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// F(h, 0), F(h, 1), ... for each lane of a vector.
#define LANES4(F, h) F(h, 0), F(h, 1), F(h, 2), F(h, 3)
#define LANES8(F, h) LANES4(F, h), F(h, 4), F(h, 5), F(h, 6), F(h, 7)
#define LANES16(F, h) \
  LANES8(F, h), F(h, 8), F(h, 9), F(h, 10), F(h, 11), F(h, 12), F(h, 13), F(h, 14), F(h, 15)
#if DBF_LOG2_VECTOR == 4
#define LANES LANES16
#elif DBF_LOG2_VECTOR == 3
#define LANES LANES8
#else
#define LANES LANES4
#endif

DBF_PUSH_TARGET(DBF_TARGET)

// Vectors of VL numbers. Comparisons of vectors give VecI32: −1 where they hold, else 0.
typedef float VecF32 __attribute__((vector_size(4 * VL)));
typedef int32_t VecI32 __attribute__((vector_size(4 * VL)));

INLINE VecF32 LoadF32(const float* p) {
  VecF32 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

INLINE void StoreF32(float* p, VecF32 v) { __builtin_memcpy(p, &v, sizeof(v)); }

#define SAME(x, lane) x
INLINE VecF32 SplatF32(float x) { return (VecF32){LANES(SAME, x)}; }

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (VecI32){__VA_ARGS__})
#endif

static void AddArrays(const float* a, const float* b, float* sum, size_t count) {
  size_t i = 0;
  for (; i + VL <= count; i += VL) StoreF32(sum + i, LoadF32(a + i) + LoadF32(b + i));
  for (; i < count; ++i) sum[i] = a[i] + b[i];
}

// The lanes of vectors a and b that exchange bit `h` of the vector's index, clear in a and set in
// b, for bit `h` of the lane's index.
#define LOWER(h, lane) (((lane) & (h)) ? VL + ((lane) ^ (h)) : (lane))
#define UPPER(h, lane) (((lane) & (h)) ? VL + (lane) : ((lane) ^ (h)))

// One stage of the transposition network on vectors r[0 ... VL-1], and what to do with the two
// halves of each pair: nothing, a butterfly, or their sum. Vectors whose index has a bit of `dead`
// hold nothing any more.
#define STAGE(r, h, dead, add, hadamard)                             \
  UNROLL for (int i = 0; i < VL; ++i) {                              \
    if ((i & (h)) || (i & (dead))) continue;                         \
    const VecF32 lower = SHUFFLE(r[i], r[i + (h)], LANES(LOWER, h)); \
    const VecF32 upper = SHUFFLE(r[i], r[i + (h)], LANES(UPPER, h)); \
    if (add) {                                                       \
      r[i] = lower + upper;                                          \
    } else if (hadamard) {                                           \
      r[i] = lower + upper;                                          \
      r[i + (h)] = lower - upper;                                    \
    } else {                                                         \
      r[i] = lower;                                                  \
      r[i + (h)] = upper;                                            \
    }                                                                \
  }

// Transposes as `transpose` of DbfKernels says. `low` = min(shift, log2 VL) and `hadamard` are
// compile-time constants.
INLINE void Transpose(const float* const* pixels, size_t channels, int shift, float* dst,
                      size_t pitch, const int low, const bool hadamard) {
  const int in_group = (1 << low) - 1;
  const size_t groups = hadamard ? (size_t)-1 : ((channels - 1) >> shift) + 1;
  for (size_t c = 0; c < channels; c += VL) {
    VecF32 r[VL];
    if (channels - c >= VL) {
      UNROLL for (int i = 0; i < VL; ++i) r[i] = LoadF32(pixels[i] + c);
    } else {
      float rest[VL][VL] = {{0}};
      for (int i = 0; i < VL; ++i) {
        for (size_t j = 0; j < channels - c; ++j) rest[i][j] = pixels[i][c + j];
      }
      UNROLL for (int i = 0; i < VL; ++i) r[i] = LoadF32(rest[i]);
    }
    STAGE(r, 1, 0, low > 0, hadamard)
    STAGE(r, 2, in_group & 1, low > 1, hadamard)
#if DBF_LOG2_VECTOR > 2
    STAGE(r, 4, in_group & 3, low > 2, hadamard)
#endif
#if DBF_LOG2_VECTOR > 3
    STAGE(r, 8, in_group & 7, low > 3, hadamard)
#endif
    const size_t group = c >> shift;
    float* strip = dst + group * pitch;
    if (c & (((size_t)1 << shift) - 1)) {  // a group of more than VL channels goes on
      StoreF32(strip, LoadF32(strip) + r[0]);
      continue;
    }
    UNROLL for (int i = 0; i < VL; ++i) {
      if ((i & in_group) == 0 && group + (i >> low) < groups)
        StoreF32(strip + (i >> low) * pitch, r[i]);
    }
  }
}

#define TRANSPOSE(low)                                            \
  case low:                                                       \
    if (hadamard) {                                               \
      Transpose(pixels, channels, shift, dst, pitch, low, true);  \
    } else {                                                      \
      Transpose(pixels, channels, shift, dst, pitch, low, false); \
    }                                                             \
    break;

static void TransposeAny(const float* const* pixels, size_t channels, int shift, bool hadamard,
                         float* dst, size_t pitch) {
  switch (shift < DBF_LOG2_VECTOR ? shift : DBF_LOG2_VECTOR) {
    TRANSPOSE(0)
    TRANSPOSE(1)
    TRANSPOSE(2)
#if DBF_LOG2_VECTOR > 2
    TRANSPOSE(3)
#endif
#if DBF_LOG2_VECTOR > 3
    TRANSPOSE(4)
#endif
  }
}

static void Hadamard(float* data, size_t first, size_t strips) {
  size_t h = first;
  for (; 4 * h <= strips; h *= 4) {  // two distances in one pass
    for (size_t i = 0; i < strips; i += 4 * h) {
      for (size_t j = i; j < i + h; ++j) {
        float* p = data + j * VL;
        const VecF32 a = LoadF32(p), b = LoadF32(p + h * VL), c = LoadF32(p + 2 * h * VL),
                     d = LoadF32(p + 3 * h * VL);
        const VecF32 ab = a + b, ba = a - b, cd = c + d, dc = c - d;
        StoreF32(p, ab + cd);
        StoreF32(p + h * VL, ba + dc);
        StoreF32(p + 2 * h * VL, ab - cd);
        StoreF32(p + 3 * h * VL, ba - dc);
      }
    }
  }
  if (h < strips) {
    for (size_t j = 0; j < h; ++j) {
      float* p = data + j * VL;
      const VecF32 a = LoadF32(p), b = LoadF32(p + h * VL);
      StoreF32(p, a + b);
      StoreF32(p + h * VL, a - b);
    }
  }
}

// Signed sums of lines of floats, for any number of taps.
static void CombineMany(const DbfCombine* args) {
  for (size_t i = 0; i < args->num_ops; ++i) {
    const float* signs = (const float*)args->signs + (size_t)args->ops[i].code * args->taps;
    const float* src = (const float*)args->src + (size_t)args->ops[i].source * args->src_pitch;
    float* dst = (float*)args->dst + i * args->dst_pitch;
    for (size_t s = 0; s < args->spans; ++s, src += args->src_span, dst += args->dst_span) {
      for (size_t x = 0; x < args->width; x += VL) {
        VecF32 sum = LoadF32(src + args->offsets[0] + x);
        for (int t = 1; t < args->taps; ++t)
          sum += SplatF32(signs[t]) * LoadF32(src + args->offsets[t] + x);
        StoreF32(dst + x, sum);
      }
    }
  }
}

#define COMBINE Combine
#define COMBINE_MANY CombineMany
#define NUMBER float
#define VECTOR VecF32
#define COUNT VL
#define LOAD LoadF32
#define STORE StoreF32
#define ADD(a, b) ((a) + (b))
#define SUBTRACT(a, b) ((a) - (b))
#include "kernels/combine.inl"

static void Gather(const DbfLineOp* ops, size_t num_ops, const float* src, float* dst,
                   size_t pitch) {
  for (size_t i = 0; i < num_ops; ++i) {
    StoreF32(dst + i * pitch, LoadF32(src + (size_t)ops[i].source * VL));
  }
}

// x where `replace`, a comparison's result, is clear, and y where it is set. NaN compares false, so
// it passes through.
INLINE VecF32 Select(VecI32 replace, VecF32 x, VecF32 y) {
  return (VecF32)((replace & (VecI32)y) | (~replace & (VecI32)x));
}

#ifndef DBF_BY_LANE
#define DBF_BY_LANE 0
#define DBF_DOT_LANE(acc, a, b, lane) DBF_DOT(acc, a, b)
#endif

// One lane of a vector of 4 in all, which some instructions take as it is.
INLINE VecF32 SplatLane(VecF32 v, int lane) {
#if DBF_BY_LANE
  return lane == 0   ? SHUFFLE(v, v, 0, 0, 0, 0)
         : lane == 1 ? SHUFFLE(v, v, 1, 1, 1, 1)
         : lane == 2 ? SHUFFLE(v, v, 2, 2, 2, 2)
                     : SHUFFLE(v, v, 3, 3, 3, 3);
#else
  (void)lane;
  return v;
#endif
}

// One tile of a gemm, of which A begins at `start`. `pixels` and `vectors` are compile-time
// constants, so that the accumulators, one array a column of vectors, live in registers.
INLINE void Tile(const DbfGemm* g, const float* start, float* out, size_t out_pitch,
                 const int pixels, const int vectors) {
  const size_t a_pitch = g->a_pitch;
  const bool two = vectors > 1;
  VecF32 acc0[DBF_TILE_PIXELS], acc1[DBF_TILE_PIXELS];
  UNROLL for (int i = 0; i < pixels; ++i) {
    const float* before = g->first ? g->bias : out + i * out_pitch;
    acc0[i] = LoadF32(before);
    if (two) acc1[i] = LoadF32(before + VL);
  }
  const float* b = g->b;
  for (size_t s = 0; s < g->num_segments; ++s) {
    const float* a = start + g->segments[s];
    for (size_t d = g->segment_depth; d > 0; --d) {
      const VecF32 b0 = LoadF32(b), b1 = two ? LoadF32(b + VL) : b0;
      VecF32 several = b0;
      UNROLL for (int i = 0; i < pixels; ++i) {
        if (DBF_BY_LANE && i % VL == 0) several = LoadF32(a + i);
        const VecF32 x = DBF_BY_LANE ? SplatLane(several, i % VL) : SplatF32(a[i]);
        acc0[i] += x * b0;
        if (two) acc1[i] += x * b1;
      }
      a += a_pitch;
      b += vectors * VL;
    }
  }
  if (g->last && g->low > -__builtin_inff()) {
    const VecF32 low = SplatF32(g->low);
    UNROLL for (int i = 0; i < pixels; ++i) {
      acc0[i] = Select(acc0[i] < low, acc0[i], low);
      if (two) acc1[i] = Select(acc1[i] < low, acc1[i], low);
    }
  }
  if (g->last && g->high < __builtin_inff()) {
    const VecF32 high = SplatF32(g->high);
    UNROLL for (int i = 0; i < pixels; ++i) {
      acc0[i] = Select(acc0[i] > high, acc0[i], high);
      if (two) acc1[i] = Select(acc1[i] > high, acc1[i], high);
    }
  }
  UNROLL for (int i = 0; i < pixels; ++i) {
    StoreF32(out + i * out_pitch, acc0[i]);
    if (two) StoreF32(out + i * out_pitch + VL, acc1[i]);
  }
}

#define TILE(pixels)                                                             \
  static void Tile##pixels##x1(const DbfGemm* g, const float* start, float* out, \
                               size_t out_pitch) {                               \
    Tile(g, start, out, out_pitch, pixels, 1);                                   \
  }                                                                              \
  static void Tile##pixels##x2(const DbfGemm* g, const float* start, float* out, \
                               size_t out_pitch) {                               \
    Tile(g, start, out, out_pitch, pixels, 2);                                   \
  }
#define TILE_ENTRY(pixels) {Tile##pixels##x1, Tile##pixels##x2},

#define TILES6(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define TILES12(X) TILES6(X) X(7) X(8) X(9) X(10) X(11) X(12)
#define TILES14(X) TILES12(X) X(13) X(14)
#define TILES DBF_CONCAT(TILES, DBF_TILE_PIXELS)

TILES(TILE)

typedef void TileFunction(const DbfGemm* g, const float* start, float* out, size_t out_pitch);
static TileFunction* const kTiles[DBF_TILE_PIXELS][2] = {TILES(TILE_ENTRY)};

static void Gemm(const DbfGemm* g) {
  DBF_REQUIRE(g->vectors == 1 || g->vectors == 2, "a panel has 1 or 2 vectors");
  DBF_REQUIRE(g->columns >= 1 && g->columns <= (size_t)g->vectors * VL, "columns out of range");
  DBF_REQUIRE(g->first || g->num_segments > 0, "nothing to accumulate");
  const DbfTiles tiles = DbfCutTiles(g->pixels, DBF_TILE_PIXELS, VL);
  DBF_REQUIRE(!g->packed || g->a_pitch >= tiles.pixels + (tiles.longer > 0),
              "the pitch is too small");
  for (size_t t = 0, p = 0; t < tiles.count; ++t) {
    const size_t pixels = tiles.pixels + (t < tiles.longer);
    const float* a = g->a + (g->packed ? t * g->tile_pitch : p);
    TileFunction* tile = kTiles[pixels - 1][g->vectors - 1];
    float* out = g->out + p * g->out_pitch;
    if (g->columns == (size_t)g->vectors * VL) {
      tile(g, a, out, g->out_pitch);
    } else {  // the last panel goes through a buffer of whole vectors
      float buffer[DBF_TILE_PIXELS][2 * VL] = {{0}};
      const size_t bytes = g->columns * sizeof(float);
      for (size_t i = 0; !g->first && i < pixels; ++i)
        memcpy(buffer[i], out + i * g->out_pitch, bytes);
      tile(g, a, buffer[0], 2 * VL);
      for (size_t i = 0; i < pixels; ++i) memcpy(out + i * g->out_pitch, buffer[i], bytes);
    }
    p += pixels;
  }
}

#include "kernels/int8.inl"
#include "kernels/winograd.inl"

DBF_POP_TARGET

const DbfKernels DBF_KERNELS = {
    .name = DBF_NAME,
    .supported = Supported,
    .vector = VL,
    .tile_pixels = DBF_TILE_PIXELS,
    .depth = DBF_DEPTH,
    .add = AddArrays,
    .transpose = TransposeAny,
    .hadamard = Hadamard,
    .gather = Gather,
    .combine = Combine,
    .gemm = Gemm,
    .patches = Patches,
    .output_squares = OutputSquares,
    .pack = DBF_PACK,
    .biased = DBF_BIASED,
    .planar = DBF_PLANAR,
    .group_features = GroupFeatures,
    .widen = Widen,
    .add_int16 = AddArraysInt16,
    .round_sums = RoundSums,
    .transpose_int16 = TransposeInt16,
    .hadamard_int16 = HadamardInt16,
    .combine_int16 = CombineInt16,
    .narrow = Narrow,
    .features = Features,
    .gemm_int8 = GemmInt8,
};

#endif  // DBF_SUPPORTED
