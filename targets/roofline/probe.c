/* What this machine can do at best: arithmetic by element type, and memory by working set.

     probe THREADS MILLISECONDS BYTES

   prints lines "peak TYPE OPERATIONS_A_SECOND", then "read WORKING_SET BYTES_A_SECOND" and "copy ..."
   for working sets of all threads together that double up to BYTES. Each number is the best of the
   trials that fit into MILLISECONDS: what else the machine does can only make a trial slower.

   Arithmetic is chains of multiply-adds in registers, enough of them that none waits for another
   (latency times throughput: 8 to 16 on today's cores). Reading and copying are plain loops over
   memory that was written before; a copied byte counts twice, read and written. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

/* As many accumulators as leave registers for the two operands. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TIMES(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) \
  X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
enum { CHAINS = 24 };
#else
#define TIMES(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { CHAINS = 12 };
#endif

typedef float F32 __attribute__((vector_size(WIDTH)));
typedef double F64 __attribute__((vector_size(WIDTH)));

static volatile char sink; /* what is computed is used */
static volatile float seed[2] = {0.5f, 1.0f}; /* x/2 + 1 stays near 2: no overflow, no denormals */

static void use(const void *data, size_t size) {
  const char *at = data;
  char all = 0;
  for (size_t i = 0; i < size; i++) all ^= at[i];
  sink = all;
}

/* Does `turns` turns on `bytes` bytes of memory; gives how many operations or bytes that was. */
typedef double (*Work)(char *memory, size_t bytes, uint64_t turns);

#define START(i) a##i = zero + (float)i;
#define DECLARE(i) a##i,
#define FINISH(i) use(&a##i, sizeof a##i);

#define CHAIN(i) a##i = a##i * x + y;
#define FMA_PROBE(NAME, TYPE, ELEMENT)                                                    \
  static double NAME(char *memory, size_t bytes, uint64_t turns) {                        \
    TYPE zero = {0}, x = zero + (ELEMENT)seed[0], y = zero + (ELEMENT)seed[1];            \
    TYPE TIMES(DECLARE) last = zero;                                                      \
    (void)memory, (void)bytes;                                                            \
    TIMES(START)                                                                          \
    for (uint64_t t = 0; t < turns; t++) {                                                \
      TIMES(CHAIN)                                                                        \
    }                                                                                     \
    TIMES(FINISH)                                                                         \
    use(&last, sizeof last);                                                              \
    return 2.0 * CHAINS * (WIDTH / sizeof(ELEMENT)) * (double)turns;                      \
  }

FMA_PROBE(fma_f32, F32, float)
FMA_PROBE(fma_f64, F64, double)

/* Dot products of four 8-bit integers, summed in 32 bits: where the CPU has them. */
#if defined(__AVX512VNNI__)
typedef __m512i I8;
#define I8_ALL(value) _mm512_set1_epi8((char)(value))
#define I8_CHAIN(i) a##i = _mm512_dpbusd_epi32(a##i, x, y);
#elif defined(__AVXVNNI__)
typedef __m256i I8;
#define I8_ALL(value) _mm256_set1_epi8((char)(value))
#define I8_CHAIN(i) a##i = _mm256_dpbusd_avx_epi32(a##i, x, y);
#elif defined(__ARM_FEATURE_DOTPROD)
typedef int8x16_t I8;
#define I8_ALL(value) vdupq_n_s8((int8_t)(value))
#define I8_CHAIN(i) a##i = vreinterpretq_s8_s32(vdotq_s32(vreinterpretq_s32_s8(a##i), x, y));
#endif

#ifdef I8_CHAIN
#define I8_START(i) a##i = I8_ALL(i);
static double dot_i8(char *memory, size_t bytes, uint64_t turns) {
  I8 x = I8_ALL(2 * seed[0]), y = I8_ALL(seed[1]), TIMES(DECLARE) last = x;
  (void)memory, (void)bytes;
  TIMES(I8_START)
  for (uint64_t t = 0; t < turns; t++) {
    TIMES(I8_CHAIN)
  }
  TIMES(FINISH)
  use(&last, sizeof last);
  return 2.0 * CHAINS * sizeof(I8) * (double)turns;
}
#endif

