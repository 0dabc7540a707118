// The tiles of a float gemm: its features in the order in which the micro-kernel reads them.

#ifndef DBF_EXPORT_ENGINE_TILES_H_
#define DBF_EXPORT_ENGINE_TILES_H_

#include "engine/stages.h"
#include "support/require.h"

typedef struct DbfTileSet {
  DbfTiles cut;
  size_t pitch;  // floats from a tile to the next
} DbfTileSet;

// The floats of a tile of so many features, each of `pitch` floats. Tiles are a cache line farther
// apart than they need be: a power of two between them would have them in the same few sets of the
// cache, and they are written side by side.
static inline size_t DbfTileFloats(size_t depth, size_t pitch) {
  return DbfAdd(DbfMul(depth, pitch), kDbfCacheLine);
}

static inline DbfTileSet DbfMakeTiles(const DbfKernels* kernels, size_t pixels, size_t depth) {
  const DbfTiles cut = DbfCutTiles(pixels, kernels->tile_pixels, kernels->vector);
  return (DbfTileSet){cut, DbfTileFloats(depth, cut.pitch)};
}

// Fills the tiles from feature `first` on with what `function` makes of lines, as `combine` says.
static inline void DbfFillTiles(const DbfTileSet* tiles, void (*function)(const DbfCombine*),
                                DbfCombine combine, size_t first, float* dst) {
  const DbfTiles* cut = &tiles->cut;
  DBF_REQUIRE(cut->count == 1 || (first + combine.num_ops) * cut->pitch <= tiles->pitch,
              "the features do not fit the tile");
  const float* src = combine.src;
  dst += first * cut->pitch;
  combine.dst_pitch = cut->pitch;
  combine.dst_span = tiles->pitch;
  for (size_t longer = 2; longer-- > 0;) {
    combine.spans = longer ? cut->longer : cut->count - cut->longer;
    combine.width = combine.src_span = cut->pixels + longer;
    combine.src = src;
    combine.dst = dst;
    if (combine.spans > 0) function(&combine);
    src += combine.spans * combine.width;
    dst += combine.spans * combine.dst_span;
  }
}

#endif  // DBF_EXPORT_ENGINE_TILES_H_
