/* Runs the model on raw files: main [-t SECONDS] THREADS INPUT... OUTPUT...

   With -t it runs for so long, at least three times, and prints the nanoseconds of each run.

   cc -O2 main.c -L. -lmodel -Wl,-rpath,. -o main */

#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
  const char *name, *dtype;
  size_t bytes;
} Tensor;

static const Tensor inputs[] = {
  {GO_INPUT_0_NAME, GO_INPUT_0_DTYPE, GO_INPUT_0_BYTES},
  {"", "", 0}};

static const Tensor outputs[] = {
  {GO_OUTPUT_0_NAME, GO_OUTPUT_0_DTYPE, GO_OUTPUT_0_BYTES},
  {"", "", 0}};

static void *tensor_alloc(const Tensor *tensor) {
  return aligned_alloc(GO_ALIGN, (tensor->bytes / GO_ALIGN + 1) * GO_ALIGN);
}

static int transfer(const char *path, const char *mode, void *data, size_t bytes) {
  FILE *file = fopen(path, mode);
  if (!file) return -1;
  size_t done = *mode == 'r' ? fread(data, 1, bytes, file) : fwrite(data, 1, bytes, file);
  return fclose(file) || done != bytes ? -1 : 0;
}

static void print(const char *kind, const Tensor *tensor) {
  fprintf(stderr, "  %s %s: %s, %zu bytes\n", kind, tensor->name, tensor->dtype, tensor->bytes);
}

static int usage(const char *program) {
  fprintf(stderr, "usage: %s [-t SECONDS] THREADS INPUT... OUTPUT...   (raw files)\n", program);
  for (int i = 0; i < GO_INPUTS; i++) print("input ", &inputs[i]);
  for (int i = 0; i < GO_OUTPUTS; i++) print("output", &outputs[i]);
  return 2;
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int time_runs(go_ctx *ctx, const void *const *in, void *const *out, double seconds) {
  int code = go_run(ctx, in, out); /* the first one brings code and weights into memory */
  int64_t start = now(), before = start;
  for (int runs = 0; !code && (runs < 3 || (double)(before - start) < 1e9 * seconds); runs++) {
    code = go_run(ctx, in, out);
    int64_t after = now();
    printf("%lld\n", (long long)(after - before));
    before = now();
  }
  return code;
}

int main(int argc, char **argv) {
  const void *in[GO_INPUTS + 1] = {NULL};
  void *out[GO_OUTPUTS + 1] = {NULL};
  const char *program = argv[0];
  double seconds = 0;
  if (argc > 2 && !strcmp(argv[1], "-t")) {
    seconds = atof(argv[2]);
    argv += 2, argc -= 2;
  }
  if (argc != 2 + GO_INPUTS + GO_OUTPUTS) return usage(program);
  char **paths = argv + 2;
  for (int i = 0; i < GO_INPUTS; i++) {
    void *data = tensor_alloc(&inputs[i]);
    if (!data || transfer(paths[i], "rb", data, inputs[i].bytes)) return perror(paths[i]), 2;
    in[i] = data;
  }
  for (int i = 0; i < GO_OUTPUTS; i++) out[i] = tensor_alloc(&outputs[i]);

  go_ctx *ctx = go_new(atoi(argv[1]));
  int code = GO_ERROR_MEMORY;
  if (ctx) code = seconds > 0 ? time_runs(ctx, in, out, seconds) : go_run(ctx, in, out);
  go_free(ctx);
  if (code) return fprintf(stderr, "%s\n", go_error(code)), 1;

  paths += GO_INPUTS;
  for (int i = 0; i < GO_OUTPUTS; i++) {
    if (transfer(paths[i], "wb", out[i], outputs[i].bytes)) return perror(paths[i]), 2;
  }
  return 0;
}
