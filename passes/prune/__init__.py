"""Structured pruning: channels and attention heads that go together, cut out of a module.

`units`: sets of elements that only go together. `moves`, `rules`: what ops do to them. `groups`:
those of a module that could go, and why others can't. `shrink`, `surgery`: cutting them out.
`scores`, `eliminate`: which to remove, and what that loses. `repair`: the weights of those that are
left. `propose`, `prune`: choices and the pass.
"""