/* Dot products of two bfloat16, summed in float32. */
#if defined(__AVX512BF16__)
#define BF_CHAIN(i) a##i = _mm512_dpbf16_ps(a##i, x, x);
#define BF_START(i) a##i = _mm512_set1_ps(i);
static double dot_bf16(char *memory, size_t bytes, uint64_t turns) {
  __m512 some = _mm512_set1_ps(seed[0]), TIMES(DECLARE) last = some;
  __m512bh x = _mm512_cvtne2ps_pbh(some, some);
  (void)memory, (void)bytes;
  TIMES(BF_START)
  for (uint64_t t = 0; t < turns; t++) {
    TIMES(BF_CHAIN)
  }
  TIMES(FINISH)
  use(&last, sizeof last);
  return 2.0 * CHAINS * 32 * (double)turns;
}
#endif

/* Products of tiles, four sums of 16 by 16, where Linux lets a process have them. */
#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#define TILES
static void tiles(void) {
  unsigned char config[64] __attribute__((aligned(64))) = {1};
  for (int i = 0; i < 8; i++) config[16 + 2 * i] = 64, config[48 + i] = 16;
  __asm__ volatile("" : : "r"(config) : "memory"); /* GCC takes it to read 8 bytes alone */
  _tile_loadconfig(config);
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
}

#define TILE_PROBE(NAME, MULTIPLY, WORD)                                    \
  static double NAME(char *memory, size_t bytes, uint64_t turns) {          \
    (void)memory, (void)bytes;                                              \
    tiles();                                                                \
    for (uint64_t t = 0; t < turns; t++) {                                  \
      MULTIPLY(0, 4, 6); MULTIPLY(1, 4, 7); MULTIPLY(2, 5, 6); MULTIPLY(3, 5, 7); \
    }                                                                       \
    _tile_release();                                                        \
    return 2.0 * 4 * 16 * 16 * 16 * WORD * (double)turns;                   \
  }

TILE_PROBE(tile_i8, _tile_dpbusd, 4)
TILE_PROBE(tile_bf16, _tile_dpbf16ps, 2)
#endif

enum { BLOCK = 8 * WIDTH };

static double read_all(char *memory, size_t bytes, uint64_t turns) {
  F32 a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  for (uint64_t t = 0; t < turns; t++) {
    for (const char *at = memory, *end = memory + bytes; at < end; at += BLOCK) {
      const F32 *v = (const F32 *)(const void *)at;
      a += v[0], b += v[1], c += v[2], d += v[3], e += v[4], f += v[5], g += v[6], h += v[7];
    }
  }
  a += b + c + d + e + f + g + h;
  use(&a, sizeof a);
  return (double)bytes * (double)turns;
}

static double copy_all(char *memory, size_t bytes, uint64_t turns) {
  size_t half = bytes / 2 / BLOCK * BLOCK;
  char *from = memory, *to = memory + half;
  for (uint64_t t = 0; t < turns; t++) {
    for (size_t i = 0; i < half; i += BLOCK) {
      const F32 *v = (const F32 *)(const void *)(from + i);
      F32 *w = (F32 *)(void *)(to + i);
      F32 a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h = v[7];
      w[0] = a, w[1] = b, w[2] = c, w[3] = d, w[4] = e, w[5] = f, w[6] = g, w[7] = h;
    }
    char *other = from; /* so that no turn repeats the last one */
    from = to, to = other;
  }
  sink = memory[0];
  return 2.0 * (double)half * (double)turns;
}

/* ---- A team of threads that start each trial together. ---- */

enum { MAX_THREADS = 64 };

typedef struct {
  Work work;
  size_t bytes; /* of each thread */
  int threads;
  atomic_uint_fast64_t turns; /* of the trial; 0: the end */
  atomic_uint trial;
  atomic_int ready, running;
  char *memory[MAX_THREADS];
  double amount[MAX_THREADS];
  pthread_t thread[MAX_THREADS];
} Team;

typedef struct {
  Team *team;
  int index;
} Member;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_for(atomic_int *count, int value) {
  for (int spins = 0; atomic_load(count) != value; spins++) {
    if (spins > 10000) sched_yield();
  }
}

