#include "tests/testing.h"

#include <math.h>
#include <string.h>

#include "support/arena.h"

long num_checks = 0;

static uint64_t random_state = 1;

void RandomSeed(uint64_t seed) { random_state = seed * 2 + 1; }

uint32_t Random(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  const uint32_t x = (uint32_t)(random_state >> 32);
  return x ^ (x >> 15) * 0x2c1b3c6du;
}

int32_t RandomIn(int32_t low, int32_t high) {
  return low + (int32_t)(Random() % (uint32_t)(high - low + 1));
}

float RandomNormal(void) {
  float sum = 0;
  for (int i = 0; i < 3; ++i) sum += (float)Random() / 4294967296.0f;
  return 2 * sum - 3;
}

float* RandomFloats(size_t count) {
  float* values = malloc(count * sizeof(*values) + 1);
  for (size_t i = 0; i < count; ++i) values[i] = RandomNormal();
  return values;
}

void FillLayer(TestLayer* test, const bool* kept, bool is_int8, bool per_filter, bool bias) {
  DbfLayer* layer = &test->layer;
  const size_t grid = (size_t)layer->kernel_h * layer->kernel_w * layer->channels;
  layer->codes_bytes = (grid + 7) / 8;
  layer->codes = test->codes = calloc(layer->codes_bytes, 1);
  layer->num_codes = 0;
  for (size_t g = 0; g < grid; ++g) {
    if (kept != NULL && !kept[g]) continue;
    test->codes[g >> 3] |= (uint8_t)(1 << (g & 7));
    ++layer->num_codes;
  }
  const size_t count = layer->filters * layer->num_codes;
  const float scale = 1 / sqrtf((float)grid * layer->num_codes);  // outputs of about one
  if (is_int8) {
    int8_t* alpha = malloc(count);
    for (size_t i = 0; i < count; ++i) alpha[i] = (int8_t)RandomIn(-128, 127);
    layer->alpha_int8 = test->alpha = alpha;
    layer->num_scales = per_filter ? layer->filters : 1;
    layer->alpha_scales = test->scales = RandomFloats(layer->num_scales);
    for (size_t i = 0; i < layer->num_scales; ++i) test->scales[i] *= scale / 64;
  } else {
    float* alpha = RandomFloats(count);
    for (size_t i = 0; i < count; ++i) alpha[i] *= scale;
    layer->alpha_float = test->alpha = alpha;
  }
  if (bias) layer->bias = test->bias = RandomFloats(layer->filters);
}

bool* RandomCodes(const DbfLayer* layer, CodeSet kind) {
  const int channels = layer->channels, spatial = layer->kernel_h * layer->kernel_w;
  bool* kept = calloc((size_t)spatial * channels, sizeof(*kept));
  bool* channel = calloc(channels, sizeof(*channel));
  const int step = 1 << RandomIn(0, 7), share = RandomIn(1, 8);
  const int pool_h = 1 << RandomIn(0, 2), pool_w = 1 << RandomIn(0, 2);
  for (int w = 0; w < channels; ++w) {
    channel[w] = kind == kAllCodes ||
                 (kind == kMultiplesCodes ? w % step == 0
                                          : (kind == kChannelsCodes || kind == kLeftOverCodes) &&
                                                RandomIn(1, 8) <= share);
  }
  for (int g = 0; g < spatial * channels; ++g) {
    kept[g] = channel[g % channels] || (kind == kSomeCodes && RandomIn(1, 8) <= share);
    const int u = g / channels / layer->kernel_w, v = g / channels % layer->kernel_w;
    const bool constant = u % pool_h == 0 && v % pool_w == 0;
    if (kind == kPoolCodes && constant) kept[g] = share > 5 || RandomIn(1, 8) <= share;
  }
  kept[kind == kPoolCodes ? 0 : RandomIn(0, spatial * channels - 1)] = true;  // never an empty set
  free(channel);
  return kept;
}

