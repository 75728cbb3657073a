/* model: compiled by graphopt. Link libmodel.so, or load it.

   go_ctx *ctx = go_new(4);
   const void *inputs[GO_INPUTS + 1] = {x};
   void *outputs[GO_OUTPUTS + 1] = {y};
   int code = go_run(ctx, inputs, outputs);
   if (code) fprintf(stderr, "%s\n", go_error(code));
   go_free(ctx);

   Tensors are dense and row-major. Inputs and outputs must be GO_ALIGN-byte aligned.
   Different contexts may run at the same time; one context runs in one thread at a time. */

#ifndef GO_MODEL_H
#define GO_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GO_ALIGN 64
#define GO_STEPS 3
#define GO_ARENA_BYTES 204800
#define GO_WORKSPACE_BYTES 460800 /* of kernels, for the thread that runs the model */
#define GO_THREAD_BYTES 0 /* the same for each thread more */
#define GO_WEIGHT_BYTES 589824
#define GO_STORED_BYTES 589824 /* of the weights, in the library */
#define GO_MADE_BYTES 0 /* decoded by the first context, freed with the last */
#define GO_INPUTS 1
#define GO_OUTPUTS 1

#define GO_INPUT_0_NAME "x"
#define GO_INPUT_0_DTYPE "float32"
#define GO_INPUT_0_RANK 4
#define GO_INPUT_0_SHAPE {1, 64, 20, 20}
#define GO_INPUT_0_BYTES 102400

#define GO_OUTPUT_0_NAME "r"
#define GO_OUTPUT_0_DTYPE "float32"
#define GO_OUTPUT_0_RANK 4
#define GO_OUTPUT_0_SHAPE {1, 64, 20, 20}
#define GO_OUTPUT_0_BYTES 102400

/* What functions return: 0, one of these, or the code of a kernel that failed. */
enum {
  GO_OK = 0,
  GO_ERROR_ARGUMENT = -101, /* a pointer is NULL or a range of steps is wrong */
  GO_ERROR_ALIGN = -102,    /* an input or output is not 64-byte aligned */
  GO_ERROR_BUSY = -103,     /* the context is running in another thread */
  GO_ERROR_MEMORY = -104,   /* out of memory */
  GO_ERROR_BARRIER = -105,  /* a kernel waits at a barrier with more tasks than threads */
  GO_ERROR_FALLBACK = -106, /* a step needs ONNX Runtime: use graphopt's Session */
  GO_ERROR_TILES = -107,    /* Linux does not let this process use the tiles of AMX */
  GO_ERROR_WEIGHTS = -108   /* the weights in the library are damaged */
};

/* All that one run at a time needs: the threads and the temporary memory, GO_ARENA_BYTES +
   GO_WORKSPACE_BYTES + (threads - 1) * GO_THREAD_BYTES. Runs allocate nothing. */
typedef struct go_ctx go_ctx;

/* A context with `threads` threads, the caller among them (0: one for each CPU the process may use;
   64 at most). Threads that have nothing to do sleep. NULL if memory or threads can't be had. */
go_ctx *go_new(int threads);

/* End the threads and free the memory. The context must not be running. NULL is allowed. */
void go_free(go_ctx *ctx);

/* How many threads the context has. */
int go_threads(const go_ctx *ctx);

/* Run the model: inputs[i] and outputs[i] are the addresses of input i and output i. */
int go_run(go_ctx *ctx, const void *const *inputs, void *const *outputs);

/* Run the steps [first, last) only; the range that ends at GO_STEPS also fills the outputs
   that no step writes. For a caller that runs other parts of the model itself, between ranges. */
int go_run_range(go_ctx *ctx, const void *const *inputs, void *const *outputs, int first,
    int last);

/* The same, with the time of every step, in nanoseconds, in ns[0 .. last - first). */
int go_profile(go_ctx *ctx, const void *const *inputs, void *const *outputs, int64_t *ns,
    int first, int last);

/* The address of a temporary or constant buffer of the plan; NULL for any other. */
void *go_buffer(go_ctx *ctx, int buffer);

/* What a return code means, in words. */
const char *go_error(int code);

#ifdef __cplusplus
}
#endif

#endif
