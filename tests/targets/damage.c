/* Runs a decoder on a stream that is damaged in all small ways; for tests of decode.c.j2.

   damage STREAM DECODER COUNT WIDTH prints how many damaged streams were refused, how many gave
   other numbers, and how many the right ones. Buffers are as large as said, so that a sanitizer
   sees each access outside. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.c"

typedef int (*Decode)(Stream *s, char *to, int64_t count, int width);

static long refused, other, right;
static char *wanted;

static int try(Decode decode, const unsigned char *from, size_t bytes, int64_t count, int width,
    int keep) {
  unsigned char *copy = malloc(bytes ? bytes : 1);
  size_t size = (size_t)(count * width);
  char *to = malloc(size);
  memcpy(copy, from, bytes);
  memset(to, 0x55, size);
  Stream s = {copy, copy + bytes};
  int code = decode(&s, to, count, width);
  if (keep && !code) memcpy(wanted, to, size);
  if (code) refused++;
  else if (memcmp(to, wanted, size)) other++;
  else right++;
  free(copy);
  free(to);
  return code;
}

int main(int argc, char **argv) {
  static unsigned char stream[1 << 20];
  if (argc != 5) return 2;
  FILE *file = fopen(argv[1], "rb");
  if (!file) return 2;
  size_t bytes = fread(stream, 1, sizeof stream, file);
  fclose(file);
  Decode decode = strcmp(argv[2], "sparse") ? decode_indices : decode_sparse;
  int64_t count = atoll(argv[3]);
  int width = atoi(argv[4]);
  wanted = malloc((size_t)(count * width));
  if (try(decode, stream, bytes, count, width, 1)) return 3;
  refused = other = right = 0;
  for (size_t i = 0; i < bytes; i++) {
    static const unsigned char changes[] = {1, 0x80, 0xff};
    for (size_t j = 0; j < sizeof changes; j++) {
      stream[i] ^= changes[j];
      try(decode, stream, bytes, count, width, 0);
      stream[i] ^= changes[j];
    }
  }
  printf("%ld %ld %ld ", refused, other, right);
  refused = other = right = 0;
  for (size_t i = 0; i < bytes; i++) try(decode, stream, i, count, width, 0);
  printf("%ld %ld %ld\n", refused, other, right);
  free(wanted);
  return 0;
}
