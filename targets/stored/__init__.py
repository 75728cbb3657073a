"""Weights in fewer bytes: entropy-coded in the library, decoded once when it is loaded.

`rans`: symbols to bits. `streams`: a constant to symbols. `blob`: which constants, and where.
The decoder is C (`targets/driver/decode.c.j2`), so that a program that links the library has it.
"""
