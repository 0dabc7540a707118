// The processor's floating-point peak: multiply-adds in independent chains, all in registers.

#if defined(__AVX512F__)
enum { kBytes = 64, kChains = 24 };
#elif defined(__AVX__)
enum { kBytes = 32, kChains = 12 };  // 16 registers
#elif defined(__aarch64__)
enum { kBytes = 16, kChains = 24 };
#else
enum { kBytes = 16, kChains = 12 };
#endif

typedef float Vector __attribute__((vector_size(kBytes)));

volatile float dbf_peak_sink;

// Runs `steps` steps of all chains and returns how many operations these are, two a multiply-add.
double dbf_peak(long steps) {
  const Vector zero = {0};
  const Vector factor = zero + 0.5f, addend = zero + 1.0f;
  Vector chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = zero + (float)i;
  for (long step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) chains[i] = chains[i] * factor + addend;
  }
  for (int i = 0; i < kChains; ++i) dbf_peak_sink = chains[i][0];
  return 2.0 * (double)steps * kChains * (kBytes / sizeof(float));
}
