"""Training a changed model against the original, with PyTorch (an extra: `graphopt[distill]`).

`distill`: the pass. `network`: a graph as a function in PyTorch, its kinds by the table that
`elementwise`, `layers` and `moves` fill. `targets`, `objective`: what is learnt. `augment`: from
what. `train`: how. PyTorch is imported when the pass runs, never before.
"""

from graphopt.passes.distill import distill

__all__ = ["distill"]
