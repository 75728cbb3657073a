/* The tiles of AMX in C, from the pseudo-code of Intel's Software Developer's Manual, volume 2
   (LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBUSD, TDPBF16PS). What would raise an
   exception is counted, and does nothing. For tests: each thread has tiles of its own. */

#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

enum { TILES = 8, ROWS = 16, WIDTH = 64 };

typedef struct {
  uint8_t palette;
  uint16_t colsb[TILES];
  uint8_t rows[TILES];
  uint8_t data[TILES][ROWS][WIDTH];
} State;

static _Thread_local State state;
static atomic_int faults, products;

int amx_faults(void) { return atomic_exchange(&faults, 0); }
int amx_products(void) { return atomic_exchange(&products, 0); }

static int fault(int wrong) {
  if (wrong) atomic_fetch_add(&faults, 1);
  return wrong;
}

static int unusable(int t) { return t >= TILES || !state.palette || !state.rows[t]; }

void amx_ldtilecfg(const uint8_t *config) {
  State fresh = {0};
  fresh.palette = config[0];
  int wrong = config[0] != 1 || config[1] != 0;
  for (int i = 2; i < 16; i++) wrong |= config[i] != 0;
  for (int t = 0; t < 16; t++) {
    unsigned width = config[16 + 2 * t] | config[17 + 2 * t] << 8, rows = config[48 + t];
    wrong |= t >= TILES ? width || rows : width > WIDTH || rows > ROWS || !width != !rows;
    if (t >= TILES) continue;
    fresh.colsb[t] = (uint16_t)width;
    fresh.rows[t] = (uint8_t)rows;
  }
  if (!fault(wrong)) state = fresh;
}

void amx_tilerelease(void) { memset(&state, 0, sizeof state); }

void amx_tilezero(uint8_t t) {
  if (!fault(unusable(t))) memset(state.data[t], 0, sizeof state.data[t]);
}

void amx_tileloadd64(uint8_t t, const uint8_t *from, int64_t stride) {
  if (fault(unusable(t))) return;
  memset(state.data[t], 0, sizeof state.data[t]);
  for (int r = 0; r < state.rows[t]; r++)
    memcpy(state.data[t][r], from + r * stride, state.colsb[t]);
}

void amx_tilestored64(uint8_t t, uint8_t *to, int64_t stride) {
  if (fault(unusable(t))) return;
  for (int r = 0; r < state.rows[t]; r++)
    memcpy(to + r * stride, state.data[t][r], state.colsb[t]);
}

/* c is m x n, a m x k, b k x n, in words of 4 bytes. */
static int mismatch(uint8_t c, uint8_t a, uint8_t b) {
  if (unusable(c) || unusable(a) || unusable(b) || a == b || a == c || b == c) return 1;
  if (state.colsb[a] % 4 || state.colsb[b] % 4 || state.colsb[c] % 4) return 1;
  return state.rows[a] != state.rows[c] || state.colsb[b] != state.colsb[c] ||
         state.colsb[a] / 4 != state.rows[b];
}

void amx_tdpbusd(uint8_t c, uint8_t a, uint8_t b) {
  if (fault(mismatch(c, a, b))) return;
  atomic_fetch_add(&products, 1);
  for (int m = 0; m < state.rows[c]; m++) {
    for (int k = 0; k < state.colsb[a] / 4; k++) {
      for (int n = 0; n < state.colsb[c] / 4; n++) {
        int32_t sum;
        memcpy(&sum, &state.data[c][m][4 * n], 4);
        for (int i = 0; i < 4; i++)
          sum += (int32_t)state.data[a][m][4 * k + i] * (int8_t)state.data[b][k][4 * n + i];
        memcpy(&state.data[c][m][4 * n], &sum, 4);
      }
    }
  }
}

static float flushed(float x) { return fpclassify(x) == FP_SUBNORMAL ? copysignf(0, x) : x; }

static float bfloat(const uint8_t *at) {
  uint32_t bits = (uint32_t)(at[0] | at[1] << 8) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return flushed(x);
}

/* Even and odd products have sums of their own; denormals are zero before and after each step. */
void amx_tdpbf16ps(uint8_t c, uint8_t a, uint8_t b) {
  if (fault(mismatch(c, a, b))) return;
  atomic_fetch_add(&products, 1);
  for (int m = 0; m < state.rows[c]; m++) {
    float parts[2 * WIDTH / 4] = {0};
    for (int k = 0; k < state.colsb[a] / 4; k++)
      for (int n = 0; n < state.colsb[c] / 4; n++)
        for (int i = 0; i < 2; i++)
          parts[2 * n + i] = flushed(fmaf(bfloat(&state.data[a][m][4 * k + 2 * i]),
              bfloat(&state.data[b][k][4 * n + 2 * i]), parts[2 * n + i]));
    for (int n = 0; n < state.colsb[c] / 4; n++) {
      float sum;
      memcpy(&sum, &state.data[c][m][4 * n], 4);
      sum = flushed(flushed(sum) + flushed(parts[2 * n] + parts[2 * n + 1]));
      memcpy(&state.data[c][m][4 * n], &sum, 4);
    }
  }
}
