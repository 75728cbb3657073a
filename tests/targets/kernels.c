/* Kernels for the tests of the driver and of Session: what TVM would compile, and what it rarely
   does (tasks that fail, more tasks than threads, barriers, nested launches). */

#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

typedef struct {
  void *data;
  int32_t device_type, device_id, rank;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;

typedef struct {
  int32_t type;
  uint32_t zero;
  Tensor *tensor;
} Arg;

typedef struct {
  void *sync;
  int32_t tasks;
} Group;

typedef int (*Task)(int task, Group *group, void *data);

extern int (*__TVMBackendParallelLaunch)(Task task, void *data, int count);
extern int (*__TVMBackendParallelBarrier)(int task, Group *group);
extern void *(*__TVMBackendAllocWorkspace)(int device, int id, uint64_t size, int code, int bits);
extern int (*__TVMBackendFreeWorkspace)(int device, int id, void *data);

#define KERNEL(name) int __tvm_ffi_##name(void *self, const Arg *args, int32_t count, Arg *result)
#define UNUSED (void)self, (void)args, (void)count, (void)result

typedef struct {
  const float *x;
  float *y, *partial;
  int64_t n;
} Job;

static int64_t size(const Arg *arg) {
  int64_t n = 1;
  for (int i = 0; i < arg->tensor->rank; i++) n *= arg->tensor->shape[i];
  return n;
}

static Job job(const Arg *args) {
  Job j = {args[0].tensor->data, args[1].tensor->data, NULL, size(&args[0])};
  return j;
}

static int64_t start(const Job *j, int task, int tasks) { return j->n * task / tasks; }

static void twice_part(const Job *j, int task, int tasks) {
  for (int64_t i = start(j, task, tasks); i < start(j, task + 1, tasks); i++) j->y[i] = 2 * j->x[i];
}

static int twice_task(int task, Group *group, void *data) {
  twice_part(data, task, group->tasks);
  return 0;
}

/* y = 2x */
KERNEL(twice) {
  UNUSED;
  Job j = job(args);
  twice_part(&j, 0, 1);
  return 0;
}

KERNEL(parallel_twice) {
  UNUSED;
  Job j = job(args);
  return __TVMBackendParallelLaunch(twice_task, &j, 0);
}

KERNEL(seven_tasks) {
  UNUSED;
  Job j = job(args);
  return __TVMBackendParallelLaunch(twice_task, &j, 7);
}

/* y = x + w */
KERNEL(add) {
  UNUSED;
  const float *x = args[0].tensor->data, *w = args[1].tensor->data;
  float *y = args[2].tensor->data;
  for (int64_t i = 0; i < size(&args[0]); i++) y[i] = x[i] + w[i];
  return 0;
}

static int failing_task(int task, Group *group, void *data) {
  (void)group, (void)data;
  return task == 3 ? 42 : 0;
}

KERNEL(failing) {
  UNUSED;
  return __TVMBackendParallelLaunch(failing_task, NULL, 5);
}

static int nesting_task(int task, Group *group, void *data) {
  const Job *all = data;
  int64_t from = start(all, task, group->tasks), to = start(all, task + 1, group->tasks);
  Job mine = {all->x + from, all->y + from, NULL, to - from};
  return __TVMBackendParallelLaunch(twice_task, &mine, 3);
}

KERNEL(nested) {
  UNUSED;
  Job j = job(args);
  return __TVMBackendParallelLaunch(nesting_task, &j, 0);
}

/* Every y is the sum of all x (of small integers: exact in any order): each task sums a part, and
   after the barrier each adds the parts. */
static int summing_task(int task, Group *group, void *data) {
  const Job *j = data;
  int64_t from = start(j, task, group->tasks), to = start(j, task + 1, group->tasks);
  float sum = 0;
  for (int64_t i = from; i < to; i++) sum += j->x[i];
  j->partial[task] = sum;
  int code = __TVMBackendParallelBarrier(task, group);
  if (code) return code;
  sum = 0;
  for (int i = 0; i < group->tasks; i++) sum += j->partial[i];
  for (int64_t i = from; i < to; i++) j->y[i] = sum;
  return 0;
}

static int launch_sum(const Arg *args, int tasks) {
  float partial[128];
  Job j = job(args);
  j.partial = partial;
  return __TVMBackendParallelLaunch(summing_task, &j, tasks);
}

KERNEL(barrier) {
  UNUSED;
  return launch_sum(args, 0);
}

KERNEL(barrier_of_many) {
  UNUSED;
  return launch_sum(args, 100);
}

/* A task that fails before the barrier at which the others wait. */
static int broken_task(int task, Group *group, void *data) {
  (void)data;
  return task == 1 ? 43 : __TVMBackendParallelBarrier(task, group);
}

KERNEL(broken_barrier) {
  UNUSED;
  return __TVMBackendParallelLaunch(broken_task, NULL, 2);
}

static int scratch_task(int task, Group *group, void *data) {
  const Job *j = data;
  Job half = {NULL, NULL, NULL, j->n};
  int64_t from = start(&half, task, group->tasks), to = start(&half, task + 1, group->tasks);
  float *room = __TVMBackendAllocWorkspace(1, 0, 4 * (uint64_t)(to - from) + 4, 2, 32);
  if (!room || (uintptr_t)room % 64) return -1;
  for (int64_t i = from; i < to; i++) room[i - from] = 2 * j->x[i];
  for (int64_t i = from; i < to; i++) j->y[i] = room[i - from];
  return __TVMBackendFreeWorkspace(1, 0, room);
}

KERNEL(scratch) {
  UNUSED;
  Job j = job(args);
  return __TVMBackendParallelLaunch(scratch_task, &j, 0);
}

/* The addresses of two workspaces that live at the same time (y: int64[2]). */
KERNEL(where) {
  UNUSED;
  int64_t *y = args[0].tensor->data;
  void *a = __TVMBackendAllocWorkspace(1, 0, 1000, 2, 32);
  void *b = __TVMBackendAllocWorkspace(1, 0, 100000, 2, 32);
  y[0] = (int64_t)(intptr_t)a;
  y[1] = (int64_t)(intptr_t)b;
  if (__TVMBackendFreeWorkspace(1, 0, b)) return -1;
  return __TVMBackendFreeWorkspace(1, 0, a);
}

/* Fails, and keeps its workspace, as a TVM kernel does. */
KERNEL(leaking) {
  UNUSED;
  return __TVMBackendAllocWorkspace(1, 0, 1000, 2, 32) ? -1 : -2;
}

KERNEL(greedy) {
  UNUSED;
  return __TVMBackendAllocWorkspace(1, 0, UINT64_MAX / 2, 2, 32) ? 0 : -1;
}

/* y = 2x, after 200 ms: long enough for another thread to come, on a busy machine, too */
KERNEL(slow) {
  UNUSED;
  Job j = job(args);
  usleep(200000);
  twice_part(&j, 0, 1);
  return 0;
}
