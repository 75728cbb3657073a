"""Kernels by way of TVM: the only package that imports tvm, and only inside worker processes.

`legal` (which ops have a kernel) and `compile` (the pool of workers) are free of it; `build`,
`worker`, `region`, `expr`, `vecmath` and `kernels` run in the workers.
"""
