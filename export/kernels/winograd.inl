// The transforms of Winograd's minimal filtering F(2, r) for r = 3 and 4; included by kernel.inl.
// The points are 0, 1, -1, infinity, and 2 for r = 4. `taps` = r + 1 is a compile-time constant.
// The coefficients' transform is in plan.c.

// The numbers d of a patch along one axis to t.
INLINE void PatchTransform(const V* d, V* t, const int taps) {
  if (taps == 4) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[1] - d[3];
  } else {
    const V two = Splat(2), three = Splat(3);
    t[0] = two * (d[0] - d[2]) + (d[3] - d[1]);
    t[1] = d[3] - two * d[1] - d[2];
    t[2] = two * d[1] - three * d[2] + d[3];
    t[3] = d[3] - d[1];
    t[4] = two * (d[1] - d[3]) + (d[4] - d[2]);
  }
}

INLINE void PatchesOf(const DbfCombine* args, const int taps) {
  // Stores might change args, for all that the compiler knows.
  const size_t rows = args->rows, width = args->width, step = args->dst_step;
  const size_t src_row = args->src_row, dst_row = args->dst_row;
  size_t offsets[5];
  UNROLL for (int t = 0; t < taps; ++t) offsets[t] = args->offsets[t];
  for (size_t i = 0; i < args->num_ops; ++i) {
    const float* src = (const float*)args->src + i * args->src_pitch;
    float* dst = (float*)args->dst + i * args->dst_pitch;
    for (size_t r = 0; r < rows; ++r, src += src_row, dst += dst_row) {
      for (size_t x = 0; x < width; x += VL) {
        V d[5], t[5];
        UNROLL for (int j = 0; j < taps; ++j) d[j] = Load(src + offsets[j] + x);
        PatchTransform(d, t, taps);
        UNROLL for (int j = 0; j < taps; ++j) Store(dst + j * step + x, t[j]);
      }
    }
  }
}

static void Patches(const DbfCombine* args) {
  if (args->taps == 4) {
    PatchesOf(args, 4);
  } else {
    PatchesOf(args, 5);
  }
}

// The two outputs of the products m along one axis.
INLINE void SquareTransform(const V* m, const int taps, V* first, V* second) {
  const V sum = m[1] + m[2], difference = m[1] - m[2];
  if (taps == 4) {
    *first = m[0] + sum;
    *second = difference - m[3];
  } else {
    *first = m[0] + sum + m[3];
    *second = difference + Splat(2) * m[3] + m[4];
  }
}

INLINE void SquaresOf(const DbfSquares* args, const int taps) {
  const size_t panel = (size_t)args->vectors * VL, plane = args->patches * panel;
  const V low = Splat(args->low), high = Splat(args->high);
  size_t x = args->first % args->width, y = args->first / args->width;
  for (size_t p = 0; p < args->patches; ++p, ++x) {
    if (x == args->width) {
      x = 0;
      ++y;
    }
    for (size_t k = 0; k < args->columns; k += VL) {
      const float* products = args->products + p * panel + k;
      V first[5], second[5], out[4];
      UNROLL for (int v = 0; v < taps; ++v) {
        V m[5];
        UNROLL for (int u = 0; u < taps; ++u) m[u] = Load(products + (u * taps + v) * plane);
        SquareTransform(m, taps, &first[v], &second[v]);
      }
      SquareTransform(first, taps, &out[0], &out[1]);
      SquareTransform(second, taps, &out[2], &out[3]);
      UNROLL for (int i = 0; i < 4; ++i) {
        const size_t row = 2 * y + i / 2, column = 2 * x + i % 2;
        if (row >= args->out_h || column >= args->out_w) continue;
        out[i] = Select(out[i] < low, out[i], low);
        out[i] = Select(out[i] > high, out[i], high);
        float* to = args->out + (row * args->out_w + column) * args->out_pitch + k;
        if (args->columns - k >= VL) {
          Store(to, out[i]);
        } else {
          __builtin_memcpy(to, &out[i], (args->columns - k) * sizeof(float));
        }
      }
    }
  }
}

static void Squares(const DbfSquares* args) {
  if (args->taps == 4) {
    SquaresOf(args, 4);
  } else {
    SquaresOf(args, 5);
  }
}
