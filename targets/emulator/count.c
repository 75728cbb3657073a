/* A plugin of qemu (TCG): how often each block of translated code runs.

   count.so,out=FILE[,window=N] writes a line a block: address, instructions, runs (hexadecimal,
   decimal, decimal). With a window, only what runs between the first and the second system call
   number N counts. Counters aren't atomic: run programs of one thread; blocks that other threads
   ran are told as a line of address 0. The few functions of qemu's plugin interface that are used
   are declared here, as they are in all versions from 1 (qemu 4.2) on; VERSION is what the qemu at
   hand wants to hear. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t Id;
typedef struct qemu_plugin_tb Block;

int qemu_plugin_install(Id id, const void *info, int argc, char **argv);
size_t qemu_plugin_tb_n_insns(const Block *block);
uint64_t qemu_plugin_tb_vaddr(const Block *block);
void qemu_plugin_register_vcpu_tb_trans_cb(Id id, void (*call)(Id, Block *));
void qemu_plugin_register_vcpu_tb_exec_cb(Block *block, void (*call)(unsigned, void *), int flags,
    void *data);
void qemu_plugin_register_vcpu_syscall_cb(Id id, void (*call)(Id, unsigned, int64_t, uint64_t,
    uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(Id id, void (*call)(Id, void *), void *data);

extern int qemu_plugin_version;
int qemu_plugin_version = VERSION;

typedef struct Counter {
  struct Counter *next;
  uint64_t at, length, runs;
} Counter;

static Counter *counters;
static Counter others = {NULL, 0, 0, 0};
static const char *path;
static int64_t edge = -1;
static int edges, open = 1;

static void ran(unsigned cpu, void *counter) {
  if (open) (cpu ? &others : (Counter *)counter)->runs++;
}

static void called(Id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
    uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number == edge) open = ++edges == 1;
}

/* A block may be translated more than once: each time it gets a counter of its own. */
static void translated(Id id, Block *block) {
  (void)id;
  Counter *counter = malloc(sizeof *counter);
  if (!counter) abort();
  *counter = (Counter){counters, qemu_plugin_tb_vaddr(block), qemu_plugin_tb_n_insns(block), 0};
  counters = counter;
  qemu_plugin_register_vcpu_tb_exec_cb(block, ran, 0, counter);
}

static void ended(Id id, void *data) {
  (void)id, (void)data;
  FILE *file = fopen(path, "w");
  if (!file) return;
  others.next = counters;
  for (const Counter *c = &others; c; c = c->next) {
    if (!c->runs) continue;
    fprintf(file, "%llx %llu %llu\n", (unsigned long long)c->at, (unsigned long long)c->length,
        (unsigned long long)c->runs);
  }
  fclose(file);
}

int qemu_plugin_install(Id id, const void *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; i++) {
    if (!strncmp(argv[i], "out=", 4)) path = strdup(argv[i] + 4);
    if (!strncmp(argv[i], "window=", 7)) edge = atoi(argv[i] + 7);
  }
  if (!path) return -1;
  if (edge >= 0) {
    open = 0;
    qemu_plugin_register_vcpu_syscall_cb(id, called);
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