static int OneOf(const int* values, int count) { return values[RandomIn(0, count - 1)]; }
#define ONE_OF(...) \
  OneOf((const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

void RandomLayer(TestLayer* test, bool is_int8) {
  *test = (TestLayer){
      .layer = {
          .kernel_h = ONE_OF(1, 1, 2, 3, 3, 4, 4, 5, 7),
          .kernel_w = ONE_OF(1, 1, 2, 3, 3, 4, 4, 5, 7),
          .stride_h = ONE_OF(1, 1, 1, 2, 3),
          .stride_w = ONE_OF(1, 1, 1, 2, 3),
          .dilation_h = ONE_OF(1, 1, 1, 2, 3),
          .dilation_w = ONE_OF(1, 1, 1, 2, 3),
          .channels = ONE_OF(1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 20, 24, 32, 33, 48, 64, 70),
          .filters = ONE_OF(1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 65),
          .same_padding = RandomIn(0, 1),
          .activation = RandomIn(0, 3),
      }};
  DbfLayer* layer = &test->layer;
  if (RandomIn(0, 2) == 0) {  // may be one for Winograd's form
    layer->kernel_h = layer->kernel_w = RandomIn(3, 4);
    layer->stride_h = layer->stride_w = layer->dilation_h = layer->dilation_w = 1;
    layer->channels = ONE_OF(16, 24, 32, 48, 60, 62);
  }
  while (layer->kernel_h * layer->kernel_w * layer->channels > 1000)
    layer->channels /= 2;  // or the reference is slow
  bool* kept = RandomCodes(layer, RandomIn(0, kNumCodeSets - 1));
  FillLayer(test, kept, is_int8, RandomIn(0, 1), RandomIn(0, 1));
  free(kept);
}

void FreeLayer(TestLayer* test) {
  free(test->codes);
  free(test->alpha);
  free(test->scales);
  free(test->bias);
}

// out[k] += sum over i < depth of x[i] * w[i * columns + k], for a multiple of kLanes columns.
// Nearly all the time that the definition takes, so it is in vectors and the sanitizers do not
// watch it.
typedef double Pair __attribute__((vector_size(16), aligned(8), may_alias));
enum { kLanes = 8 };
__attribute__((noinline, no_sanitize("address", "thread", "undefined"))) static void AddProduct(
    const double* x, const double* w, size_t depth, size_t columns, double* out) {
  for (size_t k = 0; k < columns; k += kLanes) {
    Pair* acc = (Pair*)(out + k);
    Pair a = acc[0], b = acc[1], c = acc[2], d = acc[3];
    for (size_t i = 0; i < depth; ++i) {
      const Pair* row = (const Pair*)(w + i * columns + k);
      a += x[i] * row[0];
      b += x[i] * row[1];
      c += x[i] * row[2];
      d += x[i] * row[3];
    }
    acc[0] = a, acc[1] = b, acc[2] = c, acc[3] = d;
  }
}

static size_t WholeLanes(size_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

double* Filters(const DbfLayer* layer) {
  const int kw = layer->kernel_w, c = layer->channels, n = layer->num_codes;
  const size_t taps = (size_t)layer->kernel_h * kw * c, columns = WholeLanes(taps);
  double* codes = calloc(n * columns, sizeof(*codes));
  double* row = codes;
  for (size_t g = 0; g < taps; ++g) {
    if (!(layer->codes[g >> 3] >> (g & 7) & 1)) continue;
    const int u = g / c / kw, v = g / c % kw, w = g % c;
    double* code = row;
    for (int y = 0; y < layer->kernel_h; ++y) {
      for (int x = 0; x < kw; ++x) {
        for (int z = 0; z < c; ++z)
          *code++ = __builtin_parity((u & y) ^ (v & x) ^ (w & z)) ? -1 : 1;
      }
    }
    row += columns;
  }
  double* filters = malloc(layer->filters * taps * sizeof(*filters));
  double* filter = malloc(columns * sizeof(*filter));
  double* alpha = malloc(n * sizeof(*alpha));
  for (size_t k = 0; k < (size_t)layer->filters; ++k) {
    for (int j = 0; j < n; ++j) {
      const size_t i = k * n + j;
      alpha[j] =
          layer->alpha_float != NULL
              ? layer->alpha_float[i]
              : (double)layer->alpha_int8[i] * layer->alpha_scales[layer->num_scales > 1 ? k : 0];
    }
    memset(filter, 0, columns * sizeof(*filter));
    AddProduct(alpha, codes, n, columns, filter);
    memcpy(filters + k * taps, filter, taps * sizeof(*filter));
  }
  free(alpha);
  free(filter);
  free(codes);
  return filters;
}

static double Activate(DbfActivation activation, double x) {
  if (activation == kDbfRelu) return fmax(x, 0);
  if (activation == kDbfReluN1To1) return fmin(fmax(x, -1), 1);
  if (activation == kDbfRelu6) return fmin(fmax(x, 0), 6);
  return x;
}

// The output's size and the padding before, along one axis.
static void Size(bool same, int in, int kernel, int stride, int dilation, int* out, int* pad) {
  const int extent = (kernel - 1) * dilation + 1;
  *out = same ? (in + stride - 1) / stride : (in - extent) / stride + 1;
  const int needed = (*out - 1) * stride + extent - in;
  *pad = same && needed > 0 ? needed / 2 : 0;
}

double* Reference(const DbfLayer* layer, const double* filters, const float* input, Images images,
                  int* out_h, int* out_w, double* largest) {
  const int batch = images.batch, height = images.height, width = images.width;
  const int kh = layer->kernel_h, kw = layer->kernel_w;
  const size_t channels = layer->channels, count = layer->filters, columns = WholeLanes(count);
  const size_t taps = kh * kw * channels, size = (size_t)batch * height * width * channels;
  int top, left;
  Size(layer->same_padding, height, kh, layer->stride_h, layer->dilation_h, out_h, &top);
  Size(layer->same_padding, width, kw, layer->stride_w, layer->dilation_w, out_w, &left);
  double* weights = calloc(taps * columns, sizeof(*weights));
  for (size_t p = 0; p < taps; ++p) {
    for (size_t k = 0; k < count; ++k) weights[p * columns + k] = filters[k * taps + p];
  }
  double* image = malloc(size * sizeof(*image) + 1);
  for (size_t i = 0; i < size; ++i) image[i] = input[i];
  double* acc = calloc(columns, sizeof(*acc));
  double* output = malloc((size_t)batch * *out_h * *out_w * count * sizeof(*output) + 1);
  double* out = output;
  *largest = 0;
  for (int n = 0; n < batch; ++n) {
    for (int oy = 0; oy < *out_h; ++oy) {
      for (int ox = 0; ox < *out_w; ++ox) {
        for (size_t k = 0; k < count; ++k) acc[k] = layer->bias != NULL ? layer->bias[k] : 0;
        for (int dy = 0; dy < kh; ++dy) {
          for (int dx = 0; dx < kw; ++dx) {
            const int y = oy * layer->stride_h + dy * layer->dilation_h - top;
            const int x = ox * layer->stride_w + dx * layer->dilation_w - left;
            if (y < 0 || y >= height || x < 0 || x >= width) continue;
            AddProduct(image + (((size_t)n * height + y) * width + x) * channels,
                       weights + (dy * kw + dx) * channels * columns, channels, columns, acc);
          }
        }
        for (size_t k = 0; k < count; ++k) {
          *largest = fmax(*largest, fabs(acc[k]));
          *out++ = Activate(layer->activation, acc[k]);
        }
      }
    }
  }
  free(acc);
  free(image);
  free(weights);
  return output;
}

void SpoilScratch(const void* owner, size_t bytes) {
  DbfArena* arena = DbfArenaAcquire(owner, bytes);
  CHECK(arena != NULL, "no memory");
  if (bytes > 0) memset(DbfArenaMemory(arena), 0xff, bytes);  // NaN
  DbfArenaRelease(arena);
}

// Not inlined: GCC's vectorizer would take many seconds.
__attribute__((noinline)) static size_t Put(uint8_t* buffer, size_t at, uint64_t value) {
  for (int i = 0; i < 8; ++i) buffer[at + i] = (uint8_t)(value >> 8 * i);
  return at + 8;
}

size_t WriteMap(const Entry* entries, size_t count, uint8_t* buffer) {
  size_t keys[32], blobs[32], at = 0;
  for (size_t i = 0; i < count; ++i) {
    keys[i] = at;
    strcpy((char*)buffer + at, entries[i].key);
    at += strlen(entries[i].key) + 1;
    if (entries[i].blob == NULL) continue;
    at = Put(buffer, at, entries[i].blob_size);
    blobs[i] = at;
    memcpy(buffer + at, entries[i].blob, entries[i].blob_size);
    at += entries[i].blob_size;
  }
  at = Put(buffer, at, count);
  const size_t key_vector = at;
  for (size_t i = 0; i < count; ++i) at = Put(buffer, at, at - keys[i]);
  at = Put(buffer, at, at - key_vector);
  at = Put(buffer, at, 8);
  at = Put(buffer, at, count);
  const size_t values = at;
  for (size_t i = 0; i < count; ++i) {
    at = Put(buffer, at, entries[i].blob != NULL ? at - blobs[i] : (uint64_t)entries[i].value);
  }
  for (size_t i = 0; i < count; ++i)
    buffer[at++] = entries[i].blob != NULL ? 25 << 2 | 3 : 1 << 2 | 3;
  at = Put(buffer, at, at - values);
  buffer[at++] = 9 << 2 | 3;  // a map
  buffer[at++] = 8;
  return at;
}
