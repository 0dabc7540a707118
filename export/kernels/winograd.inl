// The transforms of Winograd's minimal filtering F(2, r) for r = 3 and 4; included by kernel.inl.
// The points are 0, 1, -1, infinity, and 2 for r = 4. `patch` = r + 1, the side of a patch, is a
// compile-time constant. The coefficients' transform is in plan/plan_float.c.

// Transforms the numbers d of a patch along one axis to t.
INLINE void PatchTransform(const VecF32* d, VecF32* t, const int patch) {
  if (patch == 4) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[1] - d[3];
  } else {
    const VecF32 two = SplatF32(2), three = SplatF32(3);
    t[0] = two * (d[0] - d[2]) + (d[3] - d[1]);
    t[1] = d[3] - two * d[1] - d[2];
    t[2] = two * d[1] - three * d[2] + d[3];
    t[3] = d[3] - d[1];
    t[4] = two * (d[1] - d[3]) + (d[4] - d[2]);
  }
}

INLINE void PatchesOf(const DbfCombine* args, const int patch) {
  // Stores might change args, for all that the compiler knows.
  const size_t spans = args->spans, width = args->width, step = args->dst_step;
  const size_t src_span = args->src_span, dst_span = args->dst_span;
  size_t offsets[5];
  UNROLL for (int t = 0; t < patch; ++t) offsets[t] = args->offsets[t];
  for (size_t i = 0; i < args->num_ops; ++i) {
    const float* src = (const float*)args->src + i * args->src_pitch;
    float* dst = (float*)args->dst + i * args->dst_pitch;
    for (size_t s = 0; s < spans; ++s, src += src_span, dst += dst_span) {
      for (size_t x = 0; x < width; x += VL) {
        VecF32 d[5], t[5];
        UNROLL for (int j = 0; j < patch; ++j) d[j] = LoadF32(src + offsets[j] + x);
        PatchTransform(d, t, patch);
        UNROLL for (int j = 0; j < patch; ++j) StoreF32(dst + j * step + x, t[j]);
      }
    }
  }
}

static void Patches(const DbfCombine* args) {
  DBF_REQUIRE(args->taps == 4 || args->taps == 5, "a patch has a side of 4 or 5");
  if (args->taps == 4) {
    PatchesOf(args, 4);
  } else {
    PatchesOf(args, 5);
  }
}

// Transforms the accumulators m of a patch along one axis to two outputs.
INLINE void OutputTransform(const VecF32* m, const int patch, VecF32* first, VecF32* second) {
  const VecF32 sum = m[1] + m[2], difference = m[1] - m[2];
  if (patch == 4) {
    *first = m[0] + sum;
    *second = difference - m[3];
  } else {
    *first = m[0] + sum + m[3];
    *second = difference + SplatF32(2) * m[3] + m[4];
  }
}

INLINE void OutputSquaresOf(const DbfOutputSquares* args, const int patch) {
  const size_t panel = (size_t)args->vectors * VL, plane = args->patches * panel;
  const VecF32 low = SplatF32(args->low), high = SplatF32(args->high);
  size_t x = args->first % args->width, y = args->first / args->width;
  for (size_t p = 0; p < args->patches; ++p, ++x) {
    if (x == args->width) {
      x = 0;
      ++y;
    }
    for (size_t k = 0; k < args->columns; k += VL) {
      const float* accumulators = args->accumulators + p * panel + k;
      VecF32 first[5], second[5], out[4];
      UNROLL for (int v = 0; v < patch; ++v) {
        VecF32 m[5];
        UNROLL for (int u = 0; u < patch; ++u) m[u] =
            LoadF32(accumulators + (u * patch + v) * plane);
        OutputTransform(m, patch, &first[v], &second[v]);
      }
      OutputTransform(first, patch, &out[0], &out[1]);
      OutputTransform(second, patch, &out[2], &out[3]);
      UNROLL for (int i = 0; i < 4; ++i) {
        const size_t row = 2 * y + i / 2, column = 2 * x + i % 2;
        if (row >= args->out_h || column >= args->out_w) continue;
        out[i] = Select(out[i] < low, out[i], low);
        out[i] = Select(out[i] > high, out[i], high);
        float* to = args->out + (row * args->out_w + column) * args->out_pitch + k;
        if (args->columns - k >= VL) {
          StoreF32(to, out[i]);
        } else {
          __builtin_memcpy(to, &out[i], (args->columns - k) * sizeof(float));
        }
      }
    }
  }
}

static void OutputSquares(const DbfOutputSquares* args) {
  DBF_REQUIRE(args->patch == 4 || args->patch == 5, "a patch has a side of 4 or 5");
  if (args->patch == 4) {
    OutputSquaresOf(args, 4);
  } else {
    OutputSquaresOf(args, 5);
  }
}