static void *member_main(void *argument) {
  Member *self = argument;
  Team *team = self->team;
  unsigned seen = 0;
  memset(team->memory[self->index], 0, team->bytes); /* its own thread touches it first */
  atomic_fetch_add(&team->ready, 1);
  for (;;) {
    for (int spins = 0; atomic_load(&team->trial) == seen; spins++) {
      if (spins > 10000) sched_yield();
    }
    seen++;
    uint64_t turns = atomic_load(&team->turns);
    if (!turns) return NULL;
    team->amount[self->index] = team->work(team->memory[self->index], team->bytes, turns);
    atomic_fetch_sub(&team->running, 1);
  }
}

/* Operations or bytes a second of one trial, all threads together. */
static double one_trial(Team *team, uint64_t turns, double *took) {
  double total = 0;
  atomic_store(&team->turns, turns);
  atomic_store(&team->running, turns ? team->threads - 1 : 0);
  double start = seconds();
  atomic_fetch_add(&team->trial, 1);
  if (!turns) return 0;
  team->amount[0] = team->work(team->memory[0], team->bytes, turns);
  wait_for(&team->running, 0);
  *took = seconds() - start;
  for (int i = 0; i < team->threads; i++) total += team->amount[i];
  return total / *took;
}

static const double TRIAL = 1e-3; /* seconds: long beside the start, short beside a time slice */

static double best_of(Team *team, double budget) {
  double took = 0, best = 0;
  uint64_t turns = 1;
  for (one_trial(team, turns, &took); took < TRIAL / 2; one_trial(team, turns, &took)) {
    turns *= 2;
  }
  for (double end = seconds() + budget; seconds() < end;) {
    double rate = one_trial(team, turns, &took);
    if (rate > best) best = rate;
  }
  return best;
}

static double measure(Work work, int threads, size_t bytes, double budget) {
  static Team team;
  Member members[MAX_THREADS];
  int started = 1;
  memset(&team, 0, sizeof team);
  team.work = work;
  team.threads = threads;
  team.bytes = (bytes / (size_t)threads + BLOCK - 1) / BLOCK * BLOCK;
  for (int i = 0; i < threads; i++) {
    team.memory[i] = aligned_alloc(BLOCK, team.bytes);
    if (!team.memory[i]) exit(1);
    members[i] = (Member){&team, i};
  }
  memset(team.memory[0], 0, team.bytes);
  for (; started < threads; started++) {
    if (pthread_create(&team.thread[started], NULL, member_main, &members[started])) exit(1);
  }
  wait_for(&team.ready, threads - 1);
  double best = best_of(&team, budget);
  one_trial(&team, 0, NULL);
  for (int i = 1; i < threads; i++) pthread_join(team.thread[i], NULL);
  for (int i = 0; i < threads; i++) free(team.memory[i]);
  return best;
}

int main(int count, char **words) {
  if (count != 4) return 2;
  int threads = atoi(words[1]);
  double budget = 1e-3 * atof(words[2]);
  size_t most = strtoull(words[3], NULL, 10);
  if (threads < 1 || threads > MAX_THREADS) return 2;
  measure(fma_f32, threads, BLOCK, budget); /* the clock comes up to speed */
  printf("peak f32 %.6g\n", measure(fma_f32, threads, BLOCK, 4 * budget));
  printf("peak f64 %.6g\n", measure(fma_f64, threads, BLOCK, budget));
#ifdef I8_CHAIN
  printf("peak i8 %.6g\n", measure(dot_i8, threads, BLOCK, 2 * budget));
#endif
#if defined(__AVX512BF16__)
  printf("peak bf16 %.6g\n", measure(dot_bf16, threads, BLOCK, budget));
#endif
#ifdef TILES
  if (!syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */)) {
    printf("peak i8 %.6g\n", measure(tile_i8, threads, BLOCK, 2 * budget)); /* the last one counts */
    printf("peak bf16 %.6g\n", measure(tile_bf16, threads, BLOCK, 2 * budget));
  }
#endif
  for (size_t bytes = 16384; bytes <= most; bytes *= 2) {
    printf("read %zu %.6g\n", bytes, measure(read_all, threads, bytes, budget));
    printf("copy %zu %.6g\n", bytes, measure(copy_all, threads, bytes, budget));
  }
  return 0;
}
