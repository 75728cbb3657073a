/* Runs a model ten times on zeros and says how often memory was asked for after go_new: allocations
   THREADS. The functions here take the places of the C library's (glibc). */

#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static _Atomic long asked;

void *malloc(size_t size) { return asked++, __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return asked++, __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return asked++, __libc_realloc(old, size); }
void *aligned_alloc(size_t line, size_t size) { return asked++, __libc_memalign(line, size); }

static void *tensor(size_t bytes) {
  size_t size = (bytes / GO_ALIGN + 1) * GO_ALIGN;
  void *data = aligned_alloc(GO_ALIGN, size);
  return data ? memset(data, 0, size) : NULL;
}

int main(int argc, char **argv) {
  const void *inputs[] = {tensor(GO_INPUT_0_BYTES)};
  void *outputs[] = {tensor(GO_OUTPUT_0_BYTES)};
  if (argc != 2 || GO_INPUTS != 1 || GO_OUTPUTS != 1) return 2;
  long before = asked;
  go_ctx *ctx = go_new(atoi(argv[1]));
  long made = asked - before;
  for (int i = 0; i < 10; i++) {
    int code = ctx ? go_run(ctx, inputs, outputs) : GO_ERROR_MEMORY;
    if (code) return fprintf(stderr, "%s\n", go_error(code)), 1;
  }
  printf("%ld %ld\n", made, asked - before - made);
  go_free(ctx);
  return 0;
}
